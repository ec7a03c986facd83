//! The completion engine: text in, text out, over a model folder.
//!
//! Owns what lies between `model`, which maps ids to ids, and a person or an editor, who have text: opening a folder
//! with its tokenizer and checking that the two belong together, choosing the element type, ending at end-of-text, and
//! never cutting a character. Knows nothing of terminals or HTTP.

mod completer;
mod engine;
mod error;

pub use completer::{Completer, Completion, OnText, OpenOptions, Place, Precision, open_tokenizer};
pub use error::Error;
pub use eyas_model::{FinishReason, Sampling};
