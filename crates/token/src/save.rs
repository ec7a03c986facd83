//! Writes the three files of a Hugging Face tokenizer folder, each visible only when it is whole.
//!
//! tokenizer.json is byte for byte what the `tokenizers` library writes for the same tokenizer, with GPT-2's
//! post-processor. The other two tell transformers what the special tokens are for.

use crate::error::Error;
use crate::tokenizer::{END_OF_TEXT, Tokenizer};
use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};

/// What transformers writes for "no limit": `int(1e30)`.
const NO_LIMIT: u128 = 1_000_000_000_000_000_019_884_624_838_656;

#[derive(Serialize)]
struct TokenizerJson<'t> {
    version: &'static str,
    truncation: (),
    padding: (),
    added_tokens: Vec<AddedTokenJson<'t>>,
    normalizer: (),
    pre_tokenizer: ByteLevel,
    post_processor: ByteLevel,
    decoder: ByteLevel,
    model: Model<'t>,
}

#[derive(Serialize)]
struct AddedTokenJson<'t> {
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<u32>,
    content: &'t str,
    single_word: bool,
    lstrip: bool,
    rstrip: bool,
    normalized: bool,
    special: bool,
}

#[derive(Serialize)]
struct ByteLevel {
    r#type: &'static str,
    add_prefix_space: bool,
    trim_offsets: bool,
    use_regex: bool,
}

#[derive(Serialize)]
struct Model<'t> {
    r#type: &'static str,
    dropout: (),
    unk_token: (),
    continuing_subword_prefix: (),
    end_of_word_suffix: (),
    fuse_unk: bool,
    byte_fallback: bool,
    ignore_merges: bool,
    vocab: Vocab<'t>,
    merges: Vec<[String; 2]>,
}

/// The vocabulary as a map in the order of the ids.
struct Vocab<'t>(&'t Tokenizer);

impl Serialize for Vocab<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let tokens = &self.0.inner.tokens;
        let mut map = serializer.serialize_map(Some(tokens.len()))?;
        for (id, token) in tokens.iter().enumerate() {
            map.serialize_entry(&token.spelling(), &id)?;
        }
        map.end()
    }
}

#[derive(Serialize)]
struct ConfigJson<'t> {
    add_prefix_space: bool,
    added_tokens_decoder: AddedTokensDecoder<'t>,
    #[serde(flatten)]
    special: SpecialTokens,
    clean_up_tokenization_spaces: bool,
    model_max_length: u128,
    tokenizer_class: &'static str,
}

#[derive(Serialize, Clone, Copy)]
struct SpecialTokens {
    #[serde(skip_serializing_if = "Option::is_none")]
    bos_token: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    eos_token: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    unk_token: Option<&'static str>,
}

/// The added tokens as a map from their ids.
struct AddedTokensDecoder<'t>(Vec<(u32, AddedTokenJson<'t>)>);

impl Serialize for AddedTokensDecoder<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(id, token)| (id, token)))
    }
}

impl Tokenizer {
    /// Writes tokenizer.json, tokenizer_config.json and special_tokens_map.json into `dir`, which is made if need be.
    ///
    /// # Errors
    /// [`Error::Write`]; files that were there before are then still whole.
    pub fn save(&self, dir: &Path) -> Result<(), Error> {
        fs::create_dir_all(dir).map_err(|source| Error::Write { path: dir.into(), source })?;
        let name = self.end_of_text().map(|_| END_OF_TEXT);
        let special = SpecialTokens { bos_token: name, eos_token: name, unk_token: name };
        let config = ConfigJson {
            add_prefix_space: self.inner.splitter.add_prefix_space,
            added_tokens_decoder: AddedTokensDecoder(
                self.added_tokens()
                    .map(|token| (token.id.unwrap_or(0), AddedTokenJson { id: None, ..token }))
                    .collect(),
            ),
            special,
            clean_up_tokenization_spaces: false,
            model_max_length: NO_LIMIT,
            tokenizer_class: "PreTrainedTokenizerFast",
        };
        write_json(dir, "tokenizer.json", &self.tokenizer_json())?;
        write_json(dir, "tokenizer_config.json", &config)?;
        write_json(dir, "special_tokens_map.json", &special)?;
        // The folder's own entry table, so that the names survive a power cut as the contents do.
        File::open(dir)
            .and_then(|folder| folder.sync_all())
            .map_err(|source| Error::Write { path: dir.into(), source })
    }

    fn added_tokens(&self) -> impl Iterator<Item = AddedTokenJson<'_>> {
        self.inner.added.tokens().iter().map(|token| AddedTokenJson {
            id: Some(token.id),
            content: &token.content,
            single_word: false,
            lstrip: token.lstrip,
            rstrip: token.rstrip,
            normalized: token.normalized,
            special: token.special,
        })
    }

    fn tokenizer_json(&self) -> TokenizerJson<'_> {
        let byte_level = |add_prefix_space, trim_offsets| ByteLevel {
            r#type: "ByteLevel",
            add_prefix_space,
            trim_offsets,
            use_regex: true,
        };
        let spelling = |id: u32| self.inner.tokens[id as usize].spelling();
        let merges = self.inner.merges.iter().map(|&(left, right, _)| [spelling(left), spelling(right)]);
        TokenizerJson {
            version: "1.0",
            truncation: (),
            padding: (),
            added_tokens: self.added_tokens().collect(),
            normalizer: (),
            pre_tokenizer: byte_level(self.inner.splitter.add_prefix_space, true),
            post_processor: byte_level(true, false),
            decoder: byte_level(true, true),
            model: Model {
                r#type: "BPE",
                dropout: (),
                unk_token: (),
                continuing_subword_prefix: (),
                end_of_word_suffix: (),
                fuse_unk: false,
                byte_fallback: false,
                ignore_merges: self.inner.ignore_merges,
                vocab: Vocab(self),
                merges: merges.collect(),
            },
        }
    }
}

/// Writes `dir/name` under another name, makes it durable, and only then gives it its own.
fn write_json(dir: &Path, name: &str, value: &impl Serialize) -> Result<(), Error> {
    static COUNTER: AtomicU32 = AtomicU32::new(0);
    let path = dir.join(name);
    let number = COUNTER.fetch_add(1, Ordering::Relaxed);
    let partial = dir.join(format!(".{name}.{}-{number}.partial", std::process::id()));
    let write = || -> io::Result<()> {
        let text = serde_json::to_string_pretty(value)?;
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).open(&partial)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&partial, &path)
    };
    write().map_err(|source| {
        // Removing the partial file is a courtesy; the error that matters is the first.
        let _ = fs::remove_file(&partial);
        Error::Write { path: path.clone(), source }
    })
}
