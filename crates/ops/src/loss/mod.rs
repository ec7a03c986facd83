//! The loss head: vocabulary projection fused with cross-entropy, so that (B, T, V) logits never exist at once.
//!
//! ```text
//! Forward:   logits[i] = x[i] W^T, W (V, C);   losses[i] = logsumexp(logits[i]) - logits[i, targets[i]]
//! Backward:  dlogits[i] = weights[i] (softmax(logits[i]) - onehot(targets[i]))
//!            dx = dlogits W;   dW += dlogits^T x
//! ```
//!
//! A row whose target is [`IGNORE`](crate::IGNORE) has loss 0 and no gradient. Rows are worked on in blocks, and a
//! block's logits are turned into their gradient in place. `weights[i]` is the derivative of what is minimized with
//! respect to `losses[i]`: 1/N for a mean over N targets.

mod cpu;
pub(crate) mod cuda;

use crate::{Act, Buf, Linear};

/// Shapes of a loss head.
#[derive(Clone, Copy, Debug)]
pub struct LossDims {
    /// Rows: B T.
    pub rows: usize,
    /// C.
    pub channels: usize,
    /// V.
    pub vocab_size: usize,
}

/// Vocabulary projection and cross-entropy. `head` is a compute copy with
/// [`Storage::OutputsInputs`](crate::Storage::OutputsInputs) of C inputs and V outputs.
pub trait Loss: Linear {
    /// Bytes of scratch memory that the device allocates once for `loss_backward`.
    fn loss_scratch_bytes(&self, dims: LossDims) -> usize;

    /// Sets `losses` (rows), in nats, and `predictions` (rows), the most likely token of each row (lowest id on ties).
    fn loss_forward(
        &self,
        losses: &mut Buf<Self, f32>,
        predictions: &mut Buf<Self, u32>,
        x: &Act<Self>,
        head: &Self::Weights,
        targets: &Buf<Self, u32>,
        dims: LossDims,
    );

    /// Sets `losses` (rows) and `dx` (rows, C), adds to `dhead` (V, C). Forward and backward in one pass.
    fn loss_backward(
        &self,
        losses: &mut Buf<Self, f32>,
        dx: &mut Act<Self>,
        dhead: &mut Buf<Self, f32>,
        x: &Act<Self>,
        head: &Self::Weights,
        targets: &Buf<Self, u32>,
        weights: &Buf<Self, f32>,
        dims: LossDims,
    );

    /// Sets `logits` (rows, V), for generation, where rows are few.
    fn logits(&self, logits: &mut Buf<Self, f32>, x: &Act<Self>, head: &Self::Weights, dims: LossDims);
}

/// The losses, as naively as they can be written.
#[cfg(test)]
fn reference<R: crate::testing::Real>(x: &[R], head: &[R], targets: &[u32], dims: LossDims) -> Vec<R> {
    let LossDims { channels, vocab_size, .. } = dims;
    let row = |(row, &target): (usize, &u32)| {
        if target == crate::IGNORE {
            return R::from(0.0);
        }
        let x = &x[row * channels..][..channels];
        let logit = |v: usize| R::sum(x.iter().zip(&head[v * channels..]).map(|(x, w)| *x * *w));
        R::sum((0..vocab_size).map(|v| logit(v).exp())).ln() - logit(target as usize)
    };
    targets.iter().enumerate().map(row).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::*;
    use crate::{Element, IGNORE, Rng, Rounding, Storage, Use};

    fn check<D: Loss>(device: &D, rows: usize, channels: usize, vocab_size: usize) -> Vec<f32> {
        let dims = LossDims { rows, channels, vocab_size };
        let mut rng = Rng::new((rows * channels + vocab_size) as u64);
        let x = random::<D::Element>(&mut rng, rows * channels);
        let mut head = random::<f32>(&mut rng, vocab_size * channels);
        // Logits of a few units, as a network has them.
        head.iter_mut().for_each(|w| *w = D::Element::from_f32(*w * 0.3).to_f32());
        let weights: Vec<f32> = (0..rows).map(|i| 1.0 / (i + 2) as f32).collect();
        let mut targets: Vec<u32> = (0..rows).map(|_| (rng.next_u64() % vocab_size as u64) as u32).collect();
        if rows > 2 {
            targets[1] = IGNORE;
        }
        let mut targets_d = device.zeros::<u32>(rows);
        device.write(&mut targets_d, &targets);
        let mut head_d = device.weights(channels, vocab_size, Storage::OutputsInputs, Use::Training);
        device.pack(&mut [(&mut head_d, &upload(device, &head))], Rounding::Nearest);
        let (x_d, weights_d) = (upload_act(device, &x), upload(device, &weights));
        let want: Vec<f32> = reference::<f64>(&constants(&x), &constants(&head), &targets, dims)
            .iter()
            .map(|x| *x as f32)
            .collect();

        let (mut losses, mut predictions) = (device.zeros::<f32>(rows), device.zeros::<u32>(rows));
        device.loss_forward(&mut losses, &mut predictions, &x_d, &head_d, &targets_d, dims);
        let error = relative_error(&download(device, &losses, rows), &want);
        assert!(error < 1e-5, "{dims:?}: losses {error:e}");
        let mut logits = device.zeros::<f32>(rows * vocab_size);
        device.logits(&mut logits, &x_d, &head_d, dims);
        let logits = download(device, &logits, rows * vocab_size);
        let mut predicted = vec![0; rows];
        device.read(&mut predicted, &predictions);
        for (logits, best) in logits.chunks_exact(vocab_size).zip(predicted) {
            let max = logits.iter().fold(f32::NEG_INFINITY, |a, b| a.max(*b));
            assert_eq!(logits.iter().position(|x| *x == max), Some(best as usize));
        }

        let mut dx = device.zeros(rows * channels);
        let mut dhead = device.zeros::<f32>(vocab_size * channels);
        device.loss_backward(&mut losses, &mut dx, &mut dhead, &x_d, &head_d, &targets_d, &weights_d, dims);
        let losses = download(device, &losses, rows);
        let error = relative_error(&losses, &want);
        assert!(error < forward_tolerance::<D>(), "{dims:?}: losses of backward {error:e}");
        let (dx, dhead) = (download_act(device, &dx, rows * channels), download(device, &dhead, head.len()));
        for (name, gradient, which) in [("dx", &dx, 0), ("dhead", &dhead, 1)] {
            let direction = random::<f32>(&mut rng, gradient.len());
            let input = |i: usize, x: &[f32]| if i == which { moving(x, &direction) } else { constants(x) };
            let moved = reference(&input(0, &x), &input(1, &head), &targets, dims);
            let (got, want) = (inner(gradient, &direction), slope(&weights, &moved));
            assert_slope(name, got, want, size(gradient, &direction), gradient_tolerance::<D>());
        }
        [losses, dx, dhead].concat()
    }

    #[test]
    fn equals_the_reference_with_the_same_bits_for_any_threads() {
        let mut results = std::collections::HashMap::new();
        on_every_device!(|device| {
            // The last vocabulary is read in several parts on the CPU, the last one short.
            let shapes = [(1, 1, 2), (3, 7, 33), (20, 36, 211), (61, 16, 100), (5, 4, 16_391)];
            for (rows, channels, vocab_size) in shapes {
                let result = check(device, rows, channels, vocab_size);
                let key = (any_threads(device), rows);
                let first = results.entry(key).or_insert_with(|| result.clone());
                assert_eq!(*first, result, "threads change no bit");
            }
        });
    }
}
