//! Code in, token shards out: sources, filters, splits, shards and the loader.
//!
//! Owns everything between files of code and batches of token ids. Streams: a corpus is never held in memory. Knows
//! nothing of neural networks; the tokenizer comes from `eyas-token`.
//!
//! Reading order: `source` (files to documents), `hub` (files that are elsewhere), `read` (rows of datasets), `filter` (which
//! documents are taken), `secrets`
//! (what is redacted), `duplicates`, `prepare` (documents to shards), `shards` (the format on disk), `permutation` and `loader`
//! (a position in an epoch to a sample).

mod blob;
mod decontaminate;
mod duplicates;
mod error;
mod eval;
mod filter;
mod fim;
mod hub;
mod language;
mod loader;
mod mixture;
mod permutation;
mod prepare;
mod read;
mod report;
pub mod secrets;
mod shards;
mod source;
mod split;

pub use decontaminate::Decontaminator;
pub use duplicates::{Cluster, NearDuplicates, NearWriter, Seen, Signature};
pub use error::Error;
pub use eval::{EvalStream, eval_stream};
pub use filter::{Filters, Reason};
pub use fim::Fim;
pub use hub::{HubError, HubEvent, HubListener, HubOptions, Patience, Secret};
pub use language::Language;
pub use loader::{IGNORE, Loader};
pub use prepare::{
    DURABLE_TOKENS, PrepareOptions, PrepareProgress, PrepareReport, Seconds, prepare, prepare_durably,
};
pub use report::{Count, SourceReport};
pub use shards::{Mode, Shards, SourceTokens, is_shards};
pub use source::{Document, Documents, OnError, SourceOptions, names_rows};
pub use split::{is_validation, path_hash};
