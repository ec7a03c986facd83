//! Writes the three files of a Hugging Face tokenizer folder, each visible only when it is whole.
//!
//! What was loaded from a tokenizer.json comes out as it came in, byte for byte. Otherwise tokenizer.json is byte for
//! byte what the `tokenizers` library writes for the same tokenizer, with GPT-2's post-processor. The other two tell
//! transformers what the special tokens are for.

use crate::error::Error;
use crate::split::Pattern;
use crate::splitter::Splitter;
use crate::tokenizer::{ByteLevel as Bpe, Engine, Token, Tokenizer};
use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};
use serde_json::Value;
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
    normalizer: Option<&'t Value>,
    pre_tokenizer: PreTokenizer,
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

/// [`Splitter`]'s, as the tokenizers have it that it is named after.
#[derive(Serialize)]
#[serde(tag = "type")]
enum PreTokenizer {
    ByteLevel { add_prefix_space: bool, trim_offsets: bool, use_regex: bool },
    Sequence { pretokenizers: Vec<PreTokenizer> },
    Digits { individual_digits: bool },
    Split { pattern: Regex, behavior: &'static str, invert: bool },
}

#[derive(Serialize)]
struct Regex {
    #[serde(rename = "Regex")]
    regex: &'static str,
}

impl PreTokenizer {
    fn of(splitter: &Splitter) -> Self {
        let first = match splitter.pattern {
            Pattern::Gpt2 => return Self::byte_level(splitter.add_prefix_space, true),
            Pattern::StarCoder => Self::Digits { individual_digits: true },
            Pattern::Llama3 | Pattern::Qwen2 => {
                let pattern = Regex { regex: splitter.pattern.regex() };
                Self::Split { pattern, behavior: "Isolated", invert: false }
            }
        };
        let second = Self::byte_level(splitter.add_prefix_space, splitter.pattern == Pattern::StarCoder);
        Self::Sequence { pretokenizers: vec![first, second] }
    }

    fn byte_level(add_prefix_space: bool, use_regex: bool) -> Self {
        Self::ByteLevel { add_prefix_space, trim_offsets: true, use_regex }
    }
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
struct Vocab<'t>(&'t [Token]);

impl Serialize for Vocab<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for (id, token) in self.0.iter().enumerate() {
            map.serialize_entry(&token.spelling(), &id)?;
        }
        map.end()
    }
}

#[derive(Serialize)]
struct ConfigJson<'t> {
    #[serde(skip_serializing_if = "Option::is_none")]
    add_prefix_space: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    added_tokens_decoder: Option<AddedTokensDecoder<'t>>,
    #[serde(flatten)]
    special: &'t SpecialTokens,
    clean_up_tokenization_spaces: bool,
    model_max_length: u128,
    tokenizer_class: &'static str,
}

#[derive(Serialize)]
struct SpecialTokens {
    #[serde(skip_serializing_if = "Option::is_none")]
    bos_token: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    eos_token: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    unk_token: Option<String>,
}

/// The added tokens as a map from their ids.
struct AddedTokensDecoder<'t>(Vec<(u32, AddedTokenJson<'t>)>);

impl Serialize for AddedTokensDecoder<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(id, token)| (id, token)))
    }
}

impl Tokenizer {
    /// Writes tokenizer.json, tokenizer_config.json and special_tokens_map.json into `dir`, which is made if need be. What
    /// was loaded from a tokenizer.json is written as it was, with those of the other two that were beside it.
    ///
    /// # Errors
    /// [`Error::Write`]; files that were there before are then still whole.
    pub fn save(&self, dir: &Path) -> Result<(), Error> {
        fs::create_dir_all(dir).map_err(|source| Error::Write { path: dir.into(), source })?;
        for (name, bytes) in self.files()? {
            write(dir, name, &bytes)?;
        }
        // The folder's own entry table, so that the names survive a power cut as the contents do.
        File::open(dir)
            .and_then(|folder| folder.sync_all())
            .map_err(|source| Error::Write { path: dir.into(), source })
    }

    /// The files that [`save`](Self::save) writes: name and content.
    ///
    /// # Errors
    /// A tokenizer that JSON cannot say.
    pub fn files(&self) -> Result<Vec<(&'static str, Vec<u8>)>, Error> {
        let mut files = self.inner.original.as_ref().map_or(Vec::new(), |original| original.files.clone());
        let num_original = files.len();
        if let (Engine::ByteLevel(bpe), 0) = (&self.inner.engine, num_original) {
            files.push(json_file("tokenizer.json", &tokenizer_json(bpe))?);
        }
        if num_original <= 1 {
            files.extend(self.companions()?);
        }
        Ok(files)
    }

    fn companions(&self) -> Result<[(&'static str, Vec<u8>); 2], Error> {
        let name = self
            .end_of_text()
            .and_then(|id| self.token_bytes(id))
            .map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
        let special = SpecialTokens { bos_token: name.clone(), eos_token: name.clone(), unk_token: name };
        let bpe = match &self.inner.engine {
            Engine::ByteLevel(bpe) => Some(bpe),
            Engine::Library(_) => None,
        };
        let config = ConfigJson {
            add_prefix_space: bpe.map(|bpe| bpe.splitter.add_prefix_space),
            added_tokens_decoder: bpe.map(|bpe| {
                let by_id = added_tokens(bpe).map(|token| {
                    let id = token.id.unwrap_or(0);
                    (id, AddedTokenJson { id: None, ..token })
                });
                AddedTokensDecoder(by_id.collect())
            }),
            special: &special,
            clean_up_tokenization_spaces: false,
            model_max_length: NO_LIMIT,
            tokenizer_class: "PreTrainedTokenizerFast",
        };
        Ok([json_file("tokenizer_config.json", &config)?, json_file("special_tokens_map.json", &special)?])
    }
}

fn added_tokens(bpe: &Bpe) -> impl Iterator<Item = AddedTokenJson<'_>> {
    bpe.added.tokens().iter().map(|token| AddedTokenJson {
        id: Some(token.id),
        content: &token.content,
        single_word: false,
        lstrip: token.lstrip,
        rstrip: token.rstrip,
        normalized: token.normalized,
        special: token.special,
    })
}

fn tokenizer_json(bpe: &Bpe) -> TokenizerJson<'_> {
    let byte_level = |trim_offsets| ByteLevel {
        r#type: "ByteLevel",
        add_prefix_space: true,
        trim_offsets,
        use_regex: true,
    };
    let spelling = |id: u32| bpe.tokens[id as usize].spelling();
    let merges = bpe.merges.iter().map(|&(left, right, _)| [spelling(left), spelling(right)]);
    TokenizerJson {
        version: "1.0",
        truncation: (),
        padding: (),
        added_tokens: added_tokens(bpe).collect(),
        normalizer: bpe.splitter.normalizer.as_ref().map(|normalizer| normalizer.json()),
        pre_tokenizer: PreTokenizer::of(&bpe.splitter),
        post_processor: byte_level(false),
        decoder: byte_level(true),
        model: Model {
            r#type: "BPE",
            dropout: (),
            unk_token: (),
            continuing_subword_prefix: (),
            end_of_word_suffix: (),
            fuse_unk: false,
            byte_fallback: false,
            ignore_merges: bpe.ignore_merges,
            vocab: Vocab(&bpe.tokens),
            merges: merges.collect(),
        },
    }
}

fn json_file(name: &'static str, value: &impl Serialize) -> Result<(&'static str, Vec<u8>), Error> {
    match serde_json::to_string_pretty(value) {
        Ok(text) => Ok((name, text.into_bytes())),
        Err(error) => Err(Error::Write { path: name.into(), source: error.into() }),
    }
}

/// Writes `dir/name` under another name, makes it durable, and only then gives it its own.
fn write(dir: &Path, name: &str, bytes: &[u8]) -> Result<(), Error> {
    static COUNTER: AtomicU32 = AtomicU32::new(0);
    let path = dir.join(name);
    let number = COUNTER.fetch_add(1, Ordering::Relaxed);
    let partial = dir.join(format!(".{name}.{}-{number}.eyas-partial", std::process::id()));
    let write = || -> io::Result<()> {
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).open(&partial)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&partial, &path)
    };
    write().map_err(|source| {
        // Removing the partial file is a courtesy; the error that matters is the first.
        let _ = fs::remove_file(&partial);
        Error::Write { path: path.clone(), source }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::alphabet;
    use crate::normalizer::Normalizer;
    use crate::tokenizer::Parts;

    #[test]
    fn every_splitter_is_written_as_the_library_writes_it() {
        let json =
            serde_json::json!({"type": "Sequence", "normalizers": [{"type": "NFC"}, {"type": "Lowercase"}]});
        let file = crate::file::File { path: Path::new("tokenizer.json") };
        let normalizer = Normalizer::read(file, &json).expect("a normalizer");
        for pattern in Pattern::ALL {
            for (normalizer, add_prefix_space) in
                [(None, false), (normalizer.clone(), pattern == Pattern::Gpt2)]
            {
                let splitter = Splitter { normalizer, add_prefix_space, pattern };
                let mut tokens: Vec<Token> =
                    alphabet::bytes_by_char().map(|byte| Token::Bytes([byte].into())).collect();
                tokens.push(Token::Bytes(b"!\"".as_slice().into()));
                let (merges, ignore_merges) = (vec![(0, 1, 256)], add_prefix_space);
                let ours =
                    Tokenizer::from_parts(Parts { tokens, merges, added: vec![], splitter, ignore_merges });
                let folder = tempfile::tempdir().expect("a folder");
                ours.save(folder.path()).expect("saved");
                let path = folder.path().join("tokenizer.json");
                let library = tokenizers::Tokenizer::from_file(&path).expect("the library loads it");
                assert_eq!(
                    fs::read_to_string(&path).expect("a file"),
                    library.to_string(true).expect("JSON")
                );
                let again = Tokenizer::load(folder.path()).expect("loads");
                assert_eq!((again.fingerprint(), again.slow_reason()), (ours.fingerprint(), None));
            }
        }
    }
}
