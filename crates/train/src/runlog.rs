//! The run log: metrics.jsonl in the output folder, one JSON object each logging step and each evaluation.
//!
//! The log of a checkpoint is part of its state. A resumed run begins with exactly that log, so that the file never tells of
//! updates that were lost, and an interrupted run's file ends like an uninterrupted one's.

use crate::checkpoint::write_text;
use crate::error::Error;
use crate::evaluate::EvalResult;
use serde_json::{Map, Value, json};
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

/// The file's name.
pub const METRICS: &str = "metrics.jsonl";

/// The log of a run, in memory and on disk.
pub struct RunLog {
    path: PathBuf,
    file: File,
    history: Vec<Value>,
}

impl RunLog {
    /// Begins the log in `output_dir` with `history`.
    ///
    /// # Errors
    /// The operating system's.
    pub fn open(output_dir: &Path, history: Vec<Value>) -> Result<Self, Error> {
        let path = output_dir.join(METRICS);
        let text: String = history.iter().map(|line| format!("{line}\n")).collect();
        write_text(&path, &text)?;
        let file = OpenOptions::new().append(true).open(&path).map_err(Error::io("write", &path))?;
        Ok(RunLog { path, file, history })
    }

    /// Every line so far, as trainer_state.json keeps them.
    pub fn history(&self) -> &[Value] {
        &self.history
    }

    /// Appends a line with the losses of training since the last one.
    ///
    /// # Errors
    /// The operating system's.
    pub fn training(&mut self, metrics: &StepMetrics) -> Result<(), Error> {
        self.append(json!({
            "step": metrics.step,
            "epoch": metrics.epoch,
            "loss": metrics.loss,
            "learning_rate": metrics.learning_rate,
            "grad_norm": metrics.grad_norm,
            "tokens_per_second": metrics.tokens_per_second,
            "num_tokens": metrics.num_tokens,
            "skipped_updates": metrics.skipped_updates,
        }))
    }

    /// Appends a line with the result of an evaluation.
    ///
    /// # Errors
    /// The operating system's.
    pub fn evaluation(&mut self, step: u64, epoch: f64, result: &EvalResult) -> Result<(), Error> {
        self.append(json!({
            "step": step,
            "epoch": epoch,
            "eval_loss": result.loss,
            "eval_perplexity": result.perplexity,
            "eval_bits_per_byte": result.bits_per_byte,
            "eval_next_token_accuracy": result.next_token_accuracy,
        }))
    }

    /// The last step that has a line with `key`.
    pub fn last_step_with(&self, key: &str) -> Option<u64> {
        self.history.iter().rev().find(|line| line.get(key).is_some()).and_then(|line| line["step"].as_u64())
    }

    fn append(&mut self, line: Value) -> Result<(), Error> {
        // One write, so that a reader sees whole lines.
        self.file.write_all(format!("{line}\n").as_bytes()).map_err(Error::io("write", &self.path))?;
        self.history.push(line);
        Ok(())
    }
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
