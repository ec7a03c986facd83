//! Merges one word: from its bytes, again and again the pair of lowest rank, the leftmost of several.
//!
//! Short words look for the lowest rank among all pairs at each step, which beats any cleverness while everything is
//! in a few cache lines. Long ones queue the places of each rank together: a megabyte of one character has few ranks
//! and is merged in linear time. Both do what `Word::merge_all` of the `tokenizers` crate does.

use crate::table::pair;
use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};

/// Words of up to this many bytes are merged by looking at all pairs.
const SCAN_LIMIT: usize = 64;
/// The rank of a pair that no merge joins: higher than every rank.
const NO_MERGE: u32 = u32::MAX;

/// A merge: what it joins, and into what. Its rank is its index.
#[derive(Clone, Copy)]
struct Merge {
    left: u32,
    right: u32,
    joined: u32,
}

/// The merges of a vocabulary, and the id of each single byte.
#[derive(Clone)]
pub(crate) struct Bpe {
    merges: Vec<Merge>,
    ranks: Ranks,
    byte_ids: [u32; 256],
    /// The rank of each pair of bytes, the first one times 256 plus the second: what every word asks first.
    byte_ranks: Vec<u32>, // (256, 256)
}

/// Working memory for [`Bpe::encode_word`], reused from word to word.
#[derive(Default)]
pub(crate) struct Scratch {
    places: Vec<Place>,
    queue: Queue,
}

/// A place of a long word, at first one byte.
#[derive(Clone, Copy)]
struct Place {
    /// The symbol that starts here, or [`DEAD`].
    id: u32,
    /// The length in places of the symbol, valid at its first place and at its last.
    span: u32,
}

/// The id of a place that is not the first of a symbol any more.
const DEAD: u32 = u32::MAX;

/// The places of pairs by their rank.
#[derive(Default)]
struct Queue {
    /// The list of each rank that is queued.
    lists: HashMap<u32, usize>,
    /// On either side of what was joined, the rank of the last pair and its list: nearly always those of the next one.
    last: [Option<(u32, usize)>; 2],
    places: Vec<Places>,
    ranks: BinaryHeap<Reverse<u32>>,
}

/// Places of pairs of one rank; those before `next` are done.
struct Places {
    all: Vec<usize>,
    next: usize,
    /// Whether they ascend.
    is_sorted: bool,
}

impl Queue {
    fn clear(&mut self) {
        *self = Self::default();
    }

    /// Queues a place. `side` is only a hint at which of two ranks it likely has.
    fn push(&mut self, rank: u32, at: usize, side: usize) {
        if rank == NO_MERGE {
            return;
        }
        let list = match self.last[side] {
            Some((last, list)) if last == rank => list,
            _ => *self.lists.entry(rank).or_insert_with(|| {
                self.ranks.push(Reverse(rank));
                self.places.push(Places { all: Vec::new(), next: 0, is_sorted: true });
                self.places.len() - 1
            }),
        };
        self.last[side] = Some((rank, list));
        let places = &mut self.places[list];
        places.is_sorted &= places.all.last().is_none_or(|&last| last < at);
        places.all.push(at);
    }

    /// Takes the lowest rank and its places, sorted.
    fn pop(&mut self) -> Option<(u32, Places)> {
        let Reverse(rank) = self.ranks.pop()?;
        let list = self.lists.remove(&rank)?;
        self.last = [None; 2];
        let mut places =
            std::mem::replace(&mut self.places[list], Places { all: Vec::new(), next: 0, is_sorted: true });
        if !places.is_sorted {
            places.all.drain(..places.next);
            places.next = 0;
            places.all.sort_unstable();
            places.is_sorted = true;
        }
        Some((rank, places))
    }

    /// Puts places back that a lower rank goes before.
    fn put_back(&mut self, rank: u32, places: Places) {
        self.ranks.push(Reverse(rank));
        self.lists.insert(rank, self.places.len());
        self.places.push(places);
    }

    fn lowest(&self) -> u32 {
        self.ranks.peek().map_or(NO_MERGE, |&Reverse(rank)| rank)
    }
}

impl Bpe {
    /// `merges` are (left id, right id, joined id) in the order of their ranks, each pair once, and the joined token
    /// spells what the two spell, one after the other.
    pub(crate) fn new(merges: &[(u32, u32, u32)], byte_ids: [u32; 256]) -> Self {
        let merges: Vec<Merge> =
            merges.iter().map(|&(left, right, joined)| Merge { left, right, joined }).collect();
        let mut bpe = Self { ranks: Ranks::new(&merges), merges, byte_ids, byte_ranks: Vec::new() };
        bpe.byte_ranks =
            byte_ids.iter().flat_map(|&left| byte_ids.map(|right| bpe.rank(left, right))).collect();
        bpe
    }

    /// The rank of two neighbours, or [`NO_MERGE`].
    #[inline]
    fn rank(&self, left: u32, right: u32) -> u32 {
        self.ranks.find(&self.merges, left, right)
    }

    #[inline]
    fn byte_rank(&self, left: u8, right: u8) -> u32 {
        self.byte_ranks[usize::from(left) << 8 | usize::from(right)]
    }

    /// Appends the ids of `word`.
    pub(crate) fn encode_word(&self, word: &[u8], scratch: &mut Scratch, ids: &mut Vec<u32>) {
        if word.len() <= SCAN_LIMIT {
            self.merge_by_scan(word, ids);
        } else {
            self.merge_by_queue(word, scratch, ids);
        }
    }

    fn merge_by_scan(&self, word: &[u8], ids: &mut Vec<u32>) {
        let (mut symbols, mut ranks) = ([0; SCAN_LIMIT], [NO_MERGE; SCAN_LIMIT]);
        for (symbol, &byte) in symbols.iter_mut().zip(word) {
            *symbol = self.byte_ids[usize::from(byte)];
        }
        // `ranks[i]` is that of the symbols i and i + 1; the last symbol has none.
        for (rank, two) in ranks.iter_mut().zip(word.windows(2)) {
            *rank = self.byte_rank(two[0], two[1]);
        }
        let mut num = word.len();
        loop {
            let (mut at, mut lowest) = (0, NO_MERGE);
            for (i, &rank) in ranks[..num].iter().enumerate() {
                if rank < lowest {
                    (at, lowest) = (i, rank);
                }
            }
            if lowest == NO_MERGE {
                break;
            }
            symbols[at] = self.merges[lowest as usize].joined;
            symbols.copy_within(at + 2..num, at + 1);
            ranks.copy_within(at + 1..num, at);
            num -= 1;
            if at > 0 {
                ranks[at - 1] = self.rank(symbols[at - 1], symbols[at]);
            }
            ranks[at] = match at + 1 < num {
                true => self.rank(symbols[at], symbols[at + 1]),
                false => NO_MERGE,
            };
        }
        ids.extend_from_slice(&symbols[..num]);
    }

    fn merge_by_queue(&self, word: &[u8], scratch: &mut Scratch, ids: &mut Vec<u32>) {
        let Scratch { places, queue } = scratch;
        places.clear();
        places.extend(word.iter().map(|&byte| Place { id: self.byte_ids[usize::from(byte)], span: 1 }));
        for (at, two) in word.windows(2).enumerate() {
            queue.push(self.byte_rank(two[0], two[1]), at, 0);
        }
        while let Some((rank, mut todo)) = queue.pop() {
            let merge = self.merges[rank as usize];
            while let Some(&at) = todo.all.get(todo.next) {
                todo.next += 1;
                self.merge_at(at, merge, places, queue);
                // Only merges in an order that no training makes bring a lower rank into being.
                if queue.lowest() < rank {
                    queue.put_back(rank, todo);
                    break;
                }
            }
        }
        let mut at = 0;
        while let Some(place) = places.get(at) {
            ids.push(place.id);
            at += place.span as usize;
        }
        // A megabyte of one character would otherwise stay with the thread for good.
        places.shrink_to(1 << 12);
        queue.clear();
    }

    /// Joins the pair at this place, if it is still there, and queues its new neighbours.
    fn merge_at(&self, at: usize, merge: Merge, places: &mut [Place], queue: &mut Queue) {
        let first = places[at];
        let middle = at + first.span as usize;
        let Some(&second) = places.get(middle) else { return };
        if first.id != merge.left || second.id != merge.right {
            return;
        }
        let span = first.span + second.span;
        let end = at + span as usize;
        places[middle].id = DEAD;
        places[at] = Place { id: merge.joined, span };
        places[end - 1].span = span;
        if at > 0 {
            let before = at - places[at - 1].span as usize;
            queue.push(self.rank(places[before].id, merge.joined), before, 0);
        }
        if let Some(after) = places.get(end) {
            queue.push(self.rank(merge.joined, after.id), at, 1);
        }
    }
}

/// Ranks by pair: open addressing in four bytes a slot, half a megabyte for 50,000 merges, since what a rare word costs is
/// misses of the cache. A slot holds a rank, and above it some bits of the pair's hash, so that looking for a pair that no
/// merge joins hardly ever leaves the table.
#[derive(Clone)]
struct Ranks {
    /// At least half are [`FREE`].
    slots: Vec<u32>,
    rank_bits: u32,
}

/// No rank is as large as its bits allow.
const FREE: u32 = u32::MAX;

impl Ranks {
    fn new(merges: &[Merge]) -> Self {
        let rank_bits = usize::BITS - merges.len().leading_zeros();
        let mut ranks = Self { slots: vec![FREE; (merges.len() * 2).next_power_of_two().max(2)], rank_bits };
        for (rank, merge) in merges.iter().enumerate() {
            let (mut at, tag) = ranks.place(merge.left, merge.right);
            while ranks.slots[at] != FREE {
                at = (at + 1) & (ranks.slots.len() - 1);
            }
            ranks.slots[at] = tag | rank as u32;
        }
        ranks
    }

    /// Where to begin to look, and the bits of a slot above the rank.
    #[inline]
    fn place(&self, left: u32, right: u32) -> (usize, u32) {
        let hash = pair(left, right).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let tag = u64::from(hash as u32 >> 7) << self.rank_bits;
        ((hash >> 32) as usize & (self.slots.len() - 1), tag as u32)
    }

    #[inline]
    fn find(&self, merges: &[Merge], left: u32, right: u32) -> u32 {
        let (mut at, tag) = self.place(left, right);
        loop {
            let slot = self.slots[at];
            if slot == FREE {
                return NO_MERGE;
            }
            let rank = slot ^ tag;
            if let Some(merge) = merges.get(rank as usize)
                && merge.left == left
                && merge.right == right
            {
                return rank;
            }
            at = (at + 1) & (self.slots.len() - 1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scan_and_queue_agree() {
        // Ids 0 to 255 are the bytes; merges over "ab" in a shuffled order, overlapping ones included.
        let mut byte_ids = [0; 256];
        for (byte, id) in byte_ids.iter_mut().enumerate() {
            *id = byte as u32;
        }
        let (a, b) = (97, 98);
        let all = [(b, a, 256), (a, a, 257), (257, 257, 258), (256, b, 259), (a, 256, 260), (258, 257, 261)];
        let mut state = 1_u64;
        let mut draw = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            state >> 33
        };
        let mut scratch = Scratch::default();
        for _ in 0..50 {
            // In any order: a later token's merge may come before the merges that make its parts.
            let mut merges = all;
            for i in (1..merges.len()).rev() {
                merges.swap(i, draw() as usize % (i + 1));
            }
            let bpe = Bpe::new(&merges, byte_ids);
            for length in 1..=SCAN_LIMIT {
                let word: Vec<u8> = (0..length).map(|_| if draw() % 4 == 0 { b'b' } else { b'a' }).collect();
                let (mut by_scan, mut by_queue) = (Vec::new(), Vec::new());
                bpe.merge_by_scan(&word, &mut by_scan);
                bpe.merge_by_queue(&word, &mut scratch, &mut by_queue);
                assert_eq!(by_scan, by_queue, "{}, merges {merges:?}", String::from_utf8_lossy(&word));
            }
        }
    }
}
