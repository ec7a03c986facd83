//! Token and position embedding, with dropout.
//!
//! Forward:   out[b,t,c] = D(wte[tokens[b,t], c] + wpe[start + t, c])          D: dropout, identity in evaluation
//! Backward:  dwte[tokens[b,t], c] += D'(dout[b,t,c]);   dwpe[start + t, c] += D'(dout[b,t,c])
//!
//! The sums of the backward pass run over (b, t) in order for each channel, whatever the number of threads.

mod cpu;

use crate::{Act, Buf, Device, Dropout};

/// Shapes of an embedding.
#[derive(Clone, Copy, Debug)]
pub struct EmbeddingDims {
    /// B: rows of tokens.
    pub batch: usize,
    /// T: tokens in a row.
    pub time: usize,
    /// C.
    pub channels: usize,
    /// V: rows of wte.
    pub vocab_size: usize,
    /// Position of the first token of each row: 0 in training, the length of the cache in generation.
    pub start: usize,
}

/// Token and position embedding.
pub trait Embedding: Device {
    /// Sets `out` (B, T, C) from `tokens` (B, T), `wte` (V, C) and `wpe` (P, C), P at least start + T.
    /// Every token must be below V.
    fn embedding_forward(
        &self,
        out: &mut Act<Self>,
        tokens: &Buf<Self, u32>,
        wte: &Buf<Self, f32>,
        wpe: &Buf<Self, f32>,
        dropout: Dropout,
        dims: EmbeddingDims,
    );

    /// Adds to `dwte` (V, C) and `dwpe` (P, C) from `dout` (B, T, C).
    fn embedding_backward(
        &self,
        dwte: &mut Buf<Self, f32>,
        dwpe: &mut Buf<Self, f32>,
        dout: &Act<Self>,
        tokens: &Buf<Self, u32>,
        dropout: Dropout,
        dims: EmbeddingDims,
    );
}
