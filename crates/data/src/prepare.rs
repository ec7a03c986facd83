//! Documents to shards: encoded in parallel, batch by batch, written in order, so that the bytes do not depend on the
//! number of threads and memory is bounded.

use crate::error::Error;
use crate::report::SourceReport;
use crate::shards::{Mode, ShardsWriter};
use crate::source::{Document, Documents, SourceOptions};
use crate::split::is_validation;
use eyas_token::Tokenizer;
use rayon::prelude::*;
use serde::Serialize;
use std::path::Path;

/// Bytes of text that are encoded together.
const BATCH_BYTES: usize = 8 << 20;

/// How documents become shards.
#[derive(Clone, Debug)]
pub struct PrepareOptions {
    /// Chunks of each document, or one stream.
    pub mode: Mode,
    /// Length of the chunks; recorded in pack mode.
    pub context_length: usize,
    /// How sources are read. With `raw`, special tokens in the text become their ids, as Hugging Face does it.
    pub source: SourceOptions,
    /// Hold out one document in so many, by hash of its path: the output then has the folders `train` and `valid`.
    pub validation_one_in: Option<u64>,
}

/// What has been done so far.
#[derive(Clone, Copy, Debug, Default)]
pub struct PrepareProgress {
    /// Documents encoded.
    pub num_documents: u64,
    /// Their UTF-8 bytes.
    pub num_bytes: u64,
    /// Tokens written.
    pub num_tokens: u64,
}

/// What was done.
#[derive(Clone, Debug, Serialize)]
pub struct PrepareReport {
    /// What was read and skipped.
    pub source: SourceReport,
    /// Tokens for training, or all of them where nothing is held out.
    pub num_tokens: u64,
    /// Tokens held out.
    pub num_validation_tokens: u64,
    /// Tokens before chunks were cut: the difference was dropped.
    pub num_encoded_tokens: u64,
}

/// Reads `data` and writes shards to `out`, visible when they are whole.
///
/// # Errors
/// If reading or writing fails, `out` holds something else, no document is usable, or not one token came out.
pub fn prepare(
    data: &[String],
    tokenizer: &Tokenizer,
    options: &PrepareOptions,
    out: &Path,
    progress: &mut dyn FnMut(&PrepareProgress),
) -> Result<PrepareReport, Error> {
    if options.context_length == 0 {
        return Err(Error::Option {
            name: "context_length",
            found: "0".into(),
            expected: "a positive number",
        });
    }
    let split = options.validation_one_in;
    if split.is_some_and(|one_in| one_in < 2) {
        let found = split.unwrap_or(0).to_string();
        return Err(Error::Option { name: "validation_one_in", found, expected: "a number from 2" });
    }
    let mut documents = Documents::open(data, &options.source)?;
    let source = data.join(" ");
    let mut train = Output::create(
        &if split.is_some() { out.join("train") } else { out.to_owned() },
        tokenizer,
        options,
        &source,
    )?;
    let mut valid =
        split.map(|_| Output::create(&out.join("valid"), tokenizer, options, &source)).transpose()?;
    let mut done = PrepareProgress::default();
    let mut num_encoded_tokens = 0;
    loop {
        let batch = next_batch(&mut documents)?;
        if batch.is_empty() {
            break;
        }
        let encoded: Result<Vec<Vec<u32>>, Error> =
            batch.par_iter().map(|d| encode(tokenizer, &d.text, options)).collect();
        for (document, ids) in batch.iter().zip(encoded?) {
            let held_out = split.is_some_and(|one_in| is_validation(&document.path, one_in));
            let output = valid.as_mut().filter(|_| held_out).unwrap_or(&mut train);
            output.push(document, &ids)?;
            num_encoded_tokens += ids.len() as u64;
            done.num_documents += 1;
            done.num_bytes += document.text.len() as u64;
        }
        done.num_tokens = train.writer.num_tokens() + valid.as_ref().map_or(0, |v| v.writer.num_tokens());
        progress(&done);
    }
    let num_tokens = train.finish(options, out)?;
    let num_validation_tokens = valid.map(|v| v.finish(options, out)).transpose()?.unwrap_or(0);
    Ok(PrepareReport {
        source: documents.report().clone(),
        num_tokens,
        num_validation_tokens,
        num_encoded_tokens,
    })
}

fn next_batch(documents: &mut Documents) -> Result<Vec<Document>, Error> {
    let (mut batch, mut bytes) = (Vec::new(), 0);
    while bytes < BATCH_BYTES {
        let Some(document) = documents.next().transpose()? else { break };
        bytes += document.text.len();
        batch.push(document);
    }
    Ok(batch)
}

fn encode(tokenizer: &Tokenizer, text: &str, options: &PrepareOptions) -> Result<Vec<u32>, Error> {
    let mut ids = Vec::new();
    if options.source.raw {
        tokenizer.encode(text, &mut ids)?;
    } else {
        tokenizer.encode_ordinary(text, &mut ids)?;
    }
    Ok(ids)
}

/// One folder of shards being written.
struct Output {
    writer: ShardsWriter,
    mode: Mode,
    context_length: usize,
    end_of_text: Option<u32>,
}

impl Output {
    fn create(
        out: &Path,
        tokenizer: &Tokenizer,
        options: &PrepareOptions,
        source: &str,
    ) -> Result<Self, Error> {
        let PrepareOptions { mode, context_length, .. } = *options;
        let (vocab_size, fingerprint) = (tokenizer.vocab_size(), tokenizer.fingerprint());
        let end_of_text = tokenizer.end_of_text();
        if mode == Mode::Pack && end_of_text.is_none() {
            return Err(Error::NoEndOfText);
        }
        let mut writer = ShardsWriter::create(out, mode, context_length, vocab_size, fingerprint, source)?;
        if mode == Mode::Pack {
            writer.push(end_of_text.as_slice())?;
        }
        Ok(Output { writer, mode, context_length, end_of_text })
    }

    fn push(&mut self, document: &Document, ids: &[u32]) -> Result<(), Error> {
        self.writer.begin_document(&document.path, document.text.len() as u64)?;
        match self.mode {
            Mode::Chunk => self.writer.push(&ids[..ids.len() / self.context_length * self.context_length]),
            Mode::Pack => {
                self.writer.push(ids)?;
                self.writer.push(self.end_of_text.as_slice())
            }
        }
    }

    /// Makes the folder visible, unless there is nothing in it.
    fn finish(self, options: &PrepareOptions, out: &Path) -> Result<u64, Error> {
        let num_tokens = self.writer.num_tokens();
        let least = if options.mode == Mode::Pack { 2 } else { options.context_length as u64 };
        if num_tokens < least {
            return Err(Error::TooLittle { path: out.to_owned(), num_tokens, needed: least });
        }
        self.writer.finish()?;
        Ok(num_tokens)
    }
}
