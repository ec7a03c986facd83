//! Ids against the library's, for one vocabulary and text of every kind; and back to the same bytes.

mod common;

use common::{Random, as_library, as_ours, encode, encode_library, sources, train_library, train_ours};
use eyas_token::{StreamDecoder, Tokenizer};
use proptest::prelude::*;
use std::sync::LazyLock;
use tokenizers::AddedToken;

const SPECIAL: [&str; 4] = ["<|endoftext|>", "<fim_prefix>", "<fim_pre", "日本"];

/// Characters that a pre-tokenizer may get wrong.
const TRICKY: &str = "abzAZéßλЖ日本ｱ09²½٣Ⅷ𝟘 \t\n\r\u{b}\u{c}\u{85}\u{a0}\u{1680}\u{2028}\u{2029}\u{202f}\u{3000}\
    '’\"_-+=(){}<|>\0\u{1}\u{7f}\u{ad}\u{200b}\u{200c}\u{200d}\u{2060}\u{feff}\u{301}\u{20e3}\u{fe0f}\u{e000}\
    \u{378}\u{e0001}\u{fffd}\u{ffff}\u{10ffff}😀👩💻🇩🇪ＡªºʰǅⒶ";

static BOTH: LazyLock<(Tokenizer, tokenizers::Tokenizer)> = LazyLock::new(|| {
    let mut texts = sources();
    let alphabet: Vec<char> = TRICKY.chars().collect();
    let mut random = Random(7);
    texts.extend((0..100).map(|i| random.text(&alphabet, i)));
    let ours = train_ours(&texts, 3000, &SPECIAL, 0);
    let library = as_library(&ours);
    (ours, library)
});

/// Same ids, and the same text back, by ours, by the library and piece by piece.
fn check(text: &str) {
    let (ours, library) = &*BOTH;
    let ids = encode(ours, text);
    assert_eq!(ids, encode_library(library, text), "{text:?}");
    let mut bytes = Vec::new();
    ours.decode(&ids, &mut bytes).expect("known ids");
    assert_eq!(bytes, text.as_bytes());
    let mut ordinary = Vec::new();
    ours.encode_ordinary(text, &mut ordinary).expect("encoded");
    assert!(ordinary.iter().all(|&id| !ours.is_special(id)), "{text:?}");
    bytes.clear();
    ours.decode(&ordinary, &mut bytes).expect("known ids");
    assert_eq!(bytes, text.as_bytes());
}

#[test]
fn every_general_category_and_every_edge_of_a_class() {
    const CATEGORIES: &str =
        "Lu Ll Lt Lm Lo Mn Mc Me Nd Nl No Pc Pd Ps Pe Pi Pf Po Sm Sc Sk So Zs Zl Zp Cc Cf Co Cn";
    let ranges = |expression: &str| {
        let hir = regex_syntax::parse(expression).expect("a valid expression");
        match hir.into_kind() {
            regex_syntax::hir::HirKind::Class(regex_syntax::hir::Class::Unicode(class)) => class,
            regex_syntax::hir::HirKind::Literal(literal) => {
                let c = std::str::from_utf8(&literal.0).expect("UTF-8").chars().next().expect("a character");
                regex_syntax::hir::ClassUnicode::new([regex_syntax::hir::ClassUnicodeRange::new(c, c)])
            }
            other => panic!("{expression}: {other:?}"),
        }
    };
    let mut characters = Vec::new();
    for category in CATEGORIES.split(' ') {
        let class = ranges(&format!(r"\p{{{category}}}"));
        let step = class.ranges().len().div_ceil(60);
        for range in class.iter().step_by(step) {
            characters.extend([range.start(), range.end()]);
        }
    }
    for expression in [r"\p{L}", r"\p{N}", r"\s"] {
        for range in ranges(expression).iter() {
            let (first, last) = (u32::from(range.start()), u32::from(range.end()));
            characters
                .extend((first.saturating_sub(1)..=first).chain(last..=last + 1).filter_map(char::from_u32));
        }
    }
    for group in characters.chunks(64) {
        let text: String =
            group.iter().flat_map(|c| ['a', *c, *c, ' ', *c, '1', *c, '\n', ' ', ' ', *c, '\'']).collect();
        check(&text);
    }
}

#[test]
fn random_text_of_tricky_characters() {
    let alphabet: Vec<char> = TRICKY.chars().collect();
    let white: Vec<char> = " \t\n\r\u{85}\u{a0}\u{3000}a'".chars().collect();
    let quotes: Vec<char> = "'stmdlvre SL \n".chars().collect();
    let mut random = Random(4);
    for i in 0..1500 {
        let length = random.below(60);
        check(&random.text(&alphabet, length));
        check(&random.text(&white, i % 20));
        check(&random.text(&quotes, i % 30));
    }
}

#[test]
fn special_tokens_in_the_text() {
    let parts = [
        "<|endoftext|>",
        "<fim_prefix>",
        "<fim_pre",
        "fix>",
        "日本",
        "日",
        " ",
        "\n",
        "x",
        "<",
        "<|",
        "|>",
        "'s",
    ];
    let mut random = Random(5);
    for _ in 0..1000 {
        let text: String = (0..random.below(12)).map(|_| parts[random.below(parts.len())]).collect();
        check(&text);
    }
    let (ours, _) = &*BOTH;
    assert_eq!(encode(ours, "<fim_prefix><fim_pre>"), {
        let mut ids = vec![1, 2];
        ours.encode_ordinary(">", &mut ids).expect("encoded");
        ids
    });
}

#[test]
fn sources_and_long_words() {
    sources().iter().for_each(|text| check(text));
    for c in ["a", " ", "=", "\n", "日", "\u{301}"] {
        check(&c.repeat(60_000));
    }
    check(&"a".repeat(1_000_000));
    let letters: Vec<char> = "etaoinshrdlu".chars().collect();
    check(&Random(6).text(&letters, 100_000));
    // Around the bounds of the short keys, of the merging by scan, and of the cache.
    for length in [14, 15, 16, 17, 63, 64, 65, 255, 256, 257] {
        for _ in 0..3 {
            let word = Random(length).text(&letters, length as usize);
            check(&format!("{word} {word}\n{word}"));
        }
    }
}

#[test]
fn more_words_than_the_cache_holds() {
    let alphabet: Vec<char> = "abcdefghijklmnopqrstuvwxyz".chars().collect();
    let mut random = Random(8);
    let mut text = String::new();
    for i in 0..120_000 {
        text.push(' ');
        text += &random.text(&alphabet, 3 + i % 30);
    }
    check(&text);
    check(&text);
}

#[test]
fn threads_and_tokenizers_do_not_disturb_each_other() {
    let (ours, library) = &*BOTH;
    let other = train_ours(&sources()[..2], 500, &["<|endoftext|>"], 0);
    let text = sources().concat();
    let (expected, expected_other) =
        (encode_library(library, &text), encode_library(&as_library(&other), &text));
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..3 {
                    assert_eq!(encode(ours, &text), expected);
                    assert_eq!(encode(&other.clone(), &text), expected_other);
                }
            });
        }
    });
}

#[test]
fn files_of_the_library_with_every_setting() {
    let mut texts = sources();
    texts.truncate(6);
    let mut library = train_library(&texts, 700, &["<|endoftext|>"], 0);
    let mask = AddedToken::from("<mask>", true).lstrip(true);
    let pad = AddedToken::from("<pad>", true).rstrip(true);
    let plain =
        [AddedToken::from("fn main", false), AddedToken::from("  ", false), AddedToken::from("let", false)];
    library.add_special_tokens([mask, pad]).expect("added");
    library.add_tokens(plain).expect("added");
    let json: serde_json::Value =
        serde_json::from_str(&library.to_string(false).expect("JSON")).expect("JSON");
    let mut random = Random(9);
    let parts =
        ["<mask>", "<pad>", " ", "  ", "\n", "fn", " main", "fn main", "let", "outlet", "mask>", "é", "pub "];
    let texts: Vec<String> =
        (0..400).map(|_| (0..random.below(15)).map(|_| parts[random.below(parts.len())]).collect()).collect();
    for (prefix, ignore) in [(false, false), (true, false), (false, true), (true, true)] {
        let mut json = json.clone();
        json["pre_tokenizer"]["add_prefix_space"] = prefix.into();
        json["model"]["ignore_merges"] = ignore.into();
        if ignore {
            // Without its merge, "pub" is a token that only `ignore_merges` can give.
            let merges = json["model"]["merges"].as_array_mut().expect("a list");
            merges.truncate(200);
        }
        let library: tokenizers::Tokenizer = serde_json::from_value(json).expect("the library loads it");
        let ours = as_ours(&library);
        let again = as_ours(&as_library(&ours));
        assert_eq!(ours.fingerprint(), again.fingerprint());
        assert_eq!(ours.vocab_size(), library.get_vocab_size(true));
        for text in &texts {
            let ids = encode(&ours, text);
            assert_eq!(ids, encode_library(&library, text), "{text:?}, prefix {prefix}, ignore {ignore}");
            assert_eq!(ids, encode(&again, text));
        }
    }
}

#[test]
fn decoding_equals_the_library_and_streams() {
    let (ours, library) = &*BOTH;
    let mut random = Random(10);
    for _ in 0..300 {
        let ids: Vec<u32> = (0..random.below(40)).map(|_| random.below(ours.vocab_size()) as u32).collect();
        for skip_special in [false, true] {
            let text = ours.decode_lossy(&ids, skip_special);
            assert_eq!(text, library.decode(&ids, skip_special).expect("decoded"));
            let mut stream = StreamDecoder::new().skip_special(skip_special);
            let mut pieces: String = ids.iter().map(|&id| stream.push(ours, id)).collect();
            pieces += &stream.finish();
            assert_eq!(pieces, text);
        }
    }
    let mut stream = StreamDecoder::new();
    let mut ids = Vec::new();
    ours.encode_ordinary("\u{10abcd}", &mut ids).expect("encoded");
    assert!(ids.len() > 1, "a character of several tokens");
    let (last, first) = ids.split_last().expect("not empty");
    assert!(first.iter().all(|&id| stream.push(ours, id).is_empty()));
    assert_eq!(stream.push(ours, *last), "\u{10abcd}");
    assert_eq!(stream.finish(), "");
}

#[test]
fn looking_up_tokens() {
    let (ours, library) = &*BOTH;
    assert_eq!(ours.end_of_text(), Some(0));
    assert_eq!(ours.token_to_id("日本"), Some(3));
    for token in ["Ġlet", "Ċ", "!", "<fim_prefix>", "日", "Ġno such token", ""] {
        assert_eq!(ours.token_to_id(token), library.token_to_id(token), "{token:?}");
    }
    assert_eq!(
        ours.token_bytes(ours.token_to_id("Ġlet").expect("a token")),
        Some(std::borrow::Cow::Borrowed(&b" let"[..]))
    );
    assert!(ours.is_special(3) && !ours.is_special(4) && !ours.is_special(u32::MAX));
    let mut bytes = b"before".to_vec();
    let error = ours.decode(&[5, 3000], &mut bytes).expect_err("unknown");
    assert_eq!(error.to_string(), "id 3000 at position 1 is no token: the vocabulary has 3000 (0 to 2999)");
    assert_eq!(bytes, b"before");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn any_string(text in any::<String>()) {
        check(&text);
    }

    #[test]
    fn any_code(text in r#"([ \t\n]{0,9}|[a-z_]{1,20}|'(s|ll|re)|[0-9]{1,4}|[-+*/(){}<>"']{1,3}|\PC|\s){0,40}"#) {
        check(&text);
    }
}
