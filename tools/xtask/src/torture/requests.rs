//! SIGUSR1: a checkpoint of what has been done, now, and training goes on.
//!
//! A checkpoint whose step is no multiple of save_steps can only be one that was asked for.

use super::case::Case;
use super::error::Error;
use super::left::{self, Metrics};
use super::process::{Ended, Running};
use super::random::Random;
use super::reference::{Reference, has_begun};
use super::report::Failure;
use super::world::{Recipe, World};
use super::{Figures, MAX_BROKEN_RUNS, Options, Part, figures, in_parallel, ms};
use rustix::process::Signal;
use std::time::Duration;

const RECIPE: Recipe = Recipe { name: "usr1", max_steps: 125, save_steps: 20, eval_steps: 15, keep: None };
/// Of each run, at most.
const NUM_REQUESTS: u64 = 5;
/// Of the runs, so many get one while they load.
const WHILE_LOADING: f64 = 0.25;
/// Of the requests, so many wait for a save.
const WHILE_SAVING: f64 = 0.3;

/// What came of one run or of several.
#[derive(Default)]
struct Tally {
    requests: u64,
    while_saving: u64,
    off_the_grid: u64,
    while_loading: u64,
    ended_while_loading: u64,
    longest: Duration,
    failures: Vec<Failure>,
}

impl Tally {
    fn add(self, other: Tally) -> Tally {
        Tally {
            requests: self.requests + other.requests,
            while_saving: self.while_saving + other.while_saving,
            off_the_grid: self.off_the_grid + other.off_the_grid,
            while_loading: self.while_loading + other.while_loading,
            ended_while_loading: self.ended_while_loading + other.ended_while_loading,
            longest: self.longest.max(other.longest),
            failures: self.failures.into_iter().chain(other.failures).collect(),
        }
    }
}

/// Does it.
pub(crate) fn run(world: &World, options: &Options) -> Result<(Figures, Vec<Failure>), Error> {
    let reference = Reference::new(&world.training(&RECIPE, "whole")?)?;
    let one = |number| {
        let training = world.training(&RECIPE, &format!("run-{number}"))?;
        let mut case = Case::new(training, options, Part::Requests, number);
        let mut random = Random::new(options.seed, "usr1", number);
        let mut tally = request(&mut case, &reference, options, &mut random)?;
        tally.failures = case.close()?;
        Ok(tally)
    };
    let tallies = in_parallel(options, one, |tallies| {
        let requests: u64 = tallies.iter().map(|(_, tally)| tally.requests).sum();
        let broken = tallies.iter().filter(|(_, tally)| !tally.failures.is_empty()).count();
        requests >= options.sizes.requests || broken >= MAX_BROKEN_RUNS
    })?;
    let runs = tallies.len();
    let tally = tallies.into_iter().fold(Tally::default(), Tally::add);
    let found = figures([
        ("SIGUSR1s while training", tally.requests.into()),
        ("of them while saving", tally.while_saving.into()),
        ("answered by a checkpoint off the grid of save_steps", tally.off_the_grid.into()),
        ("ms to the checkpoint at most", ms(tally.longest)),
        ("while loading", tally.while_loading.into()),
        ("processes ended by those", tally.ended_while_loading.into()),
        ("runs", runs.into()),
    ]);
    Ok((found, tally.failures))
}

fn request(
    case: &mut Case<'_>,
    reference: &Reference,
    options: &Options,
    random: &mut Random,
) -> Result<Tally, Error> {
    let pace = &reference.pace;
    let mut tally = Tally::default();
    let mut running = case.start()?;
    if random.happens(WHILE_LOADING) {
        running = early(case, running, random.duration(pace.loading), &mut tally)?;
    }
    let training = case.training.clone();
    let mut ended = running.wait_until(&mut |_| has_begun(&training.out))?;
    let pause = pace.whole.saturating_sub(pace.loading) / NUM_REQUESTS as u32;
    for _ in 0..NUM_REQUESTS {
        let until = running.elapsed() + random.duration(pause.mul_f64(1.5));
        let in_a_save = random.happens(WHILE_SAVING);
        ended = running.wait_until(&mut |now| {
            now >= until && (!in_a_save || matches!(left::half_written(&training.out), Ok(Some(_))))
        })?;
        if ended.is_some() {
            break;
        }
        ended = ask(case, &mut running, pace.num_steps, options, &mut tally)?;
        if !case.failures.is_empty() {
            running.kill()?;
            return Ok(tally);
        }
        if ended.is_some() {
            break;
        }
    }
    let ended = match ended {
        Some(ended) => Some(ended),
        None => running.wait(training.limit)?,
    };
    remove_requested(case, pace.num_steps)?;
    // A process that hangs was killed, which is no end of a run.
    case.finish(reference, Some(ended.unwrap_or(Ended::Signal(9))))?;
    Ok(tally)
}

/// Sends one, and waits for its checkpoint. Returns how the process ended, if it did before.
fn ask(
    case: &mut Case<'_>,
    running: &mut Running,
    num_steps: u64,
    options: &Options,
    tally: &mut Tally,
) -> Result<Option<Ended>, Error> {
    let out = case.training.out.clone();
    let known = left::checkpoints(&out)?;
    tally.while_saving += u64::from(left::half_written(&out)?.is_some());
    let done = Metrics::read(&out)?.last_step();
    // A request that comes with a checkpoint of the grid may be answered by that one.
    let coincides = (done..=done + 2).any(|step| step.is_multiple_of(RECIPE.save_steps));
    let at = running.elapsed();
    running.signal(Signal::USR1)?;
    case.note(format!("SIGUSR1 {:.2} ms after its start, after {done} updates", at.as_secs_f64() * 1e3));
    let mut new = None;
    let limit = at + options.stop_within;
    let ended = running.wait_until(&mut |now| {
        let steps = left::checkpoints(&out).unwrap_or_default();
        let answers = |step: &u64| coincides || !step.is_multiple_of(RECIPE.save_steps);
        new = steps.into_iter().find(|step| *step < num_steps && !known.contains(step) && answers(step));
        new.is_some() || now >= limit
    })?;
    match (new, ended) {
        (Some(step), _) => {
            let took = running.elapsed() - at;
            tally.requests += 1;
            tally.off_the_grid += u64::from(!step.is_multiple_of(RECIPE.save_steps));
            tally.longest = tally.longest.max(took);
            case.note(format!("checkpoint-{step} {:.2} ms later", took.as_secs_f64() * 1e3));
        }
        // The end saves anyway: a request that comes with the last update is not told from none.
        (None, Some(Ended::Exit(0))) => {}
        (None, Some(ended)) => {
            tally.requests += 1;
            case.fail("SIGUSR1 ends it", format!("{ended}; it said:\n{}", case.said()));
        }
        (None, None) => {
            tally.requests += 1;
            let detail = format!("none within {:?}; there were {known:?}", options.stop_within);
            case.fail("SIGUSR1 brings no checkpoint", detail);
        }
    }
    Ok(ended)
}

/// A request while it loads. One that ends the process is told of; nothing is lost by it, and the same command goes on.
fn early(
    case: &mut Case<'_>,
    mut running: Running,
    after: Duration,
    tally: &mut Tally,
) -> Result<Running, Error> {
    let out = case.training.out.clone();
    let ended = running.wait_until(&mut |now| now >= after || has_begun(&out))?;
    if ended.is_some() || has_begun(&out) {
        return Ok(running);
    }
    tally.while_loading += 1;
    running.signal(Signal::USR1)?;
    case.note(format!("SIGUSR1 while it loads, {:.2} ms after its start", after.as_secs_f64() * 1e3));
    let ended = running.wait_until(&mut |_| has_begun(&out))?;
    if ended.is_none() {
        return Ok(running);
    }
    tally.ended_while_loading += 1;
    case.start()
}

/// Removes the checkpoints that were asked for; the uninterrupted run has none of them.
fn remove_requested(case: &Case<'_>, num_steps: u64) -> Result<(), Error> {
    let steps = left::checkpoints(&case.training.out)?;
    for step in steps.into_iter().filter(|step| !step.is_multiple_of(RECIPE.save_steps) && *step != num_steps)
    {
        let path = case.training.out.join(format!("checkpoint-{step}"));
        std::fs::remove_dir_all(&path).map_err(Error::io("remove", &path))?;
    }
    Ok(())
}
