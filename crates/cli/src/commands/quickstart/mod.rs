//! `eyas quickstart`: everything in one go, planned to fit the time given.
//!
//! In order of reading: this file is the order of things, `recipe` the choices, `sample` what is learned from, `plan` the
//! arithmetic, `report` what came out. It owns no step of its own: each is what the separate commands do.

mod plan;
mod recipe;
mod report;
mod sample;

use super::tokenizer::train_on;
use crate::device::{Choice, Place, Wanted, gpu};
use crate::errors::{Failure, Outcome};
use crate::format;
use crate::output::{Output, note};
use crate::reporter::Reporter;
use crate::signals::Stop;
use crate::threads::count_words;
use eyas_data::{Document, Mode, PrepareOptions, SourceOptions, prepare};
use eyas_model::write_atomically;
use eyas_ops::{Backend, Bf16, Isa};
use eyas_serve::Precision;
use eyas_token::{Tokenizer, TrainOptions};
use eyas_train::{OutputDir, TrainConfig, Trainer};
use plan::{Clock, Data, Plan};
use recipe::{Recipe, Shape};
use sample::Sample;
pub(crate) use sample::Source;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Learn from a folder of code, then complete it: everything in one go, in the time given
///
/// Reads source code (.gitignore is honoured; binary, minified, oversized, generated and non-UTF-8 files are skipped and
/// counted), drops exact duplicates, holds out one document in twenty by the hash of its path, trains a tokenizer,
/// measures this machine, plans, trains, evaluates on held-out code and shows completions of it. The result is a model
/// folder that transformers opens too. Ctrl-C during training saves a checkpoint.
#[derive(clap::Args)]
#[command(after_long_help = "\
Examples:
  eyas quickstart                   the Rust sources of the local cargo registry, ten minutes
  eyas quickstart ~/src/my-project --minutes 30 --out runs/my-project
  eyas quickstart ~/src/my-project --device cpu       although there is a GPU
  eyas quickstart train.jsonl       one document a line, in the field `content` or `text`")]
pub(crate) struct Args {
    /// Folder of source code, or a .jsonl [default: the Rust sources of the local cargo registry]
    #[arg(value_name = "DIR|FILE")]
    data: Option<String>,

    /// Time for everything, tokenizer and evaluation included
    #[arg(long, value_name = "M", default_value_t = 10.0)]
    minutes: f64,

    /// Folder to write the model to
    #[arg(long, value_name = "DIR", default_value = "runs/quickstart")]
    out: PathBuf,

    /// Where to train: `auto`, a GPU if one is found; `cpu`; `cuda`, or `cuda:1` for another than the first
    #[arg(long, value_name = "DEVICE", default_value_t = Choice::Auto)]
    device: Choice,

    /// Threads [default: one a core]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    threads: Option<u16>,

    #[command(flatten)]
    overrides: Overrides,
}

/// Pieces of the recipe, for experiments.
#[derive(clap::Args, Clone, Debug)]
pub(super) struct Overrides {
    /// V, instead of the recipe's
    #[arg(long, value_name = "V", hide = true)]
    vocab_size: Option<usize>,

    /// L, instead of the plan's; needs --n-embd
    #[arg(long, value_name = "L", hide = true, requires = "n_embd", value_parser = clap::value_parser!(u16).range(1..))]
    n_layer: Option<u16>,

    /// C, instead of the plan's; needs --n-layer
    #[arg(long, value_name = "C", hide = true, requires = "n_layer", value_parser = clap::value_parser!(u16).range(1..))]
    n_embd: Option<u16>,

    /// B, instead of the recipe's
    #[arg(long, value_name = "B", hide = true, value_parser = clap::value_parser!(u16).range(1..))]
    batch_size: Option<u16>,

    /// Highest learning rate, instead of the recipe's
    #[arg(long, value_name = "X", hide = true)]
    learning_rate: Option<f64>,

    /// T, instead of the recipe's
    #[arg(long, value_name = "T", hide = true, value_parser = clap::value_parser!(u16).range(2..))]
    context_length: Option<u16>,

    /// Any setting of `eyas train`, instead of the recipe's; may be repeated
    #[arg(long = "set", value_name = "KEY=VALUE", hide = true)]
    set: Vec<String>,
}

impl Overrides {
    fn shape(&self) -> Option<Shape> {
        let (n_layer, n_embd) = (self.n_layer?, self.n_embd?);
        Some(Shape { n_layer: n_layer.into(), n_embd: n_embd.into() })
    }

    fn batch_size(&self, recipe: &Recipe, num_tokens: f64) -> usize {
        self.batch_size.map_or_else(|| recipe.batch_size(num_tokens), usize::from)
    }

    fn context_length(&self, recipe: &Recipe) -> usize {
        self.context_length.map_or(recipe.context_length, usize::from)
    }
}

pub(crate) fn run(args: Args) -> Outcome {
    let start = Instant::now();
    if !(args.minutes > 0.0 && args.minutes <= 100_000.0) {
        return Err(Failure::usage(format!("--minutes {}: expected a number above 0", args.minutes)));
    }
    let clock = Clock { start, total: Duration::from_secs_f64(60.0 * args.minutes) };
    let source = Source::find(args.data.as_slice())?;
    check_out(&args.out)?;
    if let Some(cuda) = gpu::<Bf16>(args.device, false)? {
        return quickstart(cuda, Place::Cuda, source, &args, clock, Precision::Bf16);
    }
    let threads = args.threads.map(usize::from);
    let cpu = Wanted { threads, ..Wanted::new(Choice::Cpu, eyas_train::Precision::F32) };
    let place = Place::Cpu(cpu.isa);
    // Where bf16 has no instruction of its own it is no faster, and f32 is exact.
    match cpu.isa {
        Isa::Avx512Bf16 => quickstart(cpu.cpu::<Bf16>()?, place, source, &args, clock, Precision::Bf16),
        _ => quickstart(cpu.cpu::<f32>()?, place, source, &args, clock, Precision::F32),
    }
}

fn quickstart<D: Backend>(
    device: D,
    place: Place,
    source: Source,
    args: &Args,
    clock: Clock,
    precision: Precision,
) -> Outcome {
    let (device, recipe) = (Arc::new(device), Recipe::of(place));
    let peak_flops = device.peak_flops();

    let sample = read(&source, args, recipe, peak_flops, &clock)?;
    let lock = open_out(&args.out, &source)?;
    let tokenizer = train_tokenizer(&sample, &args.overrides)?;
    let data = Data {
        vocab_size: tokenizer.vocab_size(),
        train_bytes: sample.train_bytes(),
        bytes_per_token: bytes_per_token(&tokenizer, &sample.train)?,
    };
    let plan = device.install(|| plan::make(&device, recipe, peak_flops, &clock, data, &args.overrides))?;
    note(&plan);
    if plan.num_steps() < 1.0 {
        return Err(no_time());
    }
    let files = Files::new(&args.out);
    files.write(&plan, &tokenizer, &sample)?;

    // The trainer takes the folder's lock itself.
    drop(lock);
    let valid = sample.valid;
    drop(sample.train);
    let choice = if place == Place::Cuda { args.device } else { Choice::Cpu };
    let trainer = train(&device, &plan, &files, &clock, args, precision)?;
    let time = clock.left().saturating_sub(clock.ending());
    let held_out =
        report::evaluation(trainer.gpt(), &tokenizer, &valid, &plan, time.min(clock.evaluation()))?;
    drop(trainer);

    let mut output = Output::new();
    report::print_evaluation(&mut output, &held_out, valid.len())?;
    let threads = args.threads.map(usize::from);
    report::print_completions(&mut output, &args.out, &valid, choice, precision, threads)?;
    print_commands(&mut output, &files, &plan, precision, report::example_prompt(&valid))?;
    output.flush()?;
    let (taken, given) = (format::duration(clock.start.elapsed()), format::duration(clock.total));
    note(format_args!("done in {taken} of {given}: the model is in {}", args.out.display()));
    Ok(())
}

/// Reads the source and says what was read.
fn read(source: &Source, args: &Args, recipe: &Recipe, peak_flops: f64, clock: &Clock) -> Outcome<Sample> {
    note(format_args!("reading {}", source.label));
    let limit = plan::most_bytes(recipe, peak_flops, clock, &args.overrides);
    let until = clock.start + clock.share(recipe::shares::READING);
    let sample = sample::read(source, &args.out, limit, until)?;
    super::source::tell("read", &sample.report);
    let part = if sample.is_whole {
        ""
    } else {
        " (a sample, spread over the source, of what can be learned from in the time)"
    };
    note(format_args!(
        "to learn from: {} documents, {}; held out: {} documents, {}{part}",
        format::count(sample.train.len() as u64),
        format::bytes(sample.train_bytes()),
        format::count(sample.valid.len() as u64),
        format::bytes(sample::num_bytes(&sample.valid))
    ));
    Ok(sample)
}

fn train_tokenizer(sample: &Sample, overrides: &Overrides) -> Outcome<Tokenizer> {
    let mut num_bytes = 0;
    let documents: Vec<&Document> = sample
        .train
        .iter()
        .take_while(|document| {
            let is_within = num_bytes < recipe::TOKENIZER_BYTES;
            num_bytes += document.text.len() as u64;
            is_within
        })
        .collect();
    let vocab_size = overrides.vocab_size.unwrap_or_else(|| recipe::vocab_size(sample.train_bytes()));
    let counts = count_words(eyas_ops::available_threads(), &documents, |document| &document.text)?;
    let text = format::bytes(counts.num_bytes());
    let tokenizer = train_on(counts, &TrainOptions { vocab_size, ..TrainOptions::default() })?;
    note(format_args!(
        "tokenizer: {} tokens, trained on {text}",
        format::count(tokenizer.vocab_size() as u64)
    ));
    Ok(tokenizer)
}

/// Measured on a few documents.
fn bytes_per_token(tokenizer: &Tokenizer, documents: &[Document]) -> Outcome<f64> {
    const ENOUGH: usize = 1 << 20;
    let (mut ids, mut num_bytes) = (Vec::new(), 0);
    for document in documents {
        tokenizer.encode_ordinary(&document.text, &mut ids)?;
        num_bytes += document.text.len();
        if num_bytes >= ENOUGH {
            break;
        }
    }
    Ok(num_bytes.max(1) as f64 / ids.len().max(1) as f64)
}

/// What quickstart writes beside the model.
struct Files {
    out: PathBuf,
    train: PathBuf,
    valid: PathBuf,
    shards: PathBuf,
    tokenizer: PathBuf,
}

/// Marks a folder as written by quickstart, and keeps the plan.
const MARK: &str = "quickstart.json";

impl Files {
    fn new(out: &Path) -> Self {
        let data = out.join("data");
        Files {
            out: out.into(),
            train: data.join("train.jsonl"),
            valid: data.join("valid.jsonl"),
            shards: data.join("train"),
            tokenizer: data.join("tokenizer"),
        }
    }

    /// Writes the plan, the tokenizer, the documents, and shards of those that will be trained on.
    fn write(&self, plan: &Plan, tokenizer: &Tokenizer, sample: &Sample) -> Outcome {
        write_mark(&self.out, plan)?;
        let data = self.out.join("data");
        std::fs::create_dir_all(&data).map_err(|error| Failure::io("create the folder", &data, &error))?;
        tokenizer.save(&self.tokenizer)?;
        let (mut wanted, mut count) = (plan.wanted_bytes(), 0);
        while wanted > 0 && count < sample.train.len() {
            wanted = wanted.saturating_sub(sample.train[count].text.len() as u64);
            count += 1;
        }
        sample::write_rows(&self.train, &sample.train[..count])?;
        sample::write_rows(&self.valid, &sample.valid)?;
        let options = PrepareOptions {
            mode: Mode::Pack,
            context_length: plan.context_length,
            source: SourceOptions::default(),
            validation_one_in: None,
            fim: None,
        };
        let rows = self.train.display().to_string();
        let report = prepare(&[rows], tokenizer, &options, &self.shards, &mut |_| {})?;
        note(format_args!(
            "shards: {} tokens in {}",
            format::count(report.num_tokens),
            self.shards.display()
        ));
        Ok(())
    }
}

fn write_mark(out: &Path, mark: &impl serde::Serialize) -> Outcome {
    let text = serde_json::to_string_pretty(mark).map_err(|error| Failure::failed(error.to_string()))?;
    Ok(write_atomically(&out.join(MARK), |file| writeln!(file, "{text}"))?)
}

/// Refuses an output folder that holds something else, or that cannot be written, before time is spent. Creates nothing.
fn check_out(out: &Path) -> Outcome {
    let entries = match std::fs::read_dir(out) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return check_parent(out),
        Err(error) => return Err(Failure::io("use the folder", out, &error)),
    };
    let is_foreign = entries.flatten().any(|entry| entry.file_name() != ".lock") && !out.join(MARK).exists();
    if is_foreign {
        return Err(Failure::failed(format!(
            "{} holds something that quickstart did not write",
            out.display()
        ))
        .hint("choose another folder with --out"));
    }
    OutputDir::open(out)?;
    Ok(())
}

/// Whether a folder can be made where `out` will be.
fn check_parent(out: &Path) -> Outcome {
    let existing = out.ancestors().skip(1).find(|path| path.as_os_str().is_empty() || path.exists());
    let parent = match existing {
        Some(path) if !path.as_os_str().is_empty() => path,
        _ => Path::new("."),
    };
    let probe = parent.join(format!(".eyas-probe-{}", std::process::id()));
    std::fs::create_dir(&probe)
        .and_then(|()| std::fs::remove_dir(&probe))
        .map_err(|error| Failure::io("create the folder", out, &error))
}

/// Makes the output folder this process's, and marks it.
fn open_out(out: &Path, source: &Source) -> Outcome<OutputDir> {
    let lock = OutputDir::open(out)?;
    write_mark(out, &serde_json::json!({ "data": source.data }))?;
    Ok(lock)
}

/// Trains for what is left of the time after what has to follow.
fn train<D: Backend>(
    device: &Arc<D>,
    plan: &Plan,
    files: &Files,
    clock: &Clock,
    args: &Args,
    precision: Precision,
) -> Outcome<Trainer<D>> {
    let time = clock.left().saturating_sub(clock.evaluation() + clock.ending());
    let no_time =
        || Failure::failed("no time is left for training").hint("give more with --minutes, or less data");
    if time.is_zero() {
        return Err(no_time());
    }
    let config = settings(plan, files, args, precision, time)?;
    let mut reporter = Reporter::quiet();
    let mut trainer = Trainer::new(device.clone(), config, &mut |event| reporter.event(&event))?;
    let stop = Stop::default();
    stop.watch()?;
    stop.watch_save()?;
    stop.begin();
    let outcome = device.install(|| trainer.run(stop.requests(), &mut |event| reporter.event(&event)))?;
    drop(reporter);
    if outcome.stopped || stop.is_requested() {
        let saved = outcome.checkpoint.as_deref().unwrap_or(&files.out).display();
        return Err(stop.failure(format!(
            "stopped after {} steps: saved {saved}; try it: eyas generate --model {saved} PROMPT",
            format::count(outcome.step)
        )));
    }
    let last = outcome.last.ok_or_else(no_time)?;
    note(format_args!(
        "trained: {} steps, {} tokens, {:.2} passes, {} tokens/s",
        format::count(outcome.step),
        format::count(outcome.num_tokens),
        last.epoch,
        format::count((outcome.num_tokens as f64 / outcome.elapsed_seconds) as u64)
    ));
    Ok(trainer)
}

fn no_time() -> Failure {
    Failure::failed("no time is left for a single training step").hint("give more with --minutes")
}

/// The settings of the run, as `eyas train` takes them.
fn settings(
    plan: &Plan,
    files: &Files,
    args: &Args,
    precision: Precision,
    time: Duration,
) -> Outcome<TrainConfig> {
    let mut settings: Vec<(String, String)> = Vec::new();
    let mut set = |name: &str, value: &dyn std::fmt::Display| settings.push((name.into(), value.to_string()));
    set("output_dir", &files.out.display());
    set("overwrite_output_dir", &true);
    set("train_data", &files.shards.display());
    set("tokenizer", &files.tokenizer.display());
    set("context_length", &plan.context_length);
    set("n_positions", &plan.context_length);
    set("n_layer", &plan.n_layer);
    set("n_head", &plan.n_head);
    set("n_embd", &plan.n_embd);
    for dropout in ["resid_pdrop", "embd_pdrop", "attn_pdrop"] {
        set(dropout, &plan.dropout);
    }
    set("per_device_train_batch_size", &plan.batch_size);
    set("learning_rate", &plan.learning_rate);
    set("max_minutes", &(time.as_secs_f64() / 60.0));
    set("bf16", &(precision == Precision::Bf16));
    set("device", &args.device);
    set("num_threads", &args.threads.unwrap_or(0));
    set("save_strategy", &"no");
    set("logging_steps", &50);
    for (name, value) in recipe::SETTINGS {
        set(name, value);
    }
    for pair in &args.overrides.set {
        let expected = || Failure::usage(format!("--set {pair}: expected KEY=VALUE"));
        let (name, value) = pair.split_once('=').ok_or_else(expected)?;
        set(name, &value);
    }
    Ok(TrainConfig::parse("", &settings)?)
}

fn print_commands(
    output: &mut Output,
    files: &Files,
    plan: &Plan,
    precision: Precision,
    prompt: &str,
) -> Outcome {
    let (out, valid, rows) = (files.out.display(), files.valid.display(), files.train.display());
    let (bf16, time) = (if precision == Precision::Bf16 { " --bf16" } else { "" }, plan.context_length);
    output.line("")?;
    output.line("go on with")?;
    output.line(format_args!("  eyas generate --model {out} '{prompt}'"))?;
    output.line(format_args!("  eyas eval --model {out} --data {valid}"))?;
    output.line(format_args!(
        "  eyas train --model-name-or-path {out} --train-data {rows} --mode pack --context-length {time}{bf16} \\\n      \
         --learning-rate 5e-4 --max-minutes 60 --output-dir {out}-longer"
    ))
}
