//! What reading has come to, so that it can go on from there.

use crate::report::SourceReport;
use serde::{Deserialize, Serialize};

/// How far reading is: enough to go on from, over the same sources.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct ReadSoFar {
    pub(super) num_sources: u64,
    /// Rows of the last of them that were read, if there may be more.
    pub(super) num_rows: Option<u64>,
    pub(super) num_seen: u64,
    pub(crate) new: NewDocuments,
    pub(super) report: SourceReport,
}

/// Documents that are no exact duplicates: how many, and a hash of them in their order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct NewDocuments {
    pub(crate) num_documents: u64,
    digest: [u8; 32],
}

impl NewDocuments {
    pub(super) fn add(&mut self, hash: &[u8; 16]) {
        self.num_documents += 1;
        let mut hasher = blake3::Hasher::new();
        hasher.update(&self.digest).update(hash);
        self.digest = *hasher.finalize().as_bytes();
    }
}
