//! The plan: what a run will do, with numbers, before its first step.
//!
//! Owns the arithmetic that turns samples, batches and epochs into updates, as transformers' Trainer does: updates of an
//! epoch round up, so the last may have fewer micro-batches, and the last micro-batch fewer samples.

use crate::format::{binary_bytes, count};
use crate::settings::TrainConfig;
use serde_json::{Map, Value, json};
use std::fmt;
use std::ops::Range;
use std::time::Duration;

/// When a run ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Budget {
    /// After so many updates.
    Steps(u64),
    /// After so much time, evaluations and checkpoints included.
    Time(Duration),
}

/// How an epoch is cut into updates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Epochs {
    /// Samples of an epoch that are used.
    pub num_samples: u64,
    /// B: samples of a micro-batch.
    pub batch: u64,
    /// Micro-batches of an update.
    pub accumulation: u64,
}

impl Epochs {
    /// The cut of `num_samples` samples.
    pub fn new(config: &TrainConfig, num_samples: u64) -> Self {
        let batch = config.per_device_train_batch_size as u64;
        let whole = num_samples - num_samples % batch;
        Epochs {
            num_samples: if config.dataloader_drop_last { whole } else { num_samples },
            batch,
            accumulation: config.gradient_accumulation_steps as u64,
        }
    }

    /// Samples of a whole update.
    pub fn samples_per_update(&self) -> u64 {
        self.batch * self.accumulation
    }

    /// Updates of an epoch.
    pub fn updates_per_epoch(&self) -> u64 {
        self.num_samples.div_ceil(self.samples_per_update())
    }

    /// The epoch of update `step`, counted from 0, and its samples' positions in it.
    pub fn samples_of(&self, step: u64) -> (u64, Range<u64>) {
        let (epoch, update) = (step / self.updates_per_epoch(), step % self.updates_per_epoch());
        let start = update * self.samples_per_update();
        (epoch, start..self.num_samples.min(start + self.samples_per_update()))
    }

    /// Passes over the data done after `step` updates.
    pub fn epoch_after(&self, step: u64) -> f64 {
        let (whole, update) = (step / self.updates_per_epoch(), step % self.updates_per_epoch());
        let (batches, all) = (update * self.accumulation, self.num_samples.div_ceil(self.batch));
        whole as f64 + batches as f64 / all as f64
    }

    /// When a run with these settings ends.
    pub fn budget(&self, config: &TrainConfig) -> Budget {
        if config.max_minutes > 0.0 {
            return Budget::Time(Duration::from_secs_f64(60.0 * config.max_minutes));
        }
        match u64::try_from(config.max_steps) {
            Ok(steps) => Budget::Steps(steps),
            Err(_) => {
                Budget::Steps((config.num_train_epochs * self.updates_per_epoch() as f64).ceil() as u64)
            }
        }
    }
}

/// What a run will do.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The device, in words.
    pub device: String,
    /// What the device does at most, in FLOP/s, measured at the start.
    pub peak_flops: f64,
    /// Parameters.
    pub num_parameters: usize,
    /// Parameters that weight decay applies to.
    pub num_decayed: usize,
    /// T.
    pub context_length: usize,
    /// Tokens of the training data.
    pub num_train_tokens: u64,
    /// How an epoch is cut.
    pub epochs: Epochs,
    /// Samples that a micro-batch was asked to have; it has fewer where memory was short.
    pub asked_batch_size: usize,
    /// Micro-batches that run as one pass; `None` on the CPU, where each runs by itself.
    pub merged: Option<u64>,
    /// When the run ends.
    pub budget: Budget,
    /// Updates done by the checkpoint that the run goes on from.
    pub first_step: u64,
    /// Floating-point operations of training on one token.
    pub flops_per_token: f64,
    /// Memory by kind, in bytes.
    pub memory: Vec<(&'static str, u64)>,
    /// Bytes of a checkpoint.
    pub checkpoint_bytes: u64,
    /// Checkpoints that are on the disk at once, at most; `None` if that depends on time or on evaluations.
    pub num_checkpoints: Option<u64>,
    /// Targets of an evaluation; `None` if there is none.
    pub num_eval_targets: Option<u64>,
    /// What a person should know before waiting.
    pub warnings: Vec<String>,
}

impl Plan {
    /// Tokens of a whole update.
    pub fn tokens_per_update(&self) -> u64 {
        self.epochs.samples_per_update() * self.context_length as u64
    }

    /// Samples that go through the network at once.
    pub fn samples_per_pass(&self) -> u64 {
        self.epochs.batch * self.merged.unwrap_or(1)
    }

    /// What is said of micro-batches that are merged; `None` if each runs by itself.
    pub fn passes(&self) -> Option<String> {
        let merged = self.merged.filter(|merged| *merged > 1)?;
        Some(format!(
            "{merged} micro-batches at once: {} of {} samples x {} tokens an update",
            self.epochs.accumulation / merged,
            self.samples_per_pass(),
            self.context_length
        ))
    }

    /// Updates in all; `None` if the run ends with its time.
    pub fn num_steps(&self) -> Option<u64> {
        match self.budget {
            Budget::Steps(steps) => Some(steps),
            Budget::Time(_) => None,
        }
    }

    /// Floating-point operations of the updates that are left; `None` if the run ends with its time.
    pub fn flops(&self) -> Option<f64> {
        let steps = self.num_steps()?.saturating_sub(self.first_step) as f64;
        let per_epoch = self.epochs.num_samples as f64 * self.context_length as f64;
        let tokens = steps / self.epochs.updates_per_epoch() as f64 * per_epoch;
        Some(tokens * self.flops_per_token)
    }

    /// The plan as a program reads it.
    pub fn to_json(&self) -> Value {
        let memory: Map<String, Value> =
            self.memory.iter().map(|(kind, bytes)| ((*kind).into(), (*bytes).into())).collect();
        json!({
            "device": self.device,
            "peak_flops": self.peak_flops,
            "num_parameters": self.num_parameters,
            "num_decayed": self.num_decayed,
            "context_length": self.context_length,
            "num_train_tokens": self.num_train_tokens,
            "num_samples": self.epochs.num_samples,
            "tokens_per_update": self.tokens_per_update(),
            "micro_batches_per_pass": self.merged.unwrap_or(1),
            "updates_per_epoch": self.epochs.updates_per_epoch(),
            "num_steps": self.num_steps(),
            "first_step": self.first_step,
            "flops_per_token": self.flops_per_token,
            "flops": self.flops(),
            "memory_bytes": memory,
            "checkpoint_bytes": self.checkpoint_bytes,
            "num_checkpoints": self.num_checkpoints,
            "num_eval_targets": self.num_eval_targets,
            "warnings": self.warnings,
        })
    }

    /// All memory, in bytes.
    pub fn memory_bytes(&self) -> u64 {
        self.memory.iter().map(|(_, bytes)| bytes).sum()
    }
}

impl fmt::Display for Plan {
    /// A line for each fact; warnings are left to the caller.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let cut = &self.epochs;
        writeln!(f, "device      {}", self.device)?;
        writeln!(
            f,
            "model       {} parameters, {} of them decayed",
            count(self.num_parameters as u64),
            count(self.num_decayed as u64)
        )?;
        writeln!(
            f,
            "data        {} tokens: {} samples of {}",
            count(self.num_train_tokens),
            count(cut.num_samples),
            self.context_length
        )?;
        writeln!(
            f,
            "update      {} samples x {} micro-batches x {} tokens = {} tokens",
            cut.batch,
            cut.accumulation,
            self.context_length,
            count(self.tokens_per_update())
        )?;
        if let Some(passes) = self.passes() {
            writeln!(f, "passes      {passes}")?;
        }
        let per_epoch = count(cut.updates_per_epoch());
        match self.budget {
            Budget::Steps(steps) => {
                let epochs = cut.epoch_after(steps);
                writeln!(
                    f,
                    "length      {} updates, {per_epoch} an epoch: {epochs:.2} epochs",
                    count(steps)
                )?;
            }
            Budget::Time(time) => {
                let minutes = time.as_secs_f64() / 60.0;
                writeln!(f, "length      {minutes:.1} minutes, {per_epoch} updates an epoch")?;
            }
        }
        if self.first_step > 0 {
            writeln!(f, "resumed     after {} updates", count(self.first_step))?;
        }
        let per_token = self.flops_per_token;
        match self.flops() {
            Some(flops) => writeln!(f, "arithmetic  {per_token:.3e} FLOP a token, {flops:.3e} in all")?,
            None => writeln!(f, "arithmetic  {per_token:.3e} FLOP a token")?,
        }
        if let Some(targets) = self.num_eval_targets {
            writeln!(f, "evaluation  {} targets", count(targets))?;
        }
        let kinds: Vec<_> =
            self.memory.iter().map(|(kind, bytes)| format!("{kind} {}", binary_bytes(*bytes))).collect();
        writeln!(f, "memory      {}: {}", binary_bytes(self.memory_bytes()), kinds.join(", "))?;
        write!(f, "checkpoint  {}", binary_bytes(self.checkpoint_bytes))?;
        match self.num_checkpoints {
            Some(0) => write!(f, ", none kept"),
            Some(many) => {
                write!(
                    f,
                    ", {} at once: {}",
                    count(many),
                    binary_bytes(many.saturating_mul(self.checkpoint_bytes))
                )
            }
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tutorials_epoch_is_cut_as_transformers_cuts_it() {
        let cut = Epochs { num_samples: 16_702_061, batch: 32, accumulation: 8 };
        assert_eq!(cut.num_samples.div_ceil(32), 521_940);
        assert_eq!(cut.updates_per_epoch(), 65_243);
        let (epoch, last) = cut.samples_of(65_242);
        assert_eq!((epoch, last.end), (0, 16_702_061));
        // Four micro-batches, the last of 13 rows.
        assert_eq!(last.end - last.start, 3 * 32 + 13);
        assert_eq!(cut.samples_of(65_243), (1, 0..256));
        assert_eq!(cut.epoch_after(65_243), 1.0);
        assert_eq!(cut.epoch_after(1), 8.0 / 521_940.0);
    }

    #[test]
    fn fewer_samples_than_an_update_are_one_short_update() {
        let cut = Epochs { num_samples: 3, batch: 8, accumulation: 4 };
        assert_eq!((cut.updates_per_epoch(), cut.samples_of(5)), (1, (5, 0..3)));
    }
}
