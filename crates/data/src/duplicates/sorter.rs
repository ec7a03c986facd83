//! External sorting: runs as large as the memory allows are sorted and written, then read side by side, least first.
//!
//! All runs lie in one file without a name. Where there are more than can be read at once, the oldest are merged into a
//! longer one first. The order is that of the records alone, and records that compare equal are alike, so the result
//! depends neither on the memory nor on the number of threads.

use super::log::{Appender, Nameless};
use crate::error::Error;
use bytemuck::Pod;
use rayon::prelude::*;
use std::cmp::Reverse;
use std::collections::VecDeque;
use std::collections::binary_heap::{BinaryHeap, PeekMut};
use std::ops::Range;
use std::path::Path;

/// Memory that a run is read with, in bytes: enough that a disk which seeks is not slow, and no more than helps.
const RUN_BYTES: std::ops::RangeInclusive<usize> = 16 << 10..=1 << 20;

/// Takes records in any order.
pub(crate) struct Sorter<T> {
    file: Nameless<T>,
    /// Where the runs lie, in records.
    runs: VecDeque<Range<u64>>,
    buffer: Vec<T>,
    budget_bytes: usize,
}

impl<T: Pod + Ord + Send> Sorter<T> {
    /// Sorts in `budget_bytes` of memory, with scratch in `dir`.
    ///
    /// # Errors
    /// If no file can be made there.
    pub(crate) fn create(dir: &Path, budget_bytes: usize) -> Result<Self, Error> {
        let file = Nameless::create(dir, "runs")?;
        Ok(Sorter { file, runs: VecDeque::new(), buffer: Vec::new(), budget_bytes })
    }

    /// Adds records.
    ///
    /// # Errors
    /// If writing fails.
    pub(crate) fn push_all(&mut self, mut records: &[T]) -> Result<(), Error> {
        let capacity = (self.budget_bytes / size_of::<T>()).max(1);
        self.buffer.reserve_exact(capacity - self.buffer.len());
        while !records.is_empty() {
            let (now, rest) = records.split_at(records.len().min(capacity - self.buffer.len()));
            self.buffer.extend_from_slice(now);
            records = rest;
            if self.buffer.len() == capacity {
                self.spill()?;
            }
        }
        Ok(())
    }

    fn spill(&mut self) -> Result<(), Error> {
        self.buffer.par_sort_unstable();
        let start = self.file.len();
        self.file.push_all(&self.buffer)?;
        self.runs.push_back(start..self.file.len());
        self.buffer.clear();
        Ok(())
    }

    /// All records, in order.
    ///
    /// # Errors
    /// If writing or reading fails.
    pub(crate) fn finish(mut self) -> Result<Merge<T>, Error> {
        self.spill()?;
        self.buffer = Vec::new();
        let most = (self.budget_bytes / RUN_BYTES.start()).max(2);
        let mut file = self.file;
        while self.runs.len() > most {
            let start = file.len();
            let merge = Merge::new(file, self.runs.drain(..most), self.budget_bytes)?;
            file = merge.append_to_its_file()?;
            self.runs.push_back(start..file.len());
        }
        Merge::new(file, self.runs.drain(..), self.budget_bytes)
    }
}

/// Sorted runs, read side by side.
pub(crate) struct Merge<T> {
    file: Nameless<T>,
    runs: Vec<Run<T>>,
    /// The next record of every run that has one.
    heads: BinaryHeap<Reverse<(T, usize)>>,
}

/// A run that is being read.
struct Run<T> {
    /// What is still in the file.
    rest: Range<u64>,
    buffer: Vec<T>,
    at: usize,
}

impl<T: Pod + Ord> Run<T> {
    fn next(&mut self, file: &Nameless<T>) -> Result<Option<T>, Error> {
        if self.at == self.buffer.len() {
            let len = (self.buffer.len() as u64).min(self.rest.end - self.rest.start);
            self.buffer.truncate(len as usize);
            file.read(self.rest.start, &mut self.buffer)?;
            self.rest.start += len;
            self.at = 0;
        }
        let record = self.buffer.get(self.at).copied();
        self.at += usize::from(record.is_some());
        Ok(record)
    }
}

impl<T: Pod + Ord> Merge<T> {
    fn new(
        file: Nameless<T>,
        runs: impl ExactSizeIterator<Item = Range<u64>>,
        budget_bytes: usize,
    ) -> Result<Self, Error> {
        // One buffer more is for writing, where runs are merged into one.
        let run_bytes = (budget_bytes / (runs.len() + 1)).min(*RUN_BYTES.end());
        let capacity = (run_bytes / size_of::<T>()).max(1);
        let mut merge = Merge { file, runs: Vec::new(), heads: BinaryHeap::with_capacity(runs.len()) };
        for (number, rest) in runs.enumerate() {
            let len = (rest.end - rest.start).min(capacity as u64) as usize;
            let mut run = Run { rest, buffer: vec![T::zeroed(); len], at: len };
            if let Some(record) = run.next(&merge.file)? {
                merge.heads.push(Reverse((record, number)));
            }
            merge.runs.push(run);
        }
        Ok(merge)
    }

    /// The least record that is left.
    ///
    /// # Errors
    /// If reading fails.
    pub(crate) fn next(&mut self) -> Result<Option<T>, Error> {
        let Some(mut head) = self.heads.peek_mut() else { return Ok(None) };
        let Reverse((record, number)) = *head;
        match self.runs[number].next(&self.file)? {
            Some(next) => *head = Reverse((next, number)),
            None => drop(PeekMut::pop(head)),
        }
        Ok(Some(record))
    }

    /// Writes what is left behind the runs, and gives the file back.
    fn append_to_its_file(mut self) -> Result<Nameless<T>, Error> {
        let capacity = self.runs.iter().map(|run| run.buffer.len()).max().unwrap_or(1).max(1);
        let mut buffer = Vec::with_capacity(capacity);
        while let Some(record) = self.next()? {
            buffer.push(record);
            if buffer.len() == capacity {
                self.file.push_all(&buffer)?;
                buffer.clear();
            }
        }
        self.file.push_all(&buffer)?;
        Ok(self.file)
    }
}

/// Writes what two sorted lists hold to a file, in order.
///
/// # Errors
/// If writing fails.
pub(crate) fn merge_two<T: Pod + Ord>(a: &[T], b: &[T], out: &mut Appender<T>) -> Result<(), Error> {
    let (mut a, mut b) = (a.iter().peekable(), b.iter().peekable());
    loop {
        let next = match (a.peek(), b.peek()) {
            (Some(x), Some(y)) if y < x => b.next(),
            (Some(_), _) => a.next(),
            (None, _) => b.next(),
        };
        match next {
            Some(record) => out.push(*record)?,
            None => return Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::permutation::mix;

    #[test]
    fn any_memory_gives_one_order() {
        let dir = tempfile::tempdir().expect("folder");
        for (num_records, budget_bytes) in
            [(0, 64), (1, 64), (100, 8), (1000, 800), (8000, 64 << 10), (9000, 64 << 10), (200_000, 40_000)]
        {
            let records: Vec<u64> = (0..num_records).map(|i| mix(i % 50_000)).collect();
            let mut sorter = Sorter::create(dir.path(), budget_bytes).expect("sorter");
            for part in records.chunks(777) {
                sorter.push_all(part).expect("push");
            }
            let mut merge = sorter.finish().expect("merge");
            let mut got = Vec::new();
            while let Some(record) = merge.next().expect("record") {
                got.push(record);
            }
            let mut want = records;
            want.sort_unstable();
            assert!(got == want, "{num_records} records in {budget_bytes} bytes");
        }
        assert_eq!(std::fs::read_dir(dir.path()).expect("folder").count(), 0, "files without a name");
    }
}
