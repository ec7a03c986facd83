//! The hidden folder in which shards grow, and the journals that say how far they are.
//!
//! `.NAME.eyas-prepare` stands beside the place `NAME` that the shards are meant for. It is locked by who works in it. A
//! journal is replaced in one step after what it tells is durable; one of another plan, or that cannot be read, is as good as
//! none.

use crate::error::Error;
use crate::shards::sync_folder;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::fs::{self, File, TryLockError};
use std::io::Write;
use std::path::{Path, PathBuf};

const LOCK: &str = "lock";
const SHARDS: &str = "shards";

/// The journal as it is written.
#[derive(Serialize, Deserialize)]
struct Entry<J> {
    /// Hash of all that decides the result.
    plan: String,
    journal: J,
}

/// The hidden folder, locked.
pub(crate) struct WorkFolder {
    path: PathBuf,
    plan: String,
    _lock: File,
}

impl WorkFolder {
    /// Opens or creates the folder beside `out`.
    ///
    /// # Errors
    /// If another process works in it, or it cannot be written.
    pub(super) fn open(out: &Path, plan: String) -> Result<Self, Error> {
        let name = out.file_name().unwrap_or_default().to_string_lossy();
        let path = out.with_file_name(format!(".{name}.eyas-prepare"));
        fs::create_dir_all(&path).map_err(Error::write(&path))?;
        let lock_path = path.join(LOCK);
        let lock = File::create(&lock_path).map_err(Error::write(&lock_path))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(Error::Busy { path: out.to_owned() }),
            Err(TryLockError::Error(source)) => return Err(Error::Write { path: lock_path, source }),
        }
        Ok(WorkFolder { path, plan, _lock: lock })
    }

    /// The folder that will stand at the place that the shards are meant for.
    pub(super) fn shards(&self) -> PathBuf {
        self.path.join(SHARDS)
    }

    /// A folder for what is not part of the result.
    pub(crate) fn scratch(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Removes the shards that were begun.
    pub(super) fn clear_shards(&self) -> Result<(), Error> {
        match fs::remove_dir_all(self.shards()) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(Error::write(&self.shards())(error))
            }
            _ => Ok(()),
        }
    }

    /// Creates the folder of a part of the shards.
    pub(super) fn create_folder(&self, part: &str) -> Result<PathBuf, Error> {
        let folder = self.shards().join(part);
        fs::create_dir_all(&folder).map_err(Error::write(&folder))?;
        Ok(folder)
    }

    /// A journal of this plan; `None` if there is none.
    pub(super) fn read_journal<J: DeserializeOwned>(&self, name: &str) -> Option<J> {
        let bytes = fs::read(self.path.join(name)).ok()?;
        let entry: Entry<J> = serde_json::from_slice(&bytes).ok()?;
        (entry.plan == self.plan).then_some(entry.journal)
    }

    /// Replaces a journal.
    pub(super) fn write_journal<J: Serialize>(&self, name: &str, journal: &J) -> Result<(), Error> {
        let (path, beside) = (self.path.join(name), self.path.join(format!("{name}.new")));
        let entry = Entry { plan: self.plan.clone(), journal };
        let journal = serde_json::to_vec(&entry).unwrap_or_default();
        let mut file = File::create(&beside).map_err(Error::write(&beside))?;
        file.write_all(&journal).and_then(|()| file.sync_all()).map_err(Error::write(&beside))?;
        fs::rename(&beside, &path).map_err(Error::write(&path))?;
        sync_folder(&self.path)
    }

    /// Puts the shards, which are whole, in their place, and removes the rest.
    pub(super) fn publish(self, out: &Path) -> Result<(), Error> {
        sync_folder(&self.shards())?;
        let parent = out.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let aside = self.path.join("replaced");
        if out.exists() {
            // A folder cannot be replaced in one step: the old one moves aside, and goes when the new one is there.
            fs::rename(out, &aside).map_err(Error::write(out))?;
        }
        fs::rename(self.shards(), out).map_err(Error::write(out))?;
        sync_folder(parent)?;
        self.discard()
    }

    /// Removes the folder.
    pub(super) fn discard(self) -> Result<(), Error> {
        fs::remove_dir_all(&self.path).map_err(Error::write(&self.path))
    }

    /// Removes everything but the lock.
    pub(super) fn clear(&self) -> Result<(), Error> {
        for entry in fs::read_dir(&self.path).map_err(Error::write(&self.path))? {
            let path = entry.map_err(Error::write(&self.path))?.path();
            if path.file_name().is_some_and(|name| name == LOCK) {
                continue;
            }
            let removed = if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
            removed.map_err(Error::write(&path))?;
        }
        Ok(())
    }
}
