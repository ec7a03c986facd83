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
use std::{fs, io};

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
    /// Writes run.json into `output_dir`; a reader sees the one before or this one, whole.
    ///
    /// # Errors
    /// The operating system's.
    pub fn save(&self, output_dir: &Path) -> Result<(), Error> {
        let path = output_dir.join(RUN);
        let text = serde_json::to_string_pretty(self)
            .map_err(|error| Error::io("write", &path)(io::Error::other(error)))?;
        write_text(&path, &format!("{text}\n"))
    }

    /// Reads `output_dir`'s run.json; `None` if there is none.
    ///
    /// # Errors
    /// The operating system's, and a file that is no such record.
    pub fn load(output_dir: &Path) -> Result<Option<Self>, Error> {
        let path = output_dir.join(RUN);
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(Error::io("read", &path)(error)),
        };
        let wrong = |error| Error::io("understand", &path)(io::Error::new(io::ErrorKind::InvalidData, error));
        serde_json::from_slice(&text).map(Some).map_err(wrong)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record() -> RunRecord {
        RunRecord {
            eyas: "0.1.0".into(),
            status: Status::Running,
            error: None,
            device: "CPU, 2 threads".into(),
            peak_flops: 4.64e11,
            num_parameters: 2_990_208,
            context_length: 256,
            train_data: vec!["src".into()],
            num_train_tokens: 10_051_852,
            tokens_per_update: 4096,
            num_steps: None,
            flops_per_token: 1.8e7,
            memory_bytes: BTreeMap::from([("weights".into(), 11_960_832)]),
            step: 12,
            epoch: 0.1,
            num_tokens: 49_152,
            skipped_updates: 0,
            elapsed_seconds: 3.25,
            best: Some(Best { step: 8, metric: "eval_loss".into(), value: 2.5 }),
            settings: Map::from_iter([("learning_rate".into(), 1e-3.into())]),
        }
    }

    #[test]
    fn what_is_saved_is_loaded() {
        let dir = tempfile::tempdir().expect("a folder");
        assert!(RunRecord::load(dir.path()).expect("no record is no error").is_none());
        record().save(dir.path()).expect("saved");
        assert_eq!(RunRecord::load(dir.path()).expect("loaded"), Some(record()));
        let text = fs::read_to_string(dir.path().join(RUN)).expect("text");
        assert!(text.contains("\"status\": \"running\"") && !text.contains("error"), "{text}");
    }

    #[test]
    fn a_broken_record_is_named() {
        let dir = tempfile::tempdir().expect("a folder");
        fs::write(dir.path().join(RUN), "{\"eyas\": \"0.1").expect("written");
        let error = RunRecord::load(dir.path()).expect_err("broken").to_string();
        assert!(error.contains("run.json") && error.contains("line 1"), "{error}");
    }
}
