//! Training steps on random weights and tokens, timed: what `bench` reports and quickstart plans by.

use crate::errors::{Failure, Outcome};
use eyas_model::{Activations, Config, Gpt, Gradients, Use, check_training};
use eyas_ops::{Backend, Element, F16, Rng};
use eyas_train::{Hyper, Optimizer, OptimizerKind, key_of};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// What an update reads, and how.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Update {
    /// B: samples of a micro-batch.
    pub(crate) batch: usize,
    /// T: tokens of a sample.
    pub(crate) time: usize,
    /// Micro-batches.
    pub(crate) accumulation: usize,
    /// Whether backward computes again what is inside blocks.
    pub(crate) gradient_checkpointing: bool,
}

impl Update {
    /// One micro-batch.
    pub(crate) const fn new(batch: usize, time: usize) -> Self {
        Update { batch, time, accumulation: 1, gradient_checkpointing: false }
    }

    /// Its tokens in all.
    pub(crate) fn num_tokens(self) -> usize {
        self.batch * self.time * self.accumulation
    }
}

/// A network in training, and a micro-batch that it takes again and again.
pub(crate) struct Steps<D: Backend> {
    gpt: Gpt<D>,
    acts: Activations<D>,
    grads: Gradients<D>,
    optimizer: Optimizer<D>,
    update: Update,
    inputs: Vec<u32>,  // (B, T)
    targets: Vec<u32>, // (B, T)
    weights: Vec<f32>, // (B, T)
    num_steps: u64,
    /// Memory of the device that was free before, where it can be said.
    free_before: Option<usize>,
}

impl<D: Backend> Steps<D> {
    /// New weights.
    pub(crate) fn new(device: Arc<D>, config: &Config, update: Update, kind: OptimizerKind) -> Outcome<Self> {
        let free_before = device.free_bytes();
        let mut gpt = Gpt::new(device, config.clone(), Use::Training)?;
        gpt.init(0);
        check_training(&gpt, update.batch, update.time, update.gradient_checkpointing)?;
        Ok(Self::of(gpt, update, kind, free_before))
    }

    fn of(mut gpt: Gpt<D>, update: Update, kind: OptimizerKind, free_before: Option<usize>) -> Self {
        let (mut rng, vocab_size) = (Rng::new(0), gpt.config().vocab_size as u64);
        let mut draw = || (rng.next_u64() % vocab_size) as u32;
        let rows = update.batch * update.time;
        gpt.set_gradient_checkpointing(update.gradient_checkpointing);
        let mut grads = Gradients::new(&gpt);
        // So that the gradients of fp16 are about as large as where a loss scale has settled.
        grads.loss_scale = match D::Element::NAME == F16::NAME {
            true => update.num_tokens().next_power_of_two() as f64,
            false => 1.0,
        };
        Steps {
            acts: Activations::new(&gpt, update.batch, update.time),
            optimizer: Optimizer::new(&gpt, kind, Hyper { weight_decay: 0.1, ..Hyper::default() }),
            inputs: (0..rows).map(|_| draw()).collect(),
            targets: (0..rows).map(|_| draw()).collect(),
            weights: vec![(grads.loss_scale / update.num_tokens() as f64) as f32; rows],
            num_steps: 0,
            grads,
            gpt,
            update,
            free_before,
        }
    }

    /// Seconds of one step: forward, backward, clipping, optimizer, and the compute copies made again. A GPU is waited for
    /// at the gradients' norm; what it does after that counts for the next step.
    pub(crate) fn step(&mut self) -> Outcome<f64> {
        let start = Instant::now();
        self.num_steps += 1;
        self.grads.clear();
        for part in 0..self.update.accumulation {
            // Without dropout in the configuration the key is not used.
            let key = key_of(self.num_steps, part as u64);
            self.gpt.forward(&mut self.acts, &self.inputs, self.update.time, Some(key));
            self.gpt.backward(&mut self.acts, &mut self.grads, &self.targets, &self.weights);
        }
        let updated = self.optimizer.update(&mut self.gpt, &self.grads, 5e-4);
        updated.map_err(|error| Failure::failed(error.to_string()))?;
        Ok(start.elapsed().as_secs_f64())
    }

    /// Steps for about `time`, after some that do not count, `after_warm_up` being called between the two.
    pub(crate) fn times(&mut self, time: Duration, after_warm_up: impl FnOnce()) -> Outcome<Times> {
        const WARM_UP: usize = 2;
        const LEAST: usize = 3;
        for _ in 0..WARM_UP {
            self.step()?;
        }
        after_warm_up();
        let (mut seconds, end) = (Vec::new(), Instant::now() + time);
        while seconds.len() < LEAST || Instant::now() < end {
            seconds.push(self.step()?);
        }
        Ok(Times::new(seconds))
    }

    /// Seconds of scoring the batch, as an evaluation does.
    pub(crate) fn evaluation(&mut self) -> f64 {
        self.gpt.device().synchronize();
        let start = Instant::now();
        let _ = self.gpt.evaluate(&mut self.acts, &self.inputs, &self.targets, self.update.time);
        start.elapsed().as_secs_f64()
    }

    /// The mean loss of the batch, without dropout.
    pub(crate) fn loss(&mut self) -> f64 {
        let scores = self.gpt.evaluate(&mut self.acts, &self.inputs, &self.targets, self.update.time);
        scores.losses.iter().map(|loss| f64::from(*loss)).sum::<f64>() / scores.losses.len() as f64
    }

    /// The losses of the last micro-batch of the last step.
    pub(crate) fn losses(&mut self) -> &[f32] {
        self.gpt.losses(&mut self.acts)
    }

    /// The network.
    pub(crate) fn gpt(&self) -> &Gpt<D> {
        &self.gpt
    }

    /// Memory of the device that this takes, where it can be said.
    pub(crate) fn device_bytes(&self) -> Option<usize> {
        Some(self.free_before?.saturating_sub(self.gpt.device().free_bytes()?))
    }

    /// Writes network and optimizer to folder `dir`.
    pub(crate) fn save(&self, dir: &Path) -> Outcome {
        self.gpt.save(dir)?;
        Ok(self.optimizer.save(&dir.join(OPTIMIZER))?)
    }

    /// What [`save`](Self::save) wrote after `num_steps` steps, on a device of any kind.
    pub(crate) fn load(
        device: Arc<D>,
        dir: &Path,
        update: Update,
        kind: OptimizerKind,
        num_steps: u64,
    ) -> Outcome<Self> {
        let mut steps = Self::of(Gpt::load(device, dir, Use::Training)?, update, kind, None);
        steps.optimizer.load(&dir.join(OPTIMIZER))?;
        steps.num_steps = num_steps;
        Ok(steps)
    }
}

const OPTIMIZER: &str = "optimizer.safetensors";

/// How long something took, several times.
#[derive(Clone, Debug)]
pub(crate) struct Times {
    /// Sorted.
    seconds: Vec<f64>,
}

impl Times {
    /// Of one time at least.
    pub(crate) fn new(mut seconds: Vec<f64>) -> Self {
        seconds.sort_by(f64::total_cmp);
        Times { seconds }
    }

    fn at(&self, share: f64) -> f64 {
        self.seconds[((self.seconds.len() - 1) as f64 * share).round() as usize]
    }

    /// The median.
    pub(crate) fn median(&self) -> f64 {
        self.at(0.5)
    }

    /// From the first tenth to the last, as a share of the median.
    pub(crate) fn spread(&self) -> f64 {
        (self.at(0.9) - self.at(0.1)) / self.median()
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.seconds.len()
    }

    /// Their sum.
    pub(crate) fn total(&self) -> f64 {
        self.seconds.iter().sum()
    }
}
