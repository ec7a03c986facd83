//! Attention forward for one head: an online softmax over tiles of keys.

use super::tiles::{
    HEIGHTS, KEYS, Left, Rows, RowsMut, Starts, Tiles, cut, cut_floats, load_scores, store_words,
};
use crate::cpu::math::{LANES, exp, max_lanes, sum_lanes};
use crate::cpu::{Simd, Task};
use crate::gemm::{MAX_HEIGHT, PANEL, Word};
use crate::random::Dropout;
use std::ops::Range;

/// Forward for one head: `time` queries, the first of which is at position `past` of the keys.
pub(super) struct Forward<'a, E> {
    pub(super) out: RowsMut<'a, E>,
    pub(super) lse: &'a mut [f32],
    pub(super) q: Rows<'a, E>,
    pub(super) k: Rows<'a, E>,
    pub(super) v: Rows<'a, E>,
    /// Of the queries, in keys.
    pub(super) starts: Starts<'a>,
    pub(super) dropout: Dropout,
    pub(super) past: usize,
    pub(super) time: usize,
    pub(super) tiles: Tiles<E>,
    pub(super) scratch: &'a mut [u32],
}

impl<E: Word> Task for Forward<'_, E> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self) {
        let Forward { starts, tiles, time, past, mut scratch, .. } = self;
        let (num_keys, tile) = (past + time, tiles.queries);
        let k = cut(&mut scratch, num_keys.div_ceil(KEYS) * tiles.transposed());
        let v = cut(&mut scratch, num_keys.div_ceil(KEYS) * tiles.interleaved(KEYS));
        let q = cut(&mut scratch, tile * tiles.words);
        let p = cut(&mut scratch, tile * KEYS / E::PER_WORD);
        let scores = cut_floats(&mut scratch, tile * KEYS);
        let out = cut_floats(&mut scratch, tile * tiles.wide());
        let packed = k.chunks_exact_mut(tiles.transposed()).zip(v.chunks_exact_mut(tiles.interleaved(KEYS)));
        for (i, (k, v)) in packed.enumerate() {
            let (first, count) = (i * KEYS, KEYS.min(num_keys - i * KEYS));
            tiles.pack_transposed(k, self.k, first, count);
            tiles.pack_interleaved(v, self.v, first, count, KEYS);
        }
        let scale = 1.0 / (tiles.head_size as f32).sqrt();
        let (mut max, mut sum) = ([0.0f32; HEIGHTS * MAX_HEIGHT], [0.0f32; HEIGHTS * MAX_HEIGHT]);
        for first in (0..time).step_by(tile) {
            let queries = tile.min(time - first);
            tiles.pack_rows(q, self.q, first, queries);
            out.fill(0.0);
            max.fill(f32::NEG_INFINITY);
            sum.fill(0.0);
            let first_key = starts.of(first) / KEYS * KEYS;
            for key in (first_key..past + first + queries).step_by(KEYS) {
                let (k, v) =
                    (&k[key / KEYS * tiles.transposed()..], &v[key / KEYS * tiles.interleaved(KEYS)..]);
                let left = Left { words: q, row_step: tiles.words, k_step: 1 };
                tiles.multiply(scores, tile, left, &k[..tiles.transposed()], queries, tiles.words, false);
                for i in 0..queries {
                    let seen = starts.seen(first + i, past + first + i, key);
                    let mut row = load_scores(scores, tile, i, scale);
                    let correction = soften::<S>(&mut row, seen, &mut max[i], &mut sum[i]);
                    for out in out.chunks_exact_mut(tile * PANEL) {
                        out[i * PANEL..][..PANEL].iter_mut().for_each(|o| *o *= correction);
                    }
                    drop_scores(&mut row, self.dropout, (first + i) * time + key);
                    store_words::<E>(&mut p[i * (KEYS / E::PER_WORD)..], &row);
                }
                let left = Left { words: p, row_step: KEYS / E::PER_WORD, k_step: 1 };
                let steps = KEYS / E::PER_WORD;
                tiles.multiply(out, tile, left, &v[..tiles.interleaved(KEYS)], queries, steps, true);
            }
            for i in 0..queries {
                self.lse[first + i] = max[i] + sum[i].ln();
            }
            tiles.store(self.out, out, tile, first, queries, |i| 1.0 / sum[i]);
        }
    }
}

/// Turns the scores of a row that are `seen` to exp(score - max), the others to 0, and updates the running maximum and
/// sum. Returns the factor by which what was summed before must shrink.
#[inline(always)]
fn soften<S: Simd>(row: &mut [f32; KEYS], seen: Range<usize>, max: &mut f32, sum: &mut f32) -> f32 {
    if seen.is_empty() {
        row.fill(0.0);
        return 1.0;
    }
    for (j, score) in row.iter_mut().enumerate() {
        *score = if seen.contains(&j) { *score } else { f32::NEG_INFINITY };
    }
    let mut lanes = [f32::NEG_INFINITY; LANES];
    for chunk in row.as_chunks::<LANES>().0 {
        for (lane, x) in lanes.iter_mut().zip(chunk) {
            *lane = if x > lane { *x } else { *lane };
        }
    }
    let new = max.max(max_lanes(lanes));
    let correction = exp::<S>(*max - new);
    let mut totals = [0.0; LANES];
    for chunk in row.as_chunks_mut::<LANES>().0 {
        for (total, x) in totals.iter_mut().zip(chunk) {
            *x = exp::<S>(*x - new);
            *total += *x;
        }
    }
    *sum = *sum * correction + sum_lanes(totals);
    *max = new;
    correction
}

/// Applies dropout to a row of probabilities whose first element has index `index`.
#[inline(always)]
fn drop_scores(row: &mut [f32; KEYS], dropout: Dropout, index: usize) {
    if dropout.is_active() {
        for (j, score) in row.iter_mut().enumerate() {
            *score *= dropout.factor((index + j) as u32);
        }
    }
}
