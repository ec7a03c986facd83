//! Arguments and messages that every command reading documents shares.

use crate::commands::train::argument;
use crate::errors::Outcome;
use clap::{ArgMatches, FromArgMatches};
use eyas_data::{SourceOptions, SourceReport};
use eyas_train::{DOCUMENTS, SETTINGS, Setting, TrainConfig};

/// How documents are read: the settings of `eyas train` under the heading "Documents".
#[derive(Clone, Debug)]
pub(crate) struct SourceArgs {
    given: Vec<(String, String)>,
}

impl SourceArgs {
    /// What was given, as the trainer reads it.
    pub(crate) fn config(&self) -> Outcome<TrainConfig> {
        Ok(TrainConfig { hub: crate::hub::options(), ..TrainConfig::documents(&self.given)? })
    }

    /// How documents are read.
    pub(crate) fn options(&self) -> Outcome<SourceOptions> {
        Ok(self.config()?.source_options())
    }
}

fn settings() -> impl Iterator<Item = &'static Setting> {
    SETTINGS.iter().filter(|setting| setting.group == DOCUMENTS)
}

impl clap::Args for SourceArgs {
    fn augment_args(command: clap::Command) -> clap::Command {
        settings().map(argument).fold(command, clap::Command::arg)
    }

    fn augment_args_for_update(command: clap::Command) -> clap::Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for SourceArgs {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let values = |setting: &'static Setting| {
            let values = matches.get_many::<String>(setting.name).into_iter().flatten();
            values.map(|value| (setting.name.to_owned(), value.clone())).collect::<Vec<_>>()
        };
        Ok(SourceArgs { given: settings().flat_map(values).collect() })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

/// What DATA may be, for the long help of commands that take it.
const DATA_HELP: &str = "\
DATA is a folder of source code or a git repository (.gitignore is honoured), a source file, a file of rows or a glob of \
them (.jsonl, .json, each also .gz or .zst, and .parquet; one document a row, in the field `content` or `text`), or a \
dataset of the Hugging Face hub, hub:OWNER/NAME[@REVISION][:FILE, FOLDER or GLOB] (HF_TOKEN, HF_HOME, HF_ENDPOINT and \
HF_HUB_OFFLINE are honoured). Files that are binary, minified, oversized, generated, empty or not UTF-8 are skipped and \
counted, and so are exact duplicates; keys, tokens, passwords and e-mail addresses are replaced by placeholders; --raw takes \
all documents as they are.";

/// The long help of a command that takes DATA.
pub(crate) fn with_data_help(examples: &str) -> String {
    format!("{DATA_HELP}\n\n{examples}")
}

/// What was read and what was skipped, on stderr.
pub(crate) fn tell(label: &str, report: &SourceReport) {
    crate::output::note(format_args!("{label}: {report}"));
}
