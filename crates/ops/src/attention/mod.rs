//! Causal multi-head attention, in tiles: neither scores nor probabilities, (T, T), ever exist whole.
//!
//! For each row b and head h, with q, k, v (T, HS) cut out of qkv (T, 3C) at column h HS of each third:
//!
//! ```text
//! Forward:   s[i,j] = q[i] . k[j] / sqrt(HS) for starts[i] <= j <= i;   lse[i] = log sum_j exp(s[i,j])
//!            p[i,j] = exp(s[i,j] - lse[i]);   out[i] = sum_j D(p[i,j]) v[j]            D: dropout
//! Backward:  delta[i] = out[i] . dout[i];   dp[i,j] = D'(dout[i] . v[j])
//!            dv[j] = sum_i D(p[i,j]) dout[i];   ds = p (dp - delta) / sqrt(HS)
//!            dq[i] = sum_j ds[i,j] k[j];   dk[j] = sum_i ds[i,j] q[i]
//! ```
//!
//! `starts[b,i]` is the first token of row b that token i sees: the first of its document, where documents share a row and
//! are not to see each other. Without starts it is 0. What lies before it weighs nothing, not even by rounding: other
//! tokens there change no bit. Starts do not descend, so what a tile of queries sees is one range of tiles of keys, and
//! what sees a tile of keys one range of tiles of queries.
//!
//! Forward saves out and lse, (B, NH, T); backward recomputes p (FlashAttention, Dao et al. 2022).
//! Element (i, j) of head h of row b of the dropout mask has index i T + j in slice b NH + h.

mod cpu;
pub(crate) mod cuda;

use crate::{Act, Buf, Device, Dropout};

/// Shapes of attention in training.
#[derive(Clone, Copy, Debug)]
pub struct AttentionDims {
    /// B.
    pub batch: usize,
    /// T.
    pub time: usize,
    /// NH.
    pub heads: usize,
    /// HS.
    pub head_size: usize,
}

/// Shapes of attention over a KV cache.
#[derive(Clone, Copy, Debug)]
pub struct CachedAttentionDims {
    /// B: sequences.
    pub batch: usize,
    /// New tokens of each sequence.
    pub time: usize,
    /// Tokens already in the cache, the same for every sequence.
    pub cached: usize,
    /// Tokens the cache can hold.
    pub capacity: usize,
    /// NH.
    pub heads: usize,
    /// HS.
    pub head_size: usize,
}

/// Causal multi-head attention.
pub trait Attention: Device {
    /// The largest head size that the device has kernels for.
    fn max_head_size(&self) -> usize {
        usize::MAX
    }

    /// Sets `out` (B, T, C) and `lse` (B, NH, T) from `qkv` (B, T, 3C) and, where given, `starts` (B, T), which do not
    /// descend along a row, and are none past their own place.
    fn attention_forward(
        &self,
        out: &mut Act<Self>,
        lse: &mut Buf<Self, f32>,
        qkv: &Act<Self>,
        starts: Option<&Buf<Self, u32>>,
        dropout: Dropout,
        dims: AttentionDims,
    );

    /// Sets `dqkv` (B, T, 3C), with the `starts` of forward.
    fn attention_backward(
        &self,
        dqkv: &mut Act<Self>,
        dout: &Act<Self>,
        out: &Act<Self>,
        lse: &Buf<Self, f32>,
        qkv: &Act<Self>,
        starts: Option<&Buf<Self, u32>>,
        dropout: Dropout,
        dims: AttentionDims,
    );

    /// Appends the keys and values of `qkv` (B, T, 3C) to `keys` and `values` (B, NH, capacity, HS) at position
    /// `cached`, and sets `out` (B, T, C) to the attention of the new queries over all of the cache.
    fn attention_cached(
        &self,
        out: &mut Act<Self>,
        keys: &mut Act<Self>,
        values: &mut Act<Self>,
        qkv: &Act<Self>,
        dims: CachedAttentionDims,
    );
}

/// The forward pass, as naively as it can be written, with `starts` (B, T) and the factors of dropout given: (B, NH, T, T).
#[cfg(test)]
fn reference<R: crate::testing::Real>(
    qkv: &[R],
    starts: &[u32],
    factors: &[f32],
    dims: AttentionDims,
) -> Vec<R> {
    let AttentionDims { batch, time, heads, head_size } = dims;
    let channels = heads * head_size;
    let mut out = vec![R::from(0.0); batch * time * channels];
    for (task, i) in (0..batch * heads).flat_map(|task| (0..time).map(move |i| (task, i))) {
        let (b, h) = (task / heads, task % heads);
        let at = |t: usize, third: usize, d: usize| {
            qkv[(b * time + t) * 3 * channels + third * channels + h * head_size + d]
        };
        let dot = |j: usize| R::sum((0..head_size).map(|d| at(i, 0, d) * at(j, 1, d)));
        let seen = starts[b * time + i] as usize..=i;
        let weight = |j| {
            if seen.contains(&j) { (dot(j) / R::from((head_size as f64).sqrt())).exp() } else { R::from(0.0) }
        };
        let scores: Vec<R> = (0..=i).map(weight).collect();
        let sum = R::sum(scores.iter().copied());
        for d in 0..head_size {
            let term = |j: usize| {
                R::from(f64::from(factors[(task * time + i) * time + j])) * scores[j] / sum * at(j, 2, d)
            };
            out[(b * time + i) * channels + h * head_size + d] = R::sum((0..=i).map(term));
        }
    }
    out
}

#[cfg(test)]
mod tests;
