//! Everything that can go wrong in training, in one type. Only the command line turns it into text for people.

use std::io;
use std::path::{Path, PathBuf};

/// What can go wrong: with settings, the output folder, the data, a checkpoint, or the arithmetic.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The configuration file is not TOML.
    #[error("line {line}: {message}")]
    Toml {
        /// Line in the file, from 1.
        line: usize,
        /// The parser's words.
        message: String,
    },
    /// A name that no setting has.
    #[error("{}unknown setting `{name}`{hint}", at(*line))]
    UnknownSetting {
        /// The name.
        name: String,
        /// Line in the file, from 1; `None` for the command line.
        line: Option<usize>,
        /// What to write instead, or why there is no such setting.
        hint: String,
    },
    /// A value that a setting cannot have.
    #[error("{}`{name}`: expected {expected}, got {got}", at(*line))]
    Setting {
        /// The setting.
        name: String,
        /// Line in the file, from 1; `None` for the command line or a check of several settings together.
        line: Option<usize>,
        /// What it may be.
        expected: String,
        /// What it is.
        got: String,
    },
    /// A setting that must be given.
    #[error("`{name}` is missing: {hint}")]
    MissingSetting {
        /// The setting.
        name: &'static str,
        /// What to write.
        hint: &'static str,
    },
    /// fp16 was asked for on the CPU.
    #[error(
        "fp16 needs a GPU; on the CPU use bf16: `bf16 = true` in a file, `--bf16` or `--precision bf16` on the command line"
    )]
    Fp16,
    /// A model or a tokenizer of the hub.
    #[error(
        "`{name}`: {id} is on the Hugging Face hub, which eyas cannot read yet; download it and give its path"
    )]
    Hub {
        /// The setting.
        name: &'static str,
        /// The hub's id.
        id: String,
    },
    /// The operating system refused.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was tried: `write`, `create`, ...
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Its answer.
        source: io::Error,
    },
    /// Another process trains into the same folder.
    #[error("{} is in use by another run; choose another output_dir, or stop that run", path.display())]
    InUse {
        /// The output folder.
        path: PathBuf,
    },
    /// The disk cannot hold what the run will write.
    #[error(
        "{} has {:.2} GB free, and the run needs {:.2} for {num_checkpoints} checkpoints and its model; make room, choose another \
         output_dir, or keep fewer checkpoints (save_total_limit, save_steps)",
        path.display(),
        *free_bytes as f64 / 1e9,
        *needed_bytes as f64 / 1e9
    )]
    DiskFull {
        /// The output folder.
        path: PathBuf,
        /// Bytes free.
        free_bytes: u64,
        /// Bytes that the run writes at least.
        needed_bytes: u64,
        /// Checkpoints among them.
        num_checkpoints: u64,
    },
    /// A tokenizer with ids that the network does not have.
    #[error("the tokenizer {} has {tokenizer} ids, the model only {model}; leave vocab_size out, or train them together", path.display())]
    Vocabulary {
        /// The tokenizer.
        path: PathBuf,
        /// Ids of the tokenizer.
        tokenizer: usize,
        /// Ids of the model.
        model: usize,
    },
    /// Prepared data that do not fit this run.
    #[error("`{name}`: {}: expected {expected}, got {got}", path.display())]
    Data {
        /// The setting.
        name: &'static str,
        /// The folder of shards.
        path: PathBuf,
        /// What it should be.
        expected: String,
        /// What it is.
        got: String,
    },
    /// Data without a single sample.
    #[error(
        "`{name}`: {got} tokens are too few for one sample of {context_length}; give more data or a shorter context_length"
    )]
    TooLittleData {
        /// The setting.
        name: &'static str,
        /// Tokens a sample has.
        context_length: usize,
        /// Tokens there are.
        got: u64,
    },
    /// A model that cannot be continued with these settings.
    #[error("{}: its {key} is {got}, the settings say {expected}; {hint}", path.display())]
    Shape {
        /// The model folder or checkpoint.
        path: PathBuf,
        /// The key of the model's configuration.
        key: &'static str,
        /// What the settings say.
        expected: String,
        /// What the model has.
        got: String,
        /// What to do.
        hint: &'static str,
    },
    /// A checkpoint that is not whole.
    #[error("checkpoint {}: {problem}", path.display())]
    Checkpoint {
        /// Its folder, or the file in it.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// Checkpoints are there and none of them is whole.
    #[error("{}: no checkpoint is whole; remove them, or start again with overwrite_output_dir = true; the newest: {newest}", path.display())]
    NoWholeCheckpoint {
        /// The output folder.
        path: PathBuf,
        /// What is wrong with the newest.
        newest: Box<Error>,
    },
    /// A loss or gradient that is not finite. The update was not applied.
    #[error(
        "update {step}: loss {loss}, gradient norm {grad_norm}, learning rate {learning_rate:.3e}: not finite, so nothing was \
         updated and nothing saved; its samples are of {documents}; lower learning_rate, lengthen warmup_steps, train in f32, \
         or leave such updates out with skip_non_finite = true"
    )]
    NotFinite {
        /// The update, from 1.
        step: u64,
        /// Its mean loss.
        loss: f64,
        /// Its gradient norm.
        grad_norm: f64,
        /// Its learning rate.
        learning_rate: f64,
        /// The documents that its samples are of, in words.
        documents: String,
    },
    /// Update after update is not finite although they are left out.
    #[error(
        "update {step}: {count} updates in a row had a loss or gradient that is not finite, the last one of {documents}: the \
         weights are beyond repair; go on from an earlier checkpoint with a lower learning_rate"
    )]
    NeverFinite {
        /// The update, from 1.
        step: u64,
        /// How many in a row.
        count: u64,
        /// The documents of the last, in words.
        documents: String,
    },
    /// Weights, or what the optimizer keeps, are not finite after an update. They are not saved.
    #[error(
        "after update {step} a weight or a moment of the optimizer is not finite, so it is not saved: the checkpoints before stay; \
         lower learning_rate, or lengthen warmup_steps"
    )]
    WeightsNotFinite {
        /// Updates done.
        step: u64,
    },
    /// The network does not fit the device, however small its batches are.
    #[error(
        "training one sample at a time needs {} MiB with 256 in reserve, and the device has {} MiB free; take a smaller model \
         or context_length, gradient_checkpointing = true, or device = \"cpu\"",
        needed_bytes.div_ceil(1 << 20),
        free_bytes >> 20
    )]
    Memory {
        /// What the smallest plan takes.
        needed_bytes: u64,
        /// What is free.
        free_bytes: u64,
    },
    /// Nothing to score in an evaluation.
    #[error("there is nothing to evaluate: the data have no target")]
    NothingToEvaluate,
    /// The model's own error.
    #[error(transparent)]
    Model(#[from] eyas_model::Error),
    /// The data's own error.
    #[error(transparent)]
    Source(#[from] eyas_data::Error),
    /// The tokenizer's own error.
    #[error(transparent)]
    Token(#[from] eyas_token::Error),
}

impl Error {
    /// Whether it is the settings that are wrong, rather than the world: what exit status 2 is for.
    pub fn is_usage(&self) -> bool {
        matches!(
            self,
            Error::Toml { .. }
                | Error::UnknownSetting { .. }
                | Error::Setting { .. }
                | Error::MissingSetting { .. }
                | Error::Fp16
                | Error::Hub { .. }
        )
    }

    /// Whether the operating system refused something that it may not refuse later: a full disk, say.
    pub(crate) fn is_io(&self) -> bool {
        match self {
            Error::Io { .. } | Error::Token(eyas_token::Error::Write { .. }) => true,
            Error::Model(error) => error.is_io(),
            _ => false,
        }
    }

    pub(crate) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Error::Io { action, path: path.into(), source }
    }

    pub(crate) fn checkpoint(path: &Path, problem: impl Into<String>) -> Self {
        Error::Checkpoint { path: path.into(), problem: problem.into() }
    }
}

fn at(line: Option<usize>) -> String {
    line.map_or_else(String::new, |line| format!("line {line}: "))
}
