//! LayerNorm on a GPU: launches.

use super::{LayerNorm, LayerNormDims};
use crate::Cuda;
use crate::cuda::{CudaBuf, CudaElement, Lane, Shape, Source, arguments};

pub(crate) const SOURCE: Source = Source {
    name: "layernorm",
    files: &[include_str!("../cuda/early.cuh"), include_str!("cuda.cu")],
    kernels: &[
        "layernorm_forward",
        "layernorm_forward_row",
        "layernorm_backward_any",
        "layernorm_parameters",
        BACKWARD[0],
        BACKWARD[1],
        BACKWARD[2],
        BACKWARD[3],
        BACKWARD[4],
        BACKWARD[5],
        BACKWARD[6],
        BACKWARD[7],
    ],
};

/// Kernels of the backward pass for rows of one to eight warps.
const BACKWARD: [&str; 8] = [
    "layernorm_backward_1",
    "layernorm_backward_2",
    "layernorm_backward_3",
    "layernorm_backward_4",
    "layernorm_backward_5",
    "layernorm_backward_6",
    "layernorm_backward_7",
    "layernorm_backward_8",
];

/// Rows that a block each makes in the forward pass, as generation has them.
const FEW_ROWS: usize = 4;
/// Warps of a block, where each has a row.
const WARPS: usize = 8;
/// Rows that a group of warps has at once, backward.
const BACKWARD_ROWS: usize = 2;
/// Blocks at most of the backward pass: two for each processor of an H100 or H200. Fixed, because they decide the order
/// of sums.
const MAX_BLOCKS: usize = 264;

/// The warps that share a row in the backward pass, if there are kernels for that, and the groups of so many warps in a block.
fn warps_of_row<E>(channels: usize) -> Option<(usize, usize)> {
    let width = 16 / size_of::<E>();
    let count = channels.div_ceil(32 * width);
    let is_known = channels.is_multiple_of(width) && count <= BACKWARD.len();
    is_known.then_some((count, if count == 1 { 8 } else { 12 / count }))
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
        let arguments = arguments![out, mean, rstd, x, weight, bias, rows, channels, epsilon];
        let width = 16 / size_of::<E>();
        if rows <= FEW_ROWS && channels.is_multiple_of(width) && channels <= 1024 * width {
            let shape = Shape::new(rows, (channels / width).next_multiple_of(32));
            return self.launch_early("layernorm_forward_row", shape, arguments);
        }
        let shape = Shape::new(rows.div_ceil(WARPS), 32 * WARPS);
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
        let of_row = warps_of_row::<E>(channels);
        let chunk_rows = rows.div_ceil(128).max(32);
        let num_partials = match of_row {
            Some((_, groups)) => rows.div_ceil(groups * BACKWARD_ROWS).min(MAX_BLOCKS),
            None => rows.div_ceil(chunk_rows),
        };
        let has_sums = of_row.is_some() && sums != 0;
        let num_outputs = if has_sums { 3 } else { 2 };
        let scratch = self.context.scratch(4 * num_outputs * num_partials * channels);
        let partial = scratch.at(0);
        if let Some((count, groups)) = of_row {
            let shape = Shape::new(num_partials, 32 * count * groups).shared(4 * groups * channels);
            let arguments = arguments![dx, partial, dout, mean, rstd, x, weight, rows, channels, num_outputs];
            self.launch_on(Lane::First, BACKWARD[count - 1], shape, arguments);
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
