//! What some tokenizers do to text before anything else: NFC, lower case, replacements.
//!
//! The work is the `tokenizers` library's own, so that its Unicode tables are the ones used; code is nearly all ASCII,
//! which the four Unicode forms leave as it is, and then nothing is copied. Replacements are [`Bounded`], and so is
//! how much longer a text may become.

use crate::bounded::{Bounded, Found};
use crate::error::Error;
use crate::file::File;
use crate::guard::guarded;
use crate::parts::flatten;
use serde_json::Value;
use std::borrow::Cow;
use std::sync::{Arc, OnceLock};
use tokenizers::pattern::Pattern;
use tokenizers::{NormalizedString, NormalizerWrapper};

/// A text may become this many times longer, and a megabyte. NFKD needs 18.
const MOST_GROWTH: usize = 64;

/// The normalizer of a tokenizer.json.
#[derive(Clone, Debug)]
pub(crate) struct Normalizer {
    steps: Arc<[Step]>,
    /// Whether all steps are Unicode forms, to which ASCII is its own normal form.
    keeps_ascii: bool,
    /// As the file has it.
    json: Value,
}

#[derive(Debug)]
enum Step {
    Library(NormalizerWrapper),
    Replace { pattern: Bounded, content: String },
}

impl Normalizer {
    /// Reads the value of `normalizer`; null is none.
    ///
    /// # Errors
    /// [`Error::Invalid`].
    pub(crate) fn read(file: File<'_>, json: &Value) -> Result<Option<Self>, Error> {
        let mut steps = Vec::new();
        let parts = flatten(file, "normalizer", json, "normalizers")?;
        for part in &parts {
            steps.push(match part.kind() {
                "Replace" => {
                    let (pattern, content) = part.replacement(file)?;
                    Step::Replace { pattern, content }
                }
                _ => Step::Library(part.build(file)?),
            });
        }
        let keeps_ascii = parts.iter().all(|part| matches!(part.kind(), "NFC" | "NFD" | "NFKC" | "NFKD"));
        Ok((!json.is_null()).then(|| Self { steps: steps.into(), keeps_ascii, json: json.clone() }))
    }

    /// The normal form of `text`.
    ///
    /// # Errors
    /// [`Error::Library`].
    pub(crate) fn apply<'t>(&self, text: &'t str) -> Result<Cow<'t, str>, Error> {
        if self.keeps_ascii && text.is_ascii() {
            return Ok(Cow::Borrowed(text));
        }
        guarded("normalize text", || {
            let mut normalized = NormalizedString::from(text);
            self.normalize(&mut normalized)?;
            Ok(Cow::Owned(normalized.get().to_string()))
        })
    }

    fn normalize(&self, text: &mut NormalizedString) -> tokenizers::Result<()> {
        let limit = text.len().saturating_mul(MOST_GROWTH).saturating_add(1 << 20);
        for step in &*self.steps {
            let mut length = 0;
            match step {
                Step::Library(step) => tokenizers::Normalizer::normalize(step, text)?,
                Step::Replace { pattern, content } => {
                    let found = pattern.find_matches(text.get())?;
                    let num_matches = found.iter().filter(|(_, is_match)| *is_match).count();
                    length = num_matches.saturating_mul(content.len());
                    if length <= limit {
                        text.replace(Found::new(found), content)?;
                    }
                }
            }
            length = length.max(text.len());
            if length > limit {
                return Err(format!(
                    "the normalizer of this tokenizer makes {length} bytes of a text, more than {limit}"
                )
                .into());
            }
        }
        Ok(())
    }

    pub(crate) fn json(&self) -> &Value {
        &self.json
    }
}

/// A normalizer that remembers its first error, since the library's added tokens ignore errors.
pub(crate) struct Watched<'n> {
    normalizer: &'n Normalizer,
    failure: OnceLock<Box<dyn std::error::Error + Send + Sync>>,
}

impl<'n> Watched<'n> {
    pub(crate) fn new(normalizer: &'n Normalizer) -> Self {
        Self { normalizer, failure: OnceLock::new() }
    }

    /// # Errors
    /// The one that was ignored.
    pub(crate) fn check(watched: Option<Self>) -> tokenizers::Result<()> {
        watched.and_then(|watched| watched.failure.into_inner()).map_or(Ok(()), Err)
    }
}

impl tokenizers::Normalizer for Watched<'_> {
    fn normalize(&self, text: &mut NormalizedString) -> tokenizers::Result<()> {
        if let Err(error) = self.normalizer.normalize(text) {
            // Only the first matters.
            let _ = self.failure.set(error);
        }
        Ok(())
    }
}
