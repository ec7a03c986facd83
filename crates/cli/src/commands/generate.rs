//! `eyas generate`.

use crate::device::{Choice, Wanted, for_format, open_completer};
use crate::errors::{Failure, Outcome};
use crate::output::{Output, warn};
use clap::ValueEnum;
use eyas_ops::Isa;
use eyas_serve::{Completer, Completion, FinishReason, Precision, Sampling};
use serde_json::json;
use std::io::{IsTerminal, Read, stdin};
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::time::Instant;

/// Continue a text with a model
///
/// Text is printed as it comes. Works on models of eyas and on any GPT-2 folder saved by transformers with safetensors.
#[derive(clap::Args)]
#[command(after_long_help = "\
Examples:
  eyas generate --model runs/quickstart 'fn main() {'
  eyas generate --model runs/quickstart --precision int8 'fn main() {'
  eyas generate --model runs/quickstart --device cuda --precision bf16 'fn main() {'
  eyas generate --model runs/quickstart --do-sample --temperature 0.8 --num-return-sequences 3 \\
      'impl Iterator for '
  head -20 main.rs | eyas generate --model runs/quickstart --max-new-tokens 200")]
pub(crate) struct Args {
    /// Model folder: config.json, model.safetensors, tokenizer.json
    #[arg(long, value_name = "DIR")]
    model: PathBuf,

    /// Text to continue; `-` or nothing: stdin
    prompt: Option<String>,

    /// Tokenizer folder, if it is not the model's own
    #[arg(long, value_name = "DIR")]
    tokenizer: Option<PathBuf>,

    /// New tokens of a sequence at most
    #[arg(long, value_name = "N", default_value_t = 64)]
    max_new_tokens: usize,

    /// Draw tokens by their probability, instead of taking the most likely
    #[arg(long)]
    do_sample: bool,

    /// Divides the logits: below 1 more careful, above 1 wilder
    #[arg(long, allow_negative_numbers = true, value_name = "X", default_value_t = 1.0)]
    temperature: f32,

    /// Draw from this many of the most likely tokens; 0: from all
    #[arg(long, value_name = "N", default_value_t = 50)]
    top_k: usize,

    /// Draw from the most likely tokens that together have this probability
    #[arg(long, allow_negative_numbers = true, value_name = "P", default_value_t = 1.0)]
    top_p: f32,

    /// Above 1, tokens that occurred become less likely
    #[arg(long, allow_negative_numbers = true, value_name = "X", default_value_t = 1.0)]
    repetition_penalty: f32,

    /// Sequences to generate, with --do-sample
    #[arg(long, value_name = "N", default_value_t = 1)]
    num_return_sequences: usize,

    /// Seed of --do-sample
    #[arg(long, value_name = "N", default_value_t = 42)]
    seed: u64,

    #[command(flatten)]
    device: DeviceArgs,

    /// One JSON object a sequence: prompt_ids, ids (the new ones), text, finish_reason (`stop` or `length`)
    #[arg(long)]
    json: bool,
}

/// Where and how a model runs.
#[derive(clap::Args, Clone, Copy, Debug)]
pub(crate) struct DeviceArgs {
    /// Where to compute: `auto`, a GPU if one is found; `cpu`; `cuda`, or `cuda:1` for another than the first
    #[arg(long, value_name = "DEVICE", default_value_t = Choice::Auto)]
    pub(crate) device: Choice,

    /// Compute in f32, what the weights are stored in (the default)
    #[arg(long, conflicts_with_all = ["bf16", "precision"])]
    pub(crate) fp32: bool,

    /// Compute in bf16: faster, slightly rounded
    #[arg(long, conflicts_with = "precision")]
    pub(crate) bf16: bool,

    /// What weights are read as: fewer bytes are faster to generate from, and rounded more [default: fp32]
    #[arg(long, value_enum)]
    pub(crate) precision: Option<PrecisionArg>,

    /// Threads of the CPU; changes no result [default: one a core]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub(crate) threads: Option<u16>,
}

/// What weights are read as.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum PrecisionArg {
    /// 32 bits a weight
    Fp32,
    /// 16 bits
    Bf16,
    /// 16 bits of a smaller range; on a GPU
    Fp16,
    /// 8 bits and scales, 8.25 in all; on the CPU
    Int8,
    /// 4 bits and scales, 4.5 in all; on the CPU
    Int4,
}

impl PrecisionArg {
    pub(crate) fn precision(self) -> Precision {
        match self {
            PrecisionArg::Fp32 => Precision::F32,
            PrecisionArg::Bf16 => Precision::Bf16,
            PrecisionArg::Fp16 => Precision::F16,
            PrecisionArg::Int8 => Precision::Int8,
            PrecisionArg::Int4 => Precision::Int4,
        }
    }
}

impl DeviceArgs {
    pub(crate) fn precision(self) -> Precision {
        match self.precision {
            Some(precision) => precision.precision(),
            None if self.bf16 => Precision::Bf16,
            None => Precision::F32,
        }
    }

    /// The device to compute on.
    ///
    /// # Errors
    /// Weights in small integers on a GPU.
    pub(crate) fn wanted(self) -> Outcome<Wanted> {
        let choice = for_format(self.device, self.precision(), "--precision")?;
        let wanted = Wanted::new(choice, element(self.precision(), Isa::detect()));
        Ok(Wanted { threads: self.num_threads(), ..wanted })
    }

    pub(crate) fn num_threads(self) -> Option<usize> {
        self.threads.map(usize::from)
    }
}

/// The element type of activations: weights in small integers take the one that the CPU multiplies fastest.
pub(crate) fn element(precision: Precision, isa: Isa) -> eyas_train::Precision {
    match precision {
        Precision::F16 => eyas_train::Precision::F16,
        _ if precision.is_bf16(isa) => eyas_train::Precision::Bf16,
        _ => eyas_train::Precision::F32,
    }
}

pub(crate) fn run(args: Args) -> Outcome {
    let sampling = Sampling {
        do_sample: args.do_sample,
        temperature: args.temperature,
        top_k: args.top_k,
        top_p: args.top_p,
        repetition_penalty: args.repetition_penalty,
        seed: args.seed,
        max_new_tokens: args.max_new_tokens,
        eos_token_ids: Vec::new(),
    };
    check(&args, &sampling)?;
    let (choice, threads, precision) =
        (args.device.device, args.device.num_threads(), args.device.precision());
    let completer = open_completer(&args.model, choice, threads, precision, args.tokenizer.clone())?;
    let prompt = prompt(args.prompt.as_deref())?;
    let ids = completer.prompt_ids(&prompt)?;
    let fitting = completer.fit(&ids, sampling.max_new_tokens);
    if fitting.len() < ids.len() {
        let (kept, all, positions) = (fitting.len(), ids.len(), completer.config().n_positions);
        warn(format_args!(
            "the prompt has {all} tokens and the model {positions} positions: only its last {kept} are read"
        ));
    }
    let output = Output::new();
    match args.json {
        true => print_json(&completer, fitting, &sampling, args.num_return_sequences, output),
        false => print_text(&completer, &prompt, fitting, &sampling, args.num_return_sequences, output),
    }
}

/// Refuses what the model would refuse, before it is read.
fn check(args: &Args, sampling: &Sampling) -> Outcome {
    sampling.validate()?;
    if args.num_return_sequences == 0 {
        return Err(Failure::usage("--num-return-sequences 0: expected at least 1"));
    }
    if args.num_return_sequences > 1 && !args.do_sample {
        let message = format!(
            "--num-return-sequences {}: without --do-sample all would be the same",
            args.num_return_sequences
        );
        return Err(Failure::usage(message).hint("add --do-sample"));
    }
    Ok(())
}

fn prompt(argument: Option<&str>) -> Outcome<String> {
    if let Some(text) = argument.filter(|text| *text != "-") {
        return Ok(text.into());
    }
    if stdin().is_terminal() {
        crate::output::note("reading the prompt from the terminal: end it with Ctrl-D");
    }
    let mut bytes = Vec::new();
    stdin()
        .lock()
        .read_to_end(&mut bytes)
        .map_err(|error| Failure::failed(format!("cannot read stdin: {error}")))?;
    String::from_utf8(bytes).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        Failure::failed(format!("stdin: byte {at}: expected UTF-8 text"))
    })
}

fn print_json(
    completer: &Completer,
    ids: &[u32],
    sampling: &Sampling,
    num_sequences: usize,
    mut output: Output,
) -> Outcome {
    let completions =
        completer.complete(ids, sampling, num_sequences, &mut |_, _| ControlFlow::Continue(()))?;
    for completion in &completions {
        let finish_reason = match completion.finish_reason {
            FinishReason::Stop => "stop",
            FinishReason::Length => "length",
        };
        let Completion { ids: new, text, .. } = completion;
        output
            .json(&json!({ "prompt_ids": ids, "ids": new, "text": text, "finish_reason": finish_reason }))?;
    }
    output.flush()
}

/// One sequence is written as it comes, after its prompt; several when all are whole, each under a heading.
fn print_text(
    completer: &Completer,
    prompt: &str,
    ids: &[u32],
    sampling: &Sampling,
    num_sequences: usize,
    mut output: Output,
) -> Outcome {
    let start = Instant::now();
    let streams = num_sequences == 1;
    let mut written = Ok(());
    if streams {
        output.bytes(prompt.as_bytes())?;
        output.flush()?;
    }
    let completions = completer.complete(ids, sampling, num_sequences, &mut |_, text| {
        if streams {
            written = output.bytes(text.as_bytes()).and_then(|()| output.flush());
        }
        // Nobody reads any more: there is nothing to generate for.
        if written.is_err() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    })?;
    written?;
    if streams {
        output.line("")?;
    } else {
        for (i, completion) in completions.iter().enumerate() {
            output.line(format_args!("── {} of {num_sequences} ──", i + 1))?;
            output.line(format_args!("{prompt}{}", completion.text))?;
        }
    }
    output.flush()?;
    let num_tokens: usize = completions.iter().map(|completion| completion.ids.len()).sum();
    let rate = num_tokens as f64 / start.elapsed().as_secs_f64();
    crate::output::note(format_args!("{num_tokens} tokens, {rate:.0} tokens/s, {}", completer.describe()));
    Ok(())
}
