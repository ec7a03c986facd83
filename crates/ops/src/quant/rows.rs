//! Few rows in fixed point: x becomes 16-bit integers with a scale for each group, and a product is a sum of integers.
//!
//! ```text
//! out[j] = sum over groups of (x scale[group] w scale[group, j]) sum over the group of x integer w integer
//! ```
//!
//! The inner sums are exact, so that only the outer ones have an order. 15 bits of x and 7 or 3 of a weight leave 10 for
//! the length of a group in 32. A group of x is stored as pairs, as the kernels multiply them with pairs of a word:
//!
//! ```text
//! Int8:  k0 k2, k1 k3               the even bytes of a word, then the odd ones
//! Int4:  k0 k4, k1 k5, k2 k6, k3 k7     every fourth nibble
//! ```
//!
//! What is added to the nibbles is taken off at the start of a group's sum: -8 sum(x).

use super::{Format, portable};
use crate::cpu::math::LANES;
use crate::cpu::{Cpu, Isa, Simd, Task};
use crate::gemm::{PANEL, Word};

/// One row of x. A group is `[group / 2 pairs, start, scale]`.
#[derive(Clone, Copy)]
pub(super) struct FixedRow<'a> {
    pub(super) words: &'a [u32],
}

/// Words of a group of x: pairs, what its sum starts with, its scale.
pub(super) const fn row_group_words(format: Format) -> usize {
    format.group() / 2 + 2
}

/// Rows of x in fixed point.
pub(super) struct FixedRows<'a> {
    words: &'a [u32],
    row_words: usize,
}

impl<'a> FixedRows<'a> {
    /// Words that they take.
    pub(super) fn num_words(format: Format, k: usize, rows: usize) -> usize {
        rows * k.div_ceil(format.group()) * row_group_words(format)
    }

    /// Rounds `x` (rows, k).
    pub(super) fn new<E: Word>(
        cpu: &Cpu<E>,
        format: Format,
        words: &'a mut [u32],
        x: &[E],
        rows: usize,
    ) -> Self {
        let (k, row_words) = (x.len() / rows, words.len() / rows);
        for (out, x) in words.chunks_exact_mut(row_words).zip(x.chunks_exact(k)) {
            match format {
                Format::Int8 => cpu.isa().run(Round::<E, 64> { out, x, format }),
                Format::Int4 => cpu.isa().run(Round::<E, 32> { out, x, format }),
            }
        }
        FixedRows { words, row_words }
    }

    pub(super) fn row(&self, row: usize) -> FixedRow<'_> {
        FixedRow { words: &self.words[row * self.row_words..][..self.row_words] }
    }
}

struct Round<'a, E, const G: usize> {
    out: &'a mut [u32],
    x: &'a [E],
    format: Format,
}

impl<E: Word, const G: usize> Task for Round<'_, E, G> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self) {
        const LIMIT: f32 = 32767.0;
        const ROUND: f32 = 12_582_912.0;
        let groups = self.out.chunks_exact_mut(row_group_words(self.format));
        for (out, x) in groups.zip(self.x.chunks(G)) {
            let mut values = [0.0f32; G];
            values.iter_mut().zip(x).for_each(|(value, x)| *value = x.to_f32());
            let (mut largest, mut broken) = ([0.0f32; LANES], [0.0f32; LANES]);
            for values in values.as_chunks::<LANES>().0 {
                for j in 0..LANES {
                    largest[j] = if values[j].abs() > largest[j] { values[j].abs() } else { largest[j] };
                    // NaN where a value is not finite: it must not become a number.
                    broken[j] += values[j] * 0.0;
                }
            }
            let largest = largest.into_iter().fold(0.0, f32::max);
            let broken: f32 = broken.into_iter().sum();
            let scale = largest / LIMIT;
            let inverse = if scale > f32::MIN_POSITIVE { 1.0 / scale } else { 0.0 };
            // Adding 1.5 x 2^23 rounds to an integer and leaves it in the low bits.
            let (mut integers, mut sum) = ([0u16; G], 0i32);
            for (integer, x) in integers.iter_mut().zip(&values) {
                *integer = (x * inverse + ROUND).to_bits() as u16;
                sum += i32::from(*integer as i16);
            }
            let (pairs, rest) = out.split_at_mut(G / 2);
            let half = self.format.per_word() / 2;
            for (pairs, integers) in pairs.chunks_exact_mut(half).zip(integers.chunks_exact(2 * half)) {
                for (i, pair) in pairs.iter_mut().enumerate() {
                    // Int8: bytes i and i + 2; Int4: nibbles i and i + 4.
                    *pair = u32::from(integers[i]) | u32::from(integers[i + half]) << 16;
                }
            }
            rest[0] = if self.format == Format::Int4 { -8 * sum } else { 0 } as u32;
            rest[1] = (scale + broken).to_bits();
        }
    }
}

/// A row of x times a panel.
#[derive(Clone, Copy)]
pub(super) enum Kernel {
    Portable(Format),
    #[cfg(target_arch = "x86_64")]
    Avx2(Format),
}

impl Kernel {
    pub(super) fn of(format: Format, isa: Isa) -> Self {
        match isa {
            // AVX-512 machines run it too. It does not keep up with memory yet (LOG.md, 2026-11-26).
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 | Isa::Avx512 | Isa::Avx512Bf16 => Kernel::Avx2(format),
            _ => Kernel::Portable(format),
        }
    }

    #[inline(always)]
    pub(super) fn run(self, x: FixedRow<'_>, panel: &[u32]) -> [f32; PANEL] {
        match self {
            Kernel::Portable(format) => portable::dot(format, x, panel),
            #[cfg(target_arch = "x86_64")]
            // SAFETY: `of` chooses this kernel only for the instruction set of a `Cpu`, which is available.
            Kernel::Avx2(Format::Int8) => unsafe { super::avx2::dot_int8(x, panel) },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: as above.
            Kernel::Avx2(Format::Int4) => unsafe { super::avx2::dot_int4(x, panel) },
        }
    }
}
