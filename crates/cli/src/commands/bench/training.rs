//! `eyas bench training`: full training steps on random weights and tokens.

use super::{OptimArg, PlaceArgs, Shape, breakdown};
use crate::device::{OnDevice, Place};
use crate::errors::{Failure, Outcome};
use crate::format;
use crate::measure::{Steps, Update};
use crate::output::{Output, note};
use clap::ValueEnum;
use eyas_model::{Config, flops_per_token};
use eyas_ops::Backend;
use eyas_train::Precision;
use serde_json::json;
use std::sync::Arc;
use std::time::Duration;

/// Measure a full training step: forward, backward, clipping, AdamW
///
/// On random weights and tokens; warms up for two steps and prints the median step. FLOPs are counted as 6 x (matrix
/// weights, head included) a token, plus the causal half of attention, 6 L C T.
#[derive(clap::Args)]
#[command(after_long_help = "\
Examples:
  eyas bench training --shape 124M --batch-size 8 --context-length 128 --precision bf16
  eyas bench training --shape 124M --batch-size 32 --context-length 1024 --device cuda
  eyas bench training --shape 124M --batch-size 32 --context-length 128 --breakdown
  eyas bench training --shape small --precision fp32 --isa avx2 --threads 1 --json")]
pub(crate) struct TrainingArgs {
    /// Shape of the network
    #[arg(long, value_enum, default_value_t = Shape::Small)]
    pub(super) shape: Shape,

    /// B: samples of a micro-batch
    #[arg(long, value_name = "B", default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=65536))]
    batch_size: u32,

    /// T: tokens of a sample
    #[arg(long, value_name = "T", default_value_t = 128, value_parser = clap::value_parser!(u32).range(1..=1024))]
    context_length: u32,

    /// Micro-batches of a step
    #[arg(long, value_name = "K", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=65536))]
    gradient_accumulation_steps: u32,

    /// Element type of activations and of compute copies of weights; fp16 needs a GPU
    #[arg(long, value_enum, default_value_t = PrecisionArg::Bf16)]
    precision: PrecisionArg,

    /// Probability at the network's four dropouts
    #[arg(long, value_name = "P", default_value_t = 0.0)]
    dropout: f32,

    /// Keep only the activations between blocks, and compute the rest again in the backward pass
    #[arg(long)]
    gradient_checkpointing: bool,

    /// Optimizer
    #[arg(long, value_enum, default_value_t = OptimArg::Adamw)]
    pub(super) optim: OptimArg,

    /// How long to measure
    #[arg(long, value_name = "S", default_value_t = 20.0)]
    seconds: f64,

    /// Print what each operation takes: time, FLOPs, bytes, and its share of what arithmetic or memory allow
    #[arg(long)]
    breakdown: bool,

    #[command(flatten)]
    place: PlaceArgs,

    /// One JSON object: name, value, unit, share_of_peak, peak, threads, spread; with --breakdown one an operation
    #[arg(long)]
    pub(super) json: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum PrecisionArg {
    Bf16,
    Fp32,
    Fp16,
}

impl PrecisionArg {
    fn precision(self) -> Precision {
        match self {
            PrecisionArg::Bf16 => Precision::Bf16,
            PrecisionArg::Fp32 => Precision::F32,
            PrecisionArg::Fp16 => Precision::F16,
        }
    }
}

impl TrainingArgs {
    fn config(&self) -> Outcome<Config> {
        if !self.seconds.is_finite() || self.seconds < 0.0 {
            return Err(Failure::usage(format!("--seconds {}: expected 0 or more", self.seconds)));
        }
        self.shape.config(self.dropout)
    }

    pub(super) fn update(&self) -> Update {
        let accumulation = self.gradient_accumulation_steps as usize;
        let one = Update::new(self.batch_size as usize, self.context_length as usize);
        Update { accumulation, gradient_checkpointing: self.gradient_checkpointing, ..one }
    }

    pub(super) fn time(&self) -> Duration {
        Duration::from_secs_f64(self.seconds.min(86_400.0))
    }

    pub(super) fn name(&self) -> String {
        let shape = self.shape.name();
        let precision = match self.precision {
            PrecisionArg::Bf16 => "bf16",
            PrecisionArg::Fp32 => "fp32",
            PrecisionArg::Fp16 => "fp16",
        };
        let optimizer = if matches!(self.optim, OptimArg::Adamw) { "" } else { " muon" };
        let (batch, time, dropout) = (self.batch_size, self.context_length, self.dropout);
        let accumulation = match self.gradient_accumulation_steps {
            1 => String::new(),
            steps => format!(" x{steps}"),
        };
        let checkpointing = if self.gradient_checkpointing { " checkpointing" } else { "" };
        format!(
            "training {shape} {precision} B{batch} T{time}{accumulation} dropout {dropout}{optimizer}{checkpointing}"
        )
    }
}

pub(super) fn run(args: &TrainingArgs) -> Outcome {
    let config = args.config()?;
    let wanted = args.place.wanted(args.precision.precision())?;
    match args.breakdown {
        true => wanted.run(breakdown::Breakdown { args, config: &config }),
        false => wanted.run(Training { args, config: &config }),
    }
}

struct Training<'a> {
    args: &'a TrainingArgs,
    config: &'a Config,
}

impl OnDevice for Training<'_> {
    type Output = ();

    fn run<D: Backend>(self, device: D, place: Place) -> Outcome {
        let Training { args, config } = self;
        let (device, update) = (Arc::new(device), args.update());
        let peak = device.peak_flops();
        let num_tokens = update.num_tokens() as f64;
        note(format_args!("{} of {} tokens", args.name(), format::count(num_tokens as u64)));
        // On the pool, as training runs.
        let (times, device_bytes) = device.install(|| {
            let mut steps = Steps::new(device.clone(), config, update, args.optim.kind())?;
            let times = steps.times(args.time(), || {})?;
            Ok::<_, Failure>((times, steps.device_bytes()))
        })?;
        // Again, since neighbours on a shared machine can halve one measurement.
        let peak = peak.max(device.peak_flops());
        let (median, spread) = (times.median(), times.spread());
        let (rate, achieved) =
            (num_tokens / median, flops_per_token(config, update.time) * num_tokens / median);
        let (resident, threads) = (peak_resident_bytes(), device.num_threads());
        let mut output = Output::new();
        if args.json {
            output.json(&json!({
                "name": format!("{} {place}", args.name()),
                "value": rate,
                "unit": "tokens/s",
                "share_of_peak": achieved / peak,
                "peak": peak / 1e9,
                "threads": threads,
                "spread": spread,
                "step_ms": 1e3 * median,
                "gflops_per_second": achieved / 1e9,
                "peak_resident_bytes": resident,
                "num_steps": times.len(),
                "device": device.describe(),
                "device_bytes": device_bytes,
            }))?;
        } else {
            let gibibytes = |bytes: f64| bytes / f64::from(1 << 30);
            let memory = match device_bytes {
                Some(bytes) => format!("{:.2} GiB of the GPU", gibibytes(bytes as f64)),
                None => format!("peak RSS {:.2} GiB", gibibytes(resident.unwrap_or(0) as f64)),
            };
            output.line(format_args!(
                "eyas {} {} ({place}, {threads} {}): {rate:.0} tok/s, {:.0} ms, {:.0} GFLOP/s = {} of the {:.0} measured, \
                 {memory}, {} steps, spread {}",
                env!("CARGO_PKG_VERSION"),
                args.name(),
                if place == Place::Cuda { "processors" } else { "threads" },
                1e3 * median,
                achieved / 1e9,
                format::percent(achieved / peak),
                peak / 1e9,
                times.len(),
                format::percent(spread)
            ))?;
        }
        output.flush()
    }
}

/// The most memory this process has held, where the system says (Linux).
pub(super) fn peak_resident_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.split_whitespace().next()?.parse::<u64>().ok().map(|kib| kib * 1024)
}
