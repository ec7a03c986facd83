//! Attention of a single query over a cache, for one head: keys and values are read once, as they lie.
//!
//! With one query there is no tile to fill, and packing the cache for one would cost more than attention itself. Each row
//! that is read asks for one that will be: a key for the value of the same token, a value for a key of the next head.

use crate::cpu::math::{LANES, dot_lanes, exp, sum_columns, sum_lanes};
use crate::cpu::{SharedMut, Simd, Task, prefetch};
use crate::gemm::Word;

/// out (HS) = softmax(q . keys / sqrt(HS)) values, keys and values (num_keys, HS).
pub(super) struct Decode<'a, E> {
    pub(super) out: &'a mut [E],
    pub(super) q: &'a [E],
    pub(super) keys: &'a [E],
    pub(super) values: &'a [E],
    /// Keys of all heads, and where those of the next one begin.
    pub(super) next_keys: Option<(SharedMut<'a, E>, usize)>,
    /// How many tokens of a head to ask for ahead.
    pub(super) num_ahead: usize,
    /// A score for each key, and q in f32.
    pub(super) scratch: &'a mut [u32],
}

impl<E: Word> Task for Decode<'_, E> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self) {
        let Decode { out, q: elements, keys, values, next_keys, num_ahead, scratch } = self;
        let head_size = elements.len();
        let (q, scores) = bytemuck::cast_slice_mut::<u32, f32>(scratch).split_at_mut(head_size);
        let scale = 1.0 / (head_size as f32).sqrt();
        q.iter_mut().zip(elements).for_each(|(q, x)| *q = x.to_f32());
        let mut ahead = values.chunks_exact(head_size).take(num_ahead);
        for (scores, keys) in scores.chunks_mut(LANES).zip(keys.chunks(LANES * head_size)) {
            ahead.by_ref().take(LANES).for_each(prefetch);
            let mut products = [[0.0; LANES]; LANES];
            for (products, key) in products.iter_mut().zip(keys.chunks_exact(head_size)) {
                *products = dot_lanes::<S, f32, E>(q, key);
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
            // The first columns' values ask for the keys.
            let ahead = |row: usize| {
                if let Some((keys, start)) = next_keys
                    && column == 0
                    && row < num_ahead
                {
                    keys.prefetch_to_read(start + row * head_size, head_size);
                }
            };
            let values = &values[column..];
            let out = &mut out[column..];
            column += match head_size - column {
                64.. => weigh::<S, E, 64>(out, scores, values, head_size, factor, ahead),
                16.. => weigh::<S, E, 16>(out, scores, values, head_size, factor, ahead),
                _ => weigh::<S, E, 1>(out, scores, values, head_size, factor, ahead),
            };
        }
    }
}

/// Sets `W` elements of `out` = factor x the sum over keys of score x value, in the order of the keys, and returns W. Rows
/// of values are `stride` apart; `ahead` is told of each before it is read.
#[inline(always)]
fn weigh<S: Simd, E: Word, const W: usize>(
    out: &mut [E],
    scores: &[f32],
    values: &[E],
    stride: usize,
    factor: f32,
    ahead: impl Fn(usize),
) -> usize {
    let mut sums = [0.0f32; W];
    for (row, (score, value)) in scores.iter().zip(values.chunks(stride)).enumerate() {
        ahead(row);
        for (sum, v) in sums.iter_mut().zip(&value[..W]) {
            *sum = S::fma(*score, v.to_f32(), *sum);
        }
    }
    for (o, sum) in out.iter_mut().zip(sums) {
        *o = E::from_f32(factor * sum);
    }
    W
}
