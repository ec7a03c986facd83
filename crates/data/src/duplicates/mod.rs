//! Documents that are in the data already: to the byte (`exact`), or nearly (`minhash`, `bands`, `near`, `clusters`).
//!
//! Memory is what the caller allows, whatever the number of documents: what is not sorted yet is held, the rest lies in
//! scratch files, which are read in order or mapped. Files with a name are append-only logs of records (`log`); work that
//! was cut off goes on from a number of records that was noted after a `sync`. Everything else is made from these logs
//! again, in files without a name, which cease to be with the process however it ends.
//!
//! Results depend on the documents and their order alone, never on the number of threads or on the memory.
//!
//! Reading order: `words` (text to hashes of words), `minhash` (hashes to a signature), `bands` (signatures to candidates),
//! `near` (the whole of it), then `exact`.

mod bands;
mod clusters;
mod exact;
mod log;
mod minhash;
mod near;
mod sorter;
#[cfg(test)]
mod tests;
pub(crate) mod words;

pub use clusters::Cluster;
pub use exact::Seen;
pub use minhash::Signature;
pub use near::{NearDuplicates, NearWriter};
