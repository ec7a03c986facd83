//! Layer normalization (Ba, Kiros and Hinton, 2016), over the channels of each row.
//!
//! Forward:   mean = sum(x) / C;  rstd = 1 / sqrt(sum((x - mean)^2) / C + eps);  n = (x - mean) rstd
//!            out = n weight + bias
//! Backward:  dbias += sum over rows of dout;  dweight += sum over rows of dout n
//!            g = dout weight;  dx += rstd (g - mean(g) - n mean(g n))
//!
//! `dx` is added to, because the residual stream's gradient already waits there. Forward saves mean and rstd, (rows).

mod cpu;

use crate::{Act, Buf, Device};

/// Shapes of a layer normalization.
#[derive(Clone, Copy, Debug)]
pub struct LayerNormDims {
    /// Rows: B T.
    pub rows: usize,
    /// C.
    pub channels: usize,
    /// Added to the variance.
    pub epsilon: f32,
}

/// Layer normalization.
pub trait LayerNorm: Device {
    /// Sets `out` (rows, C), `mean` (rows) and `rstd` (rows) from `x` (rows, C), `weight` (C), `bias` (C).
    fn layernorm_forward(
        &self,
        out: &mut Act<Self>,
        mean: &mut Buf<Self, f32>,
        rstd: &mut Buf<Self, f32>,
        x: &Act<Self>,
        weight: &Buf<Self, f32>,
        bias: &Buf<Self, f32>,
        dims: LayerNormDims,
    );

    /// Adds to `dx` (rows, C), `dweight` (C) and `dbias` (C).
    fn layernorm_backward(
        &self,
        dx: &mut Act<Self>,
        dweight: &mut Buf<Self, f32>,
        dbias: &mut Buf<Self, f32>,
        dout: &Act<Self>,
        mean: &Buf<Self, f32>,
        rstd: &Buf<Self, f32>,
        x: &Act<Self>,
        weight: &Buf<Self, f32>,
        dims: LayerNormDims,
    );
}
