//! A file of the hub into the cache: resumed where it was left, verified, and then there as a whole.
//!
//! What is on disk of a file that is not whole is hashed again before more is asked for, so that the hash of the whole
//! vouches for all of it, whoever wrote it. Where it does not, the file is fetched once more from its first byte, under a
//! name that nobody else uses: some network file systems grant a lock to everyone.

use super::cache::{Cache, create_folder, free_bytes, has_size, sync_folder, temporary_beside};
use super::content::ContentHasher;
use super::error::HubError;
use super::options::HubEvent;
use super::remote::{RemoteReader, Source};
use std::fs::{self, File};
use std::io::{ErrorKind, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Bytes that are read and written at a time.
const BUFFER_BYTES: usize = 1 << 20;
/// Time between two words about progress.
const TELL_EVERY: Duration = Duration::from_millis(100);

/// The path of a file in the cache, where it is put if it is not there.
pub(super) fn download(source: &Arc<Source>, cache: &Cache, commit: &str) -> Result<PathBuf, HubError> {
    let (size, hash) = (source.entry.size, &source.hash);
    let blob = cache.blob(hash);
    if !has_size(&blob, size) {
        create_folder(blob.parent().unwrap_or(cache.root()))?;
        let _lock = cache.lock(hash, || {
            let reason = format!("another process downloads {}", source.entry.path);
            source.client().options().tell(&HubEvent::Waiting { wait: Duration::ZERO, reason });
        })?;
        // Whoever held the lock may have done it.
        if !has_size(&blob, size) {
            fetch(source, &blob)?;
        }
    }
    cache.link(commit, &source.entry, hash)
}

/// Makes a blob whole.
fn fetch(source: &Arc<Source>, blob: &Path) -> Result<(), HubError> {
    let mut name = blob.as_os_str().to_owned();
    name.push(".incomplete");
    let mut partial = PathBuf::from(name);
    if let Err(error) = fill(source, &partial)? {
        remove(&partial)?;
        if error.num_resumed_bytes == 0 {
            return Err(error.error);
        }
        partial = temporary_beside(blob);
        if let Err(error) = fill(source, &partial)? {
            remove(&partial)?;
            return Err(error.error);
        }
    }
    fs::rename(&partial, blob).map_err(HubError::cache("write", blob))?;
    sync_folder(blob.parent().unwrap_or(Path::new(".")))
}

/// A file whose bytes are not what they should be.
struct Damaged {
    /// Bytes of it that were there before.
    num_resumed_bytes: u64,
    error: HubError,
}

/// Appends to a file what it lacks, and flushes it to disk if it is then right.
fn fill(source: &Arc<Source>, path: &Path) -> Result<Result<(), Damaged>, HubError> {
    let size = source.entry.size;
    let file = File::options().create(true).read(true).append(true).open(path);
    let mut file = file.map_err(HubError::cache("write", path))?;
    let mut hasher = source.hash.hasher(size);
    let num_resumed_bytes = resume(&mut file, size, &mut hasher).map_err(HubError::cache("read", path))?;
    check_room(path, size - num_resumed_bytes)?;
    append(source, path, &mut file, num_resumed_bytes, &mut hasher)?;
    let hash = hasher.finish();
    if hash != source.hash {
        let error = source.changed("its hash", &source.hash, hash);
        return Ok(Err(Damaged { num_resumed_bytes, error }));
    }
    file.sync_all().map_err(HubError::cache("write", path))?;
    Ok(Ok(()))
}

/// Hashes what is there; all of it goes if it is too much.
fn resume(file: &mut File, size: u64, hasher: &mut ContentHasher) -> std::io::Result<u64> {
    let there = file.metadata()?.len();
    if there > size {
        file.set_len(0)?;
        return Ok(0);
    }
    let mut buffer = vec![0; BUFFER_BYTES];
    let mut left = there;
    while left > 0 {
        let room = usize::try_from(left).unwrap_or(usize::MAX).min(BUFFER_BYTES);
        file.read_exact(&mut buffer[..room])?;
        hasher.update(&buffer[..room]);
        left -= room as u64;
    }
    Ok(there)
}

/// Copies from the hub to the end of the file.
fn append(
    source: &Arc<Source>,
    path: &Path,
    file: &mut File,
    start: u64,
    hasher: &mut ContentHasher,
) -> Result<(), HubError> {
    let size = source.entry.size;
    let mut reader = RemoteReader::new(source.clone(), start);
    let mut buffer = vec![0; BUFFER_BYTES];
    let (mut done, mut told) = (start, Instant::now());
    let tell = |num_bytes| {
        let file = source.entry.path.clone();
        source.client().options().tell(&HubEvent::Downloaded { file, num_bytes, total_bytes: size });
    };
    tell(done);
    loop {
        let num_read = reader.read(&mut buffer).map_err(hub_error(path))?;
        if num_read == 0 {
            break;
        }
        hasher.update(&buffer[..num_read]);
        file.write_all(&buffer[..num_read]).map_err(|error| write_error(path, size - done, error))?;
        done += num_read as u64;
        if told.elapsed() >= TELL_EVERY && done < size {
            tell(done);
            told = Instant::now();
        }
    }
    tell(done);
    Ok(())
}

/// Refuses to begin what cannot end.
fn check_room(path: &Path, needed_bytes: u64) -> Result<(), HubError> {
    let folder = path.parent().unwrap_or(Path::new("."));
    match free_bytes(folder) {
        Some(free_bytes) if free_bytes < needed_bytes => {
            Err(HubError::DiskFull { path: folder.to_owned(), needed_bytes, free_bytes })
        }
        _ => Ok(()),
    }
}

fn write_error(path: &Path, needed_bytes: u64, error: std::io::Error) -> HubError {
    let folder = path.parent().unwrap_or(Path::new("."));
    if matches!(error.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded) {
        let free_bytes = free_bytes(folder).unwrap_or(0);
        return HubError::DiskFull { path: folder.to_owned(), needed_bytes, free_bytes };
    }
    HubError::cache("write", path)(error)
}

/// The error of the hub that an error of reading is made of.
fn hub_error(path: &Path) -> impl Fn(std::io::Error) -> HubError {
    let path = path.to_owned();
    move |error| match error.downcast::<HubError>() {
        Ok(error) => error,
        Err(error) => HubError::cache("fill", &path)(error),
    }
}

fn remove(path: &Path) -> Result<(), HubError> {
    fs::remove_file(path).map_err(HubError::cache("remove", path))
}
