//! Tokenizers of every kind, trained by the library on the sources here, with the settings of files that are in use.

use super::sources;
use serde_json::{Value, json};
use std::sync::LazyLock;
use tokenizers::models::TrainerWrapper;
use tokenizers::models::bpe::{BPE, BpeTrainerBuilder};
use tokenizers::models::unigram::{Unigram, UnigramTrainerBuilder};
use tokenizers::models::wordlevel::{WordLevel, WordLevelTrainerBuilder};
use tokenizers::models::wordpiece::{WordPiece, WordPieceTrainerBuilder};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::{AddedToken, ModelWrapper, Tokenizer};

/// What GPT-4o cuts words by.
const O200K: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// A tokenizer.json of one kind.
pub(crate) struct Kind {
    pub(crate) name: &'static str,
    pub(crate) json: Value,
    /// Whether it has a fast path here.
    pub(crate) is_fast: bool,
}

impl Kind {
    pub(crate) fn library(&self) -> Tokenizer {
        serde_json::from_value(self.json.clone()).expect("the library loads what it wrote")
    }

    pub(crate) fn ours(&self) -> eyas_token::Tokenizer {
        let ours = super::load(&self.json).expect(self.name);
        assert_eq!(ours.slow_reason().is_none(), self.is_fast, "{}: {ours:?}", self.name);
        ours
    }
}

/// All of them.
pub(crate) static KINDS: LazyLock<Vec<Kind>> = LazyLock::new(|| {
    let byte_level = |prefix: bool, regex: bool| json!({"type": "ByteLevel", "add_prefix_space": prefix, "trim_offsets": true, "use_regex": regex});
    let split = |pattern: &str, behavior: &str, invert: bool| json!({"type": "Split", "pattern": {"Regex": pattern}, "behavior": behavior, "invert": invert});
    let sequence = |parts: &[Value]| json!({"type": "Sequence", "pretokenizers": parts});
    let pattern = |pattern: eyas_token::Pattern| {
        sequence(&[split(pattern.regex(), "Isolated", false), byte_level(false, false)])
    };
    let metaspace =
        json!({"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": true});
    let decoder = byte_level(true, true);
    let replace =
        |pattern: Value, content: &str| json!({"type": "Replace", "pattern": pattern, "content": content});
    let normalizers = |parts: &[Value]| json!({"type": "Sequence", "normalizers": parts});
    let bpe = || BPE::default().into();
    let mut kinds = vec![
        kind("GPT-2", bpe(), json!(null), byte_level(false, true), decoder.clone()),
        kind("RoBERTa", bpe(), json!(null), byte_level(true, true), decoder.clone()),
        kind(
            "StarCoder",
            bpe(),
            json!(null),
            sequence(&[json!({"type": "Digits", "individual_digits": true}), byte_level(false, true)]),
            decoder.clone(),
        ),
        kind("Llama 3", bpe(), json!(null), pattern(eyas_token::Pattern::Llama3), decoder.clone()),
        kind("Qwen 2", bpe(), json!({"type": "NFC"}), pattern(eyas_token::Pattern::Qwen2), decoder.clone()),
        kind(
            "lower case",
            bpe(),
            normalizers(&[json!({"type": "NFKC"}), json!({"type": "Lowercase"})]),
            byte_level(false, true),
            decoder.clone(),
        ),
        kind(
            "GPT-4o",
            bpe(),
            json!(null),
            sequence(&[split(O200K, "Isolated", false), byte_level(false, false)]),
            decoder.clone(),
        ),
        kind(
            "DeepSeek",
            bpe(),
            normalizers(&[]),
            sequence(&[
                split(r"\p{N}{1,3}", "Isolated", false),
                split("[一-龥぀-ゟ゠-ヿ]+", "Isolated", false),
                split(
                    r"[!-~]?[A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
                    "Isolated",
                    false,
                ),
                byte_level(false, false),
            ]),
            decoder,
        ),
        kind(
            "T5",
            Unigram::default().into(),
            normalizers(&[json!({"type": "NFKC"}), replace(json!({"Regex": " {2,}"}), " ")]),
            metaspace.clone(),
            metaspace.clone(),
        ),
        kind(
            "BERT",
            WordPiece::builder().unk_token("[UNK]".into()).build().expect("WordPiece").into(),
            json!({"type": "BertNormalizer", "clean_text": true, "handle_chinese_chars": true, "strip_accents": null, "lowercase": true}),
            json!({"type": "BertPreTokenizer"}),
            json!({"type": "WordPiece", "prefix": "##", "cleanup": false}),
        ),
        kind(
            "words",
            WordLevel::builder().unk_token("[UNK]".into()).build().expect("WordLevel").into(),
            json!(null),
            json!({"type": "Whitespace"}),
            json!(null),
        ),
        kind(
            "CLIP",
            BPE::builder()
                .unk_token("[UNK]".into())
                .end_of_word_suffix("</w>".into())
                .build()
                .expect("BPE")
                .into(),
            normalizers(&[
                json!({"type": "NFC"}),
                replace(json!({"Regex": r"\s+"}), " "),
                json!({"type": "Lowercase"}),
            ]),
            sequence(&[
                split(r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+", "Removed", true),
                byte_level(false, true),
            ]),
            json!({"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true}),
        ),
        kind(
            "Llama 2",
            BPE::builder()
                .unk_token("[UNK]".into())
                .fuse_unk(true)
                .byte_fallback(true)
                .build()
                .expect("BPE")
                .into(),
            normalizers(&[json!({"type": "Prepend", "prepend": "▁"}), replace(json!({"String": " "}), "▁")]),
            json!(null),
            json!({"type": "Sequence", "decoders": [replace(json!({"String": "▁"}), " "), {"type": "ByteFallback"}, {"type": "Fuse"}, {"type": "Strip", "content": " ", "start": 1, "stop": 0}]}),
        ),
    ];
    for kind in &mut kinds {
        kind.is_fast =
            ["GPT-2", "RoBERTa", "StarCoder", "Llama 3", "Qwen 2", "lower case"].contains(&kind.name);
        if kind.name == "Llama 3" {
            kind.json["model"]["ignore_merges"] = true.into();
        }
    }
    kinds
});

fn kind(
    name: &'static str,
    model: ModelWrapper,
    normalizer: Value,
    pre_tokenizer: Value,
    decoder: Value,
) -> Kind {
    let special = |texts: &[&str]| texts.iter().map(|&text| AddedToken::from(text, true)).collect::<Vec<_>>();
    let is_byte_level = decoder["type"] == "ByteLevel";
    let trainer: TrainerWrapper = match &model {
        ModelWrapper::BPE(_) => {
            let mut trainer = BpeTrainerBuilder::new().vocab_size(700).show_progress(false);
            let mut tokens = special(&["<|endoftext|>", "[UNK]"]);
            if is_byte_level {
                trainer = trainer.initial_alphabet(ByteLevel::alphabet().into_iter().collect());
            } else {
                tokens.extend((0..=255).map(|byte| AddedToken::from(format!("<0x{byte:02X}>"), true)));
                trainer = trainer.max_token_length(Some(12));
            }
            trainer.special_tokens(tokens).build().into()
        }
        ModelWrapper::WordPiece(_) => WordPieceTrainerBuilder::new()
            .vocab_size(500)
            .show_progress(false)
            .special_tokens(special(&["[UNK]", "<|endoftext|>"]))
            .build()
            .into(),
        ModelWrapper::WordLevel(_) => WordLevelTrainerBuilder::default()
            .vocab_size(500)
            .show_progress(false)
            .special_tokens(special(&["[UNK]", "<|endoftext|>"]))
            .build()
            .expect("a trainer")
            .into(),
        ModelWrapper::Unigram(_) => UnigramTrainerBuilder::default()
            .vocab_size(400)
            .show_progress(false)
            .unk_token(Some("[UNK]".into()))
            .special_tokens(special(&["[UNK]", "<|endoftext|>"]))
            .build()
            .expect("a trainer")
            .into(),
    };
    let mut tokenizer = Tokenizer::new(model);
    let part = |json: &Value| (!json.is_null()).then(|| json.clone());
    tokenizer
        .with_normalizer(
            part(&normalizer).map(|json| {
                serde_json::from_value::<tokenizers::NormalizerWrapper>(json).expect("a normalizer")
            }),
        )
        .expect("set");
    tokenizer.with_pre_tokenizer(part(&pre_tokenizer).map(|json| {
        serde_json::from_value::<tokenizers::PreTokenizerWrapper>(json).expect("a pre-tokenizer")
    }));
    tokenizer.with_decoder(
        part(&decoder)
            .map(|json| serde_json::from_value::<tokenizers::DecoderWrapper>(json).expect("a decoder")),
    );
    let mut trainer = trainer;
    let texts: Vec<String> = sources()
        .iter()
        .flat_map(|text| text.split_inclusive('\n').map(String::from).collect::<Vec<_>>())
        .take(1500)
        .collect();
    tokenizer.train(&mut trainer, texts.iter()).expect("the library trains");
    tokenizer.add_special_tokens([AddedToken::from("<mask>", true).lstrip(true)]).expect("added");
    let plain = [
        AddedToken::from("Fn Main", false),
        AddedToken::from("  ", false),
        AddedToken::from("<pad>", false).rstrip(true),
    ];
    tokenizer.add_tokens(plain).expect("added");
    let mut json: Value = serde_json::from_str(&tokenizer.to_string(false).expect("JSON")).expect("JSON");
    json["post_processor"] = json!({"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "<|endoftext|>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}], "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}], "special_tokens": {"<|endoftext|>": {"id": "<|endoftext|>", "ids": [0], "tokens": ["<|endoftext|>"]}}});
    Kind { name, json, is_fast: false }
}
