//! The pre-tokenizer: cuts text into words where GPT-2's regular expression does, without a regular expression.
//!
//! Each alternative of [`SPLIT_REGEX`] is a run of one class of characters, so the next word follows from the class
//! of one character, or of two after a space. The only look-ahead, `\s+(?!\S)`, means that a run of white space
//! before something else leaves its last character to what follows.

use crate::unicode::{ASCII, OTHER, S, class};

/// The expression that [`words`] computes, as Hugging Face's ByteLevel pre-tokenizer has it.
pub const SPLIT_REGEX: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";

/// The words of `text`, in order; together they are the whole text.
pub fn words(text: &str) -> impl Iterator<Item = &str> {
    let mut start = 0;
    std::iter::from_fn(move || {
        let end = next_word(text.as_bytes(), start)?;
        let word = &text[start..end];
        start = end;
        Some(word)
    })
}

/// The end of the word that starts at `start`, or `None` at the end of `text`, which must be UTF-8.
#[inline]
pub(crate) fn next_word(text: &[u8], start: usize) -> Option<usize> {
    let first = *text.get(start)?;
    if first == b'\'' {
        if let Some(length) = contraction(&text[start + 1..]) {
            return Some(start + 1 + length);
        }
        return Some(run_end(text, start + 1, OTHER));
    }
    let (kind, end) = class_at(text, start)?;
    if kind != S {
        return Some(run_end(text, end, kind));
    }
    match class_at(text, end) {
        None => Some(end),
        Some((S, next_end)) => Some(white_space_end(text, end, next_end)),
        Some((kind, next_end)) if first == b' ' => Some(run_end(text, next_end, kind)),
        // One white space that is no space, right before something else: `\s+` takes it alone.
        Some(_) => Some(end),
    }
}

/// The length of `s`, `t`, `m`, `d`, `ll`, `ve` or `re` at the start of `rest`.
fn contraction(rest: &[u8]) -> Option<usize> {
    match rest {
        [b's' | b't' | b'm' | b'd', ..] => Some(1),
        [b'l', b'l', ..] | [b'v', b'e', ..] | [b'r', b'e', ..] => Some(2),
        _ => None,
    }
}

/// Where the run of white space ends whose last character known so far is `last_start..end`.
fn white_space_end(text: &[u8], mut last_start: usize, mut end: usize) -> usize {
    loop {
        match class_at(text, end) {
            None => return end,
            Some((S, next_end)) => (last_start, end) = (end, next_end),
            Some(_) => return last_start,
        }
    }
}

/// Where the run of characters of this class ends that reaches to `at` or further.
#[inline]
fn run_end(text: &[u8], mut at: usize, kind: u8) -> usize {
    while let Some((next, end)) = class_at(text, at) {
        if next != kind {
            break;
        }
        at = end;
    }
    at
}

/// The class of the character at `at`, and where it ends.
#[inline]
fn class_at(text: &[u8], at: usize) -> Option<(u8, usize)> {
    let first = *text.get(at)?;
    match ASCII.get(usize::from(first)) {
        Some(&kind) => Some((kind, at + 1)),
        None => Some(class_of_multibyte(text, at, first)),
    }
}

/// [`class_at`] beyond ASCII. Bytes missing at the end, impossible in UTF-8, read as zero and end with the text.
fn class_of_multibyte(text: &[u8], at: usize, first: u8) -> (u8, usize) {
    let next = |i: usize| u32::from(text.get(at + i).copied().unwrap_or(0) & 0x3f);
    let lead = u32::from(first);
    let (code, length) = match first {
        0..0xe0 => ((lead & 0x1f) << 6 | next(1), 2),
        0xe0..0xf0 => ((lead & 0xf) << 12 | next(1) << 6 | next(2), 3),
        _ => ((lead & 7) << 18 | next(1) << 12 | next(2) << 6 | next(3), 4),
    };
    (class(code), (at + length).min(text.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split(text: &str) -> Vec<&str> {
        words(text).collect()
    }

    #[test]
    fn words_of_code() {
        assert_eq!(split("let x1 = y'll;"), ["let", " x", "1", " =", " y", "'ll", ";"]);
        assert_eq!(split("if a:\n        b\n"), ["if", " a", ":", "\n       ", " b", "\n"]);
        assert_eq!(split("a\t\tb \n\nc  "), ["a", "\t", "\t", "b", " \n", "\n", "c", "  "]);
        assert_eq!(split("'''s 's 'S x'RE"), ["'''", "s", " '", "s", " '", "S", " x", "'", "RE"]);
        assert_eq!(split("日本 ½x\u{301}"), ["日本", " ½", "x", "\u{301}"]);
        assert_eq!(split("\u{a0}\u{a0}x \u{3000}y"), ["\u{a0}", "\u{a0}", "x", " ", "\u{3000}", "y"]);
        assert!(split("").is_empty());
    }
}
