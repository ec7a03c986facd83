//! Near duplicates: documents whose shingles have a Jaccard index of 0.7 or more, as signatures estimate it.
//!
//! Signatures are appended to a file while documents stream by. At the end their bands are sorted (`bands`, `sorter`);
//! those that agree are neighbours then, and every pair of them is compared in full: 180 lanes of 256 must be the same.
//! Pairs that pass make clusters (`clusters`), and of each the first document is kept. Similarity is not transitive, a
//! cluster is a connected component, as in BigCode's script: its ends may be less alike than 0.7.
//!
//! The trick: a document is compared with the first 32 that share its band, and with none that is in its cluster already.
//! So a million copies of one file cost 32 comparisons each at the most, and mostly a look at a table, not 10^12 of them.
//!
//! Memory: the budget, and what the system keeps of mapped files while nobody needs the room. Disk: 520 bytes a document,
//! and 388 more while duplicates are sought.

use super::bands::{BANDS, Band, THRESHOLD};
use super::clusters::{Cluster, Clusters, MAX_DOCUMENTS};
use super::log::{Appender, Log, Nameless, Records, damaged, num_bytes};
use super::minhash::{LANES, Signature};
use super::sorter::Sorter;
use crate::error::Error;
use bytemuck::{Pod, Zeroable};
use rayon::prelude::*;
use std::path::{Path, PathBuf};

/// The file of signatures.
const SIGNATURES: &str = "near-signatures";
/// Documents of one band that another is compared with.
const MAX_COMPARED: usize = 32;
/// Documents whose bands are made together.
const CHUNK_DOCUMENTS: usize = 1024;
/// Least memory that duplicates are sought in, in bytes.
const MIN_BUDGET_BYTES: usize = 64 << 10;
/// Clusters that the result tells of, and documents of each.
const NUM_EXAMPLES: usize = 10;

/// A document with its signature.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Entry {
    index: u64,
    signature: Signature,
}

/// Takes signatures of documents, in their order.
pub struct NearWriter {
    dir: PathBuf,
    budget_bytes: usize,
    log: Log<Entry>,
    last: Option<u64>,
}

impl NearWriter {
    /// Starts in the folder `dir`, which is made if it is not there. `budget_bytes` is the memory that
    /// [`finish`](NearWriter::finish) may take, at least 64 KiB.
    ///
    /// # Errors
    /// If nothing can be written there, or the budget is too small.
    pub fn create(dir: &Path, budget_bytes: usize) -> Result<Self, Error> {
        check_budget(budget_bytes)?;
        std::fs::create_dir_all(dir).map_err(|source| Error::Write { path: dir.to_owned(), source })?;
        let log = Log::create(dir.join(SIGNATURES))?;
        Ok(NearWriter { dir: dir.to_owned(), budget_bytes, log, last: None })
    }

    /// Goes on after the first `num_signatures` that were pushed before; those after them are forgotten.
    ///
    /// # Errors
    /// If the file in `dir` cannot be written or holds fewer, or the budget is too small.
    pub fn resume(dir: &Path, budget_bytes: usize, num_signatures: u64) -> Result<Self, Error> {
        check_budget(budget_bytes)?;
        let mut log: Log<Entry> = Log::resume(dir.join(SIGNATURES), num_signatures)?;
        let last = log.records()?.last().map(|entry| entry.index);
        Ok(NearWriter { dir: dir.to_owned(), budget_bytes, log, last })
    }

    /// Signatures so far.
    pub fn num_signatures(&self) -> u64 {
        self.log.len()
    }

    /// Adds the signature of document `index`, which comes after those before. A document without one is left out.
    ///
    /// # Errors
    /// If writing fails, or there are more than two thousand million.
    pub fn push(&mut self, index: u64, signature: &Signature) -> Result<(), Error> {
        assert!(self.last.is_none_or(|last| last < index), "document {index} after {:?}", self.last);
        if self.log.len() == MAX_DOCUMENTS {
            let found = format!("more than {MAX_DOCUMENTS}");
            let expected = "fewer, or near duplicates left in";
            return Err(Error::Option { name: "the number of documents", found, expected });
        }
        self.last = Some(index);
        self.log.push(&Entry { index, signature: *signature })
    }

    /// Makes every signature so far durable, so that [`resume`](NearWriter::resume) can go on after them.
    ///
    /// # Errors
    /// If writing fails.
    pub fn sync(&mut self) -> Result<(), Error> {
        self.log.sync()
    }

    /// Finds the duplicates. The signatures stay in the folder, so that a run that is cut off here can do it again.
    ///
    /// # Errors
    /// If writing or reading fails, or the file of signatures was damaged.
    pub fn finish(mut self) -> Result<NearDuplicates, Error> {
        let entries = self.log.records()?;
        let mut sorter = Sorter::create(&self.dir, self.budget_bytes)?;
        for (chunk, first) in entries.chunks(CHUNK_DOCUMENTS).zip((0u32..).step_by(CHUNK_DOCUMENTS)) {
            self.check(&entries, first as usize, chunk.len())?;
            let bands: Vec<[Band; BANDS]> = chunk
                .par_iter()
                .zip(first..first + chunk.len() as u32)
                .map(|(entry, number)| Band::all(number, &entry.signature))
                .collect();
            sorter.push_all(bands.as_flattened())?;
        }
        let mut clusters = Clusters::create(&self.dir, entries.len())?;
        let mut merge = sorter.finish()?;
        let (mut band, mut compared) = (None::<Band>, Vec::with_capacity(MAX_COMPARED));
        while let Some(next) = merge.next()? {
            if !band.is_some_and(|band| band.is_same(&next)) {
                compared.clear();
            }
            join_if_alike(&mut clusters, &entries, next.document, &compared);
            if compared.len() < MAX_COMPARED {
                compared.push(next.document);
            }
            band = Some(next);
        }
        drop(merge);
        NearDuplicates::new(&self.dir, &entries, clusters)
    }

    /// Whether the documents of a chunk come one after the other: pages that a crash left empty do not.
    fn check(&self, entries: &[Entry], first: usize, len: usize) -> Result<(), Error> {
        let pairs = entries[first.saturating_sub(1)..first + len].windows(2);
        for (number, pair) in (first.max(1) as u64..).zip(pairs) {
            if pair[1].index <= pair[0].index {
                let expected = format!("a document after {}", pair[0].index);
                let offset = num_bytes::<Entry>(number);
                return Err(damaged(
                    self.log.path(),
                    offset,
                    expected,
                    format!("document {}", pair[1].index),
                ));
            }
        }
        Ok(())
    }
}

fn check_budget(budget_bytes: usize) -> Result<(), Error> {
    if budget_bytes >= MIN_BUDGET_BYTES {
        return Ok(());
    }
    let found = format!("{budget_bytes} bytes");
    Err(Error::Option { name: "memory for near duplicates", found, expected: "at least 65536 bytes" })
}

/// Puts a document into one cluster with those of `others` that it is a near duplicate of.
fn join_if_alike(clusters: &mut Clusters, entries: &[Entry], document: u32, others: &[u32]) {
    let signature = &entries[document as usize].signature;
    let mut first = clusters.first(document);
    for other in others {
        let first_of_other = clusters.first(*other);
        if first_of_other != first && is_near(signature, &entries[*other as usize].signature) {
            clusters.join(first, first_of_other);
            first = first.min(first_of_other);
        }
    }
}

/// Whether the estimate of the Jaccard index reaches the threshold.
pub(crate) fn is_near(a: &Signature, b: &Signature) -> bool {
    f64::from(a.num_equal(b)) >= THRESHOLD * LANES as f64
}

/// A document that is dropped, and the one that is kept for it.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Dropped {
    index: u64,
    kept: u64,
}

/// Which documents are near duplicates of one before them.
pub struct NearDuplicates {
    /// By index.
    dropped: Records<Dropped>,
    num_clusters: u64,
    largest: Vec<Cluster>,
}

impl NearDuplicates {
    fn new(dir: &Path, entries: &[Entry], mut clusters: Clusters) -> Result<Self, Error> {
        let (num_clusters, largest) = clusters.largest(NUM_EXAMPLES);
        let cluster = |&(first, num_documents): &(u32, u64)| {
            (first, Cluster { num_documents, documents: vec![entries[first as usize].index] })
        };
        let mut largest: Vec<(u32, Cluster)> = largest.iter().map(cluster).collect();
        let mut file = Appender::new(Nameless::create(dir, "near-duplicates")?, 4096);
        for (number, entry) in (0u32..).zip(entries) {
            let first = clusters.first(number);
            if first == number {
                continue;
            }
            file.push(Dropped { index: entry.index, kept: entries[first as usize].index })?;
            if let Some((_, cluster)) = largest.iter_mut().find(|(of, _)| *of == first)
                && cluster.documents.len() < NUM_EXAMPLES
            {
                cluster.documents.push(entry.index);
            }
        }
        let dropped = file.finish()?.records()?;
        let largest = largest.into_iter().map(|(_, cluster)| cluster).collect();
        Ok(NearDuplicates { dropped, num_clusters, largest })
    }

    /// Whether document `index` is dropped: one before it is nearly the same.
    pub fn is_duplicate(&self, index: u64) -> bool {
        self.kept_for(index).is_some()
    }

    /// The document that is kept in place of document `index`, if that is dropped.
    pub fn kept_for(&self, index: u64) -> Option<u64> {
        let found = self.dropped.binary_search_by_key(&index, |dropped| dropped.index).ok()?;
        Some(self.dropped[found].kept)
    }

    /// Documents that are dropped.
    pub fn num_duplicates(&self) -> u64 {
        self.dropped.len() as u64
    }

    /// Clusters of two documents or more.
    pub fn num_clusters(&self) -> u64 {
        self.num_clusters
    }

    /// The ten largest clusters, the largest first, with up to ten documents of each.
    pub fn largest_clusters(&self) -> &[Cluster] {
        &self.largest
    }
}
