//! Tokenizers that have no fast path: Unigram, WordPiece, WordLevel, BPE with other rules or other expressions.
//!
//! Model, normalizers, pre-tokenizers, decoders and added tokens are the `tokenizers` library's, put together here as
//! its own `Tokenizer` does, for three things that one does not give: errors in the place of wrong ids, text in which
//! added tokens are text, and no panic.

use crate::alphabet;
use crate::error::Error;
use crate::file::{File, get, kind, shorten};
use crate::guard::guarded;
use crate::normalizer::{Normalizer, Watched};
use crate::parts::build;
use crate::pipeline::{Decoder, PreTokenizer};
use crate::tokenizer::Token;
use serde_json::{Map, Value};
use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use tokenizers::tokenizer::OffsetType;
use tokenizers::{AddedToken, AddedVocabulary, Model, ModelWrapper};

/// A vocabulary may leave out this many ids, and as many as it has: what is made of the largest id stays small.
const MOST_GAPS: u64 = 1 << 16;

/// A tokenizer that the library runs.
pub(crate) struct Library {
    model: ModelWrapper,
    normalizer: Option<Normalizer>,
    pre_tokenizer: PreTokenizer,
    decoder: Decoder,
    added: AddedVocabulary,
    /// Without added tokens, for ordinary text.
    none_added: AddedVocabulary,
    tokens: HashMap<u32, Entry>,
    pub(crate) vocab_size: usize,
    /// Whether bytes are spelled as GPT-2 spells them, so that a token is bytes whatever stands beside it.
    is_byte_level: bool,
    /// BLAKE3 of the fields that decide ids and text.
    pub(crate) fingerprint: [u8; 32],
    /// Why there is no fast path.
    pub(crate) reason: String,
}

struct Entry {
    spelling: String,
    /// What it stands for where bytes are spelled.
    bytes: Box<[u8]>,
    special: bool,
}

impl Library {
    /// Reads a tokenizer.json, whose `reason` is why it has no fast path.
    ///
    /// # Errors
    /// [`Error::Invalid`], [`Error::Unsupported`].
    pub(crate) fn read(file: File<'_>, root: &Map<String, Value>, reason: String) -> Result<Self, Error> {
        let fingerprint = fingerprint(root);
        let vocabulary = check_model(file, get(root, "model"))?;
        let decoder = get(root, "decoder");
        let is_byte_level = kind(decoder) == Some("ByteLevel");
        let decoder = Decoder::read(file, decoder)?;
        let normalizer = Normalizer::read(file, get(root, "normalizer"))?;
        let pre_tokenizer = PreTokenizer::read(file, get(root, "pre_tokenizer"))?;
        let model: ModelWrapper = build(file, "model", get(root, "model").clone())?;
        let added = added_tokens(file, get(root, "added_tokens"))?;
        let vocab_size = check_ids(file, &vocabulary, &added, &model)?;
        let mut library = Self {
            model,
            normalizer,
            pre_tokenizer,
            decoder,
            added: AddedVocabulary::new(),
            none_added: AddedVocabulary::new(),
            tokens: HashMap::new(),
            vocab_size,
            is_byte_level,
            fingerprint,
            reason,
        };
        library.add(file, added)?;
        library.list_tokens(vocabulary);
        Ok(library)
    }

    fn add(&mut self, file: File<'_>, added: Vec<(u32, AddedToken)>) -> Result<(), Error> {
        let added = guarded("add tokens", || {
            let (watched, mut vocabulary) = (self.watched(), AddedVocabulary::new());
            vocabulary.add_tokens(
                added.into_iter().map(|(_, token)| token),
                &self.model,
                watched.as_ref(),
            )?;
            Watched::check(watched)?;
            Ok(vocabulary)
        });
        self.added = added.map_err(|error| file.invalid("added_tokens", error.to_string()))?;
        Ok(())
    }

    /// Every token by its id; an added one takes the place of an equal one of the vocabulary.
    fn list_tokens(&mut self, vocabulary: Vec<(String, u32)>) {
        for (spelling, id) in vocabulary {
            let bytes = Token::new(&spelling).bytes().into();
            // By its text, as the library has it: a Unigram vocabulary may list a token twice.
            let special = self.added.is_special_token(&spelling);
            self.tokens.insert(id, Entry { spelling, bytes, special });
        }
        for (&id, token) in self.added.get_added_tokens_decoder() {
            let spelling = self.added.simple_id_to_token(id).unwrap_or_else(|| token.content.clone());
            let bytes = spelling.as_bytes().into();
            self.tokens.insert(id, Entry { spelling, bytes, special: token.special });
        }
    }

    fn watched(&self) -> Option<Watched<'_>> {
        self.normalizer.as_ref().map(Watched::new)
    }

    /// Appends the ids of `text`; added tokens in it are text if it is `ordinary`.
    pub(crate) fn encode(&self, text: &str, ordinary: bool, ids: &mut Vec<u32>) -> Result<(), Error> {
        guarded("encode text", || {
            let watched = self.watched();
            let added = if ordinary { &self.none_added } else { &self.added };
            let mut words = added.extract_and_normalize(watched.as_ref(), text);
            Watched::check(watched)?;
            self.pre_tokenizer.apply(&mut words)?;
            self.model.tokenize_in_pretokenized(&mut words, None)?;
            ids.extend_from_slice(words.into_encoding(None, 0, OffsetType::None)?.get_ids());
            Ok(())
        })
    }

    /// The text of known ids.
    pub(crate) fn decode(&self, ids: impl Iterator<Item = u32>) -> Result<String, Error> {
        let tokens = ids.filter_map(|id| Some(self.tokens.get(&id)?.spelling.clone())).collect();
        guarded("decode ids", || self.decoder.decode(tokens))
    }

    pub(crate) fn is_byte_level(&self) -> bool {
        self.is_byte_level
    }

    pub(crate) fn has(&self, id: u32) -> bool {
        self.tokens.contains_key(&id)
    }

    /// What a token adds to a text: its bytes, or what the decoder makes of two that it does not make of one.
    pub(crate) fn bytes(&self, id: u32) -> Option<Cow<'_, [u8]>> {
        let entry = self.tokens.get(&id)?;
        if self.is_byte_level {
            return Some(Cow::Borrowed(&entry.bytes));
        }
        if self.decoder.has_byte_fallback
            && let Some(byte) = fallback_byte(&entry.spelling)
        {
            return Some(Cow::Owned(vec![byte]));
        }
        let (one, two) = (self.decode([id].into_iter()).ok()?, self.decode([id, id].into_iter()).ok()?);
        Some(Cow::Owned(two.strip_prefix(&one).unwrap_or(&one).into()))
    }

    /// Whether the next token may change this one's text: bytes that together are not UTF-8 are U+FFFD each.
    pub(crate) fn may_change(&self, id: u32) -> bool {
        let entry = self.tokens.get(&id).filter(|_| self.decoder.has_byte_fallback);
        entry.is_some_and(|entry| fallback_byte(&entry.spelling).is_some())
    }

    pub(crate) fn is_special(&self, id: u32) -> bool {
        self.tokens.get(&id).is_some_and(|entry| entry.special)
    }

    pub(crate) fn token_to_id(&self, token: &str) -> Option<u32> {
        self.added.token_to_id(token, &self.model)
    }

    pub(crate) fn added_id(&self, content: &str) -> Option<u32> {
        self.added.get_vocab().get(content).copied()
    }

    /// The token of a byte by itself.
    pub(crate) fn byte_id(&self, byte: u8) -> Option<u32> {
        self.model.token_to_id(&alphabet::spell(&[byte])).filter(|_| self.is_byte_level)
    }
}

/// `<0x0A>`
fn fallback_byte(spelling: &str) -> Option<u8> {
    let digits = spelling.strip_prefix("<0x")?.strip_suffix('>').filter(|digits| digits.len() == 2)?;
    u8::from_str_radix(digits, 16).ok()
}

fn fingerprint(root: &Map<String, Value>) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new_derive_key("eyas tokenizer fingerprint 1, library");
    for field in ["added_tokens", "normalizer", "pre_tokenizer", "decoder", "model"] {
        let text = get(root, field).to_string();
        hasher.update(&(text.len() as u64).to_le_bytes()).update(text.as_bytes());
    }
    *hasher.finalize().as_bytes()
}

/// The vocabulary of a model, and no setting that makes its code panic or its ids random.
fn check_model(file: File<'_>, model: &Value) -> Result<Vec<(String, u32)>, Error> {
    let object = file.object("model", model)?;
    let vocabulary = get(object, "vocab");
    if let Value::Array(list) = vocabulary {
        return unigram_vocabulary(file, list);
    }
    let mut entries = Vec::with_capacity(file.object("model.vocab", vocabulary)?.len());
    for (token, id) in file.object("model.vocab", vocabulary)? {
        let number = id.as_u64().and_then(|id| u32::try_from(id).ok());
        let problem = || format!("expected an id, found {}", shorten(id));
        let field = || format!("model.vocab[{}]", shorten(&token[..].into()));
        entries.push((token.clone(), number.ok_or_else(|| file.invalid(field(), problem()))?));
    }
    if let prefix @ Value::String(_) = get(object, "continuing_subword_prefix") {
        check_prefix(file, prefix.as_str().unwrap_or_default(), get(object, "merges"))?;
    }
    Ok(entries)
}

fn unigram_vocabulary(file: File<'_>, list: &[Value]) -> Result<Vec<(String, u32)>, Error> {
    let mut entries = Vec::with_capacity(list.len());
    for (id, entry) in list.iter().enumerate() {
        match entry.as_array().map(Vec::as_slice) {
            Some([Value::String(token), Value::Number(_)]) => entries.push((token.clone(), id as u32)),
            _ => {
                let problem = format!("expected a token and its score, found {}", shorten(entry));
                return Err(file.invalid(format!("model.vocab[{id}]"), problem));
            }
        }
    }
    Ok(entries)
}

/// The library cuts as many bytes as the prefix has from the right side of every merge, whatever they are.
fn check_prefix(file: File<'_>, prefix: &str, merges: &Value) -> Result<(), Error> {
    for (i, merge) in merges.as_array().into_iter().flatten().enumerate() {
        let right = match merge {
            Value::String(line) if line.starts_with("#version") => continue,
            Value::String(line) => line.split_once(' ').map(|(_, right)| right),
            merge => merge[1].as_str(),
        };
        if !right.is_some_and(|right| right.starts_with(prefix)) {
            let problem =
                format!("expected a right side that starts with {prefix:?}, found {}", shorten(merge));
            return Err(file.invalid(format!("model.merges[{i}]"), problem));
        }
    }
    Ok(())
}

fn added_tokens(file: File<'_>, json: &Value) -> Result<Vec<(u32, AddedToken)>, Error> {
    let mut tokens = Vec::new();
    let list = if json.is_null() { &[] } else { file.list("added_tokens", json)? };
    for (i, token) in list.iter().enumerate() {
        let field = format!("added_tokens[{i}]");
        let object = file.object(&field, token)?;
        let id = get(object, "id").as_u64().and_then(|id| u32::try_from(id).ok());
        let problem = || format!("expected an id, found {}", shorten(get(object, "id")));
        let id = id.ok_or_else(|| file.invalid(format!("{field}.id"), problem()))?;
        tokens.push((id, build(file, &field, token.clone())?));
    }
    Ok(tokens)
}

/// Ids are each one token's and the library's, and few are left out. Returns the largest plus one.
fn check_ids(
    file: File<'_>,
    vocabulary: &[(String, u32)],
    added: &[(u32, AddedToken)],
    model: &ModelWrapper,
) -> Result<usize, Error> {
    let limit = 2 * (vocabulary.len() + added.len()) as u64 + MOST_GAPS;
    let check = |field: String, id: u32| match u64::from(id) < limit {
        true => Ok(id as usize + 1),
        false => {
            Err(file.invalid(field, format!("id {id} is too large for a vocabulary of {}", vocabulary.len())))
        }
    };
    let (mut vocab_size, mut seen) = (0, HashMap::with_capacity(vocabulary.len()));
    for (token, id) in vocabulary {
        let field = || format!("model.vocab[{}]", shorten(&token[..].into()));
        vocab_size = vocab_size.max(check(field(), *id)?);
        if let Some(other) = seen.insert(*id, token) {
            let other = shorten(&other[..].into());
            return Err(file.invalid(field(), format!("id {id} is also that of {other}")));
        }
    }
    // As the library gives them: the vocabulary's, else one after the other.
    let (mut next_id, mut contents) = (model.get_vocab_size() as u32, HashSet::new());
    for (i, (id, token)) in added.iter().enumerate() {
        let field = |name: &str| format!("added_tokens[{i}].{name}");
        let content = shorten(&token.content[..].into());
        if token.content.is_empty() {
            return Err(file.invalid(field("content"), "expected a string that is not empty"));
        }
        if !contents.insert(&token.content) {
            return Err(file.invalid(field("content"), format!("{content} was added before")));
        }
        let expected = model.token_to_id(&token.content).unwrap_or_else(|| {
            next_id += 1;
            next_id - 1
        });
        if *id != expected {
            let problem = format!("expected {expected}, the id that the library gives {content}, found {id}");
            return Err(file.invalid(field("id"), problem));
        }
        if let Some(other) = seen.insert(*id, &token.content).filter(|&other| *other != token.content) {
            return Err(
                file.invalid(field("id"), format!("{id} is also that of {}", shorten(&other[..].into())))
            );
        }
        vocab_size = vocab_size.max(check(field("id"), *id)?);
    }
    Ok(vocab_size)
}
