//! `eyas bench cuda`: checks and measures everything on a GPU, once, and writes a report.
//!
//! Each section runs in a process of its own, this same command with a hidden flag: what hangs is ended when its time is
//! up, and a kernel that breaks the card's context breaks one section only. What a section wrote before it failed stays.

mod checks;
mod report;
mod resume;
mod run;
mod speed;

use crate::device::{Choice, gpu};
use crate::errors::{Failure, Outcome};
use crate::format;
use crate::output::note;
use eyas_ops::{Bf16, Device, F16};
use report::Report;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Check and measure a GPU: everything in one go, with a report
///
/// Compares losses and gradients with those of the CPU, runs twice for the same bits, continues on the other device, and
/// measures training and generation of the 124M shape beside the card's measured peaks. A section that fails is reported,
/// and the rest goes on; the status is 1 then.
#[derive(clap::Args)]
#[command(after_long_help = "\
Examples:
  eyas bench cuda --out report.md
  eyas bench cuda --all --minutes 20 --device cuda:1 --json")]
pub(crate) struct CudaArgs {
    /// More rows: Muon, other batches, a smaller shape, generation in every precision
    #[arg(long)]
    all: bool,

    /// File to write the report to, besides stdout; what is done so far is always in it
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,

    /// Time for everything; sections that no longer fit are skipped
    #[arg(long, value_name = "M", default_value_t = 8.0)]
    minutes: f64,

    /// The GPU: `cuda`, or `cuda:1` for another than the first
    #[arg(long, value_name = "DEVICE", default_value_t = Choice::Cuda(0))]
    device: Choice,

    /// One JSON object a row, and one a section that failed or was skipped
    #[arg(long)]
    json: bool,

    /// The section that this process is for
    #[arg(long, hide = true)]
    section: Option<String>,

    /// Whether its table goes on with that of the section before
    #[arg(long, hide = true)]
    continued: bool,
}

/// A part of the report.
struct Section {
    name: &'static str,
    /// The heading, which sections of one table share.
    title: &'static str,
    /// Whether it is done without --all.
    is_usual: bool,
    /// What it takes at least, compiled kernels given.
    least_seconds: u64,
    run: fn(&Target, &mut Report) -> Outcome,
}

/// What a section works on.
struct Target {
    device: Choice,
}

const fn usual(
    name: &'static str,
    title: &'static str,
    least_seconds: u64,
    run: fn(&Target, &mut Report) -> Outcome,
) -> Section {
    Section { name, title, is_usual: true, least_seconds, run }
}

const fn more(
    name: &'static str,
    title: &'static str,
    least_seconds: u64,
    run: fn(&Target, &mut Report) -> Outcome,
) -> Section {
    Section { name, title, is_usual: false, least_seconds, run }
}

const TRAINING: &str = "Training, 124M: the median step";
const GENERATION: &str = "Generation, 124M, one sequence";

/// What matters most comes first: time may run out.
const SECTIONS: &[Section] = &[
    usual("peaks", "Peaks, measured", 3, speed::peaks),
    usual("agreement", "Agreement with the CPU's f32", 5, checks::agreement),
    usual("training-bf16-32x1024", TRAINING, 8, |t, r| speed::training(t, r, speed::B32_T1024)),
    usual("training-bf16-64x1024", TRAINING, 8, |t, r| speed::training(t, r, speed::B64_T1024)),
    usual("training-bf16-32x128", TRAINING, 8, |t, r| speed::training(t, r, speed::TUTORIAL_PLAIN)),
    usual("training-bf16-256x128", TRAINING, 8, |t, r| speed::training(t, r, speed::B256_T128)),
    usual("training-bf16-32x128-dropout", TRAINING, 8, |t, r| speed::training(t, r, speed::TUTORIAL)),
    usual("training-fp16", TRAINING, 8, |t, r| speed::training(t, r, speed::FP16)),
    usual("training-tf32", TRAINING, 10, |t, r| speed::training(t, r, speed::TF32)),
    usual("training-fp32", TRAINING, 15, |t, r| speed::training(t, r, speed::FP32)),
    usual("breakdown-1024", "Operations, bf16, B 32, T 1024", 8, |t, r| {
        speed::operations(t, r, speed::B32_T1024)
    }),
    usual("breakdown-128", "Operations, bf16, B 32, T 128, dropout 0.1", 8, |t, r| {
        speed::operations(t, r, speed::TUTORIAL_ONCE)
    }),
    usual("repeat", "The same bits in two runs", 5, checks::repeat),
    usual("resume", "Going on, on the other device", 8, resume::resume),
    usual("generation-bf16", GENERATION, 8, speed::generation_bf16),
    more("training-muon", TRAINING, 8, |t, r| speed::training(t, r, speed::MUON)),
    more("training-bf16-8x1024", TRAINING, 8, |t, r| speed::training(t, r, speed::B8_T1024)),
    more("training-fp16-tutorial", TRAINING, 8, |t, r| speed::training(t, r, speed::FP16_TUTORIAL)),
    more("breakdown-1024-dropout", "Operations, bf16, B 32, T 1024, dropout 0.1", 8, |t, r| {
        speed::operations(t, r, speed::B32_T1024_DROPOUT)
    }),
    more("generation-fp16", GENERATION, 8, speed::generation_fp16),
    more("generation-fp32", GENERATION, 8, speed::generation_fp32),
];

pub(super) fn run(args: &CudaArgs) -> Outcome {
    if let Some(name) = &args.section {
        return one(args, name);
    }
    let Choice::Cuda(_) = args.device else {
        let message = format!("--device {}: expected cuda, or cuda:N", args.device);
        return Err(Failure::usage(message).hint("the CPU's peaks: eyas bench ops"));
    };
    if !(args.minutes > 0.0 && args.minutes <= 10_000.0) {
        return Err(Failure::usage(format!("--minutes {}: expected a number above 0", args.minutes)));
    }
    let end = Instant::now() + Duration::from_secs_f64(60.0 * args.minutes);
    run::all(args, end, &open(args.device)?)
}

/// Runs one section, on whatever device.
fn one(args: &CudaArgs, name: &str) -> Outcome {
    let names = || SECTIONS.iter().map(|section| section.name).collect::<Vec<_>>().join(", ");
    let unknown = || Failure::usage(format!("--section {name}: expected one of {}", names()));
    let section = SECTIONS.iter().find(|section| section.name == name).ok_or_else(unknown)?;
    (section.run)(&Target { device: args.device }, &mut Report::new(args.json, args.continued))
}

/// Opens the card once with each element type, so that kernels are compiled before the first section, and describes it.
fn open(device: Choice) -> Outcome<String> {
    note(format_args!("opening {device}: kernels are compiled the first time"));
    let (start, missing) = (Instant::now(), || Failure::failed("there is no GPU"));
    let bf16 = gpu::<Bf16>(device, false)?.ok_or_else(missing)?;
    gpu::<f32>(device, false)?;
    gpu::<F16>(device, false)?;
    let taken = format::duration(start.elapsed());
    let driver = driver_version().unwrap_or_else(|| "unknown driver".into());
    Ok(format!("{}; {driver}; opened in {taken} with f32, bf16 and fp16", bf16.describe()))
}

/// The driver in its own words, where the system says (Linux).
fn driver_version() -> Option<String> {
    let text = std::fs::read_to_string("/proc/driver/nvidia/version").ok()?;
    let line = text.lines().next()?.trim_start_matches("NVRM version:");
    Some(line.split_whitespace().collect::<Vec<_>>().join(" "))
}
