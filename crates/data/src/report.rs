//! What was read and what was skipped, counted.

use crate::filter::Reason;
use crate::secrets::Found;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;

/// Examples of broken input that a report keeps.
const MAX_EXAMPLES: usize = 5;
/// Longest licence that is counted by name.
const MAX_LICENSE_BYTES: usize = 256;
/// Licences that are counted by name; a dataset may have as many as it has rows.
const MAX_LICENSES: usize = 1000;

/// Documents and their UTF-8 bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Count {
    /// Documents.
    pub num_documents: u64,
    /// Their UTF-8 bytes; 0 where nobody knows them.
    pub num_bytes: u64,
}

impl Count {
    pub(crate) fn add(&mut self, num_bytes: u64) {
        self.num_documents += 1;
        self.num_bytes += num_bytes;
    }
}

/// Counts of a source: documents that came out, and those that did not, by reason.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceReport {
    /// Documents that came out.
    pub num_documents: u64,
    /// Their UTF-8 bytes.
    pub num_bytes: u64,
    /// What was skipped, by [`Reason::name`]; a reason that never held has no entry.
    pub skipped: BTreeMap<String, Count>,
    /// Documents that came out, by language; those of none that is known have no entry.
    pub languages: BTreeMap<String, Count>,
    /// Documents that came out, by licence as far as it was asked for; those of none that is known have no entry.
    pub licenses: BTreeMap<String, Count>,
    /// Secrets that were replaced, by [`Kind::name`](crate::secrets::Kind::name).
    pub secrets: BTreeMap<String, u64>,
    /// The first few broken rows and files, and unreadable files: `file:line: reason`.
    pub examples: Vec<String>,
}

impl SourceReport {
    /// What was skipped for a reason.
    pub fn skipped_for(&self, reason: Reason) -> Count {
        self.skipped.get(reason.name()).copied().unwrap_or_default()
    }

    /// Files and rows that were skipped, all reasons together.
    pub fn num_skipped(&self) -> u64 {
        self.skipped.values().map(|count| count.num_documents).sum()
    }

    /// Counts something that is skipped.
    pub(crate) fn skip(&mut self, reason: Reason, num_bytes: u64) {
        self.skipped.entry(reason.name().to_owned()).or_default().add(num_bytes);
    }

    /// Counts things of unknown size that are skipped.
    pub(crate) fn skip_many(&mut self, reason: Reason, num_documents: u64) {
        self.skipped.entry(reason.name().to_owned()).or_default().num_documents += num_documents;
    }

    /// Counts a document that comes out.
    pub(crate) fn take(&mut self, num_bytes: u64, language: Option<&str>, license: Option<&str>) {
        self.num_documents += 1;
        self.num_bytes += num_bytes;
        if let Some(language) = language {
            self.languages.entry(language.to_owned()).or_default().add(num_bytes);
        }
        if let Some(license) = license {
            let is_full = self.licenses.len() >= MAX_LICENSES && !self.licenses.contains_key(license)
                || license.len() > MAX_LICENSE_BYTES;
            let name = if is_full { "others" } else { license };
            self.licenses.entry(name.to_owned()).or_default().add(num_bytes);
        }
    }

    /// Counts secrets that were replaced in a document that comes out.
    pub(crate) fn redact(&mut self, found: &[Found]) {
        for found in found {
            *self.secrets.entry(found.kind.name().to_owned()).or_default() += 1;
        }
    }

    pub(crate) fn example(&mut self, text: impl FnOnce() -> String) {
        if self.examples.len() < MAX_EXAMPLES {
            self.examples.push(text());
        }
    }
}

impl fmt::Display for SourceReport {
    /// One line: `1,234 documents, 5.6 MB; skipped 3 binary, 1 empty`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} documents, {:.1} MB", self.num_documents, self.num_bytes as f64 / 1e6)?;
        let skipped = |reason: &Reason| (reason.words(), self.skipped_for(*reason).num_documents);
        let skipped: Vec<String> = Reason::ALL
            .iter()
            .map(skipped)
            .filter(|(_, many)| *many > 0)
            .map(|(why, many)| format!("{many} {why}"))
            .collect();
        if !skipped.is_empty() {
            write!(f, "; skipped {}", skipped.join(", "))?;
        }
        let num_secrets: u64 = self.secrets.values().sum();
        if num_secrets > 0 {
            write!(f, "; replaced {num_secrets} secrets and addresses")?;
        }
        if !self.examples.is_empty() {
            write!(f, " ({})", self.examples.join("; "))?;
        }
        Ok(())
    }
}
