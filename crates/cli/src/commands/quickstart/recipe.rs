//! The recipe: every choice that decides how good the model is when the time is up. Tuned by experiments, in one place.
//!
//! What it is measured by: bits per byte on held-out code after ten minutes on two cores.

use crate::device::Place;

/// What differs between a machine of a few cores and a GPU, which does a thousand times as much in the same time.
#[derive(Clone, Copy, Debug)]
pub(super) struct Recipe {
    /// T: tokens of a sample.
    pub(super) context_length: usize,
    /// B: samples of a step, at least. Smaller batches mean more steps, which is what a short run is short of, but Muon's
    /// work is the same for each.
    least_batch: usize,
    /// B at most: what keeps the device busy.
    most_batch: usize,
    /// Shapes to choose from, in order of size.
    pub(super) shapes: &'static [Shape],
    /// Share of the peak that a shape is expected to reach before one was measured.
    pub(super) usual_share: f64,
    /// Steps before those that are measured: on a GPU the first ones compile kernels, time algorithms and record passes.
    pub(super) warm_up_steps: usize,
    /// Share of the free memory that a run may take.
    pub(super) share_of_memory: f64,
    /// Text that is read at most, for each second of the whole time: it has to be made into tokens.
    pub(super) bytes_per_second: f64,
}

const CPU: Recipe = Recipe {
    context_length: 256,
    least_batch: 16,
    most_batch: 16,
    shapes: &SHAPES,
    usual_share: 0.45,
    warm_up_steps: 0,
    share_of_memory: 0.5,
    bytes_per_second: f64::INFINITY,
};

/// Estimates: not tuned, other than CPU's.
const GPU: Recipe = Recipe {
    context_length: 512,
    least_batch: 16,
    most_batch: 64,
    shapes: SHAPES.first_chunk::<8>().expect("eight shapes").as_slice(),
    usual_share: 0.3,
    warm_up_steps: 3,
    share_of_memory: 0.8,
    bytes_per_second: 1e6,
};

impl Recipe {
    /// That of a device.
    pub(super) fn of(place: Place) -> &'static Self {
        match place {
            Place::Cpu(_) => &CPU,
            Place::Cuda => &GPU,
        }
    }

    /// B, where there are `num_tokens` to learn from: a small corpus is not learned in a few large steps.
    pub(super) fn batch_size(&self, num_tokens: f64) -> usize {
        // Steps of one pass over the data.
        const STEPS: f64 = 64.0;
        let wanted = (num_tokens / self.context_length as f64 / STEPS) as usize;
        // A power of two, rounded down.
        1 << wanted.clamp(self.least_batch, self.most_batch).ilog2()
    }
}

/// Settings of `eyas train` that no rule below decides.
pub(super) const SETTINGS: &[(&str, &str)] = &[
    // Muon for the matrices: the largest single gain, twice the learning from a token in a run this short.
    ("optim", "muon"),
    ("adam_beta2", "0.95"),
    ("weight_decay", "0.1"),
    ("max_grad_norm", "1"),
    ("lr_scheduler_type", "linear"),
    // A share of the time, so that a short run warms up as shortly.
    ("warmup_ratio", "0.02"),
];

/// The optimizer that the measuring steps take: that of `SETTINGS`.
pub(super) const OPTIMIZER: eyas_train::OptimizerKind = eyas_train::OptimizerKind::Muon;

/// Depth and width of a network. Heads are 64 wide.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Shape {
    /// L.
    pub(super) n_layer: usize,
    /// C.
    pub(super) n_embd: usize,
}

impl Shape {
    /// NH: heads of 64 channels, one at least, and a divisor of the width.
    pub(super) fn n_head(self) -> usize {
        (1..=self.n_embd.div_ceil(64)).rev().find(|n| self.n_embd.is_multiple_of(*n)).unwrap_or(1)
    }
}

/// Shapes to choose from, each about twice the arithmetic of the one before.
const SHAPES: [Shape; 9] = [
    Shape { n_layer: 2, n_embd: 128 },
    Shape { n_layer: 3, n_embd: 192 },
    Shape { n_layer: 4, n_embd: 256 },
    Shape { n_layer: 5, n_embd: 320 },
    Shape { n_layer: 6, n_embd: 384 },
    Shape { n_layer: 8, n_embd: 512 },
    Shape { n_layer: 10, n_embd: 640 },
    Shape { n_layer: 12, n_embd: 768 },
    Shape { n_layer: 24, n_embd: 1024 },
];

/// The largest shape is taken that still sees this many tokens for each weight it multiplies by: a larger one would learn
/// too little in the time, a smaller one has too little room.
pub(super) const TOKENS_PER_WEIGHT: f64 = 1.8;
/// Passes over the same tokens that are worth as much as new ones, about (Muennighoff et al. 2023, section 4).
pub(super) const WORTHWHILE_EPOCHS: f64 = 4.0;

/// V: the tokens a corpus can fill with use, a power of two.
pub(super) fn vocab_size(num_bytes: u64) -> usize {
    let wanted = (num_bytes / 500).clamp(512, 8192);
    1 << wanted.ilog2()
}

/// Highest learning rate of a shape: narrower networks stand higher ones.
pub(super) fn learning_rate(shape: Shape) -> f64 {
    1.5e-2 * (256.0 / shape.n_embd as f64).sqrt()
}

/// Probability of dropout, for a run that passes over its data so many times: without repetition it only costs.
pub(super) fn dropout(num_epochs: f64) -> f64 {
    if num_epochs > WORTHWHILE_EPOCHS { 0.1 } else { 0.0 }
}

/// Text that the tokenizer is trained on at most: more changes little and takes time.
pub(super) const TOKENIZER_BYTES: u64 = 40 << 20;
/// One document in so many is held out.
pub(super) const VALIDATION_ONE_IN: u64 = 20;
/// Held-out text that is kept at most.
pub(super) const VALIDATION_BYTES: u64 = 8 << 20;

/// Shares of the whole time.
pub(super) mod shares {
    /// Reading and filtering, at most.
    pub(in super::super) const READING: f64 = 0.08;
    /// Measuring the machine, about.
    pub(in super::super) const MEASURING: f64 = 0.02;
    /// Evaluation, at most; [`EVALUATION_SECONDS`] at most too.
    pub(in super::super) const EVALUATION: f64 = 0.05;
    /// Saving, completions and what nobody thought of.
    pub(in super::super) const ENDING: f64 = 0.02;
}

/// Evaluation at most; more would say the same with one digit more.
pub(super) const EVALUATION_SECONDS: f64 = 15.0;
/// Ending at most.
pub(super) const ENDING_SECONDS: f64 = 4.0;
