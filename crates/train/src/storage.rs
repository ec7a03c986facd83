//! The few operations on a file system that durability rests on, so that checkpoints can be written through another one.
//!
//! [`Disk`] is the operating system. The tests have one that loses what was not flushed, tears writes and reorders renames,
//! and one that fails at any call they choose; what is written through either is written by the very code that writes to
//! the disk.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::Path;

/// A file being written.
pub trait StorageFile: Write {
    /// Returns when what was written survives a power cut; the file's name may still be lost.
    ///
    /// # Errors
    /// The operating system's.
    fn sync(&mut self) -> io::Result<()>;
}

/// A file system.
pub trait Storage: Send + Sync {
    /// Makes a folder in one that is there.
    ///
    /// # Errors
    /// As all of these: the operating system's.
    fn create_dir(&self, path: &Path) -> io::Result<()>;
    /// Makes an empty file.
    fn create(&self, path: &Path) -> io::Result<Box<dyn StorageFile>>;
    /// Gives a file or a folder another name.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Returns when the names in folder `path` survive a power cut.
    fn sync_dir(&self, path: &Path) -> io::Result<()>;
    /// Removes a folder with all that is in it.
    fn remove_dir_all(&self, path: &Path) -> io::Result<()>;
    /// The names in a folder, and which of them are folders.
    fn list(&self, path: &Path) -> io::Result<Vec<(String, bool)>>;
    /// Opens a file to be read.
    fn open(&self, path: &Path) -> io::Result<Box<dyn Read>>;
    /// Whether there is anything of that name.
    fn exists(&self, path: &Path) -> bool;
}

/// The operating system's file system.
pub struct Disk;

impl StorageFile for File {
    fn sync(&mut self) -> io::Result<()> {
        self.sync_all()
    }
}

impl Storage for Disk {
    fn create_dir(&self, path: &Path) -> io::Result<()> {
        fs::create_dir(path)
    }

    fn create(&self, path: &Path) -> io::Result<Box<dyn StorageFile>> {
        Ok(Box::new(File::create(path)?))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        File::open(path)?.sync_all()
    }

    fn remove_dir_all(&self, path: &Path) -> io::Result<()> {
        fs::remove_dir_all(path)
    }

    fn list(&self, path: &Path) -> io::Result<Vec<(String, bool)>> {
        let entry = |entry: io::Result<fs::DirEntry>| {
            let entry = entry?;
            Ok((entry.file_name().to_string_lossy().into_owned(), entry.path().is_dir()))
        };
        fs::read_dir(path)?.map(entry).collect()
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn Read>> {
        Ok(Box::new(File::open(path)?))
    }

    fn exists(&self, path: &Path) -> bool {
        path.exists()
    }
}
