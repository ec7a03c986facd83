//! Everything that can go wrong in this crate, in one type. Only the command line turns it into text for people.

use std::io;
use std::path::{Path, PathBuf};

/// What can go wrong: with a configuration, with a model folder, with a request for text.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Something does not fit the device.
    #[error(
        "{what}: {} MiB of the device's memory are needed, {} are free; {hint}use the CPU, `--device cpu`, or end what fills it",
        needed_bytes.div_ceil(1 << 20),
        free_bytes >> 20
    )]
    Memory {
        /// What it is.
        what: String,
        /// What else may be asked for, with a comma at its end; empty if there is nothing.
        hint: &'static str,
        /// What it takes.
        needed_bytes: usize,
        /// What is free.
        free_bytes: usize,
    },
    /// More at once than a device can count the elements of.
    #[error("expected at most {most} {what} at once, got {got}")]
    Batch {
        /// What they are.
        what: String,
        /// How many there may be.
        most: usize,
        /// How many were asked for.
        got: usize,
    },
    /// An error with the file it was found in.
    #[error("{}: {error}", path.display())]
    In {
        /// The file or folder.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        error: Box<Error>,
    },
    /// The operating system refused.
    #[error("cannot {action}: {source}")]
    Io {
        /// What was tried: `read`, `write`, ...
        action: &'static str,
        /// Its answer.
        source: io::Error,
    },
    /// Text that is not JSON.
    #[error("not valid JSON: {0}")]
    Json(#[from] serde_json::Error),
    /// A value of the configuration that is of the wrong type, impossible, or not implemented.
    #[error("`{key}`: expected {expected}, got {got}")]
    Config {
        /// The key.
        key: String,
        /// What it may be.
        expected: String,
        /// What it is.
        got: String,
    },
    /// A key that GPT2Config does not have.
    #[error("unknown model setting `{key}`{}", did_you_mean(*nearest))]
    UnknownKey {
        /// The key.
        key: String,
        /// The known key that is spelt most like it.
        nearest: Option<&'static str>,
    },
    /// A folder that holds no model that can be read.
    #[error("{problem}; {hint}")]
    Folder {
        /// What is missing or refused.
        problem: String,
        /// What to do.
        hint: &'static str,
    },
    /// A safetensors file that contradicts itself or its length.
    #[error("not a valid safetensors file: byte {offset}: expected {expected}, got {got}")]
    Safetensors {
        /// Where in the file.
        offset: u64,
        /// What should be there.
        expected: String,
        /// What is.
        got: String,
    },
    /// An index of shards that points out of its folder, or at tensors that are not there.
    #[error("index of shards: {0}")]
    Index(String),
    /// Tensors that the configuration declares and the files lack.
    #[error("{} tensors are missing: {}", names.len(), first_names(names))]
    MissingTensors {
        /// Their names.
        names: Vec<String>,
    },
    /// Tensors that the configuration does not declare.
    #[error("{} tensors do not belong to GPT-2: {}", names.len(), first_names(names))]
    UnexpectedTensors {
        /// Their names.
        names: Vec<String>,
    },
    /// A tensor that is not what the configuration says.
    #[error("tensor `{name}`: expected {expected}, got {got}")]
    Tensor {
        /// Its name.
        name: String,
        /// The shape or element type it should have.
        expected: String,
        /// What it has.
        got: String,
    },
    /// A tensor with an infinity or a NaN.
    #[error("tensor `{name}`: the value at {index:?} is {value}; the weights are broken")]
    NotFinite {
        /// Its name.
        name: String,
        /// Where: one number for each dimension.
        index: Vec<usize>,
        /// The value.
        value: f32,
    },
    /// A prompt that the network cannot continue.
    #[error("prompt: {0}")]
    Prompt(String),
    /// A sampling parameter out of its range.
    #[error("`{name}`: expected {expected}, got {got}")]
    Sampling {
        /// The parameter.
        name: &'static str,
        /// Its range.
        expected: &'static str,
        /// What was asked for.
        got: String,
    },
    /// Logits from which no token can be drawn.
    #[error("the network's logits are not finite after {num_tokens} tokens; the weights are broken")]
    Logits {
        /// Tokens that the network had read.
        num_tokens: usize,
    },
}

impl Error {
    /// Whether it is the operating system that refused.
    pub fn is_io(&self) -> bool {
        match self {
            Error::Io { .. } => true,
            Error::In { error, .. } => error.is_io(),
            _ => false,
        }
    }

    pub(crate) fn io(action: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Error::Io { action, source }
    }

    pub(crate) fn config(key: &str, expected: impl Into<String>, got: impl ToString) -> Self {
        Error::Config { key: key.into(), expected: expected.into(), got: got.to_string() }
    }
}

/// Names the file in an error.
pub(crate) trait InFile<T> {
    fn in_file(self, path: &Path) -> Result<T, Error>;
}

impl<T> InFile<T> for Result<T, Error> {
    fn in_file(self, path: &Path) -> Result<T, Error> {
        self.map_err(|error| match error {
            // The innermost file is the one to name.
            Error::In { .. } => error,
            error => Error::In { path: path.into(), error: Box::new(error) },
        })
    }
}

/// The candidate that is spelt most like `name`, if any is close: at most a third of its characters differ.
pub fn nearest<'a>(name: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let distance = |candidate: &str| strsim::damerau_levenshtein(name, candidate);
    let (distance, best) = candidates.into_iter().map(|c| (distance(c), c)).min()?;
    (distance * 3 <= best.len().max(name.len())).then_some(best)
}

fn did_you_mean(nearest: Option<&str>) -> String {
    nearest.map_or_else(String::new, |name| format!("; did you mean `{name}`?"))
}

fn first_names(names: &[String]) -> String {
    const SHOWN: usize = 3;
    let shown = names.iter().take(SHOWN).map(String::as_str).collect::<Vec<_>>().join(", ");
    if names.len() > SHOWN { shown + ", ..." } else { shown }
}
