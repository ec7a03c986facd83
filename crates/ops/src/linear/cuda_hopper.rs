//! Products with GELU or a residual on their way out, on Hopper: launches of `cuda_hopper.cuh`.

use super::cuda::CudaWeights;
use super::{LinearDims, Storage};
use crate::cuda::{Boxes, CudaBuf, CudaElement, Lane, Shape, Source, TensorMap, arguments};
use crate::{Cuda, Dropout};

pub(crate) const SOURCE: Source = Source {
    name: "linear_hopper",
    files: &[
        include_str!("../cuda/hopper.cuh"),
        include_str!("cuda_gelu.cuh"),
        include_str!("cuda_hopper.cuh"),
    ],
    kernels: &["gelu_forward_hopper", "gelu_backward_hopper", "residual_forward_hopper"],
};

/// The kernels' threads, the rows and columns of their tiles, and the blocks that work together.
const THREADS: usize = 512;
pub(super) const TILE: (usize, usize) = (128, 192);
const CLUSTER: usize = 2;
/// Four stages of both operands, two staging tiles, eight rows of sums, twelve barriers.
const SHARED_BYTES: usize = 4 * (TILE.0 + TILE.1) * 128 + 2 * TILE.0 * TILE.1 + 8 * 4 * TILE.1 + 12 * 8;
/// Fewer rows fill no card with tiles, and are not worth timing another kernel for: prompts have many lengths.
const MIN_ROWS: usize = 1024;

impl<E: CudaElement> Cuda<E> {
    /// out = gelu(x W + bias) and `slopes` what the backward pass wants to know of GELU there, in one kernel, where
    /// [`is_for_hopper`](Self::is_for_hopper).
    pub(super) fn gelu_forward_on_hopper(
        &self,
        [out, slopes, x]: [u64; 3],
        weights: &CudaWeights<E>,
        bias: &CudaBuf<f32>,
        dims: LinearDims,
    ) {
        let LinearDims { rows, inputs, outputs } = dims;
        let operands = forward_operands(weights, x, dims);
        self.context.join();
        let arguments = arguments![out, slopes, bias, rows, outputs, inputs];
        self.launch_product("gelu_forward_hopper", operands, rows, outputs, arguments);
    }

    /// out = residual + dropout(x W + bias), in one kernel, where [`is_for_hopper`](Self::is_for_hopper).
    pub(super) fn residual_forward_on_hopper(
        &self,
        [out, residual, x]: [u64; 3],
        weights: &CudaWeights<E>,
        bias: &CudaBuf<f32>,
        dropout: Dropout,
        dims: LinearDims,
    ) {
        let LinearDims { rows, inputs, outputs } = dims;
        let operands = forward_operands(weights, x, dims);
        self.context.join();
        let [key, threshold, scale] = self.dropout_arguments(dropout);
        let arguments = arguments![out, residual, bias, rows, outputs, inputs, key, threshold, scale];
        self.launch_product("residual_forward_hopper", operands, rows, outputs, arguments);
    }

    /// dpre = dout W^T gelu'(pre), in one kernel, after what was queued in the first lane, where
    /// [`is_for_hopper`](Self::is_for_hopper); `slopes` are of the forward pass. Adds the sums over the rows of dpre to the f32 at
    /// `sums`.
    pub(super) fn gelu_backward_on_hopper(
        &self,
        [dpre, dout, slopes]: [u64; 3],
        sums: u64,
        weights: &CudaWeights<E>,
        dims: LinearDims,
    ) {
        let LinearDims { rows, inputs, outputs } = dims;
        let right = Boxes { pointer: weights.matrix(), rows: inputs, cols: outputs, box_rows: TILE.1 / 2 };
        let left = Boxes { pointer: dout, rows, cols: outputs, box_rows: TILE.0 };
        let operands = [left, right].map(|boxes| boxes.encode(Self::KIND));
        let num_partials = rows.div_ceil(TILE.0);
        let scratch = self.context.scratch(4 * num_partials * inputs);
        let partials = scratch.at(0);
        let arguments = arguments![dpre, slopes, partials, rows, inputs, outputs];
        self.launch_product("gelu_backward_hopper", operands, rows, inputs, arguments);
        self.sum_partials(Lane::First, &[sums], partials, num_partials, inputs);
    }

    /// Whether a layer's products are such that these kernels make them. The layers before and after a GELU, whose inner width and
    /// rows are the same, must agree, so what is asked of inputs is asked of outputs too.
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

/// What x W is read as.
fn forward_operands<E: CudaElement>(weights: &CudaWeights<E>, x: u64, dims: LinearDims) -> [TensorMap; 2] {
    let LinearDims { rows, inputs, outputs } = dims;
    let right = Boxes { pointer: weights.matrix(), rows: inputs, cols: outputs, box_rows: 32 };
    let left = Boxes { pointer: x, rows, cols: inputs, box_rows: TILE.0 };
    [left, right].map(|boxes| boxes.encode(Cuda::<E>::KIND))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::linear::{Linear, Use, gelu_reference};
    use crate::testing::*;
    use crate::{Changing, Device, Rng, Rounding};
    use half::f16;

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
        let x = random::<E>(&mut rng, num_in);
        let (x_d, dout) = (upload_act(device, &x), upload_act(device, &random::<E>(&mut rng, num_out)));
        let bias = upload(device, &random::<f32>(&mut rng, outputs));
        let same = |name: &str, got: &[f32], want: &[f32]| {
            let error = relative_error(got, want);
            assert!(error < 2.0 * forward_tolerance::<Cuda<E>>(), "{name} {dims:?}: {error:e}");
        };

        let [out, slopes] = [(); 2].map(|()| device.zeros::<E>(num_out));
        let mut want = device.zeros::<E>(num_out);
        let addresses = [out.pointer(), slopes.pointer(), x_d.pointer()];
        device.gelu_forward_on_hopper(addresses, &weights, &bias, dims);
        device.linear_forward(&mut want, &x_d, &weights, &bias, dims);
        let pre = download_act(device, &want, num_out);
        let activated: Vec<f32> = pre.iter().map(|&x| gelu_reference(f64::from(x)) as f32).collect();
        same("gelu", &download_act(device, &out, num_out), &activated);
        let mut bits = vec![E::from_f32(0.0); num_out];
        device.read(&mut bits, &slopes);
        let got = bytemuck::cast_slice::<E, u16>(&bits).iter().map(|&bits| f16::from_bits(bits).to_f32());
        same("GELU's slopes", &got.collect::<Vec<_>>(), &slopes_at(&pre));

        let residual = random::<E>(&mut rng, num_out);
        let residual_d = upload_act(device, &residual);
        for dropout in [Dropout::NONE, Dropout::new(0.4, 3, 1)] {
            let addresses = [out.pointer(), residual_d.pointer(), x_d.pointer()];
            device.residual_forward_on_hopper(addresses, &weights, &bias, dropout, dims);
            let factor = |i: usize| if dropout.is_active() { dropout.factor(i as u32) } else { 1.0 };
            let want: Vec<f32> = (0..num_out).map(|i| residual[i] + factor(i) * pre[i]).collect();
            same("residual", &download_act(device, &out, num_out), &want);
        }

        // These are no matter of shape.
        if (rows, inputs, outputs) == SHAPES[1] {
            check_recorded(device, &weights, [&x_d, &residual_d], &bias, (&residual, &pre), dims);
            check_round_trip(device, &weights, &x_d, &bias, &pre, dims);
        }

        let pre_of_x = random::<E>(&mut rng, num_in);
        let slopes = slopes_at(&pre_of_x);
        let bits: Vec<u16> = slopes.iter().map(|&slope| f16::from_f32(slope).to_bits()).collect();
        let mut slopes_d = device.zeros::<E>(num_in);
        device.write(&mut slopes_d, bytemuck::cast_slice::<u16, E>(&bits));
        let (dpre, sums) = (device.zeros::<E>(num_in), device.zeros::<f32>(inputs));
        let addresses = [dpre.pointer(), dout.pointer(), slopes_d.pointer()];
        for _ in 0..2 {
            device.gelu_backward_on_hopper(addresses, sums.pointer(), &weights, dims);
        }
        let mut want = device.zeros::<E>(num_in);
        let (mut dweights, mut dbias) = (device.zeros(inputs * outputs), device.zeros(outputs));
        device.linear_backward(&mut want, &mut dweights, Some(&mut dbias), &dout, &x_d, &weights, dims);
        let want: Vec<f32> =
            download_act(device, &want, num_in).iter().zip(slopes).map(|(x, s)| x * s).collect();
        let dpre = download_act(device, &dpre, num_in);
        same("dpre", &dpre, &want);
        let column = |i: usize| dpre.iter().skip(i).step_by(inputs).map(|&x| f64::from(x)).sum::<f64>();
        // Added to what was there.
        let want: Vec<f32> = (0..inputs).map(|i| 2.0 * column(i) as f32).collect();
        let error = relative_error(&download(device, &sums, inputs), &want);
        assert!(error < 1e-5, "sums over the rows of dpre {dims:?}: {error:e}");
    }

    /// A recording takes each run's dropout, though the kernel has a structure before its arguments.
    fn check_recorded<E: CudaElement>(
        device: &Cuda<E>,
        weights: &CudaWeights<E>,
        [x, residual_d]: [&CudaBuf<E>; 2],
        bias: &CudaBuf<f32>,
        (residual, pre): (&[f32], &[f32]),
        dims: LinearDims,
    ) {
        let (out, mut recording) = (device.zeros::<E>(pre.len()), Default::default());
        for key in 1..=4 {
            let dropout = Dropout::new(0.4, key, 1);
            let changing = Changing { dropout_key: Some(key), ..Changing::default() };
            let addresses = [out.pointer(), residual_d.pointer(), x.pointer()];
            device.replay(&mut recording, 1, changing, || {
                device.residual_forward_on_hopper(addresses, weights, bias, dropout, dims);
            });
            let want: Vec<f32> =
                (0..pre.len()).map(|i| residual[i] + dropout.factor(i as u32) * pre[i]).collect();
            let error = relative_error(&download_act(device, &out, pre.len()), &want);
            assert!(error < 2.0 * forward_tolerance::<Cuda<E>>(), "run {key} of {dims:?}: {error:e}");
        }
    }

    /// What a layer keeps of its GELU is what the next one's backward pass takes.
    fn check_round_trip<E: CudaElement>(
        device: &Cuda<E>,
        weights: &CudaWeights<E>,
        x: &CudaBuf<E>,
        bias: &CudaBuf<f32>,
        pre: &[f32],
        dims: LinearDims,
    ) {
        let LinearDims { rows, inputs, outputs } = dims;
        let back = LinearDims { rows, inputs: outputs, outputs: inputs };
        let [mut kept, mut out, mut dpre, mut dx] = [(); 4].map(|()| device.zeros::<E>(pre.len()));
        device.linear_gelu_forward(&mut kept, &mut out, x, weights, bias, dims);
        let mut rng = Rng::new(3);
        let mut next = device.weights(outputs, inputs, Storage::InputsOutputs, Use::Training);
        let master = upload(device, &random::<E>(&mut rng, inputs * outputs));
        device.pack(&mut [(&mut next, &master)], Rounding::Nearest);
        let dout = upload_act(device, &random::<E>(&mut rng, rows * inputs));
        let (mut dweights, mut dbias) = (device.zeros(inputs * outputs), device.zeros(inputs));
        let mut sums = device.zeros(outputs);
        device.linear_backward(&mut dx, &mut dweights, Some(&mut dbias), &dout, &out, &next, back);
        let want: Vec<f32> =
            download_act(device, &dx, pre.len()).iter().zip(slopes_at(pre)).map(|(x, s)| x * s).collect();
        let has_sums = device.linear_gelu_backward(
            &mut dpre,
            &mut sums,
            &mut dweights,
            Some(&mut dbias),
            &dout,
            &kept,
            &out,
            &next,
            back,
        );
        assert!(has_sums, "{dims:?} is for Hopper");
        let error = relative_error(&download_act(device, &dpre, pre.len()), &want);
        assert!(error < 2.0 * forward_tolerance::<Cuda<E>>(), "there and back, {dims:?}: {error:e}");
    }

    fn slopes_at(pre: &[f32]) -> Vec<f32> {
        let moving = moving(pre, &vec![1.0; pre.len()]);
        moving.into_iter().map(|x| slope(&[1.0], &[gelu_reference(x)]) as f32).collect()
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
