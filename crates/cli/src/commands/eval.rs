//! `eyas eval`.

use super::data::same_tokenizer;
use super::generate::DeviceArgs;
use super::source::with_data_help;
use super::tokenizer::tell_if_slow;
use crate::device::{OnDevice, Place};
use crate::errors::{Failure, Outcome};
use crate::format;
use crate::output::{Output, note};
use crate::progress::Progress;
use eyas_data::{Mode, Shards, SourceOptions, eval_stream, is_shards, names_rows};
use eyas_model::{Activations, Config, Gpt, check_evaluation};
use eyas_ops::Backend;
use eyas_token::Tokenizer;
use eyas_train::{EvalData, EvalResult, evaluate};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Measure a model on text: loss, perplexity, bits per byte, next-token accuracy
///
/// Documents are joined by end-of-text, with one before the first and one after the last, and cut into windows of
/// context_length targets, the last one shorter. Bits per byte = summed loss / (ln 2 x UTF-8 bytes of the documents), so
/// that models with different tokenizers can be compared.
#[derive(clap::Args)]
#[command(after_long_help = with_data_help("\
Documents of a .jsonl are taken as they are here, without filters; those of a folder only with --raw. A folder made by \
`data prepare` is read as it is.

Examples:
  eyas eval --model runs/quickstart --data valid.jsonl
  eyas eval --model runs/quickstart --data ~/src/other-project --json
  eyas eval --model runs/quickstart --data valid.jsonl --device cuda --precision bf16"))]
pub(crate) struct Args {
    /// Model folder: config.json, model.safetensors, tokenizer.json
    #[arg(long, value_name = "DIR")]
    model: PathBuf,

    /// What to measure on; may be repeated
    #[arg(long, value_name = "DATA|SHARDS", required = true, num_args = 1..)]
    data: Vec<String>,

    /// Targets of a window [default: the length the model was trained with]
    #[arg(long, value_name = "T")]
    context_length: Option<usize>,

    /// Windows scored at once; changes no result [default: as many as make 4,096 tokens]
    #[arg(long, value_name = "B")]
    batch_size: Option<usize>,

    /// Let a token attend to its own document alone: for models that were trained with mask_documents
    #[arg(long)]
    mask_documents: bool,

    /// Tokenizer folder, if it is not the model's own
    #[arg(long, value_name = "DIR")]
    tokenizer: Option<PathBuf>,

    /// Field of a .jsonl that holds the text [default: `content`, then `text`]
    #[arg(long, value_name = "NAME")]
    text_field: Option<String>,

    /// Take every document of a folder as it is: no filter, and duplicates stay
    #[arg(long)]
    raw: bool,

    #[command(flatten)]
    device: DeviceArgs,

    /// One JSON object: loss, perplexity, bits_per_byte, next_token_accuracy, num_targets, num_bytes
    #[arg(long)]
    json: bool,
}

/// Tokens scored at once unless the caller says otherwise: large enough to use all cores, small enough for any memory.
const BATCH_TOKENS: usize = 4096;

pub(crate) fn run(args: Args) -> Outcome {
    let (config, tokenizer) = eyas_serve::open_tokenizer(&args.model, args.tokenizer.as_deref())?;
    tell_if_slow(&tokenizer);
    let context_length = context_length(&args, &config)?;
    if args.batch_size == Some(0) {
        return Err(Failure::usage("--batch-size 0: expected at least 1"));
    }
    let wanted = args.device.wanted()?;
    let document_end = match args.mask_documents {
        true => Some(tokenizer.end_of_text().ok_or(eyas_data::Error::NoEndOfText)?),
        false => None,
    };
    let result = wanted.run(Score { args: &args, tokenizer: &tokenizer, context_length, document_end })?;
    let mut output = Output::new();
    match args.json {
        true => output.json(&result)?,
        false => output.line(describe(&result))?,
    }
    output.flush()
}

/// The window: what was asked for, else what the model was trained with, else all its positions.
fn context_length(args: &Args, config: &Config) -> Outcome<usize> {
    let trained = config.n_ctx.filter(|n_ctx| (1..=config.n_positions).contains(n_ctx));
    let context_length = args.context_length.unwrap_or(trained.unwrap_or(config.n_positions));
    config.validate_context(context_length)?;
    Ok(context_length)
}

fn open(args: &Args, tokenizer: &Tokenizer, context_length: usize) -> Outcome<EvalData> {
    if let Some(shards) = args.data.iter().map(Path::new).find(|path| is_shards(path)) {
        if args.data.len() > 1 {
            return Err(Failure::usage(format!("{} is prepared data: give it alone", shards.display())));
        }
        let opened = Shards::open(shards)?;
        same_tokenizer(&opened, shards, tokenizer)?;
        if opened.mode() == Mode::Chunk && opened.context_length() != context_length {
            let (found, asked) = (opened.context_length(), context_length);
            return Err(Failure::failed(format!(
                "{} has chunks of {found} tokens, not {asked}",
                shards.display()
            ))
            .hint(format!("add --context-length {found}, or prepare the data with --mode pack")));
        }
        return Ok(EvalData::shards(Arc::new(opened), tokenizer));
    }
    let raw = args.raw || args.data.iter().all(|data| names_rows(data));
    let hub = crate::hub::options();
    let source = SourceOptions { text_field: args.text_field.clone(), raw, hub, ..SourceOptions::default() };
    let stream = eval_stream(&args.data, tokenizer, &source)?;
    let (documents, bytes) = (format::count(stream.num_documents), format::bytes(stream.num_bytes));
    note(format_args!(
        "read: {documents} documents, {bytes}, {} tokens",
        format::count(stream.ids.len() as u64)
    ));
    Ok(EvalData::Stream(stream))
}

/// Reading and scoring, on whatever device: one that cannot be had is known before much is read.
struct Score<'a> {
    args: &'a Args,
    tokenizer: &'a Tokenizer,
    context_length: usize,
    document_end: Option<u32>,
}

impl OnDevice for Score<'_> {
    type Output = EvalResult;

    fn run<D: Backend>(self, device: D, _: Place) -> Outcome<EvalResult> {
        score(device, self)
    }
}

fn score<D: Backend>(device: D, wanted: Score<'_>) -> Outcome<EvalResult> {
    let Score { args, tokenizer, context_length, document_end } = wanted;
    let data = &open(args, tokenizer, context_length)?;
    let mut gpt = Gpt::load(Arc::new(device), &args.model, args.device.precision().purpose())?;
    gpt.set_document_end(document_end);
    // No more rows than there are windows, whatever was asked for.
    let windows = data.num_targets(context_length).div_ceil(context_length as u64).max(1) as usize;
    let asked = args.batch_size.unwrap_or((BATCH_TOKENS / context_length).max(1)).min(windows);
    // Fewer at once change no result.
    let mut batch = asked;
    while let Err(error) = check_evaluation(&gpt, batch, context_length) {
        if batch == 1 {
            return Err(error.into());
        }
        batch /= 2;
    }
    note(format_args!("device: {}", gpt.device().describe()));
    if batch < asked {
        let (batch, asked) = (format::count(batch as u64), format::count(asked as u64));
        note(format_args!("{batch} windows at once: there is no memory for {asked}"));
    }
    let mut activations = Activations::new(&gpt, batch, context_length);
    let mut progress = Progress::new("eval");
    let mut on_progress = |done: u64, of: u64| {
        progress.set(done as f64 / of.max(1) as f64, &format_args!("{} targets", format::count(done)));
        ControlFlow::Continue(())
    };
    let score = || evaluate(&gpt, &mut activations, data, context_length, batch, &mut on_progress);
    // On the pool, where no operation has to wake a thread first.
    let result = gpt.device().install(score)?;
    result.ok_or_else(|| Failure::failed("the evaluation was stopped"))
}

/// The result as a person reads it, a figure a line.
fn describe(result: &EvalResult) -> String {
    let EvalResult { loss, perplexity, bits_per_byte, next_token_accuracy, num_targets, num_bytes } = result;
    let accuracy = format::percent(*next_token_accuracy);
    format!(
        "loss                 {loss:.4} nats a token\nperplexity           {perplexity:.3}\nbits per byte        \
         {bits_per_byte:.4}\nnext-token accuracy  {accuracy}\ntargets              {}\nbytes                {}",
        format::count(*num_targets),
        format::count(*num_bytes)
    )
}
