//! `eyas tokenizer train`: a vocabulary from documents.

use super::super::source::{SourceArgs, tell, with_data_help};
use super::report;
use crate::errors::{Failure, Outcome};
use crate::format;
use crate::output::{Output, note};
use crate::progress::Progress;
use eyas_data::{Document, Documents};
use eyas_token::{END_OF_TEXT, MemoryLimit, Splitter, Stage, Tokenizer, TrainOptions, Trained, WordCounts};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::Instant;

/// Train a byte-level BPE tokenizer, as GPT-2's, on code
///
/// Writes tokenizer.json, tokenizer_config.json and special_tokens_map.json, which Hugging Face transformers opens.
/// Memory follows the number of distinct words. Past --max-memory, words and their places go to disk and the result
/// is the same; finding merges there takes several times as long.
#[derive(clap::Args)]
#[command(after_long_help = with_data_help("\
Examples:
  eyas tokenizer train ~/src/my-project --vocab-size 8192 --out tokenizer
  eyas tokenizer train 'data/*.jsonl' --vocab-size 50000 --fim --max-memory 2GiB --out tokenizer"))]
pub(crate) struct TrainArgs {
    /// What to learn from
    #[arg(required = true)]
    data: Vec<String>,

    /// Tokens in all: special tokens, the 256 bytes, and merges
    #[arg(long, value_name = "N", default_value_t = 50_000)]
    vocab_size: usize,

    /// Folder to write
    #[arg(long, value_name = "DIR")]
    out: PathBuf,

    /// Token that never comes from text; may be repeated, ids in the order given [default: <|endoftext|>]
    #[arg(long = "special-token", value_name = "TOKEN")]
    special_tokens: Vec<String>,

    /// Make one like this: its way to cut text and its special tokens, then those given here. A folder with
    /// tokenizer.json, or a tokenizer.json
    #[arg(long, value_name = "TOKENIZER")]
    from: Option<PathBuf>,

    /// Special tokens for fill-in-the-middle, ids first: <|endoftext|>, <fim_prefix>, <fim_suffix>, <fim_middle>,
    /// <fim_pad>, <repo_name>, <file_sep>
    #[arg(long)]
    fim: bool,

    /// Do not merge pairs that occur less often
    #[arg(long, value_name = "N", default_value_t = 0)]
    min_frequency: u64,

    /// The most memory to use, such as 2GiB or 500MB; beyond it temporary files are used; at least 256 MiB [default: half of the machine's memory]
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    max_memory: Option<u64>,

    /// Where temporary files go, which have no name and vanish with the process [default: the folder --out is in]
    #[arg(long, value_name = "DIR")]
    temp_dir: Option<PathBuf>,

    /// Print the report as a JSON object on stdout
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    source: SourceArgs,
}

/// The tokens that --fim adds, in the order of their ids.
const FIM: [&str; 7] =
    [END_OF_TEXT, "<fim_prefix>", "<fim_suffix>", "<fim_middle>", "<fim_pad>", "<repo_name>", "<file_sep>"];

/// Less is not accepted: what reads documents needs memory as well.
const LEAST_MEMORY: u64 = 256 << 20;

pub(super) fn run(args: TrainArgs) -> Outcome {
    let limit = memory_limit(&args)?;
    let from = args.from.as_deref().map(Tokenizer::load).transpose()?;
    let options = TrainOptions {
        vocab_size: args.vocab_size,
        special_tokens: special_tokens(&args, from.as_ref()),
        min_frequency: args.min_frequency,
        limit: Some(limit.clone()),
        from,
    };
    // Before anything is read.
    options.check()?;
    let splitter = options.from.as_ref().and_then(|from| from.splitter()).cloned().unwrap_or_default();
    let mut documents = Documents::open(&args.data, &args.source.options()?)?;
    let counts = count_words(&mut documents, &splitter, &limit)?;
    tell("read", documents.report());
    drop(documents);
    let (num_runs, num_bytes) = counts.spilled();
    if num_runs > 0 {
        note(format_args!("spilled {num_runs} sorted runs of words, {}", format::bytes(num_bytes)));
    }
    let trained = train_with_progress(counts, &options)?;
    if trained.num_file_bytes > 0 {
        note(format_args!("merged in temporary files of {}", format::bytes(trained.num_file_bytes)));
    }
    trained.tokenizer.save(&args.out)?;
    note(report::Shown(&trained.report));
    note(format_args!(
        "saved {} tokens to {}",
        format::count(trained.tokenizer.vocab_size() as u64),
        args.out.display()
    ));
    if args.json {
        let mut output = Output::new();
        output.json(&trained.report)?;
        output.flush()?;
    }
    Ok(())
}

/// What is asked for, without what `from` has already.
fn special_tokens(args: &TrainArgs, from: Option<&Tokenizer>) -> Vec<String> {
    let mut tokens: Vec<String> = match args.fim {
        true => FIM.map(String::from).into(),
        false if args.special_tokens.is_empty() && from.is_none() => vec![END_OF_TEXT.into()],
        false => Vec::new(),
    };
    let more: Vec<String> =
        args.special_tokens.iter().filter(|token| !(args.fim && tokens.contains(token))).cloned().collect();
    tokens.extend(more);
    let has = |from: &Tokenizer, token: &str| from.token_to_id(token).is_some_and(|id| from.is_special(id));
    tokens.retain(|token| !from.is_some_and(|from| has(from, token)));
    tokens
}

/// `500MB`, `2GiB`, `1.5g` or a number of bytes.
fn parse_size(text: &str) -> Result<u64, String> {
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let scale = match unit.trim().to_ascii_lowercase().as_str() {
        "" | "b" => 1.0,
        "k" | "kb" => 1e3,
        "m" | "mb" => 1e6,
        "g" | "gb" => 1e9,
        "t" | "tb" => 1e12,
        "kib" => 1024.0,
        "mib" => f64::from(1 << 20),
        "gib" => f64::from(1 << 30),
        "tib" => 1024.0 * f64::from(1 << 30),
        _ => return Err("expected a size such as 2GiB, 500MB or 1073741824".into()),
    };
    let number: f64 = number.parse().map_err(|_| "expected a number before the unit, such as 2GiB")?;
    let size = (number * scale) as u64;
    if size < LEAST_MEMORY {
        return Err(format!("expected at least {} MiB", LEAST_MEMORY >> 20));
    }
    Ok(size)
}

fn memory_limit(args: &TrainArgs) -> Outcome<MemoryLimit> {
    let max_bytes = args.max_memory.unwrap_or_else(|| (machine_memory() / 2).max(LEAST_MEMORY));
    let folder = match &args.temp_dir {
        Some(folder) => folder.clone(),
        None => existing_parent(&args.out)?,
    };
    if !folder.is_dir() {
        return Err(Failure::usage(format!("--temp-dir {}: no such folder", folder.display()))
            .hint("temporary files need a folder on a disk with room"));
    }
    Ok(MemoryLimit { max_bytes, folder })
}

/// The memory of the machine or of the container, whichever is less; 8 GiB where the system does not tell.
fn machine_memory() -> u64 {
    let read = |path| std::fs::read_to_string(path).ok();
    let machine = read("/proc/meminfo").and_then(|text| {
        let kib: u64 = text
            .lines()
            .find_map(|line| line.strip_prefix("MemTotal:"))?
            .split_whitespace()
            .next()?
            .parse()
            .ok()?;
        Some(kib << 10)
    });
    let container = read("/sys/fs/cgroup/memory.max").and_then(|text| text.trim().parse().ok());
    machine.into_iter().chain(container).min().unwrap_or(8 << 30)
}

/// The nearest folder above `out` that exists.
fn existing_parent(out: &Path) -> Outcome<PathBuf> {
    let out = std::path::absolute(out).map_err(|error| Failure::io("find", out, &error))?;
    let parent = out.ancestors().skip(1).find(|folder| folder.is_dir());
    Ok(parent.unwrap_or(Path::new("/")).to_path_buf())
}

/// Trains, with progress.
pub(crate) fn train_on(counts: WordCounts, options: &TrainOptions) -> Outcome<Tokenizer> {
    Ok(train_with_progress(counts, options)?.tokenizer)
}

fn train_with_progress(counts: WordCounts, options: &TrainOptions) -> Outcome<Trained> {
    let mut progress = Progress::new("tokenizer");
    let trained = eyas_token::train_and_report(counts, options, &mut |stage| match stage {
        Stage::Words(done) => progress.tick(&format_args!("{} distinct words", format::count(done))),
        Stage::Merges { done, wanted } => {
            let message =
                format!("{} of {} merges", format::count(done as u64), format::count(wanted as u64));
            progress.set(done as f64 / wanted.max(1) as f64, &message);
        }
    })?;
    drop(progress);
    if trained.tokenizer.vocab_size() < options.vocab_size {
        let (got, asked) =
            (format::count(trained.tokenizer.vocab_size() as u64), format::count(options.vocab_size as u64));
        crate::output::warn(format_args!(
            "only {got} tokens of {asked}: the data have no more pairs to merge"
        ));
    }
    Ok(trained)
}

/// Documents that go to a counting thread at once.
const BATCH: usize = 64;
/// Text that goes to a counting thread at once, at the least: large documents go in smaller batches.
const BATCH_BYTES: usize = 1 << 20;

/// Counts the words of documents on all cores, with progress.
fn count_words(documents: &mut Documents, splitter: &Splitter, limit: &MemoryLimit) -> Outcome<WordCounts> {
    let num_threads = eyas_ops::available_threads();
    let (sender, receiver) = sync_channel::<Vec<Document>>(2 * num_threads);
    let receiver = Mutex::new(receiver);
    let state = State { num_runs: AtomicUsize::new(0), has_failed: AtomicBool::new(false) };
    let (mut progress, start) = (Progress::new("read"), Instant::now());
    std::thread::scope(|scope| {
        let count = || {
            count_batches(&receiver, WordCounts::with_splitter(splitter).limited(limit, num_threads), &state)
        };
        let workers: Vec<_> = (0..num_threads).map(|_| scope.spawn(count)).collect();
        let (mut batch, mut batch_bytes) = (Vec::with_capacity(BATCH), 0);
        let sent = loop {
            if state.has_failed.load(Ordering::Relaxed) {
                break Ok(());
            }
            match documents.next() {
                Some(Ok(document)) => {
                    batch_bytes += document.text.len();
                    batch.push(document);
                }
                Some(Err(error)) => break Err(Failure::from(error)),
                None => break Ok(()),
            }
            if batch.len() == BATCH || batch_bytes >= BATCH_BYTES {
                // The workers end only after the sender has.
                let _ = sender.send(std::mem::replace(&mut batch, Vec::with_capacity(BATCH)));
                batch_bytes = 0;
                progress.tick(&reading(documents, start, &state));
            }
        };
        let _ = sender.send(batch);
        drop(sender);
        let mut all = WordCounts::with_splitter(splitter);
        for worker in workers {
            match worker.join() {
                Ok(counts) => all.merge(counts),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        sent?;
        all.check()?;
        Ok(all)
    })
}

/// What counting threads tell.
struct State {
    num_runs: AtomicUsize,
    has_failed: AtomicBool,
}

fn reading(documents: &Documents, start: Instant, state: &State) -> String {
    let report = documents.report();
    let rate = (report.num_bytes as f64 / start.elapsed().as_secs_f64()) as u64;
    let mut message = format!(
        "{} documents, {}, {}/s",
        format::count(report.num_documents),
        format::bytes(report.num_bytes),
        format::bytes(rate)
    );
    let num_runs = state.num_runs.load(Ordering::Relaxed);
    if num_runs > 0 {
        message.push_str(&format!(", {num_runs} runs spilled"));
    }
    message
}

fn count_batches(
    receiver: &Mutex<Receiver<Vec<Document>>>,
    mut counts: WordCounts,
    state: &State,
) -> WordCounts {
    let mut num_runs = 0;
    loop {
        let batch = receiver.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).recv();
        let Ok(batch) = batch else {
            counts.seal();
            return counts;
        };
        batch.iter().for_each(|document| counts.add(&document.text));
        let spilled = counts.spilled().0;
        state.num_runs.fetch_add(spilled - num_runs, Ordering::Relaxed);
        num_runs = spilled;
        if counts.has_failed() {
            state.has_failed.store(true, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        for (text, size) in
            [("2GiB", 2 << 30), ("500MB", 500_000_000), ("1.5g", 1_500_000_000), ("300000000", 300_000_000)]
        {
            assert_eq!(parse_size(text), Ok(size), "{text}");
        }
        for text in ["", "GiB", "2 parsecs", "-1GB", "10MB", "1.2.3GB"] {
            assert!(parse_size(text).is_err(), "{text}");
        }
    }
}
