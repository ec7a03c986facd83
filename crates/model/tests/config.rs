//! config.json: what is read, what is refused, what is written.

use eyas_model::{Config, Error};
use serde_json::{Value, json};

fn refused(text: &str) -> String {
    Config::from_json(text).expect_err("it must be refused").to_string()
}

#[test]
fn a_file_survives_reading_and_writing() {
    let text = json!({
        "model_type": "gpt2", "vocab_size": 100, "n_embd": 8, "n_head": 2, "n_layer": 1, "resid_pdrop": 0,
        "layer_norm_epsilon": 1e-6, "n_ctx": 128, "torch_dtype": "float16", "architectures": ["GPT2Model"],
        "task_specific_params": {"text-generation": {"do_sample": true}}, "summary_type": "mean", "bos_token_id": null,
    });
    let config = Config::from_json(&text.to_string()).unwrap();
    assert_eq!((config.n_inner, config.inner(), config.head_size(), config.n_ctx), (None, 32, 4, Some(128)));
    let written = config.to_json();
    assert_eq!(Config::from_json(&written).unwrap().to_json(), written);
    let written: Value = serde_json::from_str(&written).unwrap();
    for key in
        ["vocab_size", "layer_norm_epsilon", "n_ctx", "task_specific_params", "summary_type", "bos_token_id"]
    {
        assert_eq!(written[key], text[key], "{key}");
    }
    assert_eq!(written["dtype"], "float32");
    assert_eq!(written["architectures"], json!(["GPT2LMHeadModel"]));
    assert_eq!(written["attn_pdrop"], json!(0.1));
    assert!(written.get("torch_dtype").is_none());
    let keys: Vec<_> = written.as_object().unwrap().keys().collect();
    assert!(keys.is_sorted());
}

#[test]
fn other_names_of_keys_are_read() {
    let text = r#"{"hidden_size": 8, "num_attention_heads": 2, "num_hidden_layers": 3, "max_position_embeddings": 9}"#;
    let config = Config::from_json(text).unwrap();
    assert_eq!((config.n_embd, config.n_head, config.n_layer, config.n_positions), (8, 2, 3, 9));
}

#[test]
fn what_is_not_implemented_is_refused_by_name() {
    for (key, value) in [
        ("model_type", "\"llama\""),
        ("activation_function", "\"relu\""),
        ("scale_attn_weights", "false"),
        ("scale_attn_by_inverse_layer_idx", "true"),
        ("reorder_and_upcast_attn", "true"),
        ("add_cross_attention", "true"),
        ("tie_word_embeddings", "false"),
    ] {
        let message = refused(&format!("{{\"{key}\": {value}}}"));
        assert!(message.contains(key) && message.contains(value.trim_matches('"')), "{message}");
    }
    assert!(Config::from_json(r#"{"activation_function": "gelu_pytorch_tanh"}"#).is_ok());
}

#[test]
fn impossible_values_are_refused_by_name() {
    for (key, value) in [
        ("n_head", "7"),
        ("n_head", "0"),
        ("n_layer", "0"),
        ("n_layer", "1000000000000"),
        ("vocab_size", "0"),
        ("vocab_size", "18446744073709551615"),
        ("n_embd", "18446744073709551615"),
        ("n_embd", "768.5"),
        ("n_embd", "-768"),
        ("n_embd", "\"768\""),
        ("n_inner", "0"),
        ("n_inner", "18446744073709551615"),
        ("n_positions", "true"),
        ("resid_pdrop", "1.0"),
        ("attn_pdrop", "-0.1"),
        ("embd_pdrop", "\"a\""),
        ("layer_norm_epsilon", "-1"),
        ("initializer_range", "1e300"),
        ("eos_token_id", "[1, 2]"),
        ("activation_function", "3"),
    ] {
        let message = refused(&format!("{{\"{key}\": {value}}}"));
        assert!(message.contains(key), "{key}: {message}");
    }
    assert!(refused("{\"n_embd\": 1048576, \"n_head\": 1, \"n_layer\": 4096}").contains("parameters"));
    assert!(matches!(Config::from_json("[]"), Err(Error::Json(_))));
    assert!(matches!(Config::from_json("{"), Err(Error::Json(_))));
}

#[test]
fn keys_are_set_from_text_and_misspelt_ones_are_answered() {
    let mut config = Config::default();
    for (key, value) in [
        ("n_layer", "3"),
        ("hidden_size", "48"),
        ("n_inner", "null"),
        ("resid_pdrop", "0"),
        ("eos_token_id", "7"),
    ] {
        config.set(key, value).unwrap();
    }
    assert_eq!(
        (config.n_layer, config.n_embd, config.resid_pdrop, config.eos_token_id),
        (3, 48, 0.0, Some(7))
    );
    config.set("activation_function", "gelu_pytorch_tanh").unwrap();
    let message = |key, value| Config::default().set(key, value).err().unwrap().to_string();
    assert!(message("n_layers", "3").contains("did you mean `n_layer`?"));
    assert!(message("vocabsize", "3").contains("did you mean `vocab_size`?"));
    assert!(!message("colour", "3").contains("did you mean"));
    assert!(message("n_layer", "three").contains("whole number"));
    assert!(config.validate().is_ok());
    config.set("n_head", "5").unwrap();
    assert!(config.validate().is_err());
}

#[test]
fn the_context_must_have_positions() {
    let config = Config::default();
    assert!(config.validate_context(1024).is_ok());
    assert!(config.validate_context(0).is_err() && config.validate_context(1025).is_err());
}

#[test]
fn every_builtin_shape_is_valid() {
    for name in Config::BUILTIN {
        Config::builtin(name).unwrap().validate().unwrap();
    }
    assert_eq!(Config::builtin("gpt3"), None);
}
