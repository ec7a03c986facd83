//! The crate's one error type. Every variant says where, what was expected, what was found, and what to do.

use std::path::PathBuf;

/// What can go wrong with tokenizer files, ids and training options.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file could not be read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// A file or folder could not be written; what stood there before is untouched.
    #[error("cannot write {}: {source}", path.display())]
    Write {
        /// The file or folder.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// The folder holds no tokenizer.
    #[error("no tokenizer in {}: expected tokenizer.json, or vocab.json with merges.txt", path.display())]
    NotFound {
        /// The folder.
        path: PathBuf,
    },
    /// The file is larger than any tokenizer.
    #[error("{} has {size} bytes, more than the {limit} a tokenizer file may have", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// Its size in bytes.
        size: u64,
        /// The largest size accepted, in bytes.
        limit: u64,
    },
    /// The file is not JSON. The source tells line and column.
    #[error("{} is not valid JSON: {source}", path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// The parser's message, with line and column.
        source: serde_json::Error,
    },
    /// The file asks for something that cannot be done, so its ids would be wrong.
    #[error("{}: {field} is {found}; supported: {supported}", path.display())]
    Unsupported {
        /// The file.
        path: PathBuf,
        /// The field, as a path of keys: `model.byte_fallback`.
        field: String,
        /// What the file says, shortened.
        found: String,
        /// What would be accepted.
        supported: &'static str,
    },
    /// The file contradicts itself or its format.
    #[error("{}: {field}: {problem}", path.display())]
    Invalid {
        /// The file.
        path: PathBuf,
        /// The field, as a path of keys and indices: `model.merges[12]`.
        field: String,
        /// What is wrong, with expected and found.
        problem: String,
    },
    /// An id that no token has.
    #[error("id {id} at position {position} is no token: the vocabulary has {vocab_size} (0 to {})", vocab_size.saturating_sub(1))]
    UnknownId {
        /// The id.
        id: u32,
        /// Where it stands in the slice given.
        position: usize,
        /// The number of ids.
        vocab_size: usize,
    },
    /// A byte outside of UTF-8, and no token for it.
    #[error(
        "byte {byte:#04x} at offset {offset} is not UTF-8, and this tokenizer has no token for a single byte"
    )]
    NoByteToken {
        /// The byte.
        byte: u8,
        /// Where it stands in the slice given.
        offset: usize,
    },
    /// The vocabulary asked for cannot hold what every vocabulary holds.
    #[error(
        "vocab_size {asked} is too small: {least} are needed for {num_special} special tokens and the 256 bytes"
    )]
    VocabularyTooSmall {
        /// The size asked for.
        asked: usize,
        /// The smallest that works.
        least: usize,
        /// How many special tokens were asked for.
        num_special: usize,
    },
    /// A special token that cannot be one.
    #[error("special token {token:?}: {problem}")]
    SpecialToken {
        /// The token's text.
        token: String,
        /// Why not.
        problem: &'static str,
    },
    /// The `tokenizers` library, which does what has no fast path here, could not do it.
    #[error("cannot {doing}: {problem}")]
    Library {
        /// What was asked of it.
        doing: &'static str,
        /// The library's message.
        problem: String,
    },
    /// A tokenizer that another cannot be trained like.
    #[error("cannot train a tokenizer like this one, which is not byte-level BPE of a known kind: {problem}")]
    NotTrainable {
        /// What is unlike.
        problem: String,
    },
    /// A file that holds what training has no memory for.
    #[error("cannot {doing} a temporary file in {}: {source}", folder.display())]
    Spill {
        /// Where the file is.
        folder: PathBuf,
        /// What was tried: create, write, read.
        doing: &'static str,
        /// The system's reason.
        source: std::io::Error,
    },
    /// More distinct text than the trainer can index.
    #[error(
        "the corpus has {num_bytes} bytes of distinct words; the trainer indexes {limit}: use a part of it"
    )]
    CorpusTooLarge {
        /// Bytes of the distinct words, each counted once.
        num_bytes: u64,
        /// The most that can be indexed.
        limit: u64,
    },
}
