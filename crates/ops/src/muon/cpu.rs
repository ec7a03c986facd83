//! Muon on the CPU: Newton-Schulz as fifteen small matrix products.

use super::{COEFFICIENTS, Muon, MuonDims, MuonStep, NORM_EPSILON, STEPS};
use crate::cpu::{AlignedBuf, Cpu, Simd};
use crate::gemm::{Epilogue, Packed, Tile, Word, gemm, pack_rhs_columns, pack_rhs_rows};
use crate::linear::cpu::{Matrix, with_rows};

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
        let len = rows * cols;
        assert!(pieces > 0 && cols.is_multiple_of(pieces), "{cols} columns are not {pieces} equal pieces");
        assert!(
            [value.as_ref().len(), momentum.as_ref().len(), grad.as_ref().len()] == [len; 3],
            "value, momentum and gradient must hold {rows} x {cols}"
        );
        for (m, g) in momentum.iter_mut().zip(&**grad) {
            *m = step.momentum * *m + step.grad_scale * g;
        }
        let width = cols / pieces;
        let scale = step.learning_rate * 0.2 * (rows.max(width) as f32).sqrt();
        let keep = 1.0 - step.learning_rate * step.weight_decay;
        self.with_scratch(3 * len.div_ceil(pieces), |words| {
            let (update, words) = words.split_at_mut(rows * width);
            let update: &mut [f32] = bytemuck::cast_slice_mut(update);
            for piece in 0..pieces {
                let row = |i: usize| i * cols + piece * width..i * cols + (piece + 1) * width;
                for (i, u) in update.chunks_exact_mut(width).enumerate() {
                    for ((u, m), g) in u.iter_mut().zip(&momentum[row(i)]).zip(&grad[row(i)]) {
                        *u = step.grad_scale * g + step.momentum * m;
                    }
                }
                let halves = words.split_at_mut(rows * width);
                orthogonalize(self, update, halves, rows, width);
                for (i, u) in update.chunks_exact(width).enumerate() {
                    for (v, u) in value[row(i)].iter_mut().zip(u) {
                        *v = keep * *v - scale * u;
                    }
                }
            }
        });
    }
}

/// Replaces `update` (rows, cols) by its orthogonal factor, roughly. `scratch` has room for two copies.
fn orthogonalize<E: Word>(
    cpu: &Cpu<E>,
    update: &mut [f32],
    scratch: (&mut [u32], &mut [u32]),
    rows: usize,
    cols: usize,
) {
    let norm = update.iter().map(|x| f64::from(*x) * f64::from(*x)).sum::<f64>().sqrt() + NORM_EPSILON;
    let factor = (1.0 / norm) as f32;
    // X is wide: m <= n.
    let (tall, m, n) = (rows > cols, rows.min(cols), rows.max(cols));
    let at = |i: usize| if tall { i % n * cols + i / n } else { i };
    let mut x: &mut [E] = &mut bytemuck::cast_slice_mut(scratch.0)[..m * n];
    let mut next: &mut [E] = &mut bytemuck::cast_slice_mut(scratch.1)[..m * n];
    for (i, x) in x.iter_mut().enumerate() {
        *x = E::from_f32(factor * update[at(i)]);
    }
    let [a, b, c] = COEFFICIENTS;
    let panels =
        Packed::num_words::<E>(n, m).max(Packed::num_words::<E>(m, n)).max(Packed::num_words::<E>(m, m));
    cpu.with_scratch(panels, |panels| {
        cpu.with_scratch(2 * m * m, |squares| {
            let (square, mix) = squares.split_at_mut(m * m);
            let square: &mut [E] = &mut bytemuck::cast_slice_mut(square)[..m * m];
            let mix: &mut [E] = &mut bytemuck::cast_slice_mut(mix)[..m * m];
            for _ in 0..STEPS {
                let none = &[][..];
                product(
                    cpu,
                    (x, m, n),
                    pack_rhs_columns(cpu, panels, x, n, m),
                    Blend(1.0, 0.0, none, square),
                );
                product(
                    cpu,
                    (square, m, m),
                    pack_rhs_rows(cpu, panels, square, m, m, None),
                    Blend(c, b, square, mix),
                );
                product(cpu, (mix, m, m), pack_rhs_rows(cpu, panels, x, m, n, None), Blend(1.0, a, x, next));
                std::mem::swap(&mut x, &mut next);
            }
        });
    });
    for (i, x) in x.iter().enumerate() {
        update[at(i)] = x.to_f32();
    }
}

/// Output of a product: `.3 = .0 C + .1 other`, where `other` is `.2` or, if that is empty, zero.
struct Blend<'a, E>(f32, f32, &'a [E], &'a mut [E]);

/// Multiplies the rows of `lhs` = (matrix, rows, k) with `rhs` into `blend`.
fn product<E: Word>(cpu: &Cpu<E>, lhs: (&[E], usize, usize), rhs: Packed<'_>, blend: Blend<'_, E>) {
    let Blend(scale, weight, other, out) = blend;
    let (x, rows, k) = lhs;
    let epilogue = StoreBlend { out: Matrix::new(out, rows, rhs.columns), other, scale, weight };
    with_rows(cpu, x, rows, k, |lhs| gemm(cpu, rows, lhs, rhs, 0..rhs.k_words, &epilogue));
}

/// out = scale C + weight other.
struct StoreBlend<'a, E> {
    out: Matrix<'a, E>,
    other: &'a [E],
    scale: f32,
    weight: f32,
}

impl<E: Word> Epilogue for StoreBlend<'_, E> {
    #[inline(always)]
    fn tile<S: Simd>(&self, tile: &Tile<'_>) {
        for (i, values) in tile.values.iter().enumerate() {
            let start = self.out.index(tile, i);
            let out = self.out.row(tile, i);
            if self.other.is_empty() {
                for (o, x) in out.iter_mut().zip(values) {
                    *o = E::from_f32(self.scale * x);
                }
            } else {
                let other = &self.other[start..][..tile.cols];
                for ((o, x), y) in out.iter_mut().zip(values).zip(other) {
                    *o = E::from_f32(S::fma(self.weight, y.to_f32(), self.scale * x));
                }
            }
        }
    }
}
