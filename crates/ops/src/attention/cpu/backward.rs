//! Attention backward for one head: probabilities again from scores and lse, then the three gradients.

use super::tiles::{Ahead, CHUNK, KEYS, Left, Rows, RowsMut, Starts, Tiles};
use super::tiles::{cut, cut_floats, mask, scores_of, store_chunk};
use crate::cpu::math::{dot_lanes, exp2, sum_lanes};
use crate::cpu::{Simd, Task};
use crate::gemm::Word;
use crate::random::Dropout;
use std::f32::consts::LOG2_E;
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
    pub(super) ahead: Ahead<'a, E, 5>,
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
        let wide_rows = cut(&mut scratch, tiles.wide_words());
        dq.fill(0.0);
        for (i, delta) in delta.iter_mut().enumerate() {
            *delta = sum_lanes(dot_lanes::<S, E, E>(self.out.row(i), self.dout.row(i)));
        }
        let scale = 1.0 / (tiles.head_size as f32).sqrt();
        let (row_steps, tile_steps) = (KEYS / E::PER_WORD, tile / E::PER_WORD);
        for key in (0..time).step_by(KEYS) {
            let keys = KEYS.min(time - key);
            tiles.pack_transposed::<S>(k_transposed, self.k, key, keys);
            tiles.pack_transposed::<S>(v_transposed, self.v, key, keys);
            tiles.pack_interleaved(k, self.k, key, keys, KEYS);
            dk.fill(0.0);
            dv.fill(0.0);
            let end = starts.num_before(key + keys, time);
            for first in (key / tile * tile..end).step_by(tile) {
                let queries = tile.min(time - first);
                let (q, q_panels) = q.tile(first / tile);
                let (dout, dout_panels) = dout.tile(first / tile);
                // Keys of the tile up to the last one that a strip of queries sees, and the words of queries from the first
                // one on that sees a strip of keys.
                let num_seen = |strip: Range<usize>| (first + strip.end).saturating_sub(key).min(KEYS);
                let rows_for = |strip: Range<usize>, column: usize| match column < num_seen(strip) {
                    true => 0..words,
                    false => 0..0,
                };
                let seeing = |strip: Range<usize>, _: usize| {
                    (key + strip.start).saturating_sub(first) / E::PER_WORD..tile_steps
                };
                let rows = |of| Left { words: of, row_step: words, k_step: 1 };
                tiles.multiply(
                    wide_rows,
                    scores,
                    tile,
                    rows(q),
                    k_transposed,
                    queries,
                    words,
                    false,
                    rows_for,
                );
                tiles.multiply(
                    wide_rows,
                    dp,
                    tile,
                    rows(dout),
                    v_transposed,
                    queries,
                    words,
                    false,
                    rows_for,
                );
                for at in (0..tile).step_by(E::PER_WORD) {
                    let row_of = |row: usize| {
                        if row >= queries {
                            return Row { seen: 0..0, lse: 0.0, delta: 0.0, index: 0 };
                        }
                        let position = first + row;
                        let seen = starts.seen(position, position, key);
                        Row {
                            seen,
                            lse: self.lse[position],
                            delta: delta[position],
                            index: position * time + key,
                        }
                    };
                    // A word of the transposed operands holds neighbouring queries.
                    let (one, two) = (row_of(at), row_of(at + E::PER_WORD - 1));
                    if key == 0 {
                        (0..E::PER_WORD).for_each(|i| self.ahead.prefetch(first + at + i));
                    }
                    for chunk in 0..KEYS / CHUNK {
                        let at_two = at + E::PER_WORD - 1;
                        let (s, d) = (scores_of(scores, tile, at, chunk), scores_of(dp, tile, at, chunk));
                        let (p, ds_one) = one.backward::<S>(chunk, s, d, scale, self.dropout);
                        let (s, d) =
                            (scores_of(scores, tile, at_two, chunk), scores_of(dp, tile, at_two, chunk));
                        let (p_two, ds_two) = two.backward::<S>(chunk, s, d, scale, self.dropout);
                        store_chunk::<S, E>(&mut ds[at * row_steps..], chunk, &ds_one);
                        if E::PER_WORD == 2 {
                            store_chunk::<S, E>(&mut ds[at_two * row_steps..], chunk, &ds_two);
                        }
                        let to = at / E::PER_WORD * KEYS + chunk * CHUNK;
                        let p = E::words::<S>(&p, &p_two);
                        let ds = E::words::<S>(&ds_one, &ds_two);
                        p_transposed[to..][..CHUNK].copy_from_slice(&p);
                        ds_transposed[to..][..CHUNK].copy_from_slice(&ds);
                    }
                }
                let columns = |words| Left { words, row_step: 1, k_step: KEYS };
                tiles.multiply(
                    wide_rows,
                    dv,
                    KEYS,
                    columns(p_transposed),
                    dout_panels,
                    keys,
                    tile_steps,
                    true,
                    seeing,
                );
                tiles.multiply(
                    wide_rows,
                    dk,
                    KEYS,
                    columns(ds_transposed),
                    q_panels,
                    keys,
                    tile_steps,
                    true,
                    seeing,
                );
                let left = Left { words: ds, row_step: row_steps, k_step: 1 };
                let dq = &mut dq[first * wide..][..tile * wide];
                tiles.multiply(wide_rows, dq, tile, left, k, queries, row_steps, true, |strip, _| {
                    0..num_seen(strip).div_ceil(E::PER_WORD)
                });
            }
            tiles.store::<S>(self.dk, dk, KEYS, key, keys, |_| scale);
            tiles.store::<S>(self.dv, dv, KEYS, key, keys, |_| 1.0);
        }
        for first in (0..time).step_by(tile) {
            let queries = tile.min(time - first);
            tiles.store::<S>(self.dq, &dq[first * wide..][..tile * wide], tile, first, queries, |_| scale);
        }
    }
}

/// What a query brings to a tile of keys.
struct Row {
    seen: Range<usize>,
    lse: f32,
    delta: f32,
    /// Of its first element in dropout.
    index: usize,
}

impl Row {
    /// A chunk of the row: from scores and the products of dout and v to (D(p), ds before the scale).
    #[inline(always)]
    fn backward<S: Simd>(
        &self,
        chunk: usize,
        scores: [f32; CHUNK],
        dp: [f32; CHUNK],
        scale: f32,
        dropout: Dropout,
    ) -> ([f32; CHUNK], [f32; CHUNK]) {
        if chunk * CHUNK >= self.seen.end {
            return ([0.0; CHUNK], [0.0; CHUNK]);
        }
        let (scale, lse, delta) = (scale * LOG2_E, self.lse * LOG2_E, self.delta);
        let (mut p, mut ds) = ([0.0; CHUNK], [0.0; CHUNK]);
        if dropout.is_active() {
            let first = self.index + chunk * CHUNK;
            for j in 0..CHUNK {
                let factor = dropout.factor((first + j) as u32);
                let probability = exp2::<S>(S::fma(scores[j], scale, -lse));
                p[j] = factor * probability;
                ds[j] = probability * (factor * dp[j] - delta);
            }
        } else {
            for j in 0..CHUNK {
                p[j] = exp2::<S>(S::fma(scores[j], scale, -lse));
                ds[j] = p[j] * (dp[j] - delta);
            }
        }
        // Where a key is not seen, scores and dp are anything.
        mask(&mut p, &self.seen, chunk, 0.0);
        mask(&mut ds, &self.seen, chunk, 0.0);
        (p, ds)
    }
}
