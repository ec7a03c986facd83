//! Files that nobody wrote in earnest: an error that names file and field, never a panic, a hang, or other ids than the
//! library gives.

mod common;

use common::kinds::KINDS;
use common::{Random, encode, load, load_bytes, our_json, train_ours};
use eyas_token::{Error, Tokenizer};
use proptest::prelude::*;
use serde_json::{Value, json};
use std::path::Path;

/// A small valid tokenizer.json: 256 bytes, two merges, one special token.
fn valid() -> Value {
    let texts = ["the the the".to_string()];
    serde_json::from_str(&our_json(&train_ours(&texts, 259, &["<|endoftext|>"], 0))).expect("JSON")
}

fn kind(name: &str) -> Value {
    KINDS.iter().find(|kind| kind.name == name).expect("a kind").json.clone()
}

/// `root` with one value replaced.
fn with(mut root: Value, pointer: &str, value: Value) -> Value {
    *root.pointer_mut(pointer).unwrap_or_else(|| panic!("{pointer}")) = value;
    root
}

fn message(root: &Value, what: &str) -> String {
    let error = load(root).expect_err(what).to_string();
    assert!(error.contains("tokenizer.json"), "{what}: {error}");
    error
}

#[test]
fn wrong_values_are_refused_by_name() {
    let cases = [
        ("/version", json!("2.0"), "version is \"2.0\""),
        ("/version", json!(1), "version is 1"),
        ("/normalizer", json!(3), "normalizer: expected an object, found 3"),
        ("/normalizer", json!({"type": 3}), "normalizer.type: expected a string, found 3"),
        ("/normalizer", json!({"type": "NFX"}), "normalizer: "),
        ("/pre_tokenizer", json!("ByteLevel"), "pre_tokenizer: expected an object, found \"ByteLevel\""),
        ("/pre_tokenizer/use_regex", json!(0), "pre_tokenizer.use_regex: expected true or false, found 0"),
        (
            "/pre_tokenizer/add_prefix_space",
            json!(1),
            "pre_tokenizer.add_prefix_space: expected true or false, found 1",
        ),
        ("/post_processor", json!({"type": "TemplateProcessing"}), "post_processor: "),
        (
            "/post_processor",
            json!({"type": "TemplateProcessing", "single": [], "pair": [], "special_tokens": {}}),
            "post_processor.single is []",
        ),
        ("/post_processor", json!([]), "post_processor: expected an object"),
        ("/decoder", json!({"type": "Nothing"}), "decoder: "),
        ("/decoder", json!(7), "decoder: expected an object, found 7"),
        ("/model", json!([]), "model: expected an object, found []"),
        ("/model", json!(null), "model: expected an object, found null"),
        ("/model/type", json!("GPT"), "model.type is \"GPT\"; supported: \"BPE\""),
        ("/model/type", json!(3), "model.type: expected a string, found 3"),
        ("/model/dropout", json!(0.1), "model.dropout is 0.1; supported: null (ids would be random)"),
        ("/model/dropout", json!("no"), "model.dropout is \"no\""),
        ("/model/unk_token", json!(3), "model.unk_token: expected a string, found 3"),
        ("/model/byte_fallback", json!("yes"), "model.byte_fallback: expected true or false, found \"yes\""),
        ("/model/continuing_subword_prefix", json!(3), "model.continuing_subword_prefix: expected a string"),
        (
            "/model/continuing_subword_prefix",
            json!("##"),
            "model.merges[0]: expected a right side that starts with \"##\"",
        ),
        (
            "/model/continuing_subword_prefix",
            json!("é"),
            "model.merges[0]: expected a right side that starts with \"é\"",
        ),
        ("/model/ignore_merges", json!("yes"), "model.ignore_merges: expected true or false, found \"yes\""),
        ("/model/vocab", json!([["a", 0]]), "model.vocab: expected an object"),
        ("/model/vocab", json!("x"), "model.vocab: expected an object"),
        ("/model/vocab", json!({}), "model: "),
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
        ("/model/vocab/a", json!(u64::MAX), "model.vocab[\"a\"]: expected an id, found 18446744073709551615"),
        (
            "/model/vocab/a",
            json!(4_000_000_000_u64),
            "model.vocab[\"a\"]: id 4000000000 is too large for a vocabulary of 259",
        ),
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
        ("/added_tokens/0/lstrip", json!(null), "added_tokens[0].lstrip: expected true or false, found null"),
    ];
    for (pointer, value, expected) in cases {
        let error = message(&with(valid(), pointer, value), pointer);
        assert!(error.contains(expected), "{pointer}: {error}");
    }
    let long = "x".repeat(1 << 24);
    for (pointer, value) in [
        ("/version", json!(long)),
        ("/added_tokens/0/content", json!(long)),
        ("/model/merges/0", json!(long)),
    ] {
        assert!(message(&with(valid(), pointer, value), pointer).len() < 1000);
    }
}

#[test]
fn what_the_library_runs_is_checked_too() {
    let replace = json!({"type": "Replace", "pattern": {"Regex": ""}, "content": "x".repeat(1 << 20)});
    let sequence = |list: &str, parts: Vec<Value>| json!({"type": "Sequence", list: parts});
    let nested =
        |depth| (0..depth).fold(json!({"type": "NFC"}), |inner, _| sequence("normalizers", vec![inner]));
    let split = |regex: &str| json!({"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": false});
    let cases = [
        (
            "T5",
            "/model/vocab/3",
            json!(["a"]),
            "model.vocab[3]: expected a token and its score, found [\"a\"]",
        ),
        ("T5", "/model/vocab/3/1", json!("high"), "model.vocab[3]: expected a token and its score"),
        ("T5", "/model/unk_id", json!(1_000_000_000), "model: "),
        (
            "T5",
            "/normalizer/normalizers/1/pattern",
            json!({"Regex": "("}),
            "normalizer.normalizers[1].pattern.Regex: \"(\": ",
        ),
        (
            "T5",
            "/normalizer/normalizers/1/pattern",
            json!(3),
            "normalizer.normalizers[1].pattern: expected {\"Regex\"",
        ),
        (
            "T5",
            "/normalizer/normalizers/1/content",
            json!(null),
            "normalizer.normalizers[1].content: expected a string",
        ),
        ("BERT", "/model/vocab/let", json!(5_000_000), "model.vocab[\"let\"]: id 5000000 is too large"),
        ("BERT", "/model/vocab", json!([]), "model: "),
        ("BERT", "/model/max_input_chars_per_word", json!(-1), "model: "),
        ("BERT", "/decoder/type", json!("Wordpiece"), "decoder.type: expected \"WordPiece\""),
        ("CLIP", "/post_processor/type", json!(""), "post_processor.type: expected \"TemplateProcessing\""),
        ("T5", "/normalizer/normalizers/1/type", json!("replace"), "normalizer.normalizers[1].type: "),
        ("BERT", "/decoder/prefix", json!(3), "decoder: "),
        (
            "GPT-4o",
            "/pre_tokenizer/pretokenizers/0",
            split("(a{1000}){1001}"),
            "pre_tokenizer.pretokenizers[0].pattern.Regex: \"(a{1000}){1001}\": repeats more",
        ),
        (
            "GPT-4o",
            "/pre_tokenizer/pretokenizers/0",
            split(&"(".repeat(1000)),
            "pre_tokenizer.pretokenizers[0].pattern.Regex",
        ),
        (
            "GPT-4o",
            "/pre_tokenizer/pretokenizers/0",
            split(&"a".repeat(100_000)),
            "expected at most 16384 bytes, found 100000",
        ),
        (
            "GPT-4o",
            "/pre_tokenizer/pretokenizers/0/behavior",
            json!("Sideways"),
            "pre_tokenizer.pretokenizers[0].behavior",
        ),
        (
            "GPT-4o",
            "/pre_tokenizer/pretokenizers/0",
            json!({"type": "FixedLength", "length": 0}),
            "pretokenizers[0].length: expected at least 1",
        ),
        (
            "GPT-4o",
            "/pre_tokenizer/pretokenizers",
            json!(vec![split("x"); 100]),
            "pre_tokenizer.pretokenizers[64]: expected at most 64 steps",
        ),
        ("GPT-4o", "/normalizer", nested(20), "expected at most 8 sequences in one another"),
        ("GPT-4o", "/normalizer", replace.clone(), "added_tokens: "),
        ("Llama 2", "/model/vocab/t", json!(2), "id 2 is also that of"),
        ("Llama 2", "/added_tokens/0/id", json!(77), "added_tokens[0].id: expected 0"),
        ("Llama 2", "/added_tokens/0/single_word", json!(3), "added_tokens[0]: "),
        ("words", "/model/unk_token", json!(null), "model: "),
    ];
    for (name, pointer, value, expected) in cases {
        let error = message(&with(kind(name), pointer, value), pointer);
        assert!(error.contains(expected), "{name} {pointer}: {error}");
    }
    // Merges that claim more than the longest token has, and a missing half.
    let mut root = kind("Llama 2");
    root["model"]["merges"] = json!([["<0x0A>", "<0x0B>"]]);
    message(&root, "a merge of unknown tokens");
    // A text that a normalizer makes a million times longer.
    let mut root = kind("GPT-4o");
    root["normalizer"] = replace;
    for token in root["added_tokens"].as_array_mut().expect("a list") {
        token["normalized"] = false.into();
    }
    let error =
        load(&root).expect("loads").encode("some text", &mut Vec::new()).expect_err("too long").to_string();
    assert!(error.contains("the normalizer of this tokenizer makes") && error.len() < 300, "{error}");
}

#[test]
fn a_catastrophic_expression_is_named() {
    let regex = r"(?:(a|aa)+)(?<!c)b";
    let split =
        json!({"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": false});
    let replace = json!({"type": "Replace", "pattern": {"Regex": regex}, "content": "x"});
    let (short, long) = ("aab aaaa", "a".repeat(200));
    for (pointer, value) in [("/pre_tokenizer/pretokenizers/0", split), ("/normalizer", replace.clone())] {
        let root = with(kind("GPT-4o"), pointer, value);
        let library: tokenizers::Tokenizer =
            serde_json::from_value(root.clone()).expect("the library loads it");
        let ours = load(&root).expect("loads");
        assert_eq!(encode(&ours, short), encode_ids(&library, short));
        let mut ids = vec![5];
        let error = ours.encode(&long, &mut ids).expect_err("too hard").to_string();
        assert!(error.contains(&format!("{regex:?} of this tokenizer is too hard to match here")), "{error}");
        let error = ours.encode_ordinary(&long, &mut ids).expect_err("too hard").to_string();
        assert!(error.contains("too hard"), "{error}");
        assert_eq!(ids, [5]);
    }
    // With a fast path, a normalizer is still the library's.
    let ours = load(&with(kind("GPT-2"), "/normalizer", replace)).expect("loads");
    assert_eq!(ours.slow_reason(), None);
    assert!(ours.encode(&long, &mut Vec::new()).expect_err("too hard").to_string().contains("too hard"));
}

fn encode_ids(library: &tokenizers::Tokenizer, text: &str) -> Vec<u32> {
    common::encode_library(library, text)
}

#[test]
fn broken_files() {
    let whole = valid().to_string();
    for end in [0, 1, whole.len() / 3, whole.len() - 1] {
        assert!(matches!(load_bytes(&whole.as_bytes()[..end]), Err(Error::Json { .. })), "cut at {end}");
    }
    assert!(matches!(load_bytes(b"\xff\xfe{}"), Err(Error::Json { .. })));
    assert!(matches!(load_bytes("[".repeat(1 << 20).as_bytes()), Err(Error::Json { .. })));
    let deep = format!("{{\"normalizer\": {}1{}}}", "{\"type\":".repeat(1 << 16), "}".repeat(1 << 16));
    assert!(matches!(load_bytes(deep.as_bytes()), Err(Error::Json { .. })));
    for text in ["null", "[]", "3", "\"x\"", "{}", r#"{"model": {}}"#, r#"{"model": {"type": "Unigram"}}"#] {
        assert!(load_bytes(text.as_bytes()).is_err(), "{text}");
    }
    // A second token of the same name leaves an id without a token, and a byte without a token.
    let twice = whole.replacen(r##""\"":"##, r##""#":"##, 1);
    let reason = load_bytes(twice.as_bytes()).expect("loads").slow_reason().map(String::from);
    assert!(reason.is_some(), "a gap");
    let mut twice = valid();
    let first = twice["added_tokens"][0].clone();
    twice["added_tokens"].as_array_mut().expect("a list").push(first);
    let error = message(&twice, "twice");
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
    std::fs::remove_dir(folder.path().join("tokenizer.json")).expect("removed");
    let huge = std::fs::File::create(folder.path().join("tokenizer.json")).expect("created");
    huge.set_len(1 << 40).expect("a sparse file of a terabyte");
    assert!(matches!(load(folder.path()), Error::TooLarge { .. }));
    std::fs::write(folder.path().join("tokenizer.json"), valid().to_string()).expect("written");
    std::fs::write(folder.path().join("tokenizer_config.json"), "{").expect("written");
    assert!(load(folder.path()).to_string().contains("tokenizer_config.json is not valid JSON"));
}

/// One change to a node somewhere in a tree.
fn mutate(root: &mut Value, random: &mut Random) {
    let mut node = root;
    // The vocabulary is a few thousand nodes of one kind: the others are met as often.
    for _ in 0..random.below(7) {
        let number = match node {
            Value::Object(map) => map.len(),
            Value::Array(list) => list.len(),
            _ => 0,
        };
        if number == 0 {
            break;
        }
        let index = random.below(number);
        node = match node {
            Value::Object(map) => map.values_mut().nth(index).expect("a value"),
            Value::Array(list) => &mut list[index],
            _ => break,
        };
    }
    match (random.below(6), &mut *node) {
        (0, Value::Object(map)) if !map.is_empty() => {
            let key = map.keys().nth(random.below(map.len())).expect("a key").clone();
            map.remove(&key);
        }
        (0, Value::Array(list)) if !list.is_empty() => drop(list.remove(random.below(list.len()))),
        (1, Value::Array(list)) if !list.is_empty() => {
            let item = list[random.below(list.len())].clone();
            list.insert(random.below(list.len()), item);
        }
        (1 | 2, Value::Object(map)) if map.len() > 1 => {
            let keys: Vec<String> =
                (0..2).map(|_| map.keys().nth(random.below(map.len())).expect("a key").clone()).collect();
            let value = map[&keys[0]].clone();
            map.insert(keys[1].clone(), value);
        }
        (2, Value::Number(number)) => {
            *node = json!(number.as_i64().unwrap_or(0) + random.below(3) as i64 - 1);
        }
        (2, Value::Bool(flag)) => *flag = !*flag,
        _ => {
            let values = [
                json!(null),
                json!(0),
                json!(-1),
                json!(1e300),
                json!(u64::MAX),
                json!(""),
                json!("a"),
                json!("é"),
                json!([]),
                json!({}),
                json!(true),
                json!({"type": "NFC"}),
                json!(["a", "b"]),
                json!("<0x0A>"),
            ];
            *node = values[random.below(values.len())].clone();
        }
    }
}

/// Removes, cuts, flips or overwrites at one place; of no bytes there is nothing to change.
fn mutate_bytes(bytes: &mut Vec<u8>, random: &mut Random) {
    if bytes.is_empty() {
        return;
    }
    let at = random.below(bytes.len());
    match random.below(4) {
        0 => drop(bytes.remove(at)),
        1 => bytes.truncate(at.max(1)),
        2 => bytes[at] ^= 1 << random.below(8),
        // Digits, quotes and brackets keep the text JSON more often than anything else does.
        _ => bytes[at] = b"0123456789\"[]{},:-"[random.below(18)],
    }
}

/// Loads or not; if the library does too, the ids are the same. Whatever fails says so.
fn check(bytes: &[u8]) {
    let Ok(ours) = load_bytes(bytes) else { return };
    let library = std::panic::catch_unwind(|| serde_json::from_slice::<tokenizers::Tokenizer>(bytes))
        .ok()
        .and_then(Result::ok);
    for text in
        ["", "fn main() {\n    let x1 = don't;\n}<|endoftext|>  <mask> é ½  日本", "<pad> Fn Main \u{301}a"]
    {
        let mut ids = Vec::new();
        let Ok(()) = ours.encode(text, &mut ids) else { continue };
        let _ = ours.decode_lossy(&ids, true);
        ours.decode(&ids, &mut Vec::new()).expect("ids that it gave");
        ids.iter()
            .for_each(|&id| assert!(ours.token_bytes(id).is_some() && (id as usize) < ours.vocab_size()));
        let Some(library) = &library else { continue };
        let mut library = library.clone();
        library.with_truncation(None).expect("none");
        let theirs = std::panic::catch_unwind(|| {
            library.encode_fast(text, false).map(|encoding| encoding.get_ids().to_vec())
        });
        if let Ok(Ok(theirs)) = theirs {
            assert_eq!(ids, theirs, "{text:?}");
        }
        let _ = ours.encode_ordinary(text, &mut ids);
    }
}

proptest! {
    #[test]
    fn changed_trees(seed in any::<u64>(), changes in 1..4) {
        let mut random = Random(seed);
        let mut root = KINDS[random.below(KINDS.len())].json.clone();
        (0..changes).for_each(|_| mutate(&mut root, &mut random));
        check(root.to_string().as_bytes());
    }

    #[test]
    fn changed_bytes(seed in any::<u64>(), changes in 1..6) {
        let mut random = Random(seed);
        let mut bytes = KINDS[random.below(KINDS.len())].json.to_string().into_bytes();
        (0..changes).for_each(|_| mutate_bytes(&mut bytes, &mut random));
        check(&bytes);
    }
}
