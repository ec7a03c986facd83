//! The crate's one error type.

use crate::completer::Precision;
use std::path::PathBuf;

/// What can go wrong between text and text.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The tokenizer can make ids that the network does not have.
    #[error(
        "the tokenizer {} has {tokenizer} ids, the model {} only {model}: it is not the tokenizer the model was trained with",
        tokenizer_path.display(), model_path.display()
    )]
    Vocabulary {
        /// The tokenizer's folder.
        tokenizer_path: PathBuf,
        /// Its ids.
        tokenizer: usize,
        /// The model's folder.
        model_path: PathBuf,
        /// The model's vocabulary size.
        model: usize,
    },
    /// Nothing to continue, and no token to begin with.
    #[error("the prompt is empty, and the tokenizer has no <|endoftext|> to begin with")]
    EmptyPrompt,
    /// What weights are read as is not for this device.
    #[error("{precision:?} is not for {device}: expected {expected}")]
    Precision {
        /// What was asked for.
        precision: Precision,
        /// The device.
        device: &'static str,
        /// What there is instead.
        expected: &'static str,
    },
    /// The GPU's own error.
    #[error(transparent)]
    Cuda(#[from] eyas_ops::CudaError),
    /// The model's own error.
    #[error(transparent)]
    Model(#[from] eyas_model::Error),
    /// The tokenizer's own error.
    #[error(transparent)]
    Token(#[from] eyas_token::Error),
}
