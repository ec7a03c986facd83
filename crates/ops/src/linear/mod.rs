//! The linear layer, alone and fused with what follows it in a transformer block.
//!
//! ```text
//! Forward:   out = x W + bias                                   x (rows, C), W (C, OC), bias (OC), out (rows, OC)
//!            pre = x W + bias;  out = gelu(pre)                 `linear_gelu_forward`
//!            out = residual + D(x W + bias)                     `linear_residual_forward`, D: dropout
//! Backward:  dbias += sum over rows of dout;  dW += x^T dout;  dx = dout W^T
//!            dpre = (dout W^T) gelu'(pre)                       `linear_gelu_backward`: x was gelu(pre)
//! ```
//!
//! gelu is GPT-2's `gelu_new` (Hendrycks and Gimpel, 2016):
//! ```text
//!        gelu(x) = 0.5 x (1 + tanh(u)) = x sigmoid(2u),  u = sqrt(2/pi) (x + 0.044715 x^3)
//! ```
//!
//! Matrices are multiplied from a compute copy of the weights, which a device lays out as its kernels like it and which
//! is made again from the f32 master once an optimizer step (`pack`), rounded as [`Rounding`] says. A network that is only read
//! may have copies of small integers instead ([`Format`]).

pub(crate) mod cpu;
pub(crate) mod cuda;
pub(crate) mod cuda_hopper;
pub(crate) mod cuda_row;
pub(crate) mod epilogues;

use crate::{Act, Buf, Device, Dropout, Format, Rounding};

/// Shapes of a linear layer.
#[derive(Clone, Copy, Debug)]
pub struct LinearDims {
    /// Rows: B T.
    pub rows: usize,
    /// C: input channels.
    pub inputs: usize,
    /// OC: output channels.
    pub outputs: usize,
}

/// How the master of a weight matrix lies in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Storage {
    /// (inputs, outputs), as GPT-2's Conv1D stores it.
    InputsOutputs,
    /// (outputs, inputs), as an embedding that is used as a head stores it.
    OutputsInputs,
}

/// What a compute copy is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Use {
    /// Forward only: half the memory.
    Inference,
    /// Forward only, from small integers: a half or a quarter of bf16's memory.
    Quantized(Format),
    /// Forward and backward.
    Training,
}

/// Linear layers.
pub trait Linear: Device {
    /// A compute copy of a weight matrix.
    type Weights: Send + Sync;

    /// Whether [`linear_gelu_backward`](Self::linear_gelu_backward) reads x. A device that does not computes gelu(pre) again
    /// while it rearranges it for the product, and then nobody need keep x from the forward pass.
    const KEEPS_GELU: bool;

    /// Allocates a compute copy of a matrix of `inputs` x `outputs`.
    fn weights(&self, inputs: usize, outputs: usize, storage: Storage, purpose: Use) -> Self::Weights;
    /// Bytes that such a copy takes.
    fn weights_bytes(&self, inputs: usize, outputs: usize, purpose: Use) -> usize;
    /// Bytes a second at which such copies can be read, and nothing done with them, measured: the peak of a product with one
    /// row. Memory may not be equally fast everywhere, so that this can differ from [`peak_bytes`](Device::peak_bytes).
    fn read_rate(&self, weights: &[&Self::Weights]) -> f64 {
        let _ = weights;
        self.peak_bytes()
    }
    /// Bytes of scratch memory that the device allocates once for the backward pass of a layer of these shapes.
    fn linear_scratch_bytes(&self, dims: LinearDims) -> usize;
    /// Bytes of scratch memory that the device allocates once for the forward pass of a layer of these shapes.
    fn linear_forward_scratch_bytes(&self, dims: LinearDims, purpose: Use) -> usize;
    /// Fills each compute copy from its f32 master. It takes all copies at once, as the optimizer's operations do and for the
    /// same reason; their places among them name them to `rounding`. To round by chance, copies must be for training; where the
    /// element type is not bf16, what that gives is rounded to it. A device may keep a copy of the layer's bias beside it, which is
    /// made again here: a bias changes only together with a call of this, and lives as long as the copy. That copy is rounded to
    /// nearest: others have none, and it may be made before the first update.
    fn pack(&self, copies: &mut [(&mut Self::Weights, &Buf<Self, f32>)], rounding: Rounding);

    /// Sets `out` (rows, OC).
    fn linear_forward(
        &self,
        out: &mut Act<Self>,
        x: &Act<Self>,
        weights: &Self::Weights,
        bias: &Buf<Self, f32>,
        dims: LinearDims,
    );

    /// Sets `out` (rows, OC) = gelu(x W + bias), and `kept` (rows, OC) to what this device's
    /// [`linear_gelu_backward`](Self::linear_gelu_backward) will want to know of x W + bias: that itself, or GELU's slope there.
    fn linear_gelu_forward(
        &self,
        kept: &mut Act<Self>,
        out: &mut Act<Self>,
        x: &Act<Self>,
        weights: &Self::Weights,
        bias: &Buf<Self, f32>,
        dims: LinearDims,
    );

    /// Sets `out` (rows, OC) = residual + dropout(x W + bias). Element (row, channel) of the dropout mask has index
    /// row OC + channel.
    fn linear_residual_forward(
        &self,
        out: &mut Act<Self>,
        residual: &Act<Self>,
        x: &Act<Self>,
        weights: &Self::Weights,
        bias: &Buf<Self, f32>,
        dropout: Dropout,
        dims: LinearDims,
    );

    /// Sets `dx` (rows, C), adds to `dweights` (shape of the master) and `dbias` (OC), unless the operation that made `dout`
    /// has added to that.
    fn linear_backward(
        &self,
        dx: &mut Act<Self>,
        dweights: &mut Buf<Self, f32>,
        dbias: Option<&mut Buf<Self, f32>>,
        dout: &Act<Self>,
        x: &Act<Self>,
        weights: &Self::Weights,
        dims: LinearDims,
    );

    /// The backward pass of a layer whose input was x = gelu(pre), through the GELU: sets `dpre` (rows, C), adds to
    /// `dweights` and `dbias`, as [`linear_backward`](Self::linear_backward) does. Returns whether it has also added the sums
    /// over the rows of `dpre` to `dbias_of_pre` (C), the gradient of the bias of the layer before: some devices have them on the
    /// way. `kept` is what that layer's [`linear_gelu_forward`](Self::linear_gelu_forward) left, over the same rows, from as many channels
    /// as this layer makes, of weights that are stored as this one's.
    #[must_use]
    fn linear_gelu_backward(
        &self,
        dpre: &mut Act<Self>,
        dbias_of_pre: &mut Buf<Self, f32>,
        dweights: &mut Buf<Self, f32>,
        dbias: Option<&mut Buf<Self, f32>>,
        dout: &Act<Self>,
        kept: &Act<Self>,
        x: &Act<Self>,
        weights: &Self::Weights,
        dims: LinearDims,
    ) -> bool;

    /// Sets `out` (rows, OC) = dropout's factors times `x` (rows, OC): the backward pass of the dropout inside
    /// `linear_residual_forward`.
    fn dropout_backward(&self, out: &mut Act<Self>, dout: &Act<Self>, dropout: Dropout, dims: LinearDims);
}

/// The forward passes, as naively as they can be written: pre = x W + bias, and gelu(pre).
#[cfg(test)]
fn reference<R: crate::testing::Real>(
    x: &[R],
    weights: &[R],
    bias: &[R],
    dims: LinearDims,
) -> (Vec<R>, Vec<R>) {
    let LinearDims { rows, inputs, outputs } = dims;
    let element = |i: usize| {
        let (row, o) = (i / outputs, i % outputs);
        R::sum((0..inputs).map(|c| x[row * inputs + c] * weights[c * outputs + o])) + bias[o]
    };
    let pre: Vec<R> = (0..rows * outputs).map(element).collect();
    let out = pre.iter().map(|x| gelu_reference(*x)).collect();
    (pre, out)
}

/// gelu_new, as its formula is written.
#[cfg(test)]
fn gelu_reference<R: crate::testing::Real>(x: R) -> R {
    let u = R::from((2.0 / std::f64::consts::PI).sqrt()) * (x + R::from(0.044715) * x * x * x);
    R::from(0.5) * x * (R::from(1.0) + u.tanh())
}

#[cfg(test)]
mod tests;
