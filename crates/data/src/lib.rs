//! Code in, token shards out: sources, filters, splits, shards and the loader.
//!
//! Owns everything between files of code and batches of token ids. Streams: a corpus is never held in memory. Knows
//! nothing of networks; the tokenizer comes from `eyas-token`.
//!
//! Reading order: `source` (files to documents), `read` (rows of datasets), `filter` (which documents are code),
//! `prepare` (documents to shards), `shards` (the format on disk), `permutation` and `loader` (a position in an epoch to
//! a sample).

mod blob;
mod error;
mod eval;
mod filter;
mod loader;
mod permutation;
mod prepare;
mod read;
mod report;
mod shards;
mod source;
mod split;

pub use error::Error;
pub use eval::{EvalStream, eval_stream};
pub use loader::{IGNORE, Loader};
pub use prepare::{PrepareOptions, PrepareProgress, PrepareReport, prepare};
pub use report::SourceReport;
pub use shards::{Mode, Shards, ShardsWriter, is_shards};
pub use source::{Document, Documents, OnError, SourceOptions};
pub use split::{is_validation, path_hash};
