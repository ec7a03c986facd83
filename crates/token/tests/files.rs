//! Files: hostile ones give an error that names the field; ours are whole, and load wherever they should.

mod common;

use common::{as_library, encode, encode_library, our_json, sources, train_ours};
use eyas_token::{Error, Tokenizer};
use serde_json::{Value, json};
use std::path::Path;

fn load_text(text: &[u8]) -> Result<Tokenizer, Error> {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("tokenizer.json");
    std::fs::write(&path, text).expect("written");
    Tokenizer::load(&path)
}

/// A small valid tokenizer.json: 256 bytes, two merges, one special token.
fn valid() -> Value {
    let texts = ["the the the".to_string()];
    serde_json::from_str(&our_json(&train_ours(&texts, 259, &["<|endoftext|>"], 0))).expect("JSON")
}

#[test]
fn what_cannot_be_reproduced_is_refused_by_name() {
    let split =
        json!({"type": "Split", "pattern": {"Regex": "\\d"}, "behavior": "Isolated", "invert": false});
    let cases = [
        ("/version", json!("2.0"), "version is \"2.0\""),
        ("/normalizer", json!({"type": "NFC"}), "normalizer is {\"type\":\"NFC\"}; supported: null"),
        ("/pre_tokenizer", json!(null), "pre_tokenizer is null; supported: ByteLevel"),
        ("/pre_tokenizer", split, "pre_tokenizer is {\"type\":\"Split\""),
        ("/pre_tokenizer/use_regex", json!(false), "pre_tokenizer.use_regex is false"),
        (
            "/pre_tokenizer/add_prefix_space",
            json!(1),
            "pre_tokenizer.add_prefix_space: expected true or false, found 1",
        ),
        (
            "/post_processor",
            json!({"type": "TemplateProcessing"}),
            "post_processor is {\"type\":\"TemplateProcessing\"}",
        ),
        (
            "/decoder",
            json!({"type": "Metaspace"}),
            "decoder is {\"type\":\"Metaspace\"}; supported: ByteLevel",
        ),
        ("/decoder", json!(null), "decoder is null"),
        ("/model", json!([]), "model: expected an object, found []"),
        ("/model/type", json!("Unigram"), "model.type is \"Unigram\"; supported: \"BPE\""),
        ("/model/dropout", json!(0.1), "model.dropout is 0.1; supported: null"),
        ("/model/unk_token", json!("<unk>"), "model.unk_token is \"<unk>\""),
        ("/model/byte_fallback", json!(true), "model.byte_fallback is true"),
        ("/model/continuing_subword_prefix", json!("##"), "model.continuing_subword_prefix is \"##\""),
        ("/model/end_of_word_suffix", json!("</w>"), "model.end_of_word_suffix is \"</w>\""),
        ("/model/ignore_merges", json!("yes"), "model.ignore_merges: expected true or false, found \"yes\""),
        ("/model/vocab", json!([["a", 0]]), "model.vocab: expected an object"),
        ("/model/vocab", json!({}), "lacks \"!\", the byte 0x21"),
        ("/model/merges", json!({}), "model.merges: expected a list, found {}"),
        ("/model/merges/0", json!("t"), "model.merges[0]: expected two tokens"),
        ("/model/merges/0", json!("t h e"), "model.merges[0]: expected two tokens"),
        ("/model/merges/0", json!(["t"]), "model.merges[0]: expected two tokens"),
        ("/model/merges/0", json!(["t", 7]), "model.merges[0]: expected two tokens"),
        ("/model/merges/0", json!(7), "model.merges[0]: expected two tokens"),
        ("/model/merges/0", json!(["t", "zz"]), "model.merges[0]: \"zz\" is not in the vocabulary"),
        ("/model/merges/1", json!(["z", "q"]), "model.merges[1]: \"zq\" is not in the vocabulary"),
        ("/model/merges/0", json!(["", "t"]), "model.merges[0]: \"\" is not in the vocabulary"),
        ("/model/vocab/a", json!(-1), "model.vocab[\"a\"]: expected an id, found -1"),
        ("/model/vocab/a", json!(1.5), "model.vocab[\"a\"]: expected an id, found 1.5"),
        ("/model/vocab/a", json!("1"), "model.vocab[\"a\"]: expected an id, found \"1\""),
        ("/model/vocab/a", json!(1), "id 1 is also that of"),
        ("/model/vocab/a", json!(259), "id 259 leaves a gap: 259 tokens have the ids 0 to 258"),
        ("/model/vocab/a", json!(u64::MAX), "id 18446744073709551615 leaves a gap"),
        ("/model/vocab/a", json!(4_000_000_000_u64), "id 4000000000 leaves a gap"),
        ("/added_tokens", json!("x"), "added_tokens: expected a list"),
        ("/added_tokens/0", json!("x"), "added_tokens[0]: expected an object"),
        ("/added_tokens/0/id", json!(7), "added_tokens[0].id: expected 0, the id that the library gives"),
        ("/added_tokens/0/content", json!("<pad>"), "added_tokens[0].id: expected 259"),
        (
            "/added_tokens/0/content",
            json!(""),
            "added_tokens[0].content: expected a string that is not empty",
        ),
        ("/added_tokens/0/content", json!(3), "added_tokens[0].content: expected a string"),
        ("/added_tokens/0/single_word", json!(true), "added_tokens[0].single_word is true; supported: false"),
        ("/added_tokens/0/lstrip", json!(null), "added_tokens[0].lstrip: expected true or false, found null"),
    ];
    for (pointer, value, expected) in cases {
        let mut root = valid();
        *root.pointer_mut(pointer).unwrap_or_else(|| panic!("{pointer}")) = value;
        let error = load_text(root.to_string().as_bytes()).expect_err(pointer).to_string();
        assert!(error.contains(expected), "{pointer}: {error}");
        assert!(error.contains("tokenizer.json"), "{error}");
    }
}

#[test]
fn broken_files() {
    let whole = valid().to_string();
    for end in [0, 1, whole.len() / 3, whole.len() - 1] {
        assert!(matches!(load_text(&whole.as_bytes()[..end]), Err(Error::Json { .. })), "cut at {end}");
    }
    assert!(matches!(load_text(b"\xff\xfe{}"), Err(Error::Json { .. })));
    assert!(matches!(load_text("[".repeat(1 << 20).as_bytes()), Err(Error::Json { .. })));
    for text in ["null", "[]", "3", "\"x\"", "{}", r#"{"model": {}}"#] {
        assert!(load_text(text.as_bytes()).is_err(), "{text}");
    }
    // A second token of the same name leaves an id without a token.
    let twice = whole.replacen(r##""\"":"##, r##""#":"##, 1);
    assert!(matches!(load_text(twice.as_bytes()), Err(Error::Invalid { .. })));
    let mut twice = valid();
    let first = twice["added_tokens"][0].clone();
    twice["added_tokens"].as_array_mut().expect("a list").push(first);
    let error = load_text(twice.to_string().as_bytes()).expect_err("twice").to_string();
    assert!(error.contains("added_tokens[1].content: \"<|endoftext|>\" was added before"), "{error}");
}

#[test]
fn missing_files() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let load = |path: &Path| Tokenizer::load(path).expect_err("nothing there");
    assert!(matches!(load(folder.path()), Error::NotFound { .. }));
    assert!(matches!(load(&folder.path().join("none.json")), Error::Read { .. }));
    std::fs::create_dir(folder.path().join("tokenizer.json")).expect("a folder in the way");
    assert!(matches!(load(folder.path()), Error::Read { .. } | Error::NotFound { .. }));
}

#[test]
fn files_as_they_are_found() {
    let reference = load_text(valid().to_string().as_bytes()).expect("valid");
    let same = |root: &Value| {
        let tokenizer = load_text(root.to_string().as_bytes()).expect("loads");
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
    let ours = load_text(root.to_string().as_bytes()).expect("loads");
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
    let reference = load_text(valid().to_string().as_bytes()).expect("valid").fingerprint();
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
        let tokenizer = load_text(root.to_string().as_bytes()).expect("loads");
        assert_ne!(tokenizer.fingerprint(), reference, "{pointer}");
    }
    let mut root = valid();
    root["post_processor"] = Value::Null;
    let pretty = serde_json::to_string_pretty(&root).expect("JSON");
    assert_eq!(load_text(pretty.as_bytes()).expect("loads").fingerprint(), reference);
}
