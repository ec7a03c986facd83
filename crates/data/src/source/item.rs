//! One raw item, a file or a row, to a document or the reason why it is none. Nothing here depends on other items.

use super::{Document, SourceOptions};
use crate::error::Error;
use crate::filter::{Judge, Reason, of_header, text_of};
use crate::language::Language;
use crate::read::{RawRow, Row};
use crate::secrets::{Found, redact};
use std::path::PathBuf;
use std::sync::Arc;

/// Something read but not yet looked at.
pub(super) enum Raw {
    File { name: String, bytes: Vec<u8>, license: Option<Arc<str>> },
    Row(RawRow),
    Done(Outcome),
}

/// What became of a raw item.
pub(super) enum Outcome {
    Document {
        document: Document,
        hash: [u8; 16],
        secrets: Vec<Found>,
    },
    /// A filter says no.
    Skipped {
        reason: Reason,
        num_bytes: u64,
    },
    /// Rows that are none.
    Broken {
        reason: String,
        num_rows: u64,
    },
    /// A file of rows that is damaged.
    BrokenFile(Error),
    /// What ends reading, whatever is to become of broken files.
    Failed(Error),
    Unreadable(PathBuf, std::io::Error),
}

impl Raw {
    /// What it takes in memory, about.
    pub(super) fn num_bytes(&self) -> usize {
        match self {
            Raw::File { bytes, .. } => bytes.len(),
            Raw::Row(row) => row.num_bytes(),
            Raw::Done(_) => 0,
        }
    }

    /// Parses, filters, redacts and hashes it.
    pub(super) fn look_at(self, options: &SourceOptions, judge: &Judge) -> Outcome {
        let mut document = match self {
            Raw::Done(outcome) => return outcome,
            Raw::File { name, bytes, license } => {
                let num_bytes = bytes.len() as u64;
                let license = license.as_deref().map(Into::into);
                match text_of(bytes) {
                    Ok(text) => Document { license, ..Document::new(name, text) },
                    Err(reason) => return Outcome::Skipped { reason, num_bytes },
                }
            }
            Raw::Row(row) => match parse(row, options.text_field.as_deref()) {
                Ok(document) => document,
                Err(broken) => return broken,
            },
        };
        let num_bytes = document.text.len() as u64;
        if !options.raw && document.text.trim().is_empty() {
            return Outcome::Skipped { reason: Reason::Empty, num_bytes };
        }
        document.language =
            Language::of_path(&document.path).or_else(|| Language::of_first_line(document.text.as_bytes()));
        if options.with_licenses || judge.needs_licenses() {
            document.license = of_header(&document.text).or(document.license);
        }
        if let Some(reason) = judge.check(&document) {
            return Outcome::Skipped { reason, num_bytes };
        }
        let mut secrets = Vec::new();
        if !options.raw && !options.keep_secrets {
            let redacted = redact(&document.text);
            secrets = redacted.found;
            if !secrets.is_empty() {
                document.text = redacted.text.into_owned();
            }
        }
        let hash = blake3::hash(document.text.as_bytes());
        let hash = std::array::from_fn(|i| hash.as_bytes()[i]);
        Outcome::Document { document, hash, secrets }
    }
}

/// The document that a row is.
fn parse(row: RawRow, text_field: Option<&str>) -> Result<Document, Outcome> {
    let (name, offset, row) = match row {
        RawRow::Json { name, offset, bytes } => (name, Some(offset), Row::parse(&bytes, text_field)),
        RawRow::Fields { name, row } => (name, None, Ok(row)),
        RawRow::Broken { reason, num_rows } => return Err(Outcome::Broken { reason, num_rows }),
    };
    match row.and_then(|row| row.into_document(text_field, name.clone())) {
        Ok(row) => {
            let license = row.license.filter(|license| !license.trim().is_empty());
            Ok(Document { license, ..Document::new(row.path, row.text) })
        }
        Err(reason) => {
            let place = offset.map_or(String::new(), |offset| format!(" (at byte {offset})"));
            Err(Outcome::Broken { reason: format!("{name}: {reason}{place}"), num_rows: 1 })
        }
    }
}
