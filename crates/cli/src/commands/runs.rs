//! `eyas runs`.

use crate::errors::{Failure, Outcome};
use crate::format;
use crate::output::{Output, note};
use eyas_train::report::{self, Run};
use serde_json::{Value, json};
use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// List runs of training, and compare them in one page
///
/// A run is a folder with run.json or metrics.jsonl, as `train` and `quickstart` write them; each DIR is searched two levels deep.
/// A run whose process was killed is shown as interrupted.
#[derive(clap::Args)]
#[command(after_long_help = "\
One run gives its report: figures, curves, completions by step, settings, machine, memory. Several give a comparison: \
curves over each other, figures, and the settings in which they differ. The page is one file that needs nothing from \
elsewhere; open it in a browser, send it, print it.

Examples:
  eyas runs                                         every run in this folder
  eyas runs runs ~/other-runs --json                one JSON object a run
  eyas runs runs/quickstart --report report.html    one run, whole
  eyas runs runs/a runs/b --report compared.html    two runs, compared")]
pub(crate) struct Args {
    /// Folders of runs, or runs [default: this folder]
    #[arg(value_name = "DIR")]
    dirs: Vec<PathBuf>,

    /// Write a page about the runs found: the report of one, or a comparison of several
    #[arg(long, value_name = "FILE.html")]
    report: Option<PathBuf>,

    /// One JSON object a run: name, dir, status, step, num_steps, loss, eval_loss, ...
    #[arg(long)]
    json: bool,
}

/// Folders below a DIR that are looked into.
const DEPTH: usize = 2;

pub(crate) fn run(args: Args) -> Outcome {
    let here = [PathBuf::from(".")];
    let dirs = if args.dirs.is_empty() { &here[..] } else { &args.dirs };
    let mut found = Found::default();
    for dir in dirs {
        std::fs::read_dir(dir).map_err(|error| Failure::io("read", dir, &error))?;
        found.search(dir, DEPTH);
    }
    let mut runs = Vec::new();
    for path in &found.paths {
        let mut run = Run::open(path)?;
        run.name = name(path, run.name);
        runs.push(run);
    }
    if runs.is_empty() {
        let places: Vec<_> = dirs.iter().map(|dir| dir.display().to_string()).collect();
        return nothing(&args, &places.join(", "));
    }
    let mut output = Output::new();
    match args.json {
        true => runs.iter().try_for_each(|run| output.json(&to_json(run)))?,
        false => table(&runs).iter().try_for_each(|line| output.line(line))?,
    }
    output.flush()?;
    for run in &runs {
        run.notes.iter().for_each(|problem| note(format_args!("{}: {problem}", run.name)));
    }
    if let Some(path) = &args.report {
        report::write(&runs, path)?;
        note(format_args!("wrote {}", path.display()));
    }
    Ok(())
}

/// No run is an answer; only a page about none is not.
fn nothing(args: &Args, places: &str) -> Outcome {
    let hint = "a run is a folder with run.json or metrics.jsonl, as eyas train makes it";
    match &args.report {
        Some(path) => {
            Err(Failure::failed(format!("no run in {places}, so nothing to write to {}", path.display()))
                .hint(hint))
        }
        None => {
            note(format_args!("no run in {places}: {hint}"));
            Ok(())
        }
    }
}

/// The folders that are runs, each once.
#[derive(Default)]
struct Found {
    paths: Vec<PathBuf>,
    known: HashSet<PathBuf>,
}

impl Found {
    fn search(&mut self, dir: &Path, depth: usize) {
        let whole = dir.canonicalize().unwrap_or_else(|_| dir.into());
        if Run::is_run(dir) && self.known.insert(whole) {
            self.paths.push(dir.into());
        }
        if depth == 0 {
            return;
        }
        // Folders that cannot be read hold no run that could be shown.
        let Ok(entries) = std::fs::read_dir(dir) else { return };
        let mut below: Vec<_> = entries.flatten().filter(is_worth_a_look).map(|entry| entry.path()).collect();
        below.sort();
        below.iter().for_each(|path| self.search(path.strip_prefix(".").unwrap_or(path), depth - 1));
    }
}

/// Hidden folders and checkpoints hold no runs of their own.
fn is_worth_a_look(entry: &std::fs::DirEntry) -> bool {
    let name = entry.file_name();
    let name = name.to_string_lossy();
    !name.starts_with('.') && !name.starts_with("checkpoint-") && entry.path().is_dir()
}

/// The path as given says more than the folder's name, unless it is `.`.
fn name(path: &Path, folder: String) -> String {
    match path.file_name() {
        Some(_) => path.display().to_string(),
        None => folder,
    }
}

const NONE: &str = "–";

fn or_none<T>(value: Option<T>, text: impl FnOnce(T) -> String) -> String {
    value.map_or_else(|| NONE.into(), text)
}

fn finite(value: f64) -> Option<f64> {
    value.is_finite().then_some(value)
}

/// The runs as a table: a heading, and a line each.
fn table(runs: &[Run]) -> Vec<String> {
    let heading = ["run", "status", "step", "loss", "eval loss", "bits/byte", "tokens", "time", "parameters"];
    let rows: Vec<_> = std::iter::once(heading.map(String::from)).chain(runs.iter().map(row)).collect();
    let widths: [usize; 9] =
        std::array::from_fn(|i| rows.iter().map(|row| row[i].chars().count()).max().unwrap_or(0));
    let line = |row: &[String; 9]| {
        let cells = row.iter().zip(widths).enumerate().map(|(i, (cell, width))| match i {
            0 | 1 => format!("{cell:<width$}"),
            _ => format!("{cell:>width$}"),
        });
        cells.collect::<Vec<_>>().join("  ")
    };
    rows.iter().map(line).collect()
}

fn row(run: &Run) -> [String; 9] {
    let last = run.evaluations.last();
    let decimals = |value: f64| format!("{value:.4}");
    let step = or_none(run.step(), |step| match run.num_steps().filter(|steps| *steps != step) {
        Some(steps) => format!("{} of {}", format::count(step), format::count(steps)),
        None => format::count(step),
    });
    [
        run.name.clone(),
        run.state.name().into(),
        step,
        or_none(run.loss(), decimals),
        or_none(last.and_then(|line| finite(line.loss)), decimals),
        or_none(last.and_then(|line| finite(line.bits_per_byte)), decimals),
        or_none(run.num_tokens(), |tokens| format::short(tokens as f64)),
        or_none(run.elapsed_seconds(), |seconds| {
            format::duration(Duration::try_from_secs_f64(seconds).unwrap_or_default())
        }),
        or_none(run.record.as_ref(), |record| format::short(record.num_parameters as f64)),
    ]
}

/// The run as `--json` tells it; what is not known is null.
fn to_json(run: &Run) -> Value {
    let (record, last) = (run.record.as_ref(), run.evaluations.last());
    json!({
        "name": run.name,
        "dir": run.dir,
        "status": run.state.name(),
        "error": record.and_then(|record| record.error.as_ref()),
        "step": run.step(),
        "num_steps": run.num_steps(),
        "epoch": record.map(|record| record.epoch),
        "loss": run.loss(),
        "eval_loss": last.map(|line| line.loss),
        "eval_perplexity": last.map(|line| line.perplexity),
        "eval_bits_per_byte": last.map(|line| line.bits_per_byte),
        "eval_next_token_accuracy": last.map(|line| line.next_token_accuracy),
        "best": record.and_then(|record| record.best.as_ref()),
        "num_tokens": run.num_tokens(),
        "skipped_updates": run.skipped_updates(),
        "elapsed_seconds": run.elapsed_seconds(),
        "tokens_per_second": run.tokens_per_second(),
        "num_parameters": record.map(|record| record.num_parameters),
        "device": record.map(|record| &record.device),
        "notes": run.notes,
    })
}
