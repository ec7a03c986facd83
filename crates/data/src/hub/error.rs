//! What can go wrong between here and the hub. An error never holds a token, nor the query of an address, since those of a
//! content network are signed and open the file to whoever has them.

use std::path::PathBuf;

/// An error of the hub, of the way to it, or of the cache of what it sent.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HubError {
    /// The argument is not of the form `hub:OWNER/NAME@REVISION:PATTERN`.
    #[error(
        "`{text}` names no dataset of the hub: {what}; expected hub:OWNER/NAME[@REVISION][:FILE, FOLDER or GLOB]"
    )]
    Id {
        /// The argument.
        text: String,
        /// What is wrong with it.
        what: String,
    },
    /// An option of the hub has an impossible value.
    #[error("{name} is wrong: {what}")]
    Option {
        /// The variable or option.
        name: &'static str,
        /// What is wrong with it, and what is expected.
        what: String,
    },
    /// The hub knows no such dataset, or shows it to nobody without a token.
    #[error("the hub has no dataset {dataset}: {what}; hint: {hint}")]
    NotFound {
        /// Its name.
        dataset: String,
        /// What the hub said.
        what: String,
        /// What may be meant.
        hint: String,
    },
    /// The dataset is there, but not for this user.
    #[error("the hub does not give {dataset} to this user ({what}); hint: {hint}")]
    Denied {
        /// The dataset.
        dataset: String,
        /// What the hub said.
        what: String,
        /// What to do.
        hint: String,
    },
    /// The dataset has no such branch, tag or commit.
    #[error(
        "{dataset} has no revision `{revision}`; \
         hint: leave out `@{revision}` for `main`, or see the branches and tags under \"Files\" on the dataset's page"
    )]
    Revision {
        /// The dataset.
        dataset: String,
        /// The revision that was asked for.
        revision: String,
    },
    /// None of the dataset's files is data that can be read.
    #[error("{dataset}: {what}; {found}; hint: {hint}")]
    NoData {
        /// The dataset, with revision and pattern.
        dataset: String,
        /// What was looked for.
        what: String,
        /// What there is instead.
        found: String,
        /// What to do.
        hint: String,
    },
    /// The hub could not be reached, or stopped answering.
    #[error("cannot get {address}: {what} (attempts: {num_attempts}); hint: {hint}")]
    Unreachable {
        /// Where, without its query.
        address: String,
        /// What failed at the last attempt.
        what: String,
        /// How often it was tried.
        num_attempts: u32,
        /// What to do.
        hint: String,
    },
    /// The answer is not what the hub sends.
    #[error("{address} sent {what}: expected {expected}, got {found}; hint: {hint}")]
    Answer {
        /// Where, without its query.
        address: String,
        /// The part of the answer.
        what: &'static str,
        /// What should be there.
        expected: String,
        /// What is there.
        found: String,
        /// What to do.
        hint: &'static str,
    },
    /// A file is not the one that was listed.
    #[error(
        "{address} is not the file that was listed: {what} is {found}, expected {expected}; \
         hint: start again, and if it stays so, something between here and the hub alters files"
    )]
    Changed {
        /// Where, without its query.
        address: String,
        /// What differs.
        what: &'static str,
        /// What was listed.
        expected: String,
        /// What came.
        found: String,
    },
    /// The network may not be used, and the cache does not have it.
    #[error("the cache {} lacks {what}, and the hub may not be asked (offline); hint: {hint}", cache.display())]
    Offline {
        /// What is missing.
        what: String,
        /// The cache.
        cache: PathBuf,
        /// What to do.
        hint: String,
    },
    /// The disk has too little room for what was to be downloaded.
    #[error(
        "{} has too little room: {needed_bytes} bytes are still to come, {free_bytes} are free; \
         hint: make room, set HF_HUB_CACHE to a folder on another disk, or read the dataset without keeping it",
        path.display()
    )]
    DiskFull {
        /// The folder.
        path: PathBuf,
        /// What is to be written.
        needed_bytes: u64,
        /// What there is.
        free_bytes: u64,
    },
    /// The cache could not be read or written.
    #[error("cannot {action} {}: {what}", path.display())]
    Cache {
        /// `read`, `write`, `lock`, ...
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The system's reason.
        what: String,
    },
}

impl HubError {
    /// For `map_err`: `action` failed at `path`.
    pub(super) fn cache(action: &'static str, path: &std::path::Path) -> impl Fn(std::io::Error) -> HubError {
        let path = path.to_owned();
        move |error| HubError::Cache { action, path: path.clone(), what: error.to_string() }
    }
}
