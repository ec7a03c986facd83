//! The loss head on a GPU: blocks of rows, as many as a fixed amount of scratch memory holds logits of.
//!
//! In training the logits of a block lie in the device's element type and are turned into their gradient in place; an
//! evaluation has them in f32.

use super::{Loss, LossDims};
use crate::Cuda;
use crate::cuda::{CudaBuf, CudaElement, Kind, Operands, Product, Shape, Source, arguments};
use crate::linear::LinearDims;
use crate::linear::cuda::{CudaWeights, weights_product};

pub(crate) const SOURCE: Source = Source {
    name: "loss",
    files: &[include_str!("cuda.cu")],
    kernels: &["loss_backward", "loss_backward_shared", "loss_forward"],
};

/// Bytes of a row that is kept in shared memory at most: two blocks then fit a processor with 227 KiB of it.
const SHARED_ROW_BYTES: usize = 112 << 10;
/// Bytes of a block's logits in training at most: 16,384 rows of 50,000 in 16 bits.
const BLOCK_BYTES: usize = 16_384 * 50_000 * 2;
/// The same of an evaluation, whose logits are f32: a quarter of the rows, so that an update's scratch memory suffices.
const EVALUATED_BLOCK_BYTES: usize = BLOCK_BYTES / 2;

/// Elements from one row of logits to the next: the vocabulary, or, where its rows would not all begin on a boundary of 16
/// bytes, as GPT-2's 50,257 would not, the next multiple of 64.
fn stride(dims: LossDims) -> usize {
    if dims.vocab_size.is_multiple_of(8) { dims.vocab_size } else { dims.vocab_size.next_multiple_of(64) }
}

/// Rows of a block at most, whose logits take `bytes` each and `limit` together.
fn most_rows(dims: LossDims, bytes: usize, limit: usize) -> usize {
    (limit / (bytes * dims.vocab_size) / 128 * 128).max(128).min(dims.rows.max(1))
}

/// Rows of a block: blocks are as equal as whole multiples of 128 rows make them. So each begins on a boundary of 256 bytes in
/// every buffer, which is what cuBLASLt's choice of algorithms assumes.
fn block_rows(dims: LossDims, most: usize) -> usize {
    let blocks = dims.rows.div_ceil(most).max(1);
    dims.rows.div_ceil(blocks).next_multiple_of(128).min(most)
}

impl<E: CudaElement> Cuda<E> {
    /// What scratch memory an update takes. It grows with the rows, as the equal blocks themselves would not, so that a smaller
    /// batch never asks for more.
    fn training_scratch_bytes(&self, dims: LossDims) -> usize {
        size_of::<E>() * most_rows(dims, size_of::<E>(), BLOCK_BYTES) * stride(dims)
    }

    /// The same of an evaluation.
    fn evaluation_scratch_bytes(&self, dims: LossDims) -> usize {
        4 * most_rows(dims, 4, EVALUATED_BLOCK_BYTES) * stride(dims)
    }

    /// logits = x W^T of `rows` rows at `x`; rows of logits lie `stride` apart.
    fn head_product(
        &self,
        logits: u64,
        stride: usize,
        kind: Kind,
        x: u64,
        head: &CudaWeights<E>,
        rows: usize,
        dims: LossDims,
    ) {
        let product = Product {
            transpose_a: true,
            output: kind,
            strides: (0, stride),
            ..Product::new(Self::KIND, dims.vocab_size, rows, dims.channels)
        };
        self.product(product, Operands { d: logits, c: 0, a: head.matrix(), b: x, bias: 0, aux: 0 });
    }
}

impl<E: CudaElement> Loss for Cuda<E> {
    fn loss_scratch_bytes(&self, dims: LossDims) -> usize {
        self.training_scratch_bytes(dims).max(self.evaluation_scratch_bytes(dims))
    }

    fn loss_forward(
        &self,
        losses: &mut CudaBuf<f32>,
        predictions: &mut CudaBuf<u32>,
        x: &CudaBuf<E>,
        head: &CudaWeights<E>,
        targets: &CudaBuf<u32>,
        dims: LossDims,
    ) {
        let scratch = self.context.scratch(self.evaluation_scratch_bytes(dims));
        let most = block_rows(dims, most_rows(dims, 4, EVALUATED_BLOCK_BYTES));
        let logits = scratch.at(0);
        for first in (0..dims.rows).step_by(most) {
            let rows = most.min(dims.rows - first);
            let at = |buffer: u64, bytes: usize| buffer + (first * bytes) as u64;
            let x = at(x.pointer(), size_of::<E>() * dims.channels);
            self.head_product(logits, stride(dims), Kind::F32, x, head, rows, dims);
            let (losses, predictions) = (at(losses.pointer(), 4), at(predictions.pointer(), 4));
            let arguments = arguments![
                losses,
                predictions,
                logits,
                at(targets.pointer(), 4),
                dims.vocab_size,
                stride(dims)
            ];
            self.launch("loss_forward", Shape::new(rows, 1024), arguments);
        }
    }

    fn loss_backward(
        &self,
        losses: &mut CudaBuf<f32>,
        dx: &mut CudaBuf<E>,
        dhead: &mut CudaBuf<f32>,
        x: &CudaBuf<E>,
        head: &CudaWeights<E>,
        targets: &CudaBuf<u32>,
        weights: &CudaBuf<f32>,
        dims: LossDims,
    ) {
        let LossDims { channels, vocab_size, .. } = dims;
        let scratch = self.context.scratch(self.training_scratch_bytes(dims));
        let most = block_rows(dims, most_rows(dims, size_of::<E>(), BLOCK_BYTES));
        let logits = scratch.at(0);
        for first in (0..dims.rows).step_by(most) {
            let rows = most.min(dims.rows - first);
            let at = |buffer: u64, bytes: usize| buffer + (first * bytes) as u64;
            let x = at(x.pointer(), size_of::<E>() * channels);
            self.head_product(logits, stride(dims), Self::KIND, x, head, rows, dims);
            let (losses, targets) = (at(losses.pointer(), 4), at(targets.pointer(), 4));
            let arguments =
                arguments![logits, losses, targets, at(weights.pointer(), 4), vocab_size, stride(dims)];
            let row_bytes = (size_of::<E>() * vocab_size).next_multiple_of(16);
            if !E::IS_F32 && row_bytes <= SHARED_ROW_BYTES.min(self.context.max_shared_bytes()) {
                let shape = Shape::new(rows, 512).shared(row_bytes);
                self.launch("loss_backward_shared", shape, arguments);
            } else {
                self.launch("loss_backward", Shape::new(rows, 1024), arguments);
            }
            let dx = at(dx.pointer(), size_of::<E>() * channels);
            let of_x = Product {
                strides: (stride(dims), 0),
                ..Product::new(Self::KIND, channels, rows, vocab_size)
            };
            self.product(of_x, Operands { d: dx, c: 0, a: head.matrix(), b: logits, bias: 0, aux: 0 });
            // dhead^T = x^T dlogits, as cuBLASLt sees it.
            let of_head =
                Product { strides: (stride(dims), 0), ..weights_product::<E>(channels, vocab_size, rows) };
            let dhead = dhead.pointer();
            self.product(of_head, Operands { d: dhead, c: dhead, a: x, b: logits, bias: 0, aux: 0 });
        }
    }

    fn logits(&self, logits: &mut CudaBuf<f32>, x: &CudaBuf<E>, head: &CudaWeights<E>, dims: LossDims) {
        let LossDims { rows, channels, vocab_size } = dims;
        let of_layer = LinearDims { rows, inputs: channels, outputs: vocab_size };
        let of_library = || self.head_product(logits.pointer(), 0, Kind::F32, x.pointer(), head, rows, dims);
        let of_rows = || self.row_logits(logits.pointer(), x.pointer(), head, of_layer);
        let place = ("logits of few rows", rows, channels, vocab_size);
        match self.is_for_row_logits(head, of_layer) && self.is_faster(place, &of_rows, &of_library) {
            true => of_rows(),
            false => of_library(),
        }
    }
}
