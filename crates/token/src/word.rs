//! Words as hash keys: up to 15 bytes in two registers, longer ones interned in one arena.
//!
//! The trick: nearly every word of code has at most 15 bytes, so its key is one unaligned load and a mask, and a
//! table look-up compares two integers instead of following a pointer to the bytes.

use std::hash::{BuildHasher, RandomState};

/// The longest word that fits a [`Key`], in bytes.
pub(crate) const SHORT: usize = 15;

/// A word of 1 to 15 bytes: the bytes, little-endian, and the length in the last byte. No key is zero in `high`.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Key {
    low: u64,
    high: u64,
}

/// The bits of a word's bytes in the halves of its key, by its length.
static MASKS: [(u64, u64); 16] = masks();

const fn masks() -> [(u64, u64); 16] {
    let mut masks = [(0, 0); 16];
    let mut length = 1;
    while length < 16 {
        let mask = (1_u128 << (8 * length)) - 1;
        masks[length] = (mask as u64, (mask >> 64) as u64);
        length += 1;
    }
    masks
}

/// The two halves of 16 bytes, little-endian.
#[inline]
fn halves(bytes: &[u8]) -> (u64, u64) {
    let half = |at: usize| bytes[at..].first_chunk().map_or(0, |half| u64::from_le_bytes(*half));
    (half(0), half(8))
}

impl Key {
    /// The key of `text[start..end]`, at most [`SHORT`] bytes and at least one.
    #[inline]
    pub(crate) fn new(text: &[u8], start: usize, end: usize) -> Self {
        let length = end - start;
        debug_assert!((1..=SHORT).contains(&length));
        let (low, high) = match text.get(start..start + 16) {
            Some(bytes) => halves(bytes),
            None => {
                let mut bytes = [0; 16];
                bytes[..length].copy_from_slice(&text[start..end]);
                halves(&bytes)
            }
        };
        let (low_mask, high_mask) = MASKS[length & SHORT];
        Self { low: low & low_mask, high: high & high_mask | (length as u64) << 56 }
    }

    /// Whether this is the default: the mark of a free slot.
    #[inline]
    pub(crate) fn is_free(self) -> bool {
        self.high == 0
    }

    /// The bytes, and how many of them belong to the word.
    pub(crate) fn bytes(self) -> ([u8; 16], usize) {
        let mut bytes = (u128::from(self.low) | u128::from(self.high) << 64).to_le_bytes();
        let length = usize::from(bytes[SHORT]);
        bytes[SHORT] = 0;
        (bytes, length)
    }

    /// Ascends as the words do.
    pub(crate) fn order(self) -> u128 {
        u128::from(self.low.swap_bytes()) << 64 | u128::from(self.high.swap_bytes())
    }

    /// 64 well-mixed bits.
    #[inline]
    pub(crate) fn hash(self, seed: u64) -> u64 {
        mix(self.low ^ seed, self.high ^ 0x9e37_79b9_7f4a_7c15)
    }
}

/// Both halves of the 128-bit product, folded: every bit of the input reaches every bit of the result.
#[inline]
fn mix(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    product as u64 ^ (product >> 64) as u64
}

/// A seed that the text cannot know, so that no text can fill one corner of a table. No result depends on it.
pub(crate) fn random_seed() -> u64 {
    RandomState::new().hash_one(0)
}

/// Distinct byte strings, numbered in the order of their first appearance, their bytes end to end in one arena.
#[derive(Clone)]
pub(crate) struct Interner {
    bytes: Vec<u8>,
    ends: Vec<usize>,
    /// Index + 1 in the low 40 bits, the top 24 bits of the hash above them; 0 is free.
    slots: Vec<u64>,
    seed: u64,
}

const INDEX_BITS: u32 = 40;
const INDEX_MASK: u64 = (1 << INDEX_BITS) - 1;

impl Interner {
    pub(crate) fn new() -> Self {
        Self { bytes: Vec::new(), ends: Vec::new(), slots: vec![0; 64], seed: random_seed() }
    }

    pub(crate) fn len(&self) -> usize {
        self.ends.len()
    }

    pub(crate) fn num_bytes(&self) -> usize {
        self.bytes.len()
    }

    pub(crate) fn get(&self, index: usize) -> &[u8] {
        let start = if index == 0 { 0 } else { self.ends[index - 1] };
        &self.bytes[start..self.ends[index]]
    }

    pub(crate) fn clear(&mut self) {
        self.bytes.clear();
        self.ends.clear();
        self.slots.fill(0);
    }

    /// The index of `word`, when it was interned.
    pub(crate) fn find(&self, word: &[u8]) -> Option<usize> {
        self.probe(word, self.hash(word)).ok()
    }

    /// The index of `word`, which may be new: then it is the previous [`Interner::len`].
    pub(crate) fn intern(&mut self, word: &[u8]) -> usize {
        let hash = self.hash(word);
        let slot = match self.probe(word, hash) {
            Ok(index) => return index,
            Err(slot) => slot,
        };
        let index = self.ends.len();
        self.bytes.extend_from_slice(word);
        self.ends.push(self.bytes.len());
        self.slots[slot] = (index as u64 + 1) | hash & !INDEX_MASK;
        if self.ends.len() * 2 > self.slots.len() {
            self.grow();
        }
        index
    }

    /// The index of `word`, or the free slot where it belongs.
    fn probe(&self, word: &[u8], hash: u64) -> Result<usize, usize> {
        let mask = self.slots.len() - 1;
        let mut at = hash as usize & mask;
        loop {
            let slot = self.slots[at];
            if slot == 0 {
                return Err(at);
            }
            let index = (slot & INDEX_MASK) as usize - 1;
            if (slot ^ hash) & !INDEX_MASK == 0 && self.get(index) == word {
                return Ok(index);
            }
            at = (at + 1) & mask;
        }
    }

    fn grow(&mut self) {
        let mask = self.slots.len() * 2 - 1;
        let mut slots = vec![0; mask + 1];
        for index in 0..self.len() {
            let hash = self.hash(self.get(index));
            let mut at = hash as usize & mask;
            while slots[at] != 0 {
                at = (at + 1) & mask;
            }
            slots[at] = (index as u64 + 1) | hash & !INDEX_MASK;
        }
        self.slots = slots;
    }

    fn hash(&self, word: &[u8]) -> u64 {
        let mut hash = self.seed ^ word.len() as u64;
        for chunk in word.chunks(8) {
            let mut bytes = [0; 8];
            bytes[..chunk.len()].copy_from_slice(chunk);
            hash = mix(hash ^ u64::from_le_bytes(bytes), 0xd6e8_feb8_6659_fd93);
        }
        mix(hash, 0x9e37_79b9_7f4a_7c15)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_hold_their_bytes() {
        let text = b"0123456789abcdefghij";
        for start in 0..text.len() {
            for end in start + 1..=(start + SHORT).min(text.len()) {
                let key = Key::new(text, start, end);
                let (bytes, length) = key.bytes();
                assert_eq!(&bytes[..length], &text[start..end]);
                assert!(!key.is_free());
                assert!(key == Key::new(&text[start..end], 0, end - start));
            }
        }
        assert!(Key::new(b"a\0", 0, 2) != Key::new(b"a", 0, 1));
    }

    #[test]
    fn interner_numbers_by_first_appearance() {
        let mut interner = Interner::new();
        for round in 0..2 {
            for i in 0..1000_usize {
                assert_eq!(interner.intern(format!("word number {i}").as_bytes()), i, "round {round}");
            }
        }
        assert_eq!(interner.len(), 1000);
        assert_eq!(interner.get(7), b"word number 7");
        assert_eq!(interner.find(b"word number 999"), Some(999));
        assert_eq!(interner.find(b"word"), None);
        interner.clear();
        assert_eq!(interner.find(b"word number 7"), None);
        assert_eq!(interner.intern(b""), 0);
    }
}
