//! AdamW (Loshchilov and Hutter, 2019), and the norm that gradient clipping needs.
//!
//! ```text
//! g = grad_scale grad;   m = beta1 m + (1 - beta1) g;   v = beta2 v + (1 - beta2) g^2
//! value -= lr weight_decay value
//! value -= lr (m / (1 - beta1^step)) / (sqrt(v / (1 - beta2^step)) + epsilon)
//! ```
//!
//! in PyTorch's order of operations. All of it is f32, element by element.

pub(crate) mod cpu;
pub(crate) mod cuda;

use crate::{Buf, Device};

/// The constants of one update.
#[derive(Clone, Copy, Debug)]
pub struct AdamWStep {
    /// Learning rate of this update.
    pub learning_rate: f32,
    /// Decay of the first moment.
    pub beta1: f32,
    /// Decay of the second moment.
    pub beta2: f32,
    /// Added to the root of the second moment.
    pub epsilon: f32,
    /// Decoupled weight decay; 0 for biases and LayerNorm.
    pub weight_decay: f32,
    /// Number of this update, from 1.
    pub step: u64,
    /// Factor of the gradient: what clipping leaves of it.
    pub grad_scale: f32,
}

/// The optimizer's operations.
pub trait AdamW: Device {
    /// Updates `value`, `m` and `v` from `grad`; all of one length.
    fn adamw(
        &self,
        value: &mut Buf<Self, f32>,
        m: &mut Buf<Self, f32>,
        v: &mut Buf<Self, f32>,
        grad: &Buf<Self, f32>,
        step: AdamWStep,
    );

    /// The sum of squares of all `tensors`, summed in f64 over blocks of fixed size in order: the same bits for any number
    /// of threads. Not finite if any element is not.
    fn sum_of_squares(&self, tensors: &[&Buf<Self, f32>]) -> f64;
}

/// One update in f64, as naively as it can be written: returns value, m, v.
#[cfg(test)]
fn reference(value: f64, m: f64, v: f64, grad: f64, step: AdamWStep) -> [f64; 3] {
    let wide = f64::from;
    let g = wide(step.grad_scale) * grad;
    let m = wide(step.beta1) * m + (1.0 - wide(step.beta1)) * g;
    let v = wide(step.beta2) * v + (1.0 - wide(step.beta2)) * g * g;
    let correct = |x: f64, beta: f32| x / (1.0 - wide(beta).powi(step.step as i32));
    let value = value - wide(step.learning_rate) * wide(step.weight_decay) * value;
    let update = correct(m, step.beta1) / (correct(v, step.beta2).sqrt() + wide(step.epsilon));
    [value - wide(step.learning_rate) * update, m, v]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::*;
    use crate::{Cpu, Isa, Rng};

    fn check<D: AdamW>(device: &D, len: usize) {
        let mut rng = Rng::new(len as u64);
        let mut random = || random::<f32>(&mut rng, len);
        let (value, m, grad) = (random(), random(), random());
        let v: Vec<f32> = random().iter().map(|x| x * x).collect();
        let step = AdamWStep {
            learning_rate: 0.01,
            beta1: 0.9,
            beta2: 0.999,
            epsilon: 1e-8,
            weight_decay: 0.1,
            step: 3,
            grad_scale: 0.5,
        };
        let (mut value_d, mut m_d, mut v_d) =
            (upload(device, &value), upload(device, &m), upload(device, &v));
        let grad_d = upload(device, &grad);
        device.adamw(&mut value_d, &mut m_d, &mut v_d, &grad_d, step);
        let wide = f64::from;
        let want: Vec<[f64; 3]> = (0..len)
            .map(|i| reference(wide(value[i]), wide(m[i]), wide(v[i]), wide(grad[i]), step))
            .collect();
        for (which, got) in [&value_d, &m_d, &v_d].into_iter().enumerate() {
            let want: Vec<f32> = want.iter().map(|w| w[which] as f32).collect();
            let error = relative_error(&download(device, got, len), &want);
            assert!(error < 1e-6, "{len} elements, output {which}: {error:e}");
        }
        let norm = device.sum_of_squares(&[&grad_d]);
        assert!((norm - inner(&grad, &grad)).abs() <= 1e-12 * norm, "{norm}");
    }

    #[test]
    fn equals_the_reference() {
        on_every_device!(|device| {
            for len in [1, 7, 33, 1000] {
                check(device, len);
            }
        });
    }

    #[test]
    fn the_norm_has_the_same_bits_for_any_threads_and_shows_infinities() {
        let x = random::<f32>(&mut Rng::new(1), 100_000);
        let norm = |threads: usize, x: &[f32]| {
            let cpu = Cpu::<f32>::with(Isa::detect(), threads);
            cpu.sum_of_squares(&[&upload(&cpu, x)])
        };
        assert_eq!(norm(1, &x).to_bits(), norm(3, &x).to_bits());
        for bad in [f32::NAN, f32::INFINITY] {
            let mut x = x.clone();
            x[77_777] = bad;
            assert!(!norm(2, &x).is_finite());
        }
    }
}
