//! Counts the distinct words of a corpus: all that the trainer needs of it.
//!
//! The trick: one flat table of 24-byte slots holds every word of up to 15 bytes with its count; only longer words go
//! through an arena. Words are looked up in groups, the first touch of all their slots before the first comparison, so
//! that the misses overlap. Each thread fills its own table. One that has used up its share of memory writes what it
//! holds to disk, sorted, and goes on empty: [`crate::spill`] adds the runs up. No result depends on the order.

use crate::error::Error;
use crate::spill::{Run, RunFile, Sorted};
use crate::splitter::Splitter;
use crate::word::{Interner, Key, SHORT, random_seed};
use std::path::PathBuf;

/// How much memory training may take, and where it goes on when that is used up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemoryLimit {
    /// The most memory that the process shall have resident, in bytes. Half of it goes to tables of words; the rest is
    /// for their growth and for whatever reads the corpus.
    pub max_bytes: u64,
    /// A folder on a disk. Files in it have no name, so that nothing is left behind however the process ends.
    pub folder: PathBuf,
}

/// A distinct word of at most [`SHORT`] bytes and how often it occurs.
#[derive(Clone, Copy, Default)]
pub(crate) struct Slot {
    pub(crate) key: Key,
    pub(crate) count: u64,
}

/// The size of an empty table.
const FIRST_SLOTS: usize = 1 << 12;
/// Words looked up together. Other sizes were not tried.
const GROUP: usize = 32;

/// Distinct words of a corpus, as a [`Splitter`] cuts them, and how often each occurs.
pub struct WordCounts {
    splitter: Splitter,
    short: Vec<Slot>,
    num_short: usize,
    /// Words that wait to be looked up together.
    group: Vec<Key>,
    long: Interner,
    /// The count of each word of `long`.
    long_counts: Vec<u64>,
    /// What was sorted, and what was written to disk.
    runs: Vec<Run>,
    file: Option<RunFile>,
    limit: Option<Share>,
    num_bytes: u64,
    seed: u64,
    /// The first thing that went wrong. After it nothing is counted.
    failure: Option<Error>,
}

/// The part of a [`MemoryLimit`] that one table has.
struct Share {
    max_bytes: usize,
    folder: PathBuf,
}

impl Default for WordCounts {
    fn default() -> Self {
        Self::new()
    }
}

impl WordCounts {
    /// No words, to be cut as GPT-2 does.
    pub fn new() -> Self {
        Self::with_splitter(&Splitter::default())
    }

    /// No words, to be cut by `splitter`.
    pub fn with_splitter(splitter: &Splitter) -> Self {
        Self {
            splitter: splitter.clone(),
            short: vec![Slot::default(); FIRST_SLOTS],
            num_short: 0,
            group: Vec::with_capacity(GROUP),
            long: Interner::new(),
            long_counts: Vec::new(),
            runs: Vec::new(),
            file: None,
            limit: None,
            num_bytes: 0,
            seed: random_seed(),
            failure: None,
        }
    }

    /// One of `num_threads` tables that share the memory of `limit` and go to disk beyond it.
    #[must_use]
    pub fn limited(mut self, limit: &MemoryLimit, num_threads: usize) -> Self {
        let max_bytes = (limit.max_bytes / 2 / num_threads.max(1) as u64) as usize;
        self.limit = Some(Share { max_bytes, folder: limit.folder.clone() });
        self
    }

    /// Counts the words of one document. Special tokens in the text are text, as for the `tokenizers` trainer.
    ///
    /// What goes wrong, on disk or in a normalizer, is told by [`WordCounts::check`], and by training.
    pub fn add(&mut self, text: &str) {
        if self.failure.is_some() {
            return;
        }
        if let Err(error) = self.try_add(text) {
            self.failure = Some(error);
        }
    }

    /// Whether all that was added was counted.
    ///
    /// # Errors
    /// [`Error::Spill`] or [`Error::Library`], once; the counts are of no use then.
    pub fn check(&mut self) -> Result<(), Error> {
        self.failure.take().map_or(Ok(()), Err)
    }

    /// Whether [`WordCounts::check`] has something to tell.
    pub fn has_failed(&self) -> bool {
        self.failure.is_some()
    }

    /// Sorts what is in memory, which [`WordCounts::merge`] and training do otherwise: here it runs in the caller's thread.
    pub fn seal(&mut self) {
        self.flush();
        if self.num_short > 0 || self.long.len() > 0 {
            let sorted = self.take_sorted();
            self.runs.push(Run::Memory(sorted));
        }
    }

    /// Adds all counts of `other`.
    pub fn merge(&mut self, mut other: Self) {
        other.seal();
        self.num_bytes += other.num_bytes;
        self.runs.append(&mut other.runs);
        self.failure = self.failure.take().or(other.failure.take());
    }

    /// UTF-8 bytes of all the text added.
    pub fn num_bytes(&self) -> u64 {
        self.num_bytes
    }

    /// What cuts the text.
    pub(crate) fn splitter(&self) -> &Splitter {
        &self.splitter
    }

    /// Sorted runs of words on disk, and their bytes.
    pub fn spilled(&self) -> (usize, u64) {
        let on_disk = self.runs.iter().filter_map(Run::num_disk_bytes);
        on_disk.fold((0, 0), |(num, bytes), more| (num + 1, bytes + more))
    }

    /// Every word, sorted within each run; a word may be in several.
    pub(crate) fn into_runs(mut self) -> Result<Vec<Run>, Error> {
        self.check()?;
        self.seal();
        Ok(self.runs)
    }

    fn try_add(&mut self, text: &str) -> Result<(), Error> {
        let text = self.splitter.normalize(text)?;
        let text = self.splitter.with_prefix(&text);
        let (text, pattern) = (text.as_bytes(), self.splitter.pattern());
        self.num_bytes += text.len() as u64;
        pattern.for_each_word(text, |start, end| {
            if end - start <= SHORT {
                self.group.push(Key::new(text, start, end));
                if self.group.len() == GROUP {
                    self.flush();
                }
            } else {
                self.add_long(&text[start..end]);
            }
        });
        if self.is_full() { self.spill() } else { Ok(()) }
    }

    /// Counts the words of `group`.
    fn flush(&mut self) {
        let mut homes = [0; GROUP];
        let mask = self.short.len() - 1;
        let mut touched = 0;
        for (home, key) in homes.iter_mut().zip(&self.group) {
            *home = key.hash(self.seed) as usize;
            touched |= self.short[*home & mask].count;
        }
        // The loads above only serve to bring the slots into the cache, all at once.
        std::hint::black_box(touched);
        let group = std::mem::take(&mut self.group);
        for (&home, &key) in homes.iter().zip(&group) {
            self.add_short(home, key);
        }
        self.group = group;
        self.group.clear();
    }

    #[inline]
    fn add_short(&mut self, home: usize, key: Key) {
        let mask = self.short.len() - 1;
        let mut at = home & mask;
        loop {
            let slot = &mut self.short[at];
            if slot.key == key {
                slot.count += 1;
                return;
            }
            if slot.key.is_free() {
                *slot = Slot { key, count: 1 };
                break;
            }
            at = (at + 1) & mask;
        }
        self.num_short += 1;
        // Past its share a table is filled further, and grows only within a document that brings too many words.
        let len = self.short.len();
        if self.num_short * 2 > len && (self.may_grow() || self.num_short * 8 > len * 7) {
            self.grow();
        }
    }

    fn grow(&mut self) {
        let mask = self.short.len() * 2 - 1;
        let mut grown = vec![Slot::default(); mask + 1];
        for slot in self.short.iter().filter(|slot| !slot.key.is_free()) {
            let mut at = slot.key.hash(self.seed) as usize & mask;
            while !grown[at].key.is_free() {
                at = (at + 1) & mask;
            }
            grown[at] = *slot;
        }
        self.short = grown;
    }

    fn add_long(&mut self, word: &[u8]) {
        let index = self.long.intern(word);
        if index == self.long_counts.len() {
            self.long_counts.push(0);
        }
        self.long_counts[index] += 1;
    }

    fn long_bytes(&self) -> usize {
        // Each word has its end, its count and, at half load, two slots.
        self.long.num_bytes() + 32 * self.long.len()
    }

    fn may_grow(&self) -> bool {
        let grown = self.short.len() * 2 * size_of::<Slot>() + self.long_bytes();
        self.limit.as_ref().is_none_or(|share| grown <= share.max_bytes)
    }

    fn is_full(&self) -> bool {
        let Some(share) = &self.limit else { return false };
        let bytes = self.short.len() * size_of::<Slot>() + self.long_bytes();
        let is_crowded = self.num_short * 4 > self.short.len() * 3 && !self.may_grow();
        is_crowded || (bytes > share.max_bytes && self.num_short + self.long.len() > FIRST_SLOTS / 2)
    }

    /// Writes what is in memory to disk.
    fn spill(&mut self) -> Result<(), Error> {
        self.flush();
        let Some(share) = &self.limit else { return Ok(()) };
        if self.file.is_none() {
            self.file = Some(RunFile::create(&share.folder)?);
        }
        let num_slots = self.short.len();
        let mut sorted = self.take_sorted();
        if let Some(file) = &mut self.file {
            self.runs.push(file.write(&sorted)?);
        }
        // The table's memory serves again.
        let mut slots = std::mem::take(&mut sorted.short);
        slots.clear();
        slots.resize(num_slots, Slot::default());
        self.short = slots;
        Ok(())
    }

    /// Everything in memory, sorted in place; the table is empty after it.
    fn take_sorted(&mut self) -> Sorted {
        let mut short = std::mem::replace(&mut self.short, vec![Slot::default(); FIRST_SLOTS]);
        self.num_short = 0;
        short.retain(|slot| !slot.key.is_free());
        short.sort_unstable_by_key(|slot| slot.key.order());
        let long = std::mem::replace(&mut self.long, Interner::new());
        Sorted::new(short, long, std::mem::take(&mut self.long_counts))
    }
}

impl std::fmt::Debug for WordCounts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("WordCounts").field("num_bytes", &self.num_bytes).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spill::for_each_word;
    use crate::split::Pattern;
    use std::collections::BTreeMap;

    fn table(counts: WordCounts) -> Vec<(Vec<u8>, u64)> {
        let mut table = Vec::new();
        let mut push = |word: &[u8], count| {
            table.push((word.to_vec(), count));
            Ok(())
        };
        for_each_word(counts.into_runs().expect("counted"), &mut push).expect("read");
        table
    }

    #[test]
    fn counts_are_those_of_a_plain_map_and_add_up() {
        let texts: Vec<String> = (0..4000)
            .map(|i| {
                format!(
                    "a{} word {} a_rather_long_identifier{}\n    x w{i} \0 é{}",
                    i % 7,
                    "xyz".repeat(i % 9),
                    "q".repeat(i % 5000),
                    i * i
                )
            })
            .collect();
        let mut expected = BTreeMap::new();
        for word in texts.iter().flat_map(|text| Pattern::Gpt2.words(text)) {
            *expected.entry(word.as_bytes().to_vec()).or_insert(0) += 1;
        }
        let expected: Vec<(Vec<u8>, u64)> = expected.into_iter().collect();
        let folder = tempfile::tempdir().expect("a temporary folder");
        for max_bytes in [u64::MAX, 1 << 20, 0] {
            let limit = MemoryLimit { max_bytes, folder: folder.path().to_path_buf() };
            let mut parts = [(); 3].map(|()| WordCounts::new().limited(&limit, 2));
            for (i, text) in texts.iter().enumerate() {
                parts[(i % 5).min(2)].add(text);
            }
            let [mut all, second, third] = parts;
            all.merge(second);
            all.merge(third);
            assert_eq!(all.num_bytes(), texts.iter().map(|text| text.len() as u64).sum::<u64>());
            assert_eq!(all.spilled().0 > 0, max_bytes < u64::MAX);
            assert_eq!(table(all), expected, "{max_bytes}");
        }
        assert_eq!(std::fs::read_dir(folder.path()).expect("a folder").count(), 0, "files have no name");
    }

    #[test]
    fn a_folder_that_cannot_be_written_is_told() {
        let limit = MemoryLimit { max_bytes: 0, folder: "/nonexistent/folder".into() };
        let mut counts = WordCounts::new().limited(&limit, 1);
        let text: String = (0..9000).map(|i| format!(" w{i}x{}", i * 7)).collect();
        counts.add(&text);
        let error = counts.check().expect_err("refused");
        assert!(matches!(error, Error::Spill { .. }), "{error}");
        assert!(error.to_string().contains("/nonexistent/folder"), "{error}");
    }
}
