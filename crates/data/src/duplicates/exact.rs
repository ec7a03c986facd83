//! Exact duplicates: a set of 128-bit hashes of any size in bounded memory.
//!
//! New hashes go into a table; a full table is sorted and becomes a run, a file without a name that is mapped. A run that
//! is not at least twice as long as the one after it is merged with that, so there are few, log₂ of how often the table
//! was full. Hashes are spread evenly, so that where one lies in a run is known to about the root of the run's length:
//! a search looks at a handful of pages.
//!
//! The truth is a log: every hash that was new, in order. Resuming reads it again up to a number of hashes, so the runs
//! need not survive.

use super::log::{Appender, Log, Nameless, Records, damaged, num_bytes};
use super::sorter::merge_two;
use crate::error::Error;
use rayon::prelude::*;
use std::path::{Path, PathBuf};

/// The file of hashes.
const HASHES: &str = "exact-hashes";
/// Slots of the smallest table.
const MIN_SLOTS: usize = 64;
/// Hashes that are written at a time when runs are merged.
const WRITE_HASHES: usize = 16 << 10;
/// Hashes that are looked at one by one.
const SCAN: usize = 32;

/// Hashes that were met.
pub struct Seen {
    dir: PathBuf,
    log: Log<u128>,
    table: Table,
    /// Sorted hashes, the longest run first.
    runs: Vec<Records<u128>>,
}

impl Seen {
    /// An empty set with scratch in the folder `dir`, which is made if it is not there. The table takes a power of two
    /// of bytes, at most `budget_bytes` but never less than 1 KiB.
    ///
    /// # Errors
    /// If nothing can be written there.
    pub fn create(dir: &Path, budget_bytes: usize) -> Result<Self, Error> {
        std::fs::create_dir_all(dir).map_err(|source| Error::Write { path: dir.to_owned(), source })?;
        Ok(Self::with(dir, budget_bytes, Log::create(dir.join(HASHES))?))
    }

    /// The set as it was after its first `num_hashes`.
    ///
    /// # Errors
    /// If the log in `dir` cannot be read or written, holds fewer, or was damaged.
    pub fn resume(dir: &Path, budget_bytes: usize, num_hashes: u64) -> Result<Self, Error> {
        let mut log: Log<u128> = Log::resume(dir.join(HASHES), num_hashes)?;
        let hashes = log.records()?;
        let mut seen = Self::with(dir, budget_bytes, log);
        for (number, hash) in (0u64..).zip(hashes.iter()) {
            // Neither is ever written: pages that a crash left empty hold zeros.
            if *hash == 0 || !seen.table.insert(*hash) {
                let found = if *hash == 0 { "zeros" } else { "one that came before" };
                let offset = num_bytes::<u128>(number);
                return Err(damaged(seen.log.path(), offset, "a new hash".to_owned(), found.to_owned()));
            }
            seen.spill_if_full()?;
        }
        Ok(seen)
    }

    fn with(dir: &Path, budget_bytes: usize, log: Log<u128>) -> Self {
        let num_slots = (budget_bytes / size_of::<u128>()).max(MIN_SLOTS);
        let table = Table::new(num_slots);
        Seen { dir: dir.to_owned(), log, table, runs: Vec::new() }
    }

    /// Hashes in the set.
    pub fn num_hashes(&self) -> u64 {
        self.log.len()
    }

    /// Adds a hash whose bits are as good as random. False if it is there already.
    ///
    /// # Errors
    /// If writing fails.
    pub fn insert(&mut self, hash: [u8; 16]) -> Result<bool, Error> {
        // Zero marks an empty slot. One is taken for it, which is as unlikely as any two texts with the same hash.
        let hash = u128::from_be_bytes(hash).max(1);
        if self.table.contains(hash) || self.runs.iter().any(|run| is_in(run, hash)) {
            return Ok(false);
        }
        self.log.push(&hash)?;
        self.table.insert(hash);
        self.spill_if_full()?;
        Ok(true)
    }

    /// Makes the log durable, so that [`resume`](Seen::resume) can restore the set as it is.
    ///
    /// # Errors
    /// If writing fails.
    pub fn sync(&mut self) -> Result<(), Error> {
        self.log.sync()
    }

    fn spill_if_full(&mut self) -> Result<(), Error> {
        if !self.table.is_full() {
            return Ok(());
        }
        let mut run = Nameless::create(&self.dir, "hashes")?;
        run.push_all(self.table.sort())?;
        self.table.clear();
        self.runs.push(run.records()?);
        while let [.., before, last] = &self.runs[..]
            && before.len() < 2 * last.len()
        {
            let mut merged = Appender::new(Nameless::create(&self.dir, "hashes")?, WRITE_HASHES);
            merge_two(before, last, &mut merged)?;
            let merged = merged.finish()?.records()?;
            self.runs.truncate(self.runs.len() - 2);
            self.runs.push(merged);
        }
        Ok(())
    }
}

/// Whether a sorted run holds `hash`.
fn is_in(run: &[u128], hash: u128) -> bool {
    let upper = |hash: u128| (hash >> 64) as u64;
    // Everything before run[low..high] is less than `hash` or equal to run[low], everything after is greater. The upper
    // halves there are between `least` and `most`.
    let (mut low, mut high, mut least, mut most) = (0, run.len(), 0, u64::MAX);
    while high - low > SCAN {
        let width = high - low;
        let share = (upper(hash) - least) as f64 / (most - least) as f64;
        let guess = low + ((share * width as f64) as usize).min(width - 1);
        // Of evenly spread hashes the right place is nearly always this near.
        let reach = width.isqrt();
        for step in [Some(guess.saturating_sub(reach)), Some(guess.saturating_add(reach)), None] {
            let probe = match step {
                Some(probe) => probe,
                // The middle, so that no run takes long, however its hashes are spread.
                None if high - low > width / 2 => low + (high - low) / 2,
                None => break,
            };
            if !(low + 1..high).contains(&probe) {
                continue;
            }
            if run[probe] <= hash {
                (low, least) = (probe, upper(run[probe]));
            } else {
                (high, most) = (probe, upper(run[probe]));
            }
        }
    }
    run[low..high].contains(&hash)
}

/// Hashes by open addressing. Zero is an empty slot.
struct Table {
    slots: Vec<u128>,
    len: usize,
}

impl Table {
    /// The largest table of a power of two that is not more than `num_slots`.
    fn new(num_slots: usize) -> Self {
        Table { slots: vec![0; 1 << num_slots.ilog2()], len: 0 }
    }

    /// Where `hash` is, or would be.
    fn slot(&self, hash: u128) -> usize {
        let mask = self.slots.len() - 1;
        let mut slot = (hash ^ hash >> 64) as usize & mask;
        // At least a quarter is empty.
        while self.slots[slot] != 0 && self.slots[slot] != hash {
            slot = (slot + 1) & mask;
        }
        slot
    }

    fn contains(&self, hash: u128) -> bool {
        self.slots[self.slot(hash)] == hash
    }

    /// False if it was there.
    fn insert(&mut self, hash: u128) -> bool {
        let slot = self.slot(hash);
        let is_new = self.slots[slot] != hash;
        self.slots[slot] = hash;
        self.len += usize::from(is_new);
        is_new
    }

    fn is_full(&self) -> bool {
        self.len >= self.slots.len() / 4 * 3
    }

    /// The hashes in order; the table is one no more until it is cleared.
    fn sort(&mut self) -> &[u128] {
        self.slots.par_sort_unstable();
        &self.slots[self.slots.len() - self.len..]
    }

    fn clear(&mut self) {
        self.slots.fill(0);
        self.len = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_is_searched_however_its_hashes_are_spread() {
        let even: Vec<u128> = (0..5000).map(|i| i * (u128::MAX / 5000) + i % 7).collect();
        let squares: Vec<u128> = (1..3000).map(|i: u128| i * i).collect();
        let powers: Vec<u128> = (0..128).map(|i| 1 << i).collect();
        let ends: Vec<u128> = (0..300).chain((0..300).map(|i| u128::MAX - 299 + i)).collect();
        for run in [even, squares, powers, ends, (0..10_000).collect(), vec![], vec![5], vec![u128::MAX; 1]] {
            for hash in run.iter().flat_map(|h| [h.saturating_sub(1), *h, h.saturating_add(1)]) {
                assert_eq!(is_in(&run, hash), run.binary_search(&hash).is_ok(), "{hash}");
            }
            assert_eq!(is_in(&run, 0), run.contains(&0));
            assert_eq!(is_in(&run, u128::MAX), run.contains(&u128::MAX));
        }
    }
}
