//! Embedding on the CPU. Backward is cut by channels, so that each sum runs over the tokens in order.

use super::{Embedding, EmbeddingDims};
use crate::cpu::{AlignedBuf, Cpu, SharedMut, Simd, Task};
use crate::gemm::Word;
use crate::random::Dropout;

/// Channels of a task of the backward pass: a few cache lines of each row.
const CHANNELS: usize = 64;

impl<E: Word> Embedding for Cpu<E> {
    fn embedding_forward(
        &self,
        out: &mut AlignedBuf<E>,
        tokens: &AlignedBuf<u32>,
        wte: &AlignedBuf<f32>,
        wpe: &AlignedBuf<f32>,
        dropout: Dropout,
        dims: EmbeddingDims,
    ) {
        let EmbeddingDims { time, channels, start, .. } = dims;
        let rows = check(tokens, wpe, dims);
        let out = SharedMut::new(&mut out[..rows * channels]);
        self.parallel(rows, |row| {
            let token = &wte[tokens[row] as usize * channels..][..channels];
            let position = &wpe[(start + row % time) * channels..][..channels];
            // SAFETY: each task has its own row.
            let out = unsafe { out.slice(row * channels, channels) };
            self.isa().run(Forward { out, token, position, dropout, index: row * channels });
        });
    }

    fn embedding_backward(
        &self,
        dwte: &mut AlignedBuf<f32>,
        dwpe: &mut AlignedBuf<f32>,
        dout: &AlignedBuf<E>,
        tokens: &AlignedBuf<u32>,
        dropout: Dropout,
        dims: EmbeddingDims,
    ) {
        let EmbeddingDims { time, channels, start, .. } = dims;
        let rows = check(tokens, dwpe, dims);
        let (dwte, dwpe) = (SharedMut::new(dwte), SharedMut::new(dwpe));
        self.parallel(channels.div_ceil(CHANNELS), |task| {
            let first = task * CHANNELS;
            let width = CHANNELS.min(channels - first);
            for row in 0..rows {
                let index = row * channels + first;
                // SAFETY: each task has its own channels of every row.
                let (token, position) = unsafe {
                    (
                        dwte.slice(tokens[row] as usize * channels + first, width),
                        dwpe.slice((start + row % time) * channels + first, width),
                    )
                };
                self.isa().run(Backward { token, position, dout: &dout[index..][..width], dropout, index });
            }
        });
    }
}

/// The number of rows, B T, after checking tokens and positions.
fn check(tokens: &[u32], wpe: &[f32], dims: EmbeddingDims) -> usize {
    let rows = dims.batch * dims.time;
    let bad = tokens[..rows].iter().find(|&&token| token as usize >= dims.vocab_size);
    assert!(bad.is_none(), "token {bad:?} is not below the vocabulary size {}", dims.vocab_size);
    let end = (dims.start + dims.time) * dims.channels;
    assert!(end <= wpe.len(), "position {} has no row in wpe", dims.start + dims.time - 1);
    rows
}

/// One row: out = D(token + position).
struct Forward<'a, E> {
    out: &'a mut [E],
    token: &'a [f32],
    position: &'a [f32],
    dropout: Dropout,
    index: usize,
}

impl<E: Word> Task for Forward<'_, E> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self) {
        let sums = self.token.iter().zip(self.position);
        if self.dropout.is_active() {
            for (i, (o, (t, p))) in self.out.iter_mut().zip(sums).enumerate() {
                *o = E::from_f32(self.dropout.factor((self.index + i) as u32) * (t + p));
            }
        } else {
            for (o, (t, p)) in self.out.iter_mut().zip(sums) {
                *o = E::from_f32(t + p);
            }
        }
    }
}

/// Some channels of one row: both sums take D'(dout).
struct Backward<'a, E> {
    token: &'a mut [f32],
    position: &'a mut [f32],
    dout: &'a [E],
    dropout: Dropout,
    index: usize,
}

impl<E: Word> Task for Backward<'_, E> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self) {
        let sums = self.token.iter_mut().zip(self.position).zip(self.dout);
        if self.dropout.is_active() {
            for (i, ((t, p), d)) in sums.enumerate() {
                let d = self.dropout.factor((self.index + i) as u32) * d.to_f32();
                *t += d;
                *p += d;
            }
        } else {
            for ((t, p), d) in sums {
                *t += d.to_f32();
                *p += d.to_f32();
            }
        }
    }
}
