//! `cargo xtask`: what the repository does with itself. Prints; the library does the work.

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "this is a command line")]

use clap::{Args, Parser, Subcommand, ValueEnum};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use xtask::torture::{Long, Options, Part, Report, Sizes};

#[derive(Parser)]
#[command(name = "cargo xtask", arg_required_else_help = true, max_term_width = 120)]
struct Cli {
    #[command(subcommand)]
    command: Task,
}

#[derive(Subcommand)]
enum Task {
    Torture(Torture),
}

/// Prove that `eyas train` and `eyas data prepare` lose nothing, whatever happens to them
///
/// Trains a tiny network many times in a temporary folder, does something to each run, lets the same command go on, and
/// compares the end with that of an uninterrupted run, bit by bit: losses, evaluations, place in the data, weights, the
/// last checkpoint, samples. Prepares a small source in the same way, and compares the shards. Each part prints a line with its figures and its seed. At a failure it says what was done
/// and how to do it again, leaves the run's folder, and ends with status 1.
#[derive(Args)]
#[command(after_help = "\
Examples:
  cargo xtask torture                           all parts in full size
  cargo xtask torture --small                   all parts in a minute or two
  cargo xtask torture --only kill --kills 1000  a third of the kills are within a save
  cargo xtask torture --only kill --run 7       run 7 alone, as a failure says
  cargo xtask torture --only prepare            preparation of data alone
  cargo xtask torture --long --minutes 30       one long run twice, once killed ten times
  TMPDIR=/dev/shm cargo xtask torture           in memory, where a checkpoint is written faster")]
struct Torture {
    /// Only these parts
    #[arg(long, value_enum, value_delimiter = ',', value_name = "PART,...")]
    only: Vec<Name>,
    /// The size for every change instead of the full one
    #[arg(long)]
    small: bool,
    /// Seed of all that is drawn
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// Processes to kill, a third of them within a save [default: 300, small: 24]
    #[arg(long, value_name = "N")]
    kills: Option<u64>,
    /// SIGINTs and SIGTERMs to send [default: 200, small: 16]
    #[arg(long, value_name = "N")]
    signals: Option<u64>,
    /// SIGUSR1s to send [default: 50, small: 6]
    #[arg(long, value_name = "N")]
    usr1: Option<u64>,
    /// Places to damage [default: 1000, small: 24]
    #[arg(long, value_name = "N")]
    damages: Option<u64>,
    /// Preparations of data to kill [default: 100, small: 6]
    #[arg(long, value_name = "N")]
    prepare_kills: Option<u64>,
    /// Only this run of each part
    #[arg(long, value_name = "N")]
    run: Option<u64>,
    /// Runs at a time [default: one for each core]
    #[arg(long, value_name = "N")]
    jobs: Option<usize>,
    /// The eyas to try [default: target/release/eyas, which is built]
    #[arg(long, value_name = "PATH")]
    binary: Option<PathBuf>,
    /// Longest time from a signal to the end of the process, in milliseconds
    #[arg(long, value_name = "MS", default_value_t = 1000)]
    stop_within: u64,
    /// Instead of the parts: a long run trained twice, once left alone and once killed
    #[arg(long, conflicts_with_all = ["only", "small", "signals", "usr1", "damages", "prepare_kills", "run", "jobs"])]
    long: bool,
    /// With --long: about how long the run takes that is left alone
    #[arg(long, value_name = "N", default_value_t = 30.0, requires = "long")]
    minutes: f64,
    /// With --long: a configuration to train instead of the built-in one; its output_dir is replaced
    #[arg(long, value_name = "TOML", requires = "long", conflicts_with = "minutes")]
    config: Option<PathBuf>,
    /// One JSON object a part
    #[arg(long)]
    json: bool,
    /// Keep the folder, whatever comes of it
    #[arg(long)]
    keep: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum Name {
    /// SIGKILL at any instant, and within saves
    Kill,
    /// SIGINT and SIGTERM, and a second one
    Signals,
    /// SIGUSR1: a checkpoint now, and on
    Usr1,
    /// Flipped bits and cut files in the newest checkpoint
    Damage,
    /// SIGKILL while data are prepared
    Prepare,
    /// What checkpoints cost; a figure, no verdict
    Background,
}

impl From<Name> for Part {
    fn from(name: Name) -> Self {
        match name {
            Name::Kill => Part::Kill,
            Name::Signals => Part::Signals,
            Name::Usr1 => Part::Requests,
            Name::Damage => Part::Damage,
            Name::Prepare => Part::Prepare,
            Name::Background => Part::Background,
        }
    }
}

fn main() -> ExitCode {
    let Task::Torture(torture) = Cli::parse().command;
    match run(&torture) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Whether all went well.
fn run(torture: &Torture) -> Result<bool, Box<dyn std::error::Error>> {
    let binary = match &torture.binary {
        Some(path) => std::path::absolute(path)?,
        None => build()?,
    };
    let folder = tempfile::Builder::new().prefix("eyas-torture-").tempdir()?;
    let options = options(torture, &binary, folder.path());
    let mut is_ok = true;
    let mut tell = |report: &Report| -> Result<(), serde_json::Error> {
        is_ok &= report.is_ok();
        match torture.json {
            true => println!("{}", serde_json::to_string(report)?),
            false => println!("{report}"),
        }
        Ok(())
    };
    let told: Result<(), Box<dyn std::error::Error>> = (|| {
        if torture.long {
            let kills = torture.kills.unwrap_or(10);
            let long = Long { config: torture.config.clone(), minutes: torture.minutes, kills };
            tell(&long.run(&options)?)?;
            return Ok(());
        }
        let named: Vec<Part> = torture.only.iter().copied().map(Part::from).collect();
        for part in Part::ALL.into_iter().filter(|part| named.is_empty() || named.contains(part)) {
            tell(&part.run(&options)?)?;
        }
        Ok(())
    })();
    if told.is_err() || !is_ok || torture.keep {
        eprintln!("everything is left in {}", folder.keep().display());
    }
    told.map(|()| is_ok)
}

fn options(torture: &Torture, binary: &Path, root: &Path) -> Options {
    let usual = if torture.small { Sizes::SMALL } else { Sizes::FULL };
    let kills = torture.kills.unwrap_or(usual.kills);
    let sizes = Sizes {
        kills,
        kills_in_saves: kills / 3,
        signals: torture.signals.unwrap_or(usual.signals),
        requests: torture.usr1.unwrap_or(usual.requests),
        damages: torture.damages.unwrap_or(usual.damages),
        prepare_kills: torture.prepare_kills.unwrap_or(usual.prepare_kills),
        pairs: usual.pairs,
    };
    let usual = Options::new(binary, root, sizes);
    Options {
        seed: torture.seed,
        jobs: torture.jobs.unwrap_or(usual.jobs),
        only_run: torture.run,
        keep: torture.keep,
        stop_within: std::time::Duration::from_millis(torture.stop_within),
        ..usual
    }
}

/// Builds eyas, and says where it is: beside this program, which cargo put there.
fn build() -> Result<PathBuf, Box<dyn std::error::Error>> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let status = Command::new(cargo).args(["build", "--release", "--quiet", "--package", "eyas"]).status()?;
    if !status.success() {
        return Err("eyas does not build".into());
    }
    let own = std::env::current_exe()?;
    let target = own.parent().and_then(Path::parent).ok_or("this program has no folder")?;
    let binary = target.join("release").join("eyas");
    match binary.exists() {
        true => Ok(binary),
        false => Err(format!("{} is not there; name one with --binary", binary.display()).into()),
    }
}
