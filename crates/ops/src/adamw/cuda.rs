//! AdamW on a GPU, and what else takes many tensors in one launch.

use super::{AdamW, AdamWStep, AdamWTensor};
use crate::adamw::cpu::Constants;
use crate::cuda::{Argument, CudaBuf, CudaElement, Shape, Source, TABLE_ROWS, arguments};
use crate::{Buffer, Cuda};

pub(crate) const SOURCE: Source = Source {
    name: "adamw",
    files: &[include_str!("cuda.cu")],
    kernels: &["adamw", "sum_of_squares", "clear", "pack"],
};

/// Elements of a block: the kernels'.
const BLOCK: usize = 1 << 15;

/// A compute copy to be made.
pub(crate) struct ComputeCopy {
    /// Its address.
    pub(crate) copy: u64,
    /// That of its master.
    pub(crate) master: u64,
    /// Elements.
    pub(crate) len: usize,
    /// Key of rounding by chance; `None` for rounding to nearest.
    pub(crate) key: Option<u64>,
}

/// The rows of a table that a kernel over many tensors reads: addresses and constants of each, behind the block at which it
/// begins. A block finds its tensor by bisection.
struct Table {
    rows: Vec<[u64; 6]>,
    blocks: usize,
}

impl Table {
    fn new(len: usize) -> Self {
        Table { rows: Vec::with_capacity(len), blocks: 0 }
    }

    /// Adds a tensor of `len` elements, with its addresses and a constant of its own.
    fn push(&mut self, len: usize, [a, b, c, d]: [u64; 4], constant: f32) {
        if len > 0 {
            let place = self.blocks as u64 | len.word() << 32;
            self.rows.push([place, a, b, c, d, u64::from(constant.to_bits())]);
            self.blocks += len.div_ceil(BLOCK);
        }
    }
}

impl<E: CudaElement> Cuda<E> {
    /// Queues the sums of squares of blocks of `len` elements at `x` into `partial`; returns how many there are.
    pub(crate) fn square_partials(&self, partial: u64, x: u64, len: usize) -> usize {
        let mut table = Table::new(1);
        table.push(len, [x, 0, 0, 0], 0.0);
        self.launch_table("sum_of_squares", &table, &[partial]);
        table.blocks
    }

    /// Starts a kernel over all tensors of a table: `more` follows the table among its arguments.
    fn launch_table(&self, kernel: &str, table: &Table, more: &[u64]) {
        assert!(table.rows.len() <= TABLE_ROWS, "{} tensors in one launch", table.rows.len());
        let rows = self.context.table(bytemuck::cast_slice(&table.rows));
        let mut arguments = vec![*rows, table.rows.len() as u64];
        arguments.extend_from_slice(more);
        self.launch(kernel, Shape::new(table.blocks, 1024), &arguments);
    }

    /// Sets tensors of f32 to zero.
    pub(crate) fn clear_table(&self, tensors: impl Iterator<Item = (u64, usize)>) {
        let mut table = Table::new(tensors.size_hint().0);
        tensors.for_each(|(pointer, len)| table.push(len, [pointer, 0, 0, 0], 0.0));
        self.launch_table("clear", &table, &[]);
    }

    /// Makes compute copies of tensors of f32.
    pub(crate) fn pack_table(&self, tensors: &[ComputeCopy]) {
        for tensors in tensors.chunks(TABLE_ROWS) {
            let mut table = Table::new(tensors.len());
            for &ComputeCopy { copy, master, len, key } in tensors {
                table.push(len, [copy, master, key.unwrap_or(0), u64::from(key.is_some())], 0.0);
            }
            self.launch_table("pack", &table, &[]);
        }
    }
}

impl<E: CudaElement> AdamW for Cuda<E> {
    fn adamw(&self, tensors: &mut [AdamWTensor<'_, Self>], step: AdamWStep) {
        let mut table = Table::new(tensors.len());
        for AdamWTensor { value, m, v, grad, weight_decay } in tensors.iter() {
            let len = grad.len();
            let lens = [value.len(), m.len(), v.len()];
            assert!(lens == [len; 3], "value, m and v have {lens:?} elements, the gradient {len}");
            let keep = Constants::new(step, *weight_decay).keep;
            table.push(len, [value.pointer(), m.pointer(), v.pointer(), grad.pointer()], keep);
        }
        let c = Constants::new(step, 0.0);
        let (complement1, complement2) = (1.0 - c.beta1, 1.0 - c.beta2);
        let constants = arguments![
            c.beta1,
            c.beta2,
            complement1,
            complement2,
            c.step_size,
            c.root_correction2,
            c.epsilon,
            c.grad_scale
        ];
        self.launch_table("adamw", &table, constants);
    }

    fn sum_of_squares(&self, tensors: &[&CudaBuf<f32>]) -> f64 {
        let mut table = Table::new(tensors.len());
        tensors.iter().for_each(|tensor| table.push(tensor.len(), [tensor.pointer(), 0, 0, 0], 0.0));
        let scratch = self.context.scratch(8 * table.blocks);
        self.launch_table("sum_of_squares", &table, &[scratch.at(0)]);
        // The only wait of an update.
        let mut sums = vec![0.0f64; table.blocks];
        self.context.read(bytemuck::cast_slice_mut(&mut sums), scratch.at(0));
        sums.iter().sum()
    }
}
