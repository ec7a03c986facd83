//! `eyas tokenizer train`: a vocabulary from documents.

use super::super::source::{SourceArgs, tell, with_data_help};
use crate::errors::{Failure, Outcome};
use crate::format;
use crate::output::note;
use crate::progress::Progress;
use eyas_data::{Document, Documents};
use eyas_token::{Tokenizer, TrainOptions, WordCounts};
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::mpsc::{Receiver, sync_channel};

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

pub(super) fn run(args: TrainArgs) -> Outcome {
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
fn count_words(documents: &mut Documents, progress: &mut dyn FnMut(u64, u64)) -> Outcome<WordCounts> {
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
