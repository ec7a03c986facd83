//! The pairs of neighbouring symbols in all distinct words: how often each occurs, where, and which is next.
//!
//! All words lie end to end in one array; a symbol writes its length at its first and its last place, so that both
//! its neighbours are one step away and a merge touches nothing but the places where the pair occurs. Counts are in
//! one flat table. The queue is lazy: an entry whose count has changed since it was queued goes back when it comes up.
//!
//! What keeps this simple: a pair comes into being in one merge, the one that makes its later token, so its places
//! are recorded once, as one range. For a token is made by one merge only. Wherever its bytes become one symbol, no
//! earlier merge crossed their two ends, so the merges within went the same way, and the last of them is the same.

use crate::count::WordCounts;
use crate::error::Error;
use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;
use std::collections::binary_heap::PeekMut;

/// The id of a place that is not the first of a symbol any more.
const DEAD: u32 = u32::MAX;

/// One place of a word: at first one byte.
#[derive(Clone, Copy)]
struct Place {
    /// The symbol that starts here, or [`DEAD`].
    id: u32,
    /// The length in places of the symbol, valid at its first place and at its last.
    span: u32,
    word: u32,
}

/// A queued pair: the highest count first, then the lowest ids.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Candidate {
    count: i64,
    pair: u64,
}

impl Candidate {
    pub(crate) fn left(self) -> u32 {
        (self.pair >> 32) as u32
    }

    pub(crate) fn right(self) -> u32 {
        self.pair as u32
    }
}

impl Ord for Candidate {
    fn cmp(&self, other: &Self) -> Ordering {
        (self.count, Reverse(self.pair)).cmp(&(other.count, Reverse(other.pair)))
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
    /// The places of all pairs, a range each. Within a range they ascend, so that of overlapping occurrences, as in
    /// `aaa`, the left one is merged.
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

    /// Takes the best pair off the queue, or `None` when nothing is left that occurs, and often enough.
    pub(crate) fn pop_best(&mut self, min_frequency: u64) -> Option<Candidate> {
        loop {
            let mut best = self.queue.peek_mut()?;
            let count = self.table.slots[self.table.find(best.pair)].count;
            if best.count != count {
                best.count = count;
            } else if count < 1 || (count as u64) < min_frequency {
                return None;
            } else {
                return Some(PeekMut::pop(best));
            }
        }
    }

    /// Joins the pair into `joined` everywhere. `num_ids` is the number of ids there are, `joined` included.
    pub(crate) fn merge(&mut self, best: Candidate, joined: u32, num_ids: usize) {
        let slot = self.table.slots[self.table.find(best.pair)];
        let num = slot.num as usize;
        // At most two new pairs an occurrence, and at most two with each id there is.
        self.table.reserve(2 * num.min(num_ids));
        for i in slot.start..slot.start + num {
            self.merge_at(self.recorded[i] as usize, best.left(), best.right(), joined);
        }
        self.queue_new();
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
        let index = self.table.find_or_insert(pair(left, right));
        let slot = &mut self.table.slots[index];
        slot.count += self.word_counts[word as usize];
        slot.num += 1;
        self.new.push((index as u32, at as u32));
    }

    /// Gives each pair that came into being since the last call its range of places, and queues it.
    fn queue_new(&mut self) {
        for &(index, place) in &self.new {
            let slot = &mut self.table.slots[index as usize];
            // A pair that came and went within the merge is never looked up.
            if slot.count == 0 {
                continue;
            }
            if slot.num_filled == 0 {
                slot.start = self.recorded.len();
                self.recorded.resize(slot.start + slot.num as usize, 0);
                self.queue.push(Candidate { count: slot.count, pair: slot.pair });
            }
            debug_assert!(slot.num_filled < slot.num, "a pair came into being twice");
            self.recorded[slot.start + slot.num_filled as usize] = place;
            slot.num_filled += 1;
        }
        self.new.clear();
        // The first call records every byte of every word; no later one comes near.
        self.new.shrink_to(1 << 20);
    }
}

#[derive(Clone, Copy)]
struct Slot {
    /// Left id in the high half, right id in the low; [`FREE`] without a pair.
    pair: u64,
    count: i64,
    /// Its places: a range of `Pairs::recorded`, of which the first `num_filled` are written.
    start: usize,
    num: u32,
    num_filled: u32,
}

const FREE: u64 = u64::MAX;
const FREE_SLOT: Slot = Slot { pair: FREE, count: 0, start: 0, num: 0, num_filled: 0 };

/// Pairs by open addressing; they are never removed.
struct Table {
    slots: Vec<Slot>,
    num: usize,
}

impl Table {
    /// Room for all pairs of bytes.
    fn new() -> Self {
        Self { slots: vec![FREE_SLOT; 1 << 17], num: 0 }
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
        let old = std::mem::replace(&mut self.slots, vec![FREE_SLOT; needed]);
        for slot in old.into_iter().filter(|slot| slot.pair != FREE) {
            let at = self.find(slot.pair);
            self.slots[at] = slot;
        }
    }
}

fn pair(left: u32, right: u32) -> u64 {
    u64::from(left) << 32 | u64::from(right)
}
