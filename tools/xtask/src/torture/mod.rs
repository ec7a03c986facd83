//! `cargo xtask torture`: proves from the outside that `eyas train` and `eyas data prepare` lose nothing, whatever happens to
//! them.
//!
//! A part does the same thing to many runs, of a tiny network or of a small source, and compares each with one that was left
//! alone, bit by bit.
//! Everything is drawn from a seed; what a machine's speed decides (which instruction an instant meets) is not, so that a
//! failure says what was done and leaves the run's folder.
//!
//! What this cannot prove: that what was written survives a power cut. SIGKILL leaves the system's cache as it is.

mod aim;
mod background;
mod case;
mod damage;
mod error;
mod kill;
mod left;
mod long;
mod page;
mod prepare;
mod process;
mod random;
mod reference;
mod report;
mod requests;
mod signals;
mod world;

pub use error::Error;
pub use long::Long;
pub use report::{Failure, Report};

use serde_json::{Map, Value};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};
use world::World;

/// What is done to runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// SIGKILL at any instant, and within saves.
    Kill,
    /// SIGINT and SIGTERM while loading, training, evaluating and saving; a second one.
    Signals,
    /// SIGUSR1: a checkpoint now, and on.
    Requests,
    /// Flipped bits and cut files in the newest checkpoint.
    Damage,
    /// SIGKILL while documents are prepared.
    Prepare,
    /// What checkpoints cost a run that is left alone.
    Background,
}

/// How much of it.
#[derive(Clone, Copy, Debug)]
pub struct Sizes {
    /// SIGKILLs.
    pub kills: u64,
    /// Of them within a save.
    pub kills_in_saves: u64,
    /// SIGINTs and SIGTERMs.
    pub signals: u64,
    /// SIGUSR1s.
    pub requests: u64,
    /// Damaged places.
    pub damages: u64,
    /// SIGKILLs while documents are prepared.
    pub prepare_kills: u64,
    /// Pairs of runs that are timed.
    pub pairs: u64,
}

impl Sizes {
    /// What a release is proved with.
    pub const FULL: Sizes = Sizes {
        kills: 300,
        kills_in_saves: 100,
        signals: 200,
        requests: 50,
        damages: 1000,
        prepare_kills: 100,
        pairs: 5,
    };
    /// What every change is tried with: a minute or two on two cores.
    pub const SMALL: Sizes = Sizes {
        kills: 24,
        kills_in_saves: 8,
        signals: 16,
        requests: 6,
        damages: 24,
        prepare_kills: 6,
        pairs: 1,
    };
}

/// How to go about it.
#[derive(Clone, Debug)]
pub struct Options {
    /// The eyas to try.
    pub binary: PathBuf,
    /// The folder to work in, which exists and is empty.
    pub root: PathBuf,
    /// Of all that is drawn.
    pub seed: u64,
    /// How much.
    pub sizes: Sizes,
    /// Runs at a time.
    pub jobs: usize,
    /// Only this run of each part: for a failure that is to be seen again.
    pub only_run: Option<u64>,
    /// Keep the folders of runs that ended well too.
    pub keep: bool,
    /// The longest time from a signal to the end of the process.
    pub stop_within: Duration,
    /// The longest time from the second signal to the end.
    pub second_within: Duration,
}

impl Options {
    /// The usual ones.
    pub fn new(binary: &Path, root: &Path, sizes: Sizes) -> Self {
        Options {
            binary: binary.into(),
            root: root.into(),
            seed: 1,
            sizes,
            jobs: thread::available_parallelism().map_or(1, usize::from),
            only_run: None,
            keep: false,
            stop_within: Duration::from_secs(1),
            second_within: Duration::from_millis(100),
        }
    }
}

/// Failures of this many runs are enough to tell of.
const MAX_BROKEN_RUNS: usize = 50;

impl Part {
    /// All of them, in order.
    pub const ALL: [Part; 6] =
        [Part::Kill, Part::Signals, Part::Requests, Part::Damage, Part::Prepare, Part::Background];

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Part::Kill => "kill",
            Part::Signals => "signals",
            Part::Requests => "usr1",
            Part::Damage => "damage",
            Part::Prepare => "prepare",
            Part::Background => "background",
        }
    }

    /// Does it. What eyas does wrong is in the report.
    ///
    /// # Errors
    /// Whatever keeps the harness from working: files, processes, an uninterrupted run that fails.
    pub fn run(self, options: &Options) -> Result<Report, Error> {
        let begun = Instant::now();
        let root = options.root.join(self.name());
        std::fs::create_dir_all(&root).map_err(Error::io("create", &root))?;
        let world = World::new(&options.binary, &root, options.seed)?;
        let (figures, failures) = match self {
            Part::Kill => kill::run(&world, options)?,
            Part::Signals => signals::run(&world, options)?,
            Part::Requests => requests::run(&world, options)?,
            Part::Damage => damage::run(&world, options)?,
            Part::Prepare => prepare::run(&world, options)?,
            Part::Background => background::run(&world, options)?,
        };
        if failures.is_empty() && !options.keep {
            std::fs::remove_dir_all(&root).map_err(Error::io("remove", &root))?;
        }
        let seconds = begun.elapsed().as_secs_f64();
        Ok(Report { part: self.name(), seed: options.seed, seconds, figures, failures })
    }
}

/// Figures by name.
type Figures = Map<String, Value>;

/// Figures as a map, in order.
fn figures<const N: usize>(pairs: [(&str, Value); N]) -> Figures {
    pairs.into_iter().map(|(name, value)| (name.to_string(), value)).collect()
}

/// Milliseconds, to a hundredth.
fn ms(time: Duration) -> Value {
    Value::from((time.as_secs_f64() * 1e5).round() / 1e2)
}

/// Does runs 0, 1, ... on several threads until `is_enough` of their results. Returns the results in the order of runs.
fn in_parallel<T: Send>(
    options: &Options,
    run: impl Fn(u64) -> Result<T, Error> + Sync,
    is_enough: impl Fn(&[(u64, T)]) -> bool + Sync,
) -> Result<Vec<T>, Error> {
    if let Some(only) = options.only_run {
        return Ok(vec![run(only)?]);
    }
    let (next, results, error) = (AtomicU64::new(0), Mutex::new(Vec::new()), Mutex::new(None));
    let lock = || results.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let failed = || error.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    thread::scope(|scope| {
        for _ in 0..options.jobs.max(1) {
            scope.spawn(|| {
                while failed().is_none() && !is_enough(&lock()) {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    match run(number) {
                        Ok(result) => lock().push((number, result)),
                        Err(found) => *failed() = Some(found),
                    }
                }
            });
        }
    });
    if let Some(error) = error.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner) {
        return Err(error);
    }
    let mut results = results.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    results.sort_by_key(|(number, _)| *number);
    Ok(results.into_iter().map(|(_, result)| result).collect())
}
