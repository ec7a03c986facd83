//! `eyas bench generation`: one sequence on random weights and tokens, as `eyas generate` runs it.
//!
//! Two figures with two limits. A new token reads every weight once and does little with it: its peak is the reading of
//! memory. A prompt multiplies every weight with all its tokens: its peak is arithmetic.

use super::{MachineArgs, Shape};
use crate::commands::generate::PrecisionArg;
use crate::errors::{Failure, Outcome};
use crate::format;
use crate::output::{Output, note};
use clap::ValueEnum;
use eyas_model::{Config, Gpt, KvCache, Sampling, compute_copies_bytes, flops_per_token, generate};
use eyas_ops::gemm::Word;
use eyas_ops::{Backend, Bf16, Cpu, Isa, Rng};
use serde_json::json;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Measure generation: the reading of a prompt, and new tokens one at a time
///
/// On random weights and tokens, one sequence. For new tokens, share_of_peak is tokens/s x the bytes of weights that a
/// token reads (blocks and head in their format, scales included) / the measured reading of memory; the median token
/// counts. For the prompt it is FLOP/s / the measured multiply-adds, at 2 x (matrix weights of the blocks) a token plus
/// the causal half of attention, 2 L C T; the head is not run.
#[derive(clap::Args)]
#[command(after_long_help = "\
Examples:
  eyas bench generation --shape 124M --format bf16 --prompt-length 64 --new-tokens 128
  eyas bench generation --shape 124M --format int4 --threads 1 --json")]
pub(crate) struct GenerationArgs {
    /// Shape of the network
    #[arg(long, value_enum, default_value_t = Shape::Small)]
    shape: Shape,

    /// What weights are read as
    #[arg(long, value_enum, default_value_t = PrecisionArg::Bf16)]
    format: PrecisionArg,

    /// Tokens of the prompt
    #[arg(long, value_name = "T", default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=512))]
    prompt_length: u32,

    /// Tokens to generate
    #[arg(long, value_name = "N", default_value_t = 128, value_parser = clap::value_parser!(u32).range(2..=512))]
    new_tokens: u32,

    #[command(flatten)]
    machine: MachineArgs,

    /// One JSON object a figure: name, value, unit, share_of_peak, peak, threads, spread
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &GenerationArgs) -> Outcome {
    let isa = args.machine.isa.unwrap_or_else(Isa::detect);
    match args.format.precision().is_bf16(isa) {
        false => measure::<f32>(args),
        true => measure::<Bf16>(args),
    }
}

fn measure<E: Word>(args: &GenerationArgs) -> Outcome
where
    Cpu<E>: Backend,
{
    let (config, purpose) = (args.shape.config(0.0)?, args.format.precision().purpose());
    let cpu = Arc::new(args.machine.cpu::<E>()?);
    let isa = cpu.isa();
    let name = |what: &str| {
        let format =
            args.format.to_possible_value().map_or_else(String::new, |value| value.get_name().into());
        format!("{what} {} {format} {isa}", args.shape.name())
    };
    note(format_args!("{}", name("generation")));
    let bytes = compute_copies_bytes(&*cpu, &config, purpose) as f64;
    let flops = prompt_flops(&config, args.prompt_length as usize);
    let mut gpt = Gpt::new(cpu.clone(), config, purpose)?;
    gpt.init(0);
    let mut output = Output::new();
    // On the pool, as generation runs. Peaks are measured beside what is compared with them: machines are shared.
    let peak = cpu.peak_flops();
    let seconds = cpu.install(|| prompt_seconds(&gpt, args.prompt_length as usize));
    let figure =
        Figure { unit_of_peak: "GFLOP/s", peak: peak.max(cpu.peak_flops()), per_item: flops, seconds };
    let tokens = args.prompt_length;
    figure.print(args, &name(&format!("prompt of {tokens} tokens,")), f64::from(tokens), &mut output)?;
    let peak = cpu.peak_read_bytes();
    let seconds = cpu.install(|| token_seconds(&gpt, args))?;
    let figure =
        Figure { unit_of_peak: "GB/s", peak: peak.max(cpu.peak_read_bytes()), per_item: bytes, seconds };
    let tokens = args.new_tokens;
    figure.print(args, &name(&format!("{tokens} new tokens,")), 1.0, &mut output)?;
    output.flush()
}

/// FLOPs of reading a prompt without the head: a third of what training a token takes, with its head left out.
fn prompt_flops(config: &Config, tokens: usize) -> f64 {
    let head = 2.0 * (config.vocab_size * config.n_embd) as f64;
    tokens as f64 * (flops_per_token(config, tokens) / 3.0 - head)
}

fn random_tokens(vocab_size: usize, len: usize) -> Vec<u32> {
    let mut rng = Rng::new(0);
    (0..len).map(|_| (rng.next_u64() % vocab_size as u64) as u32).collect()
}

/// Seconds of reading a prompt, several times, sorted.
fn prompt_seconds<D: Backend>(gpt: &Gpt<D>, len: usize) -> Vec<f64> {
    const LEAST: usize = 5;
    const LONGEST: Duration = Duration::from_secs(2);
    let tokens = random_tokens(gpt.config().vocab_size, len);
    let mut cache = KvCache::new(gpt, len);
    gpt.prefill(&mut cache, &tokens);
    let (mut seconds, begin) = (Vec::new(), Instant::now());
    while seconds.len() < LEAST || begin.elapsed() < LONGEST {
        cache.truncate(0);
        let start = Instant::now();
        gpt.prefill(&mut cache, &tokens);
        seconds.push(start.elapsed().as_secs_f64());
    }
    seconds.sort_by(f64::total_cmp);
    seconds
}

/// Seconds from each new token to the next, the choice of it included, sorted.
fn token_seconds<D: Backend>(gpt: &Gpt<D>, args: &GenerationArgs) -> Outcome<Vec<f64>> {
    let prompt = random_tokens(gpt.config().vocab_size, args.prompt_length as usize);
    let sampling = Sampling { max_new_tokens: args.new_tokens as usize, ..Sampling::default() };
    let mut times = Vec::new();
    generate(gpt, &prompt, &sampling, 1, &mut |_, _| {
        times.push(Instant::now());
        ControlFlow::Continue(())
    })
    .map_err(|error| Failure::failed(error.to_string()))?;
    let mut seconds: Vec<f64> = times.windows(2).map(|pair| (pair[1] - pair[0]).as_secs_f64()).collect();
    seconds.sort_by(f64::total_cmp);
    Ok(seconds)
}

/// What was measured, and what limits it.
struct Figure {
    unit_of_peak: &'static str,
    /// Bytes or FLOPs a second.
    peak: f64,
    /// Bytes or FLOPs of what was timed.
    per_item: f64,
    /// Sorted.
    seconds: Vec<f64>,
}

impl Figure {
    fn print(&self, args: &GenerationArgs, name: &str, tokens: f64, output: &mut Output) -> Outcome {
        let at = |share: f64| self.seconds[((self.seconds.len() - 1) as f64 * share).round() as usize];
        let (median, spread) = (at(0.5), (at(0.9) - at(0.1)) / at(0.5));
        let (rate, share) = (tokens / median, self.per_item / median / self.peak);
        let (peak, threads) = (self.peak / 1e9, args.machine.threads());
        if args.json {
            return output.json(&json!({
                "name": name,
                "value": rate,
                "unit": "tokens/s",
                "share_of_peak": share,
                "peak": peak,
                "threads": threads,
                "spread": spread,
            }));
        }
        output.line(format_args!(
            "{name:<44} {rate:>7.1} tokens/s ({threads} threads): {} of the {peak:.1} {} measured, spread {}",
            format::percent(share),
            self.unit_of_peak,
            format::percent(spread)
        ))
    }
}
