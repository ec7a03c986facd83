//! `eyas tokenizer train|encode|decode`.

mod in_order;
mod report;
mod text;
mod train;

use crate::errors::Outcome;
use crate::output::note;
use eyas_token::Tokenizer;
use std::path::Path;
pub(crate) use train::train_on;

/// Train a tokenizer, turn text into ids and back
#[derive(clap::Subcommand)]
pub(crate) enum Command {
    Train(train::TrainArgs),
    Encode(text::EncodeArgs),
    Decode(text::DecodeArgs),
}

pub(crate) fn run(command: Command) -> Outcome {
    match command {
        Command::Train(args) => train::run(args),
        Command::Encode(args) => text::encode(&args),
        Command::Decode(args) => text::decode(&args),
    }
}

/// Loads a tokenizer, and says so if it is a slow one.
pub(crate) fn open(path: &Path) -> Outcome<Tokenizer> {
    let tokenizer = Tokenizer::load(path)?;
    tell_if_slow(&tokenizer);
    Ok(tokenizer)
}

/// Says why a tokenizer has no fast path, if it has none.
pub(crate) fn tell_if_slow(tokenizer: &Tokenizer) {
    if let Some(reason) = tokenizer.slow_reason() {
        note(format_args!(
            "the tokenizer is not of a kind with a fast path, so encoding is many times slower: {reason}"
        ));
    }
}
