//! Attention on the CPU: one task for each head of each row of the batch, in tiles that stay in its second-level cache.
//!
//! A task owns the gradients of its head, so nothing is shared. All six products of the two passes run on the
//! micro-kernels of `gemm`: operands are packed into words along whatever is summed over, scores and probabilities live
//! as panels of 32 keys, and sums are f32.

mod backward;
mod decode;
mod forward;
mod tiles;

use super::{Attention, AttentionDims, CachedAttentionDims};
use crate::cpu::{AlignedBuf, Cpu, SharedMut};
use crate::gemm::Word;
use crate::random::Dropout;
use backward::Backward;
use decode::Decode;
use forward::Forward;
use tiles::{Ahead, Rows, RowsMut, Starts, Tiles};

impl<E: Word> Attention for Cpu<E> {
    fn attention_forward(
        &self,
        out: &mut AlignedBuf<E>,
        lse: &mut AlignedBuf<f32>,
        qkv: &AlignedBuf<E>,
        starts: Option<&AlignedBuf<u32>>,
        dropout: Dropout,
        dims: AttentionDims,
    ) {
        let AttentionDims { batch, time, heads, head_size } = dims;
        let channels = heads * head_size;
        let qkv = &qkv[..batch * time * 3 * channels];
        let starts = Starts::new(starts.map(|starts| &starts[..batch * time]), time);
        let (out, lse) = (SharedMut::new(&mut out[..batch * time * channels]), SharedMut::new(lse));
        let tiles = Tiles::<E>::new(self, head_size);
        self.parallel(batch * heads, |task| {
            let first = start_of(task, dims);
            let [q, k, v] = thirds(qkv, task, dims);
            let out = RowsMut { elements: out, start: first, stride: channels };
            // SAFETY: each task has its own piece.
            let lse = unsafe { lse.slice(task * time, time) };
            let dropout = dropout.slice(task as u64);
            self.with_scratch(tiles.forward_scratch(time), |scratch| {
                let starts = starts.row(task / heads, time);
                let ahead = Ahead((task + 1 < batch * heads).then(|| thirds(qkv, task + 1, dims)));
                self.isa().run(Forward {
                    out,
                    lse,
                    q,
                    k,
                    v,
                    ahead,
                    starts,
                    dropout,
                    past: 0,
                    time,
                    tiles,
                    scratch,
                });
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
        starts: Option<&AlignedBuf<u32>>,
        dropout: Dropout,
        dims: AttentionDims,
    ) {
        let AttentionDims { batch, time, heads, head_size } = dims;
        let channels = heads * head_size;
        let qkv = &qkv[..batch * time * 3 * channels];
        let starts = Starts::new(starts.map(|starts| &starts[..batch * time]), time);
        let dqkv = SharedMut::new(&mut dqkv[..qkv.len()]);
        let tiles = Tiles::<E>::new(self, head_size);
        self.parallel(batch * heads, |task| {
            let part = |third: usize| {
                let start = task / heads * time * 3 * channels + third * channels + task % heads * head_size;
                RowsMut { elements: dqkv, start, stride: 3 * channels }
            };
            let (dq, dk, dv) = (part(0), part(1), part(2));
            let of_task = |task| {
                let [q, k, v] = thirds(qkv, task, dims);
                let first = start_of(task, dims);
                let [dout, out] =
                    [dout, out].map(|of| Rows { elements: &of[first..], stride: channels, head_size });
                [q, k, v, dout, out]
            };
            let [q, k, v, dout, out] = of_task(task);
            let ahead = Ahead((task + 1 < batch * heads).then(|| of_task(task + 1)));
            let (lse, dropout) = (&lse[task * time..][..time], dropout.slice(task as u64));
            let starts = starts.row(task / heads, time);
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
                    ahead,
                    starts,
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
        let size = capacity * head_size;
        // What is asked for ahead must not drive out what is read.
        let num_ahead = cached.min(self.level2_bytes() / 4 / size_of::<E>() / head_size);
        self.parallel(batch * heads, |task| {
            let dims = AttentionDims { batch, time, heads, head_size };
            let first = start_of(task, dims);
            let [q, k, v] = thirds(qkv, task, dims);
            let next_keys = (task + 1 < batch * heads).then_some((keys, (task + 1) * size));
            // SAFETY: each task has its own head of the cache.
            let (keys, values) = unsafe { (keys.slice(task * size, size), values.slice(task * size, size)) };
            for i in 0..time {
                let at = (cached + i) * head_size;
                keys[at..at + head_size].copy_from_slice(k.row(i));
                values[at..at + head_size].copy_from_slice(v.row(i));
            }
            if time == 1 {
                let len = (cached + 1) * head_size;
                let (q, keys, values) = (q.row(0), &keys[..len], &values[..len]);
                // SAFETY: each task has its own head of the output.
                let out = unsafe { out.slice(first, head_size) };
                return self.with_scratch(cached + 1 + head_size, |scratch| {
                    self.isa().run(Decode { out, q, keys, values, next_keys, num_ahead, scratch });
                });
            }
            let out = RowsMut { elements: out, start: first, stride: channels };
            let cache = |elements| Rows { elements, stride: head_size, head_size };
            let (k, v, past, dropout) = (cache(keys), cache(values), cached, Dropout::NONE);
            let (starts, ahead) = (Starts::NONE, Ahead(None));
            self.with_scratch(tiles.forward_scratch(cached + time) + time, |scratch| {
                let (lse, scratch) = scratch.split_at_mut(time);
                let lse = bytemuck::cast_slice_mut(lse);
                self.isa().run(Forward {
                    out,
                    lse,
                    q,
                    k,
                    v,
                    ahead,
                    starts,
                    dropout,
                    past,
                    time,
                    tiles,
                    scratch,
                });
            });
        });
    }
}

/// Where a (B, T, C) matrix has the first element of head `task % heads` of row `task / heads`.
fn start_of(task: usize, dims: AttentionDims) -> usize {
    let AttentionDims { time, heads, head_size, .. } = dims;
    (task / heads * time * heads + task % heads) * head_size
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
