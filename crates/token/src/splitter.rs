//! How text without added tokens becomes words: normalizer, a space in front, the split pattern.

use crate::error::Error;
use crate::normalizer::Normalizer;
use crate::split::Pattern;
use std::borrow::Cow;

/// Everything between text and the words that are merged. Training and encoding with the same one see the same words.
#[derive(Clone, Debug, Default)]
pub struct Splitter {
    pub(crate) normalizer: Option<Normalizer>,
    /// A space goes before every piece of text that does not start with one.
    pub(crate) add_prefix_space: bool,
    pub(crate) pattern: Pattern,
}

impl Splitter {
    /// Cuts as `pattern` says; no normalizer, no space in front.
    pub fn new(pattern: Pattern) -> Self {
        Self { pattern, ..Self::default() }
    }

    /// Where words are cut.
    pub fn pattern(&self) -> Pattern {
        self.pattern
    }

    /// `text` in its normal form.
    ///
    /// # Errors
    /// [`Error::Library`] from a normalizer.
    pub(crate) fn normalize<'t>(&self, text: &'t str) -> Result<Cow<'t, str>, Error> {
        match &self.normalizer {
            Some(normalizer) => normalizer.apply(text),
            None => Ok(Cow::Borrowed(text)),
        }
    }

    /// Normalized `text` as the pattern sees it.
    pub(crate) fn with_prefix<'t>(&self, text: &'t str) -> Cow<'t, str> {
        match self.add_prefix_space && !text.is_empty() && !text.starts_with(' ') {
            true => Cow::Owned(format!(" {text}")),
            false => Cow::Borrowed(text),
        }
    }
}
