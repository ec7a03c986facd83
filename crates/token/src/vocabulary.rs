//! The vocabulary and the merges of byte-level BPE, as tokenizer.json and GPT-2's own files have them.
//!
//! Ids are 0 to n - 1, each once, and all 256 bytes are there; nothing is allocated by what an id claims.

use crate::alphabet;
use crate::error::Error;
use crate::file::{File, shorten};
use crate::tokenizer::Token;
use serde_json::Value;
use std::collections::HashMap;

/// The model's vocabulary while merges and added tokens are matched against it.
pub(crate) struct Vocabulary {
    pub(crate) tokens: Vec<Token>,
    ids: HashMap<String, u32>,
}

/// Why something is not read as byte-level BPE.
pub(crate) enum Refusal {
    /// The file is wrong.
    Error(Error),
    /// The file may be right, but there is no fast path for it.
    Slow(String),
}

impl From<Error> for Refusal {
    fn from(error: Error) -> Self {
        Self::Error(error)
    }
}

impl Vocabulary {
    pub(crate) fn read(file: File<'_>, field: &str, found: &Value) -> Result<Self, Refusal> {
        let map = file.object(field, found)?;
        let mut tokens: Vec<Option<Token>> = vec![None; map.len()];
        let mut ids = HashMap::with_capacity(map.len());
        for (spelling, id) in map {
            let field = || format!("{field}[{}]", shorten(&spelling[..].into()));
            let problem = || format!("expected an id, found {}", shorten(id));
            let claimed = id.as_u64().ok_or_else(|| file.invalid(field(), problem()))?;
            if spelling.is_empty() {
                return Err(Refusal::Slow("the vocabulary has a token without characters".into()));
            }
            let slot = usize::try_from(claimed).ok().and_then(|id| tokens.get_mut(id));
            let slot = slot.ok_or_else(|| {
                Refusal::Slow(format!("{} is {claimed}, which leaves a gap in {} ids", field(), map.len()))
            })?;
            if let Some(other) = slot {
                let other = shorten(&other.spelling().into());
                return Err(file.invalid(field(), format!("id {claimed} is also that of {other}")).into());
            }
            *slot = Some(Token::new(spelling));
            ids.insert(spelling.clone(), claimed as u32);
        }
        for byte in alphabet::bytes_by_char() {
            let spelling = alphabet::spell(&[byte]);
            if !ids.contains_key(&spelling) {
                let problem =
                    format!("the vocabulary lacks {spelling:?}, the byte {byte:#04x}, which text then loses");
                return Err(Refusal::Slow(problem));
            }
        }
        // As many distinct ids below their number as there are tokens: none is missing.
        Ok(Self { tokens: tokens.into_iter().flatten().collect(), ids })
    }

    pub(crate) fn id(&self, spelling: &str) -> Option<u32> {
        self.ids.get(spelling).copied()
    }

    /// Reads the value of `model.merges`.
    pub(crate) fn merges(&self, file: File<'_>, found: &Value) -> Result<Vec<(u32, u32, u32)>, Error> {
        let list = file.list("model.merges", found)?;
        let mut merges = Vec::with_capacity(list.len());
        for (i, merge) in list.iter().enumerate() {
            let two = match merge {
                Value::String(line) if line.starts_with("#version") => continue,
                Value::String(line) => two_tokens(line),
                Value::Array(parts) => match &parts[..] {
                    [Value::String(left), Value::String(right)] => Some((&left[..], &right[..])),
                    _ => None,
                },
                _ => None,
            };
            let joined = two
                .ok_or_else(|| bad_merge(&shorten(merge)))
                .and_then(|(left, right)| self.merge(left, right));
            merges.push(joined.map_err(|problem| file.invalid(format!("model.merges[{i}]"), problem))?);
        }
        Ok(last_of_each(merges))
    }

    /// Reads the lines of merges.txt.
    pub(crate) fn merges_of_lines(&self, file: File<'_>, text: &str) -> Result<Vec<(u32, u32, u32)>, Error> {
        let mut merges = Vec::new();
        for (i, line) in text.lines().enumerate().filter(|(_, line)| !line.starts_with("#version")) {
            let two = two_tokens(line).ok_or_else(|| bad_merge(&shorten(&line.into())));
            let joined = two.and_then(|(left, right)| self.merge(left, right));
            merges.push(joined.map_err(|problem| file.invalid(format!("line {}", i + 1), problem))?);
        }
        Ok(last_of_each(merges))
    }

    fn merge(&self, left: &str, right: &str) -> Result<(u32, u32, u32), String> {
        let id = |token: &str| {
            self.id(token).ok_or_else(|| format!("{} is not in the vocabulary", shorten(&token.into())))
        };
        Ok((id(left)?, id(right)?, id(&format!("{left}{right}"))?))
    }
}

/// A merge listed twice has the later rank, as in the library.
fn last_of_each(merges: Vec<(u32, u32, u32)>) -> Vec<(u32, u32, u32)> {
    let last: HashMap<(u32, u32), usize> =
        merges.iter().enumerate().map(|(rank, &(left, right, _))| ((left, right), rank)).collect();
    let is_last = |&(rank, &(left, right, _)): &(usize, &(u32, u32, u32))| last[&(left, right)] == rank;
    merges.iter().enumerate().filter(is_last).map(|(_, &merge)| merge).collect()
}

fn two_tokens(line: &str) -> Option<(&str, &str)> {
    line.split_once(' ').filter(|(_, right)| !right.contains(' '))
}

fn bad_merge(found: &str) -> String {
    format!("expected two tokens with a space between them, or a list of two, found {found}")
}
