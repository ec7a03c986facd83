//! What was read and what was skipped, counted.

use serde::Serialize;
use std::fmt;

/// Counts of a source: documents that came out, and those that did not, by reason.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct SourceReport {
    /// Documents that came out.
    pub num_documents: u64,
    /// Their UTF-8 bytes.
    pub num_bytes: u64,
    /// Files whose name is not that of source code.
    pub skipped_other: u64,
    /// Files with a NUL byte near their start.
    pub skipped_binary: u64,
    /// Documents with very long lines.
    pub skipped_minified: u64,
    /// Documents with few letters and digits, such as tables of data.
    pub skipped_not_code: u64,
    /// Documents that say in their first lines that a program wrote them.
    pub skipped_generated: u64,
    /// Documents larger than the limit.
    pub skipped_oversized: u64,
    /// Files that are not UTF-8.
    pub skipped_not_utf8: u64,
    /// Documents without a visible character.
    pub skipped_empty: u64,
    /// Files that could not be read.
    pub skipped_unreadable: u64,
    /// Documents equal to one before.
    pub skipped_duplicates: u64,
    /// Rows that are not JSON objects, or lack the text field, or hold something else there.
    pub skipped_broken_lines: u64,
    /// Files of rows that are damaged; what they had before the damage came out.
    pub skipped_broken_files: u64,
    /// The first few broken rows and files, and unreadable files: `file:line: reason`.
    pub examples: Vec<String>,
}

impl SourceReport {
    /// Every reason with its count, in words.
    pub fn skipped(&self) -> [(&'static str, u64); 12] {
        [
            ("not source code by name", self.skipped_other),
            ("binary", self.skipped_binary),
            ("minified", self.skipped_minified),
            ("not code (few letters)", self.skipped_not_code),
            ("auto-generated", self.skipped_generated),
            ("oversized", self.skipped_oversized),
            ("not UTF-8", self.skipped_not_utf8),
            ("empty", self.skipped_empty),
            ("unreadable", self.skipped_unreadable),
            ("exact duplicates", self.skipped_duplicates),
            ("broken lines", self.skipped_broken_lines),
            ("broken files", self.skipped_broken_files),
        ]
    }

    /// Documents and lines that were skipped, all reasons together.
    pub fn num_skipped(&self) -> u64 {
        self.skipped().iter().map(|(_, count)| count).sum()
    }

    pub(crate) fn example(&mut self, text: impl FnOnce() -> String) {
        const MOST: usize = 5;
        if self.examples.len() < MOST {
            self.examples.push(text());
        }
    }
}

impl fmt::Display for SourceReport {
    /// One line: `1,234 documents, 5.6 MB; skipped 3 binary, 1 minified`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} documents, {:.1} MB", self.num_documents, self.num_bytes as f64 / 1e6)?;
        let skipped: Vec<String> =
            self.skipped().iter().filter(|(_, n)| *n > 0).map(|(why, n)| format!("{n} {why}")).collect();
        if !skipped.is_empty() {
            write!(f, "; skipped {}", skipped.join(", "))?;
        }
        if !self.examples.is_empty() {
            write!(f, " ({})", self.examples.join("; "))?;
        }
        Ok(())
    }
}
