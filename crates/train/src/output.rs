//! The output folder of a run: made, found writable, large enough and used by nobody else before anything is computed.
//!
//! The one trick: the lock is the operating system's on an open file, which dies with the process, so that a killed run
//! never leaves a folder that the next one refuses.

use crate::error::Error;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

const LOCK: &str = ".lock";
/// The folder of prepared data.
pub(crate) const DATA: &str = "data";
/// What files and prepared data end in while they are written beside their place, in every crate.
const PARTIAL: &str = ".eyas-partial";
/// What is being written or removed begins so; a folder of that name left by a killed run means nothing.
pub(crate) const HIDDEN: &str = ".checkpoint-";

/// A folder that this process alone writes to.
pub struct OutputDir {
    path: PathBuf,
    /// Holds the lock as long as it is open.
    _lock: File,
}

impl OutputDir {
    /// Creates `path` if need be, locks it, removes what a killed run left half-written, and makes sure that folders can
    /// be made in it.
    ///
    /// # Errors
    /// [`Error::InUse`] if a live process holds the lock; [`Error::Io`] if it cannot be written.
    pub fn open(path: &Path) -> Result<Self, Error> {
        create_durably(path)?;
        let lock_path = path.join(LOCK);
        let options = OpenOptions::new().create(true).truncate(false).write(true).open(&lock_path);
        let lock = options.map_err(Error::io("write to the folder", path))?;
        match try_lock(&lock) {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(Error::InUse { path: path.into() }),
            // Some file systems know no locks; training there is still right, only unguarded.
            Err(TryLockError::Error(error)) if knows_no_locks(&error) => {}
            Err(TryLockError::Error(error)) => return Err(Error::io("lock", &lock_path)(error)),
        }
        let output = OutputDir { path: path.into(), _lock: lock };
        output.sweep()?;
        let probe = path.join(format!("{HIDDEN}probe"));
        fs::create_dir(&probe)
            .and_then(|()| fs::remove_dir(&probe))
            .map_err(Error::io("write to the folder", path))?;
        Ok(output)
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Refuses a disk with less than `needed_bytes` free, `num_checkpoints` checkpoints among them.
    ///
    /// # Errors
    /// [`Error::DiskFull`].
    pub fn require_free(&self, needed_bytes: u64, num_checkpoints: u64) -> Result<(), Error> {
        // A file system that cannot say is not refused: writing will find out, and leaves nothing half-written.
        let Some(free_bytes) = free_disk_bytes(&self.path) else { return Ok(()) };
        match free_bytes < needed_bytes {
            true => {
                Err(Error::DiskFull { path: self.path.clone(), free_bytes, needed_bytes, num_checkpoints })
            }
            false => Ok(()),
        }
    }

    /// Removes what killed runs left half-written, here and among the prepared data: nobody else writes here.
    fn sweep(&self) -> Result<(), Error> {
        for folder in [self.path.clone(), self.path.join(DATA)] {
            let entries = match fs::read_dir(&folder) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                entries => entries.map_err(Error::io("read", &folder))?,
            };
            for entry in entries {
                let path = entry.map_err(Error::io("read", &folder))?.path();
                if path.file_name().is_some_and(|name| is_left_over(&name.to_string_lossy())) {
                    let removed =
                        if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
                    removed.map_err(Error::io("remove", &path))?;
                }
            }
        }
        Ok(())
    }
}

/// Bytes that this process may still write to the disk that `path` is on; `None` where the file system cannot say.
pub fn free_disk_bytes(path: &Path) -> Option<u64> {
    let stat = rustix::fs::statvfs(path).ok()?;
    Some(stat.f_bavail.saturating_mul(stat.f_frsize))
}

/// Whether a name is one that eyas gives to what it writes or removes, until that is done.
fn is_left_over(name: &str) -> bool {
    name.starts_with(HIDDEN) || (name.starts_with('.') && name.ends_with(PARTIAL))
}

/// Creates a folder and those above it so that they survive a power cut: what is made durable in a folder is lost with it.
fn create_durably(path: &Path) -> Result<(), Error> {
    let missing: Vec<_> = path.ancestors().take_while(|folder| !folder.exists()).collect();
    fs::create_dir_all(path).map_err(Error::io("create the folder", path))?;
    for folder in missing {
        let above = folder.parent().filter(|above| !above.as_os_str().is_empty()).unwrap_or(Path::new("."));
        File::open(above).and_then(|above| above.sync_all()).map_err(Error::io("write", above))?;
    }
    Ok(())
}

fn knows_no_locks(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::Unsupported
        || error.raw_os_error() == Some(rustix::io::Errno::NOLCK.raw_os_error())
}

/// Locks the file. `is_locked` of another process holds it for an instant, which must not be taken for a run.
fn try_lock(lock: &File) -> Result<(), TryLockError> {
    for _ in 0..5 {
        match lock.try_lock() {
            Err(TryLockError::WouldBlock) => std::thread::sleep(Duration::from_millis(20)),
            other => return other,
        }
    }
    lock.try_lock()
}

/// Whether a live process trains into `output_dir`; `None` where the file system or its permissions do not let one know.
pub fn is_locked(output_dir: &Path) -> Option<bool> {
    let lock = match File::open(output_dir.join(LOCK)) {
        Ok(lock) => lock,
        Err(error) => return (error.kind() == io::ErrorKind::NotFound).then_some(false),
    };
    match lock.try_lock_shared() {
        Ok(()) => Some(false),
        Err(TryLockError::WouldBlock) => Some(true),
        Err(TryLockError::Error(_)) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_run_at_a_time() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("a/b");
        let first = OutputDir::open(&path).expect("free");
        assert!(matches!(OutputDir::open(&path), Err(Error::InUse { .. })));
        assert_eq!(is_locked(&path), Some(true));
        drop(first);
        assert_eq!(is_locked(&path), Some(false));
        assert_eq!(is_locked(dir.path()), Some(false));
        fs::create_dir_all(path.join(".checkpoint-7.tmp/x")).expect("leftover");
        fs::create_dir_all(path.join("data/.train_data.123.eyas-partial")).expect("leftover");
        let stays = ["metrics.jsonl", "notes.tmp", "5.tmp", ".bashrc.old"];
        for name in
            [".metrics.jsonl.77.eyas-partial", ".tokenizer.json.77-3.eyas-partial"].iter().chain(&stays)
        {
            fs::write(path.join(name), "").expect("leftover");
        }
        let again = OutputDir::open(&path).expect("free again");
        let mut left: Vec<_> =
            fs::read_dir(&path).expect("listed").map(|e| e.expect("listed").file_name()).collect();
        left.sort();
        assert_eq!(left, [".bashrc.old", ".lock", "5.tmp", "data", "metrics.jsonl", "notes.tmp"]);
        assert_eq!(fs::read_dir(path.join("data")).expect("listed").count(), 0);
        assert!(again.require_free(1, 0).is_ok());
        assert!(matches!(again.require_free(u64::MAX, 1), Err(Error::DiskFull { .. })));
    }

    #[test]
    fn a_file_is_no_folder() {
        let dir = tempfile::tempdir().expect("a folder");
        let file = dir.path().join("file");
        fs::write(&file, "x").expect("written");
        assert!(matches!(OutputDir::open(&file), Err(Error::Io { .. })));
    }
}
