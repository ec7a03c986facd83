//! Attention of a single query over a cache, for one head: keys and values are read once, as they lie.
//!
//! With one query there is no tile to fill, and packing the cache for one would cost more than attention itself.

use crate::cpu::math::{LANES, exp, lanes, sum_columns, sum_lanes};
use crate::cpu::{Simd, Task};
use crate::gemm::Word;

/// out (HS) = softmax(q . keys / sqrt(HS)) values, keys and values (num_keys, HS).
pub(super) struct Decode<'a, E> {
    pub(super) out: &'a mut [E],
    pub(super) q: &'a [E],
    pub(super) keys: &'a [E],
    pub(super) values: &'a [E],
    /// A score for each key, and q in f32.
    pub(super) scratch: &'a mut [u32],
}

impl<E: Word> Task for Decode<'_, E> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self) {
        let Decode { out, q: elements, keys, values, scratch } = self;
        let head_size = elements.len();
        let (q, scores) = bytemuck::cast_slice_mut::<u32, f32>(scratch).split_at_mut(head_size);
        let scale = 1.0 / (head_size as f32).sqrt();
        q.iter_mut().zip(elements).for_each(|(q, x)| *q = x.to_f32());
        for (scores, keys) in scores.chunks_mut(LANES).zip(keys.chunks(LANES * head_size)) {
            let mut products = [[0.0; LANES]; LANES];
            for (products, key) in products.iter_mut().zip(keys.chunks_exact(head_size)) {
                *products = lane_products::<S, E>(q, key);
            }
            let sums = sum_columns(bytemuck::cast_ref(&S::transpose(bytemuck::cast_ref(&products))));
            scores.iter_mut().zip(sums).for_each(|(score, sum)| *score = scale * sum);
        }
        let max = scores.iter().fold(f32::NEG_INFINITY, |max, &x| if x > max { x } else { max });
        let mut sums = [0.0; LANES];
        for scores in scores.chunks_mut(LANES) {
            for (sum, score) in sums.iter_mut().zip(scores) {
                *score = exp::<S>(*score - max);
                *sum += *score;
            }
        }
        let factor = 1.0 / sum_lanes(sums);
        let mut column = 0;
        while column < head_size {
            let values = &values[column..];
            let out = &mut out[column..];
            column += match head_size - column {
                64.. => weigh::<S, E, 64>(out, scores, values, head_size, factor),
                16.. => weigh::<S, E, 16>(out, scores, values, head_size, factor),
                _ => weigh::<S, E, 1>(out, scores, values, head_size, factor),
            };
        }
    }
}

/// q . key, in 16 lanes that are still to be added.
#[inline(always)]
fn lane_products<S: Simd, E: Word>(q: &[f32], key: &[E]) -> [f32; LANES] {
    let mut sums = [0.0; LANES];
    let ((q, q_rest), (key, key_rest)) = (q.as_chunks::<LANES>(), key.as_chunks::<LANES>());
    for (q, key) in q.iter().zip(key) {
        let before = sums;
        sums = lanes(|j| S::fma(q[j], key[j].to_f32(), before[j]));
    }
    for ((sum, q), k) in sums.iter_mut().zip(q_rest).zip(key_rest) {
        *sum = S::fma(*q, k.to_f32(), *sum);
    }
    sums
}

/// Sets `W` elements of `out` = factor x the sum over keys of score x value, in the order of the keys, and returns W. Rows
/// of values are `stride` apart.
#[inline(always)]
fn weigh<S: Simd, E: Word, const W: usize>(
    out: &mut [E],
    scores: &[f32],
    values: &[E],
    stride: usize,
    factor: f32,
) -> usize {
    let mut sums = [0.0f32; W];
    for (score, value) in scores.iter().zip(values.chunks(stride)) {
        for (sum, v) in sums.iter_mut().zip(&value[..W]) {
            *sum = S::fma(*score, v.to_f32(), *sum);
        }
    }
    for (o, sum) in out.iter_mut().zip(sums) {
        *o = E::from_f32(factor * sum);
    }
    W
}
