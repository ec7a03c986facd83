//! A device that runs another one and notes what each operation took: the breakdown of a step.
//!
//! The network is generic over its device, so it runs on this one unchanged, and a run that is not measured pays nothing.
//! An operation's work is counted from its shapes: multiplications and additions of its matrix products (attention's causal
//! half), and the bytes of its arguments, each read or written once. What is added to is read and written. These are what
//! the operation cannot do without, so that time beyond its [`limit`](Record::limit_seconds) is what could be gained.

mod device;

use crate::{
    Act, Buf, Device, Dropout, Embedding, EmbeddingDims, LayerNorm, LayerNormDims, Linear, LinearDims,
};
use crate::{
    AdamW, AdamWStep, AdamWTensor, Attention, AttentionDims, Buffer, CachedAttentionDims, Loss, LossDims,
    Muon,
};
use crate::{MuonDims, MuonStep, Rounding, Storage, Use};
use std::sync::Mutex;
use std::time::Instant;

/// What the calls of one operation on one shape took together.
#[derive(Clone, Debug, PartialEq)]
pub struct Record {
    /// The operation, and its shape where a network calls it with several.
    pub name: String,
    /// Times it was called.
    pub num_calls: usize,
    /// Wall time.
    pub seconds: f64,
    /// Floating-point operations of its matrix products.
    pub flops: f64,
    /// Bytes that it must read and write at least.
    pub bytes: f64,
}

impl Record {
    /// The least time that a machine of these peaks needs: its arithmetic or its memory, whichever takes longer.
    pub fn limit_seconds(&self, peak_flops: f64, peak_bytes: f64) -> f64 {
        (self.flops / peak_flops).max(self.bytes / peak_bytes)
    }
}

/// A device that measures what it has another one do.
pub struct Metered<D> {
    device: D,
    records: Mutex<Vec<Record>>,
}

impl<D: Device> Metered<D> {
    /// Measures `device`.
    pub fn new(device: D) -> Self {
        Metered { device, records: Mutex::new(Vec::new()) }
    }

    /// The device that does the work.
    pub fn device(&self) -> &D {
        &self.device
    }

    /// What was noted since the last call, in the order of first calls.
    pub fn take(&self) -> Vec<Record> {
        std::mem::take(&mut *self.lock())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Record>> {
        self.records.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Runs an operation and adds it to its record.
    fn note<R>(&self, name: String, flops: usize, bytes: usize, operation: impl FnOnce(&D) -> R) -> R {
        self.device.synchronize();
        let start = Instant::now();
        let result = operation(&self.device);
        self.device.synchronize();
        let seconds = start.elapsed().as_secs_f64();
        let (flops, bytes) = (flops as f64, bytes as f64);
        let mut records = self.lock();
        match records.iter_mut().find(|record| record.name == name) {
            Some(record) => {
                record.num_calls += 1;
                record.seconds += seconds;
                record.flops += flops;
                record.bytes += bytes;
            }
            None => records.push(Record { name, num_calls: 1, seconds, flops, bytes }),
        }
        result
    }

    /// Notes a linear layer: `products` matrix products, the weights' compute copy read for each but that of the weights'
    /// gradient, and `activations` elements.
    fn linear<R>(
        &self,
        name: &str,
        dims: LinearDims,
        products: usize,
        activations: usize,
        operation: impl FnOnce(&D) -> R,
    ) -> R {
        let LinearDims { rows, inputs, outputs } = dims;
        let (weights, element) = (inputs * outputs, size_of::<D::Element>());
        let gradient = if products == 2 { 8 * weights } else { 0 };
        let bytes = element * (weights + activations) + gradient;
        let name = format!("{name} {inputs} -> {outputs}");
        self.note(name, products * 2 * rows * weights, bytes, operation)
    }
}

impl<D: Embedding> Embedding for Metered<D> {
    fn embedding_forward(
        &self,
        out: &mut Act<Self>,
        tokens: &Buf<Self, u32>,
        wte: &Buf<Self, f32>,
        wpe: &Buf<Self, f32>,
        dropout: Dropout,
        dims: EmbeddingDims,
    ) {
        let bytes = dims.batch * dims.time * dims.channels * (8 + size_of::<D::Element>());
        self.note("embedding_forward".into(), 0, bytes, |device| {
            device.embedding_forward(out, tokens, wte, wpe, dropout, dims);
        });
    }

    fn embedding_backward(
        &self,
        dwte: &mut Buf<Self, f32>,
        dwpe: &mut Buf<Self, f32>,
        dout: &Act<Self>,
        tokens: &Buf<Self, u32>,
        dropout: Dropout,
        dims: EmbeddingDims,
    ) {
        let bytes = dims.batch * dims.time * dims.channels * (16 + size_of::<D::Element>());
        self.note("embedding_backward".into(), 0, bytes, |device| {
            device.embedding_backward(dwte, dwpe, dout, tokens, dropout, dims);
        });
    }
}

impl<D: LayerNorm> LayerNorm for Metered<D> {
    fn layernorm_forward(
        &self,
        out: &mut Act<Self>,
        mean: &mut Buf<Self, f32>,
        rstd: &mut Buf<Self, f32>,
        x: &Act<Self>,
        weight: &Buf<Self, f32>,
        bias: &Buf<Self, f32>,
        dims: LayerNormDims,
    ) {
        let bytes = 2 * dims.rows * dims.channels * size_of::<D::Element>();
        self.note("layernorm_forward".into(), 0, bytes, |device| {
            device.layernorm_forward(out, mean, rstd, x, weight, bias, dims);
        });
    }

    fn layernorm_backward(
        &self,
        dx: &mut Act<Self>,
        dx_sums: Option<&mut Buf<Self, f32>>,
        dweight: &mut Buf<Self, f32>,
        dbias: &mut Buf<Self, f32>,
        dout: &Act<Self>,
        mean: &Buf<Self, f32>,
        rstd: &Buf<Self, f32>,
        x: &Act<Self>,
        weight: &Buf<Self, f32>,
        dims: LayerNormDims,
    ) -> bool {
        let bytes = 4 * dims.rows * dims.channels * size_of::<D::Element>();
        self.note("layernorm_backward".into(), 0, bytes, |device| {
            device.layernorm_backward(dx, dx_sums, dweight, dbias, dout, mean, rstd, x, weight, dims)
        })
    }
}

impl<D: Linear> Linear for Metered<D> {
    type Weights = D::Weights;
    const KEEPS_GELU: bool = D::KEEPS_GELU;

    fn weights(&self, inputs: usize, outputs: usize, storage: Storage, purpose: Use) -> D::Weights {
        self.device.weights(inputs, outputs, storage, purpose)
    }
    fn weights_bytes(&self, inputs: usize, outputs: usize, purpose: Use) -> usize {
        self.device.weights_bytes(inputs, outputs, purpose)
    }
    fn read_rate(&self, weights: &[&D::Weights]) -> f64 {
        self.device.read_rate(weights)
    }
    fn linear_scratch_bytes(&self, dims: LinearDims) -> usize {
        self.device.linear_scratch_bytes(dims)
    }
    fn linear_forward_scratch_bytes(&self, dims: LinearDims, purpose: Use) -> usize {
        self.device.linear_forward_scratch_bytes(dims, purpose)
    }

    /// Counted as in training, where both directions are written.
    fn pack(&self, copies: &mut [(&mut D::Weights, &Buf<Self, f32>)], rounding: Rounding) {
        let len: usize = copies.iter().map(|(_, master)| master.len()).sum();
        let bytes = len * (4 + 2 * size_of::<D::Element>());
        self.note("pack".into(), 0, bytes, |device| device.pack(copies, rounding));
    }

    fn linear_forward(
        &self,
        out: &mut Act<Self>,
        x: &Act<Self>,
        weights: &D::Weights,
        bias: &Buf<Self, f32>,
        dims: LinearDims,
    ) {
        let activations = dims.rows * (dims.inputs + dims.outputs);
        self.linear("linear_forward", dims, 1, activations, |device| {
            device.linear_forward(out, x, weights, bias, dims);
        });
    }

    fn linear_gelu_forward(
        &self,
        kept: &mut Act<Self>,
        out: &mut Act<Self>,
        x: &Act<Self>,
        weights: &D::Weights,
        bias: &Buf<Self, f32>,
        dims: LinearDims,
    ) {
        let activations = dims.rows * (dims.inputs + 2 * dims.outputs);
        self.linear("linear_gelu_forward", dims, 1, activations, |device| {
            device.linear_gelu_forward(kept, out, x, weights, bias, dims);
        });
    }

    fn linear_residual_forward(
        &self,
        out: &mut Act<Self>,
        residual: &Act<Self>,
        x: &Act<Self>,
        weights: &D::Weights,
        bias: &Buf<Self, f32>,
        dropout: Dropout,
        dims: LinearDims,
    ) {
        let activations = dims.rows * (dims.inputs + 2 * dims.outputs);
        self.linear("linear_residual_forward", dims, 1, activations, |device| {
            device.linear_residual_forward(out, residual, x, weights, bias, dropout, dims);
        });
    }

    fn linear_backward(
        &self,
        dx: &mut Act<Self>,
        dweights: &mut Buf<Self, f32>,
        dbias: Option<&mut Buf<Self, f32>>,
        dout: &Act<Self>,
        x: &Act<Self>,
        weights: &D::Weights,
        dims: LinearDims,
    ) {
        let activations = dims.rows * (2 * dims.inputs + dims.outputs);
        self.linear("linear_backward", dims, 2, activations, |device| {
            device.linear_backward(dx, dweights, dbias, dout, x, weights, dims);
        });
    }

    fn linear_gelu_backward(
        &self,
        dpre: &mut Act<Self>,
        dbias_of_pre: &mut Buf<Self, f32>,
        dweights: &mut Buf<Self, f32>,
        dbias: Option<&mut Buf<Self, f32>>,
        dout: &Act<Self>,
        kept: &Act<Self>,
        x: &Act<Self>,
        weights: &D::Weights,
        dims: LinearDims,
    ) -> bool {
        let activations = dims.rows * (3 * dims.inputs + dims.outputs);
        self.linear("linear_gelu_backward", dims, 2, activations, |device| {
            device.linear_gelu_backward(dpre, dbias_of_pre, dweights, dbias, dout, kept, x, weights, dims)
        })
    }

    fn dropout_backward(&self, out: &mut Act<Self>, dout: &Act<Self>, dropout: Dropout, dims: LinearDims) {
        let bytes = 2 * dims.rows * dims.outputs * size_of::<D::Element>();
        self.note("dropout_backward".into(), 0, bytes, |device| {
            device.dropout_backward(out, dout, dropout, dims);
        });
    }
}

impl<D: Attention> Attention for Metered<D> {
    fn max_head_size(&self) -> usize {
        self.device.max_head_size()
    }

    fn attention_forward(
        &self,
        out: &mut Act<Self>,
        lse: &mut Buf<Self, f32>,
        qkv: &Act<Self>,
        starts: Option<&Buf<Self, u32>>,
        dropout: Dropout,
        dims: AttentionDims,
    ) {
        let row = dims.heads * dims.head_size;
        let tokens = dims.batch * dims.time;
        // Two products over half of the square: with starts more than is done.
        let (flops, bytes) = (2 * tokens * dims.time * row, 4 * tokens * row * size_of::<D::Element>());
        self.note("attention_forward".into(), flops, bytes, |device| {
            device.attention_forward(out, lse, qkv, starts, dropout, dims);
        });
    }

    fn attention_backward(
        &self,
        dqkv: &mut Act<Self>,
        dout: &Act<Self>,
        out: &Act<Self>,
        lse: &Buf<Self, f32>,
        qkv: &Act<Self>,
        starts: Option<&Buf<Self, u32>>,
        dropout: Dropout,
        dims: AttentionDims,
    ) {
        let row = dims.heads * dims.head_size;
        let tokens = dims.batch * dims.time;
        // Four products, without that of the scores, which are only made again.
        let (flops, bytes) = (4 * tokens * dims.time * row, 8 * tokens * row * size_of::<D::Element>());
        self.note("attention_backward".into(), flops, bytes, |device| {
            device.attention_backward(dqkv, dout, out, lse, qkv, starts, dropout, dims);
        });
    }

    fn attention_cached(
        &self,
        out: &mut Act<Self>,
        keys: &mut Act<Self>,
        values: &mut Act<Self>,
        qkv: &Act<Self>,
        dims: CachedAttentionDims,
    ) {
        let row = dims.batch * dims.heads * dims.head_size;
        let seen = dims.cached + dims.time;
        let flops = 4 * dims.time * seen * row;
        let bytes = (4 * dims.time + 2 * seen) * row * size_of::<D::Element>();
        self.note("attention_cached".into(), flops, bytes, |device| {
            device.attention_cached(out, keys, values, qkv, dims);
        });
    }
}

impl<D: Loss> Loss for Metered<D> {
    fn loss_scratch_bytes(&self, dims: LossDims) -> usize {
        self.device.loss_scratch_bytes(dims)
    }

    fn loss_forward(
        &self,
        losses: &mut Buf<Self, f32>,
        predictions: &mut Buf<Self, u32>,
        x: &Act<Self>,
        head: &D::Weights,
        targets: &Buf<Self, u32>,
        dims: LossDims,
    ) {
        let (flops, elements) = head_work(dims);
        self.note("loss_forward".into(), flops, elements * size_of::<D::Element>(), |device| {
            device.loss_forward(losses, predictions, x, head, targets, dims);
        });
    }

    fn loss_backward(
        &self,
        losses: &mut Buf<Self, f32>,
        dx: &mut Act<Self>,
        dhead: &mut Buf<Self, f32>,
        x: &Act<Self>,
        head: &D::Weights,
        targets: &Buf<Self, u32>,
        weights: &Buf<Self, f32>,
        dims: LossDims,
    ) {
        let (flops, elements) = head_work(dims);
        let bytes = 2 * elements * size_of::<D::Element>() + 8 * dims.vocab_size * dims.channels;
        self.note("loss_backward".into(), 3 * flops, bytes, |device| {
            device.loss_backward(losses, dx, dhead, x, head, targets, weights, dims);
        });
    }

    fn logits(&self, logits: &mut Buf<Self, f32>, x: &Act<Self>, head: &D::Weights, dims: LossDims) {
        let (flops, elements) = head_work(dims);
        let bytes = elements * size_of::<D::Element>() + 4 * dims.rows * dims.vocab_size;
        self.note("logits".into(), flops, bytes, |device| device.logits(logits, x, head, dims));
    }
}

/// FLOPs of the vocabulary projection, and the elements of its operands.
fn head_work(dims: LossDims) -> (usize, usize) {
    let LossDims { rows, channels, vocab_size } = dims;
    (2 * rows * channels * vocab_size, (rows + vocab_size) * channels)
}

impl<D: AdamW> AdamW for Metered<D> {
    fn adamw(&self, tensors: &mut [AdamWTensor<'_, Self>], step: AdamWStep) {
        let bytes = tensors.iter().map(|tensor| 28 * tensor.grad.len()).sum();
        let mut tensors: Vec<AdamWTensor<'_, D>> = tensors
            .iter_mut()
            .map(|tensor| AdamWTensor {
                value: &mut *tensor.value,
                m: &mut *tensor.m,
                v: &mut *tensor.v,
                grad: tensor.grad,
                weight_decay: tensor.weight_decay,
            })
            .collect();
        self.note("adamw".into(), 0, bytes, |device| device.adamw(&mut tensors, step));
    }

    fn sum_of_squares(&self, tensors: &[&Buf<Self, f32>]) -> f64 {
        let bytes = tensors.iter().map(|tensor| 4 * tensor.len()).sum();
        self.note("sum_of_squares".into(), 0, bytes, |device| device.sum_of_squares(tensors))
    }
}

impl<D: Muon> Muon for Metered<D> {
    fn muon(
        &self,
        value: &mut Buf<Self, f32>,
        momentum: &mut Buf<Self, f32>,
        grad: &Buf<Self, f32>,
        step: MuonStep,
        dims: MuonDims,
    ) {
        let (short, long) = {
            let width = dims.cols / dims.pieces;
            (dims.rows.min(width), dims.rows.max(width))
        };
        // Newton-Schulz: X X^T, A A and B X.
        let product = 2 * short * short * (2 * long + short);
        let flops = crate::muon::STEPS * dims.pieces * product;
        self.note("muon".into(), flops, 20 * grad.len(), |device| {
            device.muon(value, momentum, grad, step, dims);
        });
    }
}

#[cfg(test)]
mod tests;
