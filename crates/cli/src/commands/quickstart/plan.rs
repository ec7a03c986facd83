//! The plan: which network, and how many steps, fit into the time that is left. By measurement, not by tables.

use super::Overrides;
use super::recipe::{self, Recipe, Shape, shares};
use crate::errors::Outcome;
use crate::format;
use crate::measure::{Steps, Update};
use crate::output::note;
use eyas_model::{Config, flops_per_token, memory_plan, num_parameters};
use eyas_ops::{Backend, Use};
use serde::Serialize;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The time that was given.
#[derive(Clone, Copy, Debug)]
pub(super) struct Clock {
    pub(super) start: Instant,
    pub(super) total: Duration,
}

impl Clock {
    pub(super) fn share(&self, share: f64) -> Duration {
        self.total.mul_f64(share)
    }

    pub(super) fn left(&self) -> Duration {
        (self.start + self.total).saturating_duration_since(Instant::now())
    }

    /// Time for the evaluation.
    pub(super) fn evaluation(&self) -> Duration {
        self.share(shares::EVALUATION).min(Duration::from_secs_f64(recipe::EVALUATION_SECONDS))
    }

    /// Time for what comes after the evaluation.
    pub(super) fn ending(&self) -> Duration {
        self.share(shares::ENDING).min(Duration::from_secs_f64(recipe::ENDING_SECONDS))
    }
}

/// What is known of the data when the plan is made.
#[derive(Clone, Copy, Debug)]
pub(super) struct Data {
    pub(super) vocab_size: usize,
    pub(super) train_bytes: u64,
    pub(super) bytes_per_token: f64,
}

/// What a shape does on this machine.
#[derive(Clone, Copy, Debug)]
struct Measured {
    shape: Shape,
    tokens_per_second: f64,
    eval_tokens_per_second: f64,
}

/// What will be done.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Plan {
    pub(super) n_layer: usize,
    pub(super) n_head: usize,
    pub(super) n_embd: usize,
    pub(super) vocab_size: usize,
    pub(super) num_parameters: usize,
    pub(super) context_length: usize,
    pub(super) batch_size: usize,
    pub(super) learning_rate: f64,
    pub(super) dropout: f64,
    /// Measured.
    pub(super) tokens_per_second: f64,
    pub(super) eval_tokens_per_second: f64,
    pub(super) share_of_peak: f64,
    pub(super) peak_gflops: f64,
    pub(super) seconds_so_far: f64,
    pub(super) training_seconds: f64,
    pub(super) evaluation_seconds: f64,
    pub(super) ending_seconds: f64,
    /// Tokens that training will read.
    pub(super) num_tokens: f64,
    /// Tokens that there are to read.
    pub(super) available_tokens: f64,
    pub(super) train_bytes: u64,
    pub(super) bytes_per_token: f64,
    pub(super) device: String,
}

impl Plan {
    pub(super) fn num_steps(&self) -> f64 {
        (self.num_tokens / (self.batch_size * self.context_length) as f64).floor()
    }

    pub(super) fn num_epochs(&self) -> f64 {
        self.num_tokens / self.available_tokens
    }

    /// Text that will be read once, with some to spare: what has to be made into shards.
    pub(super) fn wanted_bytes(&self) -> u64 {
        const LEAST: f64 = 64e3;
        (self.num_tokens.min(self.available_tokens) * self.bytes_per_token * 1.5).max(LEAST) as u64
    }
}

/// GPT2Config of a shape.
fn config_of(shape: Shape, vocab_size: usize, context_length: usize) -> Config {
    let (n_layer, n_embd, n_head) = (shape.n_layer, shape.n_embd, shape.n_head());
    let (resid_pdrop, embd_pdrop, attn_pdrop) = (0.0, 0.0, 0.0);
    let n_positions = context_length;
    Config {
        vocab_size,
        n_positions,
        n_layer,
        n_embd,
        n_head,
        resid_pdrop,
        embd_pdrop,
        attn_pdrop,
        ..Config::default()
    }
}

/// An upper bound of the text that training can read in the time, for the smallest network at this machine's peak.
pub(super) fn most_bytes(recipe: &Recipe, peak_flops: f64, clock: &Clock, overrides: &Overrides) -> u64 {
    const BYTES_PER_TOKEN: f64 = 4.5;
    const SHARE_OF_PEAK: f64 = 0.5;
    const LEAST: f64 = 16e6;
    const MOST: f64 = 2e9;
    let shape = overrides.shape().unwrap_or(recipe.shapes[1]);
    let context_length = overrides.context_length(recipe);
    let config = config_of(shape, 4096, context_length);
    let flops = flops_per_token(&config, context_length);
    let tokens = SHARE_OF_PEAK * peak_flops / flops * clock.total.as_secs_f64();
    let most = MOST.min(recipe.bytes_per_second * clock.total.as_secs_f64());
    (tokens * BYTES_PER_TOKEN).min(most).max(LEAST) as u64
}

/// Measures candidates and plans. Every candidate that is taken was measured, not guessed.
pub(super) fn make<D: Backend>(
    device: &Arc<D>,
    recipe: &Recipe,
    peak_flops: f64,
    clock: &Clock,
    data: Data,
    overrides: &Overrides,
) -> Outcome<Plan> {
    let unique = data.train_bytes as f64 / data.bytes_per_token;
    let context_length = overrides.context_length(recipe);
    let batch = overrides.batch_size(recipe, unique);
    let config = |shape| config_of(shape, data.vocab_size, context_length);
    let training_seconds =
        |clock: &Clock| (clock.left().saturating_sub(clock.evaluation() + clock.ending())).as_secs_f64();
    let free = device.free_bytes().map(|bytes| bytes as u64).or_else(available_memory);
    let memory = (free.unwrap_or(u64::MAX) as f64 * recipe.share_of_memory) as u64;
    let fits = |shape: &Shape| {
        let plan = memory_plan(&**device, &config(*shape), batch, context_length, Use::Training, false);
        (plan.total_bytes() as u64) < memory
    };
    let shapes: Vec<Shape> = match overrides.shape() {
        Some(shape) => vec![shape],
        None => recipe.shapes.iter().copied().filter(fits).collect(),
    };
    let shapes = if shapes.is_empty() { vec![recipe.shapes[0]] } else { shapes };
    let mut measured: Vec<Measured> = Vec::new();
    let until = Instant::now() + clock.share(shares::MEASURING);
    let best = loop {
        // What is not measured yet is expected to reach the share of peak that its neighbour reached.
        let rate = |shape: Shape| {
            expected_rate(&measured, shape, &config, context_length, recipe.usual_share * peak_flops)
        };
        let seconds = training_seconds(clock);
        let is_enough = |shape: &Shape| {
            let tokens = (rate(*shape) * seconds).min(unique * recipe::WORTHWHILE_EPOCHS);
            tokens >= recipe::TOKENS_PER_WEIGHT * weights(&config(*shape))
        };
        let shape = shapes.iter().rev().copied().find(is_enough).unwrap_or(shapes[0]);
        if let Some(known) = measured.iter().find(|known| known.shape == shape) {
            break *known;
        }
        let time = clock.share(shares::MEASURING / 3.0);
        let (config, warm_up) = (config(shape), recipe.warm_up_steps);
        measured.push(measure(device, shape, &config, (batch, context_length), warm_up, time)?);
        if let (Some(last), true) = (measured.last(), Instant::now() > until) {
            break *last;
        }
    };
    let chosen = config(best.shape);
    let seconds = training_seconds(clock);
    let num_tokens = best.tokens_per_second * seconds;
    Ok(Plan {
        n_layer: chosen.n_layer,
        n_head: chosen.n_head,
        n_embd: chosen.n_embd,
        vocab_size: data.vocab_size,
        num_parameters: num_parameters(&chosen),
        context_length,
        batch_size: batch,
        learning_rate: overrides.learning_rate.unwrap_or_else(|| recipe::learning_rate(best.shape)),
        dropout: recipe::dropout(num_tokens / unique),
        tokens_per_second: best.tokens_per_second,
        eval_tokens_per_second: best.eval_tokens_per_second,
        share_of_peak: best.tokens_per_second * flops_per_token(&chosen, context_length) / peak_flops,
        peak_gflops: peak_flops / 1e9,
        seconds_so_far: clock.start.elapsed().as_secs_f64(),
        training_seconds: seconds,
        evaluation_seconds: clock.evaluation().as_secs_f64(),
        ending_seconds: clock.ending().as_secs_f64(),
        num_tokens,
        available_tokens: unique,
        train_bytes: data.train_bytes,
        bytes_per_token: data.bytes_per_token,
        device: device.describe(),
    })
}

/// Weights that a token is multiplied by: those that learn from every token.
fn weights(config: &Config) -> f64 {
    // Without context there is no attention to count, and 6 operations are one weight.
    flops_per_token(config, 0) / 6.0
}

fn expected_rate(
    measured: &[Measured],
    shape: Shape,
    config: &impl Fn(Shape) -> Config,
    context_length: usize,
    usual_flops: f64,
) -> f64 {
    let flops = |shape| flops_per_token(&config(shape), context_length);
    if let Some(known) = measured.iter().find(|known| known.shape == shape) {
        return known.tokens_per_second;
    }
    let distance = |known: &&Measured| (flops(known.shape) / flops(shape)).ln().abs();
    let nearest = measured.iter().min_by(|a, b| distance(a).total_cmp(&distance(b)));
    let achieved = nearest.map_or(usual_flops, |known| known.tokens_per_second * flops(known.shape));
    achieved / flops(shape)
}

/// A few real training steps, and an evaluation step.
fn measure<D: Backend>(
    device: &Arc<D>,
    shape: Shape,
    config: &Config,
    (batch, time): (usize, usize),
    warm_up: usize,
    budget: Duration,
) -> Outcome<Measured> {
    const LEAST: usize = 2;
    let mut steps = Steps::new(device.clone(), config, Update::new(batch, time), recipe::OPTIMIZER)?;
    for _ in 0..warm_up {
        steps.step()?;
    }
    let num_tokens = (batch * time) as f64;
    // The first touches the memory, and counts only where there is no time for more.
    let (mut seconds, mut count) = (steps.step()?, 1);
    if seconds < budget.as_secs_f64() {
        (seconds, count) = (0.0, 0);
        while count < LEAST || seconds < budget.as_secs_f64() {
            seconds += steps.step()?;
            count += 1;
        }
    }
    let tokens_per_second = num_tokens * count as f64 / seconds;
    let eval_tokens_per_second = num_tokens / steps.evaluation();
    note(format_args!(
        "measured: L{} C{}: {} tokens/s in {count} steps",
        shape.n_layer,
        shape.n_embd,
        format::count(tokens_per_second as u64)
    ));
    Ok(Measured { shape, tokens_per_second, eval_tokens_per_second })
}

/// Memory that new allocations may take, where the system says (Linux).
fn available_memory() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    line.split_whitespace().next()?.parse::<u64>().ok().map(|kib| kib * 1024)
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = |seconds: f64| format::duration(Duration::from_secs_f64(seconds));
        let total =
            self.seconds_so_far + self.training_seconds + self.evaluation_seconds + self.ending_seconds;
        writeln!(f, "plan")?;
        writeln!(
            f,
            "  time      {} = {} so far + {} training + {} evaluation + {} to finish",
            seconds(total),
            seconds(self.seconds_so_far),
            seconds(self.training_seconds),
            seconds(self.evaluation_seconds),
            seconds(self.ending_seconds)
        )?;
        writeln!(
            f,
            "  network   {} layers of {} channels, {} heads, {} tokens in the vocabulary: {} parameters",
            self.n_layer,
            self.n_embd,
            self.n_head,
            format::count(self.vocab_size as u64),
            format::short(self.num_parameters as f64)
        )?;
        writeln!(
            f,
            "  machine   {} tokens/s measured, {} of the {:.0} GFLOP/s it reaches at most ({})",
            format::count(self.tokens_per_second as u64),
            format::percent(self.share_of_peak),
            self.peak_gflops,
            self.device
        )?;
        writeln!(
            f,
            "  training  {} x {} tokens/s = {} tokens = {} steps of {} samples x {} tokens",
            seconds(self.training_seconds),
            format::count(self.tokens_per_second as u64),
            format::short(self.num_tokens),
            format::count(self.num_steps() as u64),
            self.batch_size,
            self.context_length
        )?;
        writeln!(
            f,
            "  data      {} / {:.2} bytes a token = {} tokens: {:.2} passes",
            format::bytes(self.train_bytes),
            self.bytes_per_token,
            format::short(self.available_tokens),
            self.num_epochs()
        )?;
        write!(f, "  recipe    learning rate {:.2e}, dropout {}", self.learning_rate, self.dropout)
    }
}
