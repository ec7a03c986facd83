//! A JSON file being read: its fields, and errors that name them.
//!
//! What is wrong is found before anything is built of it. No size that a file claims is believed: a file has at most
//! [`LARGEST_BYTES`], and what is read from it is bounded by that.

use crate::error::Error;
use serde_json::{Map, Value};
use std::io::Read;
use std::path::Path;

/// The largest tokenizer.json known, of a quarter of a million tokens, has a quarter of this.
const LARGEST_BYTES: u64 = 128 << 20;

/// The path, for its name in the errors.
#[derive(Clone, Copy)]
pub(crate) struct File<'p> {
    pub(crate) path: &'p Path,
}

impl File<'_> {
    pub(crate) fn invalid(self, field: impl Into<String>, problem: impl Into<String>) -> Error {
        Error::Invalid { path: self.path.into(), field: field.into(), problem: problem.into() }
    }

    pub(crate) fn unsupported(
        self,
        field: impl Into<String>,
        found: &Value,
        supported: &'static str,
    ) -> Error {
        Error::Unsupported { path: self.path.into(), field: field.into(), found: shorten(found), supported }
    }

    pub(crate) fn read(self) -> Result<Vec<u8>, Error> {
        let failed = |source| Error::Read { path: self.path.into(), source };
        let metadata = std::fs::metadata(self.path).map_err(failed)?;
        if !metadata.is_file() {
            return Err(failed(std::io::Error::other("not a regular file")));
        }
        let size = metadata.len();
        if size > LARGEST_BYTES {
            return Err(Error::TooLarge { path: self.path.into(), size, limit: LARGEST_BYTES });
        }
        let mut bytes = Vec::new();
        let file = std::fs::File::open(self.path).map_err(failed)?;
        file.take(LARGEST_BYTES).read_to_end(&mut bytes).map_err(failed)?;
        Ok(bytes)
    }

    pub(crate) fn parse(self, bytes: &[u8]) -> Result<Value, Error> {
        serde_json::from_slice(bytes).map_err(|source| Error::Json { path: self.path.into(), source })
    }

    pub(crate) fn object<'v>(self, field: &str, value: &'v Value) -> Result<&'v Map<String, Value>, Error> {
        let problem = || format!("expected an object, found {}", shorten(value));
        value.as_object().ok_or_else(|| self.invalid(field, problem()))
    }

    pub(crate) fn list<'v>(self, field: &str, value: &'v Value) -> Result<&'v [Value], Error> {
        let problem = || format!("expected a list, found {}", shorten(value));
        value.as_array().map(Vec::as_slice).ok_or_else(|| self.invalid(field, problem()))
    }

    pub(crate) fn bool(self, field: &str, value: &Value) -> Result<bool, Error> {
        let problem = || format!("expected true or false, found {}", shorten(value));
        value.as_bool().ok_or_else(|| self.invalid(field, problem()))
    }

    pub(crate) fn text<'v>(self, field: &str, value: &'v Value) -> Result<&'v str, Error> {
        let problem = || format!("expected a string, found {}", shorten(value));
        value.as_str().ok_or_else(|| self.invalid(field, problem()))
    }
}

/// A field, null where there is none.
pub(crate) fn get<'v>(object: &'v Map<String, Value>, field: &str) -> &'v Value {
    object.get(field).unwrap_or(&Value::Null)
}

/// The `type` of a part of a tokenizer.
pub(crate) fn kind(part: &Value) -> Option<&str> {
    part.get("type").and_then(Value::as_str)
}

/// A value as one short line.
pub(crate) fn shorten(value: &Value) -> String {
    match value {
        Value::Array(list) if list.len() > 4 => format!("a list of {}", list.len()),
        Value::Object(object) if object.len() > 8 => format!("an object of {}", object.len()),
        // A string is cut before it is quoted: it may have a hundred megabytes.
        Value::String(text) if text.len() > 120 => {
            format!("{:?}...", text.chars().take(80).collect::<String>())
        }
        _ => {
            let text = value.to_string();
            match text.char_indices().nth(120) {
                Some((end, _)) => format!("{}...", &text[..end]),
                None => text,
            }
        }
    }
}
