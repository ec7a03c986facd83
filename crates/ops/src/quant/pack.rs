//! Quantization: the scale of each group and its integers, for all 32 columns of a panel at once.
//!
//! In 8 bits a scale reaches the largest element. In 4 bits that wastes levels: of a row of scales around it the one with
//! the least squared error is taken, as llama.cpp's `make_qx_quants` does; each is the best fit to the integers it gives.

use super::{Format, Quantized, SCALE_WORDS, shift};
use crate::cpu::math::lanes;
use crate::cpu::{Cpu, SharedMut, Simd, Task};
use crate::element::{Bf16, Element};
use crate::gemm::{PANEL, Word};
use crate::linear::Storage;

/// Elements of the largest group.
const MAX_GROUP: usize = 64;
/// Scales tried on either side of the one that reaches the largest element, and the distance between two in levels.
const TRIALS: i32 = 9;
const TRIAL_STEP: f32 = 0.1;
/// A group whose elements are all smaller is zero: its scale would leave the range of f32.
const SMALLEST: f32 = 1e-30;

/// A group of each column of a panel.
type Group = [[f32; PANEL]; MAX_GROUP];

pub(super) fn pack<E: Word>(cpu: &Cpu<E>, to: &mut Quantized, master: &[f32], storage: Storage) {
    let Quantized { format, k, columns, .. } = *to;
    assert!(master.len() >= k * columns, "the master holds {} of {k} x {columns}", master.len());
    let size = format.panel_words(k);
    let words = SharedMut::new(&mut to.words);
    cpu.parallel(columns.div_ceil(PANEL), |panel| {
        // SAFETY: each task has its own panel.
        let words = unsafe { words.slice(panel * size, size) };
        for (group, out) in words.chunks_exact_mut(format.group_words()).enumerate() {
            let mut values = [[0.0; PANEL]; MAX_GROUP];
            gather(
                &mut values[..format.group()],
                master,
                storage,
                [k, columns],
                [group * format.group(), panel * PANEL],
            );
            cpu.isa().run(PackGroup { out, format, values: &values });
        }
    });
}

/// Copies a group of a panel that starts at `[first_k, first_column]`; what lies beyond the matrix stays zero.
fn gather(
    values: &mut [[f32; PANEL]],
    master: &[f32],
    storage: Storage,
    [k, columns]: [usize; 2],
    [first_k, first_column]: [usize; 2],
) {
    let (size, width) = (values.len().min(k - first_k), PANEL.min(columns - first_column));
    for (i, row) in values[..size].iter_mut().enumerate() {
        match storage {
            Storage::InputsOutputs => {
                row[..width].copy_from_slice(&master[(first_k + i) * columns + first_column..][..width]);
            }
            Storage::OutputsInputs => {
                for (j, value) in row[..width].iter_mut().enumerate() {
                    *value = master[(first_column + j) * k + first_k + i];
                }
            }
        }
    }
}

struct PackGroup<'a> {
    out: &'a mut [u32],
    format: Format,
    values: &'a Group,
}

impl Task for PackGroup<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self) {
        let PackGroup { out, format, values } = self;
        let values = &values[..format.group()];
        let scales = match format {
            Format::Int8 => scales_to_largest(values),
            Format::Int4 => scales_of_least_error(values),
        };
        let inverses: [f32; PANEL] = lanes(|j| if scales[j] == 0.0 { 0.0 } else { 1.0 / scales[j] });
        let (scale_words, words) = out.split_at_mut(SCALE_WORDS);
        for (j, word) in scale_words.iter_mut().enumerate() {
            *word = scales[j].to_bits() >> 16 | scales[SCALE_WORDS + j].to_bits();
        }
        for (words, values) in
            words.as_chunks_mut::<PANEL>().0.iter_mut().zip(values.chunks(format.per_word()))
        {
            *words = [0; PANEL];
            for (i, values) in values.iter().enumerate() {
                for (j, word) in words.iter_mut().enumerate() {
                    let x = values[j] * inverses[j];
                    let bits = match format {
                        Format::Int8 => round(x.clamp(-127.0, 127.0)) & 0xff,
                        Format::Int4 => round(x.clamp(-8.0, 7.0)) + 8,
                    };
                    *word |= (bits as u32) << shift(format, i);
                }
            }
        }
    }
}

/// The nearest integer, for |x| < 2^22; adding 1.5 x 2^23 leaves it in the low bits.
#[inline(always)]
fn round(x: f32) -> i32 {
    const ROUND: f32 = 12_582_912.0;
    (x + ROUND).to_bits().wrapping_sub(ROUND.to_bits()) as i32
}

/// bf16 has 8 bits of the 24.
#[inline(always)]
fn round_scale(scale: f32) -> f32 {
    // The trait's, which vectorizes.
    Element::to_f32(<Bf16 as Element>::from_f32(scale))
}

/// Of each column, the element that is largest in magnitude, with its sign.
#[inline(always)]
fn largest(values: &[[f32; PANEL]]) -> [f32; PANEL] {
    let mut largest = [0.0f32; PANEL];
    for values in values {
        for (largest, x) in largest.iter_mut().zip(values) {
            *largest = if x.abs() > largest.abs() { *x } else { *largest };
        }
    }
    lanes(|j| if largest[j].abs() < SMALLEST { 0.0 } else { largest[j] })
}

#[inline(always)]
fn scales_to_largest(values: &[[f32; PANEL]]) -> [f32; PANEL] {
    // Rounding up by one step where rounding went down: no element is beyond 127.
    let largest = largest(values);
    lanes(|j| {
        let scale = largest[j].abs() / 127.0;
        let rounded = round_scale(scale);
        if rounded < scale { f32::from_bits(rounded.to_bits() + 0x1_0000) } else { rounded }
    })
}

/// Tries scales that bring the largest element to about -8, the level that only one sign has.
#[inline(always)]
fn scales_of_least_error(values: &[[f32; PANEL]]) -> [f32; PANEL] {
    let largest = largest(values);
    let (mut best, mut gains) = ([0.0f32; PANEL], [0.0f32; PANEL]);
    for trial in -TRIALS..=TRIALS {
        let levels = -(8.0 + TRIAL_STEP * trial as f32);
        let inverses: [f32; PANEL] = lanes(|j| if largest[j] == 0.0 { 0.0 } else { levels / largest[j] });
        let (mut xq, mut qq) = ([0.0f32; PANEL], [0.0f32; PANEL]);
        for values in values {
            for j in 0..PANEL {
                let q = round((values[j] * inverses[j]).clamp(-8.0, 7.0)) as f32;
                xq[j] += values[j] * q;
                qq[j] += q * q;
            }
        }
        for j in 0..PANEL {
            let scale = round_scale(if qq[j] > 0.0 { xq[j] / qq[j] } else { 0.0 });
            // The squared error is that of all zeros, less this.
            let gain = scale * (2.0 * xq[j] - scale * qq[j]);
            let better = gain > gains[j];
            best[j] = if better { scale } else { best[j] };
            gains[j] = if better { gain } else { gains[j] };
        }
    }
    best
}
