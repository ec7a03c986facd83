//! The lists of steps that a tokenizer.json is made of: a normalizer, a pre-tokenizer or a decoder, or a `Sequence` of
//! them, which may hold further sequences.
//!
//! Sequences are opened here and not by the `tokenizers` library, so that nothing nests, and so that each regular
//! expression is one of [`Bounded`].

use crate::bounded::Bounded;
use crate::error::Error;
use crate::file::{File, get, kind, shorten};
use crate::guard::guarded;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

/// Most steps, and most sequences in one another. The longest in use has ten steps.
const MOST_STEPS: usize = 64;
const MOST_NESTED: usize = 8;

/// One step, with the path of keys that leads to it.
pub(crate) struct Part<'v> {
    pub(crate) field: String,
    pub(crate) json: &'v Value,
}

/// The steps of `json` in order, none for null. `list` is the name of a sequence's list.
pub(crate) fn flatten<'v>(
    file: File<'_>,
    field: &str,
    json: &'v Value,
    list: &str,
) -> Result<Vec<Part<'v>>, Error> {
    let mut parts = Vec::new();
    if !json.is_null() {
        open(file, field, json, list, MOST_NESTED, &mut parts)?;
    }
    Ok(parts)
}

fn open<'v>(
    file: File<'_>,
    field: &str,
    json: &'v Value,
    list: &str,
    depth: usize,
    parts: &mut Vec<Part<'v>>,
) -> Result<(), Error> {
    let object = file.object(field, json)?;
    if parts.len() == MOST_STEPS {
        return Err(file.invalid(field, format!("expected at most {MOST_STEPS} steps")));
    }
    let name = file.text(&format!("{field}.type"), get(object, "type"))?;
    if name != "Sequence" {
        parts.push(Part { field: field.into(), json });
        return Ok(());
    }
    if depth == 0 {
        return Err(file.invalid(field, format!("expected at most {MOST_NESTED} sequences in one another")));
    }
    let field = format!("{field}.{list}");
    for (i, json) in file.list(&field, get(object, list))?.iter().enumerate() {
        open(file, &format!("{field}[{i}]"), json, list, depth - 1, parts)?;
    }
    Ok(())
}

impl Part<'_> {
    pub(crate) fn kind(&self) -> &str {
        kind(self.json).unwrap_or_default()
    }

    /// The library's own reading of the step, which goes by the other fields where it does not know the type.
    pub(crate) fn build<T: DeserializeOwned + Serialize>(&self, file: File<'_>) -> Result<T, Error> {
        let step: T = build(file, &self.field, self.json.clone())?;
        let read = guarded("read", || Ok(serde_json::to_value(&step)?))?;
        if kind(&read) == Some(self.kind()) {
            return Ok(step);
        }
        let problem =
            format!("expected {}, by the other fields, found {:?}", shorten(&read["type"]), self.kind());
        Err(file.invalid(format!("{}.type", self.field), problem))
    }

    /// The `pattern` of a `Replace`, and the `content` that goes in its place.
    pub(crate) fn replacement(&self, file: File<'_>) -> Result<(Bounded, String), Error> {
        let content = file.text(&format!("{}.content", self.field), &self.json["content"])?;
        Ok((self.pattern(file)?, content.into()))
    }

    /// Its `pattern`: `{"Regex": "\\d"}` or `{"String": " "}`.
    pub(crate) fn pattern(&self, file: File<'_>) -> Result<Bounded, Error> {
        let pattern = &self.json["pattern"];
        let field = |name: &str| format!("{}.pattern.{name}", self.field);
        let (name, built) = match (pattern["Regex"].as_str(), pattern["String"].as_str()) {
            (Some(regex), None) => ("Regex", Bounded::regex(regex)),
            (None, Some(literal)) => ("String", Bounded::literal(literal)),
            _ => {
                let problem =
                    format!("expected {{\"Regex\": ...}} or {{\"String\": ...}}, found {}", shorten(pattern));
                return Err(file.invalid(format!("{}.pattern", self.field), problem));
            }
        };
        let problem = |problem| format!("{}: {problem}", shorten(&pattern[name]));
        built.map_err(|message| file.invalid(field(name), problem(message)))
    }
}

/// The library's own reading of a part of the file.
pub(crate) fn build<T: DeserializeOwned>(file: File<'_>, field: &str, json: Value) -> Result<T, Error> {
    guarded("read", || Ok(serde_json::from_value(json)?)).map_err(|error| match error {
        Error::Library { problem, .. } => file.invalid(field, problem),
        error => error,
    })
}
