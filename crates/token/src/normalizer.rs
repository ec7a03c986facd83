//! What some tokenizers do to text before anything else: NFC, lower case, replacements.
//!
//! The work is the `tokenizers` library's own, so that its Unicode tables are the ones used; code is nearly all ASCII,
//! which the four Unicode forms leave as it is, and then nothing is copied.

use crate::error::Error;
use serde_json::Value;
use std::borrow::Cow;
use std::sync::Arc;
use tokenizers::{NormalizedString, NormalizerWrapper};

/// The normalizer of a tokenizer.json.
#[derive(Clone, Debug)]
pub(crate) struct Normalizer {
    wrapper: Arc<NormalizerWrapper>,
    /// Whether it is one of the Unicode forms, to which ASCII is its own normal form.
    keeps_ascii: bool,
    /// As the file has it.
    json: Value,
}

impl Normalizer {
    /// Reads the value of `normalizer`, which is not null.
    ///
    /// # Errors
    /// The library's message.
    pub(crate) fn new(json: &Value) -> Result<Self, String> {
        let wrapper: NormalizerWrapper =
            serde_json::from_value(json.clone()).map_err(|error| error.to_string())?;
        let keeps_ascii = matches!(
            wrapper,
            NormalizerWrapper::NFC(_)
                | NormalizerWrapper::NFD(_)
                | NormalizerWrapper::NFKC(_)
                | NormalizerWrapper::NFKD(_)
        );
        Ok(Self { wrapper: Arc::new(wrapper), keeps_ascii, json: json.clone() })
    }

    /// The normal form of `text`.
    ///
    /// # Errors
    /// [`Error::Library`].
    pub(crate) fn apply<'t>(&self, text: &'t str) -> Result<Cow<'t, str>, Error> {
        if self.keeps_ascii && text.is_ascii() {
            return Ok(Cow::Borrowed(text));
        }
        let mut normalized = NormalizedString::from(text);
        tokenizers::Normalizer::normalize(&*self.wrapper, &mut normalized)
            .map_err(|source| Error::Library { doing: "normalize text", problem: source.to_string() })?;
        Ok(Cow::Owned(normalized.get().to_string()))
    }

    pub(crate) fn json(&self) -> &Value {
        &self.json
    }
}
