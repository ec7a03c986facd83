//! A row times a panel with AVX-512: products of bytes, four added at once in 32 bits (`vpdpbusd`).
//!
//! The instruction multiplies unsigned bytes by signed ones. Weights are the unsigned ones, with something added that the start of a
//! group's sum takes off again; x, of 16 bits, is 256 high + low, both signed.
//!
//! Register plan, 14 of 32:
//!
//! ```text
//!   sums[0..2]   f32, 32 columns                  high, low [0..2]   i32, the group's
//!   x[0..4]      high and low bytes, broadcast    w, its parts       words of 16 columns, as bytes
//! ```
//!
//! A word of 8 bits takes 3 instructions for 4 products, a word of 4 bits 7 for 8. Nothing is asked for ahead: on huge pages the
//! hardware alone was a tenth faster, since what is asked for competes with loads for the few misses that may be under way.

use super::rows::{FixedRow, row_group_words};
use super::{Format, SCALE_WORDS};
use crate::gemm::PANEL;
use std::arch::x86_64::*;

/// Columns of a vector, and vectors of a panel.
const WIDTH: usize = 16;
const VECTORS: usize = PANEL / WIDTH;

/// Defines the kernel of a format, whose words become `$parts` vectors of unsigned bytes.
macro_rules! kernel {
    ($name:ident, $format:expr, $parts:literal, |$word:ident| $bytes:expr) => {
        /// The dot products of a row with the 32 columns of a panel.
        #[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
        pub(super) fn $name(x: FixedRow<'_>, panel: &[u32]) -> [f32; PANEL] {
            const FORMAT: Format = $format;
            const WORDS: usize = FORMAT.group() / FORMAT.per_word();
            let mut sums = [_mm512_setzero_ps(); VECTORS];
            let groups = x.words.chunks_exact(row_group_words(FORMAT));
            for (row, group) in groups.zip(panel.chunks_exact(FORMAT.group_words())) {
                let (mut high, mut low) =
                    ([_mm512_setzero_si512(); VECTORS], [_mm512_setzero_si512(); VECTORS]);
                for i in 0..WORDS {
                    let x_words = |part: usize| {
                        let word = |at: usize| _mm512_set1_epi32(row[at + $parts * i + part] as i32);
                        [word(0), word(FORMAT.group() / 4)]
                    };
                    for v in 0..VECTORS {
                        let at = SCALE_WORDS + i * PANEL + v * WIDTH;
                        let $word = load(group, at);
                        let parts: [__m512i; $parts] = $bytes;
                        for (part, bytes) in parts.into_iter().enumerate() {
                            let [x_high, x_low] = x_words(part);
                            high[v] = _mm512_dpbusd_epi32(high[v], bytes, x_high);
                            low[v] = _mm512_dpbusd_epi32(low[v], bytes, x_low);
                        }
                    }
                }
                let start = _mm512_set1_epi32(row[FORMAT.group() / 2] as i32);
                let scale = _mm512_set1_ps(f32::from_bits(row[FORMAT.group() / 2 + 1]));
                let words = load(group, 0);
                let scales = [
                    _mm512_slli_epi32::<16>(words),
                    _mm512_and_si512(words, _mm512_set1_epi32(0xffff_0000_u32 as i32)),
                ];
                for v in 0..VECTORS {
                    let sum =
                        _mm512_add_epi32(_mm512_slli_epi32::<8>(high[v]), _mm512_add_epi32(low[v], start));
                    let scale = _mm512_mul_ps(scale, _mm512_castsi512_ps(scales[v]));
                    sums[v] = _mm512_fmadd_ps(scale, _mm512_cvtepi32_ps(sum), sums[v]);
                }
            }
            let mut out = [0.0; PANEL];
            for (out, sum) in out.as_chunks_mut::<WIDTH>().0.iter_mut().zip(sums) {
                // SAFETY: a chunk is 16 floats.
                unsafe { _mm512_storeu_ps(out.as_mut_ptr(), sum) };
            }
            out
        }
    };
}

// Two's complement plus 128.
kernel!(dot_int8, Format::Int8, 1, |word| [_mm512_xor_si512(word, _mm512_set1_epi8(-128))]);

kernel!(dot_int4, Format::Int4, 2, |word| {
    let mask = _mm512_set1_epi8(15);
    [_mm512_and_si512(word, mask), _mm512_and_si512(_mm512_srli_epi16::<4>(word), mask)]
});

/// Sixteen words from `at`.
#[inline]
#[target_feature(enable = "avx512f")]
fn load(words: &[u32], at: usize) -> __m512i {
    let words = &words[at..at + WIDTH];
    // SAFETY: sixteen words, as just cut.
    unsafe { _mm512_loadu_si512(words.as_ptr().cast()) }
}
