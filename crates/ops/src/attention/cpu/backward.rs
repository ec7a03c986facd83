//! Attention backward for one head: probabilities again from scores and lse, then the three gradients.

use super::tiles::{KEYS, Left, Rows, RowsMut, Starts, Tiles, cut, cut_floats, load_scores, store_words};
use crate::cpu::math::{LANES, exp, sum_lanes};
use crate::cpu::{Simd, Task};
use crate::gemm::Word;
use crate::random::Dropout;
use std::ops::Range;

/// Rows of a head packed both ways, a tile of queries at a time.
struct PackedQueries<'a> {
    rows: &'a [u32],
    panels: &'a [u32],
    row_words: usize,
    panel_words: usize,
}

impl<'a> PackedQueries<'a> {
    /// Packs `num_tiles` tiles of `source` (time, HS) into memory cut off `scratch`.
    #[inline(always)]
    fn new<E: Word>(
        tiles: &Tiles<E>,
        scratch: &mut &'a mut [u32],
        source: Rows<'_, E>,
        num_tiles: usize,
        time: usize,
    ) -> Self {
        let (row_words, panel_words) = (tiles.queries * tiles.words, tiles.interleaved(tiles.queries));
        let rows = cut(scratch, num_tiles * row_words);
        let panels = cut(scratch, num_tiles * panel_words);
        let packed = rows.chunks_exact_mut(row_words).zip(panels.chunks_exact_mut(panel_words));
        for (i, (rows, panels)) in packed.enumerate() {
            let first = i * tiles.queries;
            let count = tiles.queries.min(time - first);
            tiles.pack_rows(rows, source, first, count);
            tiles.pack_interleaved(panels, source, first, count, tiles.queries);
        }
        PackedQueries { rows, panels, row_words, panel_words }
    }

    /// Rows and panels of tile `i`.
    #[inline(always)]
    fn tile(&self, i: usize) -> (&'a [u32], &'a [u32]) {
        (
            &self.rows[i * self.row_words..][..self.row_words],
            &self.panels[i * self.panel_words..][..self.panel_words],
        )
    }
}

/// Backward for one head.
pub(super) struct Backward<'a, E> {
    pub(super) dq: RowsMut<'a, E>,
    pub(super) dk: RowsMut<'a, E>,
    pub(super) dv: RowsMut<'a, E>,
    pub(super) dout: Rows<'a, E>,
    pub(super) out: Rows<'a, E>,
    pub(super) lse: &'a [f32],
    pub(super) q: Rows<'a, E>,
    pub(super) k: Rows<'a, E>,
    pub(super) v: Rows<'a, E>,
    pub(super) starts: Starts<'a>,
    pub(super) dropout: Dropout,
    pub(super) time: usize,
    pub(super) tiles: Tiles<E>,
    pub(super) scratch: &'a mut [u32],
}

impl<E: Word> Task for Backward<'_, E> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self) {
        let Backward { starts, tiles, time, mut scratch, .. } = self;
        let (tile, wide, words) = (tiles.queries, tiles.wide(), tiles.words);
        let dq = cut_floats(&mut scratch, time.next_multiple_of(tile) * wide);
        let delta = cut_floats(&mut scratch, time);
        let k_transposed = cut(&mut scratch, tiles.transposed());
        let v_transposed = cut(&mut scratch, tiles.transposed());
        let k = cut(&mut scratch, tiles.interleaved(KEYS));
        let (dk, dv) = (cut_floats(&mut scratch, KEYS * wide), cut_floats(&mut scratch, KEYS * wide));
        let query_tiles = time.div_ceil(tile);
        let q = PackedQueries::new(&tiles, &mut scratch, self.q, query_tiles, time);
        let dout = PackedQueries::new(&tiles, &mut scratch, self.dout, query_tiles, time);
        let (scores, dp) = (cut_floats(&mut scratch, tile * KEYS), cut_floats(&mut scratch, tile * KEYS));
        let p_transposed = cut(&mut scratch, tile * KEYS / E::PER_WORD);
        let ds_transposed = cut(&mut scratch, tile * KEYS / E::PER_WORD);
        let ds = cut(&mut scratch, tile * KEYS / E::PER_WORD);
        dq.fill(0.0);
        for (i, delta) in delta.iter_mut().enumerate() {
            *delta = dot::<S, E>(self.out.row(i), self.dout.row(i));
        }
        let scale = 1.0 / (tiles.head_size as f32).sqrt();
        let (row_steps, tile_steps) = (KEYS / E::PER_WORD, tile / E::PER_WORD);
        for key in (0..time).step_by(KEYS) {
            let keys = KEYS.min(time - key);
            tiles.pack_transposed(k_transposed, self.k, key, keys);
            tiles.pack_transposed(v_transposed, self.v, key, keys);
            tiles.pack_interleaved(k, self.k, key, keys, KEYS);
            dk.fill(0.0);
            dv.fill(0.0);
            let end = starts.num_before(key + keys, time);
            for first in (key / tile * tile..end).step_by(tile) {
                let queries = tile.min(time - first);
                let (q, q_panels) = q.tile(first / tile);
                let (dout, dout_panels) = dout.tile(first / tile);
                let rows = |of| Left { words: of, row_step: words, k_step: 1 };
                tiles.multiply(scores, tile, rows(q), k_transposed, queries, words, false);
                tiles.multiply(dp, tile, rows(dout), v_transposed, queries, words, false);
                for at in (0..tile).step_by(E::PER_WORD) {
                    // A word of the transposed operands holds neighbouring queries.
                    let mut pair = [([0.0; KEYS], [0.0; KEYS]); 2];
                    for (i, pair) in pair.iter_mut().enumerate().take(E::PER_WORD) {
                        let (row, position) = (at + i, first + at + i);
                        if row < queries {
                            let (p, dp) =
                                (load_scores(scores, tile, row, scale), load_scores(dp, tile, row, 1.0));
                            let seen = starts.seen(position, position, key);
                            let index = position * time + key;
                            let (lse, delta) = (self.lse[position], delta[position]);
                            *pair = scores_backward::<S>(p, dp, seen, lse, delta, self.dropout, index);
                        }
                        store_words::<E>(&mut ds[row * row_steps..], &pair.1);
                    }
                    let step = at / E::PER_WORD * KEYS;
                    for j in 0..KEYS {
                        p_transposed[step + j] = E::word(pair[0].0[j], pair[1].0[j]);
                        ds_transposed[step + j] = E::word(pair[0].1[j], pair[1].1[j]);
                    }
                }
                let columns = |words| Left { words, row_step: 1, k_step: KEYS };
                tiles.multiply(dv, KEYS, columns(p_transposed), dout_panels, keys, tile_steps, true);
                tiles.multiply(dk, KEYS, columns(ds_transposed), q_panels, keys, tile_steps, true);
                let left = Left { words: ds, row_step: row_steps, k_step: 1 };
                tiles.multiply(
                    &mut dq[first * wide..][..tile * wide],
                    tile,
                    left,
                    k,
                    queries,
                    row_steps,
                    true,
                );
            }
            tiles.store(self.dk, dk, KEYS, key, keys, |_| scale);
            tiles.store(self.dv, dv, KEYS, key, keys, |_| 1.0);
        }
        for first in (0..time).step_by(tile) {
            let queries = tile.min(time - first);
            tiles.store(self.dq, &dq[first * wide..][..tile * wide], tile, first, queries, |_| scale);
        }
    }
}

/// The product of two rows, summed in lanes.
#[inline(always)]
fn dot<S: Simd, E: Word>(x: &[E], y: &[E]) -> f32 {
    let mut lanes = [0.0; LANES];
    for (x, y) in x.chunks(LANES).zip(y.chunks(LANES)) {
        for ((lane, x), y) in lanes.iter_mut().zip(x).zip(y) {
            *lane = S::fma(x.to_f32(), y.to_f32(), *lane);
        }
    }
    sum_lanes(lanes)
}

/// One row of a tile: from scores and the products of dout and v to (D(p), ds before the scale).
#[inline(always)]
fn scores_backward<S: Simd>(
    mut p: [f32; KEYS],
    mut dp: [f32; KEYS],
    seen: Range<usize>,
    lse: f32,
    delta: f32,
    dropout: Dropout,
    index: usize,
) -> ([f32; KEYS], [f32; KEYS]) {
    for (j, (p, dp)) in p.iter_mut().zip(dp.iter_mut()).enumerate() {
        let probability = if seen.contains(&j) { exp::<S>(*p - lse) } else { 0.0 };
        let factor = if dropout.is_active() { dropout.factor((index + j) as u32) } else { 1.0 };
        *dp = probability * (factor * *dp - delta);
        *p = factor * probability;
    }
    (p, dp)
}
