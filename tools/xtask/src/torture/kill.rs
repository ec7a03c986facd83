//! SIGKILL: many in each run, at any instant and within saves, until the run has come to its end all the same.

use super::aim::{Aim, Moment, Shares, draw};
use super::case::Case;
use super::error::Error;
use super::left;
use super::process::Ended;
use super::random::Random;
use super::reference::{Pace, Reference};
use super::report::Failure;
use super::world::{Recipe, World};
use super::{Figures, MAX_BROKEN_RUNS, Options, Part, figures, in_parallel, ms};

/// Evaluations fall between saves, so that a checkpoint must carry what the last one found.
pub(crate) const RECIPE: Recipe =
    Recipe { name: "kill", max_steps: 125, save_steps: 10, eval_steps: 15, keep: Some(3) };
/// Of each run.
const NUM_KILLS: u64 = 10;
/// Some of those that are aimed at a save miss it.
const SHARES: Shares = Shares { saving: 0.5, evaluating: 0.0, loading: 0.0 };

/// What came of one run or of several.
#[derive(Default)]
pub(crate) struct Tally {
    /// Runs that ended like the uninterrupted one in everything.
    pub(crate) same: u64,
    pub(crate) kills: u64,
    pub(crate) in_saves: u64,
    pub(crate) processes: u64,
    /// Updates done but not saved, where no checkpoint was being written.
    pub(crate) most_lost: u64,
    /// And where one was.
    pub(crate) most_lost_in_saves: u64,
    pub(crate) torn: u64,
    pub(crate) failures: Vec<Failure>,
}

impl Tally {
    pub(crate) fn sum(all: impl IntoIterator<Item = Tally>) -> Self {
        all.into_iter().fold(Tally::default(), |a, b| Tally {
            same: a.same + b.same,
            kills: a.kills + b.kills,
            in_saves: a.in_saves + b.in_saves,
            processes: a.processes + b.processes,
            most_lost: a.most_lost.max(b.most_lost),
            most_lost_in_saves: a.most_lost_in_saves.max(b.most_lost_in_saves),
            torn: a.torn + b.torn,
            failures: a.failures.into_iter().chain(b.failures).collect(),
        })
    }
}

/// Does it.
pub(crate) fn run(world: &World, options: &Options) -> Result<(Figures, Vec<Failure>), Error> {
    let reference = Reference::new(&world.training(&RECIPE, "whole")?)?;
    let one = |number| {
        let mut case =
            Case::new(world.training(&RECIPE, &format!("run-{number}"))?, options, Part::Kill, number);
        let mut random = Random::new(options.seed, "kill", number);
        let aims = draw(&mut random, &reference.pace, NUM_KILLS, SHARES);
        let tally = strike(&mut case, &reference, &aims)?;
        let failures = case.close()?;
        Ok(Tally { same: u64::from(failures.is_empty()), failures, ..tally })
    };
    let sizes = options.sizes;
    let tallies = in_parallel(options, one, |tallies| {
        let kills: u64 = tallies.iter().map(|(_, tally)| tally.kills).sum();
        let in_saves: u64 = tallies.iter().map(|(_, tally)| tally.in_saves).sum();
        let broken = tallies.iter().filter(|(_, tally)| !tally.failures.is_empty()).count();
        (kills >= sizes.kills && in_saves >= sizes.kills_in_saves) || broken >= MAX_BROKEN_RUNS
    })?;
    let runs = tallies.len();
    let tally = Tally::sum(tallies);
    let digest = reference.left.find_in_state("tokens_digest").is_some();
    let pace = reference.pace;
    let found = figures([
        ("kills", tally.kills.into()),
        ("of them within a save", tally.in_saves.into()),
        ("runs", runs.into()),
        ("of them bit for bit like the uninterrupted one", tally.same.into()),
        ("processes", tally.processes.into()),
        ("updates lost at most", tally.most_lost.into()),
        ("when killed within a save", tally.most_lost_in_saves.into()),
        ("logs with a last line cut off", tally.torn.into()),
        ("tokens_digest", if digest { "the same" } else { "no" }.into()),
        ("ms a whole run", ms(pace.whole)),
        ("ms a save", ms(pace.saving)),
    ]);
    Ok((found, tally.failures))
}

/// Kills the processes of a run at the instants given, then lets it come to its end.
pub(crate) fn strike(case: &mut Case<'_>, reference: &Reference, aims: &[Aim]) -> Result<Tally, Error> {
    let pace = &reference.pace;
    let mut tally = Tally::default();
    let mut newest = 0;
    let mut by_itself = None;
    for aim in aims {
        let mut running = case.start()?;
        let training = case.training.clone();
        let mut ended = aim.wait(&mut running, &training, pace, newest)?;
        if ended.is_none() {
            ended = Some(running.kill()?).filter(|ended| *ended != Ended::Signal(9));
        }
        by_itself = ended;
        if by_itself.is_some() {
            break;
        }
        tally.kills += 1;
        let half_written = left::half_written(&training.out)?;
        case.note(format!(
            "killed {:.2} ms after its start, {aim}{}",
            running.elapsed().as_secs_f64() * 1e3,
            half_written.map_or(String::new(), |step| format!(", with checkpoint-{step} half written"))
        ));
        newest = judge(case, pace, aim, half_written, &mut tally)?;
    }
    case.finish(reference, by_itself)?;
    tally.processes = case.num_processes;
    tally.torn = case.num_torn;
    Ok(tally)
}

/// Looks at what a killed process left; returns the newest checkpoint's step.
fn judge(
    case: &mut Case<'_>,
    pace: &Pace,
    aim: &Aim,
    half_written: Option<u64>,
    tally: &mut Tally,
) -> Result<u64, Error> {
    let (newest, metrics) = case.examine()?;
    let lost = metrics.last_step().saturating_sub(newest);
    let most = match half_written {
        Some(_) => &mut tally.most_lost_in_saves,
        None => &mut tally.most_lost,
    };
    *most = lost.max(*most);
    tally.in_saves += u64::from(aim.moment == Moment::Saving && half_written.is_some());
    // A save goes on while the next updates are made, but not past the next save.
    let limit = 2 * pace.save_steps;
    let late = half_written.is_some_and(|step| step.saturating_sub(newest) > pace.save_steps);
    if lost > limit || late {
        let writing = half_written.map_or("none".into(), |step| format!("checkpoint-{step}"));
        case.fail(
            "too many updates are lost",
            format!(
                "{} were done, checkpoint-{newest} is the newest, {writing} was being written; save_steps is {}",
                metrics.last_step(),
                pace.save_steps
            ),
        );
    }
    Ok(newest)
}
