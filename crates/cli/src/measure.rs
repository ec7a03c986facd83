//! Training steps on random weights and tokens, timed: what `bench training` reports and quickstart plans by.

use crate::errors::{Failure, Outcome};
use eyas_model::{Activations, Config, Gpt, Gradients, Use};
use eyas_ops::{Backend, Rng};
use eyas_train::{Hyper, Optimizer, OptimizerKind};
use std::sync::Arc;
use std::time::Instant;

/// A network in training, and a batch that it takes again and again.
pub(crate) struct Steps<D: Backend> {
    gpt: Gpt<D>,
    acts: Activations<D>,
    grads: Gradients<D>,
    optimizer: Optimizer<D>,
    time: usize,
    inputs: Vec<u32>,  // (B, T)
    targets: Vec<u32>, // (B, T)
    weights: Vec<f32>, // (B, T)
    num_steps: u64,
}

impl<D: Backend> Steps<D> {
    /// `batch` rows of `time` tokens.
    pub(crate) fn new(
        device: Arc<D>,
        config: &Config,
        (batch, time): (usize, usize),
        kind: OptimizerKind,
    ) -> Outcome<Self> {
        let mut gpt = Gpt::new(device, config.clone(), Use::Training)?;
        gpt.init(0);
        let mut rng = Rng::new(0);
        let mut draw = || (rng.next_u64() % config.vocab_size as u64) as u32;
        let num_tokens = batch * time;
        Ok(Steps {
            acts: Activations::new(&gpt, batch, time),
            grads: Gradients::new(&gpt),
            optimizer: Optimizer::new(&gpt, kind, Hyper { weight_decay: 0.1, ..Hyper::default() }),
            inputs: (0..num_tokens).map(|_| draw()).collect(),
            targets: (0..num_tokens).map(|_| draw()).collect(),
            weights: vec![1.0 / num_tokens as f32; num_tokens],
            num_steps: 0,
            gpt,
            time,
        })
    }

    /// Seconds of one step: forward, backward, clipping, optimizer, and the compute copies made again.
    pub(crate) fn step(&mut self) -> Outcome<f64> {
        let start = Instant::now();
        self.num_steps += 1;
        self.grads.clear();
        // Without dropout in the configuration the key is not used.
        self.gpt.forward(&mut self.acts, &self.inputs, self.time, Some(self.num_steps));
        let _ = self.gpt.backward(&mut self.acts, &mut self.grads, &self.targets, &self.weights);
        let updated = self.optimizer.update(&mut self.gpt, &self.grads, 5e-4);
        updated.map_err(|error| Failure::failed(error.to_string()))?;
        Ok(start.elapsed().as_secs_f64())
    }

    /// Seconds of scoring the batch, as an evaluation does.
    pub(crate) fn evaluation(&mut self) -> f64 {
        let start = Instant::now();
        let _ = self.gpt.evaluate(&mut self.acts, &self.inputs, &self.targets, self.time);
        start.elapsed().as_secs_f64()
    }
}
