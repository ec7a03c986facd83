//! AdamW (Loshchilov and Hutter, 2019), and the norm that gradient clipping needs.
//!
//!     g = grad_scale grad;   m = beta1 m + (1 - beta1) g;   v = beta2 v + (1 - beta2) g^2
//!     value -= lr weight_decay value
//!     value -= lr (m / (1 - beta1^step)) / (sqrt(v / (1 - beta2^step)) + epsilon)
//!
//! in PyTorch's order of operations. All of it is f32, element by element.

mod cpu;

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

    /// The sum of squares of `x`, summed in f64 over blocks of fixed size in order: the same bits for any number of
    /// threads. Not finite if any element is not.
    fn sum_of_squares(&self, x: &Buf<Self, f32>) -> f64;
}
