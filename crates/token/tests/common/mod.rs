//! What the tests against the `tokenizers` crate share: its trainer, its view of our files, and texts of every kind.
#![expect(dead_code, reason = "each test file uses its part")]

pub(crate) mod kinds;

use eyas_token::{Error, TrainOptions, WordCounts, train};
use std::path::Path;
use tokenizers::decoders::byte_level::ByteLevel as ByteLevelDecoder;
use tokenizers::models::TrainerWrapper;
use tokenizers::models::bpe::{BPE, BpeTrainerBuilder};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::{AddedToken, Tokenizer};

/// What the library's trainer makes of `texts`.
pub(crate) fn train_library(
    texts: &[String],
    vocab_size: usize,
    special: &[&str],
    min_frequency: u64,
) -> Tokenizer {
    let mut tokenizer = Tokenizer::new(BPE::default());
    tokenizer.with_pre_tokenizer(Some(ByteLevel::new(false, true, true)));
    tokenizer.with_decoder(Some(ByteLevelDecoder::new(true, true, true)));
    tokenizer.with_post_processor(Some(ByteLevel::new(true, false, true)));
    let trainer = BpeTrainerBuilder::new()
        .vocab_size(vocab_size)
        .min_frequency(min_frequency)
        .show_progress(false)
        .special_tokens(special.iter().map(|&token| AddedToken::from(token, true)).collect())
        .initial_alphabet(ByteLevel::alphabet().into_iter().collect())
        .build();
    tokenizer.train(&mut TrainerWrapper::from(trainer), texts.iter()).expect("the library trains");
    tokenizer
}

/// What ours makes of them.
pub(crate) fn train_ours(
    texts: &[String],
    vocab_size: usize,
    special: &[&str],
    min_frequency: u64,
) -> eyas_token::Tokenizer {
    let mut counts = WordCounts::new();
    for text in texts {
        counts.add(text);
    }
    let special_tokens = special.iter().map(|token| token.to_string()).collect();
    train(
        counts,
        &TrainOptions { vocab_size, special_tokens, min_frequency, ..TrainOptions::default() },
        &mut |_, _| {},
    )
    .expect("ours trains")
}

/// Our tokenizer as the library loads it from our files.
pub(crate) fn as_library(ours: &eyas_token::Tokenizer) -> Tokenizer {
    let folder = tempfile::tempdir().expect("a temporary folder");
    ours.save(folder.path()).expect("saved");
    Tokenizer::from_file(folder.path().join("tokenizer.json")).expect("the library loads our file")
}

/// The library's tokenizer as we load it from its file.
pub(crate) fn as_ours(library: &Tokenizer) -> eyas_token::Tokenizer {
    let folder = tempfile::tempdir().expect("a temporary folder");
    library.save(folder.path().join("tokenizer.json"), true).expect("saved");
    eyas_token::Tokenizer::load(folder.path()).expect("we load its file")
}

/// What we make of a tokenizer.json.
pub(crate) fn load(json: &serde_json::Value) -> Result<eyas_token::Tokenizer, Error> {
    load_bytes(json.to_string().as_bytes())
}

/// What we make of these bytes as a tokenizer.json.
pub(crate) fn load_bytes(json: &[u8]) -> Result<eyas_token::Tokenizer, Error> {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("tokenizer.json");
    std::fs::write(&path, json).expect("written");
    eyas_token::Tokenizer::load(&path)
}

/// The tokenizer.json that ours writes.
pub(crate) fn our_json(ours: &eyas_token::Tokenizer) -> String {
    let folder = tempfile::tempdir().expect("a temporary folder");
    ours.save(folder.path()).expect("saved");
    std::fs::read_to_string(folder.path().join("tokenizer.json")).expect("tokenizer.json")
}

/// Ids by ours.
pub(crate) fn encode(tokenizer: &eyas_token::Tokenizer, text: &str) -> Vec<u32> {
    let mut ids = Vec::new();
    tokenizer.encode(text, &mut ids).expect("encoded");
    ids
}

/// Ids by the library.
pub(crate) fn encode_library(tokenizer: &Tokenizer, text: &str) -> Vec<u32> {
    tokenizer.encode_fast(text, false).expect("the library encodes").get_ids().to_vec()
}

/// All Rust sources of this crate, one text a file.
pub(crate) fn sources() -> Vec<String> {
    let mut texts = Vec::new();
    for folder in ["src", "tests", "tests/common"] {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
        for entry in std::fs::read_dir(folder).expect("a folder of sources") {
            let path = entry.expect("an entry").path();
            if path.extension().is_some_and(|extension| extension == "rs") {
                texts.push(std::fs::read_to_string(path).expect("a source file"));
            }
        }
    }
    texts.sort();
    texts
}

/// A small generator of test data; not for anything else.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    /// A number below `bound`.
    pub(crate) fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        (((mixed ^ (mixed >> 31)) >> 16) % bound as u64) as usize
    }

    /// So many characters of `alphabet`.
    pub(crate) fn text(&mut self, alphabet: &[char], length: usize) -> String {
        (0..length).map(|_| alphabet[self.below(alphabet.len())]).collect()
    }
}
