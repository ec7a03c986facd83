//! When checkpoints are written, and what happens to those that cannot be.
//!
//! A save is taken up again while training goes on: a disk that is full costs what was learned since the last checkpoint
//! only if the process ends. At the end of a run training waits for the disk instead, for as long as
//! `save_patience_minutes` says.

use crate::best::Evaluations;
use crate::card::model_card;
use crate::checkpoint;
use crate::error::Error;
use crate::event::{Event, OnEvent};
use crate::optimizer::Optimizer;
use crate::plan::Plan;
use crate::record::{Best, RunRecord, Status};
use crate::request::Requests;
use crate::retention::Retention;
use crate::runlog::RunLog;
use crate::saver::{Finished, Job, Saver};
use crate::settings::TrainConfig;
use crate::snapshot::{SmallFiles, small_files};
use crate::state::{RunFacts, State};
use eyas_model::Gpt;
use eyas_ops::Backend;
use serde_json::{Map, Value};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How long after a save that failed the next is tried, if none is due before.
const RETRY: Duration = Duration::from_secs(60);
/// How often a disk is tried that training waits for.
const WAIT: Duration = Duration::from_secs(5);

/// A run as a checkpoint sees it: as its last update left it.
pub(super) struct Live<'a, D: Backend> {
    pub(super) gpt: &'a Gpt<D>,
    pub(super) optimizer: &'a Optimizer<D>,
    pub(super) tokenizer_files: &'a SmallFiles,
    pub(super) config: &'a TrainConfig,
    pub(super) plan: &'a Plan,
    pub(super) data: &'a Value,
    pub(super) state: &'a State,
    pub(super) log: &'a RunLog,
    pub(super) evaluations: &'a Evaluations,
    /// Seconds of the run before this process.
    pub(super) elapsed_before: f64,
    /// When this process began.
    pub(super) clock: Instant,
}

/// The checkpoints of this process.
pub(super) struct Saving {
    saver: Saver,
    output_dir: PathBuf,
    /// The newest that is durable.
    saved: Option<(u64, PathBuf)>,
    /// When to try again, since the last save failed.
    retry: Option<Instant>,
    /// Seconds that training stood still for the last save, until that is asked for.
    stall_seconds: Option<f64>,
}

impl Saving {
    pub(super) fn new(saver: Saver, output_dir: &Path, saved: Option<(u64, PathBuf)>) -> Self {
        Saving { saver, output_dir: output_dir.into(), saved, retry: None, stall_seconds: None }
    }

    /// The newest durable checkpoint.
    pub(super) fn newest(&self) -> Option<&Path> {
        self.saved.as_ref().map(|(_, path)| path.as_path())
    }

    /// Seconds that training stood still for the last save, once.
    pub(super) fn take_stall(&mut self) -> Option<f64> {
        self.stall_seconds.take()
    }

    /// Saves if somebody asked for it, or a save that failed is due again; and takes in what has come to its end.
    pub(super) fn attend<D: Backend>(
        &mut self,
        live: &Live<'_, D>,
        requests: &Requests,
        on_event: &mut OnEvent<'_>,
    ) -> Result<(), Error> {
        if let Some(finished) = self.saver.poll() {
            self.take_in(finished, on_event);
        }
        let is_due = self.retry.is_some_and(|when| Instant::now() >= when);
        // Asked while the run was prepared, there is nothing yet to save.
        let is_asked = requests.take_save() && live.state.step > 0;
        if is_asked || (is_due && self.saver.step().is_none()) {
            self.begin(live, on_event)?;
        }
        Ok(())
    }

    /// Begins to save what `live` is now, unless that is durable or being written.
    pub(super) fn begin<D: Backend>(
        &mut self,
        live: &Live<'_, D>,
        on_event: &mut OnEvent<'_>,
    ) -> Result<(), Error> {
        if let Some(finished) = self.start(live, on_event)? {
            self.take_in(finished, on_event);
        }
        Ok(())
    }

    /// The same; the end of a save in the foreground is left to the caller.
    fn start<D: Backend>(
        &mut self,
        live: &Live<'_, D>,
        on_event: &mut OnEvent<'_>,
    ) -> Result<Option<Finished>, Error> {
        let step = live.state.step;
        if self.saver.step() == Some(step) {
            return Ok(None);
        }
        let begun = Instant::now();
        self.settle(on_event);
        if self.saved.as_ref().is_some_and(|(saved, _)| *saved == step) {
            return Ok(None);
        }
        live.require_finite()?;
        on_event(Event::Saving { step });
        let job = match live.job(&self.output_dir) {
            Err(error) if error.is_io() => return Ok(Some((step, Err(error)))),
            job => job?,
        };
        let finished = self.saver.begin(live.gpt, live.optimizer, job);
        self.stall_seconds = Some(self.stall_seconds.unwrap_or(0.0) + begun.elapsed().as_secs_f64());
        Ok(finished)
    }

    /// Saves, and returns when that is durable: at the end of a run, and when it is stopped. A disk that does not take it is
    /// waited for.
    ///
    /// # Errors
    /// The disk's, when patience has run out or somebody asks to stop the waiting.
    pub(super) fn finish<D: Backend>(
        &mut self,
        live: &Live<'_, D>,
        requests: &Requests,
        on_event: &mut OnEvent<'_>,
    ) -> Result<(), Error> {
        let output_dir = self.output_dir.clone();
        patiently(live.config, requests, on_event, &output_dir, &mut |on_event| {
            let finished = match self.start(live, on_event)? {
                None => self.saver.wait(),
                finished => finished,
            };
            finished.and_then(|finished| self.take_in_quietly(finished, on_event)).map_or(Ok(()), Err)
        })
    }

    /// Waits for the save that is being written, if there is one, and takes in how it went.
    pub(super) fn settle(&mut self, on_event: &mut OnEvent<'_>) {
        if let Some(finished) = self.saver.wait() {
            self.take_in(finished, on_event);
        }
    }

    /// Takes in the end of a save; what went wrong is told.
    fn take_in(&mut self, finished: Finished, on_event: &mut OnEvent<'_>) {
        let step = finished.0;
        let Some(error) = self.take_in_quietly(finished, on_event) else { return };
        self.retry = Some(Instant::now() + RETRY);
        on_event(Event::Warning(&format!(
            "update {step} could not be saved: {error}; training goes on, and saving is tried again within {} s; the newest \
             checkpoint is {}",
            RETRY.as_secs(),
            self.newest().map_or("none".into(), |path| path.display().to_string())
        )));
    }

    /// Takes in the end of a save, and returns what went wrong.
    fn take_in_quietly(&mut self, (step, result): Finished, on_event: &mut OnEvent<'_>) -> Option<Error> {
        let saved = match result {
            Ok(saved) => saved,
            Err(error) => {
                on_event(Event::NotSaved { step });
                return Some(error);
            }
        };
        on_event(Event::Saved(&saved.path));
        saved.removed.iter().for_each(|path| on_event(Event::Removed(path)));
        if let Some(error) = saved.not_removed {
            on_event(Event::Warning(&format!("old checkpoints stay: {error}")));
        }
        self.saved = Some((step, saved.path));
        self.retry = None;
        None
    }
}

/// Tries `write` again and again while the disk is what refuses it, for as long as `save_patience_minutes` says or until
/// somebody asks to stop.
///
/// # Errors
/// The last that `write` had.
pub(super) fn patiently(
    config: &TrainConfig,
    requests: &Requests,
    on_event: &mut OnEvent<'_>,
    output_dir: &Path,
    write: &mut dyn FnMut(&mut OnEvent<'_>) -> Result<(), Error>,
) -> Result<(), Error> {
    let patience = Duration::from_secs_f64(60.0 * config.save_patience_minutes);
    let (begun, was_stopped) = (Instant::now(), requests.stops());
    loop {
        let error = match write(on_event) {
            Err(error) if error.is_io() => error,
            other => return other,
        };
        if begun.elapsed() + WAIT > patience {
            return Err(error);
        }
        on_event(Event::Warning(&format!(
            "{error}; what was learned is kept in memory and saving is tried again every {} s: make room in {}, or stop once \
             more and lose what came after the newest checkpoint",
            WAIT.as_secs(),
            output_dir.display(),
        )));
        let waited = Instant::now();
        while waited.elapsed() < WAIT {
            std::thread::sleep(Duration::from_millis(100));
            if requests.stops() && !was_stopped {
                return Err(error);
            }
        }
    }
}

impl<D: Backend> Live<'_, D> {
    /// Refuses to save weights that no run could go on from.
    pub(super) fn require_finite(&self) -> Result<(), Error> {
        match self.gpt.is_finite() && self.optimizer.is_finite() {
            true => Ok(()),
            false => Err(Error::WeightsNotFinite { step: self.state.step }),
        }
    }

    /// Step and metric of the best evaluation whose checkpoint is in `output_dir`, or is about to be, as `coming` says.
    pub(super) fn best_saved(
        &self,
        output_dir: &Path,
        coming: Option<u64>,
    ) -> Result<Option<(u64, f64)>, Error> {
        let found = checkpoint::list(output_dir)?.into_iter().map(|(step, _)| step);
        Ok(self.evaluations.best_of(&found.chain(coming).collect::<Vec<_>>()))
    }

    fn job(&self, output_dir: &Path) -> Result<Job, Error> {
        let step = self.state.step;
        let best = self.best_saved(output_dir, Some(step))?.map(|(step, _)| step);
        Ok(Job {
            step,
            small: small_files(self.gpt, self.tokenizer_files, self.card()),
            state: self.state_json(best.map(|step| checkpoint::path(output_dir, step)).as_deref()),
            retention: Retention { limit: self.config.save_total_limit, best },
            record: self.record(Status::Running, None),
        })
    }

    /// The content of trainer_state.json, without hashes.
    pub(super) fn state_json(&self, best_checkpoint: Option<&Path>) -> Map<String, Value> {
        let best_checkpoint = best_checkpoint.map(|path| path.to_string_lossy().into_owned());
        self.state.to_json(&RunFacts {
            config: self.config,
            plan: self.plan,
            data: self.data,
            log: self.log,
            best: self.evaluations.best(),
            best_checkpoint: best_checkpoint.as_deref(),
            elapsed_seconds: self.elapsed_seconds(),
        })
    }

    fn elapsed_seconds(&self) -> f64 {
        self.elapsed_before + self.clock.elapsed().as_secs_f64()
    }

    /// The text of the model card.
    pub(super) fn card(&self) -> String {
        let evaluation = self.log.last_with("eval_loss");
        model_card(self.config, self.plan, self.state.step, self.state.num_tokens, evaluation)
    }

    /// The content of run.json.
    pub(super) fn record(&self, status: Status, error: Option<String>) -> RunRecord {
        let plan = self.plan;
        RunRecord {
            eyas: env!("CARGO_PKG_VERSION").into(),
            status,
            error,
            device: plan.device.clone(),
            peak_flops: plan.peak_flops,
            num_parameters: plan.num_parameters,
            context_length: plan.context_length,
            train_data: self.config.train_data.clone(),
            num_train_tokens: plan.num_train_tokens,
            tokens_per_update: plan.tokens_per_update(),
            num_steps: plan.num_steps(),
            flops_per_token: plan.flops_per_token,
            memory_bytes: plan.memory.iter().map(|(kind, bytes)| (kind.to_string(), *bytes)).collect(),
            step: self.state.step,
            epoch: plan.epochs.epoch_after(self.state.step),
            num_tokens: self.state.num_tokens,
            skipped_updates: self.state.skipped_updates,
            elapsed_seconds: self.elapsed_seconds(),
            best: self.evaluations.best().map(|(step, value)| Best {
                step,
                metric: self.evaluations.metric.key().into(),
                value,
            }),
            settings: self.config.to_json(),
        }
    }
}
