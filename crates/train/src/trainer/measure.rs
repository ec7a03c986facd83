//! What a run will take, from a short measurement: some passes, an update, a part of an evaluation.
//!
//! Nothing is written, and the trainer it is done with is used up: its weights have moved.

use super::Trainer;
use crate::error::Error;
use crate::eta::Ahead;
use crate::evaluate::evaluate;
use crate::plan::Plan;
use crate::step::{Samples, key_of};
use eyas_ops::Backend;
use serde::Serialize;
use std::ops::ControlFlow;
use std::time::{Duration, Instant};

/// Time for the passes, and as much for an evaluation.
const MEASURED: Duration = Duration::from_secs(5);

/// What was measured, and what follows from it.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Measured {
    /// Tokens a second while training.
    pub tokens_per_second: f64,
    /// Share of what the device does at most.
    pub share_of_peak: f64,
    /// Seconds of an update.
    pub update_seconds: f64,
    /// Seconds of an evaluation, without samples.
    pub eval_seconds: f64,
    /// Evaluations that are left.
    pub num_evaluations: u64,
    /// Seconds of what is left of the run, without the writing of checkpoints, which goes on beside it; of a run that ends
    /// with its time, that time.
    pub seconds: f64,
}

impl<D: Backend> Trainer<D> {
    /// Measures for some seconds, or for two passes if they take longer; returns the plan too.
    ///
    /// # Errors
    /// Data that cannot be evaluated.
    pub fn measure(mut self) -> Result<(Plan, Measured), Error> {
        let (epoch, positions) = self.plan.epochs.samples_of(self.state.step);
        let (batch, device) = (self.plan.samples_per_pass() as usize, self.gpt.device().clone());
        let samples =
            Samples { epoch, positions, batch, dropout_key: Some(key_of(self.config.seed, self.state.step)) };
        let begun = Instant::now();
        let mut ends = Vec::new();
        while ends.len() < 2 || begun.elapsed() < MEASURED {
            let start = Instant::now();
            let mut in_update = Vec::new();
            let mut after_each = |_, _| {
                // A pass may be queued long before it is done.
                device.synchronize();
                in_update.push(start.elapsed().as_secs_f64());
                let is_over = begun.elapsed() >= MEASURED && in_update.len() + ends.len() >= 2;
                if is_over { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            };
            self.step.gradients_of(&self.gpt, &self.loader, &samples, 1.0, &mut after_each);
            let before = std::iter::once(&0.0).chain(&in_update);
            let each: Vec<_> = in_update.iter().zip(before).map(|(end, before)| end - before).collect();
            ends.extend(each);
        }
        // The first one finds nothing in any cache.
        let measured = &mut ends[1..];
        measured.sort_by(f64::total_cmp);
        let pass_seconds = measured[measured.len() / 2];
        let start = Instant::now();
        // An update by a rate of 0 moves as many bytes as any other. One that is not finite says so when the run does.
        let _ = self.optimizer.update(&mut self.gpt, &self.step.gradients, 0.0);
        device.synchronize();
        let update_seconds = start.elapsed().as_secs_f64();
        let epochs = &self.plan.epochs;
        let passes = epochs.num_samples as f64 / batch as f64 / epochs.updates_per_epoch() as f64;
        // An update has a micro-batch at least.
        let passes = passes.max(1.0 / self.plan.merged.unwrap_or(1) as f64);
        let update_seconds = pass_seconds * passes + update_seconds;
        let tokens = epochs.num_samples as f64 * self.plan.context_length as f64;
        let tokens_per_second = tokens / epochs.updates_per_epoch() as f64 / update_seconds;
        let (eval_seconds, num_evaluations) = (self.measure_evaluation()?, self.num_evaluations());
        let seconds = match self.plan.num_steps() {
            Some(steps) => {
                let updates = steps.saturating_sub(self.state.step) as f64;
                updates * update_seconds + num_evaluations as f64 * eval_seconds
            }
            None => (60.0 * self.config.max_minutes - self.elapsed_before).max(0.0),
        };
        let share_of_peak = tokens_per_second * self.plan.flops_per_token / self.plan.peak_flops;
        let measured = Measured {
            tokens_per_second,
            share_of_peak,
            update_seconds,
            eval_seconds,
            num_evaluations,
            seconds,
        };
        Ok((self.plan, measured))
    }

    /// Seconds of an evaluation, from a part of it.
    fn measure_evaluation(&mut self) -> Result<f64, Error> {
        let Some(data) = &self.eval_data else { return Ok(0.0) };
        let begun = Instant::now();
        let (mut first, mut last) = (None, (0.0, 0));
        let mut total = 1;
        let mut progress = |done, of| {
            total = of;
            last = (begun.elapsed().as_secs_f64(), done);
            first.get_or_insert(last);
            let is_over = begun.elapsed() >= MEASURED && Some(last) != first;
            if is_over { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        };
        let (time, batch) = (self.plan.context_length, self.config.per_device_eval_batch_size);
        evaluate(&self.gpt, &mut self.step.activations, data, time, batch, &mut progress)?;
        let first = first.unwrap_or((0.0, 0));
        Ok(match last.1 > first.1 {
            true => (last.0 - first.0) / (last.1 - first.1) as f64 * total as f64,
            // One batch was all of it.
            false => last.0,
        })
    }

    /// Evaluations that are left.
    pub(super) fn num_evaluations(&self) -> u64 {
        let every = self.config.eval_every(&self.plan.epochs);
        let at_start = u64::from(self.config.eval_on_start && self.state.step == 0);
        let regular = self
            .plan
            .num_steps()
            .zip(every)
            .map_or(0, |(steps, every)| Ahead::times(every, self.state.step, steps));
        at_start + regular
    }
}
