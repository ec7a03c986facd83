//! Attention on the CPU: one task for each head of each row of the batch, in tiles of 64 queries by 64 keys.
//!
//! A task copies the tiles it works on to f32 scratch, so that the products are plain register-blocked loops over
//! unit-stride rows, whatever the element type. It owns the gradients of its head, so nothing is shared.

use super::{Attention, AttentionDims, CachedAttentionDims};
use crate::cpu::math::{LANES, exp};
use crate::cpu::{AlignedBuf, Cpu, SharedMut, Simd, Task};
use crate::element::Element;
use crate::gemm::Word;
use crate::random::Dropout;

/// Queries, and keys, of a tile.
const TILE: usize = 64;

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
        assert!(qkv.len() >= batch * time * 3 * channels, "qkv holds {} elements for {dims:?}", qkv.len());
        let (out, lse) = (SharedMut::new(&mut out[..batch * time * channels]), SharedMut::new(lse));
        self.parallel(batch * heads, |task| {
            let (row, head) = (task / heads, task % heads);
            let part = |third: usize| Rows {
                elements: &qkv[row * time * 3 * channels + third * channels + head * head_size..],
                stride: 3 * channels,
            };
            let out =
                RowsMut { elements: out, start: row * time * channels + head * head_size, stride: channels };
            // SAFETY: each task has its own piece.
            let lse = unsafe { lse.slice(task * time, time) };
            let dropout = dropout.slice(task as u64);
            let head =
                Forward { out, lse, q: part(0), k: part(1), v: part(2), dropout, past: 0, time, head_size };
            self.with_scratch(Forward::<E>::scratch(head_size), |scratch| {
                self.isa().run(WithScratch(head, bytemuck::cast_slice_mut(scratch)));
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
        assert!(qkv.len() >= batch * time * 3 * channels, "qkv holds {} elements for {dims:?}", qkv.len());
        let dqkv = SharedMut::new(&mut dqkv[..batch * time * 3 * channels]);
        self.parallel(batch * heads, |task| {
            let (row, head) = (task / heads, task % heads);
            let start = |third: usize| row * time * 3 * channels + third * channels + head * head_size;
            let part = |third: usize| Rows { elements: &qkv[start(third)..], stride: 3 * channels };
            let dpart = |third: usize| RowsMut { elements: dqkv, start: start(third), stride: 3 * channels };
            let first = row * time * channels + head * head_size;
            let head = Backward {
                dq: dpart(0),
                dk: dpart(1),
                dv: dpart(2),
                dout: Rows { elements: &dout[first..], stride: channels },
                out: Rows { elements: &out[first..], stride: channels },
                lse: &lse[task * time..][..time],
                q: part(0),
                k: part(1),
                v: part(2),
                dropout: dropout.slice(task as u64),
                time,
                head_size,
            };
            self.with_scratch(Backward::<E>::scratch(time, head_size), |scratch| {
                self.isa().run(WithScratch(head, bytemuck::cast_slice_mut(scratch)));
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
        self.parallel(batch * heads, |task| {
            let (row, head) = (task / heads, task % heads);
            let part = |third: usize| Rows {
                elements: &qkv[row * time * 3 * channels + third * channels + head * head_size..],
                stride: 3 * channels,
            };
            let size = capacity * head_size;
            // SAFETY: each task has its own head of the cache.
            let (keys, values) = unsafe { (keys.slice(task * size, size), values.slice(task * size, size)) };
            for i in 0..time {
                let at = (cached + i) * head_size;
                keys[at..at + head_size].copy_from_slice(part(1).row(i, head_size));
                values[at..at + head_size].copy_from_slice(part(2).row(i, head_size));
            }
            let out =
                RowsMut { elements: out, start: row * time * channels + head * head_size, stride: channels };
            let (k, v) =
                (Rows { elements: keys, stride: head_size }, Rows { elements: values, stride: head_size });
            self.with_scratch(Forward::<E>::scratch(head_size) + time, |scratch| {
                let (lse, scratch) = scratch.split_at_mut(time);
                let lse = bytemuck::cast_slice_mut(lse);
                let dropout = Dropout::NONE;
                let head = Forward { out, lse, q: part(0), k, v, dropout, past: cached, time, head_size };
                self.isa().run(WithScratch(head, bytemuck::cast_slice_mut(scratch)));
            });
        });
    }
}

/// Rows of one head, `stride` elements apart.
#[derive(Clone, Copy)]
struct Rows<'a, E> {
    elements: &'a [E],
    stride: usize,
}

impl<'a, E: Element> Rows<'a, E> {
    #[inline(always)]
    fn row(&self, i: usize, head_size: usize) -> &'a [E] {
        &self.elements[i * self.stride..][..head_size]
    }

    /// Copies rows `first .. first + rows` to `tile` (rows, width), times `scale`, zeros beyond the head size.
    #[inline(always)]
    fn load(&self, tile: &mut [f32], first: usize, rows: usize, width: usize, head_size: usize, scale: f32) {
        for (i, to) in tile.chunks_exact_mut(width).take(rows).enumerate() {
            for (t, x) in to.iter_mut().zip(self.row(first + i, head_size)) {
                *t = scale * x.to_f32();
            }
            to[head_size..].fill(0.0);
        }
    }

    /// The same transposed: `tile` is (width, TILE), zeros where there is no row.
    #[inline(always)]
    fn load_transposed(&self, tile: &mut [f32], first: usize, rows: usize, head_size: usize) {
        tile.fill(0.0);
        for i in 0..rows {
            for (d, x) in self.row(first + i, head_size).iter().enumerate() {
                tile[d * TILE + i] = x.to_f32();
            }
        }
    }
}

/// Rows of one head of an output that tasks share.
#[derive(Clone, Copy)]
struct RowsMut<'a, E> {
    elements: SharedMut<'a, E>,
    start: usize,
    stride: usize,
}

impl<E: Element> RowsMut<'_, E> {
    /// Writes `tile` (rows, width) to rows `first ..`.
    #[inline(always)]
    fn store(&self, tile: &[f32], first: usize, rows: usize, width: usize, head_size: usize) {
        for (i, from) in tile.chunks_exact(width).take(rows).enumerate() {
            // SAFETY: a head's columns of its rows belong to one task.
            let row = unsafe { self.elements.slice(self.start + (first + i) * self.stride, head_size) };
            for (o, x) in row.iter_mut().zip(from) {
                *o = E::from_f32(*x);
            }
        }
    }
}

/// A task that works in scratch memory of the size it asked for.
struct WithScratch<'a, T>(T, &'a mut [f32]);

/// The head size rounded up to whole vectors.
fn padded(head_size: usize) -> usize {
    head_size.next_multiple_of(LANES)
}

/// How a matrix lies in memory: steps between rows and between columns.
#[derive(Clone, Copy)]
struct Steps(usize, usize);

/// c (m, n) += a (m, k) b (k, n); n is a multiple of 16, b and c have rows of n.
#[inline(always)]
fn multiply_add<S: Simd>(c: &mut [f32], a: &[f32], steps: Steps, b: &[f32], m: usize, k: usize, n: usize) {
    let mut row = 0;
    while row < m {
        if m - row >= 4 {
            multiply_rows::<S, 4>(c, a, steps, b, row, k, n);
            row += 4;
        } else {
            multiply_rows::<S, 1>(c, a, steps, b, row, k, n);
            row += 1;
        }
    }
}

/// `R` rows of [`multiply_add`], 32 columns (or the last 16) in registers at a time.
#[inline(always)]
fn multiply_rows<S: Simd, const R: usize>(
    c: &mut [f32],
    a: &[f32],
    steps: Steps,
    b: &[f32],
    row: usize,
    k: usize,
    n: usize,
) {
    let mut column = 0;
    while column < n {
        if n - column >= 2 * LANES {
            multiply_tile::<S, R, { 2 * LANES }>(c, a, steps, b, row, column, k, n);
            column += 2 * LANES;
        } else {
            multiply_tile::<S, R, LANES>(c, a, steps, b, row, column, k, n);
            column += LANES;
        }
    }
}

/// `R` x `W` sums in registers.
#[inline(always)]
fn multiply_tile<S: Simd, const R: usize, const W: usize>(
    c: &mut [f32],
    a: &[f32],
    steps: Steps,
    b: &[f32],
    row: usize,
    column: usize,
    k: usize,
    n: usize,
) {
    let mut sums = [[0.0f32; W]; R];
    for i in 0..k {
        let b = &b[i * n + column..][..W];
        for (r, sums) in sums.iter_mut().enumerate() {
            let a = a[(row + r) * steps.0 + i * steps.1];
            for (sum, b) in sums.iter_mut().zip(b) {
                *sum = S::fma(a, *b, *sum);
            }
        }
    }
    for (r, sums) in sums.iter().enumerate() {
        for (c, sum) in c[(row + r) * n + column..][..W].iter_mut().zip(sums) {
            *c += sum;
        }
    }
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
    head_size: usize,
}

impl<E> Forward<'_, E> {
    /// Floats of scratch: q, out (TILE, width), k^T, v (width, TILE), scores (TILE, TILE).
    fn scratch(head_size: usize) -> usize {
        4 * TILE * padded(head_size) + TILE * TILE
    }
}

impl<E: Element> Task for WithScratch<'_, Forward<'_, E>> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self) {
        let WithScratch(head, scratch) = self;
        let width = padded(head.head_size);
        let (q, scratch) = scratch.split_at_mut(TILE * width);
        let (out, scratch) = scratch.split_at_mut(TILE * width);
        let (k, scratch) = scratch.split_at_mut(TILE * width);
        let (v, scores) = scratch.split_at_mut(TILE * width);
        let scale = 1.0 / (head.head_size as f32).sqrt();
        for first in (0..head.time).step_by(TILE) {
            let queries = TILE.min(head.time - first);
            head.q.load(q, first, queries, width, head.head_size, scale);
            out.fill(0.0);
            let (mut max, mut sum) = ([f32::NEG_INFINITY; TILE], [0.0f32; TILE]);
            let end = head.past + first + queries;
            for key in (0..end).step_by(TILE) {
                let keys = TILE.min(end - key);
                head.k.load_transposed(k, key, keys, head.head_size);
                head.v.load(v, key, keys, width, head.head_size, 1.0);
                scores.fill(0.0);
                multiply_add::<S>(scores, q, Steps(width, 1), k, queries, head.head_size, TILE);
                for (i, scores) in scores.chunks_exact_mut(TILE).take(queries).enumerate() {
                    let position = head.past + first + i;
                    let visible = keys.min((position + 1).saturating_sub(key));
                    let correction = soften::<S>(scores, visible, &mut max[i], &mut sum[i]);
                    out[i * width..][..width].iter_mut().for_each(|o| *o *= correction);
                    drop_scores(scores, head.dropout, (first + i) * head.time + key);
                }
                multiply_add::<S>(out, scores, Steps(TILE, 1), v, queries, keys, width);
            }
            for i in 0..queries {
                out[i * width..][..width].iter_mut().for_each(|o| *o /= sum[i]);
                head.lse[first + i] = max[i] + sum[i].ln();
            }
            head.out.store(out, first, queries, width, head.head_size);
        }
    }
}

/// Turns the first `visible` scores of a row to exp(score - max), the others to 0, and updates the running maximum and
/// sum. Returns the factor by which what was summed before must shrink.
#[inline(always)]
fn soften<S: Simd>(scores: &mut [f32], visible: usize, max: &mut f32, sum: &mut f32) -> f32 {
    if visible == 0 {
        scores.fill(0.0);
        return 1.0;
    }
    for score in &mut scores[visible..] {
        *score = f32::NEG_INFINITY;
    }
    let mut lanes = [f32::NEG_INFINITY; LANES];
    for chunk in scores.as_chunks::<LANES>().0 {
        for (lane, x) in lanes.iter_mut().zip(chunk) {
            *lane = if x > lane { *x } else { *lane };
        }
    }
    let new = lanes.iter().fold(*max, |m, x| m.max(*x));
    let correction = exp::<S>(*max - new);
    let mut totals = [0.0; LANES];
    for chunk in scores.as_chunks_mut::<LANES>().0 {
        for (total, x) in totals.iter_mut().zip(chunk) {
            *x = exp::<S>(*x - new);
            *total += *x;
        }
    }
    *sum = *sum * correction + crate::cpu::math::sum_lanes(totals);
    *max = new;
    correction
}

/// Applies dropout to a row of probabilities whose first element has index `index`.
#[inline(always)]
fn drop_scores(scores: &mut [f32], dropout: Dropout, index: usize) {
    if dropout.is_active() {
        for (j, score) in scores.iter_mut().enumerate() {
            *score *= dropout.factor((index + j) as u32);
        }
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
    head_size: usize,
}

impl<E> Backward<'_, E> {
    /// Floats of scratch: q, dout, k, k^T, v^T, dk, dv (TILE, width) each; probabilities, dscores (TILE, TILE);
    /// dq (T, width); delta (T).
    fn scratch(time: usize, head_size: usize) -> usize {
        (7 * TILE + time) * padded(head_size) + 2 * TILE * TILE + time
    }
}

impl<E: Element> Task for WithScratch<'_, Backward<'_, E>> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self) {
        let WithScratch(head, scratch) = self;
        let Backward { time, head_size, .. } = head;
        let width = padded(head_size);
        let (q, scratch) = scratch.split_at_mut(TILE * width);
        let (dout, scratch) = scratch.split_at_mut(TILE * width);
        let (k, scratch) = scratch.split_at_mut(TILE * width);
        let (k_transposed, scratch) = scratch.split_at_mut(TILE * width);
        let (v_transposed, scratch) = scratch.split_at_mut(TILE * width);
        let (dk, scratch) = scratch.split_at_mut(TILE * width);
        let (dv, scratch) = scratch.split_at_mut(TILE * width);
        let (p, scratch) = scratch.split_at_mut(TILE * TILE);
        let (ds, scratch) = scratch.split_at_mut(TILE * TILE);
        let (dq, delta) = scratch.split_at_mut(time * width);
        let scale = 1.0 / (head_size as f32).sqrt();
        dq.fill(0.0);
        for (i, delta) in delta.iter_mut().take(time).enumerate() {
            let pairs = head.out.row(i, head_size).iter().zip(head.dout.row(i, head_size));
            *delta = pairs.map(|(o, d)| o.to_f32() * d.to_f32()).sum();
        }
        for key in (0..time).step_by(TILE) {
            let keys = TILE.min(time - key);
            head.k.load(k, key, keys, width, head_size, scale);
            head.k.load_transposed(k_transposed, key, keys, head_size);
            head.v.load_transposed(v_transposed, key, keys, head_size);
            dk.fill(0.0);
            dv.fill(0.0);
            for first in (key..time).step_by(TILE) {
                let queries = TILE.min(time - first);
                head.q.load(q, first, queries, width, head_size, scale);
                head.dout.load(dout, first, queries, width, head_size, 1.0);
                p.fill(0.0);
                ds.fill(0.0);
                multiply_add::<S>(p, q, Steps(width, 1), k_transposed, queries, head_size, TILE);
                multiply_add::<S>(ds, dout, Steps(width, 1), v_transposed, queries, head_size, TILE);
                for i in 0..queries {
                    let at = first + i;
                    let visible = keys.min(at + 1 - key);
                    let (p, ds) = (&mut p[i * TILE..][..TILE], &mut ds[i * TILE..][..TILE]);
                    let index = at * time + key;
                    scores_backward::<S>(p, ds, visible, head.lse[at], delta[at], head.dropout, index);
                }
                multiply_add::<S>(dv, p, Steps(1, TILE), dout, keys, queries, width);
                multiply_add::<S>(dk, ds, Steps(1, TILE), q, keys, queries, width);
                multiply_add::<S>(&mut dq[first * width..], ds, Steps(TILE, 1), k, queries, keys, width);
            }
            head.dk.store(dk, key, keys, width, head_size);
            head.dv.store(dv, key, keys, width, head_size);
        }
        head.dq.store(dq, 0, time, width, head_size);
    }
}

/// One row of a tile: scores become D(p), and the products of dout and v become ds (before the scale).
#[inline(always)]
fn scores_backward<S: Simd>(
    p: &mut [f32],
    ds: &mut [f32],
    visible: usize,
    lse: f32,
    delta: f32,
    dropout: Dropout,
    index: usize,
) {
    if dropout.is_active() {
        for (j, (p, ds)) in p.iter_mut().zip(ds.iter_mut()).enumerate() {
            let (probability, factor) = (exp::<S>(*p - lse), dropout.factor((index + j) as u32));
            *ds = probability * (factor * *ds - delta);
            *p = factor * probability;
        }
    } else {
        for (p, ds) in p.iter_mut().zip(ds.iter_mut()) {
            *p = exp::<S>(*p - lse);
            *ds = *p * (*ds - delta);
        }
    }
    p[visible..].fill(0.0);
    ds[visible..].fill(0.0);
}
