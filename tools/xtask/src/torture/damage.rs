//! Damage: a bit flipped or a file cut short in the newest checkpoint. It must be passed over with a warning that names the
//! file, and the run must go on from the checkpoint before and end as it would have.

use super::case::Case;
use super::error::Error;
use super::left::{self, Metrics, STATE};
use super::process::Ended;
use super::random::Random;
use super::reference::Reference;
use super::report::Failure;
use super::world::{Recipe, Training, World, write};
use super::{Figures, MAX_BROKEN_RUNS, Options, Part, figures, in_parallel, ms};
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};

/// Little is left to do after the checkpoint before the last.
const RECIPE: Recipe = Recipe { name: "damage", max_steps: 20, save_steps: 10, eval_steps: 5, keep: None };

/// One place of damage.
#[derive(Clone, Copy, Debug)]
enum Damage {
    Flip { byte: u64, bit: u32 },
    Cut { bytes: u64 },
}

/// What came of a place.
struct Place {
    is_flip: bool,
    /// The file says the same as before, so that nothing has to be noticed.
    is_harmless: bool,
    failures: Vec<Failure>,
}

/// Does it.
pub(crate) fn run(world: &World, options: &Options) -> Result<(Figures, Vec<Failure>), Error> {
    let whole = world.training(&RECIPE, "whole")?;
    let reference = Reference::new(&whole)?;
    let checkpoints = left::checkpoints(&whole.out)?;
    let [.., before, newest] = checkpoints[..] else {
        let problem = format!("left checkpoints {checkpoints:?}; two are needed");
        return Err(Error::Reference { path: whole.folder, problem });
    };
    let folder = whole.out.join(format!("checkpoint-{newest}"));
    let files = list(&folder)?;
    let one = |number| {
        let training = world.training(&RECIPE, &format!("run-{number}"))?;
        copy_folder(&whole.out, &training.out)?;
        let mut case = Case::new(training, options, Part::Damage, number);
        // Every file has its turn; the place in it is drawn.
        let name = &files[(number % files.len() as u64) as usize];
        let mut random = Random::new(options.seed, "damage", number);
        let file = case.training.out.join(format!("checkpoint-{newest}")).join(name);
        let damage = hurt(&file, &mut random)?;
        case.note(format!("checkpoint-{newest}/{name}: {damage:?}"));
        let is_harmless = name == STATE && says_the_same(&file, &folder.join(STATE))?;
        go_on(&mut case, &reference, before, name, is_harmless)?;
        let is_flip = matches!(damage, Damage::Flip { .. });
        Ok(Place { is_flip, is_harmless, failures: case.close()? })
    };
    let results = in_parallel(options, one, |results| {
        let broken = results.iter().filter(|(_, result)| !result.failures.is_empty()).count();
        results.len() as u64 >= options.sizes.damages || broken >= MAX_BROKEN_RUNS
    })?;
    let count = |is: &dyn Fn(&Place) -> bool| Value::from(results.iter().filter(|result| is(result)).count());
    let found = figures([
        ("flipped bits", count(&|result| result.is_flip)),
        ("cut files", count(&|result| !result.is_flip)),
        ("files", files.len().into()),
        ("places where the file says the same as before", count(&|result| result.is_harmless)),
        ("ms a whole run", ms(reference.pace.whole)),
    ]);
    Ok((found, results.into_iter().flat_map(|result| result.failures).collect()))
}

/// Lets a run with a damaged checkpoint go on.
fn go_on(
    case: &mut Case<'_>,
    reference: &Reference,
    before: u64,
    name: &str,
    is_harmless: bool,
) -> Result<(), Error> {
    let training: Training = case.training.clone();
    // A finished run's model folder must be written again, or its absence is seen.
    let model = training.out.join("model.safetensors");
    fs::remove_file(&model).map_err(Error::io("remove", &model))?;
    let mut running = case.start()?;
    let ended = running.wait(training.limit)?;
    let said = running.said();
    let names_it = said.lines().any(|line| line.contains("warning") && line.contains(name));
    if !names_it && !is_harmless {
        case.fail("damage is not told of", format!("no warning names {name}; it said:\n{}", case.said()));
    }
    let metrics = Metrics::read(&training.out)?;
    if let Some(step) = reference.metrics.first_not_kept(before, &metrics) {
        let detail = format!("update {step} was done again; it said:\n{}", case.said());
        case.fail("it did not go on from the checkpoint before", detail);
    }
    let is_done_again = reference.metrics.first_not_kept(u64::MAX, &metrics).is_some();
    if !is_done_again && !is_harmless && ended == Some(Ended::Exit(0)) {
        case.fail("a damaged checkpoint is taken for whole", format!("it said:\n{}", case.said()));
    }
    case.finish(reference, Some(ended.unwrap_or(Ended::Signal(9))))
}

/// Damages a file at a place that is drawn.
fn hurt(file: &Path, random: &mut Random) -> Result<Damage, Error> {
    let mut bytes = fs::read(file).map_err(Error::io("read", file))?;
    let num_bytes = bytes.len() as u64;
    let damage = match random.happens(0.5) {
        true => Damage::Flip { byte: random.below(num_bytes), bit: random.below(8) as u32 },
        // The ends are likelier than their share: nothing left, and one byte missing.
        false => match random.below(8) {
            0 => Damage::Cut { bytes: 0 },
            1 => Damage::Cut { bytes: num_bytes - 1 },
            _ => Damage::Cut { bytes: random.below(num_bytes) },
        },
    };
    match damage {
        Damage::Flip { byte, bit } => bytes[byte as usize] ^= 1 << bit,
        Damage::Cut { bytes: left } => bytes.truncate(left as usize),
    }
    write(file, &bytes)?;
    Ok(damage)
}

/// Whether two files are the same JSON: a missing end of line, or another spelling of a number.
fn says_the_same(file: &Path, as_it_was: &Path) -> Result<bool, Error> {
    let parse = |path: &Path| -> Result<Option<Value>, Error> {
        let bytes = fs::read(path).map_err(Error::io("read", path))?;
        Ok(serde_json::from_slice(&bytes).ok())
    };
    let now = parse(file)?;
    Ok(now.is_some() && now == parse(as_it_was)?)
}

/// The files of a folder by name.
pub(crate) fn list(folder: &Path) -> Result<Vec<String>, Error> {
    let entries = fs::read_dir(folder).map_err(Error::io("read", folder))?;
    let name = |entry: std::io::Result<fs::DirEntry>| Ok(entry?.file_name().to_string_lossy().into_owned());
    let mut names: Vec<String> =
        entries.map(name).collect::<Result<_, _>>().map_err(Error::io("read", folder))?;
    names.sort();
    Ok(names)
}

/// Copies a folder and all below it.
pub(crate) fn copy_folder(from: &Path, to: &Path) -> Result<(), Error> {
    fs::create_dir_all(to).map_err(Error::io("create", to))?;
    for name in list(from)? {
        let (from, to): (PathBuf, PathBuf) = (from.join(&name), to.join(&name));
        if from.is_dir() {
            copy_folder(&from, &to)?;
        } else {
            fs::copy(&from, &to).map_err(Error::io("copy", &from))?;
        }
    }
    Ok(())
}
