//! Code in, token shards out: sources, filters, splits, shards and the loader.
//!
//! Owns everything between files of code and batches of token ids. Streams: a corpus is never held in memory. Knows
//! nothing of neural networks; the tokenizer comes from `eyas-token`.
//!
//! Reading order: `source` (files to documents), `hub` (files that are elsewhere), `filter` (which documents are code),
//! `prepare` (documents to shards), `shards` (the format on disk), `permutation` and `loader` (a position in an epoch to
//! a sample).

#[cfg_attr(
    not(test),
    expect(dead_code, reason = "`source` is to read files through it; so far only `hub` does")
)]
mod blob;
mod error;
mod eval;
mod filter;
#[cfg_attr(
    not(test),
    expect(dead_code, reason = "`source` is to read datasets through it; so far only tests do")
)]
mod hub;
mod jsonl;
mod loader;
mod permutation;
mod prepare;
mod report;
mod shards;
mod source;
mod split;

pub use error::Error;
pub use eval::{EvalStream, eval_stream};
pub use hub::{HubError, HubEvent, HubListener, HubOptions, Patience, Secret};
pub use loader::{IGNORE, Loader};
pub use prepare::{PrepareOptions, PrepareProgress, PrepareReport, prepare};
pub use report::SourceReport;
pub use shards::{Mode, Shards, ShardsWriter, is_shards};
pub use source::{Document, Documents, SourceOptions};
pub use split::{is_validation, path_hash};
