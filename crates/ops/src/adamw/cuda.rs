//! AdamW on a GPU: launches.

use super::{AdamW, AdamWStep};
use crate::adamw::cpu::Constants;
use crate::cuda::{CudaBuf, CudaElement, Shape, Source, arguments};
use crate::{Buffer, Cuda};

pub(crate) const SOURCE: Source =
    Source { name: "adamw", files: &[include_str!("cuda.cu")], kernels: &["adamw", "sum_of_squares"] };

/// Elements that a block squares: the kernel's.
const BLOCK: usize = 1 << 15;

impl<E: CudaElement> Cuda<E> {
    /// Queues the sums of squares of blocks of `len` elements at `x` into `partial`; returns how many there are.
    pub(crate) fn square_partials(&self, partial: u64, x: u64, len: usize) -> usize {
        let blocks = len.div_ceil(BLOCK);
        self.launch("sum_of_squares", Shape::new(blocks, 1024), arguments![partial, x, len]);
        blocks
    }
}

impl<E: CudaElement> AdamW for Cuda<E> {
    fn adamw(
        &self,
        value: &mut CudaBuf<f32>,
        m: &mut CudaBuf<f32>,
        v: &mut CudaBuf<f32>,
        grad: &CudaBuf<f32>,
        step: AdamWStep,
    ) {
        let len = grad.len();
        let lens = [value.len(), m.len(), v.len()];
        assert!(lens == [len; 3], "value, m and v have {lens:?} elements, the gradient {len}");
        let c = Constants::new(step);
        let (complement1, complement2) = (1.0 - c.beta1, 1.0 - c.beta2);
        let arguments = arguments![
            value, m, v, grad, len, c.keep, c.beta1, c.beta2, complement1, complement2, c.step_size,
            c.root_correction2, c.epsilon, c.grad_scale
        ];
        self.launch("adamw", Shape::each(len.div_ceil(4)), arguments);
    }

    fn sum_of_squares(&self, tensors: &[&CudaBuf<f32>]) -> f64 {
        let blocks: usize = tensors.iter().map(|tensor| tensor.len().div_ceil(BLOCK)).sum();
        let scratch = self.context.scratch(8 * blocks);
        let mut done = 0;
        for tensor in tensors {
            done += self.square_partials(scratch.at(8 * done), tensor.pointer(), tensor.len());
        }
        // The only wait of an update, for all tensors at once.
        let mut sums = vec![0.0f64; blocks];
        self.context.read(bytemuck::cast_slice_mut(&mut sums), scratch.at(0));
        sums.iter().sum()
    }
}
