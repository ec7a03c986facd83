//! What is done when a run ends: the last line of the log, the last checkpoint, the best weights, the model folder.

use super::saving::{Live, patiently};
use super::{Trainer, live};
use crate::checkpoint::{self, Checkpoint};
use crate::error::Error;
use crate::event::{Event, OnEvent};
use crate::record::Status;
use crate::report::{self, REPORT, State};
use crate::request::Requests;
use crate::settings::SaveStrategy;
use eyas_ops::Backend;
use serde_json::{Value, json};

/// What transformers' Trainer.save_state writes into the output folder.
const STATE: &str = "trainer_state.json";

impl<D: Backend> Trainer<D> {
    /// Does at the end what was not done after the last update, and writes the model folder.
    pub(super) fn finish(&mut self, requests: &Requests, on_event: &mut OnEvent<'_>) -> Result<(), Error> {
        self.saving.settle(on_event);
        if self.state.window.num_tokens > 0 {
            self.log_window(on_event);
        }
        if self.config.save_strategy != SaveStrategy::No {
            let live = live!(self);
            self.saving.finish(&live, requests, on_event)?;
        }
        if self.config.load_best_model_at_end {
            self.load_best(on_event)?;
        }
        let live = live!(self);
        live.require_finite()?;
        let (output_dir, card) = (self.output.path(), live.card());
        // What is not a checkpoint of this run may be all there is of it.
        patiently(&self.config, requests, on_event, output_dir, &mut |_| {
            checkpoint::save_model(output_dir, &self.gpt, &self.tokenizer, &card)
        })?;
        let written = self.log.summary(self.summary());
        self.logged(written, &[], on_event);
        self.describe(Status::Done, on_event);
        Ok(())
    }

    /// Writes what people read: trainer_state.json, run.json and the report. All that matters is saved before; what of this
    /// cannot be written is only told.
    pub(super) fn describe(&mut self, status: Status, on_event: &mut OnEvent<'_>) {
        let logged = self.log.finish();
        let written = logged
            .and_then(|()| self.write_state())
            .and_then(|()| self.record(status, None))
            .and_then(|()| {
                let path = self.output.path().join(REPORT);
                let mut run = report::Run::open(self.output.path())?;
                // The folder's lock is held until this process ends, but the run is over.
                run.state = if status == Status::Stopped { State::Stopped } else { State::Done };
                report::write(&[run], &path)?;
                on_event(Event::Reported(&path));
                Ok(())
            });
        if let Err(error) = written {
            on_event(Event::Warning(&error.to_string()));
        }
    }

    /// Takes back the weights of the best checkpoint. One that is damaged is passed over: the last weights are still good.
    fn load_best(&mut self, on_event: &mut OnEvent<'_>) -> Result<(), Error> {
        let Some((step, value)) = live!(self).best_saved(self.output.path(), None)? else {
            let text = "load_best_model_at_end: no checkpoint was evaluated, so the last weights stay";
            on_event(Event::Warning(text));
            return Ok(());
        };
        let path = checkpoint::path(self.output.path(), step);
        if step != self.state.step {
            if let Err(error) = Checkpoint::open(&path) {
                on_event(Event::Warning(&format!("load_best_model_at_end: the last weights stay: {error}")));
                return Ok(());
            }
            self.gpt.reload(&path)?;
        }
        on_event(Event::LoadedBest { path: &path, metric: self.evaluations.metric.key(), value });
        Ok(())
    }

    /// The line that transformers' Trainer ends its log with.
    fn summary(&self) -> Value {
        let (state, total) = (&self.state, &self.state.total);
        let seconds = self.elapsed_seconds();
        let num_samples = state.num_tokens as f64 / self.plan.context_length as f64;
        json!({
            "step": state.step,
            "epoch": self.plan.epochs.epoch_after(state.step),
            "train_loss": total.loss_sum / total.num_targets as f64,
            "train_runtime": seconds,
            "train_samples_per_second": num_samples / seconds,
            "train_steps_per_second": state.step as f64 / seconds,
            "total_flos": state.num_tokens as f64 * self.plan.flops_per_token,
        })
    }

    /// Writes trainer_state.json with the whole log, for those who plot from it.
    fn write_state(&self) -> Result<(), Error> {
        let live = live!(self);
        let best = live.best_saved(self.output.path(), None)?;
        let best = best.map(|(step, _)| checkpoint::path(self.output.path(), step));
        let state = live.state_json(best.as_deref());
        checkpoint::write_text(&self.output.path().join(STATE), &checkpoint::pretty(&state))
    }

    /// Writes run.json.
    pub(super) fn record(&self, status: Status, error: Option<String>) -> Result<(), Error> {
        live!(self).record(status, error).save(self.output.path())
    }
}
