//! `eyas`: trains a code-completion GPT from scratch on your own code, on the machine you have.
//!
//! The only crate that prints and reads the environment. Results go to stdout, everything else to stderr. One file in
//! `commands` is one command; it parses nothing but its arguments and computes nothing that a library could.

#![expect(
    rustdoc::broken_intra_doc_links,
    reason = "the documentation of arguments is their help: `[default: ...]` is no link"
)]

mod commands;
mod device;
mod errors;
mod format;
mod hub;
mod measure;
mod output;
mod progress;
mod reporter;
mod signals;
mod threads;
mod tui;

use clap::Parser;
use std::process::ExitCode;

/// Trains a code-completion GPT from scratch on your own code, on the machine you have.
#[derive(Parser)]
#[command(name = "eyas", version, arg_required_else_help = true, max_term_width = 120)]
#[command(after_help = "\
Begin with:
  eyas quickstart ~/src/my-project      learn from a folder of code in ten minutes, then complete it
  eyas help COMMAND                     what a command does, with examples

Results go to stdout, everything else to stderr. Exit status: 0 done, 1 failed, 2 wrong usage,
130 stopped by Ctrl-C. NO_COLOR is honoured.")]
struct Cli {
    #[command(subcommand)]
    command: commands::Command,
}

fn main() -> ExitCode {
    let arguments = commands::train::join_booleans(std::env::args_os());
    let cli = match Cli::try_parse_from(arguments) {
        Ok(cli) => cli,
        Err(error) => {
            // Help is a result and wrong usage is not; clap knows which stream and which status. A closed one is fine.
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(errors::USAGE));
        }
    };
    match commands::run(cli.command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}
