//! `eyas data prepare` killed by SIGKILL, several times in each run, until the same command has come to its end all the same:
//! its shards must be byte for byte those of one that was left alone, and nothing else may stay.
//!
//! A source of tens of megabytes is over before work becomes durable for the first time, so that the command is given a flag
//! that makes it durable after every batch. What a process went on behind it tells itself, at its end or in its journal; it
//! must be what the journal said that the process before had left.
//!
//! Half of the runs are to replace older shards. Whatever the instant, these or the new ones are there, whole, but for a few
//! microseconds between two renames, when the older ones are in the hidden folder. No signal from outside is as fast: where
//! a process was killed just before, the first rename is done for it.

mod hidden;
mod moment;
mod source;

use super::case::Case;
use super::damage::{copy_folder, list};
use super::error::Error;
use super::left::{Left, without_clock};
use super::process::{Ended, HANG, Running};
use super::random::Random;
use super::reference::Spans;
use super::report::Failure;
use super::world::{Training, World};
use super::{Figures, MAX_BROKEN_RUNS, Options, Part, figures, in_parallel, ms};
use hidden::{Hidden, Position};
use moment::{Aim, Moment, Pace, draw};
use serde_json::Value;
use std::fs::{self, File};
use std::path::PathBuf;
use std::process::Command;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// Ways to prepare, of which each run has one in turn.
const RECIPES: [Recipe; 4] = [
    Recipe { name: "pack", flags: "--mode pack --validation-one-in 5 --fim-rate 0.5" },
    Recipe { name: "near-chunk", flags: "--mode chunk --context-length 32 --skip-near-duplicates" },
    Recipe { name: "chunk", flags: "--mode chunk --context-length 32" },
    Recipe { name: "near-pack", flags: "--mode pack --skip-near-duplicates --validation-one-in 5" },
];
/// Fewer than the tokens of one batch of the source.
const DURABLE_TOKENS: u64 = 100_000;
/// Of each run.
const NUM_KILLS: u64 = 4;
/// Of runs, so many find older shards in their place.
const OLDER: f64 = 0.5;
/// Threads of a process are drawn up to this: bytes do not depend on them.
const MAX_THREADS: u64 = 2;
/// What a run's folder holds at its end.
const KEPT: [&str; 3] = ["out", "stderr", "stdout"];

/// A way to prepare.
struct Recipe {
    name: &'static str,
    flags: &'static str,
}

impl Recipe {
    /// The command that prepares `data`, which is started in a folder beside theirs.
    fn arguments(&self, data: &[&str]) -> Vec<String> {
        let data = data.join(" ");
        let command = format!(
            "data prepare {data} --tokenizer ../fim-tokenizer --out out --json --durable-tokens {DURABLE_TOKENS} {}",
            self.flags
        );
        command.split_whitespace().map(Into::into).collect()
    }
}

/// A preparation that was left alone.
struct Reference {
    arguments: Vec<String>,
    left: Left,
    /// What it told, but for times and what it went on behind.
    told: Value,
    pace: Pace,
    /// Shards of other data, made by the same flags.
    older: PathBuf,
    older_left: Left,
}

/// What came of one run or of several.
#[derive(Default)]
struct Tally {
    same: u64,
    kills: u64,
    in_journals: u64,
    in_places: u64,
    moved_aside: u64,
    /// Processes that told what they went on behind.
    went_on: u64,
    /// Processes that found nothing to go on from.
    from_nothing: u64,
    /// Processes that found something, and were killed before they could tell of it.
    untold: u64,
    failures: Vec<Failure>,
}

impl Tally {
    fn add(self, other: Tally) -> Tally {
        Tally {
            same: self.same + other.same,
            kills: self.kills + other.kills,
            in_journals: self.in_journals + other.in_journals,
            in_places: self.in_places + other.in_places,
            moved_aside: self.moved_aside + other.moved_aside,
            went_on: self.went_on + other.went_on,
            from_nothing: self.from_nothing + other.from_nothing,
            untold: self.untold + other.untold,
            failures: self.failures.into_iter().chain(other.failures).collect(),
        }
    }
}

/// What is where the shards are to be.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Place {
    Nothing,
    /// Nothing, and older shards in the hidden folder.
    Aside,
    Older,
    /// Those of the uninterrupted preparation.
    New,
    /// None of these.
    Other(String),
}

/// What a process left.
#[derive(Clone, Debug)]
struct State {
    durable: Position,
    /// Documents that the process which wrote the last journal had gone on behind.
    num_resumed: u64,
    place: Place,
    /// Whether the shards are on their way to their place, or there with something left to remove.
    is_placing: bool,
}

/// Does it.
pub(crate) fn run(world: &World, options: &Options) -> Result<(Figures, Vec<Failure>), Error> {
    source::write_all(&world.root.join("source"), options.seed)?;
    world.command("tokenizer train code --vocab-size 400 --fim --out fim-tokenizer")?;
    let references = References { world, made: Mutex::default() };
    let one = |number| {
        let reference = references.of(number)?;
        let training = world.command_in(&format!("run-{number}"), reference.arguments.clone())?;
        let mut case = Case::new(training, options, Part::Prepare, number);
        let mut random = Random::new(options.seed, "prepare", number);
        let tally = strike(&mut case, &reference, &mut random)?;
        let failures = case.close()?;
        Ok(Tally { same: u64::from(failures.is_empty()), failures, ..tally })
    };
    let tallies = in_parallel(options, one, |tallies| {
        let kills: u64 = tallies.iter().map(|(_, tally)| tally.kills).sum();
        let broken = tallies.iter().filter(|(_, tally)| !tally.failures.is_empty()).count();
        kills >= options.sizes.prepare_kills || broken >= MAX_BROKEN_RUNS
    })?;
    let runs = tallies.len();
    let tally = tallies.into_iter().fold(Tally::default(), Tally::add);
    let paces = references.paces();
    let most_between = paces.iter().map(Pace::most_between).max();
    let longest = |of: &dyn Fn(&Pace) -> Duration| ms(paces.iter().map(of).max().unwrap_or_default());
    let found = figures([
        ("kills", tally.kills.into()),
        ("of them while a journal was replaced", tally.in_journals.into()),
        ("while the shards took their place", tally.in_places.into()),
        ("before it, with the older ones moved aside", tally.moved_aside.into()),
        ("runs", runs.into()),
        ("of them byte for byte like the uninterrupted one", tally.same.into()),
        ("processes that went on", tally.went_on.into()),
        ("from nothing", tally.from_nothing.into()),
        ("killed before they could tell", tally.untold.into()),
        ("documents from one journal to the next at most", most_between.into()),
        ("ms the longest whole run", longest(&|pace| pace.whole)),
        ("ms a journal", longest(&|pace| pace.replacing)),
        ("ms from the index to the end", longest(&|pace| pace.placing)),
    ]);
    Ok((found, tally.failures))
}

/// The preparations that were left alone, each made when the first run needs it.
struct References<'a> {
    world: &'a World,
    made: Mutex<[Option<Arc<Reference>>; RECIPES.len()]>,
}

impl References<'_> {
    /// The one for a run.
    fn of(&self, run: u64) -> Result<Arc<Reference>, Error> {
        let recipe = (run % RECIPES.len() as u64) as usize;
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        let reference = match made[recipe].take() {
            Some(reference) => reference,
            None => Arc::new(Reference::new(self.world, &RECIPES[recipe])?),
        };
        Ok(made[recipe].insert(reference).clone())
    }

    /// Where the time of those went that were made.
    fn paces(&self) -> Vec<Pace> {
        let made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        made.iter().flatten().map(|reference| reference.pace.clone()).collect()
    }
}

impl Reference {
    /// Prepares without disturbance, and watches.
    fn new(world: &World, recipe: &Recipe) -> Result<Self, Error> {
        let older = world.command_in(&format!("older-{}", recipe.name), recipe.arguments(&["../code"]))?;
        watch(&older)?;
        let data = source::NAMES.map(|name| format!("../source/{name}"));
        let arguments = recipe.arguments(&data.each_ref().map(String::as_str));
        let training = world.command_in(&format!("whole-{}", recipe.name), arguments.clone())?;
        let pace = watch(&training)?;
        if pace.durable.len() < 3 {
            let problem = format!("left {} journals; several are needed", pace.durable.len());
            return Err(Error::Reference { path: training.folder, problem });
        }
        let (older_left, left) = (Left::read(&older.out)?, Left::read(&training.out)?);
        Ok(Reference { arguments, left, told: told(&training).0, pace, older: older.out, older_left })
    }

    /// What a process of a run left.
    fn state(&self, training: &Training) -> Result<State, Error> {
        let hidden = Hidden::beside(&training.out);
        let (durable, num_resumed) = hidden.position();
        let place = match training.out.exists() {
            false if hidden.holds_older() => Place::Aside,
            false => Place::Nothing,
            true => {
                let left = Left::read(&training.out)?;
                let differences = self.left.differences(&left);
                match differences.first() {
                    None => Place::New,
                    Some(_) if self.older_left.differences(&left).is_empty() => Place::Older,
                    Some((file, how)) => Place::Other(format!("{file} {how}")),
                }
            }
        };
        let is_placing = hidden.exists() && (hidden.holds_older() || place == Place::New);
        Ok(State { durable, num_resumed, place, is_placing })
    }
}

/// Starts a process of it with so many threads.
fn start(training: &Training, num_threads: u64) -> Result<Running, Error> {
    let path = training.folder.join("stdout");
    let stdout = File::create(&path).map_err(Error::io("write", &path))?;
    let mut command = Command::new(&training.binary);
    command.args(&training.arguments).current_dir(&training.cwd).stdout(stdout);
    command.env("RAYON_NUM_THREADS", num_threads.to_string());
    Running::spawn(&mut command, training.folder.join("stderr"))
}

/// Lets a preparation come to its end, and notes when it does what.
fn watch(training: &Training) -> Result<Pace, Error> {
    let hidden = Hidden::beside(&training.out);
    let mut running = start(training, MAX_THREADS)?;
    let (mut loading, mut index, mut placed, mut changed) = (None, None, None, None);
    let (mut replacing, mut durable) = (Spans::default(), Vec::new());
    let ended = running.wait_until(&mut |now| {
        if loading.is_none() && hidden.exists() {
            loading = Some(now);
        }
        if index.is_none() && hidden.index_begun().is_some() {
            index = Some(now);
        }
        if index.is_some() && placed.is_none() && !hidden.has_shards() {
            placed = Some(now);
        }
        replacing.see(now, hidden.is_replacing());
        let last = hidden.journal_changed();
        if last.is_some() && last != changed {
            changed = last;
            durable.push((hidden.position().0, now));
        }
        false
    })?;
    if ended != Some(Ended::Exit(0)) {
        return Err(Error::Command {
            command: format!("{} {}", training.binary.display(), training.arguments.join(" ")),
            ended: ended.map_or("nothing".into(), |ended| ended.to_string()),
            stderr: running.said(),
        });
    }
    let whole = running.elapsed();
    // A look between the removal of a journal and that of the folder sees less than the one before.
    durable.retain(|(position, _)| *position != Position::default());
    Ok(Pace {
        loading: loading.unwrap_or(whole),
        whole,
        replacing: replacing.median(),
        placing: whole.saturating_sub(index.unwrap_or(whole)),
        removing: whole.saturating_sub(placed.unwrap_or(whole)),
        durable,
    })
}

/// What a process told at its end: all but times, and behind how many documents it went on.
fn told(training: &Training) -> (Value, u64) {
    let text = fs::read(training.folder.join("stdout")).unwrap_or_default();
    let mut told: Value = serde_json::from_slice(&text).unwrap_or_default();
    let num_resumed = told.as_object_mut().and_then(|told| told.remove("num_resumed_documents"));
    (without_clock(told), num_resumed.and_then(|number| number.as_u64()).unwrap_or(0))
}

/// Kills the processes of a run at instants that are drawn, then lets it come to its end.
fn strike(case: &mut Case<'_>, reference: &Reference, random: &mut Random) -> Result<Tally, Error> {
    let training = case.training.clone();
    case.note(format!("eyas {}", training.arguments.join(" ")));
    if random.happens(OLDER) {
        copy_folder(&reference.older, &training.out)?;
        case.note("older shards are in its place".into());
    }
    let hidden = Hidden::beside(&training.out);
    let mut tally = Tally::default();
    let mut before = reference.state(&training)?;
    let mut by_itself = None;
    for aim in draw(random, &reference.pace, NUM_KILLS) {
        let num_threads = 1 + random.below(MAX_THREADS);
        let mut running = start(&training, num_threads)?;
        let mut ended = aim.wait(&mut running, &hidden, &reference.pace, before.durable)?;
        if ended.is_none() {
            ended = Some(running.kill()?).filter(|ended| *ended != Ended::Signal(9));
        }
        by_itself = ended;
        if by_itself.is_some() {
            break;
        }
        tally.kills += 1;
        let at = running.elapsed().as_secs_f64() * 1e3;
        let after = reference.state(&training)?;
        case.note(describe(&aim, at, num_threads, &after));
        tally.in_journals += u64::from(hidden.is_replacing());
        tally.in_places += u64::from(after.is_placing && !before.is_placing);
        judge(case, &before, &after, &mut tally);
        before = after;
        if aim.moment == Moment::Placing && before.place == Place::Older && is_ready(reference, &hidden)? {
            fs::rename(&training.out, hidden.aside()).map_err(Error::io("rename", &training.out))?;
            case.note("the older shards were moved aside, as that process was about to do".into());
            tally.moved_aside += 1;
            (before.place, before.is_placing) = (Place::Aside, true);
        }
    }
    let ended = match by_itself {
        Some(ended) => Some(ended),
        None => {
            let ended = start(&training, 1 + random.below(MAX_THREADS))?.wait(HANG)?;
            case.note("then it was left to its end".into());
            ended
        }
    };
    finish(case, reference, &before, ended, &mut tally)?;
    Ok(tally)
}

/// Whether the shards are whole, but not in their place, and nothing lies where older ones would go.
fn is_ready(reference: &Reference, hidden: &Hidden) -> Result<bool, Error> {
    let grown = Left::read(&hidden.shards())?;
    Ok(!hidden.holds_older() && reference.left.differences(&grown).is_empty())
}

fn describe(aim: &Aim, at: f64, num_threads: u64, after: &State) -> String {
    let Position { num_signatures, num_documents } = after.durable;
    format!(
        "killed {at:.2} ms after its start, threads {num_threads}, {aim}: {num_signatures} signatures and \
         {num_documents} documents are durable, and in the place of the shards is {:?}",
        after.place
    )
}

/// Looks at what a killed process left where another one had left something.
fn judge(case: &mut Case<'_>, before: &State, after: &State, tally: &mut Tally) {
    match (&before.place, &after.place) {
        (_, Place::Other(how)) => {
            case.fail("half-made shards are to be seen", how.clone());
        }
        (Place::Nothing, Place::Nothing) | (_, Place::New) => {}
        (Place::Older | Place::Aside, Place::Older) => {}
        (Place::Older | Place::Aside | Place::New, Place::Aside) => {}
        (was, is) => {
            let detail = format!("in their place was {was:?}, now it is {is:?}");
            case.fail("a kill takes away the shards that were there", detail);
        }
    }
    // Once the new shards are in their place, all that was durable is to be removed.
    if after.place != Place::New && before.place != Place::New && after.durable < before.durable {
        let detail = format!("{:?} was durable, now it is {:?}", before.durable, after.durable);
        case.fail("what was durable is gone", detail);
    }
    if after.durable.num_documents > before.durable.num_documents {
        judge_resumed(case, before, after.num_resumed, tally);
    } else if before.durable == Position::default() {
        tally.from_nothing += 1;
    } else {
        tally.untold += 1;
    }
}

/// A process tells behind how many documents it went on.
fn judge_resumed(case: &mut Case<'_>, before: &State, num_resumed: u64, tally: &mut Tally) {
    let expected = before.durable.num_documents;
    tally.went_on += u64::from(num_resumed > 0);
    tally.from_nothing += u64::from(before.durable == Position::default());
    // Where only the first reading was under way, it has not the words to tell.
    tally.untold += u64::from(num_resumed == 0 && before.durable != Position::default());
    if num_resumed != expected {
        let detail = format!(
            "{expected} documents were durable, it went on behind {num_resumed}; it said:\n{}",
            case.said()
        );
        case.fail("it did not go on from what was durable", detail);
    }
}

/// Compares a run that has come to its end.
fn finish(
    case: &mut Case<'_>,
    reference: &Reference,
    before: &State,
    ended: Option<Ended>,
    tally: &mut Tally,
) -> Result<(), Error> {
    match ended {
        Some(Ended::Exit(0)) => {}
        Some(ended) => {
            case.fail("it does not go on by itself", format!("{ended}; it said:\n{}", case.said()));
            return Ok(());
        }
        None => {
            case.fail("it hangs", format!("for {HANG:?}; it said:\n{}", case.said()));
            return Ok(());
        }
    }
    let training = case.training.clone();
    let (told, num_resumed) = told(&training);
    judge_resumed(case, before, num_resumed, tally);
    if told != reference.told {
        let detail = format!("expected {}, got {told}", reference.told);
        case.fail("what it tells at its end is not the uninterrupted one's", detail);
    }
    let differences = reference.left.differences(&Left::read(&training.out)?);
    if !differences.is_empty() {
        let lines: Vec<String> = differences.iter().map(|(file, how)| format!("{file} {how}")).collect();
        case.fail("the shards are not the uninterrupted one's", lines.join("\n"));
    }
    let mut names = list(&training.folder)?;
    names.retain(|name| !KEPT.contains(&name.as_str()));
    if !names.is_empty() {
        case.fail("something stays beside the shards", names.join(", "));
    }
    Ok(())
}
