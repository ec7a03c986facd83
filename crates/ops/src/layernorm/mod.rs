//! Layer normalization (Ba, Kiros and Hinton, 2016), over the channels of each row.
//!
//! ```text
//! Forward:   mean = sum(x) / C;  rstd = 1 / sqrt(sum((x - mean)^2) / C + eps);  n = (x - mean) rstd
//!            out = n weight + bias
//! Backward:  dbias += sum over rows of dout;  dweight += sum over rows of dout n
//!            g = dout weight;  dx += rstd (g - mean(g) - n mean(g n))
//! ```
//!
//! `dx` is added to, because the residual stream's gradient already waits there. Forward saves mean and rstd, (rows).

mod cpu;
pub(crate) mod cuda;

use crate::{Act, Buf, Device};

/// Shapes of a layer normalization.
#[derive(Clone, Copy, Debug)]
pub struct LayerNormDims {
    /// Rows: B T.
    pub rows: usize,
    /// C.
    pub channels: usize,
    /// Added to the variance.
    pub epsilon: f32,
}

/// Layer normalization.
pub trait LayerNorm: Device {
    /// Sets `out` (rows, C), `mean` (rows) and `rstd` (rows) from `x` (rows, C), `weight` (C), `bias` (C).
    fn layernorm_forward(
        &self,
        out: &mut Act<Self>,
        mean: &mut Buf<Self, f32>,
        rstd: &mut Buf<Self, f32>,
        x: &Act<Self>,
        weight: &Buf<Self, f32>,
        bias: &Buf<Self, f32>,
        dims: LayerNormDims,
    );

    /// Adds to `dx` (rows, C), `dweight` (C) and `dbias` (C). Returns whether it has also added the sums over the rows of what
    /// `dx` then holds to `dx_sums` (C), where they are wanted: the gradient of the bias of the layer that x came out of, which
    /// some devices have on the way.
    #[must_use]
    fn layernorm_backward(
        &self,
        dx: &mut Act<Self>,
        dx_sums: Option<&mut Buf<Self, f32>>,
        dweight: &mut Buf<Self, f32>,
        dbias: &mut Buf<Self, f32>,
        dout: &Act<Self>,
        mean: &Buf<Self, f32>,
        rstd: &Buf<Self, f32>,
        x: &Act<Self>,
        weight: &Buf<Self, f32>,
        dims: LayerNormDims,
    ) -> bool;
}

/// The forward pass, as naively as it can be written.
#[cfg(test)]
fn reference<R: crate::testing::Real>(x: &[R], weight: &[R], bias: &[R], dims: LayerNormDims) -> Vec<R> {
    let count = R::from(dims.channels as f64);
    let row = |x: &[R]| -> Vec<R> {
        let mean = R::sum(x.iter().copied()) / count;
        let variance = R::sum(x.iter().map(|x| (*x - mean) * (*x - mean))) / count;
        let rstd = R::from(1.0) / (variance + R::from(f64::from(dims.epsilon))).sqrt();
        x.iter().zip(weight).zip(bias).map(|((x, w), b)| (*x - mean) * rstd * *w + *b).collect()
    };
    x.chunks_exact(dims.channels).flat_map(row).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::*;
    use crate::{Element, Rng};

    fn check<D: LayerNorm>(device: &D, rows: usize, channels: usize) -> Vec<f32> {
        let dims = LayerNormDims { rows, channels, epsilon: 1e-5 };
        let mut rng = Rng::new((rows * channels) as u64);
        let x = random::<D::Element>(&mut rng, rows * channels);
        let dout = random::<D::Element>(&mut rng, rows * channels);
        let before = random::<D::Element>(&mut rng, rows * channels);
        let (weight, bias) = (random::<f32>(&mut rng, channels), random::<f32>(&mut rng, channels));
        let (x_d, weight_d, bias_d) =
            (upload_act(device, &x), upload(device, &weight), upload(device, &bias));
        let (mut out, mut mean, mut rstd) =
            (device.zeros(rows * channels), device.zeros(rows), device.zeros(rows));
        device.layernorm_forward(&mut out, &mut mean, &mut rstd, &x_d, &weight_d, &bias_d, dims);
        let want = reference::<f64>(&constants(&x), &constants(&weight), &constants(&bias), dims);
        let want: Vec<f32> = want.iter().map(|x| *x as f32).collect();
        let error = relative_error(&download_act(device, &out, rows * channels), &want);
        assert!(error < forward_tolerance::<D>(), "{dims:?}: {error:e}");

        let (mut dweight, mut dbias) = (device.zeros(channels), device.zeros(channels));
        let (mut dx, mut sums) = (upload_act(device, &before), device.zeros(channels));
        let dout_d = upload_act(device, &dout);
        let has_sums = device.layernorm_backward(
            &mut dx,
            Some(&mut sums),
            &mut dweight,
            &mut dbias,
            &dout_d,
            &mean,
            &rstd,
            &x_d,
            &weight_d,
            dims,
        );
        let after = download_act(device, &dx, rows * channels);
        for (i, sum) in download(device, &sums, channels).into_iter().enumerate() {
            let column = after.iter().skip(i).step_by(channels);
            let want: f32 = if has_sums { column.sum() } else { 0.0 };
            assert!(
                (sum - want).abs() < 1e-4 * rows as f32,
                "sum over column {i} of dx {dims:?}: {sum}, {want}"
            );
        }
        // Where they are not wanted, all else is the same.
        let mut again = upload_act(device, &before);
        let [mut dw, mut db] = [(); 2].map(|()| device.zeros(channels));
        let has_none = device.layernorm_backward(
            &mut again, None, &mut dw, &mut db, &dout_d, &mean, &rstd, &x_d, &weight_d, dims,
        );
        assert!(!has_none && download_act(device, &again, rows * channels) == after, "dx without sums");
        let dx: Vec<f32> = after.iter().zip(&before).map(|(a, b)| a - b).collect();
        let (dweight, dbias) = (download(device, &dweight, channels), download(device, &dbias, channels));
        let (vx, vw, vb) = (
            random::<f32>(&mut rng, x.len()),
            random::<f32>(&mut rng, channels),
            random::<f32>(&mut rng, channels),
        );
        // One direction for each input, so that no error hides behind a larger one.
        let still = |x: &[f32]| vec![0.0; x.len()];
        let moved =
            reference(&moving(&x, &vx), &moving(&weight, &still(&vw)), &moving(&bias, &still(&vb)), dims);
        let scale = size(&after, &vx) + size(&before, &vx);
        assert_slope("dx", inner(&dx, &vx), slope(&dout, &moved), scale, gradient_tolerance::<D>());
        let moved = reference(&moving(&x, &still(&vx)), &moving(&weight, &vw), &moving(&bias, &vb), dims);
        let got = inner(&dweight, &vw) + inner(&dbias, &vb);
        assert_slope(
            "dweight, dbias",
            got,
            slope(&dout, &moved),
            size(&dweight, &vw) + size(&dbias, &vb),
            1e-5,
        );
        assert!(D::Element::NAME != "float32" || after != before || channels == 1);
        [after, dweight, dbias].concat()
    }

    #[test]
    fn equals_the_reference_with_the_same_bits_for_any_threads() {
        let mut results = std::collections::HashMap::new();
        on_every_device!(|device| {
            for (rows, channels) in [
                (1, 1),
                (1, 3),
                (5, 36),
                (3, 64),
                (130, 33),
                (200, 100),
                (1, 768),
                (37, 768),
                (4, 1000),
                (21, 1600),
                (5, 4104),
                (2, 8200),
            ] {
                let result = check(device, rows, channels);
                let key = (any_threads(device), rows, channels);
                let first = results.entry(key).or_insert_with(|| result.clone());
                assert_eq!(*first, result, "threads change no bit");
            }
        });
    }
}
