//! `eyas data show|prepare`.

mod page;
mod show;
mod summary;

use super::source::{SourceArgs, with_data_help};
use super::tokenizer;
use crate::errors::{Failure, Outcome};
use crate::format;
use crate::output::{Output, note};
use crate::progress::Progress;
use clap::ValueEnum;
use eyas_data::{
    DURABLE_TOKENS, Fim, Mode, PrepareOptions, PrepareProgress, PrepareReport, Shards, SourceOptions,
    prepare_durably,
};
use eyas_token::Tokenizer;
pub(crate) use page::num_bytes_below;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// Look at data, and prepare them for training
#[derive(clap::Subcommand)]
pub(crate) enum Command {
    Show(ShowArgs),
    Prepare(PrepareArgs),
}

/// Print documents as a person wants to see them, or samples of prepared data
#[derive(clap::Args)]
#[command(after_long_help = with_data_help("\
Of a folder made by `data prepare`, samples are printed as training sees them; they need --tokenizer.

Examples:
  eyas data show ~/src/my-project -n 3
  eyas data show train.jsonl | less
  eyas data show shards --tokenizer tokenizer
  eyas data show train.jsonl --tokenizer tokenizer --tokens"))]
pub(crate) struct ShowArgs {
    /// What to show
    data: String,

    /// How many
    #[arg(short, long = "number", value_name = "N", default_value_t = 1)]
    number: u64,

    /// Tokenizer folder: count tokens, and read prepared data
    #[arg(long, value_name = "DIR")]
    tokenizer: Option<PathBuf>,

    /// Show where tokens begin and end: by colours on a terminal, else by bars
    #[arg(long, requires = "tokenizer")]
    tokens: bool,

    #[command(flatten)]
    source: SourceArgs,
}

/// Turn documents into token shards, which train and eval read
#[derive(clap::Args)]
#[command(after_long_help = with_data_help("\
Examples:
  eyas data prepare ~/src/my-project --tokenizer tokenizer --mode pack --context-length 256 \\
      --out shards --report shards.html
  eyas data prepare train.jsonl --tokenizer tokenizer --mode chunk --raw --out shards"))]
pub(crate) struct PrepareArgs {
    /// What to prepare
    #[arg(required = true)]
    data: Vec<String>,

    /// Tokenizer folder
    #[arg(long, value_name = "DIR")]
    tokenizer: PathBuf,

    /// T: tokens of a sample
    #[arg(long, value_name = "T", default_value_t = 128)]
    context_length: usize,

    /// How documents become samples
    #[arg(long, value_enum, default_value_t = ModeArg::Chunk)]
    mode: ModeArg,

    /// Folder to write
    #[arg(long, value_name = "DIR")]
    out: PathBuf,

    /// Hold out one document in N, by hash of its path: DIR then has the folders `train` and `valid`
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(2..))]
    validation_one_in: Option<u64>,

    /// Share of documents that are turned round for fill-in-the-middle, in mode pack
    #[arg(long, value_name = "X", default_value_t = 0.0)]
    fim_rate: f64,

    /// Share of those that have the suffix before the prefix
    #[arg(long, value_name = "X", default_value_t = 0.5)]
    fim_spm_rate: f64,

    /// Seed of what is turned round, and where
    #[arg(long, value_name = "N", default_value_t = 42)]
    seed: u64,

    /// Write a page about what was done: plots of what was taken, skipped and found, in one file for a browser
    #[arg(long, value_name = "FILE.html")]
    report: Option<PathBuf>,

    /// Print what was done as a JSON object
    #[arg(long)]
    json: bool,

    /// Make what was done durable after so many tokens: few, where kills are to be tried on a small source
    #[arg(long, value_name = "N", default_value_t = DURABLE_TOKENS, hide = true)]
    durable_tokens: u64,

    #[command(flatten)]
    source: SourceArgs,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum ModeArg {
    /// Each document is cut alone into full chunks of the context length; the rest of it is dropped (the course's way)
    Chunk,
    /// Documents are joined by end-of-text; nothing is dropped
    Pack,
}

pub(crate) fn run(command: Command) -> Outcome {
    match command {
        Command::Show(args) => show::show(&args),
        Command::Prepare(args) => run_prepare(&args),
    }
}

/// Refuses prepared data of another tokenizer.
pub(crate) fn same_tokenizer(shards: &Shards, path: &Path, tokenizer: &Tokenizer) -> Outcome {
    match shards.tokenizer_fingerprint() == tokenizer.fingerprint() {
        true => Ok(()),
        false => Err(Failure::failed(format!("{} was prepared with another tokenizer", path.display()))
            .hint("prepare the data again with this one: eyas data prepare")),
    }
}

fn run_prepare(args: &PrepareArgs) -> Outcome {
    // What is wrong with the page's place is said now, not when hours of work are done.
    args.report.as_deref().map_or(Ok(()), |path| page::check(path, &args.out))?;
    let tokenizer = tokenizer::open(&args.tokenizer)?;
    let options = args.options()?;
    let begun = Instant::now();
    let mut bar = Progress::new("prepare");
    let mut tell = |progress: &PrepareProgress| {
        let (documents, bytes) = (format::count(progress.num_documents), format::bytes(progress.num_bytes));
        match progress.is_seeking_duplicates {
            true => bar.tick(&format_args!("{documents} documents, {bytes} read for near duplicates")),
            false => bar.tick(&format_args!(
                "{documents} documents, {bytes}, {} tokens",
                format::count(progress.num_tokens)
            )),
        }
    };
    let report =
        prepare_durably(&args.data, &tokenizer, &options, &args.out, args.durable_tokens, &mut tell)?;
    drop(bar);
    let elapsed = begun.elapsed();
    let mut output = Output::new();
    match args.json {
        true => output.json(&report)?,
        false => print(&mut output, args, &report)?,
    }
    output.flush()?;
    let Some(path) = &args.report else { return Ok(()) };
    page::write(path, args, &tokenizer, &options, &report, elapsed)
}

/// What was done, for people.
fn print(output: &mut Output, args: &PrepareArgs, report: &PrepareReport) -> Outcome {
    summary::print(output, report)?;
    let kept = report.num_tokens + report.num_validation_tokens;
    let dropped = report.num_encoded_tokens.saturating_sub(kept);
    output.line(format_args!("{} tokens in {}", format::count(report.num_tokens), place(args, "train")))?;
    if args.validation_one_in.is_some() {
        output.line(format_args!(
            "{} tokens in {}",
            format::count(report.num_validation_tokens),
            place(args, "valid")
        ))?;
    }
    if dropped > 0 {
        let share = dropped as f64 / report.num_encoded_tokens.max(1) as f64;
        note(format_args!(
            "{} tokens ({}) were ends of documents shorter than {} and were dropped; --mode pack keeps them",
            format::count(dropped),
            format::percent(share),
            args.context_length
        ));
    }
    Ok(())
}

impl PrepareArgs {
    fn options(&self) -> Outcome<PrepareOptions> {
        Ok(PrepareOptions {
            mode: match self.mode {
                ModeArg::Chunk => Mode::Chunk,
                ModeArg::Pack => Mode::Pack,
            },
            context_length: self.context_length,
            source: SourceOptions { with_licenses: true, ..self.source.options()? },
            validation_one_in: self.validation_one_in,
            fim: (self.fim_rate != 0.0).then_some(Fim {
                rate: self.fim_rate,
                spm_rate: self.fim_spm_rate,
                seed: self.seed,
            }),
        })
    }
}

fn place(args: &PrepareArgs, part: &str) -> String {
    match args.validation_one_in {
        Some(_) => args.out.join(part).display().to_string(),
        None => args.out.display().to_string(),
    }
}
