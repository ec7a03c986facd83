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
    /// Number of this update, from 1.
    pub step: u64,
    /// Factor of the gradient: what clipping leaves of it.
    pub grad_scale: f32,
}

/// A parameter in an update; all buffers of one length.
pub struct AdamWTensor<'a, D: Device> {
    /// Its value.
    pub value: &'a mut Buf<D, f32>,
    /// The first moment of its gradient.
    pub m: &'a mut Buf<D, f32>,
    /// The second moment.
    pub v: &'a mut Buf<D, f32>,
    /// Its gradient.
    pub grad: &'a Buf<D, f32>,
    /// Decoupled weight decay; 0 for biases and LayerNorm.
    pub weight_decay: f32,
}

/// The optimizer's operations. They take all tensors of an update at once, because most are so small that a GPU takes longer
/// to start on one than to work on it.
pub trait AdamW: Device {
    /// Updates value, m and v of each tensor.
    fn adamw(&self, tensors: &mut [AdamWTensor<'_, Self>], step: AdamWStep);

    /// The sum of squares of all `tensors`, summed in f64 over blocks of fixed size in order: the same bits for any number
    /// of threads. Not finite if any element is not.
    fn sum_of_squares(&self, tensors: &[&Buf<Self, f32>]) -> f64;
}

/// One update in f64, as naively as it can be written: returns value, m, v.
#[cfg(test)]
fn reference(value: f64, m: f64, v: f64, grad: f64, weight_decay: f32, step: AdamWStep) -> [f64; 3] {
    let wide = f64::from;
    let g = wide(step.grad_scale) * grad;
    let m = wide(step.beta1) * m + (1.0 - wide(step.beta1)) * g;
    let v = wide(step.beta2) * v + (1.0 - wide(step.beta2)) * g * g;
    let correct = |x: f64, beta: f32| x / (1.0 - wide(beta).powi(step.step as i32));
    let value = value - wide(step.learning_rate) * wide(weight_decay) * value;
    let update = correct(m, step.beta1) / (correct(v, step.beta2).sqrt() + wide(step.epsilon));
    [value - wide(step.learning_rate) * update, m, v]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::*;
    use crate::{Cpu, Isa, Rng};

    /// Several tensors at once, of which every other one decays.
    fn check<D: AdamW>(device: &D, lens: &[usize]) {
        let mut rng = Rng::new(lens[0] as u64);
        let mut random = |len: usize| random::<f32>(&mut rng, len);
        let host: Vec<[Vec<f32>; 4]> = lens
            .iter()
            .map(|&len| {
                let squares = random(len).iter().map(|x| x * x).collect();
                [random(len), random(len), squares, random(len)]
            })
            .collect();
        let step = AdamWStep {
            learning_rate: 0.01,
            beta1: 0.9,
            beta2: 0.999,
            epsilon: 1e-8,
            step: 3,
            grad_scale: 0.5,
        };
        let decay = |i: usize| if i.is_multiple_of(2) { 0.1 } else { 0.0 };
        let mut on_device: Vec<_> =
            host.iter().map(|parts| parts.each_ref().map(|x| upload(device, x))).collect();
        let tensors = on_device.iter_mut().enumerate();
        let mut tensors: Vec<_> = tensors
            .map(|(i, [value, m, v, grad])| AdamWTensor { value, m, v, grad, weight_decay: decay(i) })
            .collect();
        device.adamw(&mut tensors, step);
        let wide = f64::from;
        let mut squares = 0.0;
        for (i, ([value, m, v, grad], got)) in host.iter().zip(&on_device).enumerate() {
            let want: Vec<[f64; 3]> = (0..value.len())
                .map(|j| reference(wide(value[j]), wide(m[j]), wide(v[j]), wide(grad[j]), decay(i), step))
                .collect();
            for (which, got) in got[..3].iter().enumerate() {
                let want: Vec<f32> = want.iter().map(|w| w[which] as f32).collect();
                let error = relative_error(&download(device, got, value.len()), &want);
                assert!(error < 1e-6, "tensor {i} of {lens:?}, output {which}: {error:e}");
            }
            squares += inner(grad, grad);
        }
        let grads: Vec<_> = on_device.iter().map(|[_, _, _, grad]| grad).collect();
        let norm = device.sum_of_squares(&grads);
        assert!((norm - squares).abs() <= 1e-12 * squares, "{norm}");
        let mut grads: Vec<_> = on_device.iter_mut().map(|[_, _, _, grad]| grad).collect();
        device.clear_all(&mut grads);
        assert_eq!(device.sum_of_squares(&grads.iter().map(|grad| &**grad).collect::<Vec<_>>()), 0.0);
    }

    #[test]
    fn equals_the_reference() {
        on_every_device!(|device| {
            for lens in [&[1][..], &[7], &[33, 1, 2], &[1000, 70_000, 5, 32_768, 3]] {
                check(device, lens);
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
