//! The loss head on the CPU: a block of rows at a time, its logits in scratch memory, turned into their gradient in
//! place and multiplied away.

use super::{Loss, LossDims};
use crate::IGNORE;
use crate::cpu::math::{LANES, exp, sum_lanes};
use crate::cpu::{AlignedBuf, Cpu, SharedMut, Simd, Task};
use crate::element::Element;
use crate::gemm::{self, Lhs, LhsPanels, PANEL, Packed, Word, gemm, narrow, padded, store};
use crate::gemm::{pack_lhs_transposed, pack_rhs_rows};
use crate::linear::Storage;
use crate::linear::cpu::CpuWeights;
use crate::linear::epilogues::{AddTo, Matrix, Store};

/// Bytes of logits that exist at once, about: the head's gradient, larger than they are, is read and written for each.
const LOGITS_BYTES: usize = 128 << 20;
/// Tokens whose part of dlogits is packed at a time, so that it is still in a cache when it is multiplied: whole tiles of
/// the AVX-512 and AVX2 kernels.
const PACKED_TOKENS: usize = 585 * 14;

/// Rows in a block: all blocks about equal, and each a few kernel heights at least.
fn block_rows<T>(dims: LossDims) -> usize {
    let num_blocks = (dims.rows * dims.vocab_size * size_of::<T>()).div_ceil(LOGITS_BYTES).max(1);
    dims.rows.div_ceil(num_blocks).max(dims.rows.min(56))
}

/// Columns that a row of logits takes: whole cache lines, and an odd number of them, so that the rows which a kernel reads
/// side by side do not all fall on the same few places of the first-level cache.
fn stride<E: Word>(dims: LossDims) -> usize {
    let line = 64 / size_of::<E>();
    (dims.vocab_size.div_ceil(line) | 1) * line
}

/// Scratch words of `loss_backward`: logits, dlogits packed, x packed.
fn scratch_words<E: Word>(dims: LossDims) -> [usize; 3] {
    let rows = block_rows::<E>(dims);
    [
        rows * stride::<E>(dims) / E::PER_WORD,
        LhsPanels::num_words::<E>(dims.vocab_size.min(PACKED_TOKENS), rows),
        Packed::num_words::<E>(rows, dims.channels),
    ]
}

impl<E: Word> Loss for Cpu<E> {
    fn loss_scratch_bytes(&self, dims: LossDims) -> usize {
        let LossDims { channels, vocab_size, .. } = dims;
        let (rows, words) = (block_rows::<E>(dims), |k: usize| k.div_ceil(E::PER_WORD));
        let products =
            [[rows, vocab_size, channels], [rows, channels, vocab_size], [PACKED_TOKENS, channels, rows]];
        let products = products.map(|[m, n, k]| gemm::scratch_words(self, m, n, words(k)));
        4 * scratch_words::<E>(dims).into_iter().chain(products).sum::<usize>()
    }

    fn loss_forward(
        &self,
        losses: &mut AlignedBuf<f32>,
        predictions: &mut AlignedBuf<u32>,
        x: &AlignedBuf<E>,
        head: &CpuWeights<E>,
        targets: &AlignedBuf<u32>,
        dims: LossDims,
    ) {
        check(dims, x, head, targets);
        let (vocab_size, block) = (dims.vocab_size, block_rows::<f32>(dims));
        self.with_scratch(block * vocab_size, |words| {
            let logits: &mut [f32] = bytemuck::cast_slice_mut(words);
            for start in (0..dims.rows).step_by(block) {
                let rows = block.min(dims.rows - start);
                let logits = &mut logits[..rows * vocab_size];
                project(
                    self,
                    logits,
                    vocab_size,
                    &x[start * dims.channels..],
                    head,
                    LossDims { rows, ..dims },
                );
                let (losses, predictions) = (&mut losses[start..][..rows], &mut predictions[start..][..rows]);
                let (losses, predictions) = (SharedMut::new(losses), SharedMut::new(predictions));
                self.parallel(rows, |row| {
                    let logits = &logits[row * vocab_size..][..vocab_size];
                    let found = self.isa().run(RowForward { logits, target: targets[start + row] });
                    // SAFETY: each task has its own row.
                    let (loss, prediction) = unsafe { (losses.slice(row, 1), predictions.slice(row, 1)) };
                    (loss[0], prediction[0]) = found;
                });
            }
        });
    }

    fn loss_backward(
        &self,
        losses: &mut AlignedBuf<f32>,
        dx: &mut AlignedBuf<E>,
        dhead: &mut AlignedBuf<f32>,
        x: &AlignedBuf<E>,
        head: &CpuWeights<E>,
        targets: &AlignedBuf<u32>,
        weights: &AlignedBuf<f32>,
        dims: LossDims,
    ) {
        check(dims, x, head, targets);
        let (channels, block) = (dims.channels, block_rows::<E>(dims));
        for start in (0..dims.rows).step_by(block) {
            let rows = block.min(dims.rows - start);
            let block = LossDims { rows, ..dims };
            let piece = start * channels..(start + rows) * channels;
            let x = &x[piece.clone()];
            let words = scratch_words::<E>(dims);
            self.with_scratch(words[0], |scratch| {
                let dlogits: &mut [E] = bytemuck::cast_slice_mut(scratch);
                let dlogits = &mut dlogits[..rows * stride::<E>(dims)];
                project(self, dlogits, stride::<E>(dims), x, head, block);
                let (targets, weights) = (&targets[start..][..rows], &weights[start..][..rows]);
                softmax_backward(self, &mut losses[start..][..rows], dlogits, targets, weights, block);
                let lhs = Lhs::Rows { elements: &*dlogits, stride: stride::<E>(dims) };
                let dx = Matrix::new(&mut dx[piece], rows, channels);
                gemm(self, rows, lhs, head.backward(), &Store { out: dx });
                head_backward(self, dhead, dlogits, x, words, block);
            });
        }
    }

    fn logits(&self, logits: &mut AlignedBuf<f32>, x: &AlignedBuf<E>, head: &CpuWeights<E>, dims: LossDims) {
        head.check(dims.channels, dims.vocab_size, Storage::OutputsInputs);
        project(self, logits, dims.vocab_size, x, head, dims);
    }
}

fn check<E: Word>(dims: LossDims, x: &[E], head: &CpuWeights<E>, targets: &[u32]) {
    head.check(dims.channels, dims.vocab_size, Storage::OutputsInputs);
    assert!(x.len() >= dims.rows * dims.channels, "x holds {} elements for {dims:?}", x.len());
    let bad = targets[..dims.rows].iter().find(|&&t| t as usize >= dims.vocab_size && t != IGNORE);
    assert!(bad.is_none(), "target {bad:?} is not below the vocabulary size {}", dims.vocab_size);
}

/// logits = x W^T, rows `stride` apart.
fn project<E: Word, T: Word>(
    cpu: &Cpu<E>,
    logits: &mut [T],
    stride: usize,
    x: &[E],
    head: &CpuWeights<E>,
    dims: LossDims,
) {
    let out = Matrix::new(logits, dims.rows, stride);
    head.multiply(cpu, x, dims.rows, &Store { out });
}

/// Turns logits into dlogits in place, and gives the losses.
fn softmax_backward<E: Word>(
    cpu: &Cpu<E>,
    losses: &mut [f32],
    logits: &mut [E],
    targets: &[u32],
    weights: &[f32],
    dims: LossDims,
) {
    let stride = stride::<E>(dims);
    let (losses, logits) = (SharedMut::new(losses), SharedMut::new(logits));
    cpu.parallel(dims.rows, |row| {
        // SAFETY: each task has its own row.
        let (loss, logits) = unsafe { (losses.slice(row, 1), logits.slice(row * stride, stride)) };
        let (logits, padding) = logits.split_at_mut(dims.vocab_size);
        padding.fill(E::from_f32(0.0));
        loss[0] = cpu.isa().run(RowBackward { logits, target: targets[row], weight: weights[row] });
    });
}

/// dW += dlogits^T x.
fn head_backward<E: Word>(
    cpu: &Cpu<E>,
    dhead: &mut [f32],
    dlogits: &[E],
    x: &[E],
    [_, lhs_words, rhs_words]: [usize; 3],
    dims: LossDims,
) {
    let (rows, channels, vocab_size, stride) = (dims.rows, dims.channels, dims.vocab_size, stride::<E>(dims));
    cpu.with_scratch(rhs_words, |words| {
        let rhs = pack_rhs_rows(cpu, words, x, rows, channels, None);
        cpu.with_scratch(lhs_words, |words| {
            for first in (0..vocab_size).step_by(PACKED_TOKENS) {
                let (tokens, dlogits) = (PACKED_TOKENS.min(vocab_size - first), &dlogits[first..]);
                let lhs = pack_lhs_transposed(cpu, words, dlogits, rows, tokens, stride);
                let out = Matrix::new(&mut dhead[first * channels..], tokens, channels);
                gemm(cpu, tokens, Lhs::Panels(lhs), rhs, &AddTo { out });
            }
        });
    });
}

/// The largest logit.
#[inline(always)]
fn maximum<E: Element>(logits: &[E]) -> f32 {
    let mut lanes = [f32::NEG_INFINITY; LANES];
    let (chunks, rest) = logits.as_chunks::<LANES>();
    for chunk in chunks {
        for (lane, x) in lanes.iter_mut().zip(chunk) {
            let x = x.to_f32();
            *lane = if x > *lane { x } else { *lane };
        }
    }
    rest.iter().map(|x| x.to_f32()).chain(lanes).fold(f32::NEG_INFINITY, f32::max)
}

/// The sum of exp(logit - shift).
#[inline(always)]
fn sum_of_exp<S: Simd, E: Element>(logits: &[E], shift: f32) -> f32 {
    let mut lanes = [0.0; LANES];
    let (chunks, rest) = logits.as_chunks::<LANES>();
    for chunk in chunks {
        for (lane, x) in lanes.iter_mut().zip(chunk) {
            *lane += exp::<S>(x.to_f32() - shift);
        }
    }
    for (lane, x) in lanes.iter_mut().zip(rest) {
        *lane += exp::<S>(x.to_f32() - shift);
    }
    sum_lanes(lanes)
}

/// Loss and most likely token of one row.
struct RowForward<'a> {
    logits: &'a [f32],
    target: u32,
}

impl Task for RowForward<'_> {
    type Output = (f32, u32);
    #[inline(always)]
    fn run<S: Simd>(self) -> (f32, u32) {
        let max = maximum(self.logits);
        let prediction = self.logits.iter().position(|&x| x == max).unwrap_or(0) as u32;
        if self.target == IGNORE {
            return (0.0, prediction);
        }
        let sum = sum_of_exp::<S, f32>(self.logits, max);
        (max + sum.ln() - self.logits[self.target as usize], prediction)
    }
}

/// Loss of one row, whose logits become their gradient.
struct RowBackward<'a, E> {
    logits: &'a mut [E],
    target: u32,
    weight: f32,
}

impl<E: Word> Task for RowBackward<'_, E> {
    type Output = f32;
    #[inline(always)]
    fn run<S: Simd>(self) -> f32 {
        if self.target == IGNORE {
            self.logits.fill(E::from_f32(0.0));
            return 0.0;
        }
        let max = maximum(self.logits);
        let lse = max + sum_of_exp::<S, E>(self.logits, max).ln();
        let target = self.logits[self.target as usize].to_f32();
        let scale = self.weight;
        for logits in self.logits.chunks_mut(PANEL) {
            let x: [E; PANEL] = padded(logits);
            store(logits, &narrow::<S, E, PANEL>(|j| scale * exp::<S>(x[j].to_f32() - lse)));
        }
        // p - 1 from the f32 probability: in bf16 the difference of the rounded values would lose p.
        self.logits[self.target as usize] = E::from_f32(scale * (exp::<S>(target - lse) - 1.0));
        lse - target
    }
}
