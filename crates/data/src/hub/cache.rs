//! The cache of files of the hub, in the layout of Python's `huggingface_hub`, so that a file is downloaded once for both.
//!
//! ```text
//! CACHE/datasets--OWNER--NAME/
//!   refs/REVISION            the commit that a branch or tag was at
//!   trees/COMMIT.json        all files of a commit, whether they are here or not
//!   blobs/HASH               the files, named by their ETag, which is their hash
//!   blobs/HASH.incomplete    one that is not whole yet
//!   snapshots/COMMIT/PATH    links to blobs
//! CACHE/.locks/datasets--OWNER--NAME/HASH.lock
//! ```
//!
//! A blob is whole once it has its name. Whoever downloads one holds its lock, which the system lets go of when a process
//! ends in any way; the same lock is Python's.

use super::content::ContentHash;
use super::error::HubError;
use super::id::is_commit;
use super::listing::{Listing, MAX_LISTING_BYTES, RemoteEntry, is_safe_path};
use std::fs::{self, File, TryLockError};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Deepest folders of a snapshot that are looked into.
const MAX_DEPTH: usize = 64;
/// How often a lock that another holds is tried again.
const LOCK_WAIT: Duration = Duration::from_millis(200);

/// The part of the cache that belongs to one dataset.
#[derive(Clone, Debug)]
pub(super) struct Cache {
    root: PathBuf,
    folder: String,
}

impl Cache {
    /// The part of the cache at `root` that belongs to the dataset `name`. Nothing is created.
    pub(super) fn new(root: &Path, name: &str) -> Self {
        Cache { root: root.to_owned(), folder: format!("datasets--{}", name.replace('/', "--")) }
    }

    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    fn path(&self, parts: &[&str]) -> PathBuf {
        let mut path = self.root.join(&self.folder);
        path.extend(parts);
        path
    }

    pub(super) fn blob(&self, hash: &ContentHash) -> PathBuf {
        self.path(&["blobs", hash.as_str()])
    }

    /// The commit that a revision was at when it was last asked for.
    pub(super) fn read_commit(&self, revision: &str) -> Option<String> {
        if is_commit(revision) {
            return Some(revision.to_owned());
        }
        let text = read_bounded(&self.path(&["refs", revision]), 256).ok()?;
        let commit = String::from_utf8(text).ok()?.trim().to_owned();
        is_commit(&commit).then_some(commit)
    }

    /// Keeps what a revision is at.
    pub(super) fn write_commit(&self, revision: &str, commit: &str) -> Result<(), HubError> {
        if self.read_commit(revision).as_deref() == Some(commit) {
            return Ok(());
        }
        write_whole(&self.path(&["refs", revision]), commit.as_bytes())
    }

    /// Keeps what files a commit has.
    pub(super) fn write_listing(&self, commit: &str, listing: &Listing) -> Result<(), HubError> {
        // Python calls a cache without this folder damaged.
        create_folder(&self.path(&["snapshots"]))?;
        let json = serde_json::to_vec(listing).unwrap_or_default();
        write_whole(&self.path(&["trees", &format!("{commit}.json")]), &json)
    }

    /// All files of a commit, if they were listed before. One that cannot be read is as good as none.
    pub(super) fn read_listing(&self, commit: &str) -> Option<Listing> {
        let json = read_bounded(&self.path(&["trees", &format!("{commit}.json")]), MAX_LISTING_BYTES).ok()?;
        serde_json::from_slice(&json).ok().filter(Listing::is_valid)
    }

    /// The file of an entry, if it is here with the size that it must have.
    pub(super) fn find(&self, commit: &str, entry: &RemoteEntry) -> Option<PathBuf> {
        let path = self.path(&["snapshots", commit, &entry.path]);
        has_size(&path, entry.size).then_some(path)
    }

    /// The files of a commit that are here, ordered by path.
    pub(super) fn files(&self, commit: &str) -> Vec<RemoteEntry> {
        let mut entries = Vec::new();
        walk(&self.path(&["snapshots", commit]), String::new(), MAX_DEPTH, &mut entries);
        entries.sort_by(|a, b| a.path.cmp(&b.path));
        entries
    }

    /// Makes the blob `hash` the file of `entry` at `commit`, and gives its path.
    pub(super) fn link(
        &self,
        commit: &str,
        entry: &RemoteEntry,
        hash: &ContentHash,
    ) -> Result<PathBuf, HubError> {
        let path = self.path(&["snapshots", commit, &entry.path]);
        let folder = path.parent().unwrap_or(&self.root).to_owned();
        create_folder(&folder)?;
        let depth = entry.path.split('/').count() + 1;
        let target: PathBuf = [&"../".repeat(depth), "blobs", hash.as_str()].iter().collect();
        let temporary = temporary_beside(&path);
        std::os::unix::fs::symlink(target, &temporary).map_err(HubError::cache("write", &temporary))?;
        fs::rename(&temporary, &path).map_err(HubError::cache("write", &path))?;
        sync_folder(&folder)?;
        Ok(path)
    }

    /// Waits until nobody else downloads the blob `hash`; `waiting` is called once if that takes a while.
    pub(super) fn lock(&self, hash: &ContentHash, waiting: impl Fn()) -> Result<File, HubError> {
        let folder = self.root.join(".locks").join(&self.folder);
        create_folder(&folder)?;
        let path = folder.join(format!("{hash}.lock"));
        let lock = HubError::cache("lock", &path);
        let file = File::options().create(true).append(true).open(&path).map_err(&lock)?;
        let mut told = false;
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(file),
                Err(TryLockError::WouldBlock) => {}
                Err(TryLockError::Error(error)) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(TryLockError::Error(error)) => return Err(lock(error)),
            }
            if !told {
                waiting();
                told = true;
            }
            std::thread::sleep(LOCK_WAIT);
        }
    }
}

/// Whether there is a file of this size.
pub(super) fn has_size(path: &Path, size: u64) -> bool {
    fs::metadata(path).is_ok_and(|file| file.is_file() && file.len() == size)
}

pub(super) fn create_folder(path: &Path) -> Result<(), HubError> {
    fs::create_dir_all(path).map_err(HubError::cache("create", path))
}

/// Makes the names in a folder durable.
pub(super) fn sync_folder(path: &Path) -> Result<(), HubError> {
    File::open(path).and_then(|folder| folder.sync_all()).map_err(HubError::cache("write", path))
}

/// Bytes that are free for this user where `folder` lies.
pub(super) fn free_bytes(folder: &Path) -> Option<u64> {
    let space = rustix::fs::statvfs(folder).ok()?;
    Some(space.f_bavail.saturating_mul(space.f_frsize))
}

/// A name beside `path` that nobody else uses.
pub(super) fn temporary_beside(path: &Path) -> PathBuf {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    // Names may be as long as the file system takes them, so the end of a long one is cut off.
    let name: String = name.chars().take(40).collect();
    let (process, number) = (std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
    path.with_file_name(format!(".{name}.{process}-{number}.incomplete"))
}

/// Writes a small file so that it is there as a whole or not at all.
fn write_whole(path: &Path, bytes: &[u8]) -> Result<(), HubError> {
    let folder = path.parent().unwrap_or(Path::new("."));
    create_folder(folder)?;
    let temporary = temporary_beside(path);
    let write = || {
        let mut file = File::create(&temporary)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&temporary, path)
    };
    write().map_err(|error| {
        // Best effort: the error that brought us here is the one to report.
        let _ = fs::remove_file(&temporary);
        HubError::cache("write", path)(error)
    })?;
    sync_folder(folder)
}

fn read_bounded(path: &Path, limit: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(limit + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > limit {
        return Err(io::Error::from(io::ErrorKind::FileTooLarge));
    }
    Ok(bytes)
}

/// The files below `folder`, whose path in the snapshot is `prefix`. What cannot be read is not there.
fn walk(folder: &Path, prefix: String, depth: usize, entries: &mut Vec<RemoteEntry>) {
    let Ok(names) = fs::read_dir(folder) else { return };
    for name in names.flatten() {
        let Ok(text) = name.file_name().into_string() else { continue };
        let (path, inside) = (name.path(), format!("{prefix}{text}"));
        // Blobs are links, so files are followed; folders are not.
        if name.file_type().is_ok_and(|kind| kind.is_dir()) {
            if depth > 0 {
                walk(&path, inside + "/", depth - 1, entries);
            }
        } else if let Ok(file) = fs::metadata(&path)
            && file.is_file()
            && is_safe_path(&inside)
        {
            entries.push(RemoteEntry { path: inside, size: file.len(), hash: None });
        }
    }
}
