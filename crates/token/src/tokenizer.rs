//! Text to ids and back.
//!
//! A [`Tokenizer`] is immutable and shared; what encoding remembers between words belongs to the thread.

use crate::added::{AddedToken, AddedTokens, Piece};
use crate::alphabet;
use crate::bpe::{Bpe, Scratch};
use crate::cache::Cache;
use crate::error::Error;
use crate::split::{SPLIT_REGEX, next_word};
use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// The token that separates documents.
pub const END_OF_TEXT: &str = "<|endoftext|>";

/// A byte-level BPE tokenizer, equal id for id to the same tokenizer.json in Hugging Face `tokenizers`.
///
/// Cloning is cheap, and any number of threads may encode and decode at once.
#[derive(Clone)]
pub struct Tokenizer {
    pub(crate) inner: Arc<Inner>,
}

/// What decides the ids; `load` and `train` guarantee that it is consistent.
pub(crate) struct Parts {
    /// The model's vocabulary, by id.
    pub(crate) tokens: Vec<Token>,
    /// (left, right, joined) by rank, each pair once.
    pub(crate) merges: Vec<(u32, u32, u32)>,
    /// Sorted by id. Ids are those of equal tokens of the vocabulary, or follow it without a gap.
    pub(crate) added: Vec<AddedToken>,
    /// A space goes before every piece of text that does not start with one.
    pub(crate) add_prefix_space: bool,
    /// A word that is a token needs no merges.
    pub(crate) ignore_merges: bool,
}

/// An entry of the model's vocabulary.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Token {
    /// Spelled in the byte alphabet.
    Bytes(Box<[u8]>),
    /// Has characters that spell no byte: an added token stored in the vocabulary.
    Text(Box<str>),
}

impl Token {
    pub(crate) fn new(spelling: &str) -> Self {
        match alphabet::unspell(spelling) {
            Some(bytes) => Self::Bytes(bytes.into()),
            None => Self::Text(spelling.into()),
        }
    }

    pub(crate) fn spelling(&self) -> String {
        match self {
            Self::Bytes(bytes) => alphabet::spell(bytes),
            Self::Text(text) => text.to_string(),
        }
    }

    fn bytes(&self) -> &[u8] {
        match self {
            Self::Bytes(bytes) => bytes,
            Self::Text(text) => text.as_bytes(),
        }
    }
}

pub(crate) struct Inner {
    pub(crate) tokens: Vec<Token>,
    pub(crate) merges: Vec<(u32, u32, u32)>,
    pub(crate) added: AddedTokens,
    pub(crate) add_prefix_space: bool,
    pub(crate) ignore_merges: bool,
    bpe: Bpe,
    /// Ids of the vocabulary by spelled bytes.
    ids: HashMap<Box<[u8]>, u32>,
    /// Index into the added tokens, by id.
    added_by_id: HashMap<u32, usize>,
    vocab_size: usize,
    /// Tells this tokenizer's cached words from another's; no two in a process are equal.
    serial: u64,
}

static NEXT_SERIAL: AtomicU64 = AtomicU64::new(0);

thread_local! {
    static CACHE: RefCell<Cache> = RefCell::new(Cache::new());
}

impl Tokenizer {
    pub(crate) fn from_parts(parts: Parts) -> Self {
        let Parts { tokens, merges, added, add_prefix_space, ignore_merges } = parts;
        let mut ids = HashMap::with_capacity(tokens.len());
        let mut byte_ids = [0; 256];
        for (id, token) in tokens.iter().enumerate() {
            if let Token::Bytes(bytes) = token {
                ids.insert(bytes.clone(), id as u32);
                if let [byte] = bytes[..] {
                    byte_ids[usize::from(byte)] = id as u32;
                }
            }
        }
        let added_by_id: HashMap<u32, usize> =
            added.iter().enumerate().map(|(index, token)| (token.id, index)).collect();
        let vocab_size = added.iter().map(|token| token.id as usize + 1).fold(tokens.len(), usize::max);
        let bpe = Bpe::new(&merges, byte_ids);
        let (added, serial) = (AddedTokens::new(added), NEXT_SERIAL.fetch_add(1, Ordering::Relaxed));
        let inner = Inner {
            tokens,
            merges,
            added,
            add_prefix_space,
            ignore_merges,
            bpe,
            ids,
            added_by_id,
            vocab_size,
            serial,
        };
        Self { inner: Arc::new(inner) }
    }

    /// The largest id plus one, added tokens included.
    pub fn vocab_size(&self) -> usize {
        self.inner.vocab_size
    }

    /// Appends the ids of `text`. Added tokens in the text become their ids, as in Hugging Face `tokenizers`.
    pub fn encode(&self, text: &str, ids: &mut Vec<u32>) {
        CACHE.with_borrow_mut(|cache| {
            cache.serve(self.inner.serial);
            self.inner.added.split(text, |piece| match piece {
                Piece::Id(id) => ids.push(id),
                Piece::Text(text) => self.inner.encode_piece(text, cache, ids),
            });
        });
    }

    /// Appends the ids of `text`, in which nothing is a special or added token: `<|endoftext|>` is thirteen characters.
    pub fn encode_ordinary(&self, text: &str, ids: &mut Vec<u32>) {
        CACHE.with_borrow_mut(|cache| {
            cache.serve(self.inner.serial);
            self.inner.encode_piece(text, cache, ids);
        });
    }

    /// Appends the bytes that `ids` stand for, added tokens as their text. The bytes need not be UTF-8.
    ///
    /// # Errors
    /// [`Error::UnknownId`]; then `bytes` is as it was.
    pub fn decode(&self, ids: &[u32], bytes: &mut Vec<u8>) -> Result<(), Error> {
        let before = bytes.len();
        for (position, &id) in ids.iter().enumerate() {
            let Some(token) = self.token_bytes(id) else {
                bytes.truncate(before);
                return Err(Error::UnknownId { id, position, vocab_size: self.vocab_size() });
            };
            bytes.extend_from_slice(token);
        }
        Ok(())
    }

    /// The text that `ids` stand for: what is not UTF-8 becomes U+FFFD, unknown ids nothing, and so do special tokens
    /// when `skip_special`.
    pub fn decode_lossy(&self, ids: &[u32], skip_special: bool) -> String {
        let mut bytes = Vec::new();
        for &id in ids.iter().filter(|&&id| !(skip_special && self.is_special(id))) {
            bytes.extend_from_slice(self.token_bytes(id).unwrap_or_default());
        }
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// The bytes of one token, an added token's text.
    pub fn token_bytes(&self, id: u32) -> Option<&[u8]> {
        match self.inner.added_by_id.get(&id) {
            Some(&index) => Some(self.inner.added.tokens()[index].content.as_bytes()),
            None => self.inner.tokens.get(id as usize).map(Token::bytes),
        }
    }

    /// The id of an added token by its text, or of an entry of the vocabulary by its byte-level spelling (`Ġthe`).
    pub fn token_to_id(&self, token: &str) -> Option<u32> {
        let added = self.inner.added.tokens().iter().find(|added| added.content == token);
        added.map(|added| added.id).or_else(|| match Token::new(token) {
            Token::Bytes(bytes) => self.inner.ids.get(&bytes).copied(),
            text => self.inner.tokens.iter().position(|token| *token == text).map(|id| id as u32),
        })
    }

    /// Whether `id` is a special token, which decoders may skip.
    pub fn is_special(&self, id: u32) -> bool {
        let index = self.inner.added_by_id.get(&id);
        index.is_some_and(|&index| self.inner.added.tokens()[index].special)
    }

    /// The id of `<|endoftext|>`, where it is an added token.
    pub fn end_of_text(&self) -> Option<u32> {
        let added = self.inner.added.tokens().iter().find(|added| added.content == END_OF_TEXT);
        added.map(|added| added.id)
    }

    /// BLAKE3 of what decides the ids: the split expression, the vocabulary, the merges and the added tokens. Two
    /// files with other white space, or merges written the other way, have the same.
    pub fn fingerprint(&self) -> [u8; 32] {
        let inner = &*self.inner;
        let mut hasher = blake3::Hasher::new_derive_key("eyas tokenizer fingerprint 1");
        let mut text = |text: &[u8]| {
            hasher.update(&(text.len() as u64).to_le_bytes());
            hasher.update(text);
        };
        text(SPLIT_REGEX.as_bytes());
        text(&[u8::from(inner.add_prefix_space), u8::from(inner.ignore_merges)]);
        text(&(inner.tokens.len() as u64).to_le_bytes());
        for token in &inner.tokens {
            text(token.spelling().as_bytes());
        }
        text(&(inner.merges.len() as u64).to_le_bytes());
        for (left, right, _) in &inner.merges {
            text(&(u64::from(*left) << 32 | u64::from(*right)).to_le_bytes());
        }
        for token in inner.added.tokens() {
            let AddedToken { id, content, lstrip, rstrip, normalized, special } = token;
            text(&id.to_le_bytes());
            text(content.as_bytes());
            text(&[lstrip, rstrip, normalized, special].map(|&flag| u8::from(flag)));
        }
        *hasher.finalize().as_bytes()
    }
}

impl std::fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tokenizer")
            .field("vocab_size", &self.vocab_size())
            .field("num_merges", &self.inner.merges.len())
            .field("added_tokens", &self.inner.added.tokens())
            .finish_non_exhaustive()
    }
}

impl Inner {
    /// Appends the ids of text without added tokens.
    fn encode_piece(&self, text: &str, cache: &mut Cache, ids: &mut Vec<u32>) {
        if self.add_prefix_space && !text.is_empty() && !text.starts_with(' ') {
            self.encode_words(format!(" {text}").as_bytes(), cache, ids);
        } else {
            self.encode_words(text.as_bytes(), cache, ids);
        }
    }

    fn encode_words(&self, text: &[u8], cache: &mut Cache, ids: &mut Vec<u32>) {
        let mut start = 0;
        while let Some(end) = next_word(text, start) {
            cache.encode(ids, text, start, end, |word, scratch, ids| self.encode_word(word, scratch, ids));
            start = end;
        }
    }

    /// One word that the cache did not know.
    fn encode_word(&self, word: &[u8], scratch: &mut Scratch, ids: &mut Vec<u32>) {
        match self.ids.get(word) {
            Some(&id) if self.ignore_merges => ids.push(id),
            _ => self.bpe.encode_word(word, scratch, ids),
        }
    }
}
