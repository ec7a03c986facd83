//! A run as its folder tells it: run.json, metrics.jsonl and samples.jsonl, any of which may be missing, short or cut off.
//!
//! Nothing here fails on what a killed run leaves behind: what cannot be read is left out and said in [`Run::notes`].

use crate::error::Error;
use crate::event::Sample;
use crate::output::is_locked;
use crate::record::{RUN, RunRecord, Status};
use crate::runlog::{METRICS, SAMPLES};
use serde_json::{Map, Value};
use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::path::{Path, PathBuf};

/// How far a run is, as far as its folder shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// A process works on it.
    Running,
    /// It was going on, and no process works on it any more: killed, or the machine went down.
    Interrupted,
    /// It was asked to stop.
    Stopped,
    /// It reached its end.
    Done,
    /// It ended with an error.
    Failed,
    /// It has no run.json that says so.
    Unknown,
}

impl State {
    /// In a word.
    pub fn name(self) -> &'static str {
        match self {
            State::Running => "running",
            State::Interrupted => "interrupted",
            State::Stopped => "stopped",
            State::Done => "done",
            State::Failed => "failed",
            State::Unknown => "unknown",
        }
    }
}

/// A line of the log about training. What the line lacks, or was not finite, is NaN.
#[derive(Clone, Copy, Debug)]
pub struct Logged {
    /// Updates done.
    pub step: u64,
    /// Mean loss since the line before, in nats.
    pub loss: f64,
    /// Learning rate.
    pub learning_rate: f64,
    /// Gradient norm before clipping.
    pub grad_norm: f64,
    /// Tokens a second.
    pub tokens_per_second: f64,
    /// Tokens read since the beginning.
    pub num_tokens: u64,
    /// Updates left out since the beginning.
    pub skipped_updates: u64,
}

/// A line of the log about an evaluation. What the line lacks, or was not finite, is NaN.
#[derive(Clone, Copy, Debug)]
pub struct Evaluated {
    /// Updates done.
    pub step: u64,
    /// Mean over targets, in nats.
    pub loss: f64,
    /// exp(loss).
    pub perplexity: f64,
    /// Bits a byte of text.
    pub bits_per_byte: f64,
    /// Share of targets that were the most likely token.
    pub next_token_accuracy: f64,
}

/// A run, read from its folder.
#[derive(Clone, Debug)]
pub struct Run {
    /// The folder.
    pub dir: PathBuf,
    /// What it is called: the folder's name, unless the caller has a better one.
    pub name: String,
    /// How far it is.
    pub state: State,
    /// run.json, if there is one that can be read.
    pub record: Option<RunRecord>,
    /// The log of training, by step.
    pub training: Vec<Logged>,
    /// The log of evaluations, by step.
    pub evaluations: Vec<Evaluated>,
    /// The log's last line, which sums the run up; empty without one.
    pub summary: Map<String, Value>,
    /// Completions, in the order they were made.
    pub samples: Vec<Sample>,
    /// What is missing or could not be read, a sentence each.
    pub notes: Vec<String>,
}

impl Run {
    /// Whether `dir` looks like the output folder of a run.
    pub fn is_run(dir: &Path) -> bool {
        dir.join(RUN).is_file() || dir.join(METRICS).is_file()
    }

    /// Reads what there is in `dir`.
    ///
    /// # Errors
    /// A folder that cannot be read at all. Files in it that are missing or broken are no error but a note.
    pub fn open(dir: &Path) -> Result<Self, Error> {
        std::fs::read_dir(dir).map_err(Error::io("read", dir))?;
        let mut run = Run {
            dir: dir.into(),
            name: name_of(dir),
            state: State::Unknown,
            record: None,
            training: Vec::new(),
            evaluations: Vec::new(),
            summary: Map::new(),
            samples: Vec::new(),
            notes: Vec::new(),
        };
        match RunRecord::load(dir) {
            Ok(Some(record)) => run.record = Some(record),
            Ok(None) => run.notes.push(format!(
                "There is no {RUN}: settings, machine and memory are not known, nor how the run ended."
            )),
            Err(error) => run.notes.push(format!("{error}.")),
        }
        run.read_metrics();
        run.read_samples();
        run.state = run.find_state();
        Ok(run)
    }

    fn read_metrics(&mut self) {
        let (lines, note) = read_lines::<Map<String, Value>>(&self.dir.join(METRICS));
        match note {
            Some(Trouble::Absent) => self.notes.push(format!("There is no {METRICS}: nothing was logged.")),
            Some(Trouble::Other(note)) => self.notes.push(note),
            None if lines.is_empty() => {
                self.notes.push(format!("{METRICS} is empty: nothing was logged yet."));
            }
            None => {}
        }
        for line in lines {
            let number = |key: &str| line.get(key).and_then(Value::as_f64).unwrap_or(f64::NAN);
            let count = |key: &str| line.get(key).and_then(Value::as_u64);
            if line.contains_key("train_loss") || line.contains_key("train_runtime") {
                self.summary = line;
                continue;
            }
            let Some(step) = count("step") else { continue };
            if line.contains_key("loss") {
                self.training.push(Logged {
                    step,
                    loss: number("loss"),
                    learning_rate: number("learning_rate"),
                    grad_norm: number("grad_norm"),
                    tokens_per_second: number("tokens_per_second"),
                    num_tokens: count("num_tokens").unwrap_or(0),
                    skipped_updates: count("skipped_updates").unwrap_or(0),
                });
            } else if line.contains_key("eval_loss") {
                self.evaluations.push(Evaluated {
                    step,
                    loss: number("eval_loss"),
                    perplexity: number("eval_perplexity"),
                    bits_per_byte: number("eval_bits_per_byte"),
                    next_token_accuracy: number("eval_next_token_accuracy"),
                });
            }
        }
        self.training.sort_by_key(|line| line.step);
        self.evaluations.sort_by_key(|line| line.step);
    }

    fn read_samples(&mut self) {
        let (samples, note) = read_lines(&self.dir.join(SAMPLES));
        self.samples = samples;
        match note {
            Some(Trouble::Other(note)) => self.notes.push(note),
            Some(Trouble::Absent) if self.asks_for_samples() => {
                self.notes.push(format!("There is no {SAMPLES}: no prompt was completed yet."));
            }
            _ => {}
        }
    }

    fn asks_for_samples(&self) -> bool {
        let prompts =
            self.record.as_ref().and_then(|record| record.settings.get("sample_prompts")?.as_array());
        prompts.is_some_and(|prompts| !prompts.is_empty())
    }

    fn find_state(&self) -> State {
        let locked = is_locked(&self.dir);
        let Some(record) = &self.record else {
            return match locked {
                Some(true) => State::Running,
                _ if !self.summary.is_empty() => State::Done,
                _ => State::Unknown,
            };
        };
        match record.status {
            // A run that is taken up again holds the lock before it writes its first record.
            _ if locked == Some(true) => State::Running,
            Status::Running if locked == Some(false) => State::Interrupted,
            Status::Running => State::Running,
            Status::Stopped => State::Stopped,
            Status::Done => State::Done,
            Status::Failed => State::Failed,
        }
    }

    /// Updates done, as far as anything tells.
    pub fn step(&self) -> Option<u64> {
        let recorded = self.record.as_ref().map(|record| record.step);
        let logged = self.training.last().map(|line| line.step);
        recorded.max(logged).max(self.evaluations.last().map(|line| line.step))
    }

    /// Updates in all; `None` if that is not known, or the run ends with its time.
    pub fn num_steps(&self) -> Option<u64> {
        self.record.as_ref().and_then(|record| record.num_steps)
    }

    /// The last logged loss of training.
    pub fn loss(&self) -> Option<f64> {
        self.training.last().map(|line| line.loss).filter(|loss| loss.is_finite())
    }

    /// The evaluation with the lowest loss.
    pub fn best_evaluation(&self) -> Option<&Evaluated> {
        self.evaluations.iter().filter(|line| line.loss.is_finite()).min_by(|a, b| a.loss.total_cmp(&b.loss))
    }

    /// Tokens read.
    pub fn num_tokens(&self) -> Option<u64> {
        let logged = self.training.last().map(|line| line.num_tokens);
        self.record.as_ref().map(|record| record.num_tokens).max(logged)
    }

    /// Updates left out because something was not finite.
    pub fn skipped_updates(&self) -> u64 {
        let logged = self.training.last().map_or(0, |line| line.skipped_updates);
        self.record.as_ref().map_or(0, |record| record.skipped_updates).max(logged)
    }

    /// Seconds of the run: as recorded, else as the log's last line says, else what the logged speeds add up to.
    pub fn elapsed_seconds(&self) -> Option<f64> {
        let recorded = self.record.as_ref().map(|record| record.elapsed_seconds);
        let summed = || self.summary.get("train_runtime").and_then(Value::as_f64);
        recorded.or_else(summed).or_else(|| Some(self.logged_time()?.1))
    }

    /// Mean tokens a second of training.
    pub fn tokens_per_second(&self) -> Option<f64> {
        self.logged_time().map(|(tokens, seconds)| tokens / seconds)
    }

    /// Tokens of the log's lines, and the seconds that they took.
    fn logged_time(&self) -> Option<(f64, f64)> {
        let (mut before, mut tokens, mut seconds) = (0, 0.0, 0.0);
        for line in &self.training {
            let new = line.num_tokens.saturating_sub(before) as f64;
            before = line.num_tokens;
            if line.tokens_per_second > 0.0 {
                tokens += new;
                seconds += new / line.tokens_per_second;
            }
        }
        (seconds > 0.0).then_some((tokens, seconds))
    }

    /// What a speed of one token a second is of the device's peak.
    pub fn share_of_peak_per_token(&self) -> Option<f64> {
        let record = self.record.as_ref()?;
        let share = record.flops_per_token / record.peak_flops;
        (share.is_finite() && share > 0.0).then_some(share)
    }

    /// What the speed of the run was of the device's peak.
    pub fn share_of_peak(&self) -> Option<f64> {
        Some(self.tokens_per_second()? * self.share_of_peak_per_token()?)
    }
}

fn name_of(dir: &Path) -> String {
    let whole = dir.canonicalize().unwrap_or_else(|_| dir.into());
    let name = whole.file_name().map(|name| name.to_string_lossy().into_owned());
    name.unwrap_or_else(|| dir.display().to_string())
}

enum Trouble {
    Absent,
    Other(String),
}

/// The lines of a file that are a `T` each, and what is wrong with the rest.
fn read_lines<T: serde::de::DeserializeOwned>(path: &Path) -> (Vec<T>, Option<Trouble>) {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return (Vec::new(), Some(Trouble::Absent)),
        Err(error) => {
            return (Vec::new(), Some(Trouble::Other(format!("cannot read {}: {error}.", path.display()))));
        }
    };
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let (mut found, mut broken, mut number) = (Vec::new(), Vec::new(), 0_u64);
    let (mut reader, mut line) = (BufReader::new(file), Vec::new());
    let mut is_whole = true;
    let trouble = loop {
        line.clear();
        match reader.read_until(b'\n', &mut line) {
            Ok(0) => break None,
            Ok(_) => {}
            Err(error) => break Some(format!("cannot read {} to its end: {error}.", path.display())),
        }
        number += 1;
        is_whole = line.ends_with(b"\n");
        if line.iter().all(u8::is_ascii_whitespace) {
            continue;
        }
        match serde_json::from_slice(&line) {
            Ok(value) => found.push(value),
            Err(_) => broken.push(number),
        }
    };
    if !is_whole && broken.last() == Some(&number) {
        broken.pop();
        let more = broken.first().map_or_else(String::new, |first| {
            format!(" {} lines before it are broken too, the first is line {first}.", broken.len())
        });
        let note = format!("{name} ends in half a line, as a killed run leaves it; it was left out.{more}");
        return (found, Some(Trouble::Other(note)));
    }
    let broken = broken.first().map(|first| {
        format!("{name} has {} lines that cannot be read; the first is line {first}.", broken.len())
    });
    (found, trouble.or(broken).map(Trouble::Other))
}
