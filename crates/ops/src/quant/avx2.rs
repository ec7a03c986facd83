//! A row times a panel with AVX2: products of 16-bit pairs, added in 32 bits (`vpmaddwd`).
//!
//! Register plan, 16 of 16:
//!
//! ```text
//!   sums[0..4]   f32, 32 columns           w      words of 8 columns
//!   acc[0..4]    i32, the group's          t      integers of w as 16 bits, then their products
//!   x[0..4]      broadcast pairs of x      mask   the nibbles 0 and 4 (Int4)
//! ```
//!
//! A word of 8 bits takes 7 instructions for 4 products (its even bytes are shifted up and down again, its odd ones only
//! down), a word of 4 bits 14 for 8.

use super::rows::{FixedRow, row_group_words};
use super::{Format, SCALE_WORDS};
use crate::gemm::PANEL;
use std::arch::x86_64::*;

/// Columns of a vector, and vectors of a panel.
const WIDTH: usize = 8;
const VECTORS: usize = PANEL / WIDTH;
/// Words of a cache line, and words that are asked for ahead: an estimate, which trials on a noisy machine did not settle.
const LINE: usize = 16;
const AHEAD: usize = 512;

/// Defines the kernel of a format: `$pairs` broadcast pairs of x for each word, and how a word is multiplied with them.
macro_rules! kernel {
    ($name:ident, $format:expr, $pairs:literal, |$acc:ident, $word:ident, $x:ident| $dot:expr) => {
        /// The dot products of a row with the 32 columns of a panel.
        #[target_feature(enable = "avx2,fma")]
        pub(super) fn $name(x: FixedRow<'_>, panel: &[u32]) -> [f32; PANEL] {
            const FORMAT: Format = $format;
            const WORDS: usize = FORMAT.group() / FORMAT.per_word();
            let mut sums = [_mm256_setzero_ps(); VECTORS];
            let groups = x.words.chunks_exact(row_group_words(FORMAT));
            for (row, group) in groups.zip(panel.chunks_exact(FORMAT.group_words())) {
                let mut acc = [_mm256_set1_epi32(row[FORMAT.group() / 2] as i32); VECTORS];
                prefetch(group, 0);
                for i in 0..WORDS {
                    prefetch(group, SCALE_WORDS + i * PANEL);
                    prefetch(group, SCALE_WORDS + i * PANEL + LINE);
                    let pair = |j: usize| _mm256_set1_epi32(row[$pairs * i + j] as i32);
                    let $x: [__m256i; $pairs] = std::array::from_fn(pair);
                    for (j, sum) in acc.iter_mut().enumerate() {
                        let $word = load(group, SCALE_WORDS + i * PANEL + j * WIDTH);
                        let $acc = *sum;
                        *sum = $dot;
                    }
                }
                let scale = _mm256_set1_ps(f32::from_bits(row[FORMAT.group() / 2 + 1]));
                for (j, sum) in sums.iter_mut().enumerate() {
                    let scales = _mm256_mul_ps(scale, scales(group, j));
                    *sum = _mm256_fmadd_ps(scales, _mm256_cvtepi32_ps(acc[j]), *sum);
                }
            }
            let mut out = [0.0; PANEL];
            for (out, sum) in out.as_chunks_mut::<WIDTH>().0.iter_mut().zip(sums) {
                // SAFETY: a chunk is 8 floats.
                unsafe { _mm256_storeu_ps(out.as_mut_ptr(), sum) };
            }
            out
        }
    };
}

kernel!(dot_int8, Format::Int8, 2, |acc, word, x| {
    let even = _mm256_srai_epi16::<8>(_mm256_slli_epi16::<8>(word));
    let odd = _mm256_srai_epi16::<8>(word);
    _mm256_add_epi32(acc, _mm256_add_epi32(_mm256_madd_epi16(even, x[0]), _mm256_madd_epi16(odd, x[1])))
});

kernel!(dot_int4, Format::Int4, 4, |acc, word, x| {
    let mask = _mm256_set1_epi32(0x000f_000f);
    let pairs = [
        _mm256_and_si256(word, mask),
        _mm256_and_si256(_mm256_srli_epi16::<4>(word), mask),
        _mm256_and_si256(_mm256_srli_epi16::<8>(word), mask),
        _mm256_srli_epi16::<12>(word),
    ];
    let product = |i: usize| _mm256_madd_epi16(pairs[i], x[i]);
    let (left, right) = (_mm256_add_epi32(product(0), product(1)), _mm256_add_epi32(product(2), product(3)));
    _mm256_add_epi32(acc, _mm256_add_epi32(left, right))
});

/// Asks for the cache line that lies `AHEAD` after `at`: the hardware stops at the end of a page, and has to begin again.
#[inline]
#[target_feature(enable = "avx2")]
fn prefetch(words: &[u32], at: usize) {
    #[expect(unused_unsafe, reason = "it is unsafe in older versions of Rust")]
    // SAFETY: a wish, which any address may be given to.
    unsafe {
        _mm_prefetch::<_MM_HINT_T0>(words.as_ptr().wrapping_add(at + AHEAD).cast());
    }
}

/// Eight words from `at`.
#[inline]
#[target_feature(enable = "avx2")]
fn load(words: &[u32], at: usize) -> __m256i {
    let words = &words[at..at + WIDTH];
    // SAFETY: eight words, as just cut.
    unsafe { _mm256_loadu_si256(words.as_ptr().cast()) }
}

/// The scales of eight columns, vector `j` of the panel: low halves of the scale words, then the high ones.
#[inline]
#[target_feature(enable = "avx2")]
fn scales(group: &[u32], j: usize) -> __m256 {
    let words = load(group, j % 2 * WIDTH);
    _mm256_castsi256_ps(match j / 2 {
        0 => _mm256_slli_epi32::<16>(words),
        _ => _mm256_and_si256(words, _mm256_set1_epi32(0xffff_0000_u32 as i32)),
    })
}
