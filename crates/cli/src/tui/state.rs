//! What the screen shows: filled by the run's events, copied by the thread that draws.
//!
//! Bounded whatever the run does: curves are thinned, notes and warnings beyond the last few are dropped.

use super::curve::Curve;
use crate::format;
use crate::progress::TimeLeft;
use crate::reporter;
use eyas_train::{EvalResult, Event, Plan, Sample, StepMetrics};
use serde_json::Value;
use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Notes that can be looked at.
const NOTES: usize = 200;
/// Warnings that are repeated when the screen is gone.
const WARNINGS: usize = 50;

/// What is going on.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) enum Stage {
    /// Files are opened, data prepared.
    #[default]
    Preparing,
    /// Updates.
    Training,
    /// An evaluation, with the share of it that is done.
    Evaluating(f64),
    /// Everything is done but the last lines.
    Done,
}

/// A line that tells what happened.
#[derive(Clone, Debug)]
pub(super) struct Note {
    pub(super) text: String,
    pub(super) is_warning: bool,
}

/// All of it.
#[derive(Clone, Default)]
pub(super) struct State {
    /// Counts changes, so that nothing is drawn twice.
    pub(super) version: u64,
    pub(super) title: String,
    pub(super) peak_flops: f64,
    pub(super) stage: Stage,
    pub(super) preparing: String,
    pub(super) plan: Option<Plan>,
    pub(super) metrics: Option<StepMetrics>,
    /// Micro-batches of the update that is going on: done, of how many.
    pub(super) micro_batch: Option<(usize, usize)>,
    /// The time left as it was last known, and when that was.
    left: Option<(Duration, Instant)>,
    by_share: TimeLeft,
    pub(super) loss: Curve,
    pub(super) eval_loss: Curve,
    pub(super) learning_rate: Curve,
    pub(super) grad_norm: Curve,
    pub(super) speed: Curve,
    pub(super) evaluation: Option<(u64, EvalResult)>,
    pub(super) samples: Vec<Sample>,
    /// Updates of the checkpoint that is being written.
    pub(super) saving: Option<u64>,
    /// The last of them.
    pub(super) notes: VecDeque<Note>,
    warnings: Vec<String>,
    num_warnings: usize,
}

impl State {
    /// Of a run that has told nothing yet.
    pub(super) fn new(title: String) -> Self {
        State { title, ..State::default() }
    }

    /// Takes in an event.
    pub(super) fn event(&mut self, event: &Event<'_>) {
        self.version += 1;
        match event {
            Event::Preparing { setting, progress } => {
                let (documents, bytes) =
                    (format::count(progress.num_documents), format::bytes(progress.num_bytes));
                self.preparing = format!("{setting}: {documents} documents, {bytes}");
            }
            Event::Plan(plan) => {
                self.peak_flops = plan.peak_flops;
                self.plan = Some((*plan).clone());
            }
            Event::MicroBatch { done, of } => {
                self.stage = Stage::Training;
                self.micro_batch = (done < of).then_some((*done, *of));
            }
            Event::Step(metrics) => self.step(metrics),
            Event::Evaluating { done, of } => {
                self.stage = Stage::Evaluating(*done as f64 / (*of).max(1) as f64);
            }
            Event::Evaluated { step, result } => {
                self.eval_loss.push(*step, result.loss);
                self.evaluation = Some((*step, **result));
                self.stage = Stage::Training;
            }
            Event::Sampled(samples) => self.samples = samples.to_vec(),
            Event::Saving { step } => self.saving = Some(*step),
            Event::Saved(_) | Event::NotSaved { .. } => self.saving = None,
            Event::Warning(text) => self.warn(text),
            Event::Done(_) => self.stage = Stage::Done,
            _ => {}
        }
        if let Some(line) = reporter::line_of(event) {
            self.note(&line);
        }
    }

    fn step(&mut self, metrics: &StepMetrics) {
        self.stage = Stage::Training;
        self.micro_batch = None;
        self.loss.push(metrics.step, metrics.loss);
        self.learning_rate.push(metrics.step, metrics.learning_rate);
        self.grad_norm.push(metrics.step, metrics.grad_norm);
        self.speed.push(metrics.step, metrics.tokens_per_second);
        let by_share = self.by_share.at(metrics.fraction);
        let known = metrics.seconds_left.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
        self.left = known.or(by_share).map(|left| (left, Instant::now()));
        self.metrics = Some(*metrics);
    }

    /// Takes in a line of metrics.jsonl from before a resume.
    pub(super) fn history(&mut self, line: &Value) {
        let Some(step) = line["step"].as_u64() else { return };
        let curves = [
            ("loss", &mut self.loss),
            ("eval_loss", &mut self.eval_loss),
            ("learning_rate", &mut self.learning_rate),
            ("grad_norm", &mut self.grad_norm),
            ("tokens_per_second", &mut self.speed),
        ];
        for (key, curve) in curves {
            if let Some(value) = line[key].as_f64() {
                curve.push(step, value);
            }
        }
    }

    /// The time left now.
    pub(super) fn left(&self) -> Option<Duration> {
        self.left.map(|(left, at)| left.saturating_sub(at.elapsed()))
    }

    /// The share of the run that is done, micro-batches of a long update included.
    pub(super) fn share(&self) -> f64 {
        let done = self.metrics.map_or(0.0, |metrics| metrics.fraction);
        let steps = self.plan.as_ref().and_then(Plan::num_steps);
        let within = match (self.micro_batch, steps) {
            (Some((done, of)), Some(steps)) => done as f64 / of as f64 / steps.max(1) as f64,
            _ => 0.0,
        };
        (done + within).clamp(0.0, 1.0)
    }

    /// Adds a line.
    pub(super) fn note(&mut self, text: &str) {
        self.push(text, false);
    }

    /// Adds a warning.
    pub(super) fn warn(&mut self, text: &str) {
        self.num_warnings += 1;
        if self.warnings.len() < WARNINGS {
            self.warnings.push(text.to_string());
        }
        self.push(text, true);
    }

    fn push(&mut self, text: &str, is_warning: bool) {
        self.version += 1;
        if self.notes.len() == NOTES {
            self.notes.pop_front();
        }
        self.notes.push_back(Note { text: text.to_string(), is_warning });
    }

    /// The warnings so far, and how many there were beside them.
    pub(super) fn warnings(&self) -> (&[String], usize) {
        (&self.warnings, self.num_warnings - self.warnings.len())
    }
}
