//! Files to documents: folders of code and files of rows, mixed freely, in the order of the arguments and of names.
//!
//! The trick: raw items are read in batches of bounded size, one after the other; parsing, filters and hashes of a batch
//! run in parallel; duplicates are then dropped in order. So memory is bounded and the result does not depend on the
//! number of threads.

mod find;
mod item;
mod options;
mod so_far;

use crate::duplicates::{NearDuplicates, Seen};
use crate::error::Error;
use crate::filter::{Filters, Judge, LicenseFiles, Reason};
use crate::language::Language;
use crate::read::{MAX_ROW_BYTES, RawRow, Rows, is_rows};
use crate::report::SourceReport;
use crate::split::path_hash;
use find::{Found, HUB, RowsFile, Source};
use item::{Outcome, Raw};
pub use options::{OnError, SourceOptions};
use rayon::prelude::*;
pub(crate) use so_far::{NewDocuments, ReadSoFar};
use std::collections::VecDeque;
use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::time::Instant;
use tempfile::TempDir;

/// Bytes of raw items that are in memory at once, about.
const BATCH_BYTES: usize = 16 << 20;
/// Raw items in a batch at the most.
const BATCH_ITEMS: usize = 4096;

/// Longest file that is read, in bytes, whatever the filters say; rows have the same limit.
const MAX_FILE_BYTES: u64 = MAX_ROW_BYTES as u64;
/// What a script begins with.
const SCRIPT: &[u8] = b"#!";
/// Memory for hashes of documents; more of them go to disk.
const SEEN_BYTES: usize = 64 << 20;

/// A document: a file, or a row of a dataset.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Document {
    /// A stable name: the path relative to the folder it came from; `repo_name/path`, `path` or `file.jsonl:line` for a
    /// row, whether the file is compressed or not.
    pub path: String,
    /// The text.
    pub text: String,
    /// The language, where its name or first line tells.
    pub language: Option<Language>,
    /// The licence, an SPDX expression or what a dataset's row says, where it is known and was asked for.
    pub license: Option<String>,
    /// The argument that it came from, counted from 0.
    pub argument: u32,
}

impl Document {
    /// A document of which nothing else is known.
    pub fn new(path: impl Into<String>, text: impl Into<String>) -> Self {
        Document { path: path.into(), text: text.into(), language: None, license: None, argument: 0 }
    }
}

/// Whether an argument names rows that somebody has collected: a file of them, or a dataset of the hub.
pub fn names_rows(argument: &str) -> bool {
    argument.starts_with(HUB) || is_rows(argument)
}

/// Documents, one after the other.
pub struct Documents {
    data: Vec<String>,
    /// Where the sources of each argument end.
    ends: Vec<u64>,
    origins: Vec<String>,
    notes: Vec<String>,
    options: SourceOptions,
    filters: Filters,
    judge: Judge,
    licenses: LicenseFiles,
    pending: VecDeque<Source>,
    open: Option<OpenRows>,
    ready: VecDeque<Document>,
    /// Of every document that is not an exact duplicate, once there is one to keep.
    seen: Option<Seen>,
    /// Where it is kept, for a reader that nobody goes on from.
    scratch: Option<TempDir>,
    near: Option<NearDuplicates>,
    new: NewDocuments,
    report: SourceReport,
    /// Sources that were begun, of which the last may be open.
    num_sources: u64,
    /// Whether the last of them is on the hub.
    is_remote: bool,
    seconds: Seconds,
    finished: bool,
    /// What ended it, told after the documents that are ready.
    failed: Option<Error>,
}

/// A file of rows that is being read.
struct OpenRows {
    rows: Rows,
    /// Rows that came out, broken ones among them.
    num_rows: u64,
}

impl OpenRows {
    fn new(file: &RowsFile, text_field: Option<&str>) -> Result<Self, Error> {
        let rows = Rows::open(file.blob()?, text_field)?;
        Ok(OpenRows { rows, num_rows: 0 })
    }

    fn next(&mut self) -> Result<Option<RawRow>, Error> {
        let row = self.rows.next()?;
        self.num_rows += u64::from(row.is_some());
        Ok(row)
    }
}

/// Where time went.
#[derive(Clone, Copy, Debug, Default)]
struct Seconds {
    read: f64,
    filter: f64,
}

impl Documents {
    /// Finds the files of `data`, each a folder, a source file, a file of rows, a glob of these, or a dataset of the hub. Reading happens later.
    ///
    /// # Errors
    /// If an argument names nothing, or a kind of source that is not read.
    pub fn open(data: &[String], options: &SourceOptions) -> Result<Self, Error> {
        let filters = options.filters();
        let judge = Judge::new(&filters)?;
        let mut found = Found::default();
        let mut ends = Vec::with_capacity(data.len());
        for argument in data {
            found.add(argument, &options.hub)?;
            ends.push(found.sources.len() as u64);
        }
        let Found { sources: pending, licenses, report, origins, notes } = found;
        Ok(Documents {
            data: data.to_vec(),
            ends,
            origins,
            notes,
            options: options.clone(),
            filters,
            judge,
            licenses,
            pending,
            open: None,
            ready: VecDeque::new(),
            seen: None,
            scratch: None,
            near: None,
            new: NewDocuments::default(),
            report,
            num_sources: 0,
            is_remote: false,
            seconds: Seconds::default(),
            finished: false,
            failed: None,
        })
    }

    /// Reads files in the order of their paths' hashes, so that wherever reading ends, what came is a sample spread over
    /// all of them. Files whose name `keep` refuses are not read. Rows come last, in their own order. Which argument a document
    /// is of is not known then: they are all of the first.
    #[must_use]
    pub fn spread(mut self, keep: impl Fn(&str) -> bool) -> Self {
        let num_found = self.pending.len();
        self.pending.retain(|source| {
            matches!(source, Source::File { name, .. } if keep(name)) || matches!(source, Source::Rows(_))
        });
        (self.pending.len()..num_found).for_each(|_| self.report.skip(Reason::NotIncluded, 0));
        self.ends.clear();
        self.pending.make_contiguous().sort_by_cached_key(|source| match source {
            Source::File { name, .. } => (0, path_hash(name)),
            Source::Rows(_) => (1, 0),
        });
        self
    }

    /// The next documents, about as many as are judged together; none at the end. Not to be mixed with the iterator.
    pub(crate) fn next_batch(&mut self) -> Result<Vec<Document>, Error> {
        while self.ready.is_empty() {
            if !self.refill()? {
                self.require_one()?;
                break;
            }
        }
        Ok(std::mem::take(&mut self.ready).into())
    }

    /// Makes durable what a later process needs, and says how far reading is: behind the last batch.
    pub(crate) fn sync(&mut self) -> Result<ReadSoFar, Error> {
        Ok(ReadSoFar {
            num_sources: self.num_sources,
            num_rows: self.open.as_ref().map(|rows| rows.num_rows),
            num_seen: self.sync_seen()?,
            new: self.new,
            report: self.report.clone(),
        })
    }

    fn sync_seen(&mut self) -> Result<u64, Error> {
        let Some(seen) = &mut self.seen else { return Ok(0) };
        seen.sync()?;
        Ok(seen.num_hashes())
    }

    /// What was new so far.
    pub(crate) fn new_documents(&self) -> NewDocuments {
        self.new
    }

    /// Whether near duplicates are to be skipped: they have to be found first.
    pub(crate) fn seeks_near_duplicates(&self) -> bool {
        self.filters.skip_near_duplicates
    }

    /// Skips near duplicates, which an earlier reader of the same sources found.
    pub(crate) fn skip_near(&mut self, near: NearDuplicates) {
        self.near = Some(near);
    }

    /// Keeps what was seen in the folder `dir`, and goes on where an earlier process was, if one was.
    pub(crate) fn resume(&mut self, dir: &Path, so_far: Option<ReadSoFar>) -> Result<(), Error> {
        let Some(so_far) = so_far else {
            self.seen = Some(Seen::create(dir, SEEN_BYTES)?);
            return Ok(());
        };
        self.seen = Some(Seen::resume(dir, SEEN_BYTES, so_far.num_seen)?);
        let last = so_far.num_rows.and(self.pending.get(so_far.num_sources.saturating_sub(1) as usize));
        if let Some(Source::Rows(file)) = last {
            self.is_remote = matches!(file, RowsFile::Hub(..));
            let mut rows = OpenRows::new(file, self.options.text_field.as_deref())?;
            while so_far.num_rows.is_some_and(|num_rows| rows.num_rows < num_rows) && rows.next()?.is_some() {
            }
            self.open = Some(rows);
        }
        self.pending.drain(..(so_far.num_sources as usize).min(self.pending.len()));
        (self.num_sources, self.report, self.new) = (so_far.num_sources, so_far.report, so_far.new);
        Ok(())
    }

    /// A hash of what is to be read: names, sizes and times of all files, and what is looked for in them.
    pub(crate) fn stamp(&self) -> [u8; 32] {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&self.judge.fingerprint().to_le_bytes());
        for stamp in self.licenses.stamps() {
            hasher.update(stamp.as_bytes());
            hasher.update(b"\n");
        }
        for source in &self.pending {
            hasher.update(source.stamp().as_bytes());
            hasher.update(b"\n");
        }
        *hasher.finalize().as_bytes()
    }

    /// What was chosen of datasets of the hub, for people.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// Each argument, a git repository or a dataset of the hub with its commit.
    pub(crate) fn origins(&self) -> &[String] {
        &self.origins
    }

    /// Seconds that reading was waited for, and that parsing and filtering took.
    pub(crate) fn seconds(&self) -> (f64, f64) {
        (self.seconds.read, self.seconds.filter)
    }

    /// An error if nothing came out of all of it.
    fn require_one(&self) -> Result<(), Error> {
        match self.report.num_documents {
            0 => Err(Error::NoDocuments { data: self.data.clone(), report: self.report.to_string() }),
            _ => Ok(()),
        }
    }

    /// What was read and skipped so far.
    pub fn report(&self) -> &SourceReport {
        &self.report
    }

    /// Reads and filters the next batch. False at the end.
    fn refill(&mut self) -> Result<bool, Error> {
        let begun = Instant::now();
        let raw = self.read_batch();
        self.seconds.read += begun.elapsed().as_secs_f64();
        if raw.is_empty() {
            return Ok(false);
        }
        let begun = Instant::now();
        let (options, judge) = (&self.options, &self.judge);
        let look_at = |(argument, raw): (u32, Raw)| (argument, raw.look_at(options, judge));
        let outcomes: Vec<(u32, Outcome)> = raw.into_par_iter().map(look_at).collect();
        outcomes.into_iter().try_for_each(|(argument, outcome)| self.take(argument, outcome))?;
        self.seconds.filter += begun.elapsed().as_secs_f64();
        Ok(true)
    }

    /// Raw items, each with the argument that it is of.
    fn read_batch(&mut self) -> Vec<(u32, Raw)> {
        let (mut batch, mut bytes) = (Vec::new(), 0);
        while bytes < BATCH_BYTES && batch.len() < BATCH_ITEMS {
            let raw = match &mut self.open {
                Some(rows) => match rows.next() {
                    Ok(Some(row)) => Raw::Row(row),
                    Ok(None) => {
                        self.open = None;
                        continue;
                    }
                    Err(error) => {
                        self.open = None;
                        Raw::Done(self.file_that_failed(error))
                    }
                },
                None => match self.begin_source() {
                    None => break,
                    Some(None) => continue,
                    Some(Some(raw)) => raw,
                },
            };
            bytes += raw.num_bytes();
            batch.push((self.argument(), raw));
        }
        batch
    }

    /// The argument of the source that was begun last.
    fn argument(&self) -> u32 {
        match self.ends.partition_point(|end| *end < self.num_sources) {
            past if past == self.ends.len() => 0,
            argument => argument as u32,
        }
    }

    /// Takes the next source: a file is an item, rows are opened. `None` if there is no source left.
    fn begin_source(&mut self) -> Option<Option<Raw>> {
        let source = self.pending.pop_front()?;
        self.num_sources += 1;
        self.is_remote = matches!(source, Source::Rows(RowsFile::Hub(..)));
        match source {
            Source::File { path, name } => Some(Some(self.read_file(&path, name))),
            Source::Rows(file) => match OpenRows::new(&file, self.options.text_field.as_deref()) {
                Ok(rows) => {
                    self.open = Some(rows);
                    Some(None)
                }
                Err(error) => Some(Some(Raw::Done(self.file_that_failed(error)))),
            },
        }
    }

    /// What an error of the file that was begun last means. Bytes that are damaged may be skipped; a hub that cannot be
    /// reached or a full disk are nothing that the next file would be free of.
    fn file_that_failed(&self, error: Error) -> Outcome {
        match error {
            Error::Read { path, source } if !self.is_remote => Outcome::Unreadable(path, source),
            error @ Error::BrokenFile { .. } if !self.is_remote => Outcome::BrokenFile(error),
            error => Outcome::Failed(error),
        }
    }

    /// Counts an outcome, and keeps a document that is new.
    fn take(&mut self, argument: u32, outcome: Outcome) -> Result<(), Error> {
        let report = &mut self.report;
        let fail = self.options.on_error == OnError::Fail;
        match outcome {
            Outcome::Document { document, hash, secrets } => {
                let num_bytes = document.text.len() as u64;
                if self.filters.skip_duplicates && !seen(&mut self.seen, &mut self.scratch)?.insert(hash)? {
                    report.skip(Reason::Duplicate, num_bytes);
                    return Ok(());
                }
                let number = self.new.num_documents;
                self.new.add(&hash);
                if self.near.as_ref().is_some_and(|near| near.is_duplicate(number)) {
                    report.skip(Reason::NearDuplicate, num_bytes);
                    return Ok(());
                }
                let license = document.license.as_deref();
                report.redact(&secrets);
                report.take(num_bytes, document.language.map(Language::name), license);
                self.ready.push_back(Document { argument, ..document });
            }
            Outcome::Skipped { reason, num_bytes } => report.skip(reason, num_bytes),
            Outcome::Broken { reason, .. } if fail => return Err(Error::BrokenRow { reason }),
            Outcome::Broken { reason, num_rows } => {
                report.skip_many(Reason::BrokenRow, num_rows);
                report.example(|| reason);
            }
            Outcome::Failed(error) => return Err(error),
            Outcome::BrokenFile(error) if fail => return Err(error),
            Outcome::BrokenFile(error) => {
                report.skip(Reason::BrokenFile, 0);
                report.example(|| error.to_string());
            }
            Outcome::Unreadable(path, source) if fail => return Err(Error::Read { path, source }),
            Outcome::Unreadable(path, error) => {
                report.skip(Reason::Unreadable, 0);
                report.example(|| format!("{}: {error}", path.display()));
            }
        }
        Ok(())
    }

    /// Reads a file up to the size limit.
    fn read_file(&mut self, path: &Path, name: String) -> Raw {
        let limit = match self.filters.max_document_bytes {
            0 => MAX_FILE_BYTES,
            limit => limit.min(MAX_FILE_BYTES),
        };
        let unreadable = |error: std::io::Error| Raw::Done(Outcome::Unreadable(path.to_owned(), error));
        let skipped = |reason, num_bytes| Raw::Done(Outcome::Skipped { reason, num_bytes });
        let file = match File::open(path) {
            Ok(file) => file,
            Err(error) => return unreadable(error),
        };
        let mut bytes = Vec::new();
        let mut file = file.take(limit.saturating_add(1));
        // A file without an extension is code if it begins as a script does.
        if Language::of_path(&name).is_none() && path.extension().is_none() {
            if let Err(error) = file.by_ref().take(SCRIPT.len() as u64).read_to_end(&mut bytes) {
                return unreadable(error);
            }
            if bytes != SCRIPT {
                return skipped(Reason::NotCode, path.metadata().map_or(0, |metadata| metadata.len()));
            }
        }
        if let Err(error) = file.read_to_end(&mut bytes) {
            return unreadable(error);
        }
        let num_bytes = bytes.len() as u64;
        if num_bytes > limit {
            let num_bytes = path.metadata().map_or(num_bytes, |metadata| metadata.len());
            return skipped(Reason::TooLarge, num_bytes);
        }
        let is_wanted = self.options.with_licenses || self.judge.needs_licenses();
        let license = is_wanted.then(|| self.licenses.of(path)).flatten();
        Raw::File { name, bytes, license }
    }
}

impl Iterator for Documents {
    type Item = Result<Document, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        while self.ready.is_empty() && !self.finished {
            let more = self.refill();
            self.finished = !matches!(more, Ok(true));
            self.failed = match more {
                Ok(true) => None,
                Ok(false) => self.require_one().err(),
                Err(error) => Some(error),
            };
        }
        match self.ready.pop_front() {
            Some(document) => Some(Ok(document)),
            None => self.failed.take().map(Err),
        }
    }
}

/// The set of what was seen, in a temporary folder where nobody has given one.
fn seen<'a>(set: &'a mut Option<Seen>, scratch: &mut Option<TempDir>) -> Result<&'a mut Seen, Error> {
    if set.is_none() {
        let dir = tempfile::tempdir().map_err(Error::write(Path::new("the temporary folder")))?;
        *set = Some(Seen::create(dir.path(), SEEN_BYTES)?);
        *scratch = Some(dir);
    }
    Ok(set.as_mut().expect("one was put there"))
}
