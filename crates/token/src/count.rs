//! Counts the distinct words of a corpus: all that the trainer needs of it.
//!
//! The trick: one flat table of 24-byte slots holds every word of up to 15 bytes with its count; only longer words go
//! through an arena. Each thread fills its own and [`WordCounts::merge`] adds them up; no result depends on the order.

use crate::split::Pattern;
use crate::word::{Interner, Key, SHORT, random_seed};

#[derive(Clone, Copy, Default)]
struct Slot {
    key: Key,
    count: u64,
}

/// Distinct words of a corpus, as the pre-tokenizer cuts them, and how often each occurs.
#[derive(Clone)]
pub struct WordCounts {
    short: Vec<Slot>,
    num_short: usize,
    long: Interner,
    /// The count of each word of `long`.
    long_counts: Vec<u64>,
    num_bytes: u64,
    seed: u64,
}

impl Default for WordCounts {
    fn default() -> Self {
        Self::new()
    }
}

impl WordCounts {
    /// No words.
    pub fn new() -> Self {
        Self {
            short: vec![Slot::default(); 1 << 12],
            num_short: 0,
            long: Interner::new(),
            long_counts: Vec::new(),
            num_bytes: 0,
            seed: random_seed(),
        }
    }

    /// Counts the words of one document. Special tokens in the text are text, as for the `tokenizers` trainer.
    pub fn add(&mut self, text: &str) {
        let text = text.as_bytes();
        self.num_bytes += text.len() as u64;
        let mut start = 0;
        while let Some(end) = Pattern::Gpt2.next_word(text, start) {
            if end - start <= SHORT {
                self.add_short(Key::new(text, start, end), 1);
            } else {
                self.add_long(&text[start..end], 1);
            }
            start = end;
        }
    }

    /// Adds all counts of `other`.
    pub fn merge(&mut self, other: Self) {
        self.num_bytes += other.num_bytes;
        for slot in other.short.iter().filter(|slot| !slot.key.is_free()) {
            self.add_short(slot.key, slot.count);
        }
        for (index, &count) in other.long_counts.iter().enumerate() {
            self.add_long(other.long.get(index), count);
        }
    }

    /// UTF-8 bytes of all the text added.
    pub fn num_bytes(&self) -> u64 {
        self.num_bytes
    }

    /// The number of distinct words.
    pub fn num_words(&self) -> usize {
        self.num_short + self.long.len()
    }

    /// Calls `f` with each distinct word and its count.
    pub(crate) fn for_each(&self, mut f: impl FnMut(&[u8], u64)) {
        for slot in self.short.iter().filter(|slot| !slot.key.is_free()) {
            let (bytes, length) = slot.key.bytes();
            f(&bytes[..length], slot.count);
        }
        for (index, &count) in self.long_counts.iter().enumerate() {
            f(self.long.get(index), count);
        }
    }

    #[inline]
    fn add_short(&mut self, key: Key, count: u64) {
        let mask = self.short.len() - 1;
        let mut at = key.hash(self.seed) as usize & mask;
        loop {
            let slot = &mut self.short[at];
            if slot.key == key {
                slot.count += count;
                return;
            }
            if slot.key.is_free() {
                *slot = Slot { key, count };
                break;
            }
            at = (at + 1) & mask;
        }
        self.num_short += 1;
        if self.num_short * 2 > self.short.len() {
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

    fn add_long(&mut self, word: &[u8], count: u64) {
        let index = self.long.intern(word);
        if index == self.long_counts.len() {
            self.long_counts.push(0);
        }
        self.long_counts[index] += count;
    }
}

impl std::fmt::Debug for WordCounts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("WordCounts")
            .field("num_words", &self.num_words())
            .field("num_bytes", &self.num_bytes)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    fn table(counts: &WordCounts) -> BTreeMap<Vec<u8>, u64> {
        let mut table = BTreeMap::new();
        counts.for_each(|word, count| assert!(table.insert(word.to_vec(), count).is_none()));
        table
    }

    #[test]
    fn counts_are_those_of_a_plain_map_and_add_up() {
        let texts: Vec<String> = (0..4000)
            .map(|i| {
                format!(
                    "a{} word {} a_rather_long_identifier{}\n    x",
                    i % 7,
                    "xyz".repeat(i % 9),
                    "q".repeat(i % 5000)
                )
            })
            .collect();
        let mut expected = BTreeMap::new();
        for word in texts.iter().flat_map(|text| Pattern::Gpt2.words(text)) {
            *expected.entry(word.as_bytes().to_vec()).or_insert(0) += 1;
        }
        let (mut whole, mut half, mut other) = (WordCounts::new(), WordCounts::new(), WordCounts::new());
        for (i, text) in texts.iter().enumerate() {
            whole.add(text);
            if i % 3 == 0 { half.add(text) } else { other.add(text) }
        }
        half.merge(other);
        assert_eq!(table(&whole), expected);
        assert_eq!(table(&half), expected);
        assert_eq!(whole.num_words(), expected.len());
        assert_eq!(half.num_bytes(), texts.iter().map(|text| text.len() as u64).sum::<u64>());
    }
}
