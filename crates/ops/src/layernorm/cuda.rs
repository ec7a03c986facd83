//! LayerNorm on a GPU: launches.

use super::{LayerNorm, LayerNormDims};
use crate::Cuda;
use crate::cuda::{CudaBuf, CudaElement, Lane, Shape, Source, arguments};

pub(crate) const SOURCE: Source = Source {
    name: "layernorm",
    files: &[include_str!("cuda.cu")],
    kernels: &[
        "layernorm_forward",
        "layernorm_backward_any",
        "layernorm_parameters",
        "layernorm_backward_1",
        "layernorm_backward_2",
        "layernorm_backward_3",
        "layernorm_backward_4",
        "layernorm_backward_sums_1",
        "layernorm_backward_sums_2",
        "layernorm_backward_sums_3",
    ],
};

/// Warps of a block, a row each.
const WARPS: usize = 8;
/// Blocks of the backward pass at most: two for each processor of the largest cards. Fixed, because they decide the order
/// of sums.
const MAX_BLOCKS: usize = 264;

/// The kernel of the backward pass for rows of at most `count` vectors a lane.
fn kernel(count: usize, has_sums: bool) -> &'static str {
    match (count, has_sums) {
        (1, false) => "layernorm_backward_1",
        (2, false) => "layernorm_backward_2",
        (3, false) => "layernorm_backward_3",
        (_, false) => "layernorm_backward_4",
        (1, true) => "layernorm_backward_sums_1",
        (2, true) => "layernorm_backward_sums_2",
        (_, true) => "layernorm_backward_sums_3",
    }
}

impl<E: CudaElement> LayerNorm for Cuda<E> {
    fn layernorm_forward(
        &self,
        out: &mut CudaBuf<E>,
        mean: &mut CudaBuf<f32>,
        rstd: &mut CudaBuf<f32>,
        x: &CudaBuf<E>,
        weight: &CudaBuf<f32>,
        bias: &CudaBuf<f32>,
        dims: LayerNormDims,
    ) {
        let LayerNormDims { rows, channels, epsilon } = dims;
        let shape = Shape::new(rows.div_ceil(WARPS), 32 * WARPS);
        let arguments = arguments![out, mean, rstd, x, weight, bias, rows, channels, epsilon];
        self.launch("layernorm_forward", shape, arguments);
    }

    fn layernorm_backward(
        &self,
        dx: &mut CudaBuf<E>,
        dx_sums: Option<&mut CudaBuf<f32>>,
        dweight: &mut CudaBuf<f32>,
        dbias: &mut CudaBuf<f32>,
        dout: &CudaBuf<E>,
        mean: &CudaBuf<f32>,
        rstd: &CudaBuf<f32>,
        x: &CudaBuf<E>,
        weight: &CudaBuf<f32>,
        dims: LayerNormDims,
    ) -> bool {
        let LayerNormDims { rows, channels, .. } = dims;
        let sums = dx_sums.map_or(0, |sums| sums.pointer());
        self.context.join_for(&[dx.pointer(), sums, dweight.pointer(), dbias.pointer()]);
        let width = 16 / size_of::<E>();
        let count = channels.div_ceil(32 * width);
        let is_fused = channels.is_multiple_of(width) && count <= 4;
        let chunk_rows = rows.div_ceil(128).max(32);
        let num_partials = match is_fused {
            true => rows.div_ceil(WARPS).min(MAX_BLOCKS),
            false => rows.div_ceil(chunk_rows),
        };
        // Four vectors a lane leave no registers for them.
        let has_sums = is_fused && count <= 3 && sums != 0;
        let num_outputs = if has_sums { 3 } else { 2 };
        let scratch = self.context.scratch(4 * num_outputs * num_partials * channels);
        let partial = scratch.at(0);
        if is_fused {
            let shape = Shape::new(num_partials, 32 * WARPS).shared(4 * WARPS * channels);
            let arguments = arguments![dx, partial, dout, mean, rstd, x, weight, rows, channels];
            self.launch_on(Lane::First, kernel(count, has_sums), shape, arguments);
        } else {
            let shape = Shape::each(channels).by(num_partials, 1);
            let arguments = arguments![partial, dout, mean, rstd, x, rows, channels, chunk_rows];
            self.launch_on(Lane::First, "layernorm_parameters", shape, arguments);
            let shape = Shape::new(rows.div_ceil(WARPS), 32 * WARPS);
            let arguments = arguments![dx, dout, mean, rstd, x, weight, rows, channels];
            self.launch_on(Lane::First, "layernorm_backward_any", shape, arguments);
        }
        let outputs = [dweight.pointer(), dbias.pointer(), sums];
        let outputs = &outputs[..num_outputs];
        self.sum_partials(Lane::First, outputs, partial, num_partials, channels);
        has_sums
    }
}
