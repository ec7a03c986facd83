//! The loop: update after update, and between them logging, evaluation and checkpoints.
//!
//! Place in the data, learning rate and dropout are functions of the number of updates done, so a run that is resumed takes
//! up exactly where it was, in no time. A request to stop is seen after each micro-batch: what the unfinished update has
//! added up is dropped, to be computed again, and a checkpoint of the finished ones is saved.
//!
//! `update.rs` is one update, `saving.rs` when checkpoints are written, `ending.rs` what is done when a run ends, `measure.rs` what a
//! run will take.

mod ending;
mod measure;
mod saving;
mod update;

use crate::best::Evaluations;
use crate::checkpoint;
use crate::error::Error;
use crate::eta::{Ahead, Eta};
use crate::evaluate::{EvalData, EvalResult, evaluate};
use crate::event::{Event, OnEvent, Sample};
use crate::optimizer::{Hyper, Optimizer};
use crate::output::OutputDir;
use crate::plan::{Budget, Plan};
use crate::record::Status;
use crate::request::Requests;
use crate::runlog::{EvalTiming, RunLog, StepMetrics};
use crate::sampler::Sampler;
use crate::saver::Saver;
use crate::schedule::Schedule;
use crate::settings::{SaveStrategy, TrainConfig};
use crate::setup::Setup;
use crate::snapshot::{SmallFiles, tokenizer_files};
use crate::state::{Resumed, State, data_identity, differences};
use crate::step::Step;
use crate::storage::Disk;
use crate::tensorboard::TensorBoard;
use eyas_data::Loader;
use eyas_model::Gpt;
use eyas_ops::Backend;
use eyas_token::Tokenizer;
pub use measure::Measured;
use saving::{Live, Saving};
use serde::Deserialize;
use serde_json::Value;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

/// Where TensorBoard's events go in the output folder.
const TENSORBOARD: &str = "tensorboard";

/// A run of training, from its first update or from a checkpoint.
pub struct Trainer<D: Backend> {
    config: TrainConfig,
    plan: Plan,
    output: OutputDir,
    tokenizer: Tokenizer,
    loader: Loader,
    eval_data: Option<EvalData>,
    sampler: Sampler,
    gpt: Gpt<D>,
    optimizer: Optimizer<D>,
    step: Step<D>,
    schedule: Schedule,
    state: State,
    log: RunLog,
    tensorboard: Option<TensorBoard>,
    evaluations: Evaluations,
    eta: Eta,
    saving: Saving,
    tokenizer_files: SmallFiles,
    data_identity: Value,
    /// What this process counts from; `elapsed_before` came before it.
    clock: Instant,
    elapsed_before: f64,
    last_step_seconds: f64,
    /// Updates left out one after the other, up to now.
    num_skipped_in_a_row: u64,
    last: Option<StepMetrics>,
    last_evaluation: Option<EvalResult>,
}

/// How a run ended.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Updates done, those before a resume included.
    pub step: u64,
    /// Whether it was asked to stop before its end.
    pub stopped: bool,
    /// The last update; `None` if there was none in this process.
    pub last: Option<StepMetrics>,
    /// The last evaluation of this process.
    pub evaluation: Option<EvalResult>,
    /// The newest checkpoint, if one was saved.
    pub checkpoint: Option<PathBuf>,
    /// Tokens read, those before a resume included.
    pub num_tokens: u64,
    /// Updates that were left out because something was not finite, those before a resume included.
    pub skipped_updates: u64,
    /// Seconds, those before a resume included.
    pub elapsed_seconds: f64,
}

/// A run as its last update left it: what a checkpoint is made of. A macro, since it borrows some fields of a trainer while
/// others are changed.
macro_rules! live {
    ($trainer:ident) => {
        Live {
            gpt: &$trainer.gpt,
            optimizer: &$trainer.optimizer,
            tokenizer_files: &$trainer.tokenizer_files,
            config: &$trainer.config,
            plan: &$trainer.plan,
            data: &$trainer.data_identity,
            state: &$trainer.state,
            log: &$trainer.log,
            evaluations: &$trainer.evaluations,
            elapsed_before: $trainer.elapsed_before,
            clock: $trainer.clock,
        }
    };
}
use live;

impl<D: Backend> Trainer<D> {
    /// Opens and checks all that the run needs, tells the plan, then allocates. Of an earlier run in output_dir nothing is changed
    /// before [`run`](Self::run), but for data that a new run has prepared in place of other data.
    ///
    /// # Errors
    /// Everything that is wrong with settings, files, data or the output folder.
    pub fn new(device: Arc<D>, mut config: TrainConfig, on_event: &mut OnEvent<'_>) -> Result<Self, Error> {
        let setup = Setup::new(&*device, &mut config, on_event)?;
        let sampler = Sampler::new(&config, &setup.model, &setup.tokenizer)?;
        let mut gpt = setup.gpt(&device, &config)?;
        let mut optimizer = Optimizer::new(&gpt, config.optim, Hyper::new(&config));
        let data_identity = data_identity(&setup.loader, &setup.tokenizer);
        let (mut resumed, mut saved) = (Resumed::default(), None);
        if let Some(checkpoint) = &setup.checkpoint {
            for line in
                differences(checkpoint, &config, &setup.model, &data_identity, setup.plan.asked_batch_size)?
            {
                on_event(Event::Warning(&line));
            }
            resumed = State::from_checkpoint(checkpoint)?;
            optimizer.load(&checkpoint.optimizer())?;
            optimizer.make_copies(&mut gpt);
            let step = resumed.state.step;
            // One that lies elsewhere is none of this folder's.
            let is_ours = checkpoint::is_same(&checkpoint.path, &checkpoint::path(setup.output.path(), step));
            saved = is_ours.then(|| (step, checkpoint.path.clone()));
            on_event(Event::Resumed { path: &checkpoint.path, step });
        }
        let Resumed { mut state, elapsed_seconds, history, samples } = resumed;
        // A run that was begun in another precision gets a scale of its own.
        state.loss_scale = config.fp16.then(|| state.loss_scale.unwrap_or_default());
        let schedule = match setup.plan.budget {
            Budget::Steps(steps) => Schedule::new(&config, steps),
            Budget::Time(_) => Schedule::timed(&config),
        };
        let (cut, batch) = (setup.plan.epochs, setup.plan.samples_per_pass());
        // No update is larger than an epoch, whatever the settings say.
        let batch = batch.min(cut.num_samples);
        let num_passes = cut.samples_per_update().min(cut.num_samples).div_ceil(batch);
        let output_dir = setup.output.path();
        let saver = Saver::new(Arc::new(Disk), output_dir, config.save_in_background, &gpt, &optimizer);
        Ok(Trainer {
            step: Step::new(&gpt, batch as usize, num_passes as usize, setup.plan.context_length),
            saving: Saving::new(saver, output_dir, saved),
            evaluations: Evaluations::new(&config, &history),
            eta: Eta::timed(0.0),
            tensorboard: None,
            log: RunLog::new(output_dir, history, samples),
            elapsed_before: elapsed_seconds,
            plan: setup.plan,
            output: setup.output,
            tokenizer_files: tokenizer_files(&setup.tokenizer)?,
            tokenizer: setup.tokenizer,
            loader: setup.loader,
            eval_data: setup.eval_data,
            sampler,
            config,
            gpt,
            optimizer,
            schedule,
            state,
            data_identity,
            clock: Instant::now(),
            last_step_seconds: 0.0,
            num_skipped_in_a_row: 0,
            last: None,
            last_evaluation: None,
        })
    }

    /// What the run will do.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// The network as it is now.
    pub fn gpt(&self) -> &Gpt<D> {
        &self.gpt
    }

    /// The tokenizer.
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    /// Trains to the end, or until `requests` asks to stop, and saves. The time of a time budget begins here.
    ///
    /// # Errors
    /// [`Error::NotFinite`] if the arithmetic breaks down; what the operating system refuses. Checkpoints that were saved
    /// stay.
    pub fn run(&mut self, requests: &Requests, on_event: &mut OnEvent<'_>) -> Result<Outcome, Error> {
        self.clock = Instant::now();
        self.begin(on_event)?;
        self.eta = self.ahead();
        let ended = self.train(requests, on_event).and_then(|ended| {
            if ended.is_break() {
                let live = live!(self);
                self.saving.finish(&live, requests, on_event)?;
            }
            Ok(ended)
        });
        let ended = match ended {
            Ok(ended) => ended,
            Err(error) => {
                self.saving.settle(on_event);
                // What went wrong is what is reported, whether or not it can be written down.
                let _ = self.record(Status::Failed, Some(error.to_string()));
                return Err(error);
            }
        };
        if ended.is_break() {
            self.describe(Status::Stopped, on_event);
        }
        let outcome = Outcome {
            step: self.state.step,
            stopped: ended.is_break(),
            last: self.last,
            evaluation: self.last_evaluation,
            checkpoint: self.saving.newest().map(PathBuf::from),
            num_tokens: self.state.num_tokens,
            skipped_updates: self.state.skipped_updates,
            elapsed_seconds: self.elapsed_seconds(),
        };
        on_event(Event::Done(&outcome));
        Ok(outcome)
    }

    /// Begins to write into the output folder.
    fn begin(&mut self, on_event: &mut OnEvent<'_>) -> Result<(), Error> {
        if self.config.overwrite_output_dir {
            for (_, path) in checkpoint::list(self.output.path())? {
                checkpoint::remove(&Disk, &path)?;
                on_event(Event::Removed(&path));
            }
        }
        self.log.begin()?;
        if self.config.report_to.iter().any(|target| target != "none") {
            let dir = self.config.logging_dir.clone().unwrap_or_else(|| self.output.path().join(TENSORBOARD));
            let name = self.output.path().file_name().unwrap_or_default().to_string_lossy().into_owned();
            let mut board = TensorBoard::create(&dir, &name, self.log.history())?;
            let samples = self.log.samples().iter().filter_map(|line| Sample::deserialize(line).ok());
            board.samples(&samples.collect::<Vec<_>>())?;
            self.tensorboard = Some(board);
        }
        self.record(Status::Running, None)
    }

    /// What is ahead of the run, for the estimate of its time.
    fn ahead(&self) -> Eta {
        let Some(steps) = self.plan.num_steps() else {
            return Eta::timed(60.0 * self.config.max_minutes - self.elapsed_before);
        };
        let done = self.state.step;
        let every = self.config.save_every(&self.plan.epochs);
        let num_sampled = self.config.sample_prompts.len() * self.config.sample_max_new_tokens;
        Eta::new(Ahead {
            updates: steps.saturating_sub(done),
            evaluations: self.num_evaluations(),
            checkpoints: every.map_or(0, |every| Ahead::times(every, done, steps)),
            tokens_per_update: self.plan.tokens_per_update(),
            eval_targets: self.plan.num_eval_targets.unwrap_or(0) + num_sampled as u64,
        })
    }

    /// Breaks if it was stopped.
    fn train(&mut self, requests: &Requests, on_event: &mut OnEvent<'_>) -> Result<ControlFlow<()>, Error> {
        // An evaluation that was due when the run was stopped is made up for.
        let at_start = self.config.eval_on_start && self.state.step == 0;
        let is_due = at_start || self.is_due(self.config.eval_every(&self.plan.epochs));
        if is_due && self.evaluate(requests, on_event)?.is_break() {
            return Ok(ControlFlow::Break(()));
        }
        while !self.is_finished() && !self.stops_early(on_event) {
            if requests.stops() || self.update(requests, on_event)?.is_break() {
                return Ok(ControlFlow::Break(()));
            }
            if self.between_updates(requests, on_event)?.is_break() {
                return Ok(ControlFlow::Break(()));
            }
        }
        self.finish(requests, on_event)?;
        Ok(ControlFlow::Continue(()))
    }

    /// Logs, evaluates and saves what is due after an update.
    fn between_updates(
        &mut self,
        requests: &Requests,
        on_event: &mut OnEvent<'_>,
    ) -> Result<ControlFlow<()>, Error> {
        let first = self.config.logging_first_step && self.state.step == 1;
        if first || self.is_due(Some(self.config.logging_steps)) {
            self.log_window(on_event);
        }
        let eval_due = self.is_due(self.config.eval_every(&self.plan.epochs));
        if eval_due && self.evaluate(requests, on_event)?.is_break() {
            return Ok(ControlFlow::Break(()));
        }
        let is_best = || self.evaluations.best().is_some_and(|(step, _)| step == self.state.step);
        let save_due = match self.config.save_strategy {
            SaveStrategy::Best => is_best(),
            _ => self.is_due(self.config.save_every(&self.plan.epochs)),
        };
        let live = live!(self);
        if save_due {
            self.saving.begin(&live, on_event)?;
        }
        self.saving.attend(&live, requests, on_event)?;
        if let Some(seconds) = self.saving.take_stall() {
            self.eta.checkpoint(seconds);
        }
        Ok(ControlFlow::Continue(()))
    }

    fn log_window(&mut self, on_event: &mut OnEvent<'_>) {
        let window = std::mem::take(&mut self.state.window);
        let loss = window.loss_sum / window.num_targets as f64;
        let metrics = self.metrics(loss, window.num_tokens as f64 / window.seconds);
        let written = self.log.training(&metrics);
        self.logged(written, &[], on_event);
        on_event(Event::Logged(&metrics));
    }

    /// What is known after the last update, with a loss and a speed.
    fn metrics(&self, loss: f64, tokens_per_second: f64) -> StepMetrics {
        let state = &self.state;
        StepMetrics {
            step: state.step,
            epoch: self.plan.epochs.epoch_after(state.step),
            loss,
            learning_rate: state.learning_rate,
            grad_norm: state.grad_norm,
            tokens_per_second,
            num_tokens: state.num_tokens,
            fraction: self.fraction(),
            elapsed_seconds: self.elapsed_seconds(),
            seconds_left: self.eta.seconds_left(),
            skipped_updates: state.skipped_updates,
        }
    }

    /// Follows the last line of the log to where else it goes. A disk that does not take it does not end the run: the log is
    /// in every checkpoint.
    fn logged(&mut self, written: Result<(), Error>, samples: &[Sample], on_event: &mut OnEvent<'_>) {
        let mut warn = |error: Error| {
            on_event(Event::Warning(&format!("{error}; it is tried again with the next line")));
        };
        written.unwrap_or_else(&mut warn);
        if let (Some(board), Some(line)) = (&mut self.tensorboard, self.log.history().last()) {
            board.line(line).and_then(|()| board.samples(samples)).unwrap_or_else(&mut warn);
        }
    }

    /// Evaluates and samples, unless that has been done after this update. Breaks if it was stopped: then nothing of it is
    /// logged, and it is done again when the run goes on.
    fn evaluate(
        &mut self,
        requests: &Requests,
        on_event: &mut OnEvent<'_>,
    ) -> Result<ControlFlow<()>, Error> {
        let Some(data) = &self.eval_data else { return Ok(ControlFlow::Continue(())) };
        let step = self.state.step;
        if self.log.last_step_with("eval_loss") == Some(step) {
            return Ok(ControlFlow::Continue(()));
        }
        let begun = Instant::now();
        let live = live!(self);
        let (saving, mut failed) = (&mut self.saving, None);
        let mut attend = |on_event: &mut OnEvent<'_>| match saving.attend(&live, requests, on_event) {
            Ok(()) => requests.flow(),
            Err(error) => {
                failed = Some(error);
                ControlFlow::Break(())
            }
        };
        let (time, batch) = (self.plan.context_length, self.config.per_device_eval_batch_size);
        let mut progress = |done, of| {
            on_event(Event::Evaluating { done, of });
            attend(on_event)
        };
        let result = evaluate(&self.gpt, &mut self.step.activations, data, time, batch, &mut progress)?;
        let seconds = begun.elapsed().as_secs_f64();
        let samples = match result {
            None => None,
            Some(_) => self.sampler.samples(&self.gpt, &self.tokenizer, step, &mut || attend(on_event))?,
        };
        if let Some(error) = failed {
            return Err(error);
        }
        let (Some(result), Some(samples)) = (result, samples) else { return Ok(ControlFlow::Break(())) };
        let num_samples = result.num_targets.div_ceil(time as u64);
        let timing = EvalTiming { seconds, num_samples, num_batches: num_samples.div_ceil(batch as u64) };
        let written =
            self.log.evaluation(step, self.plan.epochs.epoch_after(step), &result, timing, &samples);
        self.logged(written, &samples, on_event);
        self.eta.evaluation(begun.elapsed().as_secs_f64());
        if let Some(line) = self.log.history().last() {
            self.evaluations.observe(line);
        }
        self.last_evaluation = Some(result);
        on_event(Event::Evaluated { step, result: &result });
        if !samples.is_empty() {
            on_event(Event::Sampled(&samples));
        }
        Ok(ControlFlow::Continue(()))
    }

    /// Whether no evaluation was better for as long as early_stopping_patience says.
    fn stops_early(&self, on_event: &mut OnEvent<'_>) -> bool {
        let Some(evaluations) = self.evaluations.out_of_patience() else { return false };
        on_event(Event::StoppingEarly { step: self.state.step, evaluations });
        true
    }

    /// Whether something that is done `every` so many updates is due now.
    fn is_due(&self, every: Option<u64>) -> bool {
        self.state.step > 0 && every.is_some_and(|every| self.state.step.is_multiple_of(every))
    }

    fn elapsed_seconds(&self) -> f64 {
        self.elapsed_before + self.clock.elapsed().as_secs_f64()
    }

    /// The share of the run that is done.
    fn fraction(&self) -> f64 {
        match self.plan.budget {
            Budget::Steps(steps) => self.state.step as f64 / steps.max(1) as f64,
            Budget::Time(time) => self.elapsed_seconds() / time.as_secs_f64(),
        }
    }

    /// With a time budget: whether the time is up, or less than half an update is left, which would end later than it
    /// should by more than not making it ends earlier.
    fn is_finished(&self) -> bool {
        match self.plan.budget {
            Budget::Steps(steps) => self.state.step >= steps,
            Budget::Time(time) => self.elapsed_seconds() + 0.5 * self.last_step_seconds >= time.as_secs_f64(),
        }
    }
}
