//! `eyas bench training|tokenizer|data|generation|ops|cuda`: measured figures, each beside what this machine does at most.

mod breakdown;
mod cuda;
mod data;
mod generation;
mod tokenizer;
mod training;

use crate::device::{Choice, Wanted};
use crate::errors::{Failure, Outcome};
use crate::output::Output;
use clap::ValueEnum;
use eyas_model::Config;
use eyas_ops::gemm::Word;
use eyas_ops::{Bf16, Cpu, Device, Isa};
use eyas_train::{OptimizerKind, Precision};
use serde_json::json;

/// Measure this machine
#[derive(clap::Subcommand)]
pub(crate) enum Command {
    Training(training::TrainingArgs),
    Tokenizer(tokenizer::TokenizerArgs),
    Data(data::DataArgs),
    Generation(generation::GenerationArgs),
    Ops(OpsArgs),
    Cuda(cuda::CudaArgs),
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
        self.wanted(Choice::Cpu, Precision::F32).cpu()
    }

    fn isa(self) -> Isa {
        self.isa.unwrap_or_else(Isa::detect)
    }

    fn threads(self) -> usize {
        self.threads.map_or_else(eyas_ops::available_threads, usize::from)
    }

    fn wanted(self, choice: Choice, precision: Precision) -> Wanted {
        let (isa, threads) = (self.isa(), Some(self.threads()));
        Wanted { isa, threads, ..Wanted::new(choice, precision) }
    }
}

/// Where to measure.
#[derive(clap::Args, Clone, Copy, Debug)]
struct PlaceArgs {
    /// Where to measure: `auto`, a GPU if one is found; `cpu`; `cuda`, or `cuda:1` for another than the first
    #[arg(long, value_name = "DEVICE", default_value_t = Choice::Auto)]
    device: Choice,

    #[command(flatten)]
    machine: MachineArgs,
}

impl PlaceArgs {
    /// The device: what is said of the CPU chooses it.
    fn wanted(self, precision: Precision) -> Outcome<Wanted> {
        let MachineArgs { threads, isa } = self.machine;
        let of_cpu = threads.map(|_| "--threads").or(isa.map(|_| "--isa"));
        let choice = match (self.device, of_cpu) {
            (Choice::Cuda(_), Some(flag)) => {
                let message = format!("{flag} with --device {}: it is the CPU's", self.device);
                return Err(Failure::usage(message).hint("leave it out, or take --device cpu"));
            }
            (_, Some(_)) => Choice::Cpu,
            (choice, None) => choice,
        };
        Ok(self.machine.wanted(choice, precision))
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
enum OptimArg {
    Adamw,
    Muon,
}

impl OptimArg {
    fn kind(self) -> OptimizerKind {
        match self {
            OptimArg::Adamw => OptimizerKind::AdamW,
            OptimArg::Muon => OptimizerKind::Muon,
        }
    }
}

pub(crate) fn run(command: Command) -> Outcome {
    match command {
        Command::Training(args) => training::run(&args),
        Command::Tokenizer(args) => tokenizer::run(&args),
        Command::Data(args) => data::run(&args),
        Command::Generation(args) => generation::run(&args),
        Command::Ops(args) => ops(&args),
        Command::Cuda(args) => cuda::run(&args),
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

fn ops(args: &OpsArgs) -> Outcome {
    let mut output = Output::new();
    let all = Isa::ALL.into_iter().filter(|isa| isa.is_available());
    let isas: Vec<Isa> = args.machine.isa.map_or_else(|| all.collect(), |isa| vec![isa]);
    for isa in isas {
        let machine = MachineArgs { isa: Some(isa), ..args.machine };
        peak::<Bf16>(machine, args.json, &mut output)?;
        peak::<f32>(machine, args.json, &mut output)?;
    }
    let read = args.machine.cpu::<f32>()?.peak_bytes();
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
