//! Files to documents: folders of code and .jsonl files, mixed freely, in an order that depends on names alone.
//!
//! The trick: raw items are read in batches of bounded size, one after the other; parsing, filters and hashes of a batch
//! run in parallel; duplicates are then dropped in order. So memory is bounded and the result does not depend on the
//! number of threads.

use crate::duplicates::{NearDuplicates, Seen};
use crate::error::Error;
use crate::filter::{Filters, Judge, LicenseFiles, Reason, is_license_name, of_header, text_of};
use crate::jsonl::{Line, MAX_LINE_BYTES, Row, read_line};
use crate::language::Language;
use crate::report::SourceReport;
use crate::secrets::{Found, redact};
use crate::split::path_hash;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;
use std::fs::File;
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Instant, UNIX_EPOCH};
use tempfile::TempDir;

/// Bytes of raw items that are in memory at once, about.
const BATCH_BYTES: usize = 16 << 20;
/// Raw items in a batch at the most.
const BATCH_ITEMS: usize = 4096;

/// Memory for hashes of documents; more of them go to disk.
const SEEN_BYTES: usize = 64 << 20;

/// A document: a file, or a row of a .jsonl.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Document {
    /// A stable name: the path relative to the folder it came from; `repo_name/path`, `path` or `file.jsonl:line` for a
    /// row.
    pub path: String,
    /// The text.
    pub text: String,
    /// The language, where its name or first line tells.
    pub language: Option<Language>,
    /// The licence, an SPDX expression or what a dataset's row says, where it is known and was asked for.
    pub license: Option<String>,
}

impl Document {
    /// A document of which nothing else is known.
    pub fn new(path: impl Into<String>, text: impl Into<String>) -> Self {
        Document { path: path.into(), text: text.into(), language: None, license: None }
    }
}

/// How sources are read.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct SourceOptions {
    /// The field of a row that holds the text; by default `content`, then `text`.
    pub text_field: Option<String>,
    /// Every document as it is, whatever the filters say.
    pub raw: bool,
    /// Which documents are taken.
    pub filters: Filters,
    /// Leave secrets as they are: keys, tokens, passwords and e-mail addresses, which are else replaced by placeholders.
    pub keep_secrets: bool,
    /// Find out each document's licence, though no filter asks for it.
    pub with_licenses: bool,
}

impl Default for SourceOptions {
    fn default() -> Self {
        let filters = Filters::default();
        SourceOptions { text_field: None, raw: false, filters, keep_secrets: false, with_licenses: false }
    }
}

impl SourceOptions {
    /// The filters that count.
    fn filters(&self) -> Filters {
        if self.raw { Filters::none() } else { self.filters.clone() }
    }
}

/// Documents, one after the other.
pub struct Documents {
    data: Vec<String>,
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
    seconds: Seconds,
    finished: bool,
}

/// What is still to be read.
enum Source {
    File { path: PathBuf, name: String },
    Rows(PathBuf),
}

/// A .jsonl that is being read.
struct OpenRows {
    path: PathBuf,
    input: BufReader<File>,
    line: u64,
}

impl OpenRows {
    fn new(path: &Path) -> Result<Self, Error> {
        let file = File::open(path).map_err(Error::read(path))?;
        Ok(OpenRows { path: path.to_owned(), input: BufReader::with_capacity(1 << 20, file), line: 0 })
    }

    fn next(&mut self) -> Result<Option<Line>, Error> {
        let line = read_line(&mut self.input).map_err(Error::read(&self.path))?;
        self.line += u64::from(line.is_some());
        Ok(line)
    }
}

/// How far reading is: enough to go on from, over the same sources.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct ReadSoFar {
    num_sources: u64,
    /// Rows of the last of them that were read, if there may be more.
    num_rows: Option<u64>,
    num_seen: u64,
    pub(crate) new: NewDocuments,
    report: SourceReport,
}

/// Documents that are no exact duplicates: how many, and a hash of them in their order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct NewDocuments {
    pub(crate) num_documents: u64,
    digest: [u8; 32],
}

impl NewDocuments {
    fn add(&mut self, hash: &[u8; 16]) {
        self.num_documents += 1;
        let mut hasher = blake3::Hasher::new();
        hasher.update(&self.digest).update(hash);
        self.digest = *hasher.finalize().as_bytes();
    }
}

/// Where time went.
#[derive(Clone, Copy, Debug, Default)]
struct Seconds {
    read: f64,
    filter: f64,
}

/// Something read but not yet looked at.
enum Raw {
    File { name: String, bytes: Vec<u8>, license: Option<Arc<str>> },
    Row { name: String, bytes: Vec<u8> },
    Skipped(Outcome),
}

/// What became of a raw item.
enum Outcome {
    Document {
        document: Document,
        hash: [u8; 16],
        secrets: Vec<Found>,
    },
    /// Why, how many bytes, and where and what exactly if that helps.
    Skipped(Reason, u64, Option<String>),
}

impl Documents {
    /// Finds the files of `data`, each a folder, a source file, a .jsonl or a glob of them. Reading happens later.
    ///
    /// # Errors
    /// If an argument names nothing, or a kind of source that is not read.
    pub fn open(data: &[String], options: &SourceOptions) -> Result<Self, Error> {
        let mut report = SourceReport::default();
        let (mut pending, mut licenses) = (VecDeque::new(), LicenseFiles::default());
        let filters = options.filters();
        let judge = Judge::new(&filters)?;
        for argument in data {
            find(argument, &mut pending, &mut licenses, &mut report)?;
        }
        Ok(Documents {
            data: data.to_vec(),
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
            seconds: Seconds::default(),
            finished: false,
        })
    }

    /// Reads files in the order of their paths' hashes, so that wherever reading ends, what came is a sample spread over
    /// all of them. Files whose name `keep` refuses are not read. Rows of a .jsonl come last, in their own order.
    #[must_use]
    pub fn spread(mut self, keep: impl Fn(&str) -> bool) -> Self {
        let num_found = self.pending.len();
        self.pending.retain(|source| {
            matches!(source, Source::File { name, .. } if keep(name)) || matches!(source, Source::Rows(_))
        });
        (self.pending.len()..num_found).for_each(|_| self.report.skip(Reason::NotIncluded, 0));
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
            num_rows: self.open.as_ref().map(|rows| rows.line),
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
        if let Some(Source::Rows(path)) = last {
            let mut rows = OpenRows::new(path)?;
            while so_far.num_rows.is_some_and(|num_rows| rows.line < num_rows) && rows.next()?.is_some() {}
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
        for source in &self.pending {
            let (Source::File { path, .. } | Source::Rows(path)) = source;
            let metadata = path.metadata().ok();
            let size = metadata.as_ref().map(std::fs::Metadata::len);
            let modified = metadata.and_then(|metadata| metadata.modified().ok());
            let nanos =
                modified.and_then(|time| time.duration_since(UNIX_EPOCH).ok()).map(|time| time.as_nanos());
            hasher.update(format!("{path:?} {size:?} {nanos:?}\n").as_bytes());
        }
        *hasher.finalize().as_bytes()
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
        let raw = self.read_batch()?;
        self.seconds.read += begun.elapsed().as_secs_f64();
        if raw.is_empty() {
            return Ok(false);
        }
        let begun = Instant::now();
        let (options, judge) = (&self.options, &self.judge);
        let outcomes: Vec<Outcome> = raw.into_par_iter().map(|raw| look_at(raw, options, judge)).collect();
        for outcome in outcomes {
            self.take(outcome)?;
        }
        self.seconds.filter += begun.elapsed().as_secs_f64();
        Ok(true)
    }

    fn read_batch(&mut self) -> Result<Vec<Raw>, Error> {
        let (mut batch, mut bytes) = (Vec::new(), 0);
        while bytes < BATCH_BYTES && batch.len() < BATCH_ITEMS {
            if let Some(rows) = &mut self.open {
                let Some(line) = rows.next()? else {
                    self.open = None;
                    continue;
                };
                let name = format!("{}:{}", rows.path.file_name().unwrap_or_default().display(), rows.line);
                match line {
                    // A blank line is no row; most tools leave one at the end.
                    Line::Bytes(line) if line.trim_ascii().is_empty() => {}
                    Line::Bytes(line) => {
                        bytes += line.len();
                        batch.push(Raw::Row { name, bytes: line });
                    }
                    Line::TooLong => {
                        let reason = format!("{name}: longer than {} MB", MAX_LINE_BYTES >> 20);
                        batch.push(Raw::Skipped(Outcome::Skipped(Reason::BrokenRow, 0, Some(reason))));
                    }
                }
                continue;
            }
            let next = self.pending.pop_front();
            self.num_sources += u64::from(next.is_some());
            match next {
                None => break,
                Some(Source::Rows(path)) => {
                    self.open = Some(OpenRows::new(&path)?);
                }
                Some(Source::File { path, name }) => {
                    let raw = self.read_file(&path, name);
                    if let Raw::File { bytes: content, .. } = &raw {
                        bytes += content.len();
                    }
                    batch.push(raw);
                }
            }
        }
        Ok(batch)
    }

    /// Counts an outcome, and keeps a document that is new.
    fn take(&mut self, outcome: Outcome) -> Result<(), Error> {
        let report = &mut self.report;
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
                self.ready.push_back(document);
            }
            Outcome::Skipped(reason, num_bytes, example) => {
                report.skip(reason, num_bytes);
                example.into_iter().for_each(|text| report.example(|| text));
            }
        }
        Ok(())
    }

    /// Reads a file up to the size limit.
    fn read_file(&mut self, path: &Path, name: String) -> Raw {
        let limit = match self.filters.max_document_bytes {
            0 => u64::MAX,
            limit => limit,
        };
        let unreadable = |error: std::io::Error| {
            let example = format!("{}: {error}", path.display());
            Raw::Skipped(Outcome::Skipped(Reason::Unreadable, 0, Some(example)))
        };
        let file = match File::open(path) {
            Ok(file) => file,
            Err(error) => return unreadable(error),
        };
        let mut bytes = Vec::new();
        if let Err(error) = file.take(limit.saturating_add(1)).read_to_end(&mut bytes) {
            return unreadable(error);
        }
        let num_bytes = bytes.len() as u64;
        if num_bytes > limit {
            let num_bytes = path.metadata().map_or(num_bytes, |metadata| metadata.len());
            return Raw::Skipped(Outcome::Skipped(Reason::TooLarge, num_bytes, None));
        }
        // A file without an extension is code if it begins as a script does.
        if Language::of_path(&name).is_none() && path.extension().is_none() && !bytes.starts_with(b"#!") {
            return Raw::Skipped(Outcome::Skipped(Reason::NotCode, num_bytes, None));
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
            match self.refill() {
                Ok(true) => {}
                Ok(false) => {
                    self.finished = true;
                    if let Err(error) = self.require_one() {
                        return Some(Err(error));
                    }
                }
                Err(error) => {
                    self.finished = true;
                    return Some(Err(error));
                }
            }
        }
        self.ready.pop_front().map(Ok)
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

/// Adds what `argument` names to `pending`.
fn find(
    argument: &str,
    pending: &mut VecDeque<Source>,
    licenses: &mut LicenseFiles,
    report: &mut SourceReport,
) -> Result<(), Error> {
    refuse_unsupported(argument)?;
    let path = Path::new(argument);
    if path.is_dir() {
        return walk(path, pending, licenses, report);
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
            walk(&path, pending, licenses, report)?;
        } else {
            pending.push_back(one_file(&path));
        }
    }
    Ok(())
}

fn refuse_unsupported(argument: &str) -> Result<(), Error> {
    let is = |end: &str| argument.ends_with(end);
    let (kind, hint) = if argument.starts_with("hub:") {
        ("a dataset of the hub", "download it as .jsonl and give the path of the file")
    } else if is(".gz") || is(".zst") || is(".bz2") || is(".xz") {
        ("compressed", "decompress it first")
    } else if is(".parquet") {
        ("a parquet file", "convert it to .jsonl first")
    } else {
        return Ok(());
    };
    Err(Error::Unsupported { data: argument.to_owned(), kind, hint })
}

/// A single file: rows if it is named .jsonl or .json, else one document.
fn one_file(path: &Path) -> Source {
    let extension = path.extension().and_then(|e| e.to_str()).unwrap_or("");
    if ["jsonl", "ndjson", "json"].contains(&extension) {
        Source::Rows(path.to_owned())
    } else {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        Source::File { path: path.to_owned(), name }
    }
}

/// All files of a folder that git would not ignore, by name. Links are not followed.
fn walk(
    folder: &Path,
    pending: &mut VecDeque<Source>,
    licenses: &mut LicenseFiles,
    report: &mut SourceReport,
) -> Result<(), Error> {
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
                if path.file_name().and_then(|name| name.to_str()).is_some_and(is_license_name) {
                    licenses.add(&path);
                }
                if Language::of_path(&name).is_some() || path.extension().is_none() {
                    pending.push_back(Source::File { path, name });
                } else {
                    report.skip(Reason::NotCode, 0);
                }
            }
            Ok(_) => {}
            Err(error) => {
                report.skip(Reason::Unreadable, 0);
                report.example(|| error.to_string());
            }
        }
    }
    Ok(())
}

/// Parses, filters and hashes one item.
fn look_at(raw: Raw, options: &SourceOptions, judge: &Judge) -> Outcome {
    let mut document = match raw {
        Raw::Skipped(outcome) => return outcome,
        Raw::File { name, bytes, license } => {
            let num_bytes = bytes.len() as u64;
            match text_of(bytes) {
                Ok(text) => {
                    Document { license: license.as_deref().map(Into::into), ..Document::new(name, text) }
                }
                Err(reason) => return Outcome::Skipped(reason, num_bytes, None),
            }
        }
        Raw::Row { name, bytes } => {
            let field = options.text_field.as_deref();
            let row = Row::parse(&bytes, field).and_then(|row| row.into_document(field, name.clone()));
            match row {
                Ok((path, text)) => Document::new(path, text),
                Err(reason) => {
                    let example = format!("{name}: {reason}");
                    return Outcome::Skipped(Reason::BrokenRow, bytes.len() as u64, Some(example));
                }
            }
        }
    };
    let num_bytes = document.text.len() as u64;
    if !options.raw && document.text.trim().is_empty() {
        return Outcome::Skipped(Reason::Empty, num_bytes, None);
    }
    document.language =
        Language::of_path(&document.path).or_else(|| Language::of_first_line(document.text.as_bytes()));
    if options.with_licenses || judge.needs_licenses() {
        document.license = of_header(&document.text).or(document.license);
    }
    if let Some(reason) = judge.check(&document) {
        return Outcome::Skipped(reason, num_bytes, None);
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
