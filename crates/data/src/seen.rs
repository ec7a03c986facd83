//! Which documents came before: a set of hashes, with a log on disk that a later process goes on from.

use crate::error::Error;
use std::collections::HashSet;
use std::fs::{File, OpenOptions};
use std::io::{BufReader, BufWriter, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

/// The first bytes of a BLAKE3.
pub(crate) type Hash = [u8; 16];

/// Hashes of documents.
#[derive(Default)]
pub(crate) struct Seen {
    hashes: HashSet<Hash>,
    log: Option<(PathBuf, BufWriter<File>)>,
}

impl Seen {
    /// The set that the first `num_hashes` of the log at `path` make, and which goes on writing it.
    ///
    /// # Errors
    /// If the log is shorter, or cannot be read or written.
    pub(crate) fn resume(path: &Path, num_hashes: u64) -> Result<Self, Error> {
        let options = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path);
        let file = options.map_err(Error::write(path))?;
        let mut hashes = HashSet::new();
        let mut input = BufReader::with_capacity(1 << 20, &file);
        for _ in 0..num_hashes {
            let mut hash = Hash::default();
            input.read_exact(&mut hash).map_err(Error::read(path))?;
            hashes.insert(hash);
        }
        let num_bytes = num_hashes * size_of::<Hash>() as u64;
        file.set_len(num_bytes).map_err(Error::write(path))?;
        let mut log = BufWriter::with_capacity(1 << 16, file);
        log.seek(SeekFrom::Start(num_bytes)).map_err(Error::write(path))?;
        Ok(Seen { hashes, log: Some((path.to_owned(), log)) })
    }

    /// Whether `hash` is new. It is not the next time.
    ///
    /// # Errors
    /// If the log cannot be written.
    pub(crate) fn insert(&mut self, hash: Hash) -> Result<bool, Error> {
        let is_new = self.hashes.insert(hash);
        if let (true, Some((path, log))) = (is_new, &mut self.log) {
            log.write_all(&hash).map_err(Error::write(path))?;
        }
        Ok(is_new)
    }

    /// Makes the log durable, and says how many hashes it has.
    ///
    /// # Errors
    /// If it cannot be written.
    pub(crate) fn sync(&mut self) -> Result<u64, Error> {
        if let Some((path, log)) = &mut self.log {
            log.flush().and_then(|()| log.get_ref().sync_all()).map_err(Error::write(path))?;
        }
        Ok(self.hashes.len() as u64)
    }
}
