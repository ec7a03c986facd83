//! The pre-tokenizer: cuts text into words where the regular expressions of well-known tokenizers do, without one.
//!
//! Each alternative of these expressions is a run of one class of characters, so the next word follows from the class
//! of one character, or of two after a space. The only look-ahead, `\s+(?!\S)`, means that a run of white space
//! before something else leaves its last character to what follows.

mod blocks;

use crate::unicode::{ASCII, L, N, OTHER, S, class};

/// The most ends of words found at once.
pub(crate) const MOST_ENDS: usize = blocks::BLOCK;
/// Ends of words found at once.
pub(crate) type Ends = [usize; MOST_ENDS];

/// Where text is cut into words, before any merge.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Pattern {
    /// GPT-2's expression, as Hugging Face's ByteLevel pre-tokenizer has it.
    #[default]
    Gpt2,
    /// StarCoder's: every digit is a word, and GPT-2's expression cuts what lies between digits.
    StarCoder,
    /// Llama 3's, which is that of cl100k: digits in groups of three, a letter run takes one sign before it, and line
    /// ends stay with what is before them.
    Llama3,
    /// Qwen 2's: as Llama 3's, but every digit is a word.
    Qwen2,
}

impl Pattern {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Gpt2, Self::StarCoder, Self::Llama3, Self::Qwen2];

    /// The expression that [`Pattern::words`] computes. StarCoder's is two steps: `\p{N}` isolated, then GPT-2's.
    pub const fn regex(self) -> &'static str {
        match self {
            Self::Gpt2 | Self::StarCoder => {
                r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
            }
            Self::Llama3 => {
                r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
            }
            Self::Qwen2 => {
                r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
            }
        }
    }

    /// The words of `text`, in order; together they are the whole text.
    pub fn words(self, text: &str) -> impl Iterator<Item = &str> {
        let (mut start, mut ends, mut next, mut num) = (0, [0; MOST_ENDS], 0, 0);
        std::iter::from_fn(move || {
            if next == num {
                (next, num) = (0, self.next_words(text.as_bytes(), start, &mut ends));
            }
            let end = *ends[..num].get(next)?;
            let word = &text[start..end];
            (start, next) = (end, next + 1);
            Some(word)
        })
    }

    /// Writes the ends of the words from `start` on, in order, and returns their number: 0 only at the end of `text`,
    /// which must be UTF-8.
    #[inline]
    pub(crate) fn next_words(self, text: &[u8], start: usize, ends: &mut Ends) -> usize {
        blocks::fill(self, text, start, ends)
    }

    /// Calls `f` with start and end of each word of `text`, which must be UTF-8, in order.
    #[inline]
    pub(crate) fn for_each_word(self, text: &[u8], mut f: impl FnMut(usize, usize)) {
        let (mut start, mut ends) = (0, [0; MOST_ENDS]);
        loop {
            let num = self.next_words(text, start, &mut ends);
            if num == 0 {
                return;
            }
            for &end in &ends[..num] {
                f(start, end);
                start = end;
            }
        }
    }

    /// The end of the word that starts at `start`, or `None` at the end of `text`, which must be UTF-8.
    #[inline]
    pub(crate) fn next_word(self, text: &[u8], start: usize) -> Option<usize> {
        match self {
            Self::Gpt2 => gpt2(text, start),
            Self::StarCoder => starcoder(text, start),
            Self::Llama3 => cl100k(text, start, 3),
            Self::Qwen2 => cl100k(text, start, 1),
        }
    }
}

#[inline]
fn gpt2(text: &[u8], start: usize) -> Option<usize> {
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

/// As [`gpt2`], with a digit in the place of the end of the text.
fn starcoder(text: &[u8], start: usize) -> Option<usize> {
    let (kind, end) = class_at(text, start)?;
    if kind == N {
        return Some(end);
    }
    if kind != S {
        return gpt2(text, start);
    }
    let all = run_end(text, end, S);
    match class_at(text, all) {
        None | Some((N, _)) => Some(all),
        Some(_) => gpt2(text, start),
    }
}

/// The expression of Llama 3 and Qwen 2, with numbers of up to `max_digits` characters.
fn cl100k(text: &[u8], start: usize, max_digits: usize) -> Option<usize> {
    let first = *text.get(start)?;
    if first == b'\''
        && let Some(length) = any_case_contraction(&text[start + 1..])
    {
        return Some(start + 1 + length);
    }
    let (kind, end) = class_at(text, start)?;
    match kind {
        L => return Some(run_end(text, end, L)),
        N => {
            let (mut end, mut num_digits) = (end, 1);
            while let Some((N, next_end)) = class_at(text, end).filter(|_| num_digits < max_digits) {
                (end, num_digits) = (next_end, num_digits + 1);
            }
            return Some(end);
        }
        _ => {}
    }
    let next = class_at(text, end);
    if let Some((L, next_end)) = next.filter(|_| !is_line_end(first)) {
        return Some(run_end(text, next_end, L));
    }
    match (kind, next) {
        (OTHER, _) => Some(line_ends(text, run_end(text, end, OTHER))),
        (_, Some((OTHER, next_end))) if first == b' ' => {
            Some(line_ends(text, run_end(text, next_end, OTHER)))
        }
        _ => Some(white_space_of_lines(text, start)),
    }
}

/// `s`, `t`, `m`, `d`, `ll`, `ve` or `re` in any case; the long s (U+017F) is an s too.
fn any_case_contraction(rest: &[u8]) -> Option<usize> {
    match rest {
        [0xc5, 0xbf, ..] => Some(2),
        [a, b, ..] => contraction(&[a.to_ascii_lowercase(), b.to_ascii_lowercase()]),
        [a] => contraction(&[a.to_ascii_lowercase()]),
        [] => None,
    }
}

/// `\s*[\r\n]+|\s+(?!\S)|\s+` from `start`, which is white space: up to the last line end of the run, else as GPT-2's.
fn white_space_of_lines(text: &[u8], start: usize) -> usize {
    let end = run_end(text, start, S);
    if let Some(last) = text[start..end].iter().rposition(|&byte| is_line_end(byte)) {
        return start + last + 1;
    }
    if end == text.len() {
        return end;
    }
    let last_start = (start..end).rev().find(|&at| text[at] & 0xc0 != 0x80).unwrap_or(start);
    if last_start > start { last_start } else { end }
}

fn is_line_end(byte: u8) -> bool {
    matches!(byte, b'\r' | b'\n')
}

/// Where the `\r` and `\n` end that start at `at`.
fn line_ends(text: &[u8], at: usize) -> usize {
    text[at..].iter().position(|&byte| !is_line_end(byte)).map_or(text.len(), |length| at + length)
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
        Pattern::Gpt2.words(text).collect()
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
