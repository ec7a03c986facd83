//! Products with few rows, as generation has them: launches of `cuda_row.cu`.

use super::cuda::CudaWeights;
use super::{LinearDims, Storage};
use crate::Cuda;
use crate::cuda::{CudaBuf, CudaElement, Shape, Source, arguments};

pub(crate) const SOURCE: Source = Source {
    name: "linear_row",
    files: &[include_str!("../cuda/early.cuh"), include_str!("cuda_gelu.cuh"), include_str!("cuda_row.cu")],
    kernels: &[
        "row_product",
        "row_product_4",
        "row_product_cluster",
        "row_product_cluster_deep",
        "row_product_cluster_4",
        "row_logits",
        "row_logits_4",
    ],
};

/// Rows at most. More of them are for tensor cores.
const MAX_ROWS: usize = 4;
/// Threads of a part of the depth, and the parts.
const PART: usize = 256;
const PARTS: usize = 4;
/// Inputs above which a thread has more than four loads to do. Those of one row are all begun at once, which takes registers
/// that would leave a layer of few inputs and many outputs no room for all its blocks.
const DEEP: usize = 1024;
/// Bytes of a row of weights that a block or cluster takes.
const STRIP_BYTES: usize = 64;
/// Outputs that a block of the head takes: four a warp.
const HEAD_OUTPUTS: usize = 4 * PART / 32;

impl<E: CudaElement> Cuda<E> {
    /// Whether [`row_forward`](Self::row_forward) can make a layer's product: few rows, and rows of weights that are whole
    /// numbers of 16 bytes.
    pub(super) fn is_for_row(&self, weights: &CudaWeights<E>, dims: LinearDims) -> bool {
        dims.inputs > 0 && is_few::<E>(dims.rows, dims.outputs) && weights.storage() == Storage::InputsOutputs
    }

    /// Whether [`row_forward`](Self::row_forward) makes a layer's product: where it can, it is timed against the library's, which sets
    /// `out`.
    pub(super) fn takes_row(
        &self,
        out: &CudaBuf<E>,
        x: &CudaBuf<E>,
        weights: &CudaWeights<E>,
        bias: &CudaBuf<f32>,
        dims: LinearDims,
    ) -> bool {
        let of_library = || self.biased_product(out, x, weights, bias, dims);
        let of_row = || self.row_forward([out.pointer(), 0, 0, x.pointer()], weights, bias, dims);
        let place = ("few rows", dims.rows, dims.inputs, dims.outputs);
        self.is_for_row(weights, dims) && self.is_faster(place, &of_row, &of_library)
    }

    /// out = x W + bias, plus `residual`, or pre = x W + bias and out = gelu(pre), where these are not 0; by address.
    pub(super) fn row_forward(
        &self,
        [out, pre, residual, x]: [u64; 4],
        weights: &CudaWeights<E>,
        bias: &CudaBuf<f32>,
        dims: LinearDims,
    ) {
        let has_clusters = self.context.capability >= (9, 0);
        self.row_product([out, pre, residual, x], weights, bias, has_clusters, dims);
    }

    fn row_product(
        &self,
        [out, pre, residual, x]: [u64; 4],
        weights: &CudaWeights<E>,
        bias: &CudaBuf<f32>,
        has_clusters: bool,
        dims: LinearDims,
    ) {
        let LinearDims { rows, inputs, outputs } = dims;
        let strips = (size_of::<E>() * outputs).div_ceil(STRIP_BYTES);
        let shape = match has_clusters {
            true => Shape::new(PARTS * strips, PART),
            false => Shape::new(strips, PARTS * PART),
        };
        let kernel = match (has_clusters, rows) {
            (true, 1) if inputs > DEEP => "row_product_cluster_deep",
            (true, 1) => "row_product_cluster",
            (true, _) => "row_product_cluster_4",
            (false, 1) => "row_product",
            (false, _) => "row_product_4",
        };
        let matrix = weights.matrix();
        self.launch_early(
            kernel,
            shape,
            arguments![out, pre, residual, x, matrix, bias, rows, inputs, outputs],
        );
    }

    /// Whether [`row_logits`](Self::row_logits) can make the logits of a head: few rows, and rows of weights that are whole numbers of
    /// 16 bytes.
    pub(crate) fn is_for_row_logits(&self, head: &CudaWeights<E>, dims: LinearDims) -> bool {
        is_few::<E>(dims.rows, dims.inputs) && head.storage() == Storage::OutputsInputs
    }

    /// logits (rows, OC) = x W^T of weights (OC, C), in f32.
    pub(crate) fn row_logits(&self, logits: u64, x: u64, head: &CudaWeights<E>, dims: LinearDims) {
        let LinearDims { rows, inputs, outputs } = dims;
        let kernel = if rows == 1 { "row_logits" } else { "row_logits_4" };
        let shape = Shape::new(outputs.div_ceil(HEAD_OUTPUTS), PART);
        self.launch_early(kernel, shape, arguments![logits, x, head.matrix(), rows, inputs, outputs]);
    }
}

/// Whether rows are few, and `len` elements can be read 16 bytes at a time.
fn is_few<E>(rows: usize, len: usize) -> bool {
    (1..=MAX_ROWS).contains(&rows) && len > 0 && len.is_multiple_of(16 / size_of::<E>())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::linear::{Linear, Use, gelu_reference, reference};
    use crate::testing::*;
    use crate::{Device, Dropout, Rng, Rounding};

    /// Inputs and outputs: a depth shorter and longer than all parts and batches take at once, odd ones, and strips that are cut
    /// off; the last but one shape is left to the library by 16-bit elements, the last by all.
    const SHAPES: [(usize, usize); 10] = [
        (1, 8),
        (7, 40),
        (255, 64),
        (257, 72),
        (768, 96),
        (1100, 32),
        (3072, 40),
        (4097, 8),
        (300, 36),
        (300, 35),
    ];

    struct Case<E: CudaElement> {
        dims: LinearDims,
        x: Vec<f32>,
        residual: Vec<f32>,
        weights: CudaWeights<E>,
        bias: CudaBuf<f32>,
        pre: Vec<f32>,
    }

    impl<E: CudaElement> Case<E> {
        fn new(device: &Cuda<E>, dims: LinearDims) -> Self {
            let LinearDims { rows, inputs, outputs } = dims;
            let mut rng = Rng::new((rows + inputs + outputs) as u64);
            let master = random::<E>(&mut rng, inputs * outputs);
            let (x, residual) = (random::<E>(&mut rng, rows * inputs), random::<E>(&mut rng, rows * outputs));
            let bias = random::<f32>(&mut rng, outputs);
            let mut weights = device.weights(inputs, outputs, Storage::InputsOutputs, Use::Inference);
            device.pack(&mut [(&mut weights, &upload(device, &master))], Rounding::Nearest);
            let (pre, _) = reference::<f64>(&constants(&x), &constants(&master), &constants(&bias), dims);
            let pre = pre.into_iter().map(|x| x as f32).collect();
            Case { dims, x, residual, weights, bias: upload(device, &bias), pre }
        }

        /// The layer's output for some of the rows, with a residual, and pre and the output with GELU.
        fn run(&self, device: &Cuda<E>, first: usize, rows: usize, has_clusters: bool) -> [Vec<f32>; 3] {
            let LinearDims { inputs, outputs, .. } = self.dims;
            let dims = LinearDims { rows, ..self.dims };
            let x = upload_act(device, &self.x[first * inputs..][..rows * inputs]);
            let residual = upload_act(device, &self.residual[first * outputs..][..rows * outputs]);
            // One element more, which must stay.
            let len = rows * outputs;
            let made = |addresses: &dyn Fn(u64, u64) -> [u64; 4]| {
                let [first, second] = [(); 2].map(|()| upload_act(device, &vec![7.0; len + 1]));
                let addresses = addresses(first.pointer(), second.pointer());
                device.row_product(addresses, &self.weights, &self.bias, has_clusters, dims);
                [first, second].map(|made| {
                    let mut made = download_act(device, &made, len + 1);
                    assert_eq!(made.pop(), Some(7.0), "what follows is left alone");
                    made
                })
            };
            let [added, _] = made(&|out, _| [out, 0, residual.pointer(), x.pointer()]);
            let [activated, pre] = made(&|out, pre| [out, pre, 0, x.pointer()]);
            [added, pre, activated]
        }
    }

    fn check<E: CudaElement>(device: &Cuda<E>, dims: LinearDims) {
        let LinearDims { rows, outputs, .. } = dims;
        let case = Case::new(device, dims);
        if !device.is_for_row(&case.weights, dims) {
            assert!(!outputs.is_multiple_of(16 / size_of::<E>()), "{dims:?} is for rows");
            return;
        }
        let same = |name: &str, got: &[f32], want: &[f32]| {
            let error = relative_error(got, want);
            assert!(error < forward_tolerance::<Cuda<E>>(), "{name} {dims:?}: {error:e}");
        };
        let [added, pre, activated] = case.run(device, 0, rows, false);
        let sums: Vec<f32> = case.pre.iter().zip(&case.residual).map(|(pre, of)| pre + of).collect();
        let gelu: Vec<f32> = case.pre.iter().map(|&x| gelu_reference(f64::from(x)) as f32).collect();
        same("residual", &added, &sums);
        same("pre", &pre, &case.pre);
        same("gelu", &activated, &gelu);

        // The same bits again, from clusters, and from each row alone.
        let want = [added, pre, activated];
        for has_clusters in [false, device.context.capability >= (9, 0)] {
            assert_eq!(case.run(device, 0, rows, has_clusters), want, "{dims:?}, clusters: {has_clusters}");
            for row in 0..rows {
                let alone = case.run(device, row, 1, has_clusters);
                let of_row = want.each_ref().map(|want| want[row * outputs..][..outputs].to_vec());
                assert_eq!(alone, of_row, "row {row} of {dims:?}, clusters: {has_clusters}");
            }
        }
        // As a layer, by whichever is faster: without dropout, and with one, which is the library's.
        let (x, residual) = (upload_act(device, &case.x), upload_act(device, &case.residual));
        let mut out = device.zeros(rows * outputs);
        device.linear_forward(&mut out, &x, &case.weights, &case.bias, dims);
        same("layer", &download_act(device, &out, rows * outputs), &case.pre);
        for dropout in [Dropout::NONE, Dropout::new(0.4, 3, 1)] {
            device.linear_residual_forward(&mut out, &residual, &x, &case.weights, &case.bias, dropout, dims);
            let dropped = (0..rows * outputs).map(|i| case.residual[i] + factor(dropout, i) * case.pre[i]);
            let got = download_act(device, &out, rows * outputs);
            same("layer with residual", &got, &dropped.collect::<Vec<f32>>());
        }
    }

    #[test]
    fn few_rows_equal_the_reference_with_the_same_bits_however_they_are_made() {
        on_cuda!(|device| {
            for (number, (inputs, outputs)) in SHAPES.into_iter().enumerate() {
                for rows in [1, 2 + number % 3] {
                    check(device, LinearDims { rows, inputs, outputs });
                }
            }
        });
    }

    fn check_logits<E: CudaElement>(device: &Cuda<E>, dims: LinearDims) {
        let LinearDims { rows, inputs, outputs } = dims;
        let mut rng = Rng::new((rows + inputs + outputs) as u64);
        let (x, master) = (random::<E>(&mut rng, rows * inputs), random::<E>(&mut rng, inputs * outputs));
        let mut weights = device.weights(inputs, outputs, Storage::OutputsInputs, Use::Inference);
        device.pack(&mut [(&mut weights, &upload(device, &master))], Rounding::Nearest);
        let run = |first: usize, rows: usize| {
            let x = upload_act(device, &x[first * inputs..][..rows * inputs]);
            let logits = upload(device, &vec![7.0; rows * outputs + 1]);
            let dims = LinearDims { rows, ..dims };
            let is_run = device.is_for_row_logits(&weights, dims);
            assert_eq!(is_run, inputs.is_multiple_of(16 / size_of::<E>()), "{dims:?}");
            if is_run {
                device.row_logits(logits.pointer(), x.pointer(), &weights, dims);
            }
            let mut logits = download(device, &logits, rows * outputs + 1);
            assert_eq!(logits.pop(), Some(7.0), "what follows is left alone");
            is_run.then_some(logits)
        };
        let Some(logits) = run(0, rows) else { return };
        let transposed: Vec<f32> =
            (0..master.len()).map(|i| master[i % outputs * inputs + i / outputs]).collect();
        let none = vec![0.0; outputs];
        let (want, _) = reference::<f64>(&constants(&x), &constants(&transposed), &constants(&none), dims);
        let want: Vec<f32> = want.into_iter().map(|x| x as f32).collect();
        let error = relative_error(&logits, &want);
        assert!(error < 2e-6, "{dims:?}: {error:e}");
        assert_eq!(run(0, rows).as_ref(), Some(&logits), "the same bits again");
        for (row, of_row) in logits.chunks_exact(outputs).enumerate() {
            assert_eq!(run(row, 1).as_deref(), Some(of_row), "row {row} of {dims:?}");
        }
    }

    #[test]
    fn logits_of_few_rows_equal_the_reference_with_the_same_bits_in_any_company() {
        on_cuda!(|device| {
            let shapes = [(8, 1), (8, 33), (40, 70), (768, 131), (1000, 64), (264, 4), (12, 5), (7, 9)];
            for (number, (inputs, outputs)) in shapes.into_iter().enumerate() {
                for rows in [1, 2 + number % 3] {
                    check_logits(device, LinearDims { rows, inputs, outputs });
                }
            }
        });
    }
}
