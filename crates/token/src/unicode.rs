//! What GPT-2's regular expression asks of a character: letter, number, white space, or anything else.
//!
//! The trick: the sorted ranges of `unicode_tables` are unpacked by the compiler into two bits a character for the
//! first two planes (32 KiB), so a look-up is one load; the planes above, nearly all ideographs, use the ranges.

use crate::unicode_tables::{LETTER, NUMBER, WHITE_SPACE};

/// Neither letter, number nor white space: punctuation, symbols, marks, controls, unassigned.
pub(crate) const OTHER: u8 = 0;
/// `\p{L}`
pub(crate) const L: u8 = 1;
/// `\p{N}`
pub(crate) const N: u8 = 2;
/// `\s`, the property White_Space.
pub(crate) const S: u8 = 3;

/// Characters below this are in `CLASSES`.
const TABLE_END: u32 = 0x2_0000;
static CLASSES: [u8; TABLE_END as usize / 4] = classes();
/// The class of each ASCII byte, and of no other: bytes from 0x80 on are parts of characters.
pub(crate) static ASCII: [u8; 128] = ascii();

const fn fill(
    mut table: [u8; TABLE_END as usize / 4],
    ranges: &[(u32, u32)],
    class: u8,
) -> [u8; TABLE_END as usize / 4] {
    let mut i = 0;
    while i < ranges.len() {
        let (mut code, last) = ranges[i];
        while code <= last && code < TABLE_END {
            table[code as usize / 4] |= class << (code % 4 * 2);
            code += 1;
        }
        i += 1;
    }
    table
}

const fn classes() -> [u8; TABLE_END as usize / 4] {
    let table = fill([0; TABLE_END as usize / 4], LETTER, L);
    fill(fill(table, NUMBER, N), WHITE_SPACE, S)
}

const fn ascii() -> [u8; 128] {
    let table = classes();
    let mut ascii = [0; 128];
    let mut code = 0;
    while code < 128 {
        ascii[code] = (table[code / 4] >> (code % 4 * 2)) & 3;
        code += 1;
    }
    ascii
}

/// The class of the character with this code point.
pub(crate) fn class(code: u32) -> u8 {
    match CLASSES.get(code as usize / 4) {
        Some(packed) => (packed >> (code % 4 * 2)) & 3,
        None if contains(LETTER, code) => L,
        None if contains(NUMBER, code) => N,
        None => OTHER,
    }
}

fn contains(ranges: &[(u32, u32)], code: u32) -> bool {
    let i = ranges.partition_point(|&(_, last)| last < code);
    ranges.get(i).is_some_and(|&(first, _)| first <= code)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_of_known_characters() {
        for (text, expected) in
            [("aZéßλ日𐐷𠀀", L), ("09²½٣Ⅷ𝟘", N), (" \t\r\n\u{85}\u{a0}\u{3000}\u{2028}", S)]
        {
            for c in text.chars() {
                assert_eq!(class(c as u32), expected, "{c:?}");
            }
        }
        for c in "\0_-'€\u{301}\u{200b}\u{200d}\u{feff}😀\u{e000}\u{10ffff}".chars() {
            assert_eq!(class(c as u32), OTHER, "{c:?}");
        }
        assert!(WHITE_SPACE.iter().all(|&(_, last)| last < TABLE_END));
    }
}
