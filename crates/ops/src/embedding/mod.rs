//! Token and position embedding, with dropout.
//!
//! ```text
//! Forward:   out[b,t,c] = D(wte[tokens[b,t], c] + wpe[start + t, c])          D: dropout, identity in evaluation
//! Backward:  dwte[tokens[b,t], c] += D'(dout[b,t,c]);   dwpe[start + t, c] += D'(dout[b,t,c])
//! ```
//!
//! The sums of the backward pass run over (b, t) in order for each channel, whatever the number of threads.

mod cpu;
pub(crate) mod cuda;

use crate::{Act, Buf, Device, Dropout};

/// Shapes of an embedding.
#[derive(Clone, Copy, Debug)]
pub struct EmbeddingDims {
    /// B: rows of tokens.
    pub batch: usize,
    /// T: tokens in a row.
    pub time: usize,
    /// C.
    pub channels: usize,
    /// V: rows of wte.
    pub vocab_size: usize,
    /// Position of the first token of each row: 0 in training, the length of the cache in generation.
    pub start: usize,
}

/// Token and position embedding.
pub trait Embedding: Device {
    /// Sets `out` (B, T, C) from `tokens` (B, T), `wte` (V, C) and `wpe` (P, C), P at least start + T.
    /// Every token must be below V.
    fn embedding_forward(
        &self,
        out: &mut Act<Self>,
        tokens: &Buf<Self, u32>,
        wte: &Buf<Self, f32>,
        wpe: &Buf<Self, f32>,
        dropout: Dropout,
        dims: EmbeddingDims,
    );

    /// Adds to `dwte` (V, C) and `dwpe` (P, C) from `dout` (B, T, C).
    fn embedding_backward(
        &self,
        dwte: &mut Buf<Self, f32>,
        dwpe: &mut Buf<Self, f32>,
        dout: &Act<Self>,
        tokens: &Buf<Self, u32>,
        dropout: Dropout,
        dims: EmbeddingDims,
    );
}

/// The forward pass, as naively as it can be written, without dropout.
#[cfg(test)]
fn reference<R: crate::testing::Real>(tokens: &[u32], wte: &[R], wpe: &[R], dims: EmbeddingDims) -> Vec<R> {
    let (time, channels) = (dims.time, dims.channels);
    let element = |i: usize| {
        let (row, c) = (i / channels, i % channels);
        wte[tokens[row] as usize * channels + c] + wpe[(dims.start + row % time) * channels + c]
    };
    (0..dims.batch * time * channels).map(element).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Rng;
    use crate::testing::*;

    fn check<D: Embedding>(device: &D, batch: usize, time: usize, channels: usize, start: usize) {
        let dims = EmbeddingDims { batch, time, channels, vocab_size: 11, start };
        let (rows, positions) = (batch * time, start + time + 2);
        let mut rng = Rng::new(channels as u64);
        let tokens: Vec<u32> = (0..rows).map(|_| (rng.next_u64() % 11) as u32).collect();
        let (wte, wpe) =
            (random::<f32>(&mut rng, 11 * channels), random::<f32>(&mut rng, positions * channels));
        let dout = random::<D::Element>(&mut rng, rows * channels);
        let mut on_device = device.zeros::<u32>(rows);
        device.write(&mut on_device, &tokens);
        let (wte_d, wpe_d) = (upload(device, &wte), upload(device, &wpe));
        for dropout in [Dropout::NONE, Dropout::new(0.3, 7, 0)] {
            let mut out = device.zeros(rows * channels);
            device.embedding_forward(&mut out, &on_device, &wte_d, &wpe_d, dropout, dims);
            let factors: Vec<f32> = (0..rows * channels).map(|i| factor(dropout, i)).collect();
            let want = reference::<f64>(&tokens, &constants(&wte), &constants(&wpe), dims);
            let want: Vec<f32> = want.iter().zip(&factors).map(|(x, f)| *x as f32 * f).collect();
            let error = relative_error(&download_act(device, &out, rows * channels), &want);
            assert!(error < forward_tolerance::<D>(), "{dims:?}: {error:e}");

            let mut dwte = upload(device, &vec![1.0; wte.len()]);
            let mut dwpe = upload(device, &vec![1.0; wpe.len()]);
            let dout_d = upload_act(device, &dout);
            device.embedding_backward(&mut dwte, &mut dwpe, &dout_d, &on_device, dropout, dims);
            let added = |x: Vec<f32>| x.into_iter().map(|x| x - 1.0).collect::<Vec<f32>>();
            let dwte = added(download(device, &dwte, wte.len()));
            let dwpe = added(download(device, &dwpe, wpe.len()));
            let seen: Vec<f32> = dout.iter().zip(&factors).map(|(d, f)| d * f).collect();
            let (vte, vpe) = (random::<f32>(&mut rng, wte.len()), random::<f32>(&mut rng, wpe.len()));
            let moved = reference(&tokens, &moving(&wte, &vte), &moving(&wpe, &vpe), dims);
            let got = inner(&dwte, &vte) + inner(&dwpe, &vpe);
            let scale = size(&dwte, &vte) + size(&dwpe, &vpe);
            assert_slope("embedding", got, slope(&seen, &moved), scale, 1e-5);
        }
    }

    #[test]
    fn equals_the_reference() {
        on_every_device!(|device| {
            for (batch, time, channels, start) in [(1, 1, 1, 0), (3, 5, 7, 0), (2, 9, 65, 4), (1, 3, 200, 1)]
            {
                check(device, batch, time, channels, start);
            }
        });
    }
}
