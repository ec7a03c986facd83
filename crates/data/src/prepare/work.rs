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
/// The shards that stood at the place, while others take it.
const REPLACED: &str = "replaced";
pub(super) const JOURNAL: &str = "journal.json";
pub(super) const NEAR_JOURNAL: &str = "near.json";
/// Hashes of documents, of the reading for tokens and of that for signatures, and the signatures.
pub(super) const SEEN: &str = "seen";
pub(super) const SEEN_FIRST: &str = "seen-first";
pub(super) const SIGNATURES: &str = "signatures";
const JOURNALS: [&str; 4] = [JOURNAL, NEAR_JOURNAL, "journal.json.new", "near.json.new"];
const SCRATCH: [&str; 4] = [SHARDS, SEEN, SEEN_FIRST, SIGNATURES];

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
    /// If another process works in it, it cannot be written, or `out` has no name of its own.
    pub(super) fn open(out: &Path, plan: String) -> Result<Self, Error> {
        let Some(name) = out.file_name() else {
            let found = format!("`{}`", out.display());
            return Err(Error::Option { name: "out", found, expected: "a folder by its name, in another" });
        };
        if is_mount_point(out) {
            let found = format!("`{}`, where a file system is mounted", out.display());
            return Err(Error::Option {
                name: "out",
                found,
                expected: "a folder in it, which can be replaced",
            });
        }
        let path = out.with_file_name(format!(".{}.eyas-prepare", name.to_string_lossy()));
        // Scratch is removed at the end; what a link leads to is not ours.
        if path.is_symlink() {
            return Err(Error::OutputInUse { path });
        }
        fs::create_dir_all(&path).map_err(Error::write(&path))?;
        sync_folder(parent(&path))?;
        let lock_path = path.join(LOCK);
        let lock = File::create(&lock_path).map_err(Error::write(&lock_path))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(Error::Busy { path: out.to_owned() }),
            Err(TryLockError::Error(source)) => return Err(Error::Write { path: lock_path, source }),
        }
        let work = WorkFolder { path, plan, _lock: lock };
        // A process that was stopped between the two renames of `publish` left the old shards here.
        let aside = work.path.join(REPLACED);
        if aside.exists() && !out.exists() {
            fs::rename(&aside, out).map_err(Error::write(out))?;
        }
        Ok(work)
    }

    /// The folder that will stand at the place that the shards are meant for.
    pub(super) fn shards(&self) -> PathBuf {
        self.path.join(SHARDS)
    }

    /// A folder for what is not part of the result.
    pub(crate) fn scratch(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Removes shards that were begun, and the journal that may tell of them.
    pub(super) fn clear_tokens(&self) -> Result<(), Error> {
        remove(&self.path.join(JOURNAL))?;
        sync_folder(&self.path)?;
        remove(&self.shards())
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
        let aside = self.path.join(REPLACED);
        remove(&aside)?;
        let replaces = out.exists();
        if replaces {
            // A folder cannot be replaced in one step: the old one moves aside, and goes when the new one is there.
            fs::rename(out, &aside).map_err(Error::write(out))?;
        }
        if let Err(error) = fs::rename(self.shards(), out) {
            if replaces {
                // The error that kept the new ones from their place is the one to tell.
                let _ = fs::rename(&aside, out);
            }
            return Err(Error::write(out)(error));
        }
        sync_folder(parent(out))?;
        // The shards are there and whole: what cannot be removed is no failure of theirs.
        let _ = self.discard();
        Ok(())
    }

    /// Removes the folder.
    pub(super) fn discard(self) -> Result<(), Error> {
        self.clear()?;
        let WorkFolder { path, _lock: lock, .. } = self;
        drop(lock);
        fs::remove_dir_all(&path).map_err(Error::write(&path))
    }

    /// Removes what work leaves, journals first: they must not tell of what is gone.
    pub(super) fn clear(&self) -> Result<(), Error> {
        JOURNALS.iter().try_for_each(|name| remove(&self.path.join(name)))?;
        sync_folder(&self.path)?;
        SCRATCH.iter().try_for_each(|name| remove(&self.path.join(name)))
    }
}

/// Removes a file or folder, if there is one.
fn remove(path: &Path) -> Result<(), Error> {
    let removed = if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
    match removed {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(Error::write(path)(error)),
        _ => Ok(()),
    }
}

/// Whether a folder is on another device than the one it stands in. No rename gets there.
fn is_mount_point(folder: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    let device = |path: &Path| path.metadata().ok().map(|metadata| metadata.dev());
    device(folder).is_some_and(|own| device(parent(folder)).is_some_and(|above| above != own))
}

fn parent(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}
