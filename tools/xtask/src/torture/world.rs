//! The small world that runs live in: text made from a seed, a tokenizer, settings; all in one folder.
//!
//! Every run has a folder of its own and starts in it, so that all of them say the same of themselves: `output_dir` is
//! `out` and the data are `../code`. A run is done again by hand with `cd FOLDER && eyas train ../NAME.toml`.

use super::error::Error;
use super::process::{Ended, HANG, Running};
use super::random::Random;
use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The settings that differ between parts.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Recipe {
    /// Its file is `<name>.toml`.
    pub(crate) name: &'static str,
    pub(crate) max_steps: u64,
    pub(crate) save_steps: u64,
    pub(crate) eval_steps: u64,
    /// Checkpoints to keep; `None`: all.
    pub(crate) keep: Option<u64>,
}

/// Data and tokenizer.
pub(crate) struct World {
    binary: PathBuf,
    pub(crate) root: PathBuf,
    /// Whether this eyas completes prompts at evaluations.
    has_samples: bool,
}

/// A command that trains or prepares, in its folder; the same one starts and goes on.
#[derive(Clone, Debug)]
pub(crate) struct Training {
    pub(crate) binary: PathBuf,
    pub(crate) arguments: Vec<String>,
    /// Where it is started, and where what it says is kept.
    pub(crate) folder: PathBuf,
    pub(crate) cwd: PathBuf,
    /// Where its result goes: the output_dir of training.
    pub(crate) out: PathBuf,
    /// No process of it takes as long, unless it hangs.
    pub(crate) limit: Duration,
    /// How often its processes are looked at; `None`: as often as a process is.
    pub(crate) glance: Option<Duration>,
}

impl World {
    /// Makes data and tokenizer in `root`.
    pub(crate) fn new(binary: &Path, root: &Path, seed: u64) -> Result<Self, Error> {
        let mut random = Random::new(seed, "corpus", 0);
        write_code(&root.join("code"), 60, &mut random)?;
        write_code(&root.join("held-out"), 6, &mut random)?;
        let world = World { binary: binary.into(), root: root.into(), has_samples: false };
        world.command("tokenizer train code --vocab-size 400 --out tokenizer")?;
        let help = world.help()?;
        Ok(World { has_samples: help.contains("--sample-prompts"), ..world })
    }

    /// Runs a command that must succeed.
    pub(crate) fn command(&self, arguments: &str) -> Result<(), Error> {
        let words: Vec<String> = arguments.split_whitespace().map(Into::into).collect();
        let mut running = Running::start(&self.binary, &words, &self.root, self.root.join("setup.stderr"))?;
        match running.wait(HANG)? {
            Some(Ended::Exit(0)) => Ok(()),
            ended => Err(Error::Command {
                command: format!("{} {arguments}", self.binary.display()),
                ended: ended.map_or("nothing: it hangs".into(), |ended| ended.to_string()),
                stderr: running.said(),
            }),
        }
    }

    fn help(&self) -> Result<String, Error> {
        let output = std::process::Command::new(&self.binary).args(["train", "--help"]).output();
        let output = output.map_err(Error::io("start", &self.binary))?;
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Makes the folder of a run by a recipe.
    pub(crate) fn training(&self, recipe: &Recipe, folder: &str) -> Result<Training, Error> {
        let file = self.root.join(recipe.name).with_extension("toml");
        // Not while other runs of it read the file: the first run of a recipe, the uninterrupted one, is made alone.
        if !file.exists() {
            write(&file, self.settings(recipe).as_bytes())?;
        }
        self.command_in(folder, vec!["train".into(), format!("../{}.toml", recipe.name)])
    }

    /// Makes the folder of a command whose result goes to `out`.
    pub(crate) fn command_in(&self, folder: &str, arguments: Vec<String>) -> Result<Training, Error> {
        let folder = self.root.join(folder);
        fs::create_dir_all(&folder).map_err(Error::io("create", &folder))?;
        Ok(Training {
            binary: self.binary.clone(),
            arguments,
            out: folder.join("out"),
            cwd: folder.clone(),
            folder,
            limit: HANG,
            glance: None,
        })
    }

    /// A network whose update takes 1 to 3 ms on one core, and a checkpoint of it as long as several of them.
    fn settings(&self, recipe: &Recipe) -> String {
        let Recipe { max_steps, save_steps, eval_steps, .. } = recipe;
        let mut text = format!(
            "output_dir = 'out'\ntrain_data = '../code'\neval_data = '../held-out'\ntokenizer = '../tokenizer'\n\
             mode = 'pack'\ncontext_length = 32\nn_positions = 32\nn_layer = 2\nn_head = 2\nn_embd = 64\n\
             per_device_train_batch_size = 2\ngradient_accumulation_steps = 2\nlearning_rate = 3e-3\nwarmup_steps = 10\n\
             lr_scheduler_type = 'cosine'\nweight_decay = 0.1\ndevice = 'cpu'\nnum_threads = 1\nseed = 7\n\
             max_steps = {max_steps}\nlogging_steps = 1\neval_strategy = 'steps'\neval_steps = {eval_steps}\n\
             save_steps = {save_steps}\n"
        );
        if let Some(keep) = recipe.keep {
            text += &format!("save_total_limit = {keep}\n");
        }
        if self.has_samples {
            text += "sample_prompts = ['fn ', 'let ']\nsample_max_new_tokens = 8\n";
        }
        text
    }
}

impl Training {
    /// Starts it; what it says goes to a file beside output_dir, which the next start replaces.
    pub(crate) fn start(&self) -> Result<Running, Error> {
        let mut running =
            Running::start(&self.binary, &self.arguments, &self.cwd, self.folder.join("stderr"))?;
        running.glance = self.glance.unwrap_or(running.glance);
        Ok(running)
    }

    /// Removes the folder.
    pub(crate) fn remove(&self) -> Result<(), Error> {
        fs::remove_dir_all(&self.folder).map_err(Error::io("remove", &self.folder))
    }
}

pub(crate) fn write(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    fs::write(path, bytes).map_err(Error::io("write", path))
}

const WORDS: &[&str] = &[
    "table", "value", "index", "count", "buffer", "node", "list", "left", "right", "name", "result", "item",
    "block", "offset", "length", "total",
];

/// Files of plausible code, no two alike.
pub(crate) fn write_code(folder: &Path, num_files: usize, random: &mut Random) -> Result<(), Error> {
    fs::create_dir_all(folder).map_err(Error::io("create", folder))?;
    for i in 0..num_files {
        write(&folder.join(format!("file_{i}.rs")), code(i, 6, random).as_bytes())?;
    }
    Ok(())
}

/// The file of number `i`, with so many functions.
pub(crate) fn code(i: usize, num_functions: usize, random: &mut Random) -> String {
    let mut text = format!("//! Module {i}.\n\n");
    for j in 0..num_functions {
        let (a, b, c) = (random.choose(WORDS), random.choose(WORDS), random.choose(WORDS));
        let number = random.below(1000);
        // Writing to a String cannot fail.
        let _ = write!(
            text,
            "/// The {a} of {b} {j}.\npub fn {a}_{b}_{i}_{j}({c}: &mut Vec<u64>) -> usize {{\n    for {a} in \
             {c}.iter_mut() {{\n        *{a} += {number};\n    }}\n    {c}.len()\n}}\n\n"
        );
    }
    text
}
