//! Linear layers on a GPU: products of cuBLASLt, with bias, GELU and residual fused into them where it can. Many rows on Hopper go
//! through GELU in `cuda_hopper.rs`; its residual, and the few rows of `cuda_row.rs`, are taken where they are faster.
//!
//! Row-major matrices are their transposes to cuBLASLt (see `cuda/matmul.rs`), so a forward product is out^T = W^T x^T: m
//! is the number of outputs and n that of rows. What the library has no fused form of, a kernel does after the product.

use super::cuda_hopper::TILE;
use super::{Linear, LinearDims, Storage, Use};
use crate::adamw::cuda::ComputeCopy;
use crate::cuda::{CudaBuf, CudaElement, Epilogue, Kind, Lane, Operands, Product, Shape, Source, arguments};
use crate::{Buffer, Cuda, Device, Dropout, Rounding};
use std::sync::atomic::{AtomicU64, Ordering};

pub(crate) const SOURCE: Source = Source {
    name: "linear",
    files: &[include_str!("cuda_gelu.cuh"), include_str!("cuda.cu")],
    kernels: &[
        "convert",
        "copy",
        "fill_random",
        "add_bias",
        "add_bias_gelu",
        "residual_dropout",
        "dropout_backward",
        "gelu_backward",
        "column_sums",
        "column_sums_scalar",
        "sum_partials",
    ],
};

/// A compute copy: the matrix as it is stored, in the device's element type, and the bias likewise.
pub struct CudaWeights<E> {
    copy: CudaBuf<E>,
    inputs: usize,
    outputs: usize,
    storage: Storage,
    /// cuBLASLt adds a bias of the output's type only, so there is a copy of it too.
    bias: CudaBuf<E>,
    /// The address of what it is a copy of, 0 before the first use.
    bias_master: AtomicU64,
}

impl<E> CudaWeights<E> {
    /// The address of the matrix.
    pub(crate) fn matrix(&self) -> u64 {
        self.copy.pointer()
    }

    /// How it lies.
    pub(super) fn storage(&self) -> Storage {
        self.storage
    }
}

/// A layer's forward product in cuBLASLt's terms.
fn forward<E: CudaElement>(
    weights: &CudaWeights<E>,
    dims: LinearDims,
    epilogue: Epilogue,
    add: bool,
) -> Product {
    Product {
        transpose_a: weights.storage == Storage::OutputsInputs,
        accumulate: add,
        epilogue,
        ..Product::new(Cuda::<E>::KIND, dims.outputs, dims.rows, dims.inputs)
    }
}

impl<E: CudaElement> Cuda<E> {
    /// out = x W + bias, by the library.
    pub(super) fn biased_product(
        &self,
        out: &CudaBuf<E>,
        x: &CudaBuf<E>,
        weights: &CudaWeights<E>,
        bias: &CudaBuf<f32>,
        dims: LinearDims,
    ) {
        let (a, b, of_bias) = (weights.copy.pointer(), x.pointer(), self.bias(weights, bias));
        let operands = Operands { d: out.pointer(), c: 0, a, b, bias: of_bias, aux: 0 };
        if !self.try_product(forward(weights, dims, Epilogue::Bias, false), operands) {
            self.product(forward(weights, dims, Epilogue::None, false), operands);
            let len = dims.rows * dims.outputs;
            self.launch("add_bias", Shape::each(len), arguments![out, bias, len, dims.outputs]);
        }
    }

    /// The backward pass but for the input's gradient: dW += x^T dout and dbias += the sum over the rows of dout, in the second
    /// lane, beside what the first is given next.
    fn parameters_backward(
        &self,
        dweights: &mut CudaBuf<f32>,
        dbias: Option<&mut CudaBuf<f32>>,
        dout: &CudaBuf<E>,
        x: &CudaBuf<E>,
        storage: Storage,
        dims: LinearDims,
    ) {
        let addresses = [dweights.pointer(), dout.pointer(), x.pointer()];
        let dbias_pointer = dbias.as_ref().map_or(0, |dbias| dbias.pointer());
        let of_bias =
            dbias.is_some_and(|dbias| self.has_fused_bias_gradient(dweights, dbias, dout, x, storage, dims));
        self.context.fork();
        if !(of_bias && self.weights_and_bias_backward(Lane::Second, addresses, dbias_pointer, dims)) {
            self.weights_backward(Lane::Second, addresses, storage, dims);
            if dbias_pointer != 0 {
                self.add_column_sums(Lane::Second, dbias_pointer, dout, dims.rows, dims.outputs);
            }
        }
        let buffers = [dout.pointer(), x.pointer(), dweights.pointer(), dbias_pointer];
        self.context.beside(&buffers[..if dbias_pointer == 0 { 3 } else { 4 }]);
    }

    /// Whether the bias's gradient comes out of the weights' product. Where that is not known yet both forms run, on
    /// gradients of their own.
    fn has_fused_bias_gradient(
        &self,
        dweights: &CudaBuf<f32>,
        dbias: &CudaBuf<f32>,
        dout: &CudaBuf<E>,
        x: &CudaBuf<E>,
        storage: Storage,
        dims: LinearDims,
    ) -> bool {
        let LinearDims { rows, inputs, outputs } = dims;
        if E::IS_F32 || storage != Storage::InputsOutputs {
            return false;
        }
        let own = std::cell::OnceCell::new();
        let own = || own.get_or_init(|| [self.zeros::<f32>(dweights.len()), self.zeros::<f32>(dbias.len())]);
        let addresses = || [own()[0].pointer(), dout.pointer(), x.pointer()];
        let separate = || {
            self.weights_backward(Lane::First, addresses(), storage, dims);
            self.add_column_sums(Lane::First, own()[1].pointer(), dout, rows, outputs);
            true
        };
        let fused = || self.weights_and_bias_backward(Lane::First, addresses(), own()[1].pointer(), dims);
        self.fastest_form(("bias gradient", rows, inputs, outputs), &[&separate, &fused]) == 1
    }

    /// dW += x^T dout and dbias += the sums over the rows of dout, of a matrix (inputs, outputs), in one product; false if
    /// cuBLASLt has none.
    fn weights_and_bias_backward(
        &self,
        lane: Lane,
        [dweights, dout, x]: [u64; 3],
        dbias: u64,
        dims: LinearDims,
    ) -> bool {
        let LinearDims { rows, inputs, outputs } = dims;
        let product =
            Product { epilogue: Epilogue::BiasGradient, ..weights_product::<E>(outputs, inputs, rows) };
        let scratch = self.context.scratch_on(lane, 4 * outputs);
        let operands = Operands { d: dweights, c: dweights, a: dout, b: x, bias: scratch.at(0), aux: 0 };
        if !self.try_product_on(lane, product, operands) {
            return false;
        }
        self.sum_partials(lane, &[dbias], scratch.at(0), 1, outputs);
        true
    }

    /// dW += x^T dout, as the master is stored; by address.
    fn weights_backward(
        &self,
        lane: Lane,
        [dweights, dout, x]: [u64; 3],
        storage: Storage,
        dims: LinearDims,
    ) {
        let LinearDims { rows, inputs, outputs } = dims;
        // Column-major, a gradient (inputs, outputs) is dout^T x, and one of (outputs, inputs) is x^T dout.
        let (m, n, a, b) = match storage {
            Storage::InputsOutputs => (outputs, inputs, dout, x),
            Storage::OutputsInputs => (inputs, outputs, x, dout),
        };
        let product = weights_product::<E>(m, n, rows);
        self.product_on(lane, product, Operands { d: dweights, c: dweights, a, b, bias: 0, aux: 0 });
    }

    /// The bias in the type that cuBLASLt wants; f32 is what it is.
    fn bias(&self, weights: &CudaWeights<E>, bias: &CudaBuf<f32>) -> u64 {
        if E::IS_F32 {
            return bias.pointer();
        }
        if weights.bias_master.load(Ordering::Acquire) != bias.pointer() {
            // Another thread may do the same, but none finds the copy before it was queued.
            let len = weights.outputs;
            self.launch("convert", vectors::<E>(len), arguments![weights.bias, bias, len]);
            weights.bias_master.store(bias.pointer(), Ordering::Release);
        }
        weights.bias.pointer()
    }

    /// A dropout's key, threshold and factor, as kernels take them.
    pub(crate) fn dropout_arguments(&self, dropout: Dropout) -> [u64; 3] {
        self.context.note_dropout(dropout);
        let (key, threshold, scale) = dropout.parts();
        *arguments![key, threshold, scale]
    }

    /// Adds the sum over the rows of `x` (rows, cols) to the f32 at `out` (cols).
    fn add_column_sums(&self, lane: Lane, out: u64, x: &CudaBuf<E>, rows: usize, cols: usize) {
        let chunk_rows = chunk_rows(rows);
        let chunks = rows.div_ceil(chunk_rows);
        let scratch = self.context.scratch_on(lane, 4 * chunks * cols);
        let partial = scratch.at(0);
        let width = if cols.is_multiple_of(16 / size_of::<E>()) { 16 / size_of::<E>() } else { 1 };
        let kernel = if width == 1 { "column_sums_scalar" } else { "column_sums" };
        let shape = Shape::new(cols.div_ceil(32 * width), 256).by(chunks, 1);
        self.launch_on(lane, kernel, shape, arguments![partial, x, rows, cols, chunk_rows]);
        self.sum_partials(lane, &[out], partial, chunks, cols);
    }

    /// Adds the sum of `count` rows of f32 at `partial` to one, two or three outputs (cols), which follow each other in a row.
    pub(crate) fn sum_partials(&self, lane: Lane, outputs: &[u64], partial: u64, count: usize, cols: usize) {
        let shape = Shape::new(cols.div_ceil(32), 512).by(outputs.len(), 1);
        let output = |i: usize| outputs.get(i).copied().unwrap_or(0);
        let stride = outputs.len() * cols;
        let arguments = arguments![output(0), output(1), output(2), partial, count, stride, cols];
        self.launch_on(lane, "sum_partials", shape, arguments);
    }
}

/// dx = dout W^T.
fn input_product<E: CudaElement>(
    dx: &CudaBuf<E>,
    dout: &CudaBuf<E>,
    weights: &CudaWeights<E>,
    dims: LinearDims,
) -> (Product, Operands) {
    let LinearDims { rows, inputs, outputs } = dims;
    let transpose_a = weights.storage == Storage::InputsOutputs;
    let product = Product { transpose_a, ..Product::new(Cuda::<E>::KIND, inputs, rows, outputs) };
    let (d, a, b) = (dx.pointer(), weights.copy.pointer(), dout.pointer());
    (product, Operands { d, c: 0, a, b, bias: 0, aux: 0 })
}

/// A gradient of weights (m, n), column-major: a (m, rows) times the transpose of b (n, rows), added to what is there.
pub(crate) fn weights_product<E: CudaElement>(m: usize, n: usize, rows: usize) -> Product {
    Product {
        transpose_b: true,
        output: Kind::F32,
        accumulate: true,
        ..Product::new(Cuda::<E>::KIND, m, n, rows)
    }
}

/// One thread for each 16 bytes of `len` elements.
pub(crate) fn vectors<E>(len: usize) -> Shape {
    Shape::each(len.div_ceil(16 / size_of::<E>()))
}

/// Rows that one block sums up: by shape alone, so that sums have the same bits on every card; 128 chunks at most, which
/// with a few blocks across the columns fill any card.
fn chunk_rows(rows: usize) -> usize {
    rows.div_ceil(128).max(32)
}

impl<E: CudaElement> Linear for Cuda<E> {
    type Weights = CudaWeights<E>;
    const KEEPS_GELU: bool = true;

    fn weights(&self, inputs: usize, outputs: usize, storage: Storage, purpose: Use) -> CudaWeights<E> {
        assert!(!matches!(purpose, Use::Quantized(_)), "weights of small integers are for the CPU");
        CudaWeights {
            copy: self.zeros(inputs * outputs),
            inputs,
            outputs,
            storage,
            bias: self.zeros(if E::IS_F32 { 0 } else { outputs }),
            bias_master: AtomicU64::new(0),
        }
    }

    fn weights_bytes(&self, inputs: usize, outputs: usize, _: Use) -> usize {
        size_of::<E>() * (inputs + 1) * outputs
    }

    fn linear_scratch_bytes(&self, dims: LinearDims) -> usize {
        let of_columns = dims.rows.div_ceil(chunk_rows(dims.rows)) * dims.outputs;
        4 * of_columns.max(dims.rows.div_ceil(TILE.0) * dims.inputs)
    }

    fn linear_forward_scratch_bytes(&self, _: LinearDims, _: Use) -> usize {
        0
    }

    fn pack(&self, copies: &mut [(&mut CudaWeights<E>, &CudaBuf<f32>)], rounding: Rounding) {
        let mut tensors = Vec::with_capacity(2 * copies.len());
        for (tensor, (weights, master)) in copies.iter_mut().enumerate() {
            assert_eq!(master.len(), weights.inputs * weights.outputs, "a master of the copy's shape");
            let (copy, master, len) = (weights.copy.pointer(), master.pointer(), master.len());
            tensors.push(ComputeCopy { copy, master, len, key: rounding.key_of(tensor) });
            let bias = *weights.bias_master.get_mut();
            if bias != 0 && !E::IS_F32 {
                let (copy, len) = (weights.bias.pointer(), weights.outputs);
                tensors.push(ComputeCopy { copy, master: bias, len, key: None });
            }
        }
        self.pack_table(&tensors);
    }

    fn linear_forward(
        &self,
        out: &mut CudaBuf<E>,
        x: &CudaBuf<E>,
        weights: &CudaWeights<E>,
        bias: &CudaBuf<f32>,
        dims: LinearDims,
    ) {
        check(weights, dims, x, out);
        match self.takes_row(out, x, weights, bias, dims) {
            true => self.row_forward([out.pointer(), 0, 0, x.pointer()], weights, bias, dims),
            false => self.biased_product(out, x, weights, bias, dims),
        }
    }

    fn linear_gelu_forward(
        &self,
        kept: &mut CudaBuf<E>,
        out: &mut CudaBuf<E>,
        x: &CudaBuf<E>,
        weights: &CudaWeights<E>,
        bias: &CudaBuf<f32>,
        dims: LinearDims,
    ) {
        check(weights, dims, x, out);
        assert!(kept.len() >= dims.rows * dims.outputs, "a buffer smaller than {dims:?}");
        if self.takes_row(out, x, weights, bias, dims) {
            return self.row_forward([out.pointer(), kept.pointer(), 0, x.pointer()], weights, bias, dims);
        }
        if self.is_for_hopper(weights, dims) {
            let addresses = [out.pointer(), kept.pointer(), x.pointer()];
            return self.gelu_forward_on_hopper(addresses, weights, bias, dims);
        }
        let (a, b, of_bias) = (weights.copy.pointer(), x.pointer(), self.bias(weights, bias));
        let operands = Operands { d: out.pointer(), c: 0, a, b, bias: of_bias, aux: kept.pointer() };
        // The library's GELU of f32 is not held to f32's precision.
        if E::IS_F32 || !self.try_product(forward(weights, dims, Epilogue::BiasGelu, false), operands) {
            let operands = Operands { d: kept.pointer(), ..operands };
            self.product(forward(weights, dims, Epilogue::None, false), operands);
            let len = dims.rows * dims.outputs;
            self.launch("add_bias_gelu", Shape::each(len), arguments![out, kept, bias, len, dims.outputs]);
        }
    }

    fn linear_residual_forward(
        &self,
        out: &mut CudaBuf<E>,
        residual: &CudaBuf<E>,
        x: &CudaBuf<E>,
        weights: &CudaWeights<E>,
        bias: &CudaBuf<f32>,
        dropout: Dropout,
        dims: LinearDims,
    ) {
        check(weights, dims, x, out);
        assert!(residual.len() >= dims.rows * dims.outputs, "a buffer smaller than {dims:?}");
        if !dropout.is_active() && self.takes_row(out, x, weights, bias, dims) {
            let addresses = [out.pointer(), 0, residual.pointer(), x.pointer()];
            return self.row_forward(addresses, weights, bias, dims);
        }
        let (a, b, of_bias) = (weights.copy.pointer(), x.pointer(), self.bias(weights, bias));
        let operands = Operands { d: out.pointer(), c: residual.pointer(), a, b, bias: of_bias, aux: 0 };
        let out = &*out;
        let of_library = || {
            // Without dropout the residual is what the product is added to.
            if !dropout.is_active()
                && self.try_product(forward(weights, dims, Epilogue::Bias, true), operands)
            {
                return;
            }
            self.biased_product(out, x, weights, bias, dims);
            let len = dims.rows * dims.outputs;
            let [key, threshold, scale] = self.dropout_arguments(dropout);
            let shape = vectors::<E>(len);
            self.launch("residual_dropout", shape, arguments![out, residual, len, key, threshold, scale]);
        };
        let addresses = [out, residual, x].map(CudaBuf::pointer);
        let of_hopper = || self.residual_forward_on_hopper(addresses, weights, bias, dropout, dims);
        let what = if dropout.is_active() { "residual and dropout" } else { "residual" };
        let place = (what, dims.rows, dims.inputs, dims.outputs);
        match self.is_for_hopper(weights, dims) && self.is_faster(place, &of_hopper, &of_library) {
            true => of_hopper(),
            false => of_library(),
        }
    }

    fn linear_backward(
        &self,
        dx: &mut CudaBuf<E>,
        dweights: &mut CudaBuf<f32>,
        dbias: Option<&mut CudaBuf<f32>>,
        dout: &CudaBuf<E>,
        x: &CudaBuf<E>,
        weights: &CudaWeights<E>,
        dims: LinearDims,
    ) {
        check(weights, dims, x, dout);
        self.context.join_for(&[dx.pointer()]);
        self.parameters_backward(dweights, dbias, dout, x, weights.storage, dims);
        let (product, operands) = input_product(dx, dout, weights, dims);
        self.product_on(Lane::First, product, operands);
    }

    fn linear_gelu_backward(
        &self,
        dpre: &mut CudaBuf<E>,
        dbias_of_pre: &mut CudaBuf<f32>,
        dweights: &mut CudaBuf<f32>,
        dbias: Option<&mut CudaBuf<f32>>,
        dout: &CudaBuf<E>,
        kept: &CudaBuf<E>,
        x: &CudaBuf<E>,
        weights: &CudaWeights<E>,
        dims: LinearDims,
    ) -> bool {
        check(weights, dims, x, dout);
        let LinearDims { rows, inputs, outputs } = dims;
        assert!(dpre.len().min(kept.len()) >= rows * inputs, "buffers smaller than {dims:?}");
        self.context.join_for(&[dpre.pointer(), dbias_of_pre.pointer()]);
        if self.is_for_hopper(weights, dims) {
            self.parameters_backward(dweights, dbias, dout, x, weights.storage, dims);
            let addresses = [dpre, dout, kept].map(CudaBuf::pointer);
            self.gelu_backward_on_hopper(addresses, dbias_of_pre.pointer(), weights, dims);
            return true;
        }
        let (product, operands) = input_product(dpre, dout, weights, dims);
        let dpre = &*dpre;
        let separate = || {
            self.product_on(Lane::First, product, operands);
            let len = rows * inputs;
            self.launch_on(Lane::First, "gelu_backward", vectors::<E>(len), arguments![dpre, kept, len]);
            true
        };
        let fused = || {
            let product = Product { epilogue: Epilogue::GeluBackward, ..product };
            !E::IS_F32
                && self.try_product_on(Lane::First, product, Operands { aux: kept.pointer(), ..operands })
        };
        let is_fused = !E::IS_F32
            && self.fastest_form(("gelu backward", rows, inputs, outputs), &[&separate, &fused]) == 1;
        self.parameters_backward(dweights, dbias, dout, x, weights.storage, dims);
        if !(is_fused && fused()) {
            separate();
        }
        false
    }

    fn dropout_backward(&self, out: &mut CudaBuf<E>, dout: &CudaBuf<E>, dropout: Dropout, dims: LinearDims) {
        let len = dims.rows * dims.outputs;
        let [key, threshold, scale] = self.dropout_arguments(dropout);
        self.launch("dropout_backward", vectors::<E>(len), arguments![out, dout, len, key, threshold, scale]);
    }
}

/// Asserts that buffers hold what the shapes say: `x` (rows, C) and `out` (rows, OC).
fn check<E: CudaElement>(weights: &CudaWeights<E>, dims: LinearDims, x: &CudaBuf<E>, out: &CudaBuf<E>) {
    let LinearDims { rows, inputs, outputs } = dims;
    assert_eq!((weights.inputs, weights.outputs), (inputs, outputs), "weights of the layer's shape");
    assert!(x.len() >= rows * inputs && out.len() >= rows * outputs, "buffers smaller than {dims:?}");
}
