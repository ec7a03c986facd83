//! Muon on the CPU: Newton-Schulz as fifteen small matrix products; everything else is one pass before and one after.
//!
//! X is never transposed: a tall one is multiplied from the other side, X = a X + X (b A + c A A) with A = X^T X.

use super::{COEFFICIENTS, Muon, MuonDims, MuonStep, NORM_EPSILON, STEPS};
use crate::adamw::cpu::sum_of_squares;
use crate::cpu::{AlignedBuf, Cpu, SharedMut, Simd, Task};
use crate::gemm::{Epilogue, Lhs, LhsPanels, Packed, Tile, Word, gemm};
use crate::gemm::{pack_lhs_transposed, pack_rhs_columns, pack_rhs_rows};
use crate::linear::cpu::with_rows;
use crate::linear::epilogues::Matrix;

/// Rows of a task of the passes before and after.
const ROWS: usize = 16;

impl<E: Word> Muon for Cpu<E> {
    fn muon(
        &self,
        value: &mut AlignedBuf<f32>,
        momentum: &mut AlignedBuf<f32>,
        grad: &AlignedBuf<f32>,
        step: MuonStep,
        dims: MuonDims,
    ) {
        let MuonDims { rows, cols, pieces } = dims;
        assert!(pieces > 0 && cols.is_multiple_of(pieces), "{cols} columns are not {pieces} equal pieces");
        assert!(
            [value.as_ref().len(), momentum.as_ref().len(), grad.as_ref().len()] == [rows * cols; 3],
            "value, momentum and gradient must hold {rows} x {cols}"
        );
        let width = cols / pieces;
        let scale = step.learning_rate * 0.2 * (rows.max(width) as f32).sqrt();
        let keep = 1.0 - step.learning_rate * step.weight_decay;
        let (value, momentum) = (SharedMut::new(value), SharedMut::new(momentum));
        self.with_scratch(3 * rows * width, |words| {
            let (update, words) = words.split_at_mut(rows * width);
            let update: &mut [f32] = bytemuck::cast_slice_mut(update);
            for piece in 0..pieces {
                let at = |row: usize| row * cols + piece * width;
                each_row(self, rows, width, update, |row, update| {
                    // SAFETY: each task has its own rows.
                    let momentum = unsafe { momentum.slice(at(row), width) };
                    self.isa().run(Accumulate { update, momentum, grad: &grad[at(row)..][..width], step });
                });
                orthogonalize(self, update, words, rows, width);
                each_row(self, rows, width, update, |row, update| {
                    // SAFETY: each task has its own rows.
                    let value = unsafe { value.slice(at(row), width) };
                    self.isa().run(Apply { value, update, keep, scale });
                });
            }
        });
    }
}

/// Calls `f` with each row of `matrix` (rows, width), in parallel.
fn each_row<E: Word, T: Send>(
    cpu: &Cpu<E>,
    rows: usize,
    width: usize,
    matrix: &mut [T],
    f: impl Fn(usize, &mut [T]) + Sync,
) {
    let matrix = SharedMut::new(matrix);
    cpu.parallel(rows.div_ceil(ROWS), |task| {
        for row in task * ROWS..rows.min((task + 1) * ROWS) {
            // SAFETY: each task has its own rows.
            f(row, unsafe { matrix.slice(row * width, width) });
        }
    });
}

/// m = mu m + g;  update = g + mu m.
struct Accumulate<'a> {
    update: &'a mut [f32],
    momentum: &'a mut [f32],
    grad: &'a [f32],
    step: MuonStep,
}

impl Task for Accumulate<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self) {
        let (scale, mu) = (self.step.grad_scale, self.step.momentum);
        for ((update, m), g) in self.update.iter_mut().zip(self.momentum).zip(self.grad) {
            *m = mu * *m + scale * g;
            *update = scale * g + mu * *m;
        }
    }
}

/// value = keep value - scale update.
struct Apply<'a> {
    value: &'a mut [f32],
    update: &'a [f32],
    keep: f32,
    scale: f32,
}

impl Task for Apply<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self) {
        for (value, update) in self.value.iter_mut().zip(self.update) {
            *value = self.keep * *value - self.scale * update;
        }
    }
}

/// Replaces `update` (rows, cols) by its orthogonal factor, roughly. `scratch` has room for two copies.
fn orthogonalize<E: Word>(cpu: &Cpu<E>, update: &mut [f32], scratch: &mut [u32], rows: usize, cols: usize) {
    let factor = (1.0 / (sum_of_squares(cpu, update).sqrt() + NORM_EPSILON)) as f32;
    let (first, second) = scratch.split_at_mut(rows * cols);
    let mut x: &mut [E] = &mut bytemuck::cast_slice_mut(first)[..rows * cols];
    let mut next: &mut [E] = &mut bytemuck::cast_slice_mut(second)[..rows * cols];
    each_row(cpu, rows, cols, x, |row, x| {
        cpu.isa().run(Convert { out: x, values: &update[row * cols..][..cols], factor });
    });
    let m = rows.min(cols);
    cpu.with_scratch(panel_words::<E>(rows, cols), |panels| {
        cpu.with_scratch(2 * m * m, |squares| {
            let (square, mix) = squares.split_at_mut(m * m);
            let square: &mut [E] = &mut bytemuck::cast_slice_mut(square)[..m * m];
            let mix: &mut [E] = &mut bytemuck::cast_slice_mut(mix)[..m * m];
            for _ in 0..STEPS {
                newton_schulz(cpu, x, next, square, mix, panels, rows, cols);
                std::mem::swap(&mut x, &mut next);
            }
        });
    });
    for (u, x) in update.iter_mut().zip(x.iter()) {
        *u = x.to_f32();
    }
}

/// Words of the packed right operands, of which there is one at a time, and of a packed left one.
fn panel_words<E: Word>(rows: usize, cols: usize) -> usize {
    let (m, n) = (rows.min(cols), rows.max(cols));
    Packed::num_words::<E>(n, m).max(Packed::num_words::<E>(m, n)) + LhsPanels::num_words::<E>(m, n)
}

/// One step: next = a X + B X, or a X + X B if X is tall, B = b A + c A A.
fn newton_schulz<E: Word>(
    cpu: &Cpu<E>,
    x: &[E],
    next: &mut [E],
    square: &mut [E],
    mix: &mut [E],
    panels: &mut [u32],
    rows: usize,
    cols: usize,
) {
    let (tall, m) = (rows > cols, rows.min(cols));
    let [a, b, c] = COEFFICIENTS;
    let none = Blend { scale: 1.0, weight: 0.0, other: &[] };
    if tall {
        let (left, right) = panels.split_at_mut(LhsPanels::num_words::<E>(cols, rows));
        let lhs = Lhs::Panels(pack_lhs_transposed(cpu, left, x, rows, cols, cols));
        let rhs = pack_rhs_rows(cpu, right, x, rows, cols, None);
        gemm(cpu, m, lhs, rhs, &StoreBlend { out: Matrix::new(square, m, m), blend: none });
    } else {
        product(cpu, (x, rows, cols), pack_rhs_columns(cpu, panels, x, cols, m), square, none);
    }
    let blend = Blend { scale: c, weight: b, other: square };
    product(cpu, (square, m, m), pack_rhs_rows(cpu, panels, square, m, m, None), mix, blend);
    let blend = Blend { scale: 1.0, weight: a, other: x };
    if tall {
        product(cpu, (x, rows, cols), pack_rhs_rows(cpu, panels, mix, m, m, None), next, blend);
    } else {
        product(cpu, (mix, m, m), pack_rhs_rows(cpu, panels, x, m, cols, None), next, blend);
    }
}

/// out = factor values, narrowed.
struct Convert<'a, E> {
    out: &'a mut [E],
    values: &'a [f32],
    factor: f32,
}

impl<E: Word> Task for Convert<'_, E> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self) {
        for (o, x) in self.out.iter_mut().zip(self.values) {
            *o = E::from_f32(self.factor * x);
        }
    }
}

/// What a product C becomes: `scale` C + `weight` `other`, where an empty `other` is zero.
#[derive(Clone, Copy)]
struct Blend<'a, E> {
    scale: f32,
    weight: f32,
    other: &'a [E],
}

/// Multiplies the rows of `lhs` = (matrix, rows, k) with `rhs` into `out`.
fn product<E: Word>(
    cpu: &Cpu<E>,
    lhs: (&[E], usize, usize),
    rhs: Packed<'_>,
    out: &mut [E],
    blend: Blend<'_, E>,
) {
    let (x, rows, k) = lhs;
    let epilogue = StoreBlend { out: Matrix::new(out, rows, rhs.columns), blend };
    with_rows(cpu, x, rows, k, |lhs| gemm(cpu, rows, lhs, rhs, &epilogue));
}

/// out = the blend of C.
struct StoreBlend<'a, E> {
    out: Matrix<'a, E>,
    blend: Blend<'a, E>,
}

impl<E: Word> Epilogue for StoreBlend<'_, E> {
    #[inline(always)]
    fn tile<S: Simd>(&self, tile: &Tile<'_>) {
        let Blend { scale, weight, other } = self.blend;
        for (i, values) in tile.values.iter().enumerate() {
            let start = self.out.index(tile, i);
            let out = self.out.row(tile, i);
            if other.is_empty() {
                for (o, x) in out.iter_mut().zip(values) {
                    *o = E::from_f32(scale * x);
                }
            } else {
                for ((o, x), y) in out.iter_mut().zip(values).zip(&other[start..][..tile.cols]) {
                    *o = E::from_f32(S::fma(weight, y.to_f32(), scale * x));
                }
            }
        }
    }
}
