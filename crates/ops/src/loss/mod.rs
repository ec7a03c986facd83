//! The loss head: vocabulary projection fused with cross-entropy, so that (B, T, V) logits never exist at once.
//!
//! Forward:   logits[i] = x[i] W^T, W (V, C);   losses[i] = logsumexp(logits[i]) - logits[i, targets[i]]
//! Backward:  dlogits[i] = weights[i] (softmax(logits[i]) - onehot(targets[i]))
//!            dx = dlogits W;   dW += dlogits^T x
//!
//! A row whose target is [`IGNORE`](crate::IGNORE) has loss 0 and no gradient. Rows are worked on in blocks, and a
//! block's logits are turned into their gradient in place. `weights[i]` is the derivative of what is minimized with
//! respect to losses[i]: 1/N for a mean over N targets.

mod cpu;

use crate::{Act, Buf, Linear};

/// Shapes of a loss head.
#[derive(Clone, Copy, Debug)]
pub struct LossDims {
    /// Rows: B T.
    pub rows: usize,
    /// C.
    pub channels: usize,
    /// V.
    pub vocab_size: usize,
}

/// Vocabulary projection and cross-entropy. `head` is a compute copy with
/// [`Storage::OutputsInputs`](crate::Storage::OutputsInputs) of C inputs and V outputs.
pub trait Loss: Linear {
    /// Bytes of scratch memory that the device allocates once for `loss_backward`.
    fn loss_scratch_bytes(&self, dims: LossDims) -> usize;

    /// Sets `losses` (rows), in nats, and `predictions` (rows), the most likely token of each row (lowest id on ties).
    fn loss_forward(
        &self,
        losses: &mut Buf<Self, f32>,
        predictions: &mut Buf<Self, u32>,
        x: &Act<Self>,
        head: &Self::Weights,
        targets: &Buf<Self, u32>,
        dims: LossDims,
    );

    /// Sets `losses` (rows) and `dx` (rows, C), adds to `dhead` (V, C). Forward and backward in one pass.
    fn loss_backward(
        &self,
        losses: &mut Buf<Self, f32>,
        dx: &mut Act<Self>,
        dhead: &mut Buf<Self, f32>,
        x: &Act<Self>,
        head: &Self::Weights,
        targets: &Buf<Self, u32>,
        weights: &Buf<Self, f32>,
        dims: LossDims,
    );

    /// Sets `logits` (rows, V), for generation, where rows are few.
    fn logits(&self, logits: &mut Buf<Self, f32>, x: &Act<Self>, head: &Self::Weights, dims: LossDims);
}
