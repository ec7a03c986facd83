//! Products with GELU on their way out, on Hopper: launches of `cuda_hopper.cuh`.

use super::cuda::CudaWeights;
use super::{LinearDims, Storage};
use crate::Cuda;
use crate::cuda::{Boxes, CudaBuf, CudaElement, Lane, Shape, Source, TensorMap, arguments};

pub(crate) const SOURCE: Source = Source {
    name: "linear_hopper",
    files: &[
        include_str!("../cuda/hopper.cuh"),
        include_str!("cuda_gelu.cuh"),
        include_str!("cuda_hopper.cuh"),
    ],
    kernels: &["gelu_forward_hopper", "gelu_backward_hopper"],
};

/// The kernels' threads, the rows and columns of their tiles, and the blocks that work together.
const THREADS: usize = 384;
const TILE: (usize, usize) = (128, 256);
const CLUSTER: usize = 2;
/// Three stages of both operands, two staging tiles, sums of three warps, ten barriers.
const SHARED_BYTES: usize = 3 * (TILE.0 + TILE.1) * 128 + TILE.0 * TILE.1 * 2 + 3 * TILE.1 * 4 + 10 * 8;
/// Fewer rows are not worth timing another kernel for: prompts have many lengths.
const MIN_ROWS: usize = 1024;

impl<E: CudaElement> Cuda<E> {
    /// pre = x W + bias and out = gelu(pre), in one kernel, where [`is_for_hopper`](Self::is_for_hopper); false, with nothing done,
    /// where the driver is too old.
    pub(super) fn gelu_forward_on_hopper(
        &self,
        [out, pre, x]: [u64; 3],
        weights: &CudaWeights<E>,
        bias: &CudaBuf<f32>,
        dims: LinearDims,
    ) -> bool {
        let LinearDims { rows, inputs, outputs } = dims;
        let right = Boxes { pointer: weights.matrix(), rows: inputs, cols: outputs, box_rows: 64 };
        let left = Boxes { pointer: x, rows, cols: inputs, box_rows: TILE.0 };
        let Some(operands) = Self::encode(left, right) else { return false };
        self.context.join();
        let arguments = arguments![out, pre, bias, rows, outputs, inputs];
        self.launch_product("gelu_forward_hopper", operands, rows, outputs, arguments);
        true
    }

    /// dpre = dout W^T gelu'(pre), in one kernel, after what was queued in the first lane, where
    /// [`is_for_hopper`](Self::is_for_hopper); false, with nothing done, where the driver is too old. `partial`, unless it is 0, gets sums over the rows of dpre: see
    /// [`hopper_partials`](Self::hopper_partials).
    pub(super) fn gelu_backward_on_hopper(
        &self,
        [dpre, dout, pre, partial]: [u64; 4],
        weights: &CudaWeights<E>,
        dims: LinearDims,
    ) -> bool {
        let LinearDims { rows, inputs, outputs } = dims;
        let right = Boxes { pointer: weights.matrix(), rows: inputs, cols: outputs, box_rows: 128 };
        let left = Boxes { pointer: dout, rows, cols: outputs, box_rows: TILE.0 };
        let Some(operands) = Self::encode(left, right) else { return false };
        let arguments = arguments![dpre, pre, partial, rows, inputs, outputs];
        self.launch_product("gelu_backward_hopper", operands, rows, inputs, arguments);
        true
    }

    /// How many rows of partial sums there are for `rows` rows.
    pub(super) fn hopper_partials(rows: usize) -> usize {
        rows.div_ceil(TILE.0)
    }

    /// Whether a layer's products are such that these kernels can make them.
    pub(super) fn is_for_hopper(&self, weights: &CudaWeights<E>, dims: LinearDims) -> bool {
        !E::IS_F32
            && self.context.capability == (9, 0)
            && SHARED_BYTES <= self.context.max_shared_bytes()
            && weights.storage() == Storage::InputsOutputs
            && dims.rows >= MIN_ROWS
            && Boxes::are_aligned(dims.inputs)
            && Boxes::are_aligned(dims.outputs)
    }

    fn encode(left: Boxes, right: Boxes) -> Option<[TensorMap; 2]> {
        Some([left.encode(Self::KIND)?, right.encode(Self::KIND)?])
    }

    fn launch_product(
        &self,
        kernel: &str,
        operands: [TensorMap; 2],
        rows: usize,
        cols: usize,
        arguments: &[u64],
    ) {
        let clusters = rows.div_ceil(CLUSTER * TILE.0) * cols.div_ceil(TILE.1);
        let blocks = CLUSTER * clusters.min(self.context.num_processors / CLUSTER);
        let shape = Shape::new(blocks, THREADS).shared(SHARED_BYTES);
        let function = self.context.function(kernel);
        self.context.start_with(Lane::First, function, kernel, shape, operands.as_flattened(), arguments);
    }
}
