//! Documents to shards: encoded in parallel, batch by batch, written in order, so that the bytes do not depend on the number of
//! threads and memory is bounded. Killed at any moment, the same call goes on from what was durable, and ends with the same
//! bytes.

mod near;
#[cfg(test)]
mod tests;
mod work;

use crate::error::Error;
use crate::fim::{Fim, FimTokens};
use crate::report::SourceReport;
use crate::shards::{Mode, ShardsWriter, Written, holds_only_shards, sync_folder};
use crate::source::{Document, Documents, NewDocuments, ReadSoFar, SourceOptions};
use crate::split::is_validation;
use eyas_token::Tokenizer;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use std::path::Path;
use std::time::Instant;
use work::{JOURNAL, SEEN, WorkFolder};

/// Tokens after which what was done is made durable: a second's work or two, and a quarter of a shard.
const DURABLE_TOKENS: u64 = 16 << 20;

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

/// Seconds by stage.
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

/// [`prepare`], with the number of tokens after which what was done is made durable.
fn prepare_durably(
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
    let preparation = Preparation::new(tokenizer, options, documents)?;
    let work = WorkFolder::open(out, plan)?;
    let journal: Option<Journal> = work.read_journal(JOURNAL).filter(|_| work.shards().exists());
    let goes_on = journal.is_some() || near::has_begun(&work);
    match preparation.run(data, parts, journal, &work, out, durable_tokens, progress) {
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
    for part in [env!("CARGO_PKG_VERSION"), &options, &data.join("\0")] {
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

/// A preparation under way.
struct Preparation<'a> {
    tokenizer: &'a Tokenizer,
    options: &'a PrepareOptions,
    end_of_text: Option<u32>,
    fim: Option<(Fim, FimTokens)>,
    documents: Documents,
    /// The documents among which near duplicates were sought, if they were.
    among: Option<NewDocuments>,
    /// Of training data, then of what is held out.
    writers: Vec<ShardsWriter>,
    done: PrepareProgress,
    lengths: Vec<u64>,
    seconds: Seconds,
}

impl<'a> Preparation<'a> {
    fn new(
        tokenizer: &'a Tokenizer,
        options: &'a PrepareOptions,
        documents: Documents,
    ) -> Result<Self, Error> {
        let end_of_text = tokenizer.end_of_text();
        if options.mode == Mode::Pack && end_of_text.is_none() {
            return Err(Error::NoEndOfText);
        }
        let fim = options.fim.map(|fim| FimTokens::of(tokenizer).map(|tokens| (fim, tokens))).transpose()?;
        Ok(Preparation {
            tokenizer,
            options,
            end_of_text,
            fim,
            documents,
            among: None,
            writers: Vec::new(),
            done: PrepareProgress::default(),
            lengths: Vec::new(),
            seconds: Seconds::default(),
        })
    }

    /// Does all of it, or what `journal` leaves to do; the shards are whole then, in their hidden folder.
    fn run(
        mut self,
        data: &[String],
        parts: &[&str],
        journal: Option<Journal>,
        work: &WorkFolder,
        out: &Path,
        durable_tokens: u64,
        progress: &mut dyn FnMut(&PrepareProgress),
    ) -> Result<PrepareReport, Error> {
        if journal.is_none() && !near::has_begun(work) {
            work.clear()?;
        }
        if self.documents.seeks_near_duplicates() {
            let begun = Instant::now();
            let near = near::find(data, self.options, work, durable_tokens, progress)?;
            self.documents.skip_near(near.duplicates);
            self.among = Some(near.among);
            self.seconds.near_duplicates = begun.elapsed().as_secs_f64();
        }
        match journal {
            Some(journal) => self.resume(parts, journal, work)?,
            None => self.begin(parts, work)?,
        }
        let mut durable = self.done.num_encoded_tokens;
        loop {
            let batch = self.documents.next_batch()?;
            if batch.is_empty() {
                break;
            }
            self.take(&batch)?;
            progress(&self.done);
            if self.done.num_encoded_tokens - durable >= durable_tokens {
                durable = self.done.num_encoded_tokens;
                self.make_durable(work)?;
            }
        }
        if self.among.is_some_and(|among| among != self.documents.new_documents()) {
            work.clear()?;
            return Err(Error::Changed { data: data.to_vec() });
        }
        self.finish(parts, out)
    }

    fn begin(&mut self, parts: &[&str], work: &WorkFolder) -> Result<(), Error> {
        work.clear_tokens()?;
        self.documents.resume(&work.scratch(SEEN), None)?;
        let (size, fingerprint) = (self.tokenizer.vocab_size(), self.tokenizer.fingerprint());
        let PrepareOptions { mode, context_length, .. } = *self.options;
        let source = self.documents.origins().join(" ");
        for part in parts {
            let folder = work.create_folder(part)?;
            let mut writer = ShardsWriter::create(&folder, mode, context_length, size, fingerprint, &source)?;
            if mode == Mode::Pack {
                writer.push(self.end_of_text.as_slice())?;
            }
            self.writers.push(writer);
        }
        Ok(())
    }

    fn resume(&mut self, parts: &[&str], journal: Journal, work: &WorkFolder) -> Result<(), Error> {
        let seen = work.scratch(SEEN);
        if !seen.exists() {
            let (expected, found) = ("hashes of documents".into(), "nothing".into());
            return Err(Error::BadShards { path: seen, what: "the folder".into(), expected, found });
        }
        for (part, written) in parts.iter().zip(journal.writers) {
            self.writers.push(ShardsWriter::resume(&work.shards().join(part), written)?);
        }
        self.documents.resume(&seen, Some(journal.documents))?;
        self.done = PrepareProgress { num_resumed_documents: journal.done.num_documents, ..journal.done };
        self.lengths = journal.lengths;
        Ok(())
    }

    /// Encodes a batch and writes it.
    fn take(&mut self, batch: &[Document]) -> Result<(), Error> {
        let begun = Instant::now();
        let encoded: Vec<Vec<u32>> =
            batch.par_iter().map(|document| self.encode(document)).collect::<Result<_, _>>()?;
        self.seconds.encode += begun.elapsed().as_secs_f64();
        let begun = Instant::now();
        for (document, ids) in batch.iter().zip(&encoded) {
            self.write(document, ids)?;
        }
        self.seconds.write += begun.elapsed().as_secs_f64();
        self.done.num_tokens = self.writers.iter().map(ShardsWriter::num_tokens).sum();
        Ok(())
    }

    fn encode(&self, document: &Document) -> Result<Vec<u32>, Error> {
        let mut ids = Vec::new();
        match self.fim {
            Some((fim, tokens)) => fim.encode(document, self.tokenizer, tokens, &mut ids)?,
            None if self.options.source.raw => self.tokenizer.encode(&document.text, &mut ids)?,
            None => self.tokenizer.encode_ordinary(&document.text, &mut ids)?,
        }
        Ok(ids)
    }

    fn write(&mut self, document: &Document, ids: &[u32]) -> Result<(), Error> {
        let split = self.options.validation_one_in;
        let held_out = split.is_some_and(|one_in| is_validation(&document.path, one_in));
        let writer = &mut self.writers[usize::from(held_out)];
        writer.begin_document(document)?;
        match self.options.mode {
            Mode::Chunk => {
                let length = self.options.context_length;
                writer.push(&ids[..ids.len() / length * length])?;
            }
            Mode::Pack => {
                writer.push(ids)?;
                writer.push(self.end_of_text.as_slice())?;
            }
        }
        let class = ids.len().checked_ilog2().unwrap_or(0) as usize;
        if self.lengths.len() <= class {
            self.lengths.resize(class + 1, 0);
        }
        self.lengths[class] += 1;
        self.done.num_encoded_tokens += ids.len() as u64;
        self.done.num_documents += 1;
        self.done.num_bytes += document.text.len() as u64;
        Ok(())
    }

    fn make_durable(&mut self, work: &WorkFolder) -> Result<(), Error> {
        let begun = Instant::now();
        let writers = self.writers.iter_mut().map(ShardsWriter::sync).collect::<Result<_, _>>()?;
        sync_folder(&work.shards())?;
        let documents = self.documents.sync()?;
        let lengths = self.lengths.clone();
        work.write_journal(JOURNAL, &Journal { documents, done: self.done, lengths, writers })?;
        self.seconds.write += begun.elapsed().as_secs_f64();
        Ok(())
    }

    /// Ends the files.
    fn finish(mut self, parts: &[&str], out: &Path) -> Result<PrepareReport, Error> {
        let begun = Instant::now();
        let least = if self.options.mode == Mode::Pack { 2 } else { self.options.context_length as u64 };
        let num_tokens: Vec<u64> = self.writers.iter().map(ShardsWriter::num_tokens).collect();
        let writers = std::mem::take(&mut self.writers);
        for ((writer, num_tokens), part) in writers.into_iter().zip(&num_tokens).zip(parts) {
            if *num_tokens < least {
                return Err(Error::TooLittle {
                    path: out.join(part),
                    num_tokens: *num_tokens,
                    needed: least,
                });
            }
            writer.finish()?;
        }
        let mut seconds = self.seconds;
        seconds.write += begun.elapsed().as_secs_f64();
        (seconds.read, seconds.filter) = self.documents.seconds();
        Ok(PrepareReport {
            data: self.documents.origins().to_vec(),
            notes: self.documents.notes().to_vec(),
            source: self.documents.report().clone(),
            num_tokens: num_tokens[0],
            num_validation_tokens: num_tokens.get(1).copied().unwrap_or(0),
            num_encoded_tokens: self.done.num_encoded_tokens,
            lengths: self.lengths,
            num_resumed_documents: self.done.num_resumed_documents,
            seconds,
        })
    }
}
