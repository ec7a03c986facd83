//! Rows of datasets: .jsonl, .ndjson and .json, each also .gz or .zst, and .parquet, from wherever a `Blob` is.
//!
//! A row comes with a stable name, `file.jsonl:LINE` or `file.parquet:ROW` counted from 1, which is the same whether the
//! file is compressed or not. JSON is handed over as bytes and parsed by whoever has the threads for it; a file is read and
//! decompressed ahead by threads of its own, which end when the reader is dropped.
//!
//! A row that is broken is a row; a file that is broken is an error, after all rows before the damage. Memory is bounded
//! whatever a file says: blocks in queues bounded by bytes, no row above 64 MiB, no allocation by a claim.

mod json;
mod parquet;
mod queue;
mod row;
mod stream;

#[cfg(test)]
mod tests;

use crate::blob::Blob;
use crate::error::Error;
use json::JsonRows;
use parquet::ParquetRows;
pub(crate) use row::Row;
use std::sync::Arc;
use stream::{Compression, Stream};

/// Longest row that is read, in bytes. A longer one is passed over without being held.
pub(crate) const MAX_ROW_BYTES: usize = 64 << 20;

/// The rows of a file, in order.
pub(crate) struct Rows {
    kind: Kind,
}

enum Kind {
    Json(JsonRows),
    Parquet(Box<ParquetRows>),
}

/// A row, not yet looked at.
pub(crate) enum RawRow {
    /// JSON text, to be parsed by [`Row::parse`], and where it begins in the decompressed file.
    Json { name: String, offset: u64, bytes: Vec<u8> },
    /// Fields that the file has apart.
    Fields { name: String, row: Row },
    /// So many rows that are none, from the one that the reason names on.
    Broken { reason: String, num_rows: u64 },
}

impl RawRow {
    /// Bytes of its text, about.
    pub(crate) fn num_bytes(&self) -> usize {
        match self {
            RawRow::Json { bytes, .. } => bytes.len(),
            RawRow::Fields { row, .. } => row.num_bytes(),
            RawRow::Broken { .. } => 0,
        }
    }
}

impl Rows {
    /// Begins to read a file. What it holds is known by its name. `text_field` is the column of the text; by default
    /// `content`, then `text`. For JSON it matters only when rows are parsed.
    ///
    /// # Errors
    /// If it cannot be opened, or it is a parquet file whose footer is damaged or has no such column of strings.
    pub(crate) fn open(blob: Arc<dyn Blob>, text_field: Option<&str>) -> Result<Rows, Error> {
        let name = blob.name();
        let (base, compression) = uncompressed_name(&name);
        let base = base.rsplit(['/', std::path::MAIN_SEPARATOR]).next().unwrap_or(base);
        let kind = if is_parquet(base) {
            Kind::Parquet(Box::new(ParquetRows::open(blob, text_field, base)?))
        } else {
            Kind::Json(JsonRows::new(Stream::start(blob, compression)?, &name, base))
        };
        Ok(Rows { kind })
    }

    /// The next row, `None` at the end.
    ///
    /// # Errors
    /// If the file is damaged, or was cut or changed while it was read. There is nothing more then.
    pub(crate) fn next(&mut self) -> Result<Option<RawRow>, Error> {
        match &mut self.kind {
            Kind::Json(rows) => rows.next(),
            Kind::Parquet(rows) => rows.next(),
        }
    }
}

/// Whether a file of this name has rows that can be read.
pub(crate) fn is_rows(name: &str) -> bool {
    let (base, compression) = uncompressed_name(name);
    let is = |end: &str| has_extension(base, end);
    is("jsonl") || is("ndjson") || is("json") || compression == Compression::None && is_parquet(base)
}

fn is_parquet(name: &str) -> bool {
    has_extension(name, "parquet")
}

/// The name without the extension of a compression, and the compression.
fn uncompressed_name(name: &str) -> (&str, Compression) {
    for (extension, compression) in [("gz", Compression::Gzip), ("zst", Compression::Zstd)] {
        if has_extension(name, extension) {
            return (&name[..name.len() - extension.len() - 1], compression);
        }
    }
    (name, Compression::None)
}

/// Whether a name ends in a dot and the extension, in whatever case.
fn has_extension(name: &str, extension: &str) -> bool {
    name.rsplit_once('.').is_some_and(|(_, found)| found.eq_ignore_ascii_case(extension))
}

fn too_long(name: &str) -> String {
    format!("{name}: longer than {} MB", MAX_ROW_BYTES >> 20)
}

/// What a thread that ended without a word is taken for: no bytes should make a decoder panic, but they are not ours.
fn decoder_died(name: &str) -> Error {
    let reason = "made the decoder fail, which is a defect of eyas as well; please report it".to_owned();
    Error::BrokenFile { name: name.to_owned(), offset: None, text_offset: None, reason }
}
