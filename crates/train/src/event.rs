//! What a run tells its caller while it goes on. Nothing is printed here.

use crate::evaluate::EvalResult;
use crate::plan::Plan;
use crate::runlog::StepMetrics;
use crate::trainer::Outcome;
use eyas_data::{PrepareProgress, PrepareReport};
use serde::{Deserialize, Serialize};
use std::path::Path;

/// Something that a run did, or is doing.
#[non_exhaustive]
pub enum Event<'a> {
    /// `train_data` or `eval_data` are being turned into shards.
    Preparing {
        /// The setting.
        setting: &'static str,
        /// How far it is.
        progress: &'a PrepareProgress,
    },
    /// They have been.
    Prepared {
        /// The setting.
        setting: &'static str,
        /// The folder of shards.
        path: &'a Path,
        /// What was taken and what was left out.
        report: &'a PrepareReport,
    },
    /// Shards of an earlier run were taken, since they were made from the same sources with the same settings.
    Reused {
        /// The setting.
        setting: &'static str,
        /// The folder of shards.
        path: &'a Path,
    },
    /// What the run will do; nothing large has been allocated yet.
    Plan(&'a Plan),
    /// The run goes on from a checkpoint.
    Resumed {
        /// The checkpoint.
        path: &'a Path,
        /// Updates it has done.
        step: u64,
    },
    /// A micro-batch of an update is done, or several that run as one pass.
    MicroBatch {
        /// Micro-batches done.
        done: usize,
        /// Of how many.
        of: usize,
    },
    /// An update is done.
    Step(&'a StepMetrics),
    /// A line with the losses since the last was written to metrics.jsonl.
    Logged(&'a StepMetrics),
    /// An evaluation is going on.
    Evaluating {
        /// Targets done.
        done: u64,
        /// Of how many.
        of: u64,
    },
    /// An evaluation is done.
    Evaluated {
        /// Updates done.
        step: u64,
        /// The result.
        result: &'a EvalResult,
    },
    /// The sample prompts were completed.
    Sampled(&'a [Sample]),
    /// A checkpoint was copied and is being written while training goes on.
    Saving {
        /// Updates it has.
        step: u64,
    },
    /// A checkpoint that was being written is not on the disk; a warning says why.
    NotSaved {
        /// Updates it has.
        step: u64,
    },
    /// A checkpoint is on the disk.
    Saved(&'a Path),
    /// An old checkpoint was removed, as save_total_limit or overwrite_output_dir say.
    Removed(&'a Path),
    /// No evaluation was better for long enough: the run ends here.
    StoppingEarly {
        /// Updates done.
        step: u64,
        /// Evaluations in a row without a better metric.
        evaluations: u64,
    },
    /// The weights of the best checkpoint were taken back, as load_best_model_at_end asks.
    LoadedBest {
        /// The checkpoint.
        path: &'a Path,
        /// Its metric: `eval_loss`, ...
        metric: &'a str,
        /// The metric's value.
        value: f64,
    },
    /// The page of the run is written.
    Reported(&'a Path),
    /// Something that a person should know.
    Warning(&'a str),
    /// The run has ended, or was stopped.
    Done(&'a Outcome),
}

/// What the network made of a prompt at an evaluation: a line of samples.jsonl.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sample {
    /// Updates done.
    pub step: u64,
    /// The prompt.
    pub prompt: String,
    /// What it was continued with, greedily.
    pub completion: String,
}

/// Where events go.
pub type OnEvent<'a> = dyn FnMut(Event<'_>) + 'a;
