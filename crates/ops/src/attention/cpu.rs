//! Attention on the CPU: one task for each head of each row of the batch, in tiles that stay in its second-level cache.
//!
//! A task owns the gradients of its head, so nothing is shared. All six products of the two passes run on the
//! micro-kernels of `gemm`: operands are packed into words along whatever is summed over, scores and probabilities live
//! as panels of 32 keys, and sums are f32.

use super::{Attention, AttentionDims, CachedAttentionDims};
use crate::cpu::math::{LANES, exp, max_lanes, sum_lanes};
use crate::cpu::{AlignedBuf, Cpu, SharedMut, Simd, Task};
use crate::gemm::{Kernel, PANEL, Word};
use crate::random::Dropout;
use std::marker::PhantomData;

/// Keys of a tile: two panels.
const KEYS: usize = 64;
/// Kernel heights in a tile of queries.
const HEIGHTS: usize = 4;

impl<E: Word> Attention for Cpu<E> {
    fn attention_forward(
        &self,
        out: &mut AlignedBuf<E>,
        lse: &mut AlignedBuf<f32>,
        qkv: &AlignedBuf<E>,
        dropout: Dropout,
        dims: AttentionDims,
    ) {
        let AttentionDims { batch, time, heads, head_size } = dims;
        let channels = heads * head_size;
        let qkv = &qkv[..batch * time * 3 * channels];
        let (out, lse) = (SharedMut::new(&mut out[..batch * time * channels]), SharedMut::new(lse));
        let tiles = Tiles::<E>::new(self, head_size);
        self.parallel(batch * heads, |task| {
            let first = task / heads * time * channels + task % heads * head_size;
            let [q, k, v] = thirds(qkv, task, dims);
            let out = RowsMut { elements: out, start: first, stride: channels };
            // SAFETY: each task has its own piece.
            let lse = unsafe { lse.slice(task * time, time) };
            let dropout = dropout.slice(task as u64);
            self.with_scratch(tiles.forward_scratch(time), |scratch| {
                self.isa().run(Forward { out, lse, q, k, v, dropout, past: 0, time, tiles, scratch });
            });
        });
    }

    fn attention_backward(
        &self,
        dqkv: &mut AlignedBuf<E>,
        dout: &AlignedBuf<E>,
        out: &AlignedBuf<E>,
        lse: &AlignedBuf<f32>,
        qkv: &AlignedBuf<E>,
        dropout: Dropout,
        dims: AttentionDims,
    ) {
        let AttentionDims { batch, time, heads, head_size } = dims;
        let channels = heads * head_size;
        let qkv = &qkv[..batch * time * 3 * channels];
        let dqkv = SharedMut::new(&mut dqkv[..qkv.len()]);
        let tiles = Tiles::<E>::new(self, head_size);
        self.parallel(batch * heads, |task| {
            let first = task / heads * time * channels + task % heads * head_size;
            let [q, k, v] = thirds(qkv, task, dims);
            let part = |third: usize| {
                let start = task / heads * time * 3 * channels + third * channels + task % heads * head_size;
                RowsMut { elements: dqkv, start, stride: 3 * channels }
            };
            let (dq, dk, dv) = (part(0), part(1), part(2));
            let (dout, out) = (
                Rows { elements: &dout[first..], stride: channels, head_size },
                Rows { elements: &out[first..], stride: channels, head_size },
            );
            let (lse, dropout) = (&lse[task * time..][..time], dropout.slice(task as u64));
            self.with_scratch(tiles.backward_scratch(time), |scratch| {
                self.isa().run(Backward {
                    dq,
                    dk,
                    dv,
                    dout,
                    out,
                    lse,
                    q,
                    k,
                    v,
                    dropout,
                    time,
                    tiles,
                    scratch,
                });
            });
        });
    }

    fn attention_cached(
        &self,
        out: &mut AlignedBuf<E>,
        keys: &mut AlignedBuf<E>,
        values: &mut AlignedBuf<E>,
        qkv: &AlignedBuf<E>,
        dims: CachedAttentionDims,
    ) {
        let CachedAttentionDims { batch, time, cached, capacity, heads, head_size } = dims;
        assert!(cached + time <= capacity, "{cached} + {time} tokens in a cache of {capacity}");
        let channels = heads * head_size;
        let out = SharedMut::new(&mut out[..batch * time * channels]);
        let (keys, values) = (SharedMut::new(keys), SharedMut::new(values));
        let tiles = Tiles::<E>::new(self, head_size);
        self.parallel(batch * heads, |task| {
            let first = task / heads * time * channels + task % heads * head_size;
            let [q, k, v] = thirds(qkv, task, AttentionDims { batch, time, heads, head_size });
            let size = capacity * head_size;
            // SAFETY: each task has its own head of the cache.
            let (keys, values) = unsafe { (keys.slice(task * size, size), values.slice(task * size, size)) };
            for i in 0..time {
                let at = (cached + i) * head_size;
                keys[at..at + head_size].copy_from_slice(k.row(i));
                values[at..at + head_size].copy_from_slice(v.row(i));
            }
            let out = RowsMut { elements: out, start: first, stride: channels };
            let cache = |elements| Rows { elements, stride: head_size, head_size };
            let (k, v, past, dropout) = (cache(keys), cache(values), cached, Dropout::NONE);
            self.with_scratch(tiles.forward_scratch(cached + time) + time, |scratch| {
                let (lse, scratch) = scratch.split_at_mut(time);
                let lse = bytemuck::cast_slice_mut(lse);
                self.isa().run(Forward { out, lse, q, k, v, dropout, past, time, tiles, scratch });
            });
        });
    }
}

/// Queries, keys and values of head `task % heads` of row `task / heads`.
fn thirds<E>(qkv: &[E], task: usize, dims: AttentionDims) -> [Rows<'_, E>; 3] {
    let AttentionDims { time, heads, head_size, .. } = dims;
    let channels = heads * head_size;
    let start = task / heads * time * 3 * channels + task % heads * head_size;
    [0, 1, 2].map(|third| Rows {
        elements: &qkv[start + third * channels..],
        stride: 3 * channels,
        head_size,
    })
}

/// Rows of one head, `stride` elements apart.
#[derive(Clone, Copy)]
struct Rows<'a, E> {
    elements: &'a [E],
    stride: usize,
    head_size: usize,
}

impl<'a, E: Word> Rows<'a, E> {
    #[inline(always)]
    fn row(&self, i: usize) -> &'a [E] {
        &self.elements[i * self.stride..][..self.head_size]
    }
}

/// Rows of one head of an output that tasks share.
#[derive(Clone, Copy)]
struct RowsMut<'a, E> {
    elements: SharedMut<'a, E>,
    start: usize,
    stride: usize,
}

/// The sizes of tiles, and the kernel that multiplies them.
#[derive(Clone, Copy)]
struct Tiles<E> {
    kernel: Kernel,
    /// Queries of a tile.
    queries: usize,
    head_size: usize,
    /// Words of a row of a head.
    words: usize,
    /// Panels that hold a row of a head.
    panels: usize,
    element: PhantomData<E>,
}

impl<E: Word> Tiles<E> {
    fn new(cpu: &Cpu<E>, head_size: usize) -> Self {
        let kernel = E::kernel(cpu.isa());
        Tiles {
            kernel,
            queries: HEIGHTS * kernel.height,
            head_size,
            words: head_size.div_ceil(E::PER_WORD),
            panels: head_size.div_ceil(PANEL),
            element: PhantomData,
        }
    }

    /// Words of scratch: k^T of all keys, v of all keys; q, p; scores, out.
    fn forward_scratch(&self, num_keys: usize) -> usize {
        let key_tiles = num_keys.div_ceil(KEYS);
        key_tiles * (self.transposed() + self.interleaved(KEYS))
            + self.queries * (self.words + KEYS / E::PER_WORD + KEYS + self.wide())
    }

    /// Words of scratch: dq of all queries, delta; k^T, v^T, k; dk, dv; rows and panels of q and dout; p and ds as
    /// scores, transposed, and ds as rows.
    fn backward_scratch(&self, time: usize) -> usize {
        let padded = time.next_multiple_of(self.queries);
        padded * self.wide()
            + time
            + 2 * self.transposed()
            + self.interleaved(KEYS)
            + 2 * KEYS * self.wide()
            + padded / self.queries * 2 * (self.queries * self.words + self.interleaved(self.queries))
            + 2 * self.queries * KEYS
            + 3 * self.queries * KEYS / E::PER_WORD
    }

    /// Words of a tile of keys packed with the head size along K.
    fn transposed(&self) -> usize {
        KEYS * self.words
    }

    /// Words of `rows` rows of a head packed with the rows along K.
    fn interleaved(&self, rows: usize) -> usize {
        rows / E::PER_WORD * self.wide()
    }

    /// Columns of a row of a head in panels.
    fn wide(&self) -> usize {
        self.panels * PANEL
    }

    /// Packs rows `first .. first + count` as words along the head size: `out[row][words]`, zeros in rows beyond.
    #[inline(always)]
    fn pack_rows(&self, out: &mut [u32], rows: Rows<'_, E>, first: usize, count: usize) {
        for (i, out) in out.chunks_exact_mut(self.words).enumerate() {
            if i >= count {
                out.fill(0);
                continue;
            }
            let elements: &mut [E] = bytemuck::cast_slice_mut(out);
            let (filled, padding) = elements.split_at_mut(self.head_size);
            filled.copy_from_slice(rows.row(first + i));
            padding.fill(E::zeroed());
        }
    }

    /// Packs rows `first .. first + count` as panels with the head size along K: `out[panel][word][32 rows]`.
    #[inline(always)]
    fn pack_transposed(&self, out: &mut [u32], rows: Rows<'_, E>, first: usize, count: usize) {
        if count < KEYS {
            out.fill(0);
        }
        for i in 0..count {
            let (row, out) = (rows.row(first + i), &mut out[i / PANEL * self.words * PANEL + i % PANEL..]);
            // Neighbouring elements lie in memory as a word does.
            let (whole, rest) = bytemuck::cast_slice::<E, u8>(row).as_chunks::<4>();
            for (j, word) in whole.iter().enumerate() {
                out[j * PANEL] = u32::from_ne_bytes(*word);
            }
            if !rest.is_empty() {
                out[whole.len() * PANEL] = E::join(row[row.len() - 1], E::zeroed());
            }
        }
    }

    /// Packs rows `first .. first + count` of a tile of `size` as panels with the rows along K:
    /// `out[panel][word][32 columns]`.
    #[inline(always)]
    fn pack_interleaved(&self, out: &mut [u32], rows: Rows<'_, E>, first: usize, count: usize, size: usize) {
        let steps = size / E::PER_WORD;
        for (panel, out) in out.chunks_exact_mut(steps * PANEL).enumerate() {
            let column = panel * PANEL;
            let columns = PANEL.min(self.head_size - column);
            for (step, words) in out.as_chunks_mut::<PANEL>().0.iter_mut().enumerate() {
                let at = step * E::PER_WORD;
                let mut pair = [[E::zeroed(); PANEL]; 2];
                for (i, filled) in pair.iter_mut().enumerate().take(E::PER_WORD) {
                    if at + i < count {
                        let row = &rows.row(first + at + i)[column..column + columns];
                        filled[..columns].copy_from_slice(row);
                    }
                }
                for (j, word) in words.iter_mut().enumerate() {
                    *word = E::join(pair[0][j], pair[1][j]);
                }
            }
        }
    }

    /// `c[panel][row][32]` = a b for `rows` rows of A, as [`Kernel`] addresses it, and every panel of B. With `add`,
    /// adds to c.
    #[inline(always)]
    fn multiply(
        &self,
        c: &mut [f32],
        c_rows: usize,
        a: Left<'_>,
        b: &[u32],
        rows: usize,
        k: usize,
        add: bool,
    ) {
        let Left { words, row_step, k_step } = a;
        assert!(words.len() > (rows - 1) * row_step + (k - 1) * k_step, "A is too short");
        let mut sums = [[0.0f32; PANEL]; crate::gemm::MAX_HEIGHT];
        for (c, b) in c.chunks_exact_mut(c_rows * PANEL).zip(b.chunks_exact(k * PANEL)) {
            for row in (0..rows).step_by(self.kernel.height) {
                let height = self.kernel.height.min(rows - row);
                let c = &mut c[row * PANEL..][..height * PANEL];
                let a = words[row * row_step..].as_ptr();
                let target = if add { sums.as_mut_ptr().cast() } else { c.as_mut_ptr() };
                // SAFETY: A reaches its last word (asserted above), a panel of B has k x 32 words, the target has room
                // for `height` rows; the instruction set is that of the device that made the kernel.
                unsafe { self.kernel.run(height, k, a, 4 * row_step, 4 * k_step, b.as_ptr(), target) };
                if add {
                    for (c, sum) in c.as_chunks_mut::<PANEL>().0.iter_mut().zip(&sums) {
                        for (c, sum) in c.iter_mut().zip(sum) {
                            *c += sum;
                        }
                    }
                }
            }
        }
    }

    /// Writes rows of `c[panel][row][32]` to rows `first ..` of an output, `factor(row)` times.
    #[inline(always)]
    fn store(
        &self,
        out: RowsMut<'_, E>,
        c: &[f32],
        c_rows: usize,
        first: usize,
        count: usize,
        factor: impl Fn(usize) -> f32,
    ) {
        for (panel, c) in c.chunks_exact(c_rows * PANEL).enumerate() {
            let column = panel * PANEL;
            let columns = PANEL.min(self.head_size - column);
            for (i, c) in c.as_chunks::<PANEL>().0.iter().take(count).enumerate() {
                // SAFETY: a head's columns of its rows belong to one task.
                let row =
                    unsafe { out.elements.slice(out.start + (first + i) * out.stride + column, columns) };
                for (o, x) in row.iter_mut().zip(c) {
                    *o = E::from_f32(factor(i) * x);
                }
            }
        }
    }
}

/// A left operand: words, and the steps between rows and along K, in words.
#[derive(Clone, Copy)]
struct Left<'a> {
    words: &'a [u32],
    row_step: usize,
    k_step: usize,
}

/// Cuts the next `len` words off `scratch`.
#[inline(always)]
fn cut<'a>(scratch: &mut &'a mut [u32], len: usize) -> &'a mut [u32] {
    let (piece, rest) = std::mem::take(scratch).split_at_mut(len);
    *scratch = rest;
    piece
}

/// Cuts the next `len` floats off `scratch`.
#[inline(always)]
fn cut_floats<'a>(scratch: &mut &'a mut [u32], len: usize) -> &'a mut [f32] {
    bytemuck::cast_slice_mut(cut(scratch, len))
}

/// Forward for one head: `time` queries, the first of which is at position `past` of the keys.
struct Forward<'a, E> {
    out: RowsMut<'a, E>,
    lse: &'a mut [f32],
    q: Rows<'a, E>,
    k: Rows<'a, E>,
    v: Rows<'a, E>,
    dropout: Dropout,
    past: usize,
    time: usize,
    tiles: Tiles<E>,
    scratch: &'a mut [u32],
}

impl<E: Word> Task for Forward<'_, E> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self) {
        let Forward { tiles, time, past, mut scratch, .. } = self;
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
        let (mut max, mut sum) = ([0.0f32; HEIGHTS * 14], [0.0f32; HEIGHTS * 14]);
        for first in (0..time).step_by(tile) {
            let queries = tile.min(time - first);
            tiles.pack_rows(q, self.q, first, queries);
            out.fill(0.0);
            max.fill(f32::NEG_INFINITY);
            sum.fill(0.0);
            for key in (0..past + first + queries).step_by(KEYS) {
                let (k, v) =
                    (&k[key / KEYS * tiles.transposed()..], &v[key / KEYS * tiles.interleaved(KEYS)..]);
                let left = Left { words: q, row_step: tiles.words, k_step: 1 };
                tiles.multiply(scores, tile, left, &k[..tiles.transposed()], queries, tiles.words, false);
                for i in 0..queries {
                    let visible = (past + first + i + 1).saturating_sub(key).min(KEYS);
                    let mut row = load_scores(scores, tile, i, scale);
                    let correction = soften::<S>(&mut row, visible, &mut max[i], &mut sum[i]);
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

/// Row `i` of `scores[panel][row][32]`, scaled.
#[inline(always)]
fn load_scores(scores: &[f32], rows: usize, i: usize, scale: f32) -> [f32; KEYS] {
    let mut out = [0.0; KEYS];
    for (panel, out) in out.as_chunks_mut::<PANEL>().0.iter_mut().enumerate() {
        for (o, s) in out.iter_mut().zip(&scores[(panel * rows + i) * PANEL..][..PANEL]) {
            *o = scale * s;
        }
    }
    out
}

/// A row as words, which lie in memory as the elements do.
#[inline(always)]
fn store_words<E: Word>(out: &mut [u32], row: &[f32; KEYS]) {
    let elements: &mut [E] = bytemuck::cast_slice_mut(&mut out[..KEYS / E::PER_WORD]);
    for (element, x) in elements.iter_mut().zip(row) {
        *element = E::from_f32(*x);
    }
}

/// Turns the first `visible` scores of a row to exp(score - max), the others to 0, and updates the running maximum and
/// sum. Returns the factor by which what was summed before must shrink.
#[inline(always)]
fn soften<S: Simd>(row: &mut [f32; KEYS], visible: usize, max: &mut f32, sum: &mut f32) -> f32 {
    if visible == 0 {
        row.fill(0.0);
        return 1.0;
    }
    for (j, score) in row.iter_mut().enumerate() {
        *score = if j < visible { *score } else { f32::NEG_INFINITY };
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
struct Backward<'a, E> {
    dq: RowsMut<'a, E>,
    dk: RowsMut<'a, E>,
    dv: RowsMut<'a, E>,
    dout: Rows<'a, E>,
    out: Rows<'a, E>,
    lse: &'a [f32],
    q: Rows<'a, E>,
    k: Rows<'a, E>,
    v: Rows<'a, E>,
    dropout: Dropout,
    time: usize,
    tiles: Tiles<E>,
    scratch: &'a mut [u32],
}

impl<E: Word> Task for Backward<'_, E> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self) {
        let Backward { tiles, time, mut scratch, .. } = self;
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
            for first in (key / tile * tile..time).step_by(tile) {
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
                            let visible = (position + 1).saturating_sub(key).min(KEYS);
                            let index = position * time + key;
                            let (lse, delta) = (self.lse[position], delta[position]);
                            *pair = scores_backward::<S>(p, dp, visible, lse, delta, self.dropout, index);
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
    visible: usize,
    lse: f32,
    delta: f32,
    dropout: Dropout,
    index: usize,
) -> ([f32; KEYS], [f32; KEYS]) {
    for (j, (p, dp)) in p.iter_mut().zip(dp.iter_mut()).enumerate() {
        let probability = if j < visible { exp::<S>(*p - lse) } else { 0.0 };
        let factor = if dropout.is_active() { dropout.factor((index + j) as u32) } else { 1.0 };
        *dp = probability * (factor * *dp - delta);
        *p = factor * probability;
    }
    (p, dp)
}
