//! Secrets in source code: found by their form or by what is written beside them, and replaced, so that a model never
//! learns them.
//!
//! Text in, text out: this module opens no file and keeps no state but the table of its anchors.
//!
//! Three passes look at every byte, each for one trait: runs of 20 letters, digits, `_` and `-` (`tokens`: what a service
//! gave out), an `@` (`addresses`: e-mail, passwords in URLs), and words such as `password` (`anchors`: assignments,
//! headers, private keys). Only there does anything slower look closer, and it looks at a bounded stretch, so that time is
//! linear in the text whatever it holds.
//!
//! **Placeholders** are one constant a class, `<KEY>`, `<PASSWORD>` and `<EMAIL>`:
//! - The same secret gives the same placeholder everywhere, with nothing to remember and nothing for threads to share.
//! - Nothing of the secret remains. A hash, even a few bits of it, would let who guesses passwords check the guesses, and
//!   a fake of the same form would teach the model to write keys, and could not be told from one that was missed.
//! - Quotes, line breaks and what stands around the secret stay, so the text still reads as code. Three words that occur
//!   often become a few tokens; one for each of sixty services would be sixty rare ones.
//! - They are those of StarCoder's data (Li et al. 2023, section 4), so what is known of models with them holds.
//!
//! What is gained by telling two secrets of a file apart is not worth what it would give away. In `Jane <jane@acme.io>`
//! the brackets that are there serve the placeholder.
//!
//! **Not taken:** addresses at domains reserved for examples and `noreply@`, which are nobody's; values that say
//! themselves that they are examples (`changeme`, `xxxx`, `${TOKEN}`, `AKIAIOSFODNN7EXAMPLE`); hashes, UUIDs and base64 with
//! nothing beside them that calls them secret; passwords with white space in them; passwords that are a plain word.

mod addresses;
mod anchors;
mod assignments;
mod authorization;
mod kind;
mod literal;
mod private_keys;
mod tokens;

pub use kind::Kind;

use serde::{Serialize, Serializer};
use std::borrow::Cow;
use std::ops::Range;

/// A secret that was found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Found {
    /// What it is.
    pub kind: Kind,
    /// Its bytes in the text that was searched.
    pub range: Range<usize>,
}

/// A text without its secrets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Redacted<'a> {
    /// The text, borrowed where nothing was found.
    pub text: Cow<'a, str>,
    /// What was replaced, in order, without overlaps; ranges are those of the original.
    pub found: Vec<Found>,
}

/// The most often that a text is searched again for what shows only when other secrets are gone.
const MAX_LOOKS: usize = 4;

/// Replaces the secrets of `text`. To do it again changes nothing: what was replaced is searched again, and what is found
/// then, as when a secret touched another, is replaced too.
pub fn redact(text: &str) -> Redacted<'_> {
    let mut found = find(text);
    if found.is_empty() {
        return Redacted { text: Cow::Borrowed(text), found };
    }
    let mut clean = replace(text, &found);
    for _ in 0..MAX_LOOKS {
        let more = find(&clean.text);
        if more.is_empty() {
            break;
        }
        let in_original = |Found { kind, range }| Found { kind, range: clean.original(range) };
        let more: Vec<Found> = more.into_iter().map(in_original).collect();
        found.extend(more);
        join(&mut found);
        clean = replace(text, &found);
    }
    Redacted { text: Cow::Owned(clean.text), found }
}

/// A text with placeholders, and where each stands in it and in the original.
struct Clean {
    text: String,
    places: Vec<(Range<usize>, Range<usize>)>,
}

fn replace(text: &str, found: &[Found]) -> Clean {
    let mut clean =
        Clean { text: String::with_capacity(text.len()), places: Vec::with_capacity(found.len()) };
    let mut done = 0;
    for Found { kind, range } in found {
        clean.text.push_str(&text[done..range.start]);
        let placeholder = kind.placeholder();
        let bracketed = text[..range.start].ends_with('<') && text[range.end..].starts_with('>');
        let start = clean.text.len();
        clean.text.push_str(if bracketed { placeholder.trim_matches(['<', '>']) } else { placeholder });
        clean.places.push((start..clean.text.len(), range.clone()));
        done = range.end;
    }
    clean.text.push_str(&text[done..]);
    clean
}

impl Clean {
    /// The bytes of the original that a range comes from; of a placeholder that it touches, all that was replaced.
    fn original(&self, range: Range<usize>) -> Range<usize> {
        let place = |num: usize| num.checked_sub(1).map_or((0..0, 0..0), |last| self.places[last].clone());
        let (clean, original) = place(self.places.partition_point(|(clean, _)| clean.start <= range.start));
        let start = match range.start < clean.end {
            true => original.start,
            false => original.end + range.start - clean.end,
        };
        let (clean, original) = place(self.places.partition_point(|(clean, _)| clean.start < range.end));
        start..original.end + range.end.saturating_sub(clean.end)
    }
}

/// The secrets of `text`, in order, without overlaps.
fn find(text: &str) -> Vec<Found> {
    let mut found = Vec::new();
    tokens::find(text.as_bytes(), &mut found);
    addresses::find(text.as_bytes(), &mut found);
    anchors::find(text.as_bytes(), &mut found);
    if found.len() > 1 {
        join(&mut found);
    }
    found
}

/// Sorts, and makes one of those that overlap: all of their bytes, under the kind that wins.
fn join(found: &mut Vec<Found>) {
    found.sort_unstable_by_key(|f| (f.range.start, f.kind));
    found.dedup_by(|next, kept| {
        let overlap = next.range.start < kept.range.end;
        if overlap {
            kept.range.end = kept.range.end.max(next.range.end);
            kept.kind = kept.kind.min(next.kind);
        }
        overlap
    });
}

/// How many secrets of each kind were found. Serialized as a map from the names of kinds that occur to their counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SecretCounts {
    counts: [u64; Kind::ALL.len()],
}

impl Default for SecretCounts {
    fn default() -> Self {
        Self { counts: [0; Kind::ALL.len()] }
    }
}

impl SecretCounts {
    /// Counts what was found in a text.
    pub fn add(&mut self, found: &[Found]) {
        for found in found {
            self.counts[found.kind as usize] += 1;
        }
    }

    /// Adds the counts of another.
    pub fn merge(&mut self, other: &SecretCounts) {
        for (count, other) in self.counts.iter_mut().zip(&other.counts) {
            *count += other;
        }
    }

    /// The kinds that occur, with their counts, in the order of [`Kind::ALL`].
    pub fn iter(&self) -> impl Iterator<Item = (Kind, u64)> {
        Kind::ALL.iter().copied().zip(self.counts).filter(|(_, count)| *count > 0)
    }

    /// All kinds together.
    pub fn total(&self) -> u64 {
        self.counts.iter().sum()
    }
}

impl Serialize for SecretCounts {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.iter().map(|(kind, count)| (kind.name(), count)))
    }
}

/// The bytes of `set` from `start` on, at most `most`: where they end.
fn run_end(text: &[u8], start: usize, most: usize, set: impl Fn(u8) -> bool) -> usize {
    let rest = text.get(start..).unwrap_or_default();
    start + rest.iter().take(most).take_while(|b| set(**b)).count()
}

/// The bytes of `set` before `end`, at most `most`: where they start.
fn run_start(text: &[u8], end: usize, most: usize, set: impl Fn(u8) -> bool) -> usize {
    end - text[..end].iter().rev().take(most).take_while(|b| set(**b)).count()
}
