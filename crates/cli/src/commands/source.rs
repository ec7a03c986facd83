//! Arguments and messages that every command reading documents shares.

use eyas_data::{SourceOptions, SourceReport};

/// How documents are read.
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct SourceArgs {
    /// Field of a .jsonl that holds the text [default: `content`, then `text`]
    #[arg(long, value_name = "NAME")]
    pub(crate) text_field: Option<String>,

    /// Take every document as it is: no filter, and duplicates stay
    #[arg(long)]
    pub(crate) raw: bool,
}

impl SourceArgs {
    pub(crate) fn options(&self) -> SourceOptions {
        SourceOptions { text_field: self.text_field.clone(), raw: self.raw, ..SourceOptions::default() }
    }
}

/// What DATA may be, for the long help of commands that take it.
const DATA_HELP: &str = "\
DATA is a folder of source code (.gitignore is honoured), a source file, or a .jsonl file or a glob of them, one \
document a line in the field `content` or `text`. Files that are binary, minified, oversized (over 1 MB), generated, \
empty or not UTF-8 are skipped and counted, and so are exact duplicates; --raw takes all documents as they are.";

/// The long help of a command that takes DATA.
pub(crate) fn with_data_help(examples: &str) -> String {
    format!("{DATA_HELP}\n\n{examples}")
}

/// What was read and what was skipped, on stderr.
pub(crate) fn tell(label: &str, report: &SourceReport) {
    crate::output::note(format_args!("{label}: {report}"));
}
