//! Text to ids and back.
//!
//! A [`Tokenizer`] is immutable and shared. Byte-level BPE is done here, everything else by the `tokenizers` library
//! (`library`); both give the library's ids.

use crate::added::{AddedToken, AddedTokens, Piece};
use crate::alphabet;
use crate::encode::Encoder;
use crate::error::Error;
use crate::library::Library;
use crate::original::Original;
use crate::split::Pattern;
use crate::splitter::Splitter;
use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;

/// The token that separates documents.
pub const END_OF_TEXT: &str = "<|endoftext|>";

/// A tokenizer, equal id for id to the same tokenizer.json in Hugging Face `tokenizers`.
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

    pub(crate) fn bytes(&self) -> &[u8] {
        match self {
            Self::Bytes(bytes) => bytes,
            Self::Text(text) => text.as_bytes(),
        }
    }
}

pub(crate) struct Inner {
    pub(crate) engine: Engine,
    /// The files it was loaded from, if one was a tokenizer.json.
    pub(crate) original: Option<Original>,
}

#[expect(clippy::large_enum_variant, reason = "one a tokenizer, behind an Arc")]
pub(crate) enum Engine {
    ByteLevel(ByteLevel),
    Library(Library),
}

/// Byte-level BPE: the fast path.
pub(crate) struct ByteLevel {
    pub(crate) tokens: Vec<Token>,
    pub(crate) merges: Vec<(u32, u32, u32)>,
    pub(crate) added: AddedTokens,
    pub(crate) splitter: Splitter,
    pub(crate) ignore_merges: bool,
    encoder: Encoder,
    /// Index into the added tokens, by id.
    added_by_id: HashMap<u32, usize>,
    spellings: Spellings,
}

/// What each id stands for, end to end, so that decoding is two loads and a copy a token.
struct Spellings {
    bytes: Vec<u8>,
    /// Where each id's bytes end.
    ends: Vec<usize>,
}

impl Spellings {
    /// An added token goes before an entry of the vocabulary.
    fn new(tokens: &[Token], added: &AddedTokens, added_by_id: &HashMap<u32, usize>) -> Self {
        let mut spellings = Self { bytes: Vec::new(), ends: Vec::new() };
        let vocab_size =
            added.tokens().iter().map(|token| token.id as usize + 1).fold(tokens.len(), usize::max);
        for id in 0..vocab_size {
            let bytes = match added_by_id.get(&(id as u32)) {
                Some(&index) => added.normal_form(index).as_bytes(),
                None => tokens.get(id).map_or(&[][..], Token::bytes),
            };
            spellings.bytes.extend_from_slice(bytes);
            spellings.ends.push(spellings.bytes.len());
        }
        spellings
    }

    #[inline]
    fn get(&self, id: u32) -> Option<&[u8]> {
        let end = *self.ends.get(id as usize)?;
        let start = (id as usize).checked_sub(1).map_or(0, |before| self.ends[before]);
        Some(&self.bytes[start..end])
    }
}

impl ByteLevel {
    pub(crate) fn new(parts: Parts) -> Self {
        let Parts { tokens, merges, added, splitter, ignore_merges } = parts;
        let mut ids = HashMap::with_capacity(tokens.len());
        for (id, token) in tokens.iter().enumerate() {
            if let Token::Bytes(bytes) = token {
                ids.insert(bytes.clone(), id as u32);
            }
        }
        let added_by_id: HashMap<u32, usize> =
            added.iter().enumerate().map(|(index, token)| (token.id, index)).collect();
        let encoder = Encoder::new(splitter.pattern, ids, &merges, ignore_merges);
        let added = AddedTokens::new(added, splitter.normalizer.as_ref());
        let spellings = Spellings::new(&tokens, &added, &added_by_id);
        Self { tokens, merges, added, splitter, ignore_merges, encoder, added_by_id, spellings }
    }

    fn encode(&self, text: &str, ids: &mut Vec<u32>) -> Result<(), Error> {
        self.added.split(text, &self.splitter, &mut |piece| match piece {
            Piece::Id(id) => ids.push(id),
            Piece::Text(text) => self.encode_words(text, ids),
        })
    }

    /// Normalized text without added tokens.
    fn encode_words(&self, text: &str, ids: &mut Vec<u32>) {
        self.encoder.encode(&self.splitter.with_prefix(text), ids);
    }

    fn added(&self, id: u32) -> Option<&AddedToken> {
        self.added_by_id.get(&id).map(|&index| &self.added.tokens()[index])
    }

    fn bytes(&self, id: u32) -> Option<&[u8]> {
        self.spellings.get(id)
    }

    fn added_id(&self, content: &str) -> Option<u32> {
        self.added.tokens().iter().find(|added| added.content == content).map(|added| added.id)
    }

    fn token_to_id(&self, token: &str) -> Option<u32> {
        self.added_id(token).or_else(|| match Token::new(token) {
            Token::Bytes(bytes) => self.encoder.id(&bytes),
            text => self.tokens.iter().position(|token| *token == text).map(|id| id as u32),
        })
    }

    fn fingerprint(&self) -> [u8; 32] {
        let mut hasher = blake3::Hasher::new_derive_key("eyas tokenizer fingerprint 1");
        let mut text = |text: &[u8]| {
            hasher.update(&(text.len() as u64).to_le_bytes());
            hasher.update(text);
        };
        text(self.splitter.pattern.regex().as_bytes());
        text(&[u8::from(self.splitter.add_prefix_space), u8::from(self.ignore_merges)]);
        text(&(self.tokens.len() as u64).to_le_bytes());
        for token in &self.tokens {
            text(token.spelling().as_bytes());
        }
        text(&(self.merges.len() as u64).to_le_bytes());
        for (left, right, _) in &self.merges {
            text(&(u64::from(*left) << 32 | u64::from(*right)).to_le_bytes());
        }
        for token in self.added.tokens() {
            let AddedToken { id, content, lstrip, rstrip, normalized, special } = token;
            text(&id.to_le_bytes());
            text(content.as_bytes());
            text(&[lstrip, rstrip, normalized, special].map(|&flag| u8::from(flag)));
        }
        // What came later is hashed only where it is there, so that prepared data stays valid.
        if self.splitter.pattern == Pattern::StarCoder {
            text(b"every digit alone");
        }
        if let Some(normalizer) = &self.splitter.normalizer {
            text(normalizer.json().to_string().as_bytes());
        }
        *hasher.finalize().as_bytes()
    }
}

impl Tokenizer {
    pub(crate) fn from_parts(parts: Parts) -> Self {
        Self::new(Engine::ByteLevel(ByteLevel::new(parts)), None)
    }

    pub(crate) fn new(engine: Engine, original: Option<Original>) -> Self {
        Self { inner: Arc::new(Inner { engine, original }) }
    }

    /// Why this tokenizer is done by the `tokenizers` library and so is many times slower than byte-level BPE of a known
    /// kind; `None` where it is one.
    pub fn slow_reason(&self) -> Option<&str> {
        match &self.inner.engine {
            Engine::ByteLevel(_) => None,
            Engine::Library(library) => Some(&library.reason),
        }
    }

    /// How text without added tokens becomes words, where that is known here.
    pub fn splitter(&self) -> Option<&Splitter> {
        match &self.inner.engine {
            Engine::ByteLevel(bpe) => Some(&bpe.splitter),
            Engine::Library(_) => None,
        }
    }

    /// The largest id plus one, added tokens included.
    pub fn vocab_size(&self) -> usize {
        match &self.inner.engine {
            Engine::ByteLevel(bpe) => bpe.spellings.ends.len(),
            Engine::Library(library) => library.vocab_size,
        }
    }

    /// Appends the ids of `text`. Added tokens in the text become their ids, as in Hugging Face `tokenizers`.
    ///
    /// # Errors
    /// [`Error::Library`]: a tokenizer with a [`slow_reason`](Self::slow_reason) or a normalizer could not do it. Then
    /// `ids` is as it was.
    pub fn encode(&self, text: &str, ids: &mut Vec<u32>) -> Result<(), Error> {
        let before = ids.len();
        let encoded = match &self.inner.engine {
            Engine::ByteLevel(bpe) => bpe.encode(text, ids),
            Engine::Library(library) => library.encode(text, false, ids),
        };
        encoded.inspect_err(|_| ids.truncate(before))
    }

    /// Appends the ids of `text`, in which nothing is a special or added token: `<|endoftext|>` is thirteen characters.
    ///
    /// # Errors
    /// As [`encode`](Self::encode).
    pub fn encode_ordinary(&self, text: &str, ids: &mut Vec<u32>) -> Result<(), Error> {
        match &self.inner.engine {
            Engine::ByteLevel(bpe) => bpe.encode_words(&bpe.splitter.normalize(text)?, ids),
            Engine::Library(library) => {
                let before = ids.len();
                library.encode(text, true, ids).inspect_err(|_| ids.truncate(before))?;
            }
        }
        Ok(())
    }

    /// Appends the ids of `bytes`, which need not be UTF-8: each longest stretch that is goes through
    /// [`encode`](Self::encode) by itself, and each other byte is the token of that byte. [`decode`](Self::decode) gives
    /// the same bytes back, unless the tokenizer has a normalizer or puts a space in front.
    ///
    /// # Errors
    /// As [`encode`](Self::encode), and [`Error::NoByteToken`].
    pub fn encode_bytes(&self, bytes: &[u8], ids: &mut Vec<u32>) -> Result<(), Error> {
        let (before, mut offset) = (ids.len(), 0);
        let mut encode = |chunk: std::str::Utf8Chunk<'_>| {
            if !chunk.valid().is_empty() {
                self.encode(chunk.valid(), ids)?;
            }
            offset += chunk.valid().len();
            for &byte in chunk.invalid() {
                ids.push(self.byte_id(byte).ok_or(Error::NoByteToken { byte, offset })?);
                offset += 1;
            }
            Ok(())
        };
        bytes.utf8_chunks().try_for_each(&mut encode).inspect_err(|_| ids.truncate(before))
    }

    fn byte_id(&self, byte: u8) -> Option<u32> {
        match &self.inner.engine {
            Engine::ByteLevel(bpe) => bpe.encoder.id(&[byte]),
            Engine::Library(library) => library.byte_id(byte),
        }
    }

    /// Appends the bytes that `ids` stand for, added tokens as their text. The bytes need not be UTF-8.
    ///
    /// # Errors
    /// [`Error::UnknownId`], [`Error::Library`]; then `bytes` is as it was.
    pub fn decode(&self, ids: &[u32], bytes: &mut Vec<u8>) -> Result<(), Error> {
        if let Some((position, &id)) = ids.iter().enumerate().find(|&(_, &id)| !self.has(id)) {
            return Err(Error::UnknownId { id, position, vocab_size: self.vocab_size() });
        }
        match self.whole_text_decoder() {
            Some(library) => bytes.extend_from_slice(library.decode(ids.iter().copied())?.as_bytes()),
            None => {
                ids.iter().for_each(|&id| bytes.extend_from_slice(&self.token_bytes(id).unwrap_or_default()));
            }
        }
        Ok(())
    }

    /// The text that `ids` stand for: what is not UTF-8 becomes U+FFFD, unknown ids nothing, and so do special tokens
    /// when `skip_special`. Ids that the `tokenizers` library fails to decode are one U+FFFD.
    pub fn decode_lossy(&self, ids: &[u32], skip_special: bool) -> String {
        let wanted = ids.iter().copied().filter(|&id| !(skip_special && self.is_special(id)));
        if let Some(library) = self.whole_text_decoder() {
            return library.decode(wanted).unwrap_or_else(|_| char::REPLACEMENT_CHARACTER.into());
        }
        let mut bytes = Vec::new();
        wanted.for_each(|id| bytes.extend_from_slice(&self.token_bytes(id).unwrap_or_default()));
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// The library, where a token's text depends on those beside it.
    pub(crate) fn whole_text_decoder(&self) -> Option<&Library> {
        match &self.inner.engine {
            Engine::Library(library) if !library.is_byte_level() => Some(library),
            _ => None,
        }
    }

    fn has(&self, id: u32) -> bool {
        match &self.inner.engine {
            Engine::ByteLevel(bpe) => bpe.bytes(id).is_some(),
            Engine::Library(library) => library.has(id),
        }
    }

    /// The bytes of one token, an added token's text. Where bytes depend on the tokens beside it, those that it adds to
    /// a text.
    pub fn token_bytes(&self, id: u32) -> Option<Cow<'_, [u8]>> {
        match &self.inner.engine {
            Engine::ByteLevel(bpe) => bpe.bytes(id).map(Cow::Borrowed),
            Engine::Library(library) => library.bytes(id),
        }
    }

    /// The id of an added token by its text, or of an entry of the vocabulary by its spelling there (`Ġthe`).
    pub fn token_to_id(&self, token: &str) -> Option<u32> {
        match &self.inner.engine {
            Engine::ByteLevel(bpe) => bpe.token_to_id(token),
            Engine::Library(library) => library.token_to_id(token),
        }
    }

    /// Whether `id` is a special token, which decoders may skip.
    pub fn is_special(&self, id: u32) -> bool {
        match &self.inner.engine {
            Engine::ByteLevel(bpe) => bpe.added(id).is_some_and(|added| added.special),
            Engine::Library(library) => library.is_special(id),
        }
    }

    /// The id of `<|endoftext|>` where it is an added token, else that of the `eos_token` which the files beside
    /// tokenizer.json name.
    pub fn end_of_text(&self) -> Option<u32> {
        let added_id = |content: &str| match &self.inner.engine {
            Engine::ByteLevel(bpe) => bpe.added_id(content),
            Engine::Library(library) => library.added_id(content),
        };
        let named = || self.inner.original.as_ref().and_then(|original| original.end_of_text.as_deref());
        added_id(END_OF_TEXT).or_else(|| added_id(named()?))
    }

    /// BLAKE3 of what decides the ids: the split expression, the vocabulary, the merges and the added tokens. Two
    /// files with other white space, or merges written the other way, have the same.
    pub fn fingerprint(&self) -> [u8; 32] {
        match &self.inner.engine {
            Engine::ByteLevel(bpe) => bpe.fingerprint(),
            Engine::Library(library) => library.fingerprint,
        }
    }
}

impl std::fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tokenizer")
            .field("vocab_size", &self.vocab_size())
            .field("slow_reason", &self.slow_reason())
            .finish_non_exhaustive()
    }
}
