//! LayerNorm on the CPU: a block of rows a task; the parameters' gradients are summed within blocks, then over blocks.

use super::{LayerNorm, LayerNormDims};
use crate::cpu::math::{LANES, sum_lanes};
use crate::cpu::{AlignedBuf, Cpu, SharedMut, Simd, Task};
use crate::element::Element;
use crate::gemm::Word;

/// Rows of a task. Fixed, because the blocks decide the order of the sums over rows.
const ROWS: usize = 64;

impl<E: Word> LayerNorm for Cpu<E> {
    fn layernorm_forward(
        &self,
        out: &mut AlignedBuf<E>,
        mean: &mut AlignedBuf<f32>,
        rstd: &mut AlignedBuf<f32>,
        x: &AlignedBuf<E>,
        weight: &AlignedBuf<f32>,
        bias: &AlignedBuf<f32>,
        dims: LayerNormDims,
    ) {
        let LayerNormDims { rows, channels, epsilon } = dims;
        let (weight, bias) = (&weight[..channels], &bias[..channels]);
        let (out, mean, rstd) = (SharedMut::new(out), SharedMut::new(mean), SharedMut::new(rstd));
        self.parallel(rows.div_ceil(ROWS), |block| {
            let (first, rows) = (block * ROWS, ROWS.min(rows - block * ROWS));
            // SAFETY: each task has its own rows.
            let (out, mean, rstd) = unsafe {
                (
                    out.slice(first * channels, rows * channels),
                    mean.slice(first, rows),
                    rstd.slice(first, rows),
                )
            };
            let x = &x[first * channels..][..rows * channels];
            self.isa().run(Forward { out, mean, rstd, x, weight, bias, epsilon });
        });
    }

    fn layernorm_backward(
        &self,
        dx: &mut AlignedBuf<E>,
        dweight: &mut AlignedBuf<f32>,
        dbias: &mut AlignedBuf<f32>,
        dout: &AlignedBuf<E>,
        mean: &AlignedBuf<f32>,
        rstd: &AlignedBuf<f32>,
        x: &AlignedBuf<E>,
        weight: &AlignedBuf<f32>,
        dims: LayerNormDims,
    ) {
        let LayerNormDims { rows, channels, .. } = dims;
        let weight = &weight[..channels];
        let blocks = rows.div_ceil(ROWS);
        self.with_scratch(blocks * 2 * channels, |words| {
            let sums: &mut [f32] = bytemuck::cast_slice_mut(words);
            let (shared, dx) = (SharedMut::new(sums), SharedMut::new(dx));
            self.parallel(blocks, |block| {
                let (first, rows) = (block * ROWS, ROWS.min(rows - block * ROWS));
                let piece = first * channels..(first + rows) * channels;
                // SAFETY: each task has its own rows and its own sums.
                let (dx, sums) = unsafe {
                    (dx.slice(piece.start, piece.len()), shared.slice(block * 2 * channels, 2 * channels))
                };
                sums.fill(0.0);
                let (dweight, dbias) = sums.split_at_mut(channels);
                let (mean, rstd) = (&mean[first..][..rows], &rstd[first..][..rows]);
                let (dout, x) = (&dout[piece.clone()], &x[piece]);
                self.isa().run(Backward { dx, dweight, dbias, dout, mean, rstd, x, weight });
            });
            for sums in sums.chunks_exact(2 * channels) {
                let (dw, db) = sums.split_at(channels);
                dweight.iter_mut().zip(dw).for_each(|(sum, x)| *sum += x);
                dbias.iter_mut().zip(db).for_each(|(sum, x)| *sum += x);
            }
        });
    }
}

/// The sum of `f(i)`, i < `len`, in 16 lanes.
#[inline(always)]
fn sum(len: usize, f: impl Fn(usize) -> f32) -> f32 {
    let mut lanes = [0.0; LANES];
    let whole = len / LANES * LANES;
    for start in (0..whole).step_by(LANES) {
        for (lane, total) in lanes.iter_mut().enumerate() {
            *total += f(start + lane);
        }
    }
    for (lane, i) in (whole..len).enumerate() {
        lanes[lane] += f(i);
    }
    sum_lanes(lanes)
}

struct Forward<'a, E> {
    out: &'a mut [E],
    mean: &'a mut [f32],
    rstd: &'a mut [f32],
    x: &'a [E],
    weight: &'a [f32],
    bias: &'a [f32],
    epsilon: f32,
}

impl<E: Element> Task for Forward<'_, E> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self) {
        let channels = self.weight.len();
        let rows = self.out.chunks_exact_mut(channels).zip(self.x.chunks_exact(channels));
        for ((out, x), (mean, rstd)) in rows.zip(self.mean.iter_mut().zip(self.rstd)) {
            let m = sum(channels, |i| x[i].to_f32()) / channels as f32;
            let square = |i: usize| (x[i].to_f32() - m) * (x[i].to_f32() - m);
            let r = 1.0 / (sum(channels, square) / channels as f32 + self.epsilon).sqrt();
            for (((o, x), w), b) in out.iter_mut().zip(x).zip(self.weight).zip(self.bias) {
                *o = E::from_f32(S::fma((x.to_f32() - m) * r, *w, *b));
            }
            (*mean, *rstd) = (m, r);
        }
    }
}

struct Backward<'a, E> {
    dx: &'a mut [E],
    dweight: &'a mut [f32],
    dbias: &'a mut [f32],
    dout: &'a [E],
    mean: &'a [f32],
    rstd: &'a [f32],
    x: &'a [E],
    weight: &'a [f32],
}

impl<E: Element> Task for Backward<'_, E> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self) {
        let Backward { weight, dweight, dbias, .. } = self;
        let channels = weight.len();
        let rows = self.dx.chunks_exact_mut(channels).zip(self.dout.chunks_exact(channels));
        let rows = rows.zip(self.x.chunks_exact(channels)).zip(self.mean.iter().zip(self.rstd));
        for (((dx, dout), x), (&mean, &rstd)) in rows {
            let n = |i: usize| (x[i].to_f32() - mean) * rstd;
            let g = |i: usize| dout[i].to_f32() * weight[i];
            let mean_g = sum(channels, g) / channels as f32;
            let mean_gn = sum(channels, |i| g(i) * n(i)) / channels as f32;
            for i in 0..channels {
                let (n, d) = (n(i), dout[i].to_f32());
                dbias[i] += d;
                dweight[i] = S::fma(d, n, dweight[i]);
                dx[i] = E::from_f32(dx[i].to_f32() + rstd * (d * weight[i] - mean_g - n * mean_gn));
            }
        }
    }
}
