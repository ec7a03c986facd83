//! Documents to shards: encoded in parallel, batch by batch, written in order, so that the bytes do not depend on the number of
//! threads and memory is bounded. Killed at any moment, the same call goes on from what was durable, and ends with the same
//! bytes.
//!
//! The trick: while a batch is hashed and written (`output`), which one thread does, the others read, filter and encode the next
//! one (`input`). What is made durable tells how far reading was before that.

mod input;
mod near;
mod output;
#[cfg(test)]
mod tests;
mod work;

use crate::error::Error;
use crate::fim::Fim;
use crate::report::SourceReport;
use crate::shards::{Mode, SourceTokens, Written, holds_only_shards};
use crate::source::{Documents, ReadSoFar, SourceOptions};
use eyas_token::Tokenizer;
use input::Input;
use output::{Finished, Output};
use serde::{Deserialize, Serialize};
use std::path::Path;
use std::time::Instant;
use work::{JOURNAL, SEEN, WorkFolder};

/// Tokens after which what was done is made durable: the work of a second, and a quarter of a shard.
pub const DURABLE_TOKENS: u64 = 16 << 20;

/// How documents become shards.
#[derive(Clone, Debug, Serialize)]
pub struct PrepareOptions {
    /// Chunks of each document, or one stream.
    pub mode: Mode,
    /// Length of the chunks; recorded in pack mode.
    pub context_length: usize,
    /// How sources are read. With `raw`, special tokens in the text become their ids, as Hugging Face does it; not
    /// in documents turned round.
    pub source: SourceOptions,
    /// Hold out one document in so many, by hash of its path: the output then has the folders `train` and `valid`.
    pub validation_one_in: Option<u64>,
    /// Turn documents round for fill-in-the-middle; in pack mode only.
    pub fim: Option<Fim>,
}

/// What has been done so far.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct PrepareProgress {
    /// Documents encoded.
    pub num_documents: u64,
    /// Their UTF-8 bytes.
    pub num_bytes: u64,
    /// Tokens written.
    pub num_tokens: u64,
    /// Tokens before chunks were cut.
    pub num_encoded_tokens: u64,
    /// Documents that were done before the process was started.
    pub num_resumed_documents: u64,
    /// Whether documents are being read for their near duplicates, before any of them is encoded.
    #[serde(default)]
    pub is_seeking_duplicates: bool,
}

/// How far the shards are.
#[derive(Debug, Serialize, Deserialize)]
struct Journal {
    documents: ReadSoFar,
    done: PrepareProgress,
    lengths: Vec<u64>,
    writers: Vec<Written>,
}

/// What was done.
#[derive(Clone, Debug, Serialize)]
pub struct PrepareReport {
    /// What was read: each argument, a git repository or a dataset of the hub with its commit.
    pub data: Vec<String>,
    /// What was chosen of datasets of the hub, for people.
    pub notes: Vec<String>,
    /// What was read and skipped.
    pub source: SourceReport,
    /// Tokens for training, or all of them where nothing is held out.
    pub num_tokens: u64,
    /// What each argument gave to `num_tokens`.
    pub sources: Vec<SourceTokens>,
    /// Tokens held out.
    pub num_validation_tokens: u64,
    /// Tokens before chunks were cut: the difference was dropped.
    pub num_encoded_tokens: u64,
    /// Documents by their length in tokens: entry `i` counts those of `2^i` to `2^(i+1) - 1`, and 0 stands in the first.
    pub lengths: Vec<u64>,
    /// Documents that an earlier process had done, before it was stopped.
    pub num_resumed_documents: u64,
    /// Where the time went in this process.
    pub seconds: Seconds,
}

/// Seconds by stage. Writing goes on beside the other stages, so that together they are more than the time from begin to end.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Seconds {
    /// Finding near duplicates, all of it.
    pub near_duplicates: f64,
    /// Reading and decompressing, as far as it was waited for.
    pub read: f64,
    /// Parsing, filters, redaction and duplicates.
    pub filter: f64,
    /// Encoding.
    pub encode: f64,
    /// Writing, hashing and making durable.
    pub write: f64,
}

/// Reads `data` and writes shards to `out`, visible when they are whole. Until then they grow in a hidden folder beside it,
/// from which a later call with the same arguments goes on.
///
/// # Errors
/// If reading or writing fails, `out` holds something else, another process prepares it, no document is usable, or not one
/// token came out.
pub fn prepare(
    data: &[String],
    tokenizer: &Tokenizer,
    options: &PrepareOptions,
    out: &Path,
    progress: &mut dyn FnMut(&PrepareProgress),
) -> Result<PrepareReport, Error> {
    prepare_durably(data, tokenizer, options, out, DURABLE_TOKENS, progress)
}

/// [`prepare`], with the number of tokens after which what was done is made durable: a kill costs no more than so many and a
/// batch, and the bytes are the same.
///
/// # Errors
/// As [`prepare`].
pub fn prepare_durably(
    data: &[String],
    tokenizer: &Tokenizer,
    options: &PrepareOptions,
    out: &Path,
    durable_tokens: u64,
    progress: &mut dyn FnMut(&PrepareProgress),
) -> Result<PrepareReport, Error> {
    options.check()?;
    let parts: &[&str] = if options.validation_one_in.is_some() { &["train", "valid"] } else { &[""] };
    refuse_other_content(out, parts)?;
    let documents = Documents::open(data, &options.source)?;
    let plan = plan(data, tokenizer, options, &documents);
    let input = Input::new(tokenizer, options, documents)?;
    let work = WorkFolder::open(out, plan)?;
    let journal: Option<Journal> = work.read_journal(JOURNAL).filter(|_| work.shards().exists());
    let goes_on = journal.is_some() || near::has_begun(&work);
    let preparation = Preparation { data, options, parts, work: &work, durable_tokens };
    match preparation.run(input, journal, out, progress) {
        Ok(report) => {
            // What came there in the meantime is not ours to replace.
            refuse_other_content(out, parts)?;
            work.publish(out)?;
            Ok(report)
        }
        Err(Error::BadShards { .. } | Error::DamagedScratch { .. }) if goes_on => {
            // What was left to go on from is damaged: all of it is done again.
            work.discard()?;
            prepare_durably(data, tokenizer, options, out, durable_tokens, progress)
        }
        Err(error @ (Error::NoDocuments { .. } | Error::TooLittle { .. })) => {
            // Going on would end in the same place.
            work.discard()?;
            Err(error)
        }
        Err(error) => Err(error),
    }
}

impl PrepareOptions {
    fn check(&self) -> Result<(), Error> {
        let option = |name, found: String, expected| Err(Error::Option { name, found, expected });
        if self.context_length == 0 {
            return option("context_length", "0".into(), "a positive number");
        }
        if let Some(one_in @ ..2) = self.validation_one_in {
            return option("validation_one_in", one_in.to_string(), "a number from 2");
        }
        match &self.fim {
            Some(_) if self.mode == Mode::Chunk => {
                option("fim_rate", "in mode chunk".into(), "mode pack, which keeps documents whole")
            }
            Some(fim) => fim.check(),
            None => Ok(()),
        }
    }
}

/// Everything that decides the tokens, as a hash: sources with their sizes and times, options, tokenizer.
fn plan(data: &[String], tokenizer: &Tokenizer, options: &PrepareOptions, documents: &Documents) -> String {
    let options = serde_json::to_string(options).unwrap_or_default();
    let mut hasher = blake3::Hasher::new();
    let version = crate::shards::VERSION.to_string();
    for part in [env!("CARGO_PKG_VERSION"), &version, &options, &data.join("\0")] {
        hasher.update(&(part.len() as u64).to_le_bytes());
        hasher.update(part.as_bytes());
    }
    hasher.update(&tokenizer.fingerprint());
    hasher.update(&documents.stamp());
    hasher.finalize().to_hex().to_string()
}

/// Refuses an output folder that holds anything but what it held if this had been run before.
fn refuse_other_content(out: &Path, parts: &[&str]) -> Result<(), Error> {
    let Ok(entries) = std::fs::read_dir(out) else {
        return match out.exists() || out.is_symlink() {
            true => Err(Error::OutputInUse { path: out.to_owned() }),
            false => Ok(()),
        };
    };
    let entries: Vec<_> = entries.collect::<Result<_, _>>().map_err(Error::read(out))?;
    let is_part = |name: &std::ffi::OsStr| parts.iter().any(|part| name == *part);
    let is_replaceable = match parts {
        [""] => holds_only_shards(out),
        _ => entries.iter().all(|entry| is_part(&entry.file_name()) && holds_only_shards(&entry.path())),
    };
    match !out.is_symlink() && (entries.is_empty() || is_replaceable) {
        true => Ok(()),
        false => Err(Error::OutputInUse { path: out.to_owned() }),
    }
}

/// What all of a preparation needs.
struct Preparation<'a> {
    data: &'a [String],
    options: &'a PrepareOptions,
    /// Folders of the shards: of training data, then of what is held out.
    parts: &'a [&'a str],
    work: &'a WorkFolder,
    durable_tokens: u64,
}

impl Preparation<'_> {
    /// Does all of it, or what `journal` leaves to do; the shards are whole then, in their hidden folder.
    fn run(
        &self,
        mut input: Input<'_>,
        journal: Option<Journal>,
        out: &Path,
        progress: &mut dyn FnMut(&PrepareProgress),
    ) -> Result<PrepareReport, Error> {
        if journal.is_none() && !near::has_begun(self.work) {
            self.work.clear()?;
        }
        let mut seconds = Seconds::default();
        let mut among = None;
        if input.documents.seeks_near_duplicates() {
            let begun = Instant::now();
            let near = near::find(self.data, self.options, self.work, self.durable_tokens, progress)?;
            input.documents.skip_near(near.duplicates);
            among = Some(near.among);
            seconds.near_duplicates = begun.elapsed().as_secs_f64();
        }
        let mut output = match journal {
            Some(journal) => self.resume(&mut input, journal)?,
            None => self.begin(&mut input)?,
        };
        let mut batch = input.next()?;
        while !batch.is_empty() {
            let is_due = output.num_not_durable() + batch.num_tokens() >= self.durable_tokens;
            let so_far = is_due.then(|| input.documents.sync()).transpose()?;
            let (written, next) = rayon::join(|| output.take(&batch, so_far, self.work), || input.next());
            written?;
            progress(&output.done);
            batch = next?;
        }
        if among.is_some_and(|among| among != input.documents.new_documents()) {
            self.work.clear()?;
            return Err(Error::Changed { data: self.data.to_vec() });
        }
        self.finish(&input, output, seconds, out)
    }

    fn begin(&self, input: &mut Input<'_>) -> Result<Output<'_>, Error> {
        self.work.clear_tokens()?;
        input.documents.resume(&self.work.scratch(SEEN), None)?;
        Output::begin(self.options, input.tokenizer, input.documents.origins(), self.parts, self.work)
    }

    fn resume(&self, input: &mut Input<'_>, journal: Journal) -> Result<Output<'_>, Error> {
        let seen = self.work.scratch(SEEN);
        if !seen.exists() {
            let (expected, found) = ("hashes of documents".into(), "nothing".into());
            return Err(Error::BadShards { path: seen, what: "the folder".into(), expected, found });
        }
        input.documents.resume(&seen, Some(journal.documents.clone()))?;
        Output::resume(self.options, input.tokenizer, journal, self.parts, self.work)
    }

    /// Ends the files.
    fn finish(
        &self,
        input: &Input<'_>,
        output: Output<'_>,
        mut seconds: Seconds,
        out: &Path,
    ) -> Result<PrepareReport, Error> {
        let (done, lengths) = (output.done, output.lengths.clone());
        let Finished { num_tokens, sources, seconds: write } = output.finish(self.parts, out)?;
        (seconds.read, seconds.filter) = input.documents.seconds();
        (seconds.encode, seconds.write) = (input.seconds, write);
        Ok(PrepareReport {
            data: input.documents.origins().to_vec(),
            notes: input.documents.notes().to_vec(),
            source: input.documents.report().clone(),
            num_tokens: num_tokens[0],
            num_validation_tokens: num_tokens.get(1).copied().unwrap_or(0),
            sources: sources.into_iter().next().unwrap_or_default(),
            num_encoded_tokens: done.num_encoded_tokens,
            lengths,
            num_resumed_documents: done.num_resumed_documents,
            seconds,
        })
    }
}
