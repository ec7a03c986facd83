//! Files to documents: folders of code and files of rows, mixed freely, in an order that depends on names alone.
//!
//! The trick: raw items are read in batches of bounded size, one after the other; parsing, filters and hashes of a batch
//! run in parallel; duplicates are then dropped in order. So memory is bounded and the result does not depend on the
//! number of threads.

use crate::blob::LocalFile;
use crate::error::Error;
use crate::filter::{self, Skip};
use crate::read::{RawRow, Row, Rows, is_rows};
use crate::report::SourceReport;
use crate::split::path_hash;
use rayon::prelude::*;
use std::collections::{HashSet, VecDeque};
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Bytes of raw items that are in memory at once, about.
const BATCH_BYTES: usize = 16 << 20;
/// Raw items in a batch at the most.
const BATCH_ITEMS: usize = 4096;

/// A document: a file, or a row of a dataset.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Document {
    /// A stable name: the path relative to the folder it came from; `repo_name/path`, `path` or `file.jsonl:line` for a
    /// row, whether the file is compressed or not.
    pub path: String,
    /// The text.
    pub text: String,
}

/// How sources are read.
#[derive(Clone, Debug)]
pub struct SourceOptions {
    /// The field or column that holds the text of a row; by default `content`, then `text`.
    pub text_field: Option<String>,
    /// Every document as it is: no filter, and duplicates stay.
    pub raw: bool,
    /// Larger documents are skipped.
    pub max_file_bytes: u64,
    /// What becomes of rows and files that are broken.
    pub on_error: OnError,
}

impl Default for SourceOptions {
    fn default() -> Self {
        SourceOptions { text_field: None, raw: false, max_file_bytes: 1_000_000, on_error: OnError::Skip }
    }
}

/// What becomes of a row that is none, or a file that is damaged or cannot be read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnError {
    /// It is counted, with an example, and reading goes on behind it: behind the row, or with the next file.
    #[default]
    Skip,
    /// It is an error, after all documents before it.
    Fail,
}

/// Documents, one after the other.
pub struct Documents {
    data: Vec<String>,
    options: SourceOptions,
    pending: VecDeque<Source>,
    open: Option<Rows>,
    ready: VecDeque<Document>,
    /// First 16 bytes of the BLAKE3 of every document that came out.
    seen: HashSet<[u8; 16]>,
    report: SourceReport,
    finished: bool,
    /// What ended it, told after the documents that are ready.
    failed: Option<Error>,
}

/// What is still to be read.
enum Source {
    File { path: PathBuf, name: String },
    Rows(PathBuf),
}

/// Something read but not yet looked at.
enum Raw {
    File { name: String, bytes: Vec<u8> },
    Row(RawRow),
    Skipped(Outcome),
}

/// What became of a raw item.
enum Outcome {
    Document { document: Document, hash: [u8; 16] },
    Skipped(Skip),
    Other,
    Broken { reason: String, num_rows: u64 },
    BrokenFile(Error),
    Unreadable(PathBuf, std::io::Error),
}

impl Documents {
    /// Finds the files of `data`, each a folder, a source file, a file of rows or a glob of them. Reading happens later.
    ///
    /// # Errors
    /// If an argument names nothing, or a kind of source that is not read.
    pub fn open(data: &[String], options: &SourceOptions) -> Result<Self, Error> {
        let mut report = SourceReport::default();
        let mut pending = VecDeque::new();
        for argument in data {
            find(argument, &mut pending, &mut report)?;
        }
        Ok(Documents {
            data: data.to_vec(),
            options: options.clone(),
            pending,
            open: None,
            ready: VecDeque::new(),
            seen: HashSet::new(),
            report,
            finished: false,
            failed: None,
        })
    }

    /// Reads files in the order of their paths' hashes, so that wherever reading ends, what came is a sample spread over
    /// all of them. Files whose name `keep` refuses are not read. Rows come last, in their own order.
    #[must_use]
    pub fn spread(mut self, keep: impl Fn(&str) -> bool) -> Self {
        let num_found = self.pending.len();
        self.pending.retain(|source| {
            matches!(source, Source::File { name, .. } if keep(name)) || matches!(source, Source::Rows(_))
        });
        self.report.skipped_other += (num_found - self.pending.len()) as u64;
        self.pending.make_contiguous().sort_by_cached_key(|source| match source {
            Source::File { name, .. } => (0, path_hash(name)),
            Source::Rows(_) => (1, 0),
        });
        self
    }

    /// What was read and skipped so far.
    pub fn report(&self) -> &SourceReport {
        &self.report
    }

    /// Reads and filters the next batch. False at the end.
    fn refill(&mut self) -> Result<bool, Error> {
        let raw = self.read_batch();
        if raw.is_empty() {
            return Ok(false);
        }
        let options = &self.options;
        let outcomes: Vec<Outcome> = raw.into_par_iter().map(|raw| judge(raw, options)).collect();
        outcomes.into_iter().try_for_each(|outcome| self.take(outcome))?;
        Ok(true)
    }

    fn read_batch(&mut self) -> Vec<Raw> {
        let (mut batch, mut bytes) = (Vec::new(), 0);
        while bytes < BATCH_BYTES && batch.len() < BATCH_ITEMS {
            let raw = if let Some(rows) = &mut self.open {
                match rows.next() {
                    Ok(Some(row)) => Raw::Row(row),
                    Ok(None) => {
                        self.open = None;
                        continue;
                    }
                    Err(error) => {
                        self.open = None;
                        Raw::Skipped(Outcome::BrokenFile(error))
                    }
                }
            } else {
                match self.pending.pop_front() {
                    None => break,
                    Some(Source::File { path, name }) => read_file(&path, name, &self.options),
                    Some(Source::Rows(path)) => match open_rows(&path, &self.options) {
                        Ok(rows) => {
                            self.open = Some(rows);
                            continue;
                        }
                        Err(error) => Raw::Skipped(Outcome::BrokenFile(error)),
                    },
                }
            };
            bytes += raw.num_bytes();
            batch.push(raw);
        }
        batch
    }

    /// Counts an outcome, and keeps a document that is new.
    fn take(&mut self, outcome: Outcome) -> Result<(), Error> {
        let report = &mut self.report;
        let fail = self.options.on_error == OnError::Fail;
        match outcome {
            Outcome::Document { document, hash } => {
                if !self.options.raw && !self.seen.insert(hash) {
                    report.skipped_duplicates += 1;
                    return Ok(());
                }
                report.num_documents += 1;
                report.num_bytes += document.text.len() as u64;
                self.ready.push_back(document);
            }
            Outcome::Skipped(skip) => match skip {
                Skip::Binary => report.skipped_binary += 1,
                Skip::Minified => report.skipped_minified += 1,
                Skip::NotCode => report.skipped_not_code += 1,
                Skip::Generated => report.skipped_generated += 1,
                Skip::Oversized => report.skipped_oversized += 1,
                Skip::NotUtf8 => report.skipped_not_utf8 += 1,
                Skip::Empty => report.skipped_empty += 1,
            },
            Outcome::Other => report.skipped_other += 1,
            Outcome::Broken { reason, .. } if fail => return Err(Error::BrokenRow { reason }),
            Outcome::Broken { reason, num_rows } => {
                report.skipped_broken_lines += num_rows;
                report.example(|| reason);
            }
            Outcome::BrokenFile(error) if fail => return Err(error),
            Outcome::BrokenFile(error) => {
                report.skipped_broken_files += 1;
                report.example(|| error.to_string());
            }
            Outcome::Unreadable(path, source) if fail => return Err(Error::Read { path, source }),
            Outcome::Unreadable(path, error) => {
                report.skipped_unreadable += 1;
                report.example(|| format!("{}: {error}", path.display()));
            }
        }
        Ok(())
    }
}

impl Iterator for Documents {
    type Item = Result<Document, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        while self.ready.is_empty() && !self.finished {
            let more = self.refill();
            self.finished = !matches!(more, Ok(true));
            self.failed = match more {
                Ok(false) if self.report.num_documents == 0 => {
                    let report = self.report.to_string();
                    Some(Error::NoDocuments { data: self.data.clone(), report })
                }
                more => more.err(),
            };
        }
        match self.ready.pop_front() {
            Some(document) => Some(Ok(document)),
            None => self.failed.take().map(Err),
        }
    }
}

/// Adds what `argument` names to `pending`.
fn find(argument: &str, pending: &mut VecDeque<Source>, report: &mut SourceReport) -> Result<(), Error> {
    refuse_unsupported(argument)?;
    let path = Path::new(argument);
    if path.is_dir() {
        return walk(path, pending, report);
    }
    if path.exists() {
        pending.push_back(one_file(path));
        return Ok(());
    }
    let not_found = || Error::NotFound { data: argument.to_owned() };
    let matches = glob::glob(argument).map_err(|_| not_found())?;
    let mut paths: Vec<PathBuf> = matches.filter_map(Result::ok).collect();
    if paths.is_empty() {
        return Err(not_found());
    }
    paths.sort();
    for path in paths {
        refuse_unsupported(&path.to_string_lossy())?;
        if path.is_dir() {
            walk(&path, pending, report)?;
        } else {
            pending.push_back(one_file(&path));
        }
    }
    Ok(())
}

fn refuse_unsupported(argument: &str) -> Result<(), Error> {
    let is = |end: &str| argument.ends_with(end);
    let (kind, hint) = if argument.starts_with("hub:") {
        ("a dataset of the hub", "download it as .jsonl or .parquet and give the path of the file")
    } else if is(".bz2") || is(".xz") {
        ("compressed with bzip2 or xz", "compress it with zstd or gzip instead")
    } else if (is(".gz") || is(".zst")) && !is_rows(argument) {
        ("compressed, and not .jsonl, .ndjson or .json by its name", "decompress it first")
    } else {
        return Ok(());
    };
    Err(Error::Unsupported { data: argument.to_owned(), kind, hint })
}

/// A single file: rows if its name says so, else one document.
fn one_file(path: &Path) -> Source {
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    if is_rows(&name) { Source::Rows(path.to_owned()) } else { Source::File { path: path.to_owned(), name } }
}

fn open_rows(path: &Path, options: &SourceOptions) -> Result<Rows, Error> {
    Rows::open(Arc::new(LocalFile::open(path)?), options.text_field.as_deref())
}

/// All files of a folder that git would not ignore, by name. Links are not followed.
fn walk(folder: &Path, pending: &mut VecDeque<Source>, report: &mut SourceReport) -> Result<(), Error> {
    std::fs::read_dir(folder).map_err(|source| Error::Read { path: folder.to_owned(), source })?;
    let walker = ignore::WalkBuilder::new(folder)
        .require_git(false)
        .git_global(false)
        .sort_by_file_path(|a, b| a.cmp(b))
        .build();
    for entry in walker {
        match entry {
            Ok(entry) if entry.file_type().is_some_and(|kind| kind.is_file()) => {
                let path = entry.into_path();
                let name = path.strip_prefix(folder).unwrap_or(&path).to_string_lossy().into_owned();
                if filter::is_source_name(&path) || path.extension().is_none() {
                    pending.push_back(Source::File { path, name });
                } else {
                    report.skipped_other += 1;
                }
            }
            Ok(_) => {}
            Err(error) => {
                report.skipped_unreadable += 1;
                report.example(|| error.to_string());
            }
        }
    }
    Ok(())
}

/// Reads a file up to the size limit.
fn read_file(path: &Path, name: String, options: &SourceOptions) -> Raw {
    let limit = if options.raw { u64::MAX } else { options.max_file_bytes };
    let unreadable = |error: std::io::Error| Raw::Skipped(Outcome::Unreadable(path.to_owned(), error));
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) => return unreadable(error),
    };
    let mut bytes = Vec::new();
    if let Err(error) = file.take(limit.saturating_add(1)).read_to_end(&mut bytes) {
        return unreadable(error);
    }
    if bytes.len() as u64 > limit {
        return Raw::Skipped(Outcome::Skipped(Skip::Oversized));
    }
    if !filter::is_source_name(path) && path.extension().is_none() && !filter::is_script(&bytes) {
        return Raw::Skipped(Outcome::Other);
    }
    Raw::File { name, bytes }
}

/// Parses, filters and hashes one item.
fn judge(raw: Raw, options: &SourceOptions) -> Outcome {
    let (path, text) = match raw {
        Raw::Skipped(outcome) => return outcome,
        Raw::File { name, bytes } => match filter::text_of(bytes) {
            Ok(text) => (name, text),
            Err(skip) => return Outcome::Skipped(skip),
        },
        Raw::Row(row) => match parse(row, options.text_field.as_deref()) {
            Ok(document) => document,
            Err(broken) => return broken,
        },
    };
    if !options.raw
        && let Err(skip) = filter::check(&text, options.max_file_bytes)
    {
        return Outcome::Skipped(skip);
    }
    let hash = blake3::hash(text.as_bytes());
    let hash = std::array::from_fn(|i| hash.as_bytes()[i]);
    Outcome::Document { document: Document { path, text }, hash }
}

/// The name and text of a row.
fn parse(row: RawRow, text_field: Option<&str>) -> Result<(String, String), Outcome> {
    let (name, offset, row) = match row {
        RawRow::Json { name, offset, bytes } => (name, Some(offset), Row::parse(&bytes, text_field)),
        RawRow::Fields { name, row } => (name, None, Ok(row)),
        RawRow::Broken { reason, num_rows } => return Err(Outcome::Broken { reason, num_rows }),
    };
    match row.and_then(|row| row.into_document(text_field, name.clone())) {
        Ok(document) => Ok((document.path, document.text)),
        Err(reason) => {
            let place = offset.map_or(String::new(), |offset| format!(" (at byte {offset})"));
            Err(Outcome::Broken { reason: format!("{name}: {reason}{place}"), num_rows: 1 })
        }
    }
}

impl Raw {
    /// What it takes in memory, about.
    fn num_bytes(&self) -> usize {
        match self {
            Raw::File { bytes, .. } => bytes.len(),
            Raw::Row(row) => row.num_bytes(),
            Raw::Skipped(_) => 0,
        }
    }
}
