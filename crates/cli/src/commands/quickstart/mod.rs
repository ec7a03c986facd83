//! temporary
use crate::errors::Outcome;
/// temporary
#[derive(clap::Args)]
pub(crate) struct Args {}
pub(crate) fn run(_: Args) -> Outcome {
    Ok(())
}
