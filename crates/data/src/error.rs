//! The crate's one error type. Every variant says where, what was expected, what was found, and what to do.

use std::path::{Path, PathBuf};

/// What can go wrong between files of code and samples.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file or folder could not be read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// The file or folder.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// A file or folder could not be written; what stood at its place before is untouched.
    #[error("cannot write {}: {source}", path.display())]
    Write {
        /// The file or folder.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// The argument names nothing that exists.
    #[error(
        "no data at `{data}`: expected a folder of source code, or a file (or a glob) of .jsonl, .jsonl.gz, .jsonl.zst \
         or .parquet"
    )]
    NotFound {
        /// The argument.
        data: String,
    },
    /// A kind of source that this version does not read.
    #[error("`{data}` is {kind}, which this version does not read; hint: {hint}")]
    Unsupported {
        /// The argument.
        data: String,
        /// What it is.
        kind: &'static str,
        /// What to do instead.
        hint: &'static str,
    },
    /// A file of rows is damaged, or was cut or changed while it was read. What came before is good.
    #[error("{name}{} {reason}", place(*offset, *text_offset))]
    BrokenFile {
        /// The file.
        name: String,
        /// The byte of the file at which this was noticed, where that is known.
        offset: Option<u64>,
        /// The same in what it decompresses to.
        text_offset: Option<u64>,
        /// What is wrong.
        reason: String,
    },
    /// A row is not one, and broken rows are not to be skipped.
    #[error("{reason}; hint: repair or remove the row, or skip broken ones")]
    BrokenRow {
        /// The row and what is wrong with it.
        reason: String,
    },
    /// Nothing usable was found.
    #[error("no usable document in {}: {report}", data.join(", "))]
    NoDocuments {
        /// The arguments.
        data: Vec<String>,
        /// What was found instead, in one line.
        report: String,
    },
    /// Fewer tokens than one sample takes.
    #[error(
        "too little data in {}: {num_tokens} tokens, but one sample takes {needed}; \
         hint: give more data or a smaller context_length", path.display()
    )]
    TooLittle {
        /// The shards.
        path: PathBuf,
        /// Tokens there are.
        num_tokens: u64,
        /// Tokens that one sample takes.
        needed: u64,
    },
    /// The output folder holds something else.
    #[error("{} is not empty and holds something else than token shards; hint: choose another folder", path.display())]
    OutputInUse {
        /// The folder.
        path: PathBuf,
    },
    /// The shards' chunks have another length.
    #[error(
        "{} was cut into chunks of {found} tokens, but context_length is {expected}; \
         hint: prepare the data again, or train with context_length = {found}", path.display()
    )]
    ContextLength {
        /// The shards.
        path: PathBuf,
        /// Length of the chunks.
        found: usize,
        /// Length that was asked for.
        expected: usize,
    },
    /// A shard folder is damaged or was not made by eyas.
    #[error("{}: {what}: expected {expected}, got {found}; hint: run `eyas data prepare` again", path.display())]
    BadShards {
        /// The file.
        path: PathBuf,
        /// The part of it.
        what: String,
        /// What should be there.
        expected: String,
        /// What is there.
        found: String,
    },
    /// An option has an impossible value.
    #[error("{name} is {found}: expected {expected}")]
    Option {
        /// The option.
        name: &'static str,
        /// Its value.
        found: String,
        /// What would be accepted.
        expected: &'static str,
    },
    /// A scratch file of work that was cut off does not hold what was noted of it.
    #[error(
        "{} is damaged at byte {offset}: expected {expected}, got {found}; \
         hint: remove its folder and start again", path.display()
    )]
    DamagedScratch {
        /// The file.
        path: PathBuf,
        /// Where in it, in bytes.
        offset: u64,
        /// What should be there.
        expected: String,
        /// What is there.
        found: String,
    },
    /// What is to be kept out of the data cannot be read.
    #[error("benchmark {place}: expected {expected}, got {found}; hint: {hint}")]
    Benchmark {
        /// The file, and the line of a .jsonl.
        place: String,
        /// What would be accepted.
        expected: &'static str,
        /// What is there.
        found: String,
        /// What to do.
        hint: &'static str,
    },
    /// The tokenizer has no end-of-text token to join documents with.
    #[error(
        "the tokenizer has no `<|endoftext|>` token, which joins documents; hint: train one with eyas, or use mode chunk"
    )]
    NoEndOfText,
    /// A dataset of the hub could not be found or read.
    #[error(transparent)]
    Hub(#[from] crate::hub::HubError),
    /// The tokenizer could not encode a document.
    #[error(transparent)]
    Token(#[from] eyas_token::Error),
    /// The tokenizer lacks a token that fill-in-the-middle needs.
    #[error("the tokenizer has no `{token}` token; hint: train one with `eyas tokenizer train --fim`")]
    NoFim {
        /// The token.
        token: &'static str,
    },
    /// What was read a second time is not what it was.
    #[error("{} changed while it was prepared; hint: prepare it again when nothing writes there", data.join(", "))]
    Changed {
        /// The arguments.
        data: Vec<String>,
    },
    /// Another process writes the same shards.
    #[error("{} is being prepared by another process", path.display())]
    Busy {
        /// The folder that will be written.
        path: PathBuf,
    },
}

impl Error {
    /// A file or folder that could not be read.
    pub(crate) fn read(path: &Path) -> impl Fn(std::io::Error) -> Error {
        move |source| Error::Read { path: path.to_owned(), source }
    }

    /// A file or folder that could not be written.
    pub(crate) fn write(path: &Path) -> impl Fn(std::io::Error) -> Error {
        move |source| Error::Write { path: path.to_owned(), source }
    }
}

/// Where a file is broken, in words.
fn place(offset: Option<u64>, text_offset: Option<u64>) -> String {
    match (offset, text_offset) {
        (Some(offset), Some(text)) => format!(", at byte {offset} (byte {text} decompressed),"),
        (Some(offset), None) => format!(", at byte {offset},"),
        (None, Some(text)) => format!(", at byte {text} of its text,"),
        (None, None) => String::new(),
    }
}
