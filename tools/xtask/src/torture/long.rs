//! A run of real length, trained twice: once left alone, once killed at instants drawn from a seed.

use super::aim::{Shares, draw};
use super::case::Case;
use super::error::Error;
use super::kill::{Tally, strike};
use super::left::Metrics;
use super::page::{self, Pages};
use super::process::Ended;
use super::random::Random;
use super::reference::Reference;
use super::report::Report;
use super::world::{Training, World, write, write_code};
use super::{Options, Part, figures};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// A long run.
#[derive(Clone, Debug)]
pub struct Long {
    /// Its configuration; `None` for one that fits `minutes`.
    pub config: Option<PathBuf>,
    /// How long the run takes that is left alone, about.
    pub minutes: f64,
    /// SIGKILLs.
    pub kills: u64,
}

/// Updates that the speed is measured by.
const NUM_PROBE: u64 = 30;
/// Longer than anybody waits.
const LIMIT: Duration = Duration::from_secs(7 * 24 * 3600);
/// Looking at it must not slow it down.
const GLANCE: Duration = Duration::from_millis(2);

impl Long {
    /// Does it.
    ///
    /// # Errors
    /// Whatever keeps the harness from working, or the uninterrupted run from its end.
    pub fn run(&self, options: &Options) -> Result<Report, Error> {
        let begun = Instant::now();
        let root = options.root.join("long");
        fs::create_dir_all(&root).map_err(Error::io("create", &root))?;
        let (whole, parts) = match &self.config {
            Some(config) => {
                (given(options, config, &root.join("whole"))?, given(options, config, &root.join("parts"))?)
            }
            None => self.built_in(options, &root)?,
        };
        let reference = Reference::new(&whole)?;
        let mut case = Case::new(parts.clone(), options, Part::Kill, 0);
        let shares = Shares { saving: 0.0, evaluating: 0.0, loading: 0.0 };
        let aims = draw(&mut Random::new(options.seed, "long", 0), &reference.pace, self.kills, shares);
        let tally = strike(&mut case, &reference, &aims)?;
        let pages = page::compare(&whole.out, &parts.out)?;
        if let Pages::Different(how) = &pages {
            case.fail("report.html is not the uninterrupted run's", how.clone());
        }
        let page = match pages {
            Pages::Absent => "none".into(),
            Pages::Same(blocks) => format!("the same but for {blocks} blocks that tell of time"),
            Pages::Different(_) => "different".into(),
        };
        let Tally { kills, in_saves, most_lost, most_lost_in_saves, .. } = tally;
        let last_loss = reference.metrics.lines.iter().rev().find_map(|line| line.get("loss").cloned());
        let figures = figures([
            ("updates", reference.pace.num_steps.into()),
            ("minutes left alone", ((reference.pace.whole.as_secs_f64() / 6.0).round() / 10.0).into()),
            ("the last loss", last_loss.unwrap_or_default()),
            ("kills", kills.into()),
            ("of them within a save", in_saves.into()),
            ("updates lost at most", most_lost.max(most_lost_in_saves).into()),
            ("report.html", page.into()),
        ]);
        let mut failures = case.close()?;
        let which = match &self.config {
            Some(config) => format!("--config {}", config.display()),
            None => format!("--minutes {}", self.minutes),
        };
        for failure in &mut failures {
            failure.reproduce = format!(
                "cargo xtask torture --long {which} --kills {} --seed {} --binary {}",
                self.kills,
                options.seed,
                options.binary.display()
            );
        }
        if failures.is_empty() && !options.keep {
            fs::remove_dir_all(&root).map_err(Error::io("remove", &root))?;
        }
        let seconds = begun.elapsed().as_secs_f64();
        Ok(Report { part: "long", seed: options.seed, seconds, figures, failures })
    }

    /// A run of a million parameters whose number of updates follows from the machine's speed.
    fn built_in(&self, options: &Options, root: &Path) -> Result<(Training, Training), Error> {
        World::new(&options.binary, root, options.seed)?;
        write_code(&root.join("long-code"), 2000, &mut Random::new(options.seed, "long-code", 0))?;
        let file = root.join("long.toml");
        write(&file, settings(NUM_PROBE).as_bytes())?;
        let probe = in_folder(options, root, "probe")?;
        let mut running = probe.start()?;
        let ended = running.wait(LIMIT)?;
        if ended != Some(Ended::Exit(0)) {
            return Err(Error::Command {
                command: "eyas train long.toml".into(),
                ended: ended.map_or("nothing".into(), |ended| ended.to_string()),
                stderr: running.said(),
            });
        }
        let metrics = Metrics::read(&probe.out)?;
        let last = metrics.lines.iter().rev().find(|line| line.contains_key("loss"));
        let number = |key: &str| {
            last.and_then(|line| line.get(key)).and_then(serde_json::Value::as_f64).unwrap_or(1.0)
        };
        let tokens_per_update = number("num_tokens") / NUM_PROBE as f64;
        let num_steps = self.minutes * 60.0 * number("tokens_per_second") / tokens_per_update;
        write(&file, settings((num_steps as u64).max(NUM_PROBE)).as_bytes())?;
        probe.remove()?;
        Ok((in_folder(options, root, "whole")?, in_folder(options, root, "parts")?))
    }
}

/// The built-in configuration with so many updates.
fn settings(max_steps: u64) -> String {
    let (logging, saving, evaluating) =
        ((max_steps / 200).max(1), (max_steps / 40).max(5), (max_steps / 30).max(5));
    format!(
        "output_dir = 'out'\ntrain_data = '../long-code'\neval_data = '../held-out'\ntokenizer = '../tokenizer'\n\
         mode = 'pack'\ncontext_length = 128\nn_positions = 128\nn_layer = 4\nn_head = 4\nn_embd = 128\n\
         per_device_train_batch_size = 8\nlearning_rate = 1e-3\nwarmup_steps = 0.05\n\
         lr_scheduler_type = 'cosine'\nweight_decay = 0.1\ndevice = 'cpu'\nbf16 = true\nseed = 7\n\
         max_steps = {max_steps}\nlogging_steps = {logging}\neval_strategy = 'steps'\neval_steps = {evaluating}\n\
         save_steps = {saving}\nsave_total_limit = 3\n"
    )
}

fn in_folder(options: &Options, root: &Path, name: &str) -> Result<Training, Error> {
    let folder = root.join(name);
    fs::create_dir_all(&folder).map_err(Error::io("create", &folder))?;
    Ok(Training {
        binary: options.binary.clone(),
        arguments: vec!["train".into(), "../long.toml".into()],
        out: folder.join("out"),
        cwd: folder.clone(),
        folder,
        limit: LIMIT,
        glance: Some(GLANCE),
    })
}

/// Somebody's configuration: its paths are meant from the folder that the command was given in.
fn given(options: &Options, config: &Path, folder: &Path) -> Result<Training, Error> {
    fs::create_dir_all(folder).map_err(Error::io("create", folder))?;
    let cwd = std::env::current_dir().map_err(Error::io("find", Path::new(".")))?;
    let absolute = |path: &Path| std::path::absolute(path).map_err(Error::io("find", path));
    let out = absolute(&folder.join("out"))?;
    Ok(Training {
        binary: options.binary.clone(),
        arguments: vec![
            "train".into(),
            absolute(config)?.display().to_string(),
            "--output-dir".into(),
            out.display().to_string(),
        ],
        folder: absolute(folder)?,
        cwd,
        out,
        limit: LIMIT,
        glance: Some(GLANCE),
    })
}
