//! LayerNorm on the CPU: a block of rows a task; the parameters' gradients are summed within blocks, then over blocks.

use super::{LayerNorm, LayerNormDims};
use crate::cpu::math::{LANES, lanes, sum_lanes};
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
    let mut sums = [0.0; LANES];
    let (chunks, rest) = x.as_chunks::<LANES>();
    for chunk in chunks {
        for (sum, x) in sums.iter_mut().zip(chunk) {
            *sum += f(x.to_f32());
        }
    }
    for (sum, x) in sums.iter_mut().zip(rest) {
        *sum += f(x.to_f32());
    }
    sum_lanes(sums)
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

impl<E: Word> Task for Backward<'_, E> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self) {
        let channels = self.weight.len();
        let rows = self.dx.chunks_exact_mut(channels).zip(self.dout.chunks_exact(channels));
        let rows = rows.zip(self.x.chunks_exact(channels)).zip(self.mean.iter().zip(self.rstd));
        for (((dx, dout), x), (&mean, &rstd)) in rows {
            let row = Row { dout, x, weight: self.weight, mean, rstd };
            let means = row.sums::<S>().map(|sum| sum / channels as f32);
            let whole = channels / LANES * LANES;
            for column in (0..whole).step_by(LANES) {
                row.add::<S, LANES>(column, means, dx, self.dweight, self.dbias);
            }
            for column in whole..channels {
                row.add::<S, 1>(column, means, dx, self.dweight, self.dbias);
            }
        }
    }
}

/// A row of the backward pass, with n = (x - mean) rstd and g = dout weight.
struct Row<'a, E> {
    dout: &'a [E],
    x: &'a [E],
    weight: &'a [f32],
    mean: f32,
    rstd: f32,
}

impl<E: Word> Row<'_, E> {
    /// The sums of g and of g n.
    #[inline(always)]
    fn sums<S: Simd>(&self) -> [f32; 2] {
        let (mut g_sums, mut gn_sums) = ([0.0; LANES], [0.0; LANES]);
        let whole = self.x.len() / LANES * LANES;
        for column in (0..whole).step_by(LANES) {
            let ([_, n, g], before) = (self.columns::<LANES>(column), (g_sums, gn_sums));
            g_sums = lanes(|j| before.0[j] + g[j]);
            gn_sums = lanes(|j| S::fma(g[j], n[j], before.1[j]));
        }
        let mut sums = [sum_lanes(g_sums), sum_lanes(gn_sums)];
        for column in whole..self.x.len() {
            let [_, [n], [g]] = self.columns::<1>(column);
            sums = [sums[0] + g, S::fma(g, n, sums[1])];
        }
        sums
    }

    /// Adds what `N` columns give to the gradients, with the means of g and of g n.
    #[inline(always)]
    fn add<S: Simd, const N: usize>(
        &self,
        column: usize,
        [mean_g, mean_gn]: [f32; 2],
        dx: &mut [E],
        dweight: &mut [f32],
        dbias: &mut [f32],
    ) {
        const INSIDE: &str = "columns of the row";
        let [d, n, g] = self.columns::<N>(column);
        let dx: &mut [E; N] = dx[column..].first_chunk_mut().expect(INSIDE);
        let dweight: &mut [f32; N] = dweight[column..].first_chunk_mut().expect(INSIDE);
        let dbias: &mut [f32; N] = dbias[column..].first_chunk_mut().expect(INSIDE);
        let (dx_before, dw_before, db_before) = (*dx, *dweight, *dbias);
        *dbias = lanes(|j| db_before[j] + d[j]);
        *dweight = lanes(|j| S::fma(d[j], n[j], dw_before[j]));
        *dx = narrow::<S, E, N>(|j| dx_before[j].to_f32() + self.rstd * (g[j] - mean_g - n[j] * mean_gn));
    }

    /// dout, n and g of `N` columns.
    #[inline(always)]
    fn columns<const N: usize>(&self, column: usize) -> [[f32; N]; 3] {
        let (dout, x, weight) =
            (&self.dout[column..][..N], &self.x[column..][..N], &self.weight[column..][..N]);
        let d: [f32; N] = lanes(|j| dout[j].to_f32());
        [d, lanes(|j| (x[j].to_f32() - self.mean) * self.rstd), lanes(|j| d[j] * weight[j])]
    }
}
