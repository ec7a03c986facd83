//! run.json: what a run is, for people and for `eyas runs`; nothing is resumed from it.
//!
//! Written at the start of a run and again whenever its state changes: at checkpoints, and at the end, whichever it is. A
//! killed run leaves the state `running` behind; whether a process still holds the folder's lock says which it is.

use crate::checkpoint::write_text;
use crate::error::Error;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::path::Path;

/// The file's name.
pub const RUN: &str = "run.json";

/// How far a run is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// It is going on, or was killed.
    Running,
    /// It was asked to stop, and goes on when the same command is given.
    Stopped,
    /// It reached its end.
    Done,
    /// It ended with an error.
    Failed,
}

/// The best evaluation so far.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Best {
    /// Updates done.
    pub step: u64,
    /// `eval_loss`, ...
    pub metric: String,
    /// Its value.
    pub value: f64,
}

/// The content of run.json.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RunRecord {
    /// The version of eyas that wrote it.
    pub eyas: String,
    /// How far it is.
    pub status: Status,
    /// Why it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// The device, in words.
    pub device: String,
    /// What the device does at most, in FLOP/s.
    pub peak_flops: f64,
    /// Parameters.
    pub num_parameters: usize,
    /// T.
    pub context_length: usize,
    /// What the training data were made from.
    pub train_data: Vec<String>,
    /// Their tokens.
    pub num_train_tokens: u64,
    /// Tokens of a whole update.
    pub tokens_per_update: u64,
    /// Updates in all; absent if the run ends with its time.
    pub num_steps: Option<u64>,
    /// Floating-point operations of training on one token.
    pub flops_per_token: f64,
    /// Memory by kind, in bytes.
    pub memory_bytes: BTreeMap<String, u64>,
    /// Updates done.
    pub step: u64,
    /// Passes over the data done.
    pub epoch: f64,
    /// Tokens read.
    pub num_tokens: u64,
    /// Updates that were left out because something was not finite.
    pub skipped_updates: u64,
    /// Seconds of all the processes that worked on it, as far as their work was kept.
    pub elapsed_seconds: f64,
    /// The best evaluation, where one is looked for.
    pub best: Option<Best>,
    /// Every setting.
    pub settings: Map<String, Value>,
}

impl RunRecord {
    /// Writes run.json into `output_dir`.
    ///
    /// # Errors
    /// The operating system's.
    pub fn save(&self, output_dir: &Path) -> Result<(), Error> {
        let text =
            serde_json::to_string_pretty(self).expect("numbers, texts and maps of them are JSON") + "\n";
        write_text(&output_dir.join(RUN), &text)
    }
}
