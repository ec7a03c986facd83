//! The pairs of neighbouring symbols in all distinct words: how often each occurs, where, and which is next.
//!
//! All words lie end to end in one array; a symbol writes its length at its first and its last place, so that both
//! its neighbours are one step away and a merge touches nothing but the places where the pair occurs. Counts are in
//! one flat table. The queue is lazy: an entry whose count has changed since it was queued goes back when it comes up.
//!
//! An entry is the places recorded at one time. A pair has several only when one of its tokens was made by two
//! different merges; the library then merges, for each entry, all occurrences in the words of that entry, and so
//! does this file, because the order of the merges depends on it.

use crate::count::WordCounts;
use crate::error::Error;
use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;
use std::collections::binary_heap::PeekMut;

/// The id of a place that is not the first of a symbol any more.
const DEAD: u32 = u32::MAX;
/// No entry.
const NONE: u32 = u32::MAX;
/// A table slot without a pair.
const FREE: u64 = u64::MAX;

/// One place of a word: at first one byte.
#[derive(Clone, Copy)]
struct Place {
    /// The symbol that starts here, or [`DEAD`].
    id: u32,
    /// The length in places of the symbol, valid at its first place and at its last.
    span: u32,
    word: u32,
}

#[derive(Clone, Copy)]
struct Slot {
    /// Left id in the high half, right id in the low.
    pair: u64,
    count: i64,
    /// The latest of its entries that are still queued; they are chained.
    entries: u32,
    /// Occurrences recorded by the merge in progress.
    num_new: u32,
}

/// Where a pair was recorded: a range of `Pairs::recorded`.
struct Entry {
    start: usize,
    num: u32,
    /// The pair's entry before this one, or [`NONE`].
    previous: u32,
}

/// A queued entry: the highest count first, then the lowest pair, then the oldest entry.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Candidate {
    count: i64,
    pair: u64,
    entry: u32,
}

impl Candidate {
    pub(crate) fn left(&self) -> u32 {
        (self.pair >> 32) as u32
    }

    pub(crate) fn right(&self) -> u32 {
        self.pair as u32
    }
}

impl Ord for Candidate {
    fn cmp(&self, other: &Self) -> Ordering {
        let key = |candidate: &Self| (candidate.count, Reverse(candidate.pair), Reverse(candidate.entry));
        key(self).cmp(&key(other))
    }
}

impl PartialOrd for Candidate {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// See the head of this file.
pub(crate) struct Pairs {
    places: Vec<Place>,
    /// How often each word occurs in the corpus.
    word_counts: Vec<i64>,
    table: Table,
    entries: Vec<Entry>,
    /// The places of all entries. Within an entry they ascend.
    recorded: Vec<u32>,
    queue: BinaryHeap<Candidate>,
    /// (slot, place) of every occurrence made by the merge in progress.
    new: Vec<(u32, u32)>,
}

impl Pairs {
    pub(crate) fn new(counts: WordCounts, byte_ids: &[u32; 256]) -> Result<Self, Error> {
        let mut pairs = Self {
            places: Vec::new(),
            word_counts: Vec::new(),
            table: Table::new(),
            entries: Vec::new(),
            recorded: Vec::new(),
            queue: BinaryHeap::new(),
            new: Vec::new(),
        };
        let (mut num_bytes, limit) = (0, u64::from(u32::MAX));
        counts.for_each(|word, _| num_bytes += word.len() as u64);
        if num_bytes >= limit {
            return Err(Error::CorpusTooLarge { num_bytes, limit });
        }
        counts.for_each(|word, count| {
            // A word of one byte has no pairs.
            if word.len() > 1 {
                let index = pairs.word_counts.len() as u32;
                let place = |&byte: &u8| Place { id: byte_ids[usize::from(byte)], span: 1, word: index };
                pairs.places.extend(word.iter().map(place));
                pairs.word_counts.push(count as i64);
            }
        });
        drop(counts);
        for at in 1..pairs.places.len() {
            let (left, right) = (pairs.places[at - 1], pairs.places[at]);
            if left.word == right.word {
                pairs.add(left.id, right.id, left.word, at - 1);
            }
        }
        pairs.queue_new();
        Ok(pairs)
    }

    /// Takes the best entry off the queue, or `None` when nothing is left that occurs, and often enough.
    pub(crate) fn pop_best(&mut self, min_frequency: u64) -> Option<Candidate> {
        loop {
            let mut best = self.queue.peek_mut()?;
            let slot = self.table.find(best.pair);
            let count = self.table.slots[slot].count;
            if best.count != count {
                best.count = count;
            } else if count < 1 || (count as u64) < min_frequency {
                return None;
            } else {
                return Some(PeekMut::pop(best));
            }
        }
    }

    /// Joins the pair of `best` into `joined` in all the words where the entry was recorded. `num_ids` is the number
    /// of ids there are, `joined` included.
    pub(crate) fn merge(&mut self, best: &Candidate, joined: u32, num_ids: usize) {
        let slot = self.table.find(best.pair);
        let entry = &self.entries[best.entry as usize];
        let (start, num) = (entry.start, entry.num as usize);
        // At most two new pairs an occurrence, and at most two with each id there is.
        self.table.reserve(2 * num.min(num_ids));
        if self.table.slots[slot].entries == best.entry && entry.previous == NONE {
            self.table.slots[slot].entries = NONE;
            for i in start..start + num {
                self.merge_at(self.recorded[i] as usize, best.left(), best.right(), joined);
            }
        } else {
            for place in self.unlink_and_gather(slot, best.entry) {
                self.merge_at(place as usize, best.left(), best.right(), joined);
            }
        }
        self.queue_new();
    }

    /// For a pair with several entries: takes one out of its chain, and returns all recorded places of the pair in the
    /// words of that one.
    fn unlink_and_gather(&mut self, slot: usize, wanted: u32) -> Vec<u32> {
        let range = |entry: &Entry| entry.start..entry.start + entry.num as usize;
        let mut places = self.recorded[range(&self.entries[wanted as usize])].to_vec();
        let word_of = |place: u32| self.places[place as usize].word;
        let words: Vec<u32> = places.iter().map(|&place| word_of(place)).collect();
        let (mut at, mut newer) = (self.table.slots[slot].entries, NONE);
        while at != NONE {
            let previous = self.entries[at as usize].previous;
            if at != wanted {
                let others = &self.recorded[range(&self.entries[at as usize])];
                // Places ascend, so their words do.
                places.extend(others.iter().filter(|&&place| words.binary_search(&word_of(place)).is_ok()));
                newer = at;
            } else if newer == NONE {
                self.table.slots[slot].entries = previous;
            } else {
                self.entries[newer as usize].previous = previous;
            }
            at = previous;
        }
        places.sort_unstable();
        places.dedup();
        // Gathering may find more occurrences than the entry had.
        self.table.reserve(2 * places.len());
        places
    }

    /// Joins the pair at this place, if it is still there.
    fn merge_at(&mut self, at: usize, left: u32, right: u32, joined: u32) {
        let first = self.places[at];
        let middle = at + first.span as usize;
        if first.id != left || !self.is_symbol(middle, right, first.word) {
            return;
        }
        let count = self.word_counts[first.word as usize];
        let span = first.span + self.places[middle].span;
        if let Some(last) = at.checked_sub(1).map(|i| self.places[i]).filter(|last| last.word == first.word) {
            let before = at - last.span as usize;
            let id = self.places[before].id;
            self.table.subtract(id, left, count);
            self.add(id, joined, first.word, before);
        }
        self.places[middle].id = DEAD;
        self.places[at].id = joined;
        self.places[at].span = span;
        let end = at + span as usize;
        self.places[end - 1].span = span;
        if let Some(after) = self.places.get(end).filter(|after| after.word == first.word) {
            let id = after.id;
            self.table.subtract(right, id, count);
            self.add(joined, id, first.word, at);
        }
    }

    fn is_symbol(&self, at: usize, id: u32, word: u32) -> bool {
        self.places.get(at).is_some_and(|place| place.id == id && place.word == word)
    }

    /// Counts and records a pair at its place.
    fn add(&mut self, left: u32, right: u32, word: u32, at: usize) {
        let slot = self.table.find_or_insert(pair(left, right));
        self.table.slots[slot].count += self.word_counts[word as usize];
        self.table.slots[slot].num_new += 1;
        self.new.push((slot as u32, at as u32));
    }

    /// Makes an entry of each pair recorded since the last call, and queues it.
    fn queue_new(&mut self) {
        let slots = &mut self.table.slots;
        let first_entry = self.entries.len();
        for &(slot, _) in &self.new {
            let slot = &mut slots[slot as usize];
            if slot.num_new == 0 {
                continue;
            }
            // A pair that came and went within the merge, and does not occur elsewhere, needs no entry.
            if slot.count > 0 {
                let entry = self.entries.len() as u32;
                let start = self.recorded.len();
                self.recorded.resize(start + slot.num_new as usize, 0);
                self.entries.push(Entry { start, num: 0, previous: slot.entries });
                slot.entries = entry;
                self.queue.push(Candidate { count: slot.count, pair: slot.pair, entry });
            }
            slot.num_new = 0;
        }
        for &(slot, place) in &self.new {
            let slot = &slots[slot as usize];
            if slot.count > 0 && slot.entries as usize >= first_entry {
                let entry = &mut self.entries[slot.entries as usize];
                self.recorded[entry.start + entry.num as usize] = place;
                entry.num += 1;
            }
        }
        self.new.clear();
        if self.new.capacity() > 1 << 20 {
            self.new.shrink_to(1 << 20);
        }
    }
}

/// Open addressing; pairs are never removed, since a merged pair's count outlives it.
struct Table {
    slots: Vec<Slot>,
    num: usize,
}

impl Table {
    /// Room for all pairs of bytes.
    fn new() -> Self {
        Self { slots: vec![Slot { pair: FREE, count: 0, entries: NONE, num_new: 0 }; 1 << 17], num: 0 }
    }

    /// The slot of a pair, or the free one where it belongs.
    fn find(&self, pair: u64) -> usize {
        let mask = self.slots.len() - 1;
        let mut at = (pair.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 24) as usize & mask;
        while self.slots[at].pair != pair && self.slots[at].pair != FREE {
            at = (at + 1) & mask;
        }
        at
    }

    fn find_or_insert(&mut self, pair: u64) -> usize {
        let at = self.find(pair);
        if self.slots[at].pair == FREE {
            self.slots[at].pair = pair;
            self.num += 1;
        }
        at
    }

    fn subtract(&mut self, left: u32, right: u32, count: i64) {
        let slot = self.find(pair(left, right));
        self.slots[slot].count -= count;
    }

    /// Makes room for so many new pairs, so that slots stay where they are while these are inserted.
    fn reserve(&mut self, num_more: usize) {
        let needed = ((self.num + num_more) * 2).next_power_of_two();
        if needed <= self.slots.len() {
            return;
        }
        let free = Slot { pair: FREE, count: 0, entries: NONE, num_new: 0 };
        let old = std::mem::replace(&mut self.slots, vec![free; needed]);
        for slot in old.into_iter().filter(|slot| slot.pair != FREE) {
            let at = self.find(slot.pair);
            self.slots[at] = slot;
        }
    }
}

fn pair(left: u32, right: u32) -> u64 {
    u64::from(left) << 32 | u64::from(right)
}
