//! Which documents belong together: union-find over the documents' numbers, in a mapped file.
//!
//! The first document of a cluster is its root, so that nothing depends on the order in which pairs come. A root holds
//! the size of its cluster, negated, and every other document holds one before it; paths are halved when they are
//! walked. 4 bytes a document.

use super::log::{Appender, Nameless, RecordsMut};
use crate::error::Error;
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::path::Path;

/// Most documents: a size and its sign are 32 bits.
pub(crate) const MAX_DOCUMENTS: u64 = i32::MAX as u64;
/// Records that are written at a time.
const WRITE_RECORDS: usize = 64 << 10;

/// A few documents that are nearly the same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cluster {
    /// How many there are.
    pub num_documents: u64,
    /// The first of them in order, of which the very first is kept.
    pub documents: Vec<u64>,
}

/// A partition of the documents.
pub(crate) struct Clusters {
    links: RecordsMut<i32>,
}

impl Clusters {
    /// Every one of `num_documents`, at most [`MAX_DOCUMENTS`], by itself.
    ///
    /// # Errors
    /// If the scratch file in `dir` cannot be written.
    pub(crate) fn create(dir: &Path, num_documents: usize) -> Result<Self, Error> {
        // Written before it is mapped: a full disk is an error here, not a signal later.
        let mut file = Appender::new(Nameless::create(dir, "clusters")?, WRITE_RECORDS);
        for _ in 0..num_documents {
            file.push(-1)?;
        }
        Ok(Clusters { links: file.finish()?.records_mut()? })
    }

    /// The first document of the cluster that `document` is in.
    pub(crate) fn first(&mut self, document: u32) -> u32 {
        let mut at = document;
        loop {
            let next = self.links[at as usize];
            if next < 0 {
                return at;
            }
            let after = self.links[next as usize];
            if after < 0 {
                return next as u32;
            }
            self.links[at as usize] = after;
            at = after as u32;
        }
    }

    /// Makes one cluster of two, given their first documents.
    pub(crate) fn join(&mut self, a: u32, b: u32) {
        let (first, second) = (a.min(b) as usize, a.max(b) as usize);
        debug_assert!(first != second && self.links[first] < 0 && self.links[second] < 0);
        self.links[first] += self.links[second];
        self.links[second] = first as i32;
    }

    /// The clusters of more than one document: how many there are, and the first documents and sizes of the `most`
    /// largest, the largest first.
    pub(crate) fn largest(&self, most: usize) -> (u64, Vec<(u32, u64)>) {
        let (mut num_clusters, mut heap) = (0, BinaryHeap::new());
        for (document, link) in self.links.iter().enumerate().filter(|(_, link)| **link < -1) {
            num_clusters += 1;
            heap.push(Reverse((link.unsigned_abs(), Reverse(document as u32))));
            if heap.len() > most {
                heap.pop();
            }
        }
        let largest = heap.into_sorted_vec().into_iter();
        (num_clusters, largest.map(|Reverse((size, Reverse(first)))| (first, u64::from(size))).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::permutation::mix;

    #[test]
    fn roots_are_the_first_whatever_the_order() {
        let dir = tempfile::tempdir().expect("folder");
        let pairs: Vec<(u32, u32)> =
            (0..400).map(|i| (mix(i) as u32 % 1000, mix(i + 1000) as u32 % 1000)).collect();
        // The reference: labels that are lowered until nothing changes.
        let mut labels: Vec<u32> = (0..1000).collect();
        while pairs.iter().any(|&(a, b)| labels[a as usize] != labels[b as usize]) {
            for &(a, b) in &pairs {
                let least = labels[a as usize].min(labels[b as usize]);
                (labels[a as usize], labels[b as usize]) = (least, least);
            }
        }
        let reversed = pairs.iter().rev().map(|&(a, b)| (b, a)).collect();
        for pairs in [pairs.clone(), reversed] {
            let mut clusters = Clusters::create(dir.path(), 1000).expect("clusters");
            for (a, b) in pairs {
                let (a, b) = (clusters.first(a), clusters.first(b));
                if a != b {
                    clusters.join(a, b);
                }
            }
            let got: Vec<u32> = (0..1000).map(|document| clusters.first(document)).collect();
            assert_eq!(got, labels);
            let (num_clusters, largest) = clusters.largest(3);
            let size = |label| labels.iter().filter(|l| **l == label).count() as u64;
            assert_eq!(num_clusters, (0..1000).filter(|label| size(*label) > 1).count() as u64);
            let mut want: Vec<(u32, u64)> = (0..1000).map(|label| (label, size(label))).collect();
            want.sort_by_key(|&(label, size)| (Reverse(size), label));
            assert_eq!(largest, want[..3]);
        }
    }

    #[test]
    fn no_documents_are_no_clusters() {
        let dir = tempfile::tempdir().expect("folder");
        assert_eq!(Clusters::create(dir.path(), 0).expect("clusters").largest(3), (0, Vec::new()));
    }
}
