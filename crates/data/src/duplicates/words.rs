//! The words of a text as hashes, and hashes of n of them in a row.
//!
//! A word is a run of ASCII letters, digits, underscores and bytes from 0x80 on, so that every letter of any script is
//! part of a word; codeparrot's and BigCode's scripts for near-deduplication split at `[^A-Za-z_0-9]` and `\W`. Nothing
//! is copied: a word is hashed where it lies, and the hash of n words is that of the n before with one word taken out and
//! one added.

use crate::permutation::mix;

/// What a byte is in a word: itself or its lower case; 0 where it is not part of one.
pub(crate) type Classes = [u8; 256];

/// Words as they are written.
pub(crate) static AS_WRITTEN: Classes = classes(false);
/// Words in which ASCII capitals count as small letters.
pub(crate) static CASELESS: Classes = classes(true);

const fn classes(caseless: bool) -> Classes {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        let b = byte as u8;
        if b.is_ascii_alphanumeric() || b == b'_' || b >= 0x80 {
            table[byte] = if caseless { b.to_ascii_lowercase() } else { b };
        }
        byte += 1;
    }
    table
}

/// The words of a text.
pub(crate) struct Words<'a> {
    bytes: &'a [u8],
    classes: &'static Classes,
    at: usize,
}

/// A word: its hash and where it lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Word {
    /// 64 bits that the word alone decides.
    pub(crate) hash: u64,
    /// Its first byte.
    pub(crate) start: usize,
    /// The byte after its last.
    pub(crate) end: usize,
}

impl<'a> Words<'a> {
    /// The words of `text`.
    pub(crate) fn new(text: &'a str, classes: &'static Classes) -> Self {
        Words { bytes: text.as_bytes(), classes, at: 0 }
    }
}

impl Iterator for Words<'_> {
    type Item = Word;

    #[inline]
    fn next(&mut self) -> Option<Word> {
        let class = |byte: &u8| self.classes[usize::from(*byte)];
        let start = self.at + self.bytes[self.at..].iter().position(|byte| class(byte) != 0)?;
        let (mut hash, mut end) = (0u64, start);
        while let Some(class) = self.bytes.get(end).map(class).filter(|class| *class != 0) {
            hash = (hash ^ u64::from(class)).wrapping_mul(BYTE_FACTOR);
            end += 1;
        }
        self.at = end;
        Some(Word { hash: mix(hash), start, end })
    }
}

/// Most words that [`Rolling`] takes in a row.
pub(crate) const MAX_ROLLING: usize = 16;

/// The hash of the last n words, H = w₁ Fⁿ + ... + wₙ F mod 2^128 with an odd factor F, so that the upper half depends on
/// every one of them.
///
/// The hash of two runs of words that differ is the same by a chance of 2^-128; or by one of 2^-64 where they differ in
/// one word only, whose own hash has no more bits.
#[derive(Clone, Debug)]
pub(crate) struct Rolling {
    /// The last words by their number; a word leaves the hash before its place is taken.
    ring: [u64; MAX_ROLLING],
    num_words: usize,
    length: usize,
    hash: u128,
    /// Fⁿ⁺¹, the weight of the word that leaves.
    leaving: u128,
}

impl Rolling {
    /// Hashes `length` words in a row, at least one and at most [`MAX_ROLLING`].
    pub(crate) fn new(length: usize) -> Self {
        assert!((1..=MAX_ROLLING).contains(&length), "{length} words in a row");
        let leaving = (0..=length).fold(1u128, |power, _| power.wrapping_mul(WORD_FACTOR));
        Rolling { ring: [0; MAX_ROLLING], num_words: 0, length, hash: 0, leaving }
    }

    /// Adds a word. The hash of the last n words, once there are so many.
    #[inline]
    pub(crate) fn push(&mut self, word: u64) -> Option<u128> {
        // Places that no word has taken yet hold 0, which leaves the hash as it is.
        let oldest = self.ring[self.num_words.wrapping_sub(self.length) % MAX_ROLLING];
        self.ring[self.num_words % MAX_ROLLING] = word;
        self.num_words += 1;
        let longer = self.hash.wrapping_add(u128::from(word)).wrapping_mul(WORD_FACTOR);
        self.hash = longer.wrapping_sub(u128::from(oldest).wrapping_mul(self.leaving));
        (self.num_words >= self.length).then_some(self.hash)
    }

    /// The n of n words.
    pub(crate) fn length(&self) -> usize {
        self.length
    }

    /// Words added so far.
    pub(crate) fn num_words(&self) -> usize {
        self.num_words
    }
}

/// Odd, from the digits of e and π; nothing else is asked of them.
const BYTE_FACTOR: u64 = 0xb7e1_5162_8aed_2a6b;
const WORD_FACTOR: u128 = 0x243f_6a88_85a3_08d3_1319_8a2e_0370_7345;

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;

    #[test]
    fn text_is_cut_into_words() {
        let text = "fn f_1(x: &Größe) -> u8 { x.0+Größe }\n";
        let words: Vec<&str> = Words::new(text, &AS_WRITTEN).map(|w| &text[w.start..w.end]).collect();
        assert_eq!(words, ["fn", "f_1", "x", "Größe", "u8", "x", "0", "Größe"]);
        let hashes =
            |text: &str, classes| -> Vec<u64> { Words::new(text, classes).map(|w| w.hash).collect() };
        assert_eq!(hashes("Ab aB", &CASELESS), hashes("ab,ab", &CASELESS));
        assert_ne!(hashes("Ab", &AS_WRITTEN), hashes("ab", &AS_WRITTEN));
        assert!(hashes("", &AS_WRITTEN).is_empty() && hashes(" \n(){}", &AS_WRITTEN).is_empty());
    }

    #[test]
    fn words_do_not_collide() {
        let mut seen: HashMap<u64, String> = HashMap::new();
        for number in 0..200_000u32 {
            for text in [number.to_string(), format!("x{number}"), format!("{number:x}_")] {
                let hash = Words::new(&text, &AS_WRITTEN).next().expect("a word").hash;
                if let Some(other) = seen.insert(hash, text.clone()) {
                    assert_eq!(other, text);
                }
            }
        }
    }

    #[test]
    fn rolling_is_the_hash_of_the_last_words_alone() {
        for length in [1, 5, 13, 16] {
            let mut rolling = Rolling::new(length);
            let words: Vec<u64> = (0..60).map(|i| mix(i % 23)).collect();
            for (i, word) in words.iter().enumerate() {
                let got = rolling.push(*word);
                let mut fresh = Rolling::new(length);
                let window = &words[(i + 1).saturating_sub(length)..=i];
                let want = window.iter().map(|w| fresh.push(*w)).last().flatten();
                assert_eq!(got, want);
                assert_eq!(got.is_some(), i + 1 >= length);
            }
        }
    }

    #[test]
    fn the_order_of_words_counts() {
        let hash = |words: [u64; 3]| {
            let mut rolling = Rolling::new(3);
            words.into_iter().filter_map(|w| rolling.push(w)).last()
        };
        assert_ne!(hash([1, 2, 3]), hash([3, 2, 1]));
        assert_ne!(hash([1, 1, 2]), hash([1, 2, 2]));
        // Each of them changes the upper half, about every other bit of it.
        let upper = |words| (hash(words).expect("three words") >> 64) as u64;
        for other in [[9, 2, 3], [1, 9, 3], [1, 2, 9]] {
            let [a, b] = [[1, 2, 3], other].map(|words| upper(words.map(mix)));
            assert!((12..52).contains(&(a ^ b).count_ones()), "{other:?}");
        }
    }
}
