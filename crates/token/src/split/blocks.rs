//! Cuts words 64 bytes at a time: classes of characters as bit masks, and the starts of words by shifts of them.
//!
//! A block is loaded where a word starts, so that nothing is carried over from the block before, and the word that
//! reaches beyond the block begins the next one. Only ASCII is cut here; a word at a character beyond it, one longer
//! than a block, and the last words of a text are cut by [`Pattern::next_word`], against which this is tested.

use super::{Ends, Pattern, any_case_contraction, contraction};

/// Bytes of a block.
pub(super) const BLOCK: usize = 64;

/// A bit for each byte of a block.
#[derive(Clone, Copy)]
struct Masks {
    letters: u64,
    digits: u64,
    /// `\s`
    white: u64,
    /// The space itself.
    spaces: u64,
    /// `\r` and `\n`
    line_ends: u64,
    quotes: u64,
    /// Bytes of characters beyond ASCII.
    beyond: u64,
}

impl Masks {
    /// Those of the first 32 bytes beside those of the next.
    fn beside(self, next: Self) -> Self {
        let both = |low: u64, high: u64| low | high << 32;
        Self {
            letters: both(self.letters, next.letters),
            digits: both(self.digits, next.digits),
            white: both(self.white, next.white),
            spaces: both(self.spaces, next.spaces),
            line_ends: both(self.line_ends, next.line_ends),
            quotes: both(self.quotes, next.quotes),
            beyond: both(self.beyond, next.beyond),
        }
    }
}

/// Writes the ends of the words from `start` on, in order, and returns their number: 0 only at the end of `text`.
#[inline]
pub(super) fn fill(pattern: Pattern, text: &[u8], start: usize, ends: &mut Ends) -> usize {
    #[cfg(target_arch = "x86_64")]
    if x86::is_available() {
        // SAFETY: the machine has the instructions that `fill` is compiled for.
        return unsafe { x86::fill(pattern, text, start, ends) };
    }
    let mut at = start;
    for (num, end) in ends.iter_mut().enumerate() {
        match pattern.next_word(text, at) {
            Some(found) => (*end, at) = (found, found),
            None => return num,
        }
    }
    ends.len()
}

/// What [`fill`] does, with the masks of a block by `masks`.
#[inline(always)]
fn fill_with(
    pattern: Pattern,
    text: &[u8],
    start: usize,
    ends: &mut Ends,
    masks: impl Fn(&[u8; BLOCK]) -> Masks,
) -> usize {
    let mut beyond = BLOCK as u32;
    if let Some(block) = text.get(start..).and_then(|rest| rest.first_chunk()) {
        let masks = masks(block);
        // The two characters before one beyond ASCII, or before the block's end, wait until it is seen.
        beyond = masks.beyond.trailing_zeros();
        let known = if beyond < 2 { 1 } else { u64::MAX >> (65 - beyond) };
        let mut starts = match pattern {
            Pattern::Gpt2 => gpt2(masks, known, text, start),
            Pattern::StarCoder => starcoder(masks, known, text, start),
            Pattern::Llama3 => cl100k(masks, known, text, start, false),
            Pattern::Qwen2 => cl100k(masks, known, text, start, true),
        };
        // The first start is that of the block.
        starts &= starts - 1;
        let num = starts.count_ones() as usize;
        if num > 0 {
            // Four at a time: a loop whose length is guessed wrong costs more than the ends written in vain.
            for ends in ends.chunks_exact_mut(4).take(num.div_ceil(4)) {
                for end in ends {
                    *end = start + starts.trailing_zeros() as usize;
                    starts &= starts.wrapping_sub(1);
                }
            }
            return num;
        }
    }
    // At least one word, and all that reach to the character in the way.
    let (mut at, mut num) = (start, 0);
    while num < BLOCK && (num == 0 || at - start <= beyond as usize) {
        let Some(end) = pattern.next_word(text, at) else { break };
        (ends[num], at) = (end, end);
        num += 1;
    }
    num
}

/// The starts of words in a block, the first one at its first byte, as far as `known` (a run of low bits).
#[inline(always)]
fn gpt2(masks: Masks, known: u64, text: &[u8], start: usize) -> u64 {
    let Masks { letters, digits, white, spaces, .. } = masks;
    let others = !(letters | digits | white | masks.beyond);
    // A run starts where its class does, unless a space is before it: that one then starts the word.
    let run = |class: u64| class & !(class << 1 | spaces << 1);
    // White space: where it begins, and its last character, when something else follows.
    let white = white & !(white << 1) | white & !(white >> 1);
    let starts = (run(letters) | run(digits) | run(others) | white | 1) & known;
    cut_contractions(starts, masks.quotes, known, text, start, contraction)
}

/// As [`gpt2`], where every digit is a word and the text on either side of it ends there.
#[inline(always)]
fn starcoder(masks: Masks, known: u64, text: &[u8], start: usize) -> u64 {
    let Masks { letters, digits, white, spaces, .. } = masks;
    let others = !(letters | digits | white | masks.beyond);
    let run = |class: u64| class & !(class << 1 | spaces << 1);
    let white = white & !(white << 1) | white & !(white >> 1 | digits >> 1);
    let starts = (run(letters) | digits | digits << 1 | run(others) | white | 1) & known;
    cut_contractions(starts, masks.quotes, known, text, start, contraction)
}

/// The starts of Llama 3's words, or of Qwen 2's when digits are `single`.
#[inline(always)]
fn cl100k(masks: Masks, mut known: u64, text: &[u8], start: usize, single: bool) -> u64 {
    let Masks { letters, digits, white, spaces, line_ends, .. } = masks;
    let others = !(letters | digits | white | masks.beyond);
    let blanks = white & !line_ends;
    // What white space becomes is known when its end is: only its first character of a run that goes on.
    let seen_to = 64 - (!white & known).leading_zeros();
    known &= u64::MAX >> (63 - seen_to.min(63));
    // A sign takes letters right after it when it starts a word, and it does unless a sign or a space is before it.
    let run_of_others = others & !(others << 1 | spaces << 1);
    let run_of_letters = letters & !(letters << 1 | blanks << 1 | run_of_others << 1);
    let first_digits = digits & !(digits << 1);
    let digits = if single { digits } else { groups_of_three(digits, first_digits) };
    // Line ends right after signs belong to them: the carry runs through each run of line ends that starts so.
    let taken = line_ends & !line_ends.wrapping_add(line_ends & others << 1);
    let white = white & !taken;
    let first_white = white & !(white << 1);
    // Blanks after the last line end of their run of white space: those that no line end follows.
    let last_blanks = blanks & !(white >> 1);
    let reversed = blanks.reverse_bits();
    let trailing = (reversed & !reversed.wrapping_add(last_blanks.reverse_bits())).reverse_bits();
    let first_trailing = trailing & !(trailing << 1);
    let starts = run_of_letters | digits | run_of_others | first_white | first_trailing | last_blanks | 1;
    cut_contractions(starts & known, masks.quotes, known, text, start, any_case_contraction)
}

/// Every third digit of each run, from its first.
#[inline(always)]
fn groups_of_three(digits: u64, first: u64) -> u64 {
    let (mut all, mut group) = (first, first);
    while group != 0 {
        group = group << 3 & digits & digits << 1 & digits << 2;
        all |= group;
    }
    all
}

/// Moves the starts after each contraction: none after its quote, one after its letters.
#[inline(always)]
fn cut_contractions(
    mut starts: u64,
    quotes: u64,
    known: u64,
    text: &[u8],
    start: usize,
    contraction: impl Fn(&[u8]) -> Option<usize>,
) -> u64 {
    let mut quotes = quotes & starts;
    while quotes != 0 {
        let at = quotes.trailing_zeros();
        quotes &= quotes - 1;
        if let Some(length) = contraction(&text[start + at as usize + 1..]) {
            let next = at + 1 + length as u32;
            if next >= u64::BITS {
                // The next start is beyond the block, which then ends here.
                return starts & (u64::MAX >> (63 - at));
            }
            starts = (starts & !(1 << (at + 1)) | 1 << next) & known;
        }
    }
    starts
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::{BLOCK, Ends, Masks, Pattern, fill_with};
    use std::arch::x86_64::*;

    /// Whether the machine has the instructions of [`fill`]: one load, after the first call.
    pub(super) fn is_available() -> bool {
        is_x86_feature_detected!("avx2")
            && is_x86_feature_detected!("bmi1")
            && is_x86_feature_detected!("bmi2")
            && is_x86_feature_detected!("lzcnt")
            && is_x86_feature_detected!("popcnt")
    }

    #[target_feature(enable = "avx2,bmi1,bmi2,lzcnt,popcnt")]
    pub(super) fn fill(pattern: Pattern, text: &[u8], start: usize, ends: &mut Ends) -> usize {
        fill_with(pattern, text, start, ends, |block| {
            let (low, high) = block.split_at(BLOCK / 2);
            // SAFETY: this closure is inlined into a function with AVX2, and both halves have 32 bytes.
            unsafe {
                let low = masks(_mm256_loadu_si256(low.as_ptr().cast()));
                low.beside(masks(_mm256_loadu_si256(high.as_ptr().cast())))
            }
        })
    }

    /// The masks of 32 bytes.
    #[inline]
    #[target_feature(enable = "avx2")]
    fn masks(bytes: __m256i) -> Masks {
        let bits = |lanes| u64::from(_mm256_movemask_epi8(lanes) as u32);
        let is = |byte: u8| _mm256_cmpeq_epi8(bytes, _mm256_set1_epi8(byte as i8));
        // Unsigned `bytes - first <= span`.
        let within = |bytes, first: u8, span: u8| {
            let above = _mm256_sub_epi8(bytes, _mm256_set1_epi8(first as i8));
            _mm256_cmpeq_epi8(_mm256_min_epu8(above, _mm256_set1_epi8(span as i8)), above)
        };
        let lower_case = _mm256_or_si256(bytes, _mm256_set1_epi8(0x20));
        let spaces = is(b' ');
        Masks {
            letters: bits(within(lower_case, b'a', 25)),
            digits: bits(within(bytes, b'0', 9)),
            white: bits(_mm256_or_si256(spaces, within(bytes, b'\t', 4))),
            spaces: bits(spaces),
            line_ends: bits(_mm256_or_si256(is(b'\r'), is(b'\n'))),
            quotes: bits(is(b'\'')),
            beyond: bits(bytes),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The masks of a block, byte by byte.
    fn plain_masks(block: &[u8; BLOCK]) -> Masks {
        let bits = |is: fn(&u8) -> bool| {
            block.iter().enumerate().fold(0, |bits, (i, byte)| bits | u64::from(is(byte)) << i)
        };
        Masks {
            letters: bits(u8::is_ascii_alphabetic),
            digits: bits(u8::is_ascii_digit),
            white: bits(|byte| matches!(byte, b' ' | 9..=13)),
            spaces: bits(|&byte| byte == b' '),
            line_ends: bits(|byte| matches!(byte, b'\r' | b'\n')),
            quotes: bits(|&byte| byte == b'\''),
            beyond: bits(|byte| !byte.is_ascii()),
        }
    }

    fn all_ends(text: &[u8], fill: impl Fn(&[u8], usize, &mut Ends) -> usize) -> Vec<usize> {
        let (mut all, mut ends) = (vec![0], [0; BLOCK]);
        while let Some(&start) = all.last() {
            let num = fill(text, start, &mut ends);
            if num == 0 {
                break;
            }
            all.extend_from_slice(&ends[..num]);
        }
        all
    }

    #[test]
    fn blocks_cut_where_single_words_end() {
        let alphabets = [
            "ab1 ",
            "a \n\r\t(",
            "'slrevdtmSL (1",
            "'st 'é",
            "1234567 a",
            "=\n \t",
            "aZ09_ \n\t'\"()=.,:é日\u{a0}\u{85}ſ",
            "aaaaaaaaaaaaaaaaaaaa ",
            "                a\n",
            "日本語é 1",
        ];
        let mut state = 1_u64;
        let mut below = |bound: usize| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) as usize % bound
        };
        for round in 0..4000 {
            let letters: Vec<char> = alphabets[round % alphabets.len()].chars().collect();
            let length = below(300);
            let text: String = (0..length).map(|_| letters[below(letters.len())]).collect();
            for pattern in Pattern::ALL {
                let text = text.as_bytes();
                let mut expected = vec![0];
                while let Some(end) = expected.last().and_then(|&start| pattern.next_word(text, start)) {
                    expected.push(end);
                }
                let found =
                    all_ends(text, |text, start, ends| fill_with(pattern, text, start, ends, plain_masks));
                assert_eq!(found, expected, "{pattern:?}: {:?}", String::from_utf8_lossy(text));
                let found = all_ends(text, |text, start, ends| fill(pattern, text, start, ends));
                assert_eq!(found, expected, "{pattern:?}: {:?}", String::from_utf8_lossy(text));
            }
        }
    }
}
