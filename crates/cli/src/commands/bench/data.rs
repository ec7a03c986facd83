//! `eyas bench data`: what `data prepare` takes, from compressed rows to shards on the disk.
//!
//! Nothing of the preparation is left out or kept from one copy of a document to the next: the rows lie in a file, and
//! `eyas_data::prepare` reads that file as it reads any other. Two things are kinder than a corpus of that size would be: the
//! file was just written, so as much of it as memory holds need not come from the disk, and the words of the first copy are
//! those of all, so the tokenizer's cache of words meets few new ones.
//!
//! Batches are written while the next are read, so that the stages together take more than the whole.

mod corpus;
mod scratch;

use super::training::peak_resident_bytes;
use crate::commands::data::num_bytes_below;
use crate::commands::quickstart::Source;
use crate::commands::source::tell;
use crate::commands::tokenizer;
use crate::errors::{Failure, Outcome};
use crate::format;
use crate::output::{Output, note};
use crate::progress::Progress;
use crate::threads::count_words;
use corpus::{Corpus, Rows};
use eyas_data::{Error, Filters, Mode, PrepareOptions, PrepareReport, SourceOptions, prepare};
use eyas_ops::available_threads;
use eyas_token::{Tokenizer, TrainOptions};
use scratch::Scratch;
use serde_json::{Map, Value, json};
use std::path::{Path, PathBuf};
use std::time::Instant;

/// Measure the preparation of data: reading, filters, redaction, encoding, writing
///
/// Reads DATA once, writes it as .jsonl.zst as often as makes the size asked for, and prepares that file as `data prepare`
/// does by default, in mode pack; but exact duplicates are kept, since all copies but one would be dropped. Rates are of
/// text, before filters. The peak beside the preparation is what decompression alone reaches on one thread.
#[derive(clap::Args)]
#[command(after_long_help = "\
With --near-duplicates one copy is prepared, of the size asked for at most, and near duplicates in it are sought and skipped.

Files go to a folder of their own in --scratch, which is removed at the end; they take up to twice the size asked for. A \
system's temporary folder may lie in memory: then name one on a disk. The peak of memory is that of the preparation where \
the system can say so (Linux).

Examples:
  eyas bench data                   5 GB of the Rust sources of the local cargo registry
  eyas bench data --tokenizer tokenizer --gigabytes 20 --scratch /data/tmp --json
  eyas bench data ~/src --near-duplicates")]
pub(crate) struct DataArgs {
    /// Documents, as everywhere: folders, source files, rows [default: the Rust sources of the local cargo registry]
    data: Vec<String>,

    /// Encode with this tokenizer [default: one of 8,192 tokens, trained on 40 MB of the data]
    #[arg(long, value_name = "DIR")]
    tokenizer: Option<PathBuf>,

    /// T: tokens of a sample
    #[arg(long, value_name = "T", default_value_t = 128, value_parser = clap::value_parser!(u32).range(1..))]
    context_length: u32,

    /// Text to prepare, in units of 1,000,000,000 bytes
    #[arg(long, value_name = "N", default_value_t = 5.0)]
    gigabytes: f64,

    /// Prepare one copy, and skip near duplicates
    #[arg(long)]
    near_duplicates: bool,

    /// Folder for temporary files [default: the system's]
    #[arg(long, value_name = "DIR")]
    scratch: Option<PathBuf>,

    /// Field of rows that holds the text [default: `content`, then `text`]
    #[arg(long, value_name = "NAME")]
    text_field: Option<String>,

    /// One JSON object a figure: name, value, unit, share_of_peak, peak, threads, spread; of the preparation more
    #[arg(long)]
    json: bool,
}

/// Tokens of the tokenizer that is trained: as quickstart's.
const VOCAB_SIZE: usize = 8192;
/// More is a mistake.
const MOST_GIGABYTES: f64 = 1e6;
/// Room that is needed beside the text: for small files, and what a disk rounds up.
const ROOM_BYTES: f64 = 64e6;

pub(super) fn run(args: &DataArgs) -> Outcome {
    if !(args.gigabytes > 0.0 && args.gigabytes <= MOST_GIGABYTES) {
        let message = format!("--gigabytes {}: expected a number above 0", args.gigabytes);
        return Err(Failure::usage(message));
    }
    let given = args.tokenizer.as_deref().map(open_tokenizer).transpose()?;
    let source = Source::find(&args.data)?;
    let wanted_bytes = (1e9 * args.gigabytes).ceil();
    // At first a copy of the rows and the same compressed, then that and the shards.
    let needed_bytes = 2.0 * wanted_bytes + ROOM_BYTES;
    let parent = args.scratch.clone().unwrap_or_else(std::env::temp_dir);
    let scratch = Scratch::create(&parent, needed_bytes as u64)?;

    note(format_args!("reading {}", source.label));
    let text_field = args.text_field.as_ref();
    let mut rows = Rows::read(&source, text_field, &scratch, wanted_bytes as u64, given.is_none())?;
    tell("read", &rows.report);
    let sample = std::mem::take(&mut rows.sample);
    let tokenizer = given.map_or_else(|| train_tokenizer(&sample), Ok)?;
    drop(sample);
    let repeated_bytes = if args.near_duplicates { rows.num_bytes } else { wanted_bytes as u64 };
    let corpus = rows.repeat(repeated_bytes, &scratch.join("corpus.jsonl.zst"))?;
    rows.remove()?;
    note(format_args!(
        "{} of text in {} documents, {:.2} copies; {} compressed",
        format::bytes(corpus.num_bytes),
        format::count(corpus.num_documents),
        corpus.num_copies,
        format::bytes(corpus.num_file_bytes)
    ));
    let reading_seconds = corpus.read_through()?;
    let prepared = Prepared::measure(args, &corpus, &tokenizer, &scratch.join("shards"))?;
    drop(scratch);
    let measured = Measured { corpus, reading_seconds, prepared, tokenizer };
    let mut output = Output::new();
    match args.json {
        true => measured.print_json(&mut output)?,
        false => measured.print(&mut output)?,
    }
    output.flush()
}

/// A tokenizer that documents can be packed with; one that cannot is refused before anything is read.
fn open_tokenizer(path: &Path) -> Outcome<Tokenizer> {
    let tokenizer = tokenizer::open(path)?;
    match tokenizer.end_of_text() {
        Some(_) => Ok(tokenizer),
        None => Err(Failure::from(Error::NoEndOfText).in_file(path)),
    }
}

fn train_tokenizer(sample: &[String]) -> Outcome<Tokenizer> {
    let counts = count_words(available_threads(), sample, |text| text)?;
    let text = format::bytes(counts.num_bytes());
    let options = TrainOptions { vocab_size: VOCAB_SIZE, ..TrainOptions::default() };
    let tokenizer = tokenizer::train_on(counts, &options)?;
    let num_tokens = format::count(tokenizer.vocab_size() as u64);
    note(format_args!("tokenizer: {num_tokens} tokens, trained on {text}"));
    Ok(tokenizer)
}

/// A preparation, and what it took.
struct Prepared {
    report: PrepareReport,
    has_sought_near: bool,
    /// The whole of it.
    seconds: f64,
    /// Of the shards and their indexes.
    num_bytes: u64,
    peak_resident_bytes: Option<u64>,
}

impl Prepared {
    fn measure(args: &DataArgs, corpus: &Corpus, tokenizer: &Tokenizer, out: &Path) -> Outcome<Self> {
        let filters = Filters {
            skip_duplicates: args.near_duplicates,
            skip_near_duplicates: args.near_duplicates,
            ..Filters::default()
        };
        // As `data prepare` has them.
        let source = SourceOptions { filters, with_licenses: true, ..SourceOptions::default() };
        let options = PrepareOptions {
            mode: Mode::Pack,
            context_length: args.context_length as usize,
            source,
            validation_one_in: None,
            fim: None,
        };
        let rows = corpus.path.display().to_string();
        let mut progress = Progress::new("prepare");
        forget_peak();
        let begun = Instant::now();
        let report = prepare(&[rows], tokenizer, &options, out, &mut |done| {
            let text = format::bytes(done.num_bytes);
            match done.is_seeking_duplicates {
                true => progress.tick(&format_args!("{text} read for near duplicates")),
                false => progress.set(done.num_bytes as f64 / corpus.num_bytes as f64, &text),
            }
        })?;
        let seconds = begun.elapsed().as_secs_f64();
        let peak_resident_bytes = peak_resident_bytes();
        let num_bytes = num_bytes_below(out)?;
        let has_sought_near = args.near_duplicates;
        Ok(Prepared { report, has_sought_near, seconds, num_bytes, peak_resident_bytes })
    }

    /// Each stage and its seconds, by the names that `data prepare --json` gives them, and what no stage took.
    fn stages(&self) -> Vec<(String, f64)> {
        let stages = serde_json::to_value(self.report.seconds).unwrap_or_default();
        let stages = stages.as_object().into_iter().flatten();
        let mut stages: Vec<(String, f64)> =
            stages.filter_map(|(name, seconds)| Some((name.clone(), seconds.as_f64()?))).collect();
        stages.retain(|(_, seconds)| *seconds > 0.0);
        let rest = self.seconds - stages.iter().map(|stage| stage.1).sum::<f64>();
        if rest > 0.0 {
            stages.push(("rest".into(), rest));
        }
        stages
    }
}

/// From now on the peak of memory is that of what comes. Where the system does not do that it stays that of the process.
fn forget_peak() {
    let _ = std::fs::write("/proc/self/clear_refs", "5");
}

/// All that is printed.
struct Measured {
    corpus: Corpus,
    /// Of decompression alone.
    reading_seconds: f64,
    prepared: Prepared,
    tokenizer: Tokenizer,
}

impl Measured {
    fn name(&self) -> &'static str {
        match self.prepared.has_sought_near {
            true => "data prepare, near duplicates skipped",
            false => "data prepare",
        }
    }

    /// Megabytes of text a second.
    fn rate(&self, seconds: f64) -> f64 {
        self.corpus.num_bytes as f64 / seconds / 1e6
    }

    fn num_tokens(&self) -> u64 {
        self.prepared.report.num_tokens
    }

    fn print(&self, output: &mut Output) -> Outcome {
        let Prepared { report, seconds, num_bytes, .. } = &self.prepared;
        let (rate, peak) = (self.rate(*seconds), self.rate(self.reading_seconds));
        output.line(format_args!("{:<40} {peak:>8.1} MB/s (threads: 1)", "decompression alone"))?;
        output.line(format_args!(
            "{:<40} {rate:>8.1} MB/s (threads: {}), {} of that, {seconds:.1} s",
            self.name(),
            available_threads(),
            format::percent(rate / peak)
        ))?;
        for (stage, took) in self.prepared.stages() {
            let (name, share) = (stage.replace('_', " "), format::percent(took / seconds));
            output.line(format_args!("  {name:<38} {took:>8.1} s    {share:>7}"))?;
        }
        let (tokens, source) = (self.num_tokens().max(1) as f64, &report.source);
        output.line(format_args!(
            "taken        {} of {} documents, {} of {}",
            format::count(source.num_documents),
            format::count(self.corpus.num_documents),
            format::bytes(source.num_bytes),
            format::bytes(self.corpus.num_bytes)
        ))?;
        output.line(format_args!(
            "tokens       {}, {:.2} bytes of text each, {:.2} bytes on disk, {} in the vocabulary",
            format::count(self.num_tokens()),
            source.num_bytes as f64 / tokens,
            *num_bytes as f64 / tokens,
            format::count(self.tokenizer.vocab_size() as u64)
        ))?;
        if let Some(bytes) = self.prepared.peak_resident_bytes {
            output.line(format_args!("peak memory  {}", eyas_train::format::binary_bytes(bytes)))?;
        }
        output.line(format_args!(
            "rows         {} compressed, {:.2} copies",
            format::bytes(self.corpus.num_file_bytes),
            self.corpus.num_copies
        ))
    }

    fn print_json(&self, output: &mut Output) -> Outcome {
        let Prepared { report, seconds, num_bytes, .. } = &self.prepared;
        let (rate, peak) = (self.rate(*seconds), self.rate(self.reading_seconds));
        output.json(&json!({
            "name": "decompression alone", "value": peak, "unit": "MB/s", "share_of_peak": 1.0, "peak": peak,
            "threads": 1, "spread": 0.0, "seconds": self.reading_seconds,
        }))?;
        let share = |(name, took): (String, f64)| (name, json!({"seconds": took, "share": took / seconds}));
        let stages: Map<String, Value> = self.prepared.stages().into_iter().map(share).collect();
        let (tokens, source) = (self.num_tokens().max(1) as f64, &report.source);
        output.json(&json!({
            "name": self.name(), "value": rate, "unit": "MB/s", "share_of_peak": rate / peak, "peak": peak,
            "threads": available_threads(), "spread": 0.0, "seconds": seconds,
            "stages": stages,
            "num_documents": self.corpus.num_documents,
            "num_bytes": self.corpus.num_bytes,
            "num_copies": self.corpus.num_copies,
            "compressed_bytes": self.corpus.num_file_bytes,
            "num_taken_documents": source.num_documents,
            "num_taken_bytes": source.num_bytes,
            "num_tokens": self.num_tokens(),
            "vocab_size": self.tokenizer.vocab_size(),
            "text_bytes_per_token": source.num_bytes as f64 / tokens,
            "disk_bytes_per_token": *num_bytes as f64 / tokens,
            "peak_resident_bytes": self.prepared.peak_resident_bytes,
        }))
    }
}
