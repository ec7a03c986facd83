//! How sources are read: what a user may choose.

use crate::filter::Filters;
use crate::hub::HubOptions;
use serde::Serialize;

/// How sources are read.
#[derive(Clone, Debug, Serialize)]
pub struct SourceOptions {
    /// The field of a row that holds the text; by default `content`, then `text`.
    pub text_field: Option<String>,
    /// Every document as it is, whatever the filters say.
    pub raw: bool,
    /// Which documents are taken.
    pub filters: Filters,
    /// Leave secrets as they are: keys, tokens, passwords and e-mail addresses, which are else replaced by placeholders.
    pub keep_secrets: bool,
    /// Find out each document's licence, though no filter asks for it.
    pub with_licenses: bool,
    /// What becomes of rows and files that are broken.
    pub on_error: OnError,
    /// Where datasets of the hub come from. It does not decide what they are, their commit does.
    #[serde(skip)]
    pub hub: HubOptions,
}

impl Default for SourceOptions {
    fn default() -> Self {
        SourceOptions {
            text_field: None,
            raw: false,
            filters: Filters::default(),
            keep_secrets: false,
            with_licenses: false,
            on_error: OnError::Skip,
            hub: HubOptions::default(),
        }
    }
}

/// What becomes of a row that is none, or a file that is damaged or cannot be read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum OnError {
    /// It is counted, with an example, and reading goes on behind it: behind the row, or with the next file.
    #[default]
    Skip,
    /// It is an error, after all documents before it.
    Fail,
}

impl SourceOptions {
    /// The filters that count.
    pub(super) fn filters(&self) -> Filters {
        if self.raw { Filters::none() } else { self.filters.clone() }
    }
}
