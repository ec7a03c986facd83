//! `eyas bench generation`: one sequence on random weights and tokens, as `eyas generate` runs it.
//!
//! Two figures with two limits. A new token reads every weight once and does little with it: its peak is the reading of
//! memory. A prompt multiplies every weight with all its tokens: its peak is arithmetic.

use super::{PlaceArgs, Shape};
use crate::commands::generate::{PrecisionArg, element};
use crate::device::{OnDevice, Place, Wanted, for_format};
use crate::errors::{Failure, Outcome};
use crate::format;
use crate::measure::Times;
use crate::output::{Output, note};
use clap::ValueEnum;
use eyas_model::{Config, Gpt, KvCache, Sampling, Use, compute_copies_bytes, flops_per_token, generate};
use eyas_ops::{Backend, Rng};
use serde_json::json;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Measure generation: the reading of a prompt, and new tokens one at a time
///
/// On random weights and tokens. For new tokens, share_of_peak is tokens/s x the bytes of weights that a token reads
/// (blocks and head in their format, scales included) / the mere reading of these weights, measured right before and after; the median
/// token of the median of five sequences counts. For the prompt it is FLOP/s / the measured multiply-adds, at
/// 2 x (matrix weights of the blocks) a token plus the causal half of attention, 2 L C T; the head is not run.
#[derive(clap::Args)]
#[command(after_long_help = "\
Examples:
  eyas bench generation --shape 124M --format bf16 --prompt-length 64 --new-tokens 128
  eyas bench generation --shape 124M --format bf16 --device cuda
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
    place: PlaceArgs,

    /// One JSON object a figure: name, value, unit, share_of_peak, peak, threads, spread
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &GenerationArgs) -> Outcome {
    let precision = args.format.precision();
    let wanted = args.place.wanted(element(precision, args.place.machine.isa()))?;
    let wanted = Wanted { choice: for_format(wanted.choice, precision, "--format")?, ..wanted };
    wanted.run(Generation { args })
}

struct Generation<'a> {
    args: &'a GenerationArgs,
}

impl OnDevice for Generation<'_> {
    type Output = ();

    fn run<D: Backend>(self, device: D, place: Place) -> Outcome {
        let args = self.args;
        let name = |what: &str| {
            let format =
                args.format.to_possible_value().map_or_else(String::new, |value| value.get_name().into());
            format!("{what} {} {format} {place}", args.shape.name())
        };
        note(format_args!("{}", name("generation")));
        let (prompt, new) = (args.prompt_length as usize, args.new_tokens as usize);
        let (reading, growing) = figures(
            Arc::new(device),
            args.shape.config(0.0)?,
            args.format.precision().purpose(),
            prompt,
            new,
        )?;
        let mut output = Output::new();
        reading.print(args, &name(&format!("prompt of {prompt} tokens,")), &mut output)?;
        growing.print(args, &name(&format!("{new} new tokens,")), &mut output)?;
        output.flush()
    }
}

/// Reading a prompt, and new tokens after it, on random weights.
pub(super) fn figures<D: Backend>(
    device: Arc<D>,
    config: Config,
    purpose: Use,
    prompt: usize,
    new: usize,
) -> Outcome<(Figure, Figure)> {
    let threads = device.num_threads();
    let bytes = compute_copies_bytes(&*device, &config, purpose) as f64;
    let flops = prompt_flops(&config, prompt);
    let mut gpt = Gpt::new(device.clone(), config, purpose)?;
    gpt.init(0);
    // On the pool, as generation runs. Peaks are measured beside what is compared with them: machines are shared.
    let peak = device.peak_flops();
    let times = device.install(|| prompt_times(&gpt, prompt));
    let peak = peak.max(device.peak_flops());
    let reading =
        Figure { unit_of_peak: "GFLOP/s", peak, per_item: flops, tokens: prompt as f64, times, threads };
    let mut rounds = Vec::new();
    let mut before = gpt.read_rate();
    for _ in 0..ROUNDS {
        let times = device.install(|| token_times(&gpt, prompt, new))?;
        let after = gpt.read_rate();
        let peak = before.max(after);
        rounds.push(Figure { unit_of_peak: "GB/s", peak, per_item: bytes, tokens: 1.0, times, threads });
        before = after;
    }
    rounds.sort_by(|a, b| a.share().total_cmp(&b.share()));
    Ok((reading, rounds.swap_remove(ROUNDS / 2)))
}

/// Sequences of new tokens, each between two measurements of memory, whose speed changes from second to second where machines are
/// shared. The one with the median share counts.
const ROUNDS: usize = 5;

/// FLOPs of reading a prompt without the head: a third of what training a token takes, with its head left out.
fn prompt_flops(config: &Config, tokens: usize) -> f64 {
    let head = 2.0 * (config.vocab_size * config.n_embd) as f64;
    tokens as f64 * (flops_per_token(config, tokens) / 3.0 - head)
}

fn random_tokens(vocab_size: usize, len: usize) -> Vec<u32> {
    let mut rng = Rng::new(0);
    (0..len).map(|_| (rng.next_u64() % vocab_size as u64) as u32).collect()
}

/// The times of reading a prompt.
fn prompt_times<D: Backend>(gpt: &Gpt<D>, len: usize) -> Times {
    const LEAST: usize = 5;
    const LONGEST: Duration = Duration::from_secs(2);
    let tokens = random_tokens(gpt.config().vocab_size, len);
    let mut cache = KvCache::new(gpt, len);
    gpt.prefill(&mut cache, &tokens);
    gpt.device().synchronize();
    let (mut seconds, begin) = (Vec::new(), Instant::now());
    while seconds.len() < LEAST || begin.elapsed() < LONGEST {
        cache.truncate(0);
        let start = Instant::now();
        gpt.prefill(&mut cache, &tokens);
        gpt.device().synchronize();
        seconds.push(start.elapsed().as_secs_f64());
    }
    Times::new(seconds)
}

/// The times from each new token to the next, the choice of it included.
fn token_times<D: Backend>(gpt: &Gpt<D>, prompt: usize, new: usize) -> Outcome<Times> {
    let prompt = random_tokens(gpt.config().vocab_size, prompt);
    let sampling = Sampling { max_new_tokens: new, ..Sampling::default() };
    let mut times = Vec::new();
    generate(gpt, &prompt, &sampling, 1, &mut |_, _| {
        times.push(Instant::now());
        ControlFlow::Continue(())
    })
    .map_err(|error| Failure::failed(error.to_string()))?;
    Ok(Times::new(times.windows(2).map(|pair| (pair[1] - pair[0]).as_secs_f64()).collect()))
}

/// What was measured, and what limits it.
pub(super) struct Figure {
    unit_of_peak: &'static str,
    /// Bytes or FLOPs a second.
    pub(super) peak: f64,
    /// Bytes or FLOPs of what was timed.
    per_item: f64,
    /// Tokens of what was timed.
    tokens: f64,
    pub(super) times: Times,
    threads: usize,
}

impl Figure {
    /// Tokens a second.
    pub(super) fn rate(&self) -> f64 {
        self.tokens / self.times.median()
    }

    /// The share of the peak.
    pub(super) fn share(&self) -> f64 {
        self.per_item / self.times.median() / self.peak
    }

    fn print(&self, args: &GenerationArgs, name: &str, output: &mut Output) -> Outcome {
        let (rate, share, spread) = (self.rate(), self.share(), self.times.spread());
        let (peak, threads) = (self.peak / 1e9, self.threads);
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
