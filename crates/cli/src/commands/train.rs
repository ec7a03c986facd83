//! `eyas train`.
//!
//! The flags are made from `eyas_train`'s table of settings, so that a key of the TOML file, its flag, its help and its
//! default cannot differ.

use crate::device::{OnDevice, Place, Wanted};
use crate::errors::{Failure, Outcome};
use crate::format;
use crate::output::{Output, note, warn};
use crate::reporter::Reporter;
use crate::signals::Stop;
use crate::tui::{self, Screen, Teller};
use clap::{Arg, ArgAction, ArgMatches, FromArgMatches, value_parser};
use eyas_ops::Backend;
use eyas_train::{Kind, METRICS, MODEL_SETTINGS, SETTINGS, Setting, TrainConfig, Trainer, checkpoint};
use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// A configuration file, and settings that replace or complete it.
pub(crate) struct Args {
    config_file: Option<PathBuf>,
    settings: Vec<(String, String)>,
    dry_run: bool,
    json: bool,
    has_screen: bool,
}

const ABOUT: &str = "Train a model by a configuration file, flags, or both";

const LONG_ABOUT: &str = "\
Train a model by a configuration file, flags, or both

The file is one flat TOML; every key is also a flag, and a flag replaces the file's value. Names and defaults are those \
of transformers' TrainingArguments and GPT2Config. A run resumes by itself when output_dir holds a checkpoint. Ctrl-C \
(or SIGTERM) saves a checkpoint and ends with status 130 (143); a second one ends at once. SIGUSR1 saves a checkpoint and \
goes on. --tui shows loss curves, samples and memory on a live screen, with keys to stop and to save.";

const EXAMPLES: &str = "\
Examples:
  eyas train runs/codeparrot-ds.toml --train-data train.jsonl --eval-data valid.jsonl \\
      --tokenizer tokenizer --bf16
  eyas train --train-data src --tokenizer tokenizer --output-dir out --bf16 --max-steps 2000 \\
      --n-layer 4 --n-embd 256 --n-head 4 --context-length 256 --learning-rate 1e-3
  eyas train run.toml --dry-run
  eyas train run.toml --device cuda --fp16
  eyas train run.toml --shuffle false --resid-pdrop 0 --embd-pdrop 0 --attn-pdrop 0";

const CONFIG_FILE: &str = "CONFIG.toml";
const DRY_RUN: &str = "dry-run";
const JSON: &str = "json";
const SCREEN: &str = "tui";

fn settings() -> impl Iterator<Item = &'static Setting> {
    SETTINGS.iter().chain(MODEL_SETTINGS)
}

fn flag(name: &str) -> String {
    name.replace('_', "-")
}

impl clap::Args for Args {
    fn augment_args(command: clap::Command) -> clap::Command {
        let config = Arg::new(CONFIG_FILE)
            .value_name(CONFIG_FILE)
            .value_parser(value_parser!(PathBuf))
            .help("Configuration file; without one, flags say everything");
        let flag = |name: &'static str, help: &'static str| {
            Arg::new(name).long(name).action(ArgAction::SetTrue).help(help)
        };
        let command = command
            .about(ABOUT)
            .long_about(LONG_ABOUT)
            .after_long_help(EXAMPLES)
            .arg(config)
            .args([
            flag(
                DRY_RUN,
                "Check everything, print the plan with the time from a short measurement, and train nothing",
            ),
            flag(JSON, "The plan of --dry-run as a JSON object").requires(DRY_RUN),
            flag(
                SCREEN,
                "Show a live screen on the terminal: loss curves, speed, samples, memory; `?` tells its keys",
            )
            .conflicts_with(DRY_RUN),
        ]);
        settings().map(argument).fold(command, clap::Command::arg)
    }

    fn augment_args_for_update(command: clap::Command) -> clap::Command {
        Self::augment_args(command)
    }
}

/// The flag of a setting. Values are left to `eyas_train`, whose messages are the same for a file.
pub(crate) fn argument(setting: &'static Setting) -> Arg {
    let default = match setting.default {
        "" => String::new(),
        default => format!(" [default: {default}]"),
    };
    let argument = Arg::new(setting.name)
        .long(flag(setting.name))
        .help_heading(setting.group)
        .help(format!("{}{default}", setting.help))
        .action(ArgAction::Append);
    let argument = match setting.name {
        "eval_strategy" => argument.alias("evaluation-strategy"),
        _ => argument,
    };
    match setting.kind {
        Kind::Flag => {
            argument.value_name("true|false").num_args(0..=1).require_equals(true).default_missing_value("")
        }
        Kind::Integer => argument.value_name("N").allow_negative_numbers(true),
        Kind::Number => argument.value_name("X").allow_negative_numbers(true),
        Kind::Text => argument.value_name("TEXT"),
        Kind::Path => argument.value_name("PATH"),
        Kind::List if setting.name.ends_with("_data") => argument.value_name("DATA").num_args(1..),
        Kind::List if setting.name == "data_weights" => argument.value_name("X").num_args(1..),
        Kind::List => argument.value_name("TEXT").num_args(1..),
        Kind::Choice(names) => argument.value_name("NAME").help(choices(setting, names, &default)),
    }
}

/// The help of a setting with a few values: it names those that the sentence does not.
fn choices(setting: &Setting, names: &[&str], default: &str) -> String {
    match names.iter().all(|name| setting.help.contains(name) || name.contains('_')) && names.len() < 5 {
        true => format!("{}{default}", setting.help),
        false => format!("{}: {}{default}", setting.help, names.join(", ")),
    }
}

impl FromArgMatches for Args {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let mut given = Vec::new();
        for setting in settings() {
            for value in matches.get_many::<String>(setting.name).into_iter().flatten() {
                given.push((setting.name.to_string(), value.clone()));
            }
        }
        Ok(Args {
            config_file: matches.get_one(CONFIG_FILE).cloned(),
            settings: given,
            dry_run: matches.get_flag(DRY_RUN),
            json: matches.get_flag(JSON),
            has_screen: matches.get_flag(SCREEN),
        })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

/// Joins `--shuffle false` to `--shuffle=false` in the arguments of commands whose flags are settings: a bare flag means true,
/// so clap cannot tell its value from a CONFIG.toml or DATA that follows.
pub(crate) fn join_booleans(arguments: impl Iterator<Item = OsString>) -> Vec<OsString> {
    let mut joined: Vec<OsString> = Vec::new();
    for argument in arguments {
        let is_setting = joined.get(1).is_some_and(|command| {
            ["train", "data", "tokenizer"].iter().any(|with_settings| command == with_settings)
        });
        let is_value = ["true", "false"].iter().any(|value| argument.eq_ignore_ascii_case(value));
        match joined.last_mut() {
            Some(last) if is_setting && is_value && is_boolean_flag(last) => {
                last.push("=");
                last.push(argument);
            }
            _ => joined.push(argument),
        }
    }
    joined
}

fn is_boolean_flag(argument: &OsString) -> bool {
    let name = argument.to_str().and_then(|text| text.strip_prefix("--"));
    name.is_some_and(|name| {
        SETTINGS.iter().any(|setting| setting.kind == Kind::Flag && flag(setting.name) == name)
    })
}

pub(crate) fn run(args: Args) -> Outcome {
    let stop = Stop::default();
    stop.watch_save()?;
    if !args.has_screen {
        stop.watch()?;
    }
    let config = TrainConfig { hub: crate::hub::options(), ..read(&args)? };
    if args.has_screen {
        tui::require_terminal()?;
    }
    let choice = config
        .device
        .parse()
        .map_err(|expected| Failure::usage(format!("`device`: {expected}, got `{}`", config.device)))?;
    let threads = (config.num_threads > 0).then_some(config.num_threads);
    let wanted = Wanted { threads, tf32: config.tf32, ..Wanted::new(choice, config.precision()) };
    wanted.run(Train { config, args, stop })
}

fn read(args: &Args) -> Outcome<TrainConfig> {
    let Some(path) = &args.config_file else {
        if let Some((_, swallowed)) = args.settings.iter().find(|(_, value)| value.ends_with(".toml")) {
            return Err(Failure::usage(format!("{swallowed} was read as the value of a flag"))
                .hint(format!("put it first: eyas train {swallowed} --flags...")));
        }
        if args.settings.is_empty() {
            return Err(Failure::usage("nothing to train: expected CONFIG.toml or flags")
                .hint("see eyas train --help; eyas quickstart needs no configuration"));
        }
        return Ok(TrainConfig::parse("", &args.settings)?);
    };
    let text = std::fs::read_to_string(path).map_err(|error| Failure::io("read", path, &error))?;
    TrainConfig::parse(&text, &args.settings).map_err(|error| {
        // What is on the command line has no line.
        let in_file = error.to_string().starts_with("line ");
        let failure = Failure::from(error);
        if in_file { failure.in_file(path) } else { failure }
    })
}

/// Training, on whatever device.
struct Train {
    config: TrainConfig,
    args: Args,
    stop: Stop,
}

impl OnDevice for Train {
    type Output = ();

    fn run<D: Backend>(self, device: D, _: Place) -> Outcome {
        match self.args.dry_run {
            true => dry_run(Arc::new(device), self.config, self.args.json),
            false => train(Arc::new(device), self),
        }
    }
}

/// Tells the plan on stdout, with the time that a short measurement leads to expect.
fn dry_run<D: Backend>(device: Arc<D>, config: TrainConfig, json: bool) -> Outcome {
    let output_dir = &config.output_dir;
    if config.overwrite_output_dir && checkpoint::list(output_dir).is_ok_and(|found| !found.is_empty()) {
        let problem =
            format!("{} holds checkpoints, which go on with the data prepared there", output_dir.display());
        return Err(Failure::usage(format!("--dry-run with overwrite_output_dir: {problem}"))
            .hint("leave overwrite_output_dir out, or name another output_dir"));
    }
    let mut reporter = Reporter::quiet();
    let trainer = Trainer::new(device.clone(), config, &mut |event| reporter.event(&event))?;
    drop(reporter);
    super::tokenizer::tell_if_slow(trainer.tokenizer());
    note("measuring, for some seconds");
    let (plan, measured) = device.install(|| trainer.measure())?;
    let mut output = Output::new();
    if json {
        let mut object = plan.to_json();
        object["measured"] = serde_json::to_value(measured).unwrap_or_default();
        output.line(object)?;
        return output.flush();
    }
    output.line(plan)?;
    let seconds = |seconds: f64| format::duration(Duration::from_secs_f64(seconds));
    let evaluations = match measured.num_evaluations {
        0 => String::new(),
        many => format!(", {} evaluations of {}", format::count(many), seconds(measured.eval_seconds)),
    };
    output.line(format_args!(
        "time        {}: updates of {}{evaluations}; {} tokens/s, {} of peak, by a measurement of some seconds",
        seconds(measured.seconds),
        seconds(measured.update_seconds),
        format::count(measured.tokens_per_second as u64),
        format::percent(measured.share_of_peak)
    ))?;
    output.flush()
}

fn train<D: Backend>(device: Arc<D>, Train { config, args, stop }: Train) -> Outcome {
    let (output_dir, starts_over) = (config.output_dir.clone(), config.overwrite_output_dir);
    let mut teller = match args.has_screen {
        true => Teller::Screen(Screen::open(&output_dir, &stop)?),
        false => Teller::Lines(Box::new(Reporter::new())),
    };
    let mut trainer = Trainer::new(device.clone(), config, &mut |event| teller.event(&event))?;
    super::tokenizer::tell_if_slow(trainer.tokenizer());
    teller.begin(&output_dir.join(METRICS), &stop);
    // On the pool, where no operation has to wake a thread first.
    let outcome = device.install(|| trainer.run(stop.requests(), &mut |event| teller.event(&event)))?;
    drop(teller);
    if outcome.stopped {
        let saved = match &outcome.checkpoint {
            Some(path) if starts_over => {
                format!(
                    "saved {}; the same command without overwrite_output_dir goes on from there",
                    path.display()
                )
            }
            Some(path) => format!("saved {}; the same command goes on from there", path.display()),
            None => "nothing was saved".into(),
        };
        return Err(stop.failure(format!("stopped after {} updates: {saved}", format::count(outcome.step))));
    }
    note(format_args!(
        "{} updates, {} tokens, {}; metrics in {}",
        format::count(outcome.step),
        format::count(outcome.num_tokens),
        format::duration(std::time::Duration::from_secs_f64(outcome.elapsed_seconds)),
        output_dir.join(METRICS).display()
    ));
    let (skipped, step) = (outcome.skipped_updates, outcome.step);
    let left_out = format_args!(
        "{} of {} updates were left out, because a loss or a gradient was not finite",
        format::count(skipped),
        format::count(step)
    );
    // fp16 finds its loss scale by a few.
    match skipped {
        0 => {}
        _ if skipped > step / 10 => warn(left_out),
        _ => note(left_out),
    }
    let mut output = Output::new();
    output.line(format_args!("model saved to {}", output_dir.display()))?;
    output.flush()
}
