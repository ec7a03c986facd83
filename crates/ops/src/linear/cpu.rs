//! Linear layers on the CPU: compute copies are packed panels, and what follows the matrix product happens on tiles
//! that are still in the first-level cache.

use super::epilogues::{AddTo, Matrix, Store, StoreBias, StoreGelu, StoreGeluGrad, StoreResidual};
use super::{Linear, LinearDims, Storage, Use};
use crate::cpu::{AlignedBuf, Cpu, SharedMut, Simd, Task, math};
use crate::gemm::{Change, Unchanged, pack_for_gradient, pack_rhs_columns, pack_rhs_rows};
use crate::gemm::{
    Epilogue, Lhs, LhsPanels, PANEL, Packed, Word, gemm, narrow, pack_rhs_both, pack_rhs_both_by_chance,
    padded, product, scratch_words, store,
};
use crate::quant::Quantized;
use crate::random::Dropout;
use crate::rounding::Rounding;
use std::marker::PhantomData;

/// A weight matrix packed for the kernels, in one or both directions.
pub struct CpuWeights<E> {
    inputs: usize,
    outputs: usize,
    storage: Storage,
    /// K = inputs, N = outputs.
    forward: Forward,
    /// K = outputs, N = inputs; absent in inference.
    backward: Option<AlignedBuf<u32>>,
    element: PhantomData<E>,
}

/// The right operand of x W.
enum Forward {
    /// Panels in the element type.
    Packed(AlignedBuf<u32>),
    /// Panels of small integers.
    Quantized(Quantized),
}

impl<E: Word> CpuWeights<E> {
    /// Fills the panels of both directions from the f32 master, rounded to nearest, or by chance under `key`.
    fn pack(&mut self, cpu: &Cpu<E>, master: &[f32], key: Option<u64>) {
        assert!(key.is_none() || self.backward.is_some(), "copies for inference are rounded to nearest");
        let (k, n) = (self.inputs, self.outputs);
        let is_rows_of_inputs = self.storage == Storage::InputsOutputs;
        let both = |by_rows: &mut [u32], by_columns: &mut [u32], rows, columns| match key {
            None => pack_rhs_both(cpu, by_rows, by_columns, master, rows, columns),
            Some(key) => pack_rhs_both_by_chance(cpu, by_rows, by_columns, master, rows, columns, key),
        };
        match (&mut self.forward, &mut self.backward) {
            (Forward::Quantized(quantized), _) => quantized.pack(cpu, master, self.storage),
            (Forward::Packed(forward), Some(backward)) if is_rows_of_inputs => {
                both(forward, backward, k, n);
            }
            (Forward::Packed(forward), Some(backward)) => both(backward, forward, n, k),
            (Forward::Packed(forward), None) if is_rows_of_inputs => {
                pack_rhs_rows(cpu, forward, master, k, n, None);
            }
            (Forward::Packed(forward), None) => {
                pack_rhs_columns(cpu, forward, master, k, n);
            }
        }
    }

    /// Hands the tiles of x W to `epilogue`, for `rows` rows of x, (rows, inputs).
    pub(crate) fn multiply<P: Epilogue>(&self, cpu: &Cpu<E>, x: &[E], rows: usize, epilogue: &P) {
        let (k, columns) = (self.inputs, self.outputs);
        match &self.forward {
            Forward::Quantized(quantized) => quantized.multiply(cpu, x, rows, epilogue),
            Forward::Packed(words) => with_rows(cpu, x, rows, k, |lhs| {
                let packed = Packed { words, k_words: k.div_ceil(E::PER_WORD), columns };
                gemm(cpu, rows, lhs, packed, epilogue);
            }),
        }
    }

    /// The right operand of dout W^T.
    pub(crate) fn backward(&self) -> Packed<'_> {
        let Some(words) = &self.backward else { panic!("these weights were made for inference") };
        Packed { words, k_words: self.outputs.div_ceil(E::PER_WORD), columns: self.inputs }
    }

    /// Asserts that the matrix is `inputs` x `outputs`, stored as `storage`.
    pub(crate) fn check(&self, inputs: usize, outputs: usize, storage: Storage) {
        let (got, want) = ((self.inputs, self.outputs, self.storage), (inputs, outputs, storage));
        assert!(got == want, "weights are {got:?}, the layer needs {want:?}");
    }
}

impl<E: Word> Linear for Cpu<E> {
    type Weights = CpuWeights<E>;
    const KEEPS_GELU: bool = false;

    fn weights(&self, inputs: usize, outputs: usize, storage: Storage, purpose: Use) -> CpuWeights<E> {
        let memory = self.weights_memory();
        let words = Packed::num_words::<E>(inputs, outputs);
        let forward = match purpose {
            Use::Quantized(format) => Forward::Quantized(Quantized::zeros(memory, format, inputs, outputs)),
            Use::Inference => Forward::Packed(memory.zeros(words)),
            // No single row waits for these: where they lie made no difference.
            Use::Training => Forward::Packed(AlignedBuf::zeros(words)),
        };
        let backward =
            (purpose == Use::Training).then(|| AlignedBuf::zeros(Packed::num_words::<E>(outputs, inputs)));
        CpuWeights { inputs, outputs, storage, forward, backward, element: PhantomData }
    }

    fn weights_bytes(&self, inputs: usize, outputs: usize, purpose: Use) -> usize {
        let packed = Packed::num_words::<E>(inputs, outputs);
        4 * match purpose {
            Use::Inference => packed,
            Use::Quantized(format) => format.num_words(inputs, outputs),
            Use::Training => packed + Packed::num_words::<E>(outputs, inputs),
        }
    }

    fn read_rate(&self, weights: &[&CpuWeights<E>]) -> f64 {
        let words = weights.iter().map(|weights| match &weights.forward {
            Forward::Packed(words) => &words[..],
            Forward::Quantized(quantized) => quantized.words(),
        });
        self.measure_reading(&words.collect::<Vec<_>>())
    }

    fn linear_forward_scratch_bytes(&self, dims: LinearDims, purpose: Use) -> usize {
        let LinearDims { rows, inputs, outputs } = dims;
        4 * match purpose {
            Use::Quantized(format) => Quantized::scratch_words(self, format, inputs, rows),
            _ => scratch_words(self, rows, outputs, inputs.div_ceil(E::PER_WORD)),
        }
    }

    fn linear_scratch_bytes(&self, dims: LinearDims) -> usize {
        let LinearDims { rows, inputs, outputs } = dims;
        let ((lhs, rhs), words) = (backward_scratch::<E>(dims), |k: usize| k.div_ceil(E::PER_WORD));
        // Where rows of dout do not fill words, there is a copy of them that does.
        let padded = if outputs.is_multiple_of(E::PER_WORD) { 0 } else { rows * words(outputs) };
        let dweights = scratch_words(self, inputs, outputs, words(rows));
        4 * (lhs + rhs + padded + dweights + scratch_words(self, rows, inputs, words(outputs)))
    }

    fn pack(&self, copies: &mut [(&mut CpuWeights<E>, &AlignedBuf<f32>)], rounding: Rounding) {
        for (tensor, (weights, master)) in copies.iter_mut().enumerate() {
            weights.pack(self, master, rounding.key_of(tensor));
        }
    }

    fn linear_forward(
        &self,
        out: &mut AlignedBuf<E>,
        x: &AlignedBuf<E>,
        weights: &CpuWeights<E>,
        bias: &AlignedBuf<f32>,
        dims: LinearDims,
    ) {
        let out = Matrix::new(out, dims.rows, dims.outputs);
        forward(self, x, weights, dims, &StoreBias { out, bias: &bias[..dims.outputs] });
    }

    fn linear_gelu_forward(
        &self,
        pre: &mut AlignedBuf<E>,
        out: &mut AlignedBuf<E>,
        x: &AlignedBuf<E>,
        weights: &CpuWeights<E>,
        bias: &AlignedBuf<f32>,
        dims: LinearDims,
    ) {
        let pre = Matrix::new(pre, dims.rows, dims.outputs);
        let out = Matrix::new(out, dims.rows, dims.outputs);
        forward(self, x, weights, dims, &StoreGelu { pre, out, bias: &bias[..dims.outputs] });
    }

    fn linear_residual_forward(
        &self,
        out: &mut AlignedBuf<E>,
        residual: &AlignedBuf<E>,
        x: &AlignedBuf<E>,
        weights: &CpuWeights<E>,
        bias: &AlignedBuf<f32>,
        dropout: Dropout,
        dims: LinearDims,
    ) {
        let out = Matrix::new(out, dims.rows, dims.outputs);
        let residual = &residual[..dims.rows * dims.outputs];
        forward(
            self,
            x,
            weights,
            dims,
            &StoreResidual { out, residual, bias: &bias[..dims.outputs], dropout },
        );
    }

    fn linear_backward(
        &self,
        dx: &mut AlignedBuf<E>,
        dweights: &mut AlignedBuf<f32>,
        dbias: Option<&mut AlignedBuf<f32>>,
        dout: &AlignedBuf<E>,
        x: &AlignedBuf<E>,
        weights: &CpuWeights<E>,
        dims: LinearDims,
    ) {
        let dx = Matrix::new(dx, dims.rows, dims.inputs);
        backward(self, dweights, dbias, dout, (x, Unchanged), weights, dims, &Store { out: dx });
    }

    fn linear_gelu_backward(
        &self,
        dpre: &mut AlignedBuf<E>,
        _: &mut AlignedBuf<f32>,
        dweights: &mut AlignedBuf<f32>,
        dbias: Option<&mut AlignedBuf<f32>>,
        dout: &AlignedBuf<E>,
        pre: &AlignedBuf<E>,
        _: &AlignedBuf<E>,
        weights: &CpuWeights<E>,
        dims: LinearDims,
    ) -> bool {
        let out = Matrix::new(dpre, dims.rows, dims.inputs);
        let epilogue = StoreGeluGrad { out, pre: &pre[..dims.rows * dims.inputs] };
        backward(self, dweights, dbias, dout, (pre, Gelu), weights, dims, &epilogue);
        // The next layer's weights need dpre in another order, and sum it up while they put it there.
        false
    }

    fn dropout_backward(
        &self,
        out: &mut AlignedBuf<E>,
        dout: &AlignedBuf<E>,
        dropout: Dropout,
        dims: LinearDims,
    ) {
        const BLOCK: usize = 1 << 14;
        let len = dims.rows * dims.outputs;
        let (dout, out) = (&dout[..len], SharedMut::new(&mut out[..len]));
        self.parallel(len.div_ceil(BLOCK), |block| {
            let (start, size) = (block * BLOCK, BLOCK.min(len - block * BLOCK));
            // SAFETY: blocks do not overlap.
            let out = unsafe { out.slice(start, size) };
            self.isa().run(DropoutBackward { out, dout: &dout[start..][..size], dropout, start });
        });
    }
}

/// out = epilogue(x W).
fn forward<E: Word, P: Epilogue>(
    cpu: &Cpu<E>,
    x: &[E],
    weights: &CpuWeights<E>,
    dims: LinearDims,
    epilogue: &P,
) {
    weights.check(dims.inputs, dims.outputs, Storage::InputsOutputs);
    weights.multiply(cpu, x, dims.rows, epilogue);
}

/// The activation between two layers, on what the first one made.
#[derive(Clone, Copy)]
struct Gelu;

impl Change for Gelu {
    #[inline(always)]
    fn apply<S: Simd, T: Word>(self, x: T) -> f32 {
        math::gelu::<S>(x.to_f32())
    }
}

/// dW += x^T dout; dbias += column sums of dout, which come with packing it; epilogue(dout W^T). x is given as what it is made
/// of, and how.
fn backward<E: Word, P: Epilogue>(
    cpu: &Cpu<E>,
    dweights: &mut [f32],
    dbias: Option<&mut AlignedBuf<f32>>,
    dout: &[E],
    x: (&[E], impl Change),
    weights: &CpuWeights<E>,
    dims: LinearDims,
    epilogue: &P,
) {
    let LinearDims { rows, inputs, outputs } = dims;
    weights.check(inputs, outputs, Storage::InputsOutputs);
    let (lhs_words, rhs_words) = backward_scratch::<E>(dims);
    let dbias = dbias.map(|dbias| &mut dbias[..outputs]);
    cpu.with_scratch(lhs_words, |lhs| {
        cpu.with_scratch(rhs_words, |rhs| {
            let (x, rhs) = pack_for_gradient(cpu, (lhs, rhs), x, dout, dbias, [rows, inputs, outputs]);
            let add = AddTo { out: Matrix::new(dweights, inputs, outputs) };
            with_rows(cpu, dout, rows, outputs, |dout| {
                cpu.run(&[
                    product(cpu, inputs, Lhs::Panels(x), rhs, &add),
                    product(cpu, rows, dout, weights.backward(), epilogue),
                ]);
            });
        });
    });
}

/// Scratch words of a layer's backward pass: x packed, dout packed.
fn backward_scratch<E: Word>(dims: LinearDims) -> (usize, usize) {
    let LinearDims { rows, inputs, outputs } = dims;
    (LhsPanels::num_words::<E>(inputs, rows), Packed::num_words::<E>(rows, outputs))
}

/// Lends the rows of `x` (rows, k) as a left operand: as they are where they fill whole words, else as a padded copy.
pub(crate) fn with_rows<E: Word>(cpu: &Cpu<E>, x: &[E], rows: usize, k: usize, f: impl FnOnce(Lhs<'_, E>)) {
    let x = &x[..rows * k];
    if k.is_multiple_of(E::PER_WORD) {
        return f(Lhs::Rows { elements: x, stride: k });
    }
    let stride = k.next_multiple_of(E::PER_WORD);
    cpu.with_scratch(rows * stride / E::PER_WORD, |words| {
        let padded: &mut [E] = bytemuck::cast_slice_mut(words);
        for (to, from) in padded.chunks_exact_mut(stride).zip(x.chunks_exact(k)) {
            to[..k].copy_from_slice(from);
            to[k..].fill(E::from_f32(0.0));
        }
        f(Lhs::Rows { elements: padded, stride });
    });
}

/// out = factors times dout, elements `start ..` of the mask.
struct DropoutBackward<'a, E> {
    out: &'a mut [E],
    dout: &'a [E],
    dropout: Dropout,
    start: usize,
}

impl<E: Word> Task for DropoutBackward<'_, E> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self) {
        for (i, (out, dout)) in self.out.chunks_mut(PANEL).zip(self.dout.chunks(PANEL)).enumerate() {
            let (start, dout): (usize, [E; PANEL]) = (self.start + i * PANEL, padded(dout));
            let factor = |j: usize| self.dropout.factor((start + j) as u32);
            store(out, &narrow::<S, E, PANEL>(|j| factor(j) * dout[j].to_f32()));
        }
    }
}
