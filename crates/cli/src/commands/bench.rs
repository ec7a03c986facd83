//! `eyas bench training|generation|ops`: measured figures, each beside what this machine does at most.

mod breakdown;
mod generation;

use crate::errors::{Failure, Outcome};
use crate::format;
use crate::measure::Steps;
use crate::output::{Output, note};
use clap::ValueEnum;
use eyas_model::{Config, flops_per_token};
use eyas_ops::gemm::Word;
use eyas_ops::{Backend, Bf16, Cpu, Isa};
use eyas_train::OptimizerKind;
use serde_json::json;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Measure this machine
#[derive(clap::Subcommand)]
pub(crate) enum Command {
    Training(TrainingArgs),
    Generation(generation::GenerationArgs),
    Ops(OpsArgs),
}

/// Measure a full training step: forward, backward, clipping, AdamW
///
/// On random weights and tokens; warms up for two steps and prints the median step. FLOPs are counted as 6 x (matrix
/// weights, head included) a token, plus the causal half of attention, 6 L C T.
#[derive(clap::Args)]
#[command(after_long_help = "\
Examples:
  eyas bench training --shape 124M --batch-size 8 --context-length 128 --precision bf16
  eyas bench training --shape 124M --batch-size 32 --context-length 128 --breakdown
  eyas bench training --shape small --precision fp32 --isa avx2 --threads 1 --json")]
pub(crate) struct TrainingArgs {
    /// Shape of the network
    #[arg(long, value_enum, default_value_t = Shape::Small)]
    shape: Shape,

    /// B: samples
    #[arg(long, value_name = "B", default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=65536))]
    batch_size: u32,

    /// T: tokens of a sample
    #[arg(long, value_name = "T", default_value_t = 128, value_parser = clap::value_parser!(u32).range(1..=1024))]
    context_length: u32,

    /// Element type of activations and of compute copies of weights
    #[arg(long, value_enum, default_value_t = PrecisionArg::Bf16)]
    precision: PrecisionArg,

    /// Probability at the network's four dropouts
    #[arg(long, value_name = "P", default_value_t = 0.0)]
    dropout: f32,

    /// Optimizer
    #[arg(long, value_enum, default_value_t = OptimArg::Adamw)]
    optim: OptimArg,

    /// How long to measure
    #[arg(long, value_name = "S", default_value_t = 20.0)]
    seconds: f64,

    /// Print what each operation takes: time, FLOPs, bytes, and its share of what arithmetic or memory allow
    #[arg(long)]
    breakdown: bool,

    #[command(flatten)]
    machine: MachineArgs,

    /// One JSON object: name, value, unit, share_of_peak, peak, threads, spread; with --breakdown one an operation
    #[arg(long)]
    json: bool,
}

/// Measure this machine's peaks: multiply-adds in registers and reading of memory
#[derive(clap::Args)]
pub(crate) struct OpsArgs {
    #[command(flatten)]
    machine: MachineArgs,

    /// One JSON object a figure: name, value, unit, share_of_peak, peak, threads, spread
    #[arg(long)]
    json: bool,
}

#[derive(clap::Args, Clone, Copy, Debug)]
struct MachineArgs {
    /// Threads [default: one a core]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    threads: Option<u16>,

    /// Instruction set: portable, avx2, avx512, avx512bf16 [default: the best of this machine]
    #[arg(long, value_name = "ISA")]
    isa: Option<Isa>,
}

impl MachineArgs {
    fn cpu<E: Word>(self) -> Outcome<Cpu<E>> {
        let isa = self.isa.unwrap_or_else(Isa::detect);
        if !isa.is_available() {
            return Err(Failure::failed(format!("--isa {isa}: this machine does not have it"))
                .hint(format!("the best it has is {}", Isa::detect())));
        }
        Ok(Cpu::with(isa, self.threads()))
    }

    fn threads(self) -> usize {
        let all = || std::thread::available_parallelism().map_or(1, |n| n.get());
        self.threads.map_or_else(all, usize::from)
    }
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Shape {
    /// L 6, NH 6, C 384, V 8192
    Small,
    /// L 12, NH 12, C 768, V 50000
    #[value(name = "124M")]
    Gpt2,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum PrecisionArg {
    Bf16,
    Fp32,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum OptimArg {
    Adamw,
    Muon,
}

pub(crate) fn run(command: Command) -> Outcome {
    match command {
        Command::Training(args) => match (args.precision, args.breakdown) {
            (PrecisionArg::Bf16, false) => training::<Bf16>(&args),
            (PrecisionArg::Fp32, false) => training::<f32>(&args),
            (PrecisionArg::Bf16, true) => breakdown::breakdown::<Bf16>(&args),
            (PrecisionArg::Fp32, true) => breakdown::breakdown::<f32>(&args),
        },
        Command::Generation(args) => generation::run(&args),
        Command::Ops(args) => ops(&args),
    }
}

impl Shape {
    fn config(self, dropout: f32) -> Outcome<Config> {
        let (n_layer, n_head, n_embd, vocab_size) = match self {
            Shape::Small => (6, 6, 384, 8192),
            Shape::Gpt2 => (12, 12, 768, 50_000),
        };
        let config = Config {
            n_layer,
            n_head,
            n_embd,
            vocab_size,
            resid_pdrop: dropout,
            embd_pdrop: dropout,
            attn_pdrop: dropout,
            bos_token_id: None,
            eos_token_id: None,
            ..Config::default()
        };
        config.validate()?;
        Ok(config)
    }

    fn name(self) -> String {
        self.to_possible_value().map_or_else(String::new, |value| value.get_name().to_string())
    }
}

impl TrainingArgs {
    fn config(&self) -> Outcome<Config> {
        if !self.seconds.is_finite() || self.seconds < 0.0 {
            return Err(Failure::usage(format!("--seconds {}: expected 0 or more", self.seconds)));
        }
        self.shape.config(self.dropout)
    }

    fn name(&self) -> String {
        let shape = self.shape.name();
        let precision = if matches!(self.precision, PrecisionArg::Bf16) { "bf16" } else { "fp32" };
        let optimizer = if matches!(self.optim, OptimArg::Adamw) { "" } else { " muon" };
        let (batch, time, dropout) = (self.batch_size, self.context_length, self.dropout);
        format!("training {shape} {precision} B{batch} T{time} dropout {dropout}{optimizer}")
    }
}

fn training<E: Word>(args: &TrainingArgs) -> Outcome
where
    Cpu<E>: Backend,
{
    let config = args.config()?;
    let cpu = args.machine.cpu::<E>()?;
    let (isa, peak) = (cpu.isa(), cpu.peak_flops());
    let (batch, time) = (args.batch_size as usize, args.context_length as usize);
    let num_tokens = batch * time;
    let cpu = Arc::new(cpu);
    // On the pool, as training runs.
    let seconds = cpu.clone().install(|| measure(cpu, &config, (batch, time), args, || {}))?;
    let at = |share: f64| seconds[((seconds.len() - 1) as f64 * share).round() as usize];
    let (median, spread) = (at(0.5), (at(0.9) - at(0.1)) / at(0.5));
    let (rate, achieved) =
        (num_tokens as f64 / median, flops_per_token(&config, time) * num_tokens as f64 / median);
    let (resident, threads) = (peak_resident_bytes(), args.machine.threads());
    let mut output = Output::new();
    if args.json {
        output.json(&json!({
            "name": format!("{} {isa}", args.name()),
            "value": rate,
            "unit": "tokens/s",
            "share_of_peak": achieved / peak,
            "peak": peak / 1e9,
            "threads": threads,
            "spread": spread,
            "step_ms": 1e3 * median,
            "gflops_per_second": achieved / 1e9,
            "peak_resident_bytes": resident,
            "num_steps": seconds.len(),
        }))?;
    } else {
        output.line(format_args!(
            "eyas {} {} ({isa}, {threads} threads): {rate:.0} tok/s, {:.0} ms, {:.0} GFLOP/s = {} of the {:.0} measured, \
             peak RSS {:.2} GiB, {} steps, spread {}",
            env!("CARGO_PKG_VERSION"),
            args.name(),
            1e3 * median,
            achieved / 1e9,
            format::percent(achieved / peak),
            peak / 1e9,
            resident.unwrap_or(0) as f64 / f64::from(1 << 30),
            seconds.len(),
            format::percent(spread)
        ))?;
    }
    output.flush()
}

/// Seconds of each step, sorted. `after_warm_up` is called when the steps that count begin.
fn measure<D: Backend>(
    device: Arc<D>,
    config: &Config,
    (batch, time): (usize, usize),
    args: &TrainingArgs,
    after_warm_up: impl FnOnce(),
) -> Outcome<Vec<f64>> {
    const WARM_UP: usize = 2;
    const LEAST: usize = 3;
    let kind = match args.optim {
        OptimArg::Adamw => OptimizerKind::AdamW,
        OptimArg::Muon => OptimizerKind::Muon,
    };
    let mut steps = Steps::new(device, config, (batch, time), kind)?;
    note(format_args!("{} of {} tokens", args.name(), format::count((batch * time) as u64)));
    for _ in 0..WARM_UP {
        steps.step()?;
    }
    after_warm_up();
    let (mut seconds, end) =
        (Vec::new(), Instant::now() + Duration::from_secs_f64(args.seconds.min(86_400.0)));
    while seconds.len() < LEAST || Instant::now() < end {
        seconds.push(steps.step()?);
    }
    seconds.sort_by(f64::total_cmp);
    Ok(seconds)
}

/// The most memory this process has held, where the system says (Linux).
fn peak_resident_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.split_whitespace().next()?.parse::<u64>().ok().map(|kib| kib * 1024)
}

fn ops(args: &OpsArgs) -> Outcome {
    let mut output = Output::new();
    let all = Isa::ALL.into_iter().filter(|isa| isa.is_available());
    let isas: Vec<Isa> = args.machine.isa.map_or_else(|| all.collect(), |isa| vec![isa]);
    for isa in isas {
        let machine = MachineArgs { isa: Some(isa), ..args.machine };
        peak::<Bf16>(machine, args.json, &mut output)?;
        peak::<f32>(machine, args.json, &mut output)?;
    }
    let read = args.machine.cpu::<f32>()?.peak_read_bytes();
    figure("peak memory read", read / 1e9, "GB/s", args, &mut output)?;
    output.flush()
}

fn peak<E: Word>(machine: MachineArgs, is_json: bool, output: &mut Output) -> Outcome {
    let cpu = machine.cpu::<E>()?;
    let name = format!("peak multiply-add {} {}", E::NAME, cpu.isa());
    let args = OpsArgs { machine, json: is_json };
    figure(&name, cpu.peak_flops() / 1e9, "GFLOP/s", &args, output)
}

/// A peak is its own peak.
fn figure(name: &str, value: f64, unit: &str, args: &OpsArgs, output: &mut Output) -> Outcome {
    let threads = args.machine.threads();
    match args.json {
        true => output.json(&json!({
            "name": name, "value": value, "unit": unit, "share_of_peak": 1.0, "peak": value, "threads": threads, "spread": 0.0,
        })),
        false => output.line(format_args!("{name:<40} {value:>8.1} {unit} ({threads} threads)")),
    }
}
