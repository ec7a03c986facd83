//! Fill-in-the-middle: documents turned round so that a model learns to complete between what is before and behind the cursor.
//!
//! A document is cut at two characters drawn at random into prefix, middle and suffix, each encoded alone, and written as
//! `<fim_prefix>` prefix `<fim_suffix>` suffix `<fim_middle>` middle (PSM), or as `<fim_prefix>` `<fim_suffix>` suffix
//! `<fim_middle>` prefix middle (SPM): Bavarian et al. 2022, "Efficient Training of Language Models to Fill in the Middle",
//! section 3, in the form that the BigCode models have it. What is drawn is a function of seed, path and text alone.

use crate::error::Error;
use crate::source::Document;
use eyas_token::Tokenizer;
use serde::Serialize;

/// How many documents are turned round, and how.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Fim {
    /// Share of documents.
    pub rate: f64,
    /// Share of those that are written as SPM.
    pub spm_rate: f64,
    /// Seed of what is drawn.
    pub seed: u64,
}

/// The tokens that mark the parts.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FimTokens {
    prefix: u32,
    suffix: u32,
    middle: u32,
}

impl FimTokens {
    /// # Errors
    /// If the tokenizer lacks one of them.
    pub(crate) fn of(tokenizer: &Tokenizer) -> Result<Self, Error> {
        let id = |token: &'static str| tokenizer.token_to_id(token).ok_or(Error::NoFim { token });
        Ok(FimTokens {
            prefix: id("<fim_prefix>")?,
            suffix: id("<fim_suffix>")?,
            middle: id("<fim_middle>")?,
        })
    }
}

/// Where a document is cut, and in which order it is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Cuts {
    /// Byte offsets of the middle: on characters.
    start: usize,
    end: usize,
    is_spm: bool,
}

impl Fim {
    /// # Errors
    /// Rates that are no shares.
    pub(crate) fn check(&self) -> Result<(), Error> {
        for (name, share) in [("fim_rate", self.rate), ("fim_spm_rate", self.spm_rate)] {
            if !(0.0..=1.0).contains(&share) {
                return Err(Error::Option {
                    name,
                    found: share.to_string(),
                    expected: "a share, from 0 to 1",
                });
            }
        }
        Ok(())
    }

    /// Appends a document's ids to `ids`.
    ///
    /// # Errors
    /// If the tokenizer cannot encode it.
    pub(crate) fn encode(
        &self,
        document: &Document,
        tokenizer: &Tokenizer,
        tokens: FimTokens,
        ids: &mut Vec<u32>,
    ) -> Result<(), Error> {
        let text = &document.text;
        let Some(Cuts { start, end, is_spm }) = self.draw(document) else {
            return Ok(tokenizer.encode_ordinary(text, ids)?);
        };
        let (prefix, middle, suffix) = (&text[..start], &text[start..end], &text[end..]);
        ids.push(tokens.prefix);
        if !is_spm {
            tokenizer.encode_ordinary(prefix, ids)?;
        }
        ids.push(tokens.suffix);
        tokenizer.encode_ordinary(suffix, ids)?;
        ids.push(tokens.middle);
        if is_spm {
            tokenizer.encode_ordinary(prefix, ids)?;
        }
        Ok(tokenizer.encode_ordinary(middle, ids)?)
    }

    /// Where to cut; `None` for a document that stays as it is.
    fn draw(&self, document: &Document) -> Option<Cuts> {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&self.seed.to_le_bytes());
        hasher.update(&(document.path.len() as u64).to_le_bytes());
        hasher.update(document.path.as_bytes());
        hasher.update(document.text.as_bytes());
        let mut random = hasher.finalize_xof();
        let mut next = || {
            let mut bytes = [0; 8];
            random.fill(&mut bytes);
            u64::from_le_bytes(bytes)
        };
        let mut share = || (next() >> 11) as f64 / (1u64 << 53) as f64;
        let (is_fim, is_spm) = (share() < self.rate, share() < self.spm_rate);
        if !is_fim {
            return None;
        }
        let text = &document.text;
        let is_ascii = text.is_ascii();
        let num_characters = if is_ascii { text.len() } else { text.chars().count() };
        // Any place between two characters, and both ends, as likely as any other.
        let mut place = || (share() * (num_characters + 1) as f64) as usize;
        let (one, other) = (place(), place());
        let offset = |place: usize| match is_ascii {
            true => place,
            false => text.char_indices().nth(place).map_or(text.len(), |(offset, _)| offset),
        };
        Some(Cuts { start: offset(one.min(other)), end: offset(one.max(other)), is_spm })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_met_and_cuts_lie_on_characters() {
        let fim = Fim { rate: 0.5, spm_rate: 0.25, seed: 7 };
        let (mut num_fim, mut num_spm, mut sum) = (0, 0, 0.0);
        for i in 0..4000 {
            let text = format!("{}{i}", "aé𝄞\n".repeat(5));
            let Some(cuts) = fim.draw(&Document::new("p", &*text)) else { continue };
            assert!(
                cuts.start <= cuts.end
                    && text.is_char_boundary(cuts.start)
                    && text.is_char_boundary(cuts.end)
            );
            num_fim += 1;
            num_spm += usize::from(cuts.is_spm);
            sum += text[cuts.start..cuts.end].chars().count() as f64 / text.chars().count() as f64;
        }
        assert!((1900..2100).contains(&num_fim), "{num_fim}");
        assert!((430..570).contains(&num_spm), "{num_spm}");
        // Two uniform places are a third of the length apart on average.
        assert!((0.31..0.36).contains(&(sum / f64::from(num_fim))), "{}", sum / f64::from(num_fim));
        let document = Document::new("p", "some text");
        assert_eq!(fim.draw(&document), fim.draw(&document.clone()));
        assert!((0..64).any(|seed| Fim { seed, ..fim }.draw(&document) != fim.draw(&document)));
        let always = Fim { rate: 1.0, spm_rate: 0.0, seed: 1 };
        assert_eq!(always.draw(&Document::new("", "")), Some(Cuts { start: 0, end: 0, is_spm: false }));
        assert!(Fim { rate: 1.5, ..fim }.check().is_err());
    }
}
