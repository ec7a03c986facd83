//! A product with its epilogue: d = epilogue(alpha op(a) op(b) + beta c), all column-major: d and c (m, n), op(a) (m, k), op(b)
//! (k, n).
//!
//! GELU is the approximation by tanh, <https://arxiv.org/abs/1606.08415>. What an epilogue takes is in f32, not rounded before.

use super::multiply::{Factor, multiply};
use crate::memory::check;
use half::{bf16, f16};
use std::ops::Range;

/// How elements lie in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    F32,
    Bf16,
    F16,
}

/// What is done to a product before it is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Epilogue {
    None,
    /// A bias for each row.
    Bias,
    /// A bias for each row, stored in the auxiliary matrix, then GELU.
    BiasGelu,
    /// Times GELU's derivative at the auxiliary matrix.
    GeluBackward,
    /// The sum of op(a) over k, for each row, is stored as the bias.
    BiasGradient,
}

/// A product's shape.
#[derive(Clone, Copy, Debug)]
pub(super) struct Product {
    pub(super) m: usize,
    pub(super) n: usize,
    pub(super) k: usize,
    /// Whether a lies as (k, m), and b as (n, k).
    pub(super) transposes: [bool; 2],
    /// Elements of a and b.
    pub(super) operands: Kind,
    /// Elements of c and d, and of the auxiliary matrix.
    pub(super) output: Kind,
    /// Elements from one column to the next, of a, b, c and d.
    pub(super) strides: [usize; 4],
    /// Whether f32 operands are rounded to TF32.
    pub(super) rounds_to_tf32: bool,
    pub(super) epilogue: Epilogue,
    pub(super) bias_kind: Kind,
    pub(super) aux_stride: usize,
    pub(super) alpha: f32,
    pub(super) beta: f32,
    /// Whether sums are taken from the last element to the first.
    pub(super) is_reversed: bool,
}

/// Addresses of a product's operands.
#[derive(Clone, Copy, Debug)]
pub(super) struct Operands {
    pub(super) a: u64,
    pub(super) b: u64,
    pub(super) c: u64,
    pub(super) d: u64,
    pub(super) bias: u64,
    pub(super) aux: u64,
}

/// Multiplications that are worth a second thread.
const WORTH_A_THREAD: usize = 1 << 22;

/// Columns that are done at a time: their sums stay in the cache.
const STRIPE: usize = 384;

impl Product {
    /// Computes it; the error is a fault, as of an operand that is outside of memory.
    pub(super) fn run(&self, operands: &Operands, workspace: (u64, usize)) -> Result<(), String> {
        self.check_memory(operands, workspace).map_err(|fault| format!("a product: {fault}"))?;
        let factors = [(operands.a, 0), (operands.b, 1)].map(|(address, which)| Factor {
            address,
            kind: self.operands,
            stride: self.strides[which],
            is_transposed: self.transposes[which],
            rounds_to_tf32: self.rounds_to_tf32,
        });
        if self.epilogue == Epilogue::BiasGradient {
            for row in 0..self.m {
                let sum: f64 = (0..self.k).map(|p| f64::from(factors[0].at(row, p))).sum();
                self.bias_kind.store(operands.bias, row, sum as f32);
            }
        }
        let halves = match self.m * self.n * self.k >= WORTH_A_THREAD && self.n > 1 {
            true => vec![0..self.n / 2, self.n / 2..self.n],
            false => vec![0..self.n; 1],
        };
        std::thread::scope(|scope| {
            let mut halves = halves.into_iter();
            let own = halves.next();
            for half in halves {
                scope.spawn(|| self.columns(operands, &factors, half));
            }
            if let Some(own) = own {
                self.columns(operands, &factors, own);
            }
        });
        Ok(())
    }

    fn columns(&self, operands: &Operands, factors: &[Factor; 2], columns: Range<usize>) {
        let mut start = columns.start;
        while start < columns.end {
            let end = columns.end.min(start + STRIPE);
            let (sums, stride) = multiply(factors, [self.m, end - start, self.k], start, self.is_reversed);
            for column in start..end {
                self.finish(operands, column, &sums[(column - start) * stride..][..self.m]);
            }
            start = end;
        }
    }

    /// Stores a column of sums.
    fn finish(&self, operands: &Operands, column: usize, sums: &[f32]) {
        let [.., c_stride, d_stride] = self.strides;
        let (c_start, d_start, aux_start) = (column * c_stride, column * d_stride, column * self.aux_stride);
        for (row, sum) in sums.iter().enumerate() {
            let mut x = self.alpha * sum;
            if self.beta != 0.0 {
                x += self.beta * self.output.load(operands.c, c_start + row);
            }
            if matches!(self.epilogue, Epilogue::Bias | Epilogue::BiasGelu) {
                x += self.bias_kind.load(operands.bias, row);
            }
            if self.epilogue == Epilogue::BiasGelu {
                self.output.store(operands.aux, aux_start + row, x);
                x = gelu(x);
            }
            if self.epilogue == Epilogue::GeluBackward {
                x *= gelu_derivative(self.output.load(operands.aux, aux_start + row));
            }
            self.output.store(operands.d, d_start + row, x);
        }
    }

    fn check_memory(&self, operands: &Operands, workspace: (u64, usize)) -> Result<(), String> {
        let [a, b, c, d] = self.strides;
        let stored = |rows, cols, transpose| if transpose { (cols, rows) } else { (rows, cols) };
        let bytes = |(rows, cols): (usize, usize), stride: usize, kind: Kind| match rows * cols {
            0 => 0,
            _ => ((cols - 1) * stride + rows) * kind.bytes(),
        };
        let a_bytes = bytes(stored(self.m, self.k, self.transposes[0]), a, self.operands);
        let b_bytes = bytes(stored(self.k, self.n, self.transposes[1]), b, self.operands);
        let d_bytes = bytes((self.m, self.n), d, self.output);
        check("a", operands.a, a_bytes)?;
        check("b", operands.b, b_bytes)?;
        check("d", operands.d, d_bytes)?;
        check("the workspace", workspace.0, workspace.1)?;
        if self.beta != 0.0 {
            check("c", operands.c, bytes((self.m, self.n), c, self.output))?;
        }
        if self.epilogue.has_bias() {
            check("the bias", operands.bias, self.m * self.bias_kind.bytes())?;
        }
        if self.epilogue.has_aux() {
            let aux = bytes((self.m, self.n), self.aux_stride, self.output);
            check("the auxiliary matrix", operands.aux, aux)?;
        }
        let overlaps = |address: u64, bytes: usize| {
            address < operands.d + d_bytes as u64 && operands.d < address + bytes as u64
        };
        match overlaps(operands.a, a_bytes) || overlaps(operands.b, b_bytes) {
            true => Err(format!("d at {:#x} overlaps what is multiplied", operands.d)),
            false => Ok(()),
        }
    }
}

impl Epilogue {
    pub(super) fn has_bias(self) -> bool {
        matches!(self, Epilogue::Bias | Epilogue::BiasGelu | Epilogue::BiasGradient)
    }

    pub(super) fn has_aux(self) -> bool {
        matches!(self, Epilogue::BiasGelu | Epilogue::GeluBackward)
    }
}

impl Kind {
    /// From a `cudaDataType`.
    pub(super) fn of_number(number: i32) -> Option<Self> {
        match number {
            0 => Some(Kind::F32),
            2 => Some(Kind::F16),
            14 => Some(Kind::Bf16),
            _ => None,
        }
    }

    pub(super) fn bytes(self) -> usize {
        if self == Kind::F32 { 4 } else { 2 }
    }

    /// The element `index` of an array in live memory, which was checked.
    fn load(self, address: u64, index: usize) -> f32 {
        let pointer = pointer(address, index * self.bytes());
        // SAFETY: `check_memory` found the element in a live allocation.
        unsafe {
            match self {
                Kind::F32 => pointer.cast::<f32>().read_unaligned(),
                Kind::Bf16 => pointer.cast::<bf16>().read_unaligned().to_f32(),
                Kind::F16 => pointer.cast::<f16>().read_unaligned().to_f32(),
            }
        }
    }

    fn store(self, address: u64, index: usize, value: f32) {
        let pointer = pointer(address, index * self.bytes());
        // SAFETY: as above.
        unsafe {
            match self {
                Kind::F32 => pointer.cast::<f32>().write_unaligned(value),
                Kind::Bf16 => pointer.cast::<bf16>().write_unaligned(bf16::from_f32(value)),
                Kind::F16 => pointer.cast::<f16>().write_unaligned(f16::from_f32(value)),
            }
        }
    }
}

fn pointer(address: u64, offset: usize) -> *mut u8 {
    std::ptr::with_exposed_provenance_mut(address as usize + offset)
}

const ROOT: f32 = 0.797_884_6; // sqrt(2 / pi)
const CUBIC: f32 = 0.044_715;

fn gelu(x: f32) -> f32 {
    0.5 * x * (1.0 + (ROOT * (x + CUBIC * x * x * x)).tanh())
}

fn gelu_derivative(x: f32) -> f32 {
    let tanh = (ROOT * (x + CUBIC * x * x * x)).tanh();
    0.5 * (1.0 + tanh) + 0.5 * x * (1.0 - tanh * tanh) * ROOT * (1.0 + 3.0 * CUBIC * x * x)
}

#[cfg(test)]
mod tests;
