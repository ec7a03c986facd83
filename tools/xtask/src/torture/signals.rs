//! SIGINT and SIGTERM: the first asks to stop, and nothing that was done is lost; the second ends at once.
//!
//! A process that has only just been started knows of no signal yet, and ends by it. A shell calls that status 130 or 143
//! too; it is right as long as nothing had been done.
//!
//! A process that the disk or another one keeps from running ends late whatever is sent to it. Each run begins with a SIGKILL
//! within a save, and twice the longest time that any of them took is granted to all stops.

use super::aim::{Aim, Moment, Shares, draw};
use super::case::Case;
use super::error::Error;
use super::left::{self, Metrics};
use super::process::{Ended, Running};
use super::random::Random;
use super::reference::Reference;
use super::report::Failure;
use super::world::{Recipe, World};
use super::{Figures, MAX_BROKEN_RUNS, Options, Part, figures, in_parallel, ms};
use rustix::process::Signal;
use std::sync::Mutex;
use std::time::Duration;

const RECIPE: Recipe =
    Recipe { name: "signals", max_steps: 125, save_steps: 10, eval_steps: 15, keep: Some(3) };
/// Of each run.
const NUM_SIGNALS: u64 = 7;
const SHARES: Shares = Shares { saving: 0.2, evaluating: 0.2, loading: 0.2 };
/// Of the signals, so many are followed by a second one.
const SECOND: f64 = 0.25;

/// What came of one run or of several.
#[derive(Default)]
struct Tally {
    signals: u64,
    while_loading: u64,
    while_saving: u64,
    while_evaluating: u64,
    by_the_signal_itself: u64,
    seconds: u64,
    longest: Duration,
    longest_second: Duration,
    longest_kill: Duration,
    failures: Vec<Failure>,
}

impl Tally {
    fn add(self, other: Tally) -> Tally {
        Tally {
            signals: self.signals + other.signals,
            while_loading: self.while_loading + other.while_loading,
            while_saving: self.while_saving + other.while_saving,
            while_evaluating: self.while_evaluating + other.while_evaluating,
            by_the_signal_itself: self.by_the_signal_itself + other.by_the_signal_itself,
            seconds: self.seconds + other.seconds,
            longest: self.longest.max(other.longest),
            longest_second: self.longest_second.max(other.longest_second),
            longest_kill: self.longest_kill.max(other.longest_kill),
            failures: self.failures.into_iter().chain(other.failures).collect(),
        }
    }
}

/// What a signal led to.
struct Stopped {
    ended: Ended,
    /// From the first signal to the end.
    took: Duration,
    /// From the second signal to the end, if it was still there to get one.
    second_took: Option<Duration>,
}

/// Does it.
pub(crate) fn run(world: &World, options: &Options) -> Result<(Figures, Vec<Failure>), Error> {
    let reference = Reference::new(&world.training(&RECIPE, "whole")?)?;
    let longest_kill = Mutex::new(Duration::ZERO);
    let one = |number| {
        let training = world.training(&RECIPE, &format!("run-{number}"))?;
        let mut case = Case::new(training, options, Part::Signals, number);
        let mut random = Random::new(options.seed, "signals", number);
        let mut tally = strike(&mut case, &reference, options, &longest_kill, &mut random)?;
        tally.failures = case.close()?;
        Ok(tally)
    };
    let tallies = in_parallel(options, one, |tallies| {
        let signals: u64 = tallies.iter().map(|(_, tally)| tally.signals).sum();
        let broken = tallies.iter().filter(|(_, tally)| !tally.failures.is_empty()).count();
        signals >= options.sizes.signals || broken >= MAX_BROKEN_RUNS
    })?;
    let runs = tallies.len();
    let tally = tallies.into_iter().fold(Tally::default(), Tally::add);
    let pace = reference.pace;
    let found = figures([
        ("SIGINTs and SIGTERMs", tally.signals.into()),
        ("while loading", tally.while_loading.into()),
        ("of them before signals were watched", tally.by_the_signal_itself.into()),
        ("while evaluating", tally.while_evaluating.into()),
        ("while saving", tally.while_saving.into()),
        ("runs", runs.into()),
        ("ms to the end at most", ms(tally.longest)),
        ("second signals", tally.seconds.into()),
        ("ms to the end at most after those", ms(tally.longest_second)),
        ("after SIGKILLs", ms(tally.longest_kill)),
        ("ms a whole run", ms(pace.whole)),
        ("ms a save", ms(pace.saving)),
    ]);
    Ok((found, tally.failures))
}

fn strike(
    case: &mut Case<'_>,
    reference: &Reference,
    options: &Options,
    longest_kill: &Mutex<Duration>,
    random: &mut Random,
) -> Result<Tally, Error> {
    let pace = &reference.pace;
    let mut tally = Tally { longest_kill: kill_first(case, reference, random)?, ..Tally::default() };
    let granted = {
        let mut longest = longest_kill.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        *longest = longest.max(tally.longest_kill);
        2 * *longest
    };
    let (mut newest, mut before) = case.examine()?;
    let mut by_itself = None;
    for aim in draw(random, pace, NUM_SIGNALS, SHARES) {
        let (signal, status) = if random.happens(0.5) { (Signal::INT, 130) } else { (Signal::TERM, 143) };
        // As long as a stop takes that saves: sooner or later, both happen.
        let second = random.happens(SECOND).then(|| random.duration(pace.saving.mul_f64(1.5)));
        let mut running = case.start()?;
        let training = case.training.clone();
        by_itself = aim.wait(&mut running, &training, pace, newest)?;
        if by_itself.is_some() {
            break;
        }
        let at = running.elapsed();
        let is_saving = left::half_written(&training.out)?.is_some();
        let Some(stopped) = stop(&mut running, signal, second, training.limit)? else {
            case.note(format!(
                "signal {} {aim}, {:.2} ms after its start",
                status - 128,
                at.as_secs_f64() * 1e3
            ));
            case.fail("it does not end", format!("within {:?}; it said:\n{}", training.limit, case.said()));
            return Ok(tally);
        };
        case.note(describe(&aim, status, at, &stopped));
        if stopped.ended == Ended::Exit(0) {
            // It had no update left to make.
            by_itself = Some(stopped.ended);
            break;
        }
        tally.signals += 1;
        let (now, metrics) = case.examine()?;
        let is_idle = metrics == before;
        tally.while_loading += u64::from(is_idle);
        tally.while_saving += u64::from(!is_idle && is_saving);
        let is_evaluation = aim.moment == Moment::Evaluating;
        tally.while_evaluating +=
            u64::from(is_evaluation && left::is_evaluating(&training.out, pace.eval_steps));
        tally.by_the_signal_itself += u64::from(stopped.ended == Ended::Signal(status - 128));
        tally.seconds += u64::from(stopped.second_took.is_some());
        let after_one = if stopped.second_took.is_some() { Duration::ZERO } else { stopped.took };
        tally.longest = tally.longest.max(after_one);
        tally.longest_second = tally.longest_second.max(stopped.second_took.unwrap_or_default());
        judge_end(case, options, granted, status, is_idle, &stopped);
        if stopped.second_took.is_none() && !is_idle {
            judge_saved(case, now, &metrics)?;
        }
        (newest, before) = (now, metrics);
    }
    case.finish(reference, by_itself)?;
    Ok(tally)
}

/// Sends a signal, and another one if the process is still there by then. `None` if it hangs.
fn stop(
    running: &mut Running,
    signal: Signal,
    second: Option<Duration>,
    limit: Duration,
) -> Result<Option<Stopped>, Error> {
    let first_at = running.elapsed();
    running.signal(signal)?;
    let mut second_at = None;
    if let Some(delay) = second
        && running.wait_until(&mut |now| now >= first_at + delay)?.is_none()
    {
        second_at = Some(running.elapsed());
        running.signal(signal)?;
    }
    let ended = running.wait(limit)?;
    let now = running.elapsed();
    Ok(ended.map(|ended| Stopped {
        ended,
        took: now - first_at,
        second_took: second_at.map(|second_at| now - second_at),
    }))
}

fn describe(aim: &Aim, status: i32, at: Duration, stopped: &Stopped) -> String {
    let second = stopped.second_took.map_or(String::new(), |took| {
        format!(", and again {:.2} ms later", (stopped.took - took).as_secs_f64() * 1e3)
    });
    format!(
        "signal {} {:.2} ms after its start, {aim}{second}: {} after {:.2} ms",
        status - 128,
        at.as_secs_f64() * 1e3,
        stopped.ended,
        stopped.took.as_secs_f64() * 1e3
    )
}

/// How long a SIGKILL within a save takes to end the process.
fn kill_first(case: &mut Case<'_>, reference: &Reference, random: &mut Random) -> Result<Duration, Error> {
    let delay = random.duration(reference.pace.saving);
    let aim = Aim { at: reference.pace.loading, moment: Moment::Saving, delay };
    let mut running = case.start()?;
    let training = case.training.clone();
    aim.wait(&mut running, &training, &reference.pace, 0)?;
    let at = running.elapsed();
    running.kill()?;
    case.note(format!("killed {:.2} ms after its start, {aim}", at.as_secs_f64() * 1e3));
    Ok(running.elapsed() - at)
}

/// Status and time of a stop.
fn judge_end(
    case: &mut Case<'_>,
    options: &Options,
    granted: Duration,
    status: i32,
    is_idle: bool,
    stopped: &Stopped,
) {
    let by_itself = stopped.ended == Ended::Signal(status - 128);
    if stopped.ended != Ended::Exit(status) && !(by_itself && is_idle) {
        let detail = format!("expected {status}, got {}; it said:\n{}", stopped.ended, case.said());
        case.fail("a stopped process ends with another status", detail);
    }
    match stopped.second_took {
        Some(took) if took > options.second_within + granted => {
            let detail = format!("expected within {:?}, got {took:?}", options.second_within + granted);
            case.fail("a second signal does not end it at once", detail);
        }
        None if stopped.took > options.stop_within + granted => {
            let detail =
                format!("expected within {:?}, got {:?}", options.stop_within + granted, stopped.took);
            case.fail("a stop takes too long", detail);
        }
        _ => {}
    }
}

/// After one signal, everything that was done is in a checkpoint, and nothing is half-written.
fn judge_saved(case: &mut Case<'_>, newest: u64, metrics: &Metrics) -> Result<(), Error> {
    let done = metrics.last_step();
    if newest != done {
        case.fail(
            "a stop loses updates",
            format!("{done} were done, checkpoint-{newest} is the newest; it said:\n{}", case.said()),
        );
    }
    let leftovers = left::leftovers(&case.training.out)?;
    if !leftovers.is_empty() {
        case.fail("a stop leaves hidden folders", leftovers.join(", "));
    }
    Ok(())
}
