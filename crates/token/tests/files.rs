//! Files as they are found and as they are written: whole, and loaded wherever they should be.

mod common;

use common::{as_library, encode, encode_library, load, load_bytes, our_json, sources, train_ours};
use eyas_token::{Error, Tokenizer};
use serde_json::{Value, json};

/// A small valid tokenizer.json: 256 bytes, two merges, one special token.
fn valid() -> Value {
    let texts = ["the the the".to_string()];
    serde_json::from_str(&our_json(&train_ours(&texts, 259, &["<|endoftext|>"], 0))).expect("JSON")
}

#[test]
fn files_as_they_are_found() {
    let reference = load(&valid()).expect("valid");
    let same = |root: &Value| {
        let tokenizer = load(root).expect("loads");
        assert_eq!(tokenizer.fingerprint(), reference.fingerprint());
    };
    // Merges as one string each; empty prefix and suffix as GPT-2's own file has them; settings left by a call.
    let mut root = valid();
    for merge in root["model"]["merges"].as_array_mut().expect("a list") {
        *merge =
            format!("{} {}", merge[0].as_str().expect("a token"), merge[1].as_str().expect("a token")).into();
    }
    root["model"]["continuing_subword_prefix"] = "".into();
    root["model"]["end_of_word_suffix"] = "".into();
    root["model"].as_object_mut().expect("an object").remove("ignore_merges");
    root["post_processor"] = Value::Null;
    root["truncation"] =
        json!({"direction": "Right", "max_length": 128, "strategy": "LongestFirst", "stride": 0});
    root["pre_tokenizer"].as_object_mut().expect("an object").remove("use_regex");
    same(&root);
    // A merge given twice counts as the second, for the library too.
    let mut root = valid();
    let first = root["model"]["merges"][0].clone();
    root["model"]["merges"].as_array_mut().expect("a list").push(first);
    let ours = load(&root).expect("loads");
    assert_ne!(ours.fingerprint(), reference.fingerprint());
    let library: tokenizers::Tokenizer = serde_json::from_value(root).expect("the library loads it");
    for text in ["the", " the t th he hethe"] {
        assert_eq!(encode(&ours, text), encode_library(&library, text));
    }
}

#[test]
fn gpt2s_own_pair_of_files() {
    let ours = train_ours(&sources(), 1000, &["<|endoftext|>"], 0);
    let root: Value = serde_json::from_str(&our_json(&ours)).expect("JSON");
    let folder = tempfile::tempdir().expect("a temporary folder");
    let write = |name: &str, text: String| std::fs::write(folder.path().join(name), text).expect("written");
    write("vocab.json", root["model"]["vocab"].to_string());
    let mut merges = "#version: 0.2\n".to_string();
    for merge in root["model"]["merges"].as_array().expect("a list") {
        merges +=
            &format!("{} {}\n", merge[0].as_str().expect("a token"), merge[1].as_str().expect("a token"));
    }
    write("merges.txt", merges.clone());
    assert_eq!(Tokenizer::load(folder.path()).expect("loads").fingerprint(), ours.fingerprint());
    for (text, expected) in [
        (merges.clone() + "\n", "expected two tokens"),
        (merges.clone() + "! zzz\n", "\"zzz\" is not in the vocabulary"),
        (merges.replacen(' ', "", 3), "line 2: expected two tokens"),
    ] {
        write("merges.txt", text);
        let error = Tokenizer::load(folder.path()).expect_err(expected).to_string();
        assert!(error.contains("merges.txt") && error.contains(expected), "{error}");
    }
    write("merges.txt", merges);
    write("added_tokens.json", "{}".into());
    assert!(matches!(Tokenizer::load(folder.path()), Err(Error::Unsupported { .. })));
}

#[test]
fn saving() {
    let ours = train_ours(&sources(), 1000, &["<|endoftext|>", "<fim_prefix>"], 0);
    let folder = tempfile::tempdir().expect("a temporary folder");
    let dir = folder.path().join("made/on/the/way");
    ours.save(&dir).expect("saved");
    ours.save(&dir).expect("saved over itself");
    let mut names: Vec<_> =
        std::fs::read_dir(&dir).expect("a folder").map(|e| e.expect("an entry").file_name()).collect();
    names.sort();
    assert_eq!(names, ["special_tokens_map.json", "tokenizer.json", "tokenizer_config.json"]);
    assert_eq!(Tokenizer::load(&dir).expect("loads").fingerprint(), ours.fingerprint());
    let library = as_library(&ours);
    assert_eq!(library.to_string(true).expect("JSON"), our_json(&ours));
    let config = std::fs::read_to_string(dir.join("tokenizer_config.json")).expect("a file");
    assert!(config.contains("\"model_max_length\": 1000000000000000019884624838656"), "{config}");
    let config: Value = serde_json::from_str(&config).expect("JSON");
    assert_eq!(config["eos_token"], "<|endoftext|>");
    assert_eq!(config["added_tokens_decoder"]["1"]["content"], "<fim_prefix>");
    assert_eq!(config["added_tokens_decoder"]["1"]["id"], Value::Null);
    let file = folder.path().join("file");
    std::fs::write(&file, "").expect("written");
    assert!(matches!(ours.save(&file), Err(Error::Write { .. })));
    assert!(matches!(ours.save(&file.join("below")), Err(Error::Write { .. })));
}

#[test]
fn fingerprints_tell_what_decides_the_ids() {
    let reference = load(&valid()).expect("valid").fingerprint();
    let changes: [(&str, Value); 5] = [
        ("/pre_tokenizer/add_prefix_space", json!(true)),
        ("/model/ignore_merges", json!(true)),
        ("/added_tokens/0/lstrip", json!(true)),
        ("/added_tokens/0/special", json!(false)),
        ("/model/merges", json!([])),
    ];
    for (pointer, value) in changes {
        let mut root = valid();
        *root.pointer_mut(pointer).expect("a field") = value;
        let tokenizer = load(&root).expect("loads");
        assert_ne!(tokenizer.fingerprint(), reference, "{pointer}");
    }
    let mut root = valid();
    root["post_processor"] = Value::Null;
    let pretty = serde_json::to_string_pretty(&root).expect("JSON");
    assert_eq!(load_bytes(pretty.as_bytes()).expect("loads").fingerprint(), reference);
}
