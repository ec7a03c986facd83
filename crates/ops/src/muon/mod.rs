//! Muon (Jordan et al., 2024): momentum whose matrices are made orthogonal before they are applied.
//!
//! ```text
//! g = grad_scale grad;   m = mu m + g;   u = g + mu m                                (Nesterov)
//! value -= lr weight_decay value
//! value -= lr 0.2 sqrt(max(rows, cols)) orthogonal(u)
//! ```
//!
//! The factor gives an update the root mean square that AdamW's typically has (Liu et al., 2025, "Muon is scalable for
//! LLM training"), so that both may share a learning rate. A matrix that is several side by side, as GPT-2's c_attn is
//! of queries, keys and values, is made orthogonal piece by piece.
//!
//! orthogonal(u) is the nearest semi-orthogonal matrix, roughly: five Newton-Schulz steps on X = u / |u| (transposed
//! if it is tall), which push all singular values towards 1 without computing them:
//!
//! ```text
//! A = X X^T;   B = b A + c A A;   X = a X + B X         a, b, c = 3.4445, -4.7750, 2.0315
//! ```
//!
//! X has the element type of the device; the products are summed in f32.
//!
//! It is torch.optim.Muon with `adjust_lr_fn="match_rms_adamw"`, with three differences. PyTorch's momentum is the mean
//! m = mu m + (1 - mu) g, which is ours times 1 - mu; orthogonal(u) does not see a factor, but whoever moves a momentum from
//! one to the other must. PyTorch keeps |u| from below 1e-7, and here 1e-7 is added to it. And PyTorch takes the steps in
//! bfloat16 on every device. How it compares is tested in `train`, on ten updates of PyTorch's.

mod cpu;
pub(crate) mod cuda;

use crate::{Buf, Device};

/// Newton-Schulz coefficients: the largest slope at zero for which five steps end near 1 (Jordan's search).
pub(crate) const COEFFICIENTS: [f32; 3] = [3.4445, -4.7750, 2.0315];
/// Newton-Schulz steps.
pub(crate) const STEPS: usize = 5;
/// Keeps a zero gradient from dividing by zero.
pub(crate) const NORM_EPSILON: f64 = 1e-7;

/// The constants of one update.
#[derive(Clone, Copy, Debug)]
pub struct MuonStep {
    /// Learning rate of this update.
    pub learning_rate: f32,
    /// mu: decay of the momentum.
    pub momentum: f32,
    /// Decoupled weight decay.
    pub weight_decay: f32,
    /// Factor of the gradient: what clipping leaves of it.
    pub grad_scale: f32,
}

/// Shape of a matrix parameter.
#[derive(Clone, Copy, Debug)]
pub struct MuonDims {
    /// Rows.
    pub rows: usize,
    /// Columns.
    pub cols: usize,
    /// Equal pieces, side by side, that are matrices of their own; divides `cols`.
    pub pieces: usize,
}

/// The optimizer for matrices.
pub trait Muon: Device {
    /// Updates `value` (rows, cols) and `momentum` (rows, cols) from `grad` (rows, cols).
    fn muon(
        &self,
        value: &mut Buf<Self, f32>,
        momentum: &mut Buf<Self, f32>,
        grad: &Buf<Self, f32>,
        step: MuonStep,
        dims: MuonDims,
    );
}

/// The update in f64, as naively as it can be written.
#[cfg(test)]
fn reference(value: &mut [f64], momentum: &mut [f64], grad: &[f64], step: MuonStep, dims: MuonDims) {
    let MuonDims { rows, cols, pieces } = dims;
    let width = cols / pieces;
    let (lr, mu) = (f64::from(step.learning_rate), f64::from(step.momentum));
    let scale = lr * 0.2 * (rows.max(width) as f64).sqrt();
    let product = |x: &[f64], y: &[f64], m: usize, k: usize, n: usize| -> Vec<f64> {
        (0..m * n).map(|i| (0..k).map(|j| x[i / n * k + j] * y[j * n + i % n]).sum()).collect()
    };
    let transpose =
        |x: &[f64], m: usize, n: usize| -> Vec<f64> { (0..m * n).map(|i| x[i % m * n + i / m]).collect() };
    for (m, g) in momentum.iter_mut().zip(grad) {
        *m = mu * *m + f64::from(step.grad_scale) * g;
    }
    for piece in 0..pieces {
        let at = |i: usize| i / width * cols + piece * width + i % width;
        let u: Vec<f64> = (0..rows * width)
            .map(|i| f64::from(step.grad_scale) * grad[at(i)] + mu * momentum[at(i)])
            .collect();
        let norm = u.iter().map(|x| x * x).sum::<f64>().sqrt() + NORM_EPSILON;
        let tall = rows > width;
        let (m, n) = (rows.min(width), rows.max(width));
        let mut x: Vec<f64> = u.iter().map(|x| x / norm).collect();
        if tall {
            x = transpose(&x, rows, width);
        }
        let [a, b, c] = COEFFICIENTS.map(f64::from);
        for _ in 0..STEPS {
            let square = product(&x, &transpose(&x, m, n), m, n, m);
            let fourth = product(&square, &square, m, m, m);
            let mix: Vec<f64> = square.iter().zip(&fourth).map(|(s, f)| b * s + c * f).collect();
            let pushed = product(&mix, &x, m, m, n);
            x = x.iter().zip(&pushed).map(|(x, p)| a * x + p).collect();
        }
        if tall {
            x = transpose(&x, m, n);
        }
        for (i, x) in x.iter().enumerate() {
            value[at(i)] -= lr * f64::from(step.weight_decay) * value[at(i)] + scale * x;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Rng;
    use crate::testing::*;

    fn check<D: Muon>(device: &D, dims: MuonDims) -> Vec<f32> {
        // 16 bits round X at each of five steps that stretch small singular values 3.4-fold.
        let tolerance = if size_of::<D::Element>() == 4 { 1e-4 } else { 6e-2 };
        let len = dims.rows * dims.cols;
        let mut rng = Rng::new(len as u64);
        let mut random = || -> Vec<f32> { (0..len).map(|_| rng.normal() as f32).collect() };
        let (start, first, grad) = (random(), random(), random());
        let step = MuonStep { learning_rate: 0.1, momentum: 0.9, weight_decay: 0.2, grad_scale: 0.5 };
        let wide = |x: &[f32]| x.iter().map(|x| f64::from(*x)).collect::<Vec<f64>>();
        let (mut value, mut momentum) = (wide(&start), wide(&first));
        reference(&mut value, &mut momentum, &wide(&grad), step, dims);
        let (mut v, mut m) = (upload(device, &start), upload(device, &first));
        device.muon(&mut v, &mut m, &upload(device, &grad), step, dims);
        let want = |x: &[f64], from: &[f32]| {
            x.iter().zip(from).map(|(x, f)| (x - f64::from(*f)) as f32).collect::<Vec<_>>()
        };
        let moved = |x: &[f32], from: &[f32]| x.iter().zip(from).map(|(x, f)| x - f).collect::<Vec<f32>>();
        let (v, m) = (download(device, &v, len), download(device, &m, len));
        let error = relative_error(&moved(&v, &start), &want(&value, &start));
        assert!(error < tolerance, "{} {dims:?}: value {error:e}", device.describe());
        let error = relative_error(&moved(&m, &first), &want(&momentum, &first));
        assert!(error < 1e-5, "{} {dims:?}: momentum {error:e}", device.describe());
        v
    }

    #[test]
    fn equals_the_reference_with_the_same_bits_for_any_threads() {
        let mut results = std::collections::HashMap::new();
        on_every_device!(|device| {
            for (rows, cols, pieces) in
                [(1, 1, 1), (5, 7, 1), (16, 48, 3), (40, 13, 1), (33, 66, 2), (64, 20, 1)]
            {
                let result = check(device, MuonDims { rows, cols, pieces });
                let key = (any_threads(device), rows);
                let first = results.entry(key).or_insert_with(|| result.clone());
                assert_eq!(*first, result, "threads change no bit");
            }
        });
    }
}
