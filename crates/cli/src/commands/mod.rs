//! The commands, one file each.

pub(crate) mod bench;
pub(crate) mod data;
pub(crate) mod eval;
pub(crate) mod generate;
pub(crate) mod model;
pub(crate) mod quickstart;
pub(crate) mod runs;
pub(crate) mod source;
pub(crate) mod tokenizer;
pub(crate) mod train;

use crate::errors::Outcome;
use clap::Subcommand;

/// What can be done.
#[derive(Subcommand)]
pub(crate) enum Command {
    Quickstart(quickstart::Args),
    #[command(subcommand)]
    Tokenizer(tokenizer::Command),
    #[command(subcommand)]
    Data(data::Command),
    #[command(subcommand)]
    Model(model::Command),
    Train(train::Args),
    Runs(runs::Args),
    Eval(eval::Args),
    Generate(generate::Args),
    #[command(subcommand)]
    Bench(bench::Command),
}

/// Does it.
pub(crate) fn run(command: Command) -> Outcome {
    match command {
        Command::Quickstart(args) => quickstart::run(args),
        Command::Tokenizer(command) => tokenizer::run(command),
        Command::Data(command) => data::run(command),
        Command::Model(command) => model::run(command),
        Command::Train(args) => train::run(args),
        Command::Runs(args) => runs::run(args),
        Command::Eval(args) => eval::run(args),
        Command::Generate(args) => generate::run(args),
        Command::Bench(command) => bench::run(command),
    }
}
