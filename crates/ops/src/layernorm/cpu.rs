//! LayerNorm on the CPU: a block of rows a task; the parameters' gradients are summed within blocks, then over blocks.

use super::{LayerNorm, LayerNormDims};
use crate::cpu::math::{LANES, sum_lanes};
use crate::cpu::{AlignedBuf, Cpu, SharedMut, Simd, Task};
use crate::element::Element;
use crate::gemm::{Word, narrow};

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
        _: Option<&mut AlignedBuf<f32>>,
        dweight: &mut AlignedBuf<f32>,
        dbias: &mut AlignedBuf<f32>,
        dout: &AlignedBuf<E>,
        mean: &AlignedBuf<f32>,
        rstd: &AlignedBuf<f32>,
        x: &AlignedBuf<E>,
        weight: &AlignedBuf<f32>,
        dims: LayerNormDims,
    ) -> bool {
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
        // The next layer's weights need dx in another order, and sum it up while they put it there.
        false
    }
}

/// The sum of `f(x)`, in 16 lanes.
#[inline(always)]
fn sum<E: Element>(x: &[E], f: impl Fn(f32) -> f32) -> f32 {
    let mut lanes = [0.0; LANES];
    let (chunks, rest) = x.as_chunks::<LANES>();
    for chunk in chunks {
        for (lane, x) in lanes.iter_mut().zip(chunk) {
            *lane += f(x.to_f32());
        }
    }
    for (lane, x) in lanes.iter_mut().zip(rest) {
        *lane += f(x.to_f32());
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

impl<E: Word> Task for Forward<'_, E> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self) {
        let channels = self.weight.len();
        let rows = self.out.chunks_exact_mut(channels).zip(self.x.chunks_exact(channels));
        for ((out, x), (mean, rstd)) in rows.zip(self.mean.iter_mut().zip(self.rstd)) {
            let m = sum(x, |x| x) / channels as f32;
            let r = 1.0 / (sum(x, |x| (x - m) * (x - m)) / channels as f32 + self.epsilon).sqrt();
            let (out, out_rest) = out.as_chunks_mut::<LANES>();
            let (x, x_rest) = x.as_chunks::<LANES>();
            let (weight, weight_rest) = self.weight.as_chunks::<LANES>();
            let (bias, bias_rest) = self.bias.as_chunks::<LANES>();
            for (((out, x), w), b) in out.iter_mut().zip(x).zip(weight).zip(bias) {
                *out = narrow::<S, E, LANES>(|j| S::fma((x[j].to_f32() - m) * r, w[j], b[j]));
            }
            for (((o, x), w), b) in out_rest.iter_mut().zip(x_rest).zip(weight_rest).zip(bias_rest) {
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
            let (sum_g, sum_gn) = sums_backward::<S, E>(dout, x, weight, mean, rstd);
            let (mean_g, mean_gn) = (sum_g / channels as f32, sum_gn / channels as f32);
            let outputs = dx.iter_mut().zip(dweight.iter_mut()).zip(dbias.iter_mut());
            let inputs = dout.iter().zip(x).zip(weight);
            for (((dx, dweight), dbias), ((d, x), w)) in outputs.zip(inputs) {
                let (d, n) = (d.to_f32(), (x.to_f32() - mean) * rstd);
                *dbias += d;
                *dweight = S::fma(d, n, *dweight);
                *dx = E::from_f32(dx.to_f32() + rstd * (d * w - mean_g - n * mean_gn));
            }
        }
    }
}

/// The sums over a row of g = dout weight and of g n, each in 16 lanes.
#[inline(always)]
fn sums_backward<S: Simd, E: Element>(
    dout: &[E],
    x: &[E],
    weight: &[f32],
    mean: f32,
    rstd: f32,
) -> (f32, f32) {
    let (mut g_lanes, mut gn_lanes) = ([0.0; LANES], [0.0; LANES]);
    for ((dout, x), weight) in dout.chunks(LANES).zip(x.chunks(LANES)).zip(weight.chunks(LANES)) {
        let lanes = g_lanes.iter_mut().zip(gn_lanes.iter_mut());
        for ((g_lane, gn_lane), ((d, x), w)) in lanes.zip(dout.iter().zip(x).zip(weight)) {
            let g = d.to_f32() * w;
            *g_lane += g;
            *gn_lane = S::fma(g, (x.to_f32() - mean) * rstd, *gn_lane);
        }
    }
    (sum_lanes(g_lanes), sum_lanes(gn_lanes))
}
