//! The crate's one error type. Every variant says where, what was expected, what was found, and what to do.

use std::path::PathBuf;

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
    #[error("no data at `{data}`: expected a folder of source code or a .jsonl file (or a glob of them)")]
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
    #[error("{} is not empty and does not hold token shards; hint: choose another folder", path.display())]
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
}
