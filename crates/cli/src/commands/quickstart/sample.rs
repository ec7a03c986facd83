//! What quickstart learns from: documents in memory, bounded, spread over the source by the hash of their paths.
//!
//! Files are read in the order of their hashes, so that reading can end when there is enough. Rows of a .jsonl can only be
//! read in order: those with the lowest hashes are kept, which is as fair.

use super::recipe;
use crate::errors::{Failure, Outcome};
use crate::format;
use crate::progress::Progress;
use eyas_data::{Document, Documents, SourceOptions, SourceReport, is_validation, path_hash};
use serde_json::json;
use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// Where documents come from.
pub(crate) struct Source {
    /// As a person knows it.
    pub(crate) label: String,
    /// A folder or a file, or the registry's folders.
    pub(crate) data: Vec<String>,
    /// Only files whose name ends so: the registry's.
    only: Option<&'static str>,
}

impl Source {
    /// What was asked for, or the Rust sources of the local cargo registry.
    pub(crate) fn find(arguments: &[String]) -> Outcome<Self> {
        if !arguments.is_empty() {
            return Ok(Source { label: arguments.join(", "), data: arguments.to_vec(), only: None });
        }
        let cargo_home = std::env::var_os("CARGO_HOME").filter(|path| !path.is_empty()).map(PathBuf::from);
        let home = cargo_home.or_else(|| std::env::home_dir().map(|home| home.join(".cargo")));
        let registry = home.unwrap_or_default().join("registry").join("src");
        // One folder for each index that crates came from; below it a folder for each crate.
        let indexes = std::fs::read_dir(&registry).into_iter().flatten().flatten().map(|entry| entry.path());
        let mut data: Vec<String> =
            indexes.filter(|path| path.is_dir()).map(|path| path.display().to_string()).collect();
        data.sort();
        if data.is_empty() {
            return Err(Failure::failed(format!("no sources of crates in {}", registry.display()))
                .hint("name a folder of source code"));
        }
        Ok(Source { label: format!("the Rust sources in {}", registry.display()), data, only: Some(".rs") })
    }

    /// Whether a file of that name is one of its documents.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.only.is_none_or(|end| name.ends_with(end))
    }
}

/// Documents to train on and documents held out.
pub(super) struct Sample {
    /// In the order of their hashes.
    pub(super) train: Vec<Document>,
    /// In the order of their hashes.
    pub(super) valid: Vec<Document>,
    /// What was read and skipped.
    pub(super) report: SourceReport,
    /// Whether all of the source was read and kept.
    pub(super) is_whole: bool,
}

impl Sample {
    pub(super) fn train_bytes(&self) -> u64 {
        num_bytes(&self.train)
    }
}

pub(super) fn num_bytes(documents: &[Document]) -> u64 {
    documents.iter().map(|document| document.text.len() as u64).sum()
}

/// The documents with the lowest hashes, up to a number of bytes.
#[derive(Default)]
struct Lowest {
    documents: BTreeMap<(u64, usize), Document>,
    num_bytes: u64,
    num_seen: usize,
    num_dropped: usize,
}

impl Lowest {
    fn push(&mut self, document: Document, limit_bytes: u64) {
        self.num_bytes += document.text.len() as u64;
        self.num_seen += 1;
        self.documents.insert((path_hash(&document.path), self.num_seen), document);
        while self.num_bytes > limit_bytes && self.documents.len() > 1 {
            let Some((_, dropped)) = self.documents.pop_last() else { return };
            self.num_bytes -= dropped.text.len() as u64;
            self.num_dropped += 1;
        }
    }

    fn into_documents(self) -> Vec<Document> {
        self.documents.into_values().collect()
    }
}

/// Text that is read however long it takes.
const LEAST_BYTES: u64 = 2 << 20;

/// Reads, filters and splits, keeping `limit_bytes` to train on, and past `until` only as far
/// as it takes to have anything.
pub(super) fn read(source: &Source, out: &Path, limit_bytes: u64, until: Instant) -> Outcome<Sample> {
    let own = source.data.iter().find_map(|data| own_prefix(data, out));
    let keep =
        |name: &str| source.has(name) && own.as_ref().is_none_or(|own| !Path::new(name).starts_with(own));
    let in_order = source.data.iter().all(|data| Path::new(data).is_dir());
    let mut documents = Documents::open(&source.data, &SourceOptions::default())?.spread(keep);
    let (mut train, mut valid) = (Lowest::default(), Lowest::default());
    let mut progress = Progress::new("read");
    let mut is_whole = true;
    while let Some(document) = documents.next().transpose()? {
        match is_validation(&document.path, recipe::VALIDATION_ONE_IN) {
            true => valid.push(document, recipe::VALIDATION_BYTES),
            false => train.push(document, limit_bytes),
        }
        let enough = in_order && train.num_bytes >= limit_bytes / 100 * 99 && valid.num_seen > 0;
        // A source that is that slow is not waited for, unless there is nothing yet to learn from.
        let late = train.num_bytes >= LEAST_BYTES && valid.num_seen > 0 && Instant::now() >= until;
        if enough || late {
            is_whole = false;
            break;
        }
        let report = documents.report();
        let (count, bytes) = (format::count(report.num_documents), format::bytes(report.num_bytes));
        progress.tick(&format_args!("{count} documents, {bytes}"));
    }
    is_whole &= train.num_dropped + valid.num_dropped == 0;
    let (train, valid) = (train.into_documents(), valid.into_documents());
    let mut sample = Sample { train, valid, report: documents.report().clone(), is_whole };
    hold_out_one(&mut sample, &source.label)?;
    Ok(sample)
}

/// Where few documents leave none held out, the one with the lowest hash is.
fn hold_out_one(sample: &mut Sample, source: &str) -> Outcome {
    let (from, to) = match (sample.train.len(), sample.valid.len()) {
        (1.., 1..) => return Ok(()),
        (2.., 0) => (&mut sample.train, &mut sample.valid),
        (0, 2..) => (&mut sample.valid, &mut sample.train),
        _ => {
            return Err(Failure::failed(format!(
                "{source} has one document; one to learn from and one to hold out are needed"
            ))
            .hint("give a folder with more source files"));
        }
    };
    to.push(from.remove(0));
    Ok(())
}

/// Where the output folder lies below the source: what an earlier run wrote there is not to be learned from.
fn own_prefix(source: &str, out: &Path) -> Option<PathBuf> {
    let (source, out) = (std::fs::canonicalize(source).ok()?, std::fs::canonicalize(out).ok()?);
    let below = out.strip_prefix(source).ok()?;
    (!below.as_os_str().is_empty()).then(|| below.to_path_buf())
}

/// Writes documents as JSON lines that every other command reads.
pub(super) fn write_rows(path: &Path, documents: &[Document]) -> Outcome {
    eyas_model::write_atomically(path, |file| {
        for document in documents {
            let row = json!({ "path": document.path, "content": document.text });
            writeln!(file, "{row}")?;
        }
        Ok(())
    })?;
    Ok(())
}
