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
const THREADS: usize = 512;
pub(super) const TILE: (usize, usize) = (128, 192);
const CLUSTER: usize = 2;
/// Four stages of both operands, two staging tiles, eight rows of sums, twelve barriers.
const SHARED_BYTES: usize = 4 * (TILE.0 + TILE.1) * 128 + 2 * TILE.0 * TILE.1 + 8 * 4 * TILE.1 + 12 * 8;
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
        let right = Boxes { pointer: weights.matrix(), rows: inputs, cols: outputs, box_rows: 32 };
        let left = Boxes { pointer: x, rows, cols: inputs, box_rows: TILE.0 };
        let Some(operands) = Self::encode(left, right) else { return false };
        self.context.join();
        let arguments = arguments![out, pre, bias, rows, outputs, inputs];
        self.launch_product("gelu_forward_hopper", operands, rows, outputs, arguments);
        true
    }

    /// dpre = dout W^T gelu'(pre), in one kernel, after what was queued in the first lane, where
    /// [`is_for_hopper`](Self::is_for_hopper); false, with nothing done, where the driver is too old. Adds the sums over the
    /// rows of dpre to the f32 at `sums`.
    pub(super) fn gelu_backward_on_hopper(
        &self,
        [dpre, dout, pre]: [u64; 3],
        sums: u64,
        weights: &CudaWeights<E>,
        dims: LinearDims,
    ) -> bool {
        let LinearDims { rows, inputs, outputs } = dims;
        let right = Boxes { pointer: weights.matrix(), rows: inputs, cols: outputs, box_rows: TILE.1 / 2 };
        let left = Boxes { pointer: dout, rows, cols: outputs, box_rows: TILE.0 };
        let Some(operands) = Self::encode(left, right) else { return false };
        let num_partials = rows.div_ceil(TILE.0);
        let scratch = self.context.scratch(4 * num_partials * inputs);
        let partials = scratch.at(0);
        let arguments = arguments![dpre, pre, partials, rows, inputs, outputs];
        self.launch_product("gelu_backward_hopper", operands, rows, inputs, arguments);
        self.sum_partials(Lane::First, &[sums], partials, num_partials, inputs);
        true
    }

    /// Whether a layer's products are such that these kernels can make them.
    pub(super) fn is_for_hopper(&self, weights: &CudaWeights<E>, dims: LinearDims) -> bool {
        !E::IS_F32
            && self.context.capability == (9, 0)
            && self.context.num_processors >= CLUSTER
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::linear::{Linear, Use, gelu_reference};
    use crate::testing::*;
    use crate::{Device, Rng, Rounding};

    /// Whole tiles, and tiles cut off below, to the right and in depth; more tiles than clusters.
    const SHAPES: [(usize, usize, usize); 4] =
        [(1024, 256, 512), (1030, 72, 264), (1160, 200, 40), (16_500, 128, 776)];

    fn check<E: CudaElement>(device: &Cuda<E>, dims: LinearDims) {
        let LinearDims { rows, inputs, outputs } = dims;
        let (num_in, num_out) = (rows * inputs, rows * outputs);
        let mut rng = Rng::new((rows + inputs + outputs) as u64);
        let mut weights = device.weights(inputs, outputs, Storage::InputsOutputs, Use::Training);
        let master = upload(device, &random::<E>(&mut rng, inputs * outputs));
        device.pack(&mut [(&mut weights, &master)], Rounding::Nearest);
        if !device.is_for_hopper(&weights, dims) {
            return;
        }
        let [x, pre_of_x] = [(); 2].map(|()| random::<E>(&mut rng, num_in));
        let [x_d, pre_of_x_d] = [&x, &pre_of_x].map(|x| upload_act(device, x));
        let dout = upload_act(device, &random::<E>(&mut rng, num_out));
        let bias = upload(device, &random::<f32>(&mut rng, outputs));
        let same = |name: &str, got: &[f32], want: &[f32]| {
            let error = relative_error(got, want);
            assert!(error < 2.0 * forward_tolerance::<Cuda<E>>(), "{name} {dims:?}: {error:e}");
        };

        let [out, pre] = [(); 2].map(|()| device.zeros::<E>(num_out));
        let mut want = device.zeros::<E>(num_out);
        let addresses = [out.pointer(), pre.pointer(), x_d.pointer()];
        assert!(device.gelu_forward_on_hopper(addresses, &weights, &bias, dims), "it is for Hopper");
        device.linear_forward(&mut want, &x_d, &weights, &bias, dims);
        let pre = download_act(device, &pre, num_out);
        same("pre", &pre, &download_act(device, &want, num_out));
        let activated: Vec<f32> = pre.iter().map(|&x| gelu_reference(f64::from(x)) as f32).collect();
        same("gelu", &download_act(device, &out, num_out), &activated);

        let (dpre, sums) = (device.zeros::<E>(num_in), device.zeros::<f32>(inputs));
        let addresses = [dpre.pointer(), dout.pointer(), pre_of_x_d.pointer()];
        for _ in 0..2 {
            let is_run = device.gelu_backward_on_hopper(addresses, sums.pointer(), &weights, dims);
            assert!(is_run, "it is for Hopper");
        }
        let mut want = device.zeros::<E>(num_in);
        let (mut dweights, mut dbias) = (device.zeros(inputs * outputs), device.zeros(outputs));
        device.linear_backward(&mut want, &mut dweights, Some(&mut dbias), &dout, &x_d, &weights, dims);
        let slopes =
            moving(&pre_of_x, &vec![1.0; num_in]).into_iter().map(|x| slope(&[1.0], &[gelu_reference(x)]));
        let want: Vec<f32> = download_act(device, &want, num_in)
            .into_iter()
            .zip(slopes)
            .map(|(x, slope)| x * slope as f32)
            .collect();
        let dpre = download_act(device, &dpre, num_in);
        same("dpre", &dpre, &want);
        let column = |i: usize| dpre.iter().skip(i).step_by(inputs).map(|&x| f64::from(x)).sum::<f64>();
        // Added to what was there.
        let want: Vec<f32> = (0..inputs).map(|i| 2.0 * column(i) as f32).collect();
        let error = relative_error(&download(device, &sums, inputs), &want);
        assert!(error < 1e-5, "sums over the rows of dpre {dims:?}: {error:e}");
    }

    #[test]
    fn equal_one_step_after_another() {
        on_cuda!(|device| {
            for (rows, inputs, outputs) in SHAPES {
                check(device, LinearDims { rows, inputs, outputs });
            }
        });
    }
}
