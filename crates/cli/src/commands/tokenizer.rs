//! `eyas tokenizer train|encode|decode`.

use super::source::{SourceArgs, tell, with_data_help};
use crate::errors::{Failure, Outcome};
use crate::format;
use crate::output::{Output, note};
use crate::progress::Progress;
use eyas_data::{Document, Documents};
use eyas_token::{Tokenizer, TrainOptions, WordCounts};
use std::fs::File;
use std::io::{BufRead, BufReader, stdin};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::mpsc::{Receiver, sync_channel};

/// Train a tokenizer, turn text into ids and back
#[derive(clap::Subcommand)]
pub(crate) enum Command {
    Train(TrainArgs),
    Encode(EncodeArgs),
    Decode(DecodeArgs),
}

/// Train a byte-level BPE tokenizer, as GPT-2's, on code
///
/// Writes tokenizer.json, tokenizer_config.json and special_tokens_map.json, which Hugging Face transformers opens.
#[derive(clap::Args)]
#[command(after_long_help = with_data_help("\
Examples:
  eyas tokenizer train ~/src/my-project --vocab-size 8192 --out tokenizer
  eyas tokenizer train 'data/*.jsonl' --vocab-size 50000 --out tokenizer"))]
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

    /// Token that never comes from text; may be repeated, ids in the order given
    #[arg(long = "special-token", value_name = "TOKEN", default_value = eyas_token::END_OF_TEXT)]
    special_tokens: Vec<String>,

    /// Do not merge pairs that occur less often
    #[arg(long, value_name = "N", default_value_t = 0)]
    min_frequency: u64,

    #[command(flatten)]
    source: SourceArgs,
}

/// Turn text into ids: one JSON array a document
///
/// A document is a FILE, the whole of stdin, or with --jsonl a line's text field. `<|endoftext|>` in the text becomes
/// its id, as in Hugging Face tokenizers.
#[derive(clap::Args)]
#[command(after_long_help = "\
Examples:
  eyas tokenizer encode --tokenizer DIR < main.rs
  eyas tokenizer encode --tokenizer DIR src/*.rs
  eyas tokenizer encode --tokenizer DIR --jsonl train.jsonl > ids.jsonl")]
pub(crate) struct EncodeArgs {
    /// Folder with tokenizer.json (or vocab.json and merges.txt), or a tokenizer.json
    #[arg(long, value_name = "DIR")]
    tokenizer: PathBuf,

    /// Files to encode [default: stdin]
    files: Vec<PathBuf>,

    /// The input is JSON lines: encode the text field of each
    #[arg(long)]
    jsonl: bool,

    /// Field of the text, with --jsonl [default: `content`, then `text`]
    #[arg(long, value_name = "NAME", requires = "jsonl")]
    text_field: Option<String>,
}

/// Turn ids into text: the reverse of encode
///
/// Reads JSON arrays of ids, one a line, and writes the bytes they stand for, with nothing between documents.
#[derive(clap::Args)]
#[command(after_long_help = "\
Examples:
  echo '[15, 270, 3]' | eyas tokenizer decode --tokenizer DIR
  eyas tokenizer encode --tokenizer DIR < main.rs | eyas tokenizer decode --tokenizer DIR | diff - main.rs")]
pub(crate) struct DecodeArgs {
    /// Folder with tokenizer.json (or vocab.json and merges.txt), or a tokenizer.json
    #[arg(long, value_name = "DIR")]
    tokenizer: PathBuf,

    /// Files with ids [default: stdin]
    files: Vec<PathBuf>,

    /// Write JSON lines, one document each, in the field `content`
    #[arg(long)]
    jsonl: bool,
}

pub(crate) fn run(command: Command) -> Outcome {
    match command {
        Command::Train(args) => train(args),
        Command::Encode(args) => encode(&args),
        Command::Decode(args) => decode(&args),
    }
}

fn train(args: TrainArgs) -> Outcome {
    let options = TrainOptions {
        vocab_size: args.vocab_size,
        special_tokens: args.special_tokens,
        min_frequency: args.min_frequency,
    };
    check(&options)?;
    let mut documents = Documents::open(&args.data, &args.source.options())?;
    let mut progress = Progress::new("read");
    let counts = count_words(&mut documents, &mut |num_documents, num_bytes| {
        progress.tick(&format_args!(
            "{} documents, {}",
            format::count(num_documents),
            format::bytes(num_bytes)
        ));
    })?;
    drop(progress);
    tell("read", documents.report());
    let tokenizer = train_on(counts, &options)?;
    tokenizer.save(&args.out)?;
    note(format_args!(
        "saved {} tokens to {}",
        format::count(tokenizer.vocab_size() as u64),
        args.out.display()
    ));
    Ok(())
}

/// Refuses options that training would refuse, before anything is read.
fn check(options: &TrainOptions) -> Outcome {
    let smallest = TrainOptions {
        vocab_size: options.vocab_size.min(options.special_tokens.len() + 256),
        ..options.clone()
    };
    eyas_token::train(WordCounts::new(), &smallest, &mut |_, _| {})?;
    Ok(())
}

/// Trains, with progress.
pub(crate) fn train_on(counts: WordCounts, options: &TrainOptions) -> Outcome<Tokenizer> {
    let mut progress = Progress::new("tokenizer");
    let tokenizer = eyas_token::train(counts, options, &mut |done, wanted| {
        let message = format!("{} of {} merges", format::count(done as u64), format::count(wanted as u64));
        progress.set(done as f64 / wanted.max(1) as f64, &message);
    })?;
    drop(progress);
    if tokenizer.vocab_size() < options.vocab_size {
        let (got, asked) =
            (format::count(tokenizer.vocab_size() as u64), format::count(options.vocab_size as u64));
        crate::output::warn(format_args!(
            "only {got} tokens of {asked}: the data have no more pairs to merge"
        ));
    }
    Ok(tokenizer)
}

/// Documents that go to a counting thread at once.
const BATCH: usize = 64;

/// Counts the words of documents on all cores. `progress` gets documents and bytes read so far.
pub(crate) fn count_words(
    documents: &mut Documents,
    progress: &mut dyn FnMut(u64, u64),
) -> Outcome<WordCounts> {
    let num_threads = eyas_ops::available_threads();
    let (sender, receiver) = sync_channel::<Vec<Document>>(2 * num_threads);
    let receiver = Mutex::new(receiver);
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..num_threads).map(|_| scope.spawn(|| count_batches(&receiver))).collect();
        let mut batch = Vec::with_capacity(BATCH);
        let sent = loop {
            match documents.next() {
                Some(Ok(document)) => batch.push(document),
                Some(Err(error)) => break Err(Failure::from(error)),
                None => break Ok(()),
            }
            if batch.len() == BATCH {
                // The workers end only after the sender has.
                let _ = sender.send(std::mem::replace(&mut batch, Vec::with_capacity(BATCH)));
                progress(documents.report().num_documents, documents.report().num_bytes);
            }
        };
        let _ = sender.send(batch);
        drop(sender);
        let mut all = WordCounts::new();
        for worker in workers {
            match worker.join() {
                Ok(counts) => all.merge(counts),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        sent.map(|()| all)
    })
}

fn count_batches(receiver: &Mutex<Receiver<Vec<Document>>>) -> WordCounts {
    let mut counts = WordCounts::new();
    loop {
        let batch = receiver.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).recv();
        let Ok(batch) = batch else { return counts };
        batch.iter().for_each(|document| counts.add(&document.text));
    }
}

fn encode(args: &EncodeArgs) -> Outcome {
    let tokenizer = Tokenizer::load(&args.tokenizer)?;
    let mut output = Output::new();
    let mut ids = Vec::new();
    let mut write = |text: &str| {
        ids.clear();
        tokenizer.encode(text, &mut ids);
        output.json(&ids)
    };
    each_input(&args.files, &mut |name, input| {
        if args.jsonl {
            return each_line(name, input, &mut |line, text| {
                let row =
                    serde_json::from_str(text).map_err(|error| bad_line(name, line, &error.to_string()))?;
                write(
                    text_of(&row, args.text_field.as_deref())
                        .map_err(|problem| bad_line(name, line, &problem))?,
                )
            });
        }
        let mut bytes = Vec::new();
        input.read_to_end(&mut bytes).map_err(|error| Failure::io("read", Path::new(name), &error))?;
        let text = str::from_utf8(&bytes).map_err(|error| {
            Failure::failed(format!("{name}: byte {}: expected UTF-8 text", error.valid_up_to()))
                .hint("convert the file to UTF-8 first, for example with iconv")
        })?;
        write(text)
    })?;
    output.flush()
}

fn decode(args: &DecodeArgs) -> Outcome {
    let tokenizer = Tokenizer::load(&args.tokenizer)?;
    let mut output = Output::new();
    each_input(&args.files, &mut |name, input| {
        each_line(name, input, &mut |line, text| {
            let ids: Vec<u32> = serde_json::from_str(text).map_err(|error| {
                bad_line(name, line, &format!("expected a JSON array of ids: {error}"))
                    .hint("for example [15, 270, 3]")
            })?;
            let mut bytes = Vec::new();
            tokenizer.decode(&ids, &mut bytes)?;
            match args.jsonl {
                true => output.json(&serde_json::json!({ "content": String::from_utf8_lossy(&bytes) })),
                false => output.bytes(&bytes),
            }
        })
    })?;
    output.flush()
}

/// The text of a row: the field asked for, else `content`, else `text`.
fn text_of<'a>(row: &'a serde_json::Value, field: Option<&str>) -> Result<&'a str, String> {
    let found = match field {
        Some(name) => row.get(name).map(|value| (name, value)),
        None => ["content", "text"].into_iter().find_map(|name| row.get(name).map(|value| (name, value))),
    };
    match found {
        Some((name, value)) => value.as_str().ok_or_else(|| format!("`{name}` is not text")),
        None => Err(format!("no field `{}`", field.unwrap_or("content` or `text"))),
    }
}

fn bad_line(name: &str, line: usize, problem: &str) -> Failure {
    Failure::failed(format!("{name}: line {line}: {problem}"))
}

/// Calls `f` with each file, or with stdin where there is none.
fn each_input(files: &[PathBuf], f: &mut dyn FnMut(&str, &mut dyn BufRead) -> Outcome) -> Outcome {
    if files.is_empty() {
        return f("stdin", &mut stdin().lock());
    }
    for path in files {
        let file = File::open(path).map_err(|error| Failure::io("read", path, &error))?;
        f(&path.display().to_string(), &mut BufReader::new(file))?;
    }
    Ok(())
}

/// Calls `f` with each line that is not blank, and its number from 1.
fn each_line(name: &str, input: &mut dyn BufRead, f: &mut dyn FnMut(usize, &str) -> Outcome) -> Outcome {
    for (i, line) in input.lines().enumerate() {
        let line = line.map_err(|error| bad_line(name, i + 1, &format!("cannot read: {error}")))?;
        if !line.trim().is_empty() {
            f(i + 1, &line)?;
        }
    }
    Ok(())
}
