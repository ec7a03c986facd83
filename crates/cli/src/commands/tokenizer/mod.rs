//! `eyas tokenizer train|encode|decode`.

mod text;
mod train;

use crate::errors::Outcome;
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
