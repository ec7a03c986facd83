//! The trainer against the library's: the same tokenizer.json, byte for byte.

mod common;

use common::{Random, our_json, sources, train_library, train_ours};
use eyas_token::{Error, MemoryLimit, TrainOptions, WordCounts, train, train_and_report};

/// Trains both and compares everything they write.
fn compare(name: &str, texts: &[String], vocab_size: usize, special: &[&str], min_frequency: u64) {
    let library = train_library(texts, vocab_size, special, min_frequency);
    let ours = train_ours(texts, vocab_size, special, min_frequency);
    let expected = library.to_string(true).expect("JSON");
    let found = our_json(&ours);
    for (i, (found, expected)) in found.lines().zip(expected.lines()).enumerate() {
        assert_eq!(found, expected, "{name}, vocabulary {vocab_size}: line {}", i + 1);
    }
    assert_eq!(found.len(), expected.len(), "{name}, vocabulary {vocab_size}");
    assert_eq!(ours.fingerprint(), common::as_ours(&library).fingerprint(), "{name}");
}

#[test]
fn source_code() {
    for vocab_size in [257, 300, 1000, 4000] {
        compare("own sources", &sources(), vocab_size, &["<|endoftext|>"], 0);
    }
    compare("min_frequency", &sources(), 4000, &["<|endoftext|>"], 5);
    compare("until no pair is left", &sources()[..3], 100_000, &["<|endoftext|>"], 0);
}

#[test]
fn ties_everywhere() {
    // Every pair of letters as often as every other; then all permutations of a few.
    let letters: Vec<char> = ('a'..='z').collect();
    let pairs: Vec<String> =
        letters.iter().flat_map(|a| letters.iter().map(move |b| format!(" {a}{b}"))).collect();
    compare("all pairs", &pairs, 700, &["<|endoftext|>"], 0);
    let mut random = Random(1);
    let words: Vec<String> = (0..300).map(|_| random.text(&['a', 'b', 'c', ' '], 12)).collect();
    compare("three letters", &words, 700, &["<|endoftext|>"], 0);
}

#[test]
fn runs_of_one_character() {
    let runs: Vec<String> = (1..70).map(|n| format!("{}x\n{}\n", "a".repeat(n), " ".repeat(n))).collect();
    compare("runs", &runs, 400, &["<|endoftext|>"], 0);
    let long = vec!["=".repeat(100_000), "ab".repeat(30_001), "-".repeat(333)];
    compare("long runs", &long, 400, &["<|endoftext|>"], 0);
}

#[test]
fn tiny_and_empty() {
    compare("nothing", &[], 1000, &["<|endoftext|>"], 0);
    compare("empty text", &[String::new()], 1000, &["<|endoftext|>"], 0);
    compare("one character", &["a".into()], 1000, &[], 0);
    compare("one pair", &["ab".into()], 1000, &["<|endoftext|>"], 0);
    compare("every occurrence overlaps", &["aaa".into(), "aaaa aaaaa".into()], 1000, &["<|endoftext|>"], 0);
}

#[test]
fn multi_byte_text() {
    let alphabet: Vec<char> = "日本語中文éèß ١٢٣\u{301}\u{200d}👩💻\r\n\t\u{85}\u{a0}\0'st".chars().collect();
    let mut random = Random(2);
    let texts: Vec<String> = (0..200).map(|i| random.text(&alphabet, i)).collect();
    compare("multi-byte", &texts, 900, &["<|endoftext|>"], 0);
}

#[test]
fn special_tokens_in_the_text_and_in_the_merges() {
    let mut texts = sources();
    texts.push("<|endoftext|> def f(): return <|endoftext|><fim_prefix>".repeat(50));
    let fim = ["<|endoftext|>", "<fim_prefix>", "<fim_suffix>", "<fim_middle>", "日本", "a b"];
    compare("fill in the middle", &texts, 1500, &fim, 0);
    // Tokens that merges arrive at as well: they keep the special token's id.
    compare("words as special tokens", &texts, 1500, &["fn", "endoftext", "Ġlet", "self"], 0);
}

#[test]
fn random_corpora() {
    let mut random = Random(3);
    for round in 0..120 {
        let alphabet: Vec<char> = "ab cdé-".chars().take(2 + round % 6).collect();
        let texts: Vec<String> = (0..1 + random.below(40))
            .map(|_| {
                let length = random.below(60);
                random.text(&alphabet, length)
            })
            .collect();
        compare(&format!("random {round}"), &texts, 257 + random.below(400), &["<|endoftext|>"], 0);
    }
}

#[test]
fn counting_in_parts_changes_nothing() {
    let texts = sources();
    let (mut first, mut second) = (WordCounts::new(), WordCounts::new());
    for (i, text) in texts.iter().enumerate() {
        if i % 2 == 0 { first.add(text) } else { second.add(text) }
    }
    second.merge(first);
    let options = TrainOptions { vocab_size: 2000, ..TrainOptions::default() };
    let mut reports = Vec::new();
    let tokenizer =
        train(second, &options, &mut |done, wanted| reports.push((done, wanted))).expect("trained");
    assert_eq!(tokenizer.fingerprint(), train_ours(&texts, 2000, &["<|endoftext|>"], 0).fingerprint());
    assert_eq!(reports.first(), Some(&(0, 1743)));
    assert_eq!(reports.last(), Some(&(1743, 1743)));
}

#[test]
fn what_goes_to_disk_comes_back() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    // A few hundred words: everything goes through runs and mapped files.
    let limit = MemoryLimit { max_bytes: 1 << 16, folder: folder.path().to_path_buf() };
    let mut random = Random(4);
    let alphabet: Vec<char> = "ab cdé-".chars().collect();
    let random_texts: Vec<String> = (0..60).map(|_| random.text(&alphabet, 50)).collect();
    let numbers: Vec<String> = (0..9000).map(|i| format!(" w{i} x{}", i * i)).collect();
    for (texts, vocab_size) in
        [(&sources(), 600), (&random_texts, 600), (&numbers, 300), (&vec!["=".repeat(5000)], 400)]
    {
        let mut parts = [(); 2].map(|()| WordCounts::new().limited(&limit, 2));
        texts.iter().enumerate().for_each(|(i, text)| parts[i % 2].add(text));
        let [mut counts, other] = parts;
        counts.merge(other);
        counts.check().expect("counted");
        let options = TrainOptions { vocab_size, limit: Some(limit.clone()), ..TrainOptions::default() };
        let trained = train_and_report(counts, &options, &mut |_| {}).expect("trained");
        assert!(trained.num_file_bytes > 0);
        let library = train_library(texts, vocab_size, &["<|endoftext|>"], 0);
        assert_eq!(our_json(&trained.tokenizer), library.to_string(true).expect("JSON"));
    }
    assert_eq!(std::fs::read_dir(folder.path()).expect("a folder").count(), 0, "nothing is left behind");
}

#[test]
fn no_room_on_disk_is_an_error() {
    let limit = MemoryLimit { max_bytes: 0, folder: "/nonexistent".into() };
    let mut counts = WordCounts::new();
    counts.add("some words, not many");
    let options = TrainOptions { limit: Some(limit), ..TrainOptions::default() };
    let error = train(counts, &options, &mut |_, _| {}).expect_err("refused");
    assert!(matches!(error, Error::Spill { .. }), "{error}");
}

#[test]
fn impossible_options() {
    let attempt = |vocab_size, special: &[&str]| {
        let special_tokens = special.iter().map(|token| token.to_string()).collect();
        let options =
            TrainOptions { vocab_size, special_tokens, min_frequency: 0, ..TrainOptions::default() };
        train(WordCounts::new(), &options, &mut |_, _| {}).expect_err("refused")
    };
    assert!(matches!(
        attempt(256, &["<|endoftext|>"]),
        Error::VocabularyTooSmall { asked: 256, least: 257, num_special: 1 }
    ));
    assert!(matches!(attempt(300, &[""]), Error::SpecialToken { .. }));
    assert!(matches!(attempt(300, &["x"]), Error::SpecialToken { .. }));
    assert!(matches!(attempt(300, &["xy", "xy"]), Error::SpecialToken { .. }));
}
