//! Text to ids and back.
//!
//! A [`Tokenizer`] is immutable and shared.

use crate::added::{AddedToken, AddedTokens, Piece};
use crate::alphabet;
use crate::encode::Encoder;
use crate::error::Error;
use crate::splitter::Splitter;
use std::collections::HashMap;
use std::sync::Arc;

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
    pub(crate) splitter: Splitter,
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
    pub(crate) splitter: Splitter,
    pub(crate) ignore_merges: bool,
    encoder: Encoder,
    /// Index into the added tokens, by id.
    added_by_id: HashMap<u32, usize>,
    vocab_size: usize,
}

impl Tokenizer {
    pub(crate) fn from_parts(parts: Parts) -> Self {
        let Parts { tokens, merges, added, splitter, ignore_merges } = parts;
        let mut ids = HashMap::with_capacity(tokens.len());
        for (id, token) in tokens.iter().enumerate() {
            if let Token::Bytes(bytes) = token {
                ids.insert(bytes.clone(), id as u32);
            }
        }
        let added_by_id: HashMap<u32, usize> =
            added.iter().enumerate().map(|(index, token)| (token.id, index)).collect();
        let vocab_size = added.iter().map(|token| token.id as usize + 1).fold(tokens.len(), usize::max);
        let encoder = Encoder::new(splitter.pattern, ids, &merges, ignore_merges);
        let added = AddedTokens::new(added);
        let inner =
            Inner { tokens, merges, added, splitter, ignore_merges, encoder, added_by_id, vocab_size };
        Self { inner: Arc::new(inner) }
    }

    /// The largest id plus one, added tokens included.
    pub fn vocab_size(&self) -> usize {
        self.inner.vocab_size
    }

    /// Appends the ids of `text`. Added tokens in the text become their ids, as in Hugging Face `tokenizers`.
    pub fn encode(&self, text: &str, ids: &mut Vec<u32>) {
        self.inner.added.split(text, |piece| match piece {
            Piece::Id(id) => ids.push(id),
            Piece::Text(text) => self.encode_ordinary(text, ids),
        });
    }

    /// Appends the ids of `text`, in which nothing is a special or added token: `<|endoftext|>` is thirteen characters.
    pub fn encode_ordinary(&self, text: &str, ids: &mut Vec<u32>) {
        self.inner.encoder.encode(&self.inner.splitter.with_prefix(text), ids);
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
            Token::Bytes(bytes) => self.inner.encoder.id(&bytes),
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
        text(inner.splitter.pattern.regex().as_bytes());
        text(&[u8::from(inner.splitter.add_prefix_space), u8::from(inner.ignore_merges)]);
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
