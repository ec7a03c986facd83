//! Few rows in fixed point: x becomes 16-bit integers with a scale for each group, and a product is a sum of integers.
//!
//! ```text
//! out[j] = sum over groups of (x scale[group] w scale[group, j]) sum over the group of x integer w integer
//! ```
//!
//! The inner sums are exact, so that only the outer ones have an order, and every kernel adds the same integers. 15 bits of x and at most
//! 8 of a weight leave 8 of 31 for the length of a group, which takes 6. A group of x is stored as its kernel multiplies it with words:
//!
//! ```text
//! Pairs    two integers of 16 bits:  Int8: k0 k2, k1 k3     Int4: k0 k2, k4 k6, k1 k3, k5 k7
//!          (the elements that a shift, and in Int4 a mask, leave of a word)
//! Bytes    [high bytes of the group, low bytes of the group], x = 256 high + low, both signed
//! ```
//!
//! What a kernel adds to the integers of weights is taken off at the start of a group's sum: of the nibbles 8 sum(x), of bytes that
//! have to be unsigned 128 sum(x).

use super::{Format, portable};
use crate::cpu::math::{LANES, max_lanes, sum_lanes};
use crate::cpu::{Cpu, Isa, SharedMut, Simd, Task};
use crate::gemm::{PANEL, Word};

/// One row of x. A group is `[group / 2 words of x, start, scale]`.
#[derive(Clone, Copy)]
pub(super) struct FixedRow<'a> {
    pub(super) words: &'a [u32],
}

/// Words of a group of x: its integers, what its sum starts with, its scale.
pub(super) const fn row_group_words(format: Format) -> usize {
    format.group() / 2 + 2
}

/// How the integers of x lie in words.
#[derive(Clone, Copy)]
enum Layout {
    Pairs,
    #[cfg_attr(not(target_arch = "x86_64"), expect(dead_code, reason = "no kernel there wants it"))]
    Bytes,
}

/// Rows of x in fixed point.
pub(super) struct FixedRows<'a> {
    words: &'a [u32],
    row_words: usize,
    /// What they are laid out for.
    kernel: Kernel,
}

impl<'a> FixedRows<'a> {
    /// Words that they take.
    pub(super) fn num_words(format: Format, k: usize, rows: usize) -> usize {
        rows * k.div_ceil(format.group()) * row_group_words(format)
    }

    /// Rounds `x` (rows, k) for a kernel.
    pub(super) fn new<E: Word>(
        cpu: &Cpu<E>,
        kernel: Kernel,
        words: &'a mut [u32],
        x: &[E],
        rows: usize,
    ) -> Self {
        let (k, row_words) = (x.len() / rows, words.len() / rows);
        let (format, layout) = (kernel.format(), kernel.layout());
        let shared = SharedMut::new(words);
        cpu.parallel(rows, |row| {
            // SAFETY: each task has its own row.
            let out = unsafe { shared.slice(row * row_words, row_words) };
            let x = &x[row * k..][..k];
            match format {
                Format::Int8 => cpu.isa().run(Round::<E, 64> { out, x, format, layout }),
                Format::Int4 => cpu.isa().run(Round::<E, 32> { out, x, format, layout }),
            }
        });
        FixedRows { words, row_words, kernel }
    }

    /// A row times a panel.
    #[inline(always)]
    pub(super) fn times(&self, row: usize, panel: &[u32]) -> [f32; PANEL] {
        self.kernel.run(FixedRow { words: &self.words[row * self.row_words..][..self.row_words] }, panel)
    }
}

struct Round<'a, E, const G: usize> {
    out: &'a mut [u32],
    x: &'a [E],
    format: Format,
    layout: Layout,
}

impl<E: Word, const G: usize> Task for Round<'_, E, G> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self) {
        /// 127 x 256 + 127: above it the high byte would be 128.
        const LIMIT: f32 = 32639.0;
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
            let (largest, broken) = (max_lanes(largest), sum_lanes(broken));
            let scale = largest / LIMIT;
            let inverse = if scale > f32::MIN_POSITIVE { 1.0 / scale } else { 0.0 };
            // Adding 1.5 x 2^23 rounds to an integer and leaves it in the low bits.
            let (mut integers, mut sum) = ([0u16; G], 0i32);
            for (integer, x) in integers.iter_mut().zip(&values) {
                *integer = (x * inverse + ROUND).to_bits() as u16;
                sum += i32::from(*integer as i16);
            }
            let (words, rest) = out.split_at_mut(G / 2);
            let added = match (self.format, self.layout) {
                (Format::Int4, _) => 8,
                (Format::Int8, Layout::Bytes) => 128,
                (Format::Int8, Layout::Pairs) => 0,
            };
            match self.layout {
                Layout::Pairs => pairs(words, &integers, self.format),
                Layout::Bytes => bytes(words, &integers),
            }
            rest[0] = (-added * sum) as u32;
            rest[1] = (scale + broken).to_bits();
        }
    }
}

/// The elements of a word in its pair `i`.
#[inline(always)]
pub(super) const fn pair_elements(format: Format, i: usize) -> [usize; 2] {
    let first = match format {
        Format::Int8 => i,
        Format::Int4 => [0, 4, 1, 5][i],
    };
    [first, first + 2]
}

/// Sets the pairs of each word of weights.
#[inline(always)]
fn pairs(words: &mut [u32], integers: &[u16], format: Format) {
    let per_word = format.per_word();
    for (words, integers) in words.chunks_exact_mut(per_word / 2).zip(integers.chunks_exact(per_word)) {
        for (i, word) in words.iter_mut().enumerate() {
            let [low, high] = pair_elements(format, i);
            *word = u32::from(integers[low]) | u32::from(integers[high]) << 16;
        }
    }
}

/// Sets the high bytes and then the low ones.
#[inline(always)]
fn bytes(words: &mut [u32], integers: &[u16]) {
    let (high, low) = bytemuck::cast_slice_mut(words).split_at_mut(integers.len());
    for ((x, high), low) in integers.iter().zip(high).zip(low) {
        // The low byte is signed: where it is negative, the high one has one more.
        (*high, *low) = ((x.wrapping_add(128) >> 8) as u8, *x as u8);
    }
}

/// VNNI, which machines with AVX-512 may have or not.
#[cfg(target_arch = "x86_64")]
fn has_products_of_bytes() -> bool {
    std::arch::is_x86_feature_detected!("avx512vnni")
}

/// A row of x times a panel.
#[derive(Clone, Copy)]
pub(super) enum Kernel {
    Portable(Format),
    #[cfg(target_arch = "x86_64")]
    Avx2(Format),
    #[cfg(target_arch = "x86_64")]
    Avx512(Format),
}

impl Kernel {
    pub(super) fn of(format: Format, isa: Isa) -> Self {
        match isa {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 | Isa::Avx512Bf16 if has_products_of_bytes() => Kernel::Avx512(format),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 | Isa::Avx512 | Isa::Avx512Bf16 => Kernel::Avx2(format),
            _ => Kernel::Portable(format),
        }
    }

    fn format(self) -> Format {
        match self {
            Kernel::Portable(format) => format,
            #[cfg(target_arch = "x86_64")]
            Kernel::Avx2(format) | Kernel::Avx512(format) => format,
        }
    }

    /// How it wants x laid out.
    fn layout(self) -> Layout {
        match self {
            #[cfg(target_arch = "x86_64")]
            Kernel::Avx512(_) => Layout::Bytes,
            _ => Layout::Pairs,
        }
    }

    #[inline(always)]
    fn run(self, x: FixedRow<'_>, panel: &[u32]) -> [f32; PANEL] {
        // SAFETY (all blocks): `of` chooses a kernel only where its instructions are available.
        match self {
            Kernel::Portable(format) => portable::dot(format, x, panel),
            #[cfg(target_arch = "x86_64")]
            // SAFETY: as above.
            Kernel::Avx2(Format::Int8) => unsafe { super::avx2::dot_int8(x, panel) },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: as above.
            Kernel::Avx2(Format::Int4) => unsafe { super::avx2::dot_int4(x, panel) },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: as above.
            Kernel::Avx512(Format::Int8) => unsafe { super::avx512::dot_int8(x, panel) },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: as above.
            Kernel::Avx512(Format::Int4) => unsafe { super::avx512::dot_int4(x, panel) },
        }
    }
}
