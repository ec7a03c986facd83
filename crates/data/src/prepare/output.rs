//! From ids to shards in the hidden folder, in the order of documents, and to what is durable of them.

use super::input::Batch;
use super::work::{JOURNAL, WorkFolder};
use super::{Journal, PrepareOptions, PrepareProgress};
use crate::error::Error;
use crate::shards::{Mode, ShardsWriter, SourceTokens, sync_folder};
use crate::source::{Document, ReadSoFar};
use crate::split::is_validation;
use eyas_token::Tokenizer;
use std::path::Path;
use std::time::Instant;

/// Shards that grow.
pub(super) struct Output<'a> {
    pub(super) done: PrepareProgress,
    /// Documents by the logarithm of their length.
    pub(super) lengths: Vec<u64>,
    options: &'a PrepareOptions,
    end_of_text: Option<u32>,
    /// Of training data, then of what is held out.
    writers: Vec<ShardsWriter>,
    /// Encoded tokens that are durable.
    num_durable: u64,
    /// Seconds that writing took.
    seconds: f64,
}

/// What came out.
pub(super) struct Finished {
    /// Tokens of each part.
    pub(super) num_tokens: Vec<u64>,
    /// What the arguments gave to each part.
    pub(super) sources: Vec<Vec<SourceTokens>>,
    /// Seconds that writing took.
    pub(super) seconds: f64,
}

impl<'a> Output<'a> {
    /// Creates the folders `parts` of shards.
    ///
    /// # Errors
    /// If they cannot be written.
    pub(super) fn begin(
        options: &'a PrepareOptions,
        tokenizer: &Tokenizer,
        origins: &[String],
        parts: &[&str],
        work: &WorkFolder,
    ) -> Result<Self, Error> {
        let mut output = Output::with(options, tokenizer, PrepareProgress::default(), Vec::new());
        let (size, fingerprint) = (tokenizer.vocab_size(), tokenizer.fingerprint());
        let PrepareOptions { mode, context_length, .. } = *options;
        for part in parts {
            let folder = work.create_folder(part)?;
            let mut writer = ShardsWriter::create(&folder, mode, context_length, size, fingerprint, origins)?;
            if mode == Mode::Pack {
                writer.push(output.end_of_text.as_slice())?;
            }
            output.writers.push(writer);
        }
        Ok(output)
    }

    /// Goes on behind what `journal` tells of.
    ///
    /// # Errors
    /// If files are not what it tells, or cannot be written.
    pub(super) fn resume(
        options: &'a PrepareOptions,
        tokenizer: &Tokenizer,
        journal: Journal,
        parts: &[&str],
        work: &WorkFolder,
    ) -> Result<Self, Error> {
        let done = PrepareProgress { num_resumed_documents: journal.done.num_documents, ..journal.done };
        let mut output = Output::with(options, tokenizer, done, journal.lengths);
        for (part, written) in parts.iter().zip(journal.writers) {
            output.writers.push(ShardsWriter::resume(&work.shards().join(part), written)?);
        }
        Ok(output)
    }

    fn with(
        options: &'a PrepareOptions,
        tokenizer: &Tokenizer,
        done: PrepareProgress,
        lengths: Vec<u64>,
    ) -> Self {
        let (end_of_text, num_durable) = (tokenizer.end_of_text(), done.num_encoded_tokens);
        Output { done, lengths, options, end_of_text, writers: Vec::new(), num_durable, seconds: 0.0 }
    }

    /// Tokens that would be lost now.
    pub(super) fn num_not_durable(&self) -> u64 {
        self.done.num_encoded_tokens - self.num_durable
    }

    /// Writes a batch. Where it is told how far reading was behind that batch, makes all of it durable.
    ///
    /// # Errors
    /// If writing fails.
    pub(super) fn take(
        &mut self,
        batch: &Batch,
        so_far: Option<ReadSoFar>,
        work: &WorkFolder,
    ) -> Result<(), Error> {
        let begun = Instant::now();
        for (document, ids) in batch.documents.iter().zip(&batch.ids) {
            self.write(document, ids)?;
        }
        self.done.num_tokens = self.writers.iter().map(ShardsWriter::num_tokens).sum();
        so_far.map_or(Ok(()), |so_far| self.make_durable(so_far, work))?;
        self.seconds += begun.elapsed().as_secs_f64();
        Ok(())
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

    fn make_durable(&mut self, documents: ReadSoFar, work: &WorkFolder) -> Result<(), Error> {
        let writers = self.writers.iter_mut().map(ShardsWriter::sync).collect::<Result<_, _>>()?;
        sync_folder(&work.shards())?;
        let lengths = self.lengths.clone();
        work.write_journal(JOURNAL, &Journal { documents, done: self.done, lengths, writers })?;
        self.num_durable = self.done.num_encoded_tokens;
        Ok(())
    }

    /// Ends the files.
    ///
    /// # Errors
    /// If writing fails, or a part has not one sample.
    pub(super) fn finish(self, parts: &[&str], out: &Path) -> Result<Finished, Error> {
        let begun = Instant::now();
        let least = if self.options.mode == Mode::Pack { 2 } else { self.options.context_length as u64 };
        let num_tokens: Vec<u64> = self.writers.iter().map(ShardsWriter::num_tokens).collect();
        let mut sources = Vec::new();
        for ((writer, num_tokens), part) in self.writers.into_iter().zip(&num_tokens).zip(parts) {
            if *num_tokens < least {
                return Err(Error::TooLittle {
                    path: out.join(part),
                    num_tokens: *num_tokens,
                    needed: least,
                });
            }
            sources.push(writer.finish()?);
        }
        Ok(Finished { num_tokens, sources, seconds: self.seconds + begun.elapsed().as_secs_f64() })
    }
}
