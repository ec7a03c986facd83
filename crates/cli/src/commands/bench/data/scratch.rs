//! A folder for the time of a measurement: refused where there is no room, and gone at the end, after an error, and when
//! Ctrl-C or SIGTERM ends it.

use crate::errors::{Failure, Outcome};
use crate::format;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// The folder; it is removed with this.
pub(super) struct Scratch {
    path: PathBuf,
}

impl Scratch {
    /// A new folder in `parent`, on whose disk `needed_bytes` are free.
    pub(super) fn create(parent: &Path, needed_bytes: u64) -> Outcome<Self> {
        let hint = "name another folder with --scratch";
        let failure = |error: std::io::Error| Failure::io("create a folder in", parent, &error).hint(hint);
        let parent_path = parent.canonicalize().map_err(failure)?;
        if let Some(free_bytes) = eyas_train::free_disk_bytes(&parent_path)
            && free_bytes < needed_bytes
        {
            let (needed, free) = (format::bytes(needed_bytes), format::bytes(free_bytes));
            return Err(Failure::failed(format!(
                "{}: too little room: the measurement may take {needed}, and {free} are free",
                parent.display()
            ))
            .hint("take less with --gigabytes, or another disk with --scratch"));
        }
        // A process of the same number may have been killed here before.
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let path = parent_path.join(format!("eyas-bench-data-{}-{}", std::process::id(), now.as_nanos()));
        std::fs::create_dir(&path).map_err(failure)?;
        let scratch = Scratch { path };
        remove_on_signal(scratch.path.clone())?;
        Ok(scratch)
    }

    /// The path of something in it.
    pub(super) fn join(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // What was measured stands, and what cannot be removed is said.
        if let Err(error) = std::fs::remove_dir_all(&self.path) {
            crate::output::warn(format_args!("cannot remove {}: {error}", self.path.display()));
        }
    }
}

/// From now on Ctrl-C and SIGTERM remove the folder before they end the process.
fn remove_on_signal(path: PathBuf) -> Outcome {
    let failure = |error: std::io::Error| Failure::failed(format!("cannot watch for signals: {error}"));
    let mut signals = Signals::new([SIGINT, SIGTERM]).map_err(failure)?;
    let wait = move || {
        let Some(signal) = signals.forever().next() else { return };
        // Work goes on meanwhile, and may make a file while its folder is being removed: then it is tried again.
        for _ in 0..100 {
            if std::fs::remove_dir_all(&path).is_ok() || !path.exists() {
                break;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        std::process::exit(128 + signal);
    };
    std::thread::Builder::new().name("signals".into()).spawn(wait).map_err(failure)?;
    Ok(())
}
