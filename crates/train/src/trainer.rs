//! The loop: update after update, and between them logging, evaluation and checkpoints.
//!
//! Place in the data, learning rate and dropout are functions of the number of updates done, so a run that is resumed takes
//! up exactly where it was, in no time. A request to stop is seen after each micro-batch: what the unfinished update has
//! added up is dropped, to be computed again, and a checkpoint of the finished ones is saved.

use crate::card::model_card;
use crate::checkpoint::{self, Contents};
use crate::error::Error;
use crate::evaluate::{EvalData, EvalResult, evaluate};
use crate::event::{Event, OnEvent};
use crate::loss_scale::LossScale;
use crate::optimizer::{Hyper, NotFinite, Optimizer};
use crate::output::OutputDir;
use crate::plan::{Budget, Plan};
use crate::runlog::{RunLog, StepMetrics};
use crate::schedule::Schedule;
use crate::settings::{SaveStrategy, Strategy, TrainConfig};
use crate::setup::Setup;
use crate::state::{State, data_identity, differences};
use crate::step::{Samples, Step, StepLoss, key_of};
use eyas_data::Loader;
use eyas_model::Gpt;
use eyas_ops::Backend;
use eyas_token::Tokenizer;
use serde_json::Value;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

/// A run of training, from its first update or from a checkpoint.
pub struct Trainer<D: Backend> {
    config: TrainConfig,
    plan: Plan,
    output: OutputDir,
    tokenizer: Tokenizer,
    loader: Loader,
    eval_data: Option<EvalData>,
    gpt: Gpt<D>,
    optimizer: Optimizer<D>,
    step: Step<D>,
    schedule: Schedule,
    state: State,
    log: RunLog,
    data_identity: Value,
    /// What this process counts from; `state.elapsed_seconds` came before it.
    clock: Instant,
    elapsed_before: f64,
    last_step_seconds: f64,
    last: Option<StepMetrics>,
    last_evaluation: Option<EvalResult>,
    saved: Option<(u64, PathBuf)>,
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
    /// Seconds, those before a resume included.
    pub elapsed_seconds: f64,
}

impl<D: Backend> Trainer<D> {
    /// Opens and checks all that the run needs, tells the plan, then allocates.
    ///
    /// # Errors
    /// Everything that is wrong with settings, files, data or the output folder.
    pub fn new(device: Arc<D>, mut config: TrainConfig, on_event: &mut OnEvent<'_>) -> Result<Self, Error> {
        let setup = Setup::new(&*device, &mut config, on_event)?;
        let gpt = setup.gpt(&device, &config)?;
        let mut optimizer = Optimizer::new(&gpt, config.optim, Hyper::new(&config));
        let data_identity = data_identity(&setup.loader, &setup.tokenizer);
        let (mut state, mut history, mut saved) = (State::default(), Vec::new(), None);
        if let Some(checkpoint) = &setup.checkpoint {
            for line in differences(checkpoint, &config, &data_identity)? {
                on_event(Event::Warning(&line));
            }
            (state, history) = State::from_checkpoint(checkpoint)?;
            optimizer.load(&checkpoint.optimizer())?;
            saved = Some((state.step, checkpoint.path.clone()));
            on_event(Event::Resumed { path: &checkpoint.path, step: state.step });
        }
        // A run that was begun in another precision gets a scale of its own.
        state.loss_scale = config.fp16.then(|| state.loss_scale.unwrap_or_default());
        let schedule = match setup.plan.budget {
            Budget::Steps(steps) => Schedule::new(&config, steps),
            Budget::Time(_) => Schedule::timed(&config),
        };
        let (batch, accumulation) = (config.per_device_train_batch_size, config.gradient_accumulation_steps);
        // No update is larger than an epoch, whatever the settings say.
        let batch = batch.min(setup.plan.epochs.num_samples as usize);
        let accumulation = accumulation.min((setup.plan.epochs.num_samples as usize).div_ceil(batch));
        Ok(Trainer {
            step: Step::new(&gpt, batch, accumulation, setup.plan.context_length),
            log: RunLog::open(setup.output.path(), history)?,
            elapsed_before: state.elapsed_seconds,
            plan: setup.plan,
            output: setup.output,
            tokenizer: setup.tokenizer,
            loader: setup.loader,
            eval_data: setup.eval_data,
            config,
            gpt,
            optimizer,
            schedule,
            state,
            data_identity,
            clock: Instant::now(),
            last_step_seconds: 0.0,
            last: None,
            last_evaluation: None,
            saved,
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

    /// Trains to the end, or until `stop` is set, and saves. The time of a time budget begins here.
    ///
    /// # Errors
    /// [`Error::NotFinite`] if the arithmetic breaks down; what the operating system refuses. Checkpoints that were saved
    /// stay.
    pub fn run(&mut self, stop: &AtomicBool, on_event: &mut OnEvent<'_>) -> Result<Outcome, Error> {
        self.clock = Instant::now();
        let ended = self.train(stop, on_event)?;
        if ended.is_break() {
            self.save_checkpoint(on_event)?;
        }
        let outcome = Outcome {
            step: self.state.step,
            stopped: ended.is_break(),
            last: self.last,
            evaluation: self.last_evaluation,
            checkpoint: self.saved.as_ref().map(|(_, path)| path.clone()),
            num_tokens: self.state.num_tokens,
            elapsed_seconds: self.elapsed_seconds(),
        };
        on_event(Event::Done(&outcome));
        Ok(outcome)
    }

    /// Breaks if it was stopped.
    fn train(&mut self, stop: &AtomicBool, on_event: &mut OnEvent<'_>) -> Result<ControlFlow<()>, Error> {
        // An evaluation that was due when the run was stopped is made up for.
        let at_start = self.config.eval_on_start && self.state.step == 0;
        let is_due = at_start || self.is_due(self.config.eval_strategy, self.eval_steps());
        if is_due && self.evaluate(stop, on_event)?.is_break() {
            return Ok(ControlFlow::Break(()));
        }
        while !self.is_finished() {
            if stop.load(Ordering::Relaxed) || self.update(stop, on_event)?.is_break() {
                return Ok(ControlFlow::Break(()));
            }
            if self.between_updates(stop, on_event)?.is_break() {
                return Ok(ControlFlow::Break(()));
            }
        }
        self.finish(on_event)?;
        Ok(ControlFlow::Continue(()))
    }

    /// Logs, evaluates and saves what is due after an update.
    fn between_updates(
        &mut self,
        stop: &AtomicBool,
        on_event: &mut OnEvent<'_>,
    ) -> Result<ControlFlow<()>, Error> {
        let first = self.config.logging_first_step && self.state.step == 1;
        if first || self.is_due(Strategy::Steps, self.config.logging_steps) {
            self.log_window(on_event)?;
        }
        let eval_due = self.is_due(self.config.eval_strategy, self.eval_steps());
        if eval_due && self.evaluate(stop, on_event)?.is_break() {
            return Ok(ControlFlow::Break(()));
        }
        let save_due = match self.config.save_strategy {
            SaveStrategy::Steps => self.is_due(Strategy::Steps, self.config.save_steps),
            SaveStrategy::Epoch => self.is_due(Strategy::Epoch, 1),
            SaveStrategy::No | SaveStrategy::Best => false,
        };
        if save_due {
            self.save_checkpoint(on_event)?;
        }
        Ok(ControlFlow::Continue(()))
    }

    /// Does at the end what was not done after the last update, and writes the model folder.
    fn finish(&mut self, on_event: &mut OnEvent<'_>) -> Result<(), Error> {
        if self.state.window.num_targets > 0 {
            self.log_window(on_event)?;
        }
        if self.config.save_strategy != SaveStrategy::No {
            self.save_checkpoint(on_event)?;
        }
        checkpoint::save_model(self.output.path(), &self.gpt, &self.tokenizer, &self.card())
    }

    /// One update. Breaks if it was stopped, with nothing changed.
    fn update(&mut self, stop: &AtomicBool, on_event: &mut OnEvent<'_>) -> Result<ControlFlow<()>, Error> {
        let begun = Instant::now();
        let done = self.state.step;
        // As in PyTorch, the schedule does not move on for an update that fp16 overflowed in, and that was not applied.
        let applied = self.optimizer.num_updates();
        let learning_rate = match self.plan.budget {
            Budget::Steps(_) => self.schedule.learning_rate(applied),
            Budget::Time(_) => {
                self.schedule.learning_rate_at(self.fraction(), applied, self.config.warmup_steps)
            }
        };
        let (epoch, positions) = self.plan.epochs.samples_of(done);
        let samples = Samples {
            epoch,
            positions,
            batch: self.config.per_device_train_batch_size,
            dropout_key: Some(key_of(self.config.seed, done)),
        };
        let mut after_each = |done, of| {
            on_event(Event::MicroBatch { done, of });
            // The last micro-batch is not thrown away for a request that came during it.
            if stop.load(Ordering::Relaxed) && done < of {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            }
        };
        let factor = self.state.loss_scale.map_or(1.0, |scale| scale.factor());
        let Some(loss) = self.step.gradients_of(&self.gpt, &self.loader, &samples, factor, &mut after_each)
        else {
            return Ok(ControlFlow::Break(()));
        };
        let not_finite =
            |grad_norm: f64| Error::NotFinite { step: done + 1, loss: loss.mean(), grad_norm, learning_rate };
        if !loss.sum.is_finite() {
            // No loss scale changes that.
            return Err(not_finite(self.step.gradients.norm()));
        }
        let updated = self.optimizer.update(&mut self.gpt, &self.step.gradients, learning_rate);
        let grad_norm = match (updated, &mut self.state.loss_scale) {
            (Ok(grad_norm), scale) => {
                scale.iter_mut().for_each(LossScale::succeeded);
                grad_norm
            }
            (Err(NotFinite(grad_norm)), Some(scale)) => {
                if !scale.overflowed() {
                    return Err(not_finite(grad_norm));
                }
                on_event(Event::Warning(&format!(
                    "update {}: the gradient leaves fp16's range; it is skipped, and the loss scale is {} now",
                    done + 1,
                    scale.factor()
                )));
                grad_norm
            }
            (Err(NotFinite(grad_norm)), None) => return Err(not_finite(grad_norm)),
        };
        self.account(&loss, begun.elapsed().as_secs_f64(), learning_rate, grad_norm);
        if let Some(metrics) = &self.last {
            on_event(Event::Step(metrics));
        }
        Ok(ControlFlow::Continue(()))
    }

    /// Enters an update into the sums.
    fn account(&mut self, loss: &StepLoss, seconds: f64, learning_rate: f64, grad_norm: f64) {
        let window = &mut self.state.window;
        window.loss_sum += loss.sum;
        window.num_targets += loss.num_targets;
        window.num_tokens += loss.num_tokens;
        window.seconds += seconds;
        self.state.step += 1;
        self.state.num_tokens += loss.num_tokens;
        self.last_step_seconds = seconds;
        self.last = Some(StepMetrics {
            step: self.state.step,
            epoch: self.plan.epochs.epoch_after(self.state.step),
            loss: loss.mean(),
            learning_rate,
            grad_norm,
            tokens_per_second: loss.num_tokens as f64 / seconds,
            num_tokens: self.state.num_tokens,
            fraction: self.fraction(),
            elapsed_seconds: self.elapsed_seconds(),
            seconds_left: None,
            skipped_updates: 0,
        });
    }

    fn log_window(&mut self, on_event: &mut OnEvent<'_>) -> Result<(), Error> {
        let Some(last) = self.last else { return Ok(()) };
        let window = std::mem::take(&mut self.state.window);
        let metrics = StepMetrics {
            loss: window.loss_sum / window.num_targets as f64,
            tokens_per_second: window.num_tokens as f64 / window.seconds,
            ..last
        };
        self.log.training(&metrics)?;
        on_event(Event::Logged(&metrics));
        Ok(())
    }

    /// Evaluates, unless that has been done after this update. Breaks if it was stopped.
    fn evaluate(&mut self, stop: &AtomicBool, on_event: &mut OnEvent<'_>) -> Result<ControlFlow<()>, Error> {
        let Some(data) = &self.eval_data else { return Ok(ControlFlow::Continue(())) };
        let step = self.state.step;
        if self.log.last_step_with("eval_loss") == Some(step) {
            return Ok(ControlFlow::Continue(()));
        }
        let (time, batch) = (self.plan.context_length, self.config.per_device_eval_batch_size);
        let mut progress = |done, of| {
            on_event(Event::Evaluating { done, of });
            if stop.load(Ordering::Relaxed) { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        };
        let result = evaluate(&self.gpt, &mut self.step.activations, data, time, batch, &mut progress)?;
        let Some(result) = result else { return Ok(ControlFlow::Break(())) };
        self.log.evaluation(step, self.plan.epochs.epoch_after(step), &result)?;
        self.last_evaluation = Some(result);
        on_event(Event::Evaluated { step, result: &result });
        Ok(ControlFlow::Continue(()))
    }

    /// Saves a checkpoint, unless this update's is there, then removes those that are too many.
    fn save_checkpoint(&mut self, on_event: &mut OnEvent<'_>) -> Result<(), Error> {
        let step = self.state.step;
        if self.saved.as_ref().is_some_and(|(saved, _)| *saved == step) {
            return Ok(());
        }
        self.state.elapsed_seconds = self.elapsed_seconds();
        let state = self.state.to_json(&self.config, &self.plan, &self.data_identity, self.log.history());
        let card = self.card();
        let contents = Contents {
            gpt: &self.gpt,
            optimizer: &self.optimizer,
            tokenizer: &self.tokenizer,
            card: &card,
            state,
        };
        let path = checkpoint::save(self.output.path(), step, contents)?;
        on_event(Event::Saved(&path));
        self.saved = Some((step, path));
        if let Some(limit) = self.config.save_total_limit {
            let removed = checkpoint::retain(self.output.path(), step, limit)?;
            removed.iter().for_each(|path| on_event(Event::Removed(path)));
        }
        Ok(())
    }

    fn card(&self) -> String {
        let (step, num_tokens) = (self.state.step, self.state.num_tokens);
        model_card(&self.config, &self.plan, step, num_tokens, self.last_evaluation.as_ref())
    }

    fn eval_steps(&self) -> u64 {
        self.config.eval_steps.unwrap_or(self.config.logging_steps)
    }

    /// Whether something that is done every so often is due now.
    fn is_due(&self, strategy: Strategy, steps: u64) -> bool {
        let step = self.state.step;
        step > 0
            && match strategy {
                Strategy::No => false,
                Strategy::Steps => step.is_multiple_of(steps),
                Strategy::Epoch => step.is_multiple_of(self.plan.epochs.updates_per_epoch()),
            }
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
