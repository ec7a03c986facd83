//! Why the harness itself could not go on. What eyas does wrong is a [`Failure`](super::report::Failure) instead.

use std::io;
use std::path::{Path, PathBuf};

/// Something that keeps the harness from working.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The operating system's.
    #[error("cannot {action} {path}: {source}", path = path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A command that has to work before anything is tried did not.
    #[error("`{command}` ended with {ended}:\n{stderr}")]
    Command {
        /// The command.
        command: String,
        /// How it ended.
        ended: String,
        /// What it said.
        stderr: String,
    },
    /// The uninterrupted run is not what the part needs.
    #[error("the uninterrupted run in {path} {problem}", path = path.display())]
    Reference {
        /// Its folder.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
}

impl Error {
    /// Turns the operating system's error into one with a place.
    pub(crate) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Error::Io { action, path: path.into(), source }
    }
}
