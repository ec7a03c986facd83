//! Merges one word: from its bytes, again and again the pair of lowest rank, the leftmost of several.
//!
//! Short words look for the lowest rank among all pairs at each step, which beats any cleverness while everything is
//! in a few cache lines. Long ones keep a heap of ranks and a linked list of symbols: O(n log n), for a megabyte of
//! one character too. Both do what `Word::merge_all` of the `tokenizers` crate does.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// Words of up to this many bytes are merged by looking at all pairs.
const SCAN_LIMIT: usize = 64;
/// Rank and id of a pair that no merge joins: higher than every rank.
const NO_MERGE: u64 = u64::MAX;

#[derive(Clone, Copy)]
struct Slot {
    /// Left id in the high half, right id in the low; `u64::MAX` is free.
    pair: u64,
    /// Rank in the high half, id of the joined token in the low.
    rank_and_id: u64,
}

/// The merges of a vocabulary, and the id of each single byte.
#[derive(Clone)]
pub(crate) struct Bpe {
    slots: Vec<Slot>,
    byte_ids: [u32; 256],
}

/// Working memory for [`Bpe::encode_word`], reused from word to word.
#[derive(Default)]
pub(crate) struct Scratch {
    symbols: Vec<u32>,
    pairs: Vec<u64>,
    links: Vec<Link>,
    heap: BinaryHeap<Reverse<(u32, usize)>>,
}

/// A symbol of a long word in its linked list. `next` is the word's length after the last, `previous` then too
/// before the first.
#[derive(Clone, Copy)]
struct Link {
    id: u32,
    is_alive: bool,
    previous: usize,
    next: usize,
}

impl Bpe {
    /// `merges` are (left id, right id, joined id) in the order of their ranks, each pair once.
    pub(crate) fn new(merges: &[(u32, u32, u32)], byte_ids: [u32; 256]) -> Self {
        let capacity = (merges.len() * 2).next_power_of_two().max(2);
        let mut bpe =
            Self { slots: vec![Slot { pair: u64::MAX, rank_and_id: NO_MERGE }; capacity], byte_ids };
        for (rank, &(left, right, joined)) in merges.iter().enumerate() {
            let slot = bpe.slot(pair(left, right));
            bpe.slots[slot] =
                Slot { pair: pair(left, right), rank_and_id: (rank as u64) << 32 | u64::from(joined) };
        }
        bpe
    }

    /// The slot of this pair, or the free one where it belongs. At least half of the slots are free.
    #[inline]
    fn slot(&self, pair: u64) -> usize {
        let mask = self.slots.len() - 1;
        let mut at = (pair.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32) as usize & mask;
        while self.slots[at].pair != pair && self.slots[at].pair != u64::MAX {
            at = (at + 1) & mask;
        }
        at
    }

    /// Rank and joined id of two neighbours, or [`NO_MERGE`].
    #[inline]
    fn rank_and_id(&self, left: u32, right: u32) -> u64 {
        self.slots[self.slot(pair(left, right))].rank_and_id
    }

    /// Appends the ids of `word`.
    pub(crate) fn encode_word(&self, word: &[u8], scratch: &mut Scratch, ids: &mut Vec<u32>) {
        if word.len() <= SCAN_LIMIT {
            self.merge_by_scan(word, scratch, ids);
        } else {
            self.merge_by_heap(word, scratch, ids);
        }
    }

    fn merge_by_scan(&self, word: &[u8], scratch: &mut Scratch, ids: &mut Vec<u32>) {
        let Scratch { symbols, pairs, .. } = scratch;
        symbols.clear();
        symbols.extend(word.iter().map(|&byte| self.byte_ids[usize::from(byte)]));
        pairs.clear();
        pairs.extend(symbols.windows(2).map(|two| self.rank_and_id(two[0], two[1])));
        loop {
            let (mut at, mut lowest) = (0, NO_MERGE);
            for (i, &rank_and_id) in pairs.iter().enumerate() {
                if rank_and_id < lowest {
                    (at, lowest) = (i, rank_and_id);
                }
            }
            if lowest == NO_MERGE {
                break;
            }
            symbols[at] = lowest as u32;
            symbols.remove(at + 1);
            pairs.remove(at);
            if at > 0 {
                pairs[at - 1] = self.rank_and_id(symbols[at - 1], symbols[at]);
            }
            if at < pairs.len() {
                pairs[at] = self.rank_and_id(symbols[at], symbols[at + 1]);
            }
        }
        ids.extend_from_slice(symbols);
    }

    fn merge_by_heap(&self, word: &[u8], scratch: &mut Scratch, ids: &mut Vec<u32>) {
        let Scratch { links, heap, .. } = scratch;
        let end = word.len();
        links.clear();
        links.extend(word.iter().enumerate().map(|(i, &byte)| Link {
            id: self.byte_ids[usize::from(byte)],
            is_alive: true,
            previous: if i == 0 { end } else { i - 1 },
            next: i + 1,
        }));
        heap.clear();
        let push = |heap: &mut BinaryHeap<_>, left: u32, right: u32, at: usize| {
            let found = self.rank_and_id(left, right);
            if found != NO_MERGE {
                heap.push(Reverse(((found >> 32) as u32, at)));
            }
        };
        for (i, two) in links.windows(2).enumerate() {
            push(heap, two[0].id, two[1].id, i);
        }
        while let Some(Reverse((rank, at))) = heap.pop() {
            let left = links[at];
            if !left.is_alive || left.next == end {
                continue;
            }
            // The pair may have changed since it was queued: then its own entry is elsewhere in the heap.
            let right = links[left.next];
            let found = self.rank_and_id(left.id, right.id);
            if found == NO_MERGE || (found >> 32) as u32 != rank {
                continue;
            }
            links[left.next].is_alive = false;
            links[at] = Link { id: found as u32, next: right.next, ..left };
            if left.previous != end {
                push(heap, links[left.previous].id, found as u32, left.previous);
            }
            if right.next != end {
                links[right.next].previous = at;
                push(heap, found as u32, links[right.next].id, at);
            }
        }
        ids.extend(links.iter().filter(|link| link.is_alive).map(|link| link.id));
        // A megabyte of one character would otherwise stay with the thread for good.
        links.shrink_to(1 << 12);
        heap.shrink_to(1 << 12);
    }
}

#[inline]
fn pair(left: u32, right: u32) -> u64 {
    u64::from(left) << 32 | u64::from(right)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scan_and_heap_agree() {
        // Ids 0 to 255 are the bytes; merges over "ab" in a shuffled order, overlapping ones included.
        let mut byte_ids = [0; 256];
        for (byte, id) in byte_ids.iter_mut().enumerate() {
            *id = byte as u32;
        }
        let (a, b) = (97, 98);
        let merges =
            [(b, a, 256), (a, a, 257), (257, 257, 258), (256, b, 259), (a, 256, 260), (258, 257, 261)];
        let bpe = Bpe::new(&merges, byte_ids);
        let mut scratch = Scratch::default();
        let mut state = 1_u64;
        for length in (1..200).chain([1000, 4097]) {
            let word: Vec<u8> = (0..length)
                .map(|_| {
                    state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                    if state >> 62 == 0 { b'b' } else { b'a' }
                })
                .collect();
            let (mut by_scan, mut by_heap) = (Vec::new(), Vec::new());
            bpe.merge_by_scan(&word, &mut scratch, &mut by_scan);
            bpe.merge_by_heap(&word, &mut scratch, &mut by_heap);
            assert_eq!(by_scan, by_heap, "length {length}");
        }
    }
}
