//! Attention forward for one head: an online softmax over tiles of keys.

use super::tiles::{Ahead, CHUNK, HEIGHTS, KEYS, Left, Rows, RowsMut, Starts, Tiles};
use super::tiles::{cut, cut_floats, mask, scores_of, store_chunk};
use crate::cpu::math::{LANES, exp2, lanes, max_lanes, sum_lanes};
use crate::cpu::{Simd, Task};
use crate::gemm::{MAX_HEIGHT, PANEL, Word};
use crate::random::Dropout;
use std::f32::consts::{LN_2, LOG2_E};
use std::ops::Range;

/// Forward for one head: `time` queries, the first of which is at position `past` of the keys.
pub(super) struct Forward<'a, E> {
    pub(super) out: RowsMut<'a, E>,
    pub(super) lse: &'a mut [f32],
    pub(super) q: Rows<'a, E>,
    pub(super) k: Rows<'a, E>,
    pub(super) v: Rows<'a, E>,
    pub(super) ahead: Ahead<'a, E, 3>,
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
        let wide = cut(&mut scratch, tiles.wide_words());
        let packed = k.chunks_exact_mut(tiles.transposed()).zip(v.chunks_exact_mut(tiles.interleaved(KEYS)));
        for (i, (k, v)) in packed.enumerate() {
            let (first, count) = (i * KEYS, KEYS.min(num_keys - i * KEYS));
            tiles.pack_transposed::<S>(k, self.k, first, count);
            tiles.pack_interleaved(v, self.v, first, count, KEYS);
        }
        // In powers of two, which are what the machine has.
        let scale = LOG2_E / (tiles.head_size as f32).sqrt();
        let (mut max, mut sum) = ([0.0f32; HEIGHTS * MAX_HEIGHT], [0.0f32; HEIGHTS * MAX_HEIGHT]);
        let steps = KEYS / E::PER_WORD;
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
                let (k, v) = (&k[..tiles.transposed()], &v[..tiles.interleaved(KEYS)]);
                // Keys of the tile up to the last one that some of the queries see.
                let num_seen = |strip: Range<usize>| (past + first + strip.end).saturating_sub(key).min(KEYS);
                let left = Left { words: q, row_step: tiles.words, k_step: 1 };
                tiles.multiply(wide, scores, tile, left, k, queries, tiles.words, false, |strip, column| {
                    if column < num_seen(strip) { 0..tiles.words } else { 0..0 }
                });
                for i in 0..queries {
                    if key == first_key {
                        self.ahead.prefetch(first + i);
                    }
                    let seen = starts.seen(first + i, past + first + i, key);
                    let mut row: [[f32; CHUNK]; CHUNKS] = lanes(|chunk| scores_of(scores, tile, i, chunk));
                    let correction = soften::<S>(&mut row, seen, scale, &mut max[i], &mut sum[i]);
                    for out in out.chunks_exact_mut(tile * PANEL) {
                        out[i * PANEL..][..PANEL].iter_mut().for_each(|o| *o *= correction);
                    }
                    drop_scores(&mut row, self.dropout, (first + i) * time + key);
                    let p = &mut p[i * steps..][..steps];
                    row.iter().enumerate().for_each(|(chunk, row)| store_chunk::<S, E>(p, chunk, row));
                }
                let left = Left { words: p, row_step: steps, k_step: 1 };
                tiles.multiply(wide, out, tile, left, v, queries, steps, true, |strip, _| {
                    0..num_seen(strip).div_ceil(E::PER_WORD)
                });
            }
            for i in 0..queries {
                self.lse[first + i] = max[i] * LN_2 + sum[i].ln();
            }
            tiles.store::<S>(self.out, out, tile, first, queries, |i| 1.0 / sum[i]);
        }
    }
}

/// Chunks of a row of scores.
const CHUNKS: usize = KEYS / CHUNK;

/// Turns the scores of a row that are `seen` to 2^(scale score - max), the others to 0, and updates the running maximum and
/// sum. Returns the factor by which what was summed before must shrink.
#[inline(always)]
fn soften<S: Simd>(
    row: &mut [[f32; CHUNK]; CHUNKS],
    seen: Range<usize>,
    scale: f32,
    max: &mut f32,
    sum: &mut f32,
) -> f32 {
    if seen.is_empty() {
        *row = [[0.0; CHUNK]; CHUNKS];
        return 1.0;
    }
    let mut largest = [f32::NEG_INFINITY; LANES];
    for (chunk, scores) in row.iter_mut().enumerate() {
        *scores = lanes(|j| scale * scores[j]);
        mask(scores, &seen, chunk, f32::NEG_INFINITY);
        largest = lanes(|j| if scores[j] > largest[j] { scores[j] } else { largest[j] });
    }
    let new = max.max(max_lanes(largest));
    let correction = exp2::<S>(*max - new);
    let mut totals = [0.0; LANES];
    for scores in row {
        *scores = lanes(|j| exp2::<S>(scores[j] - new));
        totals = lanes(|j| totals[j] + scores[j]);
    }
    *sum = *sum * correction + sum_lanes(totals);
    *max = new;
    correction
}

/// Applies dropout to a row of probabilities whose first element has index `index`.
#[inline(always)]
fn drop_scores(row: &mut [[f32; CHUNK]; CHUNKS], dropout: Dropout, index: usize) {
    if dropout.is_active() {
        for (j, score) in row.as_flattened_mut().iter_mut().enumerate() {
            *score *= dropout.factor((index + j) as u32);
        }
    }
}
