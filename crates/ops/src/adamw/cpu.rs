//! AdamW on the CPU: one pass over four streams, bound by memory.

use super::{AdamW, AdamWStep, AdamWTensor};
use crate::cpu::{AlignedBuf, Cpu, SharedMut, Simd, Task};
use crate::gemm::Word;

/// Elements of a task. Fixed, because the blocks decide the order of the sum of squares.
const BLOCK: usize = 1 << 15;

impl<E: Word> AdamW for Cpu<E> {
    fn adamw(&self, tensors: &mut [AdamWTensor<'_, Self>], step: AdamWStep) {
        for AdamWTensor { value, m, v, grad, weight_decay } in tensors {
            let len = grad.as_ref().len();
            let lens = [value.as_ref().len(), m.as_ref().len(), v.as_ref().len()];
            assert!(lens == [len; 3], "value, m and v have {lens:?} elements, the gradient {len}");
            let constants = Constants::new(step, *weight_decay);
            let (value, m, v) = (SharedMut::new(value), SharedMut::new(m), SharedMut::new(v));
            self.parallel(len.div_ceil(BLOCK), |block| {
                let (start, size) = (block * BLOCK, BLOCK.min(len - block * BLOCK));
                // SAFETY: each task has its own block.
                let (value, m, v) =
                    unsafe { (value.slice(start, size), m.slice(start, size), v.slice(start, size)) };
                self.isa().run(Update { value, m, v, grad: &grad[start..][..size], constants });
            });
        }
    }

    fn sum_of_squares(&self, tensors: &[&AlignedBuf<f32>]) -> f64 {
        tensors.iter().map(|x| sum_of_squares(self, x)).sum()
    }
}

/// The sum of squares of `x`: see the trait.
pub(crate) fn sum_of_squares<E: Word>(cpu: &Cpu<E>, x: &[f32]) -> f64 {
    let blocks = x.len().div_ceil(BLOCK);
    // Two words hold one f64.
    cpu.with_scratch(2 * blocks, |words| {
        let sums: &mut [f64] = bytemuck::cast_slice_mut(words);
        let shared = SharedMut::new(sums);
        cpu.parallel(blocks, |block| {
            let x = &x[block * BLOCK..x.len().min((block + 1) * BLOCK)];
            // SAFETY: each task has its own sum.
            let sum = unsafe { shared.slice(block, 1) };
            sum[0] = cpu.isa().run(SumOfSquares(x));
        });
        sums.iter().sum()
    })
}

/// What is the same for every element.
#[derive(Clone, Copy)]
pub(crate) struct Constants {
    pub(crate) keep: f32,
    pub(crate) beta1: f32,
    pub(crate) beta2: f32,
    pub(crate) step_size: f32,
    pub(crate) root_correction2: f32,
    pub(crate) epsilon: f32,
    pub(crate) grad_scale: f32,
}

impl Constants {
    pub(crate) fn new(step: AdamWStep, weight_decay: f32) -> Self {
        let (beta1, beta2) = (f64::from(step.beta1), f64::from(step.beta2));
        let correction = |beta: f64| 1.0 - beta.powf(step.step as f64);
        Constants {
            keep: (1.0 - f64::from(step.learning_rate) * f64::from(weight_decay)) as f32,
            beta1: step.beta1,
            beta2: step.beta2,
            step_size: (f64::from(step.learning_rate) / correction(beta1)) as f32,
            root_correction2: correction(beta2).sqrt() as f32,
            epsilon: step.epsilon,
            grad_scale: step.grad_scale,
        }
    }
}

struct Update<'a> {
    value: &'a mut [f32],
    m: &'a mut [f32],
    v: &'a mut [f32],
    grad: &'a [f32],
    constants: Constants,
}

impl Task for Update<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self) {
        let c = self.constants;
        for (((value, m), v), g) in self.value.iter_mut().zip(self.m).zip(self.v).zip(self.grad) {
            let g = c.grad_scale * g;
            *m = S::fma(1.0 - c.beta1, g - *m, *m);
            *v = S::fma((1.0 - c.beta2) * g, g, c.beta2 * *v);
            let denominator = v.sqrt() / c.root_correction2 + c.epsilon;
            *value = c.keep * *value - c.step_size * *m / denominator;
        }
    }
}

struct SumOfSquares<'a>(&'a [f32]);

impl Task for SumOfSquares<'_> {
    type Output = f64;
    #[inline(always)]
    fn run<S: Simd>(self) -> f64 {
        let mut lanes = [0.0f64; 8];
        let (chunks, rest) = self.0.as_chunks::<8>();
        for chunk in chunks {
            for (lane, x) in lanes.iter_mut().zip(chunk) {
                *lane += f64::from(*x) * f64::from(*x);
            }
        }
        lanes.iter().sum::<f64>() + rest.iter().map(|x| f64::from(*x) * f64::from(*x)).sum::<f64>()
    }
}
