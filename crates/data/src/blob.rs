//! Bytes that can be read from any place: a file here, or one that is elsewhere.
//!
//! Readers of formats are written over this, so that none of them knows where its bytes come from.

use crate::error::Error;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

/// A file, wherever it is. It must not change while it is read: a reader may come back to a place it has seen.
pub(crate) trait Blob: Send + Sync {
    /// What messages call it: a path, or the address it has on the hub.
    fn name(&self) -> String;

    /// Its size in bytes; 0 too where that is not known, as of a pipe.
    fn len(&self) -> u64;

    /// Its bytes from `offset` on. What the reader cannot mend by itself is an error of its `read`.
    ///
    /// # Errors
    /// If it cannot be opened there.
    fn read_from(&self, offset: u64) -> io::Result<Box<dyn Read + Send>>;
}

/// A file of this machine.
pub(crate) struct LocalFile {
    path: PathBuf,
    len: u64,
}

impl LocalFile {
    /// The file at `path`.
    ///
    /// # Errors
    /// If there is none.
    pub(crate) fn open(path: &Path) -> Result<Self, Error> {
        // Not opened here: whoever writes to a pipe is told that nobody reads when it is closed again.
        let read = |source| Error::Read { path: path.to_owned(), source };
        let len = std::fs::metadata(path).map_err(read)?.len();
        Ok(LocalFile { path: path.to_owned(), len })
    }
}

impl Blob for LocalFile {
    fn name(&self) -> String {
        self.path.display().to_string()
    }

    fn len(&self) -> u64 {
        self.len
    }

    fn read_from(&self, offset: u64) -> io::Result<Box<dyn Read + Send>> {
        let mut file = File::open(&self.path)?;
        // A pipe can be read from its start, but has no places to go to.
        if offset > 0 {
            file.seek(SeekFrom::Start(offset))?;
        }
        Ok(Box::new(file))
    }
}
