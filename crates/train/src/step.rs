//! One update of the weights: micro-batches forward and backward, their gradients added up.
//!
//! Owns the loss: the sum of the token losses of the whole update divided by the number of targets in it, so that each
//! token weighs the same whichever micro-batch it is in. The number is known from the targets before any forward pass.
//! Losses stay on the device until the last micro-batch is queued, so that a GPU never waits for the host between two.
//! Nothing is allocated after [`Step::new`].

use eyas_data::Loader;
use eyas_model::{Activations, Gpt, Gradients, IGNORE, KeptLosses};
use eyas_ops::{Backend, Rng};
use std::ops::{ControlFlow, Range};

/// The buffers of an update.
pub struct Step<D: Backend> {
    /// Activations of a micro-batch, which an evaluation may borrow between updates.
    pub activations: Activations<D>,
    /// Gradients, added up over the micro-batches.
    pub gradients: Gradients<D>,
    context_length: usize,
    inputs: Vec<u32>,           // (micro-batches, B, T)
    targets: Vec<u32>,          // (micro-batches, B, T)
    weights: Vec<f32>,          // (B, T)
    losses: Vec<KeptLosses<D>>, // one for each micro-batch
    host_losses: Vec<f32>,      // (B, T)
}

/// What an update saw.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StepLoss {
    /// Sum of the token losses, in nats.
    pub sum: f64,
    /// Targets.
    pub num_targets: u64,
    /// Tokens read, targets or not.
    pub num_tokens: u64,
}

impl StepLoss {
    /// The mean over targets.
    pub fn mean(&self) -> f64 {
        self.sum / self.num_targets as f64
    }
}

/// Which samples an update takes, and how.
#[derive(Clone, Debug)]
pub struct Samples {
    /// The epoch, which decides their order.
    pub epoch: u64,
    /// Positions in the epoch.
    pub positions: Range<u64>,
    /// Samples of a micro-batch, or of several that run as one pass; the last may be shorter.
    pub batch: usize,
    /// Key of the update's dropout; `None` for none.
    pub dropout_key: Option<u64>,
}

impl<D: Backend> Step<D> {
    /// Buffers for updates of up to `accumulation` micro-batches of `batch` samples of `context_length` tokens.
    pub fn new(gpt: &Gpt<D>, batch: usize, accumulation: usize, context_length: usize) -> Self {
        let num_tokens = batch * context_length;
        let activations = Activations::new(gpt, batch, context_length);
        Step {
            losses: (0..accumulation).map(|_| KeptLosses::new(&**gpt.device(), &activations)).collect(),
            activations,
            gradients: Gradients::new(gpt),
            context_length,
            inputs: vec![0; accumulation * num_tokens],
            targets: vec![IGNORE; accumulation * num_tokens],
            weights: vec![0.0; num_tokens],
            host_losses: vec![0.0; num_tokens],
        }
    }

    /// The first `num_tokens` tokens of the last update, in the order that they were read in.
    pub(crate) fn inputs(&self, num_tokens: usize) -> &[u32] {
        &self.inputs[..num_tokens]
    }

    /// Sets the gradients to those of `loss_scale` times the mean loss over `samples`. `after_each` is told how many micro-batches are done
    /// and may break, in which case the gradients mean nothing and `None` is returned.
    ///
    /// Samples are those of `loader`; there must be at least one, and they must fit the buffers.
    pub fn gradients_of(
        &mut self,
        gpt: &Gpt<D>,
        loader: &Loader,
        samples: &Samples,
        loss_scale: f64,
        after_each: &mut dyn FnMut(usize, usize) -> ControlFlow<()>,
    ) -> Option<StepLoss> {
        let time = self.context_length;
        let num_samples = (samples.positions.end - samples.positions.start) as usize;
        let num_tokens = num_samples * time;
        assert!(
            num_samples > 0 && num_tokens <= self.inputs.len(),
            "{num_samples} samples of {time} tokens do not fit"
        );
        let rows = self.inputs.chunks_exact_mut(time).zip(self.targets.chunks_exact_mut(time));
        for (position, (inputs, targets)) in samples.positions.clone().zip(rows) {
            loader.sample(samples.epoch, position, inputs, targets);
        }
        let (inputs, targets) = (&self.inputs[..num_tokens], &self.targets[..num_tokens]);
        let num_targets = targets.iter().filter(|&&target| target != IGNORE).count();
        // Exact for the powers of two that a loss scale is, so a scale of 1 changes no bit.
        self.weights.fill(loss_scale as f32 * (1.0 / num_targets.max(1) as f32));

        self.gradients.clear();
        self.gradients.loss_scale = loss_scale;
        let batch_tokens = samples.batch * time;
        let num_batches = num_tokens.div_ceil(batch_tokens);
        for (i, (inputs, targets)) in
            inputs.chunks(batch_tokens).zip(targets.chunks(batch_tokens)).enumerate()
        {
            let key = samples.dropout_key.map(|key| key_of(key, i as u64));
            gpt.forward(&mut self.activations, inputs, time, key);
            let weights = &self.weights[..targets.len()];
            gpt.backward(&mut self.activations, &mut self.gradients, targets, weights);
            self.losses[i].keep(&**gpt.device(), &self.activations);
            if after_each(i + 1, num_batches).is_break() {
                return None;
            }
        }
        let mut sum = 0.0;
        for (kept, targets) in self.losses.iter().zip(targets.chunks(batch_tokens)) {
            let losses = &mut self.host_losses[..targets.len()];
            kept.read(&**gpt.device(), losses);
            sum += losses.iter().map(|loss| f64::from(*loss)).sum::<f64>();
        }
        Some(StepLoss { sum, num_targets: num_targets as u64, num_tokens: num_tokens as u64 })
    }
}

/// A key for one part of what `key` names: a run's updates, an update's micro-batches.
pub fn key_of(key: u64, part: u64) -> u64 {
    Rng::new(Rng::new(key).next_u64() ^ part).next_u64()
}
