//! The text that is measured with: one copy of the documents as rows on disk, then as many copies of it, compressed, as make
//! the size that was asked for.
//!
//! Memory does not depend on the size: documents pass one by one, and a row of the first copy begins with the bytes of its
//! text, so that nothing has to be parsed or remembered to know how much was written.

use super::scratch::Scratch;
use crate::commands::quickstart::Source;
use crate::errors::{Failure, Outcome};
use crate::format;
use crate::progress::Progress;
use eyas_data::{Documents, SourceOptions, SourceReport};
use serde_json::json;
use std::fs::File;
use std::io::{BufRead, BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};
use std::time::Instant;

/// Compression of the rows: zstd's default.
const LEVEL: i32 = 3;
/// Bytes that are read or written at once.
const BLOCK_BYTES: usize = 1 << 20;
/// Text that a tokenizer is trained on at most: as quickstart's.
const SAMPLE_BYTES: u64 = 40 << 20;

/// One copy of the documents, as rows.
pub(super) struct Rows {
    path: PathBuf,
    /// Bytes of text.
    pub(super) num_bytes: u64,
    /// The first documents' texts, if they were asked for.
    pub(super) sample: Vec<String>,
    /// What was read and skipped.
    pub(super) report: SourceReport,
}

impl Rows {
    /// Reads the documents of `source` as they are, up to `most_bytes` of text. Of a folder they come in the order of a
    /// hash, so that a part of it is a fair sample.
    pub(super) fn read(
        source: &Source,
        text_field: Option<&String>,
        scratch: &Scratch,
        most_bytes: u64,
        with_sample: bool,
    ) -> Outcome<Self> {
        let options = SourceOptions {
            raw: true,
            text_field: text_field.cloned(),
            hub: crate::hub::options(),
            ..SourceOptions::default()
        };
        let mut documents = Documents::open(&source.data, &options)?.spread(|name| source.has(name));
        let path = scratch.join("copy.jsonl");
        let failure = |error| Failure::io("write", &path, &error);
        let mut file = BufWriter::with_capacity(BLOCK_BYTES, File::create(&path).map_err(failure)?);
        let (mut num_bytes, mut sample) = (0, Vec::new());
        let mut progress = Progress::new("read");
        while num_bytes < most_bytes
            && let Some(document) = documents.next().transpose()?
        {
            let row = json!({ "path": document.path, "content": document.text });
            writeln!(file, "{}\t{row}", document.text.len()).map_err(failure)?;
            let is_sampled = with_sample && num_bytes < SAMPLE_BYTES;
            num_bytes += document.text.len() as u64;
            progress.set(num_bytes as f64 / most_bytes as f64, &format::bytes(num_bytes));
            if is_sampled {
                sample.push(document.text);
            }
        }
        file.flush().map_err(failure)?;
        if num_bytes == 0 {
            return Err(Failure::failed(format!("no text to measure with in {}", source.label))
                .hint("name other DATA"));
        }
        let report = documents.report().clone();
        drop(file);
        Ok(Rows { path, num_bytes, sample, report })
    }

    /// Writes the rows again and again, until `wanted_bytes` of text are there.
    pub(super) fn repeat(&self, wanted_bytes: u64, path: &Path) -> Outcome<Corpus> {
        let failure = |error| Failure::io("write", path, &error);
        let file = File::create(path).map_err(failure)?;
        let mut encoder = zstd::stream::write::Encoder::new(file, LEVEL).map_err(failure)?;
        let mut corpus = Corpus { path: path.into(), ..Corpus::default() };
        let mut progress = Progress::new("compress");
        while corpus.num_bytes < wanted_bytes {
            self.each_row(&mut |num_bytes, row| {
                if corpus.num_bytes >= wanted_bytes {
                    return Ok(false);
                }
                encoder.write_all(row).map_err(failure)?;
                corpus.num_documents += 1;
                corpus.num_bytes += num_bytes;
                let share = corpus.num_bytes as f64 / wanted_bytes as f64;
                progress.set(share, &format::bytes(corpus.num_bytes));
                Ok(true)
            })?;
        }
        corpus.num_copies = corpus.num_bytes as f64 / self.num_bytes as f64;
        // On the disk, so that writing it does not go on while something else is measured.
        let file = encoder.finish().map_err(failure)?;
        file.sync_all().map_err(failure)?;
        corpus.num_file_bytes = file.metadata().map_err(failure)?.len();
        Ok(corpus)
    }

    /// Hands over each row, with its line end, and the bytes of its text; until it is told that it was enough.
    fn each_row(&self, take: &mut dyn FnMut(u64, &[u8]) -> Outcome<bool>) -> Outcome {
        let failure = |error| Failure::io("read", &self.path, &error);
        let mut file = BufReader::with_capacity(BLOCK_BYTES, File::open(&self.path).map_err(failure)?);
        let mut line = Vec::new();
        loop {
            line.clear();
            if file.read_until(b'\n', &mut line).map_err(failure)? == 0 {
                return Ok(());
            }
            let damaged =
                || Failure::failed(format!("{} was changed by another program", self.path.display()));
            let tab = line.iter().position(|byte| *byte == b'\t').ok_or_else(damaged)?;
            let num_bytes = str::from_utf8(&line[..tab]).ok().and_then(|text| text.parse().ok());
            if !take(num_bytes.ok_or_else(damaged)?, &line[tab + 1..])? {
                return Ok(());
            }
        }
    }

    /// Removes it, and gives its room back.
    pub(super) fn remove(self) -> Outcome {
        std::fs::remove_file(&self.path).map_err(|error| Failure::io("remove", &self.path, &error))
    }
}

/// The rows that are prepared.
#[derive(Default)]
pub(super) struct Corpus {
    pub(super) path: PathBuf,
    /// How often it holds the documents that were read; of the last copy a part may be there.
    pub(super) num_copies: f64,
    pub(super) num_documents: u64,
    /// Bytes of text.
    pub(super) num_bytes: u64,
    /// Bytes of the compressed file.
    pub(super) num_file_bytes: u64,
}

impl Corpus {
    /// Seconds that decompression alone takes, on one thread.
    pub(super) fn read_through(&self) -> Outcome<f64> {
        let failure = |error| Failure::io("read", &self.path, &error);
        let begun = Instant::now();
        let file = File::open(&self.path).map_err(failure)?;
        let mut decoder = zstd::stream::read::Decoder::new(file).map_err(failure)?;
        let mut block = vec![0; BLOCK_BYTES];
        while decoder.read(&mut block).map_err(failure)? > 0 {}
        Ok(begun.elapsed().as_secs_f64())
    }
}
