//! One update of a run: its samples, its learning rate, and what happens when something in it is not finite.

use super::saving::Live;
use super::{Trainer, live};
use crate::error::Error;
use crate::event::{Event, OnEvent};
use crate::loss_scale::LossScale;
use crate::optimizer::NotFinite;
use crate::plan::Budget;
use crate::request::Requests;
use crate::step::{Samples, StepLoss, key_of};
use eyas_ops::Backend;
use std::ops::{ControlFlow, Range};
use std::time::Instant;

/// So many updates in a row that are left out mean that the weights are broken, not the data.
const MAX_SKIPPED_IN_A_ROW: u64 = 100;
/// Documents that a message names.
const MAX_NAMED: usize = 8;

impl<D: Backend> Trainer<D> {
    /// One update. Breaks if it was stopped, with nothing changed.
    pub(super) fn update(
        &mut self,
        requests: &Requests,
        on_event: &mut OnEvent<'_>,
    ) -> Result<ControlFlow<()>, Error> {
        let begun = Instant::now();
        let done = self.state.step;
        let learning_rate = self.learning_rate();
        let (epoch, positions) = self.plan.epochs.samples_of(done);
        let samples = Samples {
            epoch,
            positions: positions.clone(),
            batch: self.plan.samples_per_pass() as usize,
            dropout_key: Some(key_of(self.config.seed, done)),
        };
        let live = live!(self);
        let (saving, mut failed) = (&mut self.saving, None);
        let merged = self.plan.merged.unwrap_or(1) as usize;
        let of = (positions.end - positions.start).div_ceil(self.plan.epochs.batch) as usize;
        let mut after_each = |num_passes: usize, _| {
            let done = of.min(num_passes * merged);
            on_event(Event::MicroBatch { done, of });
            if let Err(error) = saving.attend(&live, requests, on_event) {
                failed = Some(error);
                return ControlFlow::Break(());
            }
            // The last micro-batch is not thrown away for a request that came during it.
            if done < of { requests.flow() } else { ControlFlow::Continue(()) }
        };
        let factor = self.state.loss_scale.map_or(1.0, |scale| scale.factor());
        let loss = self.step.gradients_of(&self.gpt, &self.loader, &samples, factor, &mut after_each);
        if let Some(error) = failed {
            return Err(error);
        }
        let Some(loss) = loss else { return Ok(ControlFlow::Break(())) };

        // No loss scale makes a loss finite.
        let updated = match loss.sum.is_finite() {
            true => self.optimizer.update(&mut self.gpt, &self.step.gradients, learning_rate),
            false => Err(NotFinite(self.step.gradients.norm())),
        };
        let grad_norm = match updated {
            Ok(grad_norm) => {
                self.state.loss_scale.iter_mut().for_each(LossScale::succeeded);
                self.num_skipped_in_a_row = 0;
                grad_norm
            }
            Err(NotFinite(grad_norm)) => {
                self.leave_out(&loss, grad_norm, learning_rate, epoch, positions, on_event)?;
                grad_norm
            }
        };
        self.account(&loss, begun.elapsed().as_secs_f64(), learning_rate, grad_norm);
        if let Some(metrics) = &self.last {
            on_event(Event::Step(metrics));
        }
        Ok(ControlFlow::Continue(()))
    }

    /// As in PyTorch, the schedule does not move on for an update that was not applied.
    pub(super) fn learning_rate(&self) -> f64 {
        let applied = self.optimizer.num_updates();
        match self.plan.budget {
            Budget::Steps(_) => self.schedule.learning_rate(applied),
            Budget::Time(_) => {
                self.schedule.learning_rate_at(self.fraction(), applied, self.config.warmup_steps)
            }
        }
    }

    /// What is done with an update that is not finite and was not applied: fp16 lowers its loss scale; otherwise the run ends,
    /// or, with skip_non_finite, goes on without it.
    fn leave_out(
        &mut self,
        loss: &StepLoss,
        grad_norm: f64,
        learning_rate: f64,
        epoch: u64,
        positions: Range<u64>,
        on_event: &mut OnEvent<'_>,
    ) -> Result<(), Error> {
        let step = self.state.step + 1;
        if let (true, Some(scale)) = (loss.sum.is_finite(), &mut self.state.loss_scale)
            && scale.overflowed()
        {
            on_event(Event::Warning(&format!(
                "update {step}: the gradient leaves fp16's range; it is skipped, and the loss scale is {} now",
                scale.factor()
            )));
            self.state.skipped_updates += 1;
            return Ok(());
        }
        let documents = self.documents_of(epoch, positions);
        if !self.config.skip_non_finite {
            return Err(Error::NotFinite { step, loss: loss.mean(), grad_norm, learning_rate, documents });
        }
        self.state.skipped_updates += 1;
        self.num_skipped_in_a_row += 1;
        if self.num_skipped_in_a_row >= MAX_SKIPPED_IN_A_ROW {
            return Err(Error::NeverFinite { step, count: self.num_skipped_in_a_row, documents });
        }
        on_event(Event::Warning(&format!(
            "update {step}: loss {}, gradient norm {grad_norm}: not finite, so it is left out; its samples are of {documents}",
            loss.mean()
        )));
        Ok(())
    }

    /// The names of the documents that samples are of, the first of them at least.
    fn documents_of(&self, epoch: u64, positions: Range<u64>) -> String {
        let mut numbers: Vec<u64> =
            positions.flat_map(|position| self.loader.documents(epoch, position)).collect();
        numbers.sort_unstable();
        numbers.dedup();
        let shards = self.loader.shards();
        let named = numbers.iter().take(MAX_NAMED).map(|&number| shards.document_name(number));
        let mut text = named.collect::<Vec<_>>().join(", ");
        if numbers.len() > MAX_NAMED {
            text += &format!(" and {} more", numbers.len() - MAX_NAMED);
        }
        text
    }

    /// Enters an update into the sums. The loss of one that was left out counts as little as its gradient.
    fn account(&mut self, loss: &StepLoss, seconds: f64, learning_rate: f64, grad_norm: f64) {
        for sums in [&mut self.state.window, &mut self.state.total] {
            if loss.sum.is_finite() {
                sums.loss_sum += loss.sum;
                sums.num_targets += loss.num_targets;
            }
            sums.num_tokens += loss.num_tokens;
            sums.seconds += seconds;
        }
        self.state.step += 1;
        self.state.num_tokens += loss.num_tokens;
        self.state.digest(self.step.inputs(loss.num_tokens as usize));
        (self.state.learning_rate, self.state.grad_norm) = (learning_rate, grad_norm);
        self.last_step_seconds = seconds;
        self.eta.update(seconds);
        self.last = Some(self.metrics(loss.mean(), loss.num_tokens as f64 / seconds));
    }
}
