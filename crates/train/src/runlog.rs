//! The run log: metrics.jsonl in the output folder, one JSON object each logging step and each evaluation, and samples.jsonl
//! with what the sample prompts were continued with.
//!
//! The log of a checkpoint is part of its state. A resumed run begins with exactly that log, so that the file never tells of
//! updates that were lost, and an interrupted run's file ends like an uninterrupted one's.

use crate::checkpoint::write_text;
use crate::error::Error;
use crate::evaluate::EvalResult;
use crate::event::Sample;
use serde_json::{Map, Value, json};
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

/// The log's file.
pub const METRICS: &str = "metrics.jsonl";
/// The file of what the sample prompts were continued with.
pub const SAMPLES: &str = "samples.jsonl";

/// The log of a run, in memory and on disk.
pub struct RunLog {
    metrics: Lines,
    samples: Lines,
}

/// A file of JSON objects, one a line, that is kept in memory too: what the disk does not take is written with what comes
/// next.
struct Lines {
    path: PathBuf,
    /// Open since [`RunLog::begin`].
    file: Option<File>,
    lines: Vec<Value>,
    /// Lines and bytes that are in the file for certain.
    num_written: usize,
    num_bytes: u64,
}

impl Lines {
    fn begin(&mut self) -> Result<(), Error> {
        let text = text_of(&self.lines);
        write_text(&self.path, &text)?;
        let file = OpenOptions::new().append(true).open(&self.path);
        self.file = Some(file.map_err(Error::io("write", &self.path))?);
        (self.num_written, self.num_bytes) = (self.lines.len(), text.len() as u64);
        Ok(())
    }

    fn append(&mut self, new: Vec<Value>) -> Result<(), Error> {
        self.lines.extend(new);
        let Some(file) = &mut self.file else { return Ok(()) };
        // One write, so that a reader sees whole lines; what an earlier one left of a line is cut off first.
        let text = text_of(&self.lines[self.num_written..]);
        let written = file.set_len(self.num_bytes).and_then(|()| file.write_all(text.as_bytes()));
        written.map_err(Error::io("write", &self.path))?;
        (self.num_written, self.num_bytes) = (self.lines.len(), self.num_bytes + text.len() as u64);
        Ok(())
    }
}

fn text_of(lines: &[Value]) -> String {
    lines.iter().map(|line| format!("{line}\n")).collect()
}

impl RunLog {
    /// The log of a run in `output_dir`, with the lines and samples of a checkpoint. Nothing is written before
    /// [`begin`](Self::begin).
    pub fn new(output_dir: &Path, history: Vec<Value>, samples: Vec<Value>) -> Self {
        let lines = |name: &str, lines| Lines {
            path: output_dir.join(name),
            file: None,
            lines,
            num_written: 0,
            num_bytes: 0,
        };
        RunLog { metrics: lines(METRICS, history), samples: lines(SAMPLES, samples) }
    }

    /// Begins the files with exactly what is known so far.
    ///
    /// # Errors
    /// The operating system's.
    pub fn begin(&mut self) -> Result<(), Error> {
        self.metrics.begin()?;
        self.samples.begin()
    }

    /// Every line so far, as trainer_state.json keeps them.
    pub fn history(&self) -> &[Value] {
        &self.metrics.lines
    }

    /// Every sample so far.
    pub fn samples(&self) -> &[Value] {
        &self.samples.lines
    }

    /// Appends a line with the losses of training since the last one.
    ///
    /// # Errors
    /// The operating system's; the line is kept, and written with the next.
    pub fn training(&mut self, metrics: &StepMetrics) -> Result<(), Error> {
        self.metrics.append(vec![json!({
            "step": metrics.step,
            "epoch": metrics.epoch,
            "loss": metrics.loss,
            "learning_rate": metrics.learning_rate,
            "grad_norm": metrics.grad_norm,
            "tokens_per_second": metrics.tokens_per_second,
            "num_tokens": metrics.num_tokens,
            "skipped_updates": metrics.skipped_updates,
        })])
    }

    /// Appends a line with the result of an evaluation that took `seconds`, and what the prompts were continued with.
    ///
    /// # Errors
    /// The operating system's.
    pub fn evaluation(
        &mut self,
        step: u64,
        epoch: f64,
        result: &EvalResult,
        timing: EvalTiming,
        samples: &[Sample],
    ) -> Result<(), Error> {
        let per_second = |count: u64| count as f64 / timing.seconds.max(1e-9);
        let written = self.samples.append(samples.iter().map(|sample| json!(sample)).collect());
        self.metrics.append(vec![json!({
            "step": step,
            "epoch": epoch,
            "eval_loss": result.loss,
            "eval_perplexity": result.perplexity,
            "eval_bits_per_byte": result.bits_per_byte,
            "eval_next_token_accuracy": result.next_token_accuracy,
            "eval_runtime": timing.seconds,
            "eval_samples_per_second": per_second(timing.num_samples),
            "eval_steps_per_second": per_second(timing.num_batches),
        })])?;
        written
    }

    /// Appends transformers' last line, which sums up a run.
    ///
    /// # Errors
    /// The operating system's.
    pub fn summary(&mut self, line: Value) -> Result<(), Error> {
        self.metrics.append(vec![line])
    }

    /// Writes what the disk did not take before, and makes all of it survive a power cut.
    ///
    /// # Errors
    /// The operating system's.
    pub fn finish(&mut self) -> Result<(), Error> {
        for lines in [&mut self.metrics, &mut self.samples] {
            lines.append(Vec::new())?;
            if let Some(file) = &lines.file {
                file.sync_all().map_err(Error::io("write", &lines.path))?;
            }
        }
        Ok(())
    }

    /// The last line that has `key`.
    pub fn last_with(&self, key: &str) -> Option<&Value> {
        self.history().iter().rev().find(|line| line.get(key).is_some())
    }

    /// The last step that has a line with `key`.
    pub fn last_step_with(&self, key: &str) -> Option<u64> {
        self.last_with(key).and_then(|line| line["step"].as_u64())
    }
}

/// What an evaluation took.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct EvalTiming {
    /// Seconds, without the samples.
    pub seconds: f64,
    /// Windows.
    pub num_samples: u64,
    /// Batches of windows.
    pub num_batches: u64,
}

/// What is known after an update.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StepMetrics {
    /// Updates done.
    pub step: u64,
    /// Passes over the data done.
    pub epoch: f64,
    /// Mean loss over targets, in nats: of this update, or in the log of all since the last line.
    pub loss: f64,
    /// Learning rate of this update.
    pub learning_rate: f64,
    /// Gradient norm of this update, before clipping.
    pub grad_norm: f64,
    /// Tokens read a second of training, evaluations and checkpoints not counted.
    pub tokens_per_second: f64,
    /// Tokens read since the beginning.
    pub num_tokens: u64,
    /// Share of the run that is done: of its updates, or of its time.
    pub fraction: f64,
    /// Seconds since the beginning, those before a resume included.
    pub elapsed_seconds: f64,
    /// Seconds to the end, evaluations and checkpoints included; `None` while nothing is known.
    pub seconds_left: Option<f64>,
    /// Updates that were left out because something was not finite, since the beginning.
    pub skipped_updates: u64,
}

/// The sums that a log line is made of.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Window {
    pub(crate) loss_sum: f64,
    pub(crate) num_targets: u64,
    pub(crate) num_tokens: u64,
    pub(crate) seconds: f64,
}

impl Window {
    pub(crate) fn to_json(self) -> Value {
        json!({
            "loss_sum": self.loss_sum,
            "num_targets": self.num_targets,
            "num_tokens": self.num_tokens,
            "seconds": self.seconds,
        })
    }

    /// `None` if a field is missing.
    pub(crate) fn from_json(value: &Map<String, Value>) -> Option<Self> {
        Some(Window {
            loss_sum: value.get("loss_sum")?.as_f64()?,
            num_targets: value.get("num_targets")?.as_u64()?,
            num_tokens: value.get("num_tokens")?.as_u64()?,
            seconds: value.get("seconds")?.as_f64()?,
        })
    }
}
