//! Files of records of one size: logs that are appended to and resumed, and files without a name for what can be made
//! again.
//!
//! They are scratch, written and read by one run of the program or by the one that goes on with its work on the same
//! machine, so records lie in them as they lie in memory. Reading maps them: what a file holds costs no memory that the
//! system could not take back.

use crate::error::Error;
use bytemuck::Pod;
use memmap2::{Mmap, MmapMut, MmapOptions};
use std::fs::File;
use std::io::{BufWriter, Seek, SeekFrom, Write};
use std::marker::PhantomData;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

/// Bytes that are gathered before they are written.
const WRITE_BYTES: usize = 256 << 10;

/// An append-only file of records.
pub(crate) struct Log<T> {
    path: PathBuf,
    file: BufWriter<File>,
    num_records: u64,
    record: PhantomData<T>,
}

impl<T: Pod> Log<T> {
    /// Starts an empty log at `path`, in place of one that may be there.
    ///
    /// # Errors
    /// If it cannot be written.
    pub(crate) fn create(path: PathBuf) -> Result<Self, Error> {
        Self::open(path, 0, true)
    }

    /// Goes on with the log at `path` after its first `num_records`; what follows them is cut off.
    ///
    /// # Errors
    /// If it cannot be written, or holds fewer.
    pub(crate) fn resume(path: PathBuf, num_records: u64) -> Result<Self, Error> {
        Self::open(path, num_records, false)
    }

    fn open(path: PathBuf, num_records: u64, create: bool) -> Result<Self, Error> {
        let write = |source| Error::Write { path: path.clone(), source };
        let mut options = File::options();
        let mut file =
            options.read(true).write(true).create(create).truncate(create).open(&path).map_err(write)?;
        if !create {
            let (found, wanted) = (file.metadata().map_err(write)?.len(), num_bytes::<T>(num_records));
            if found < wanted {
                let expected = format!("{num_records} records of {} bytes", size_of::<T>());
                return Err(damaged(&path, found, expected, "the end of the file".to_owned()));
            }
            file.set_len(wanted).map_err(write)?;
            file.seek(SeekFrom::Start(wanted)).map_err(write)?;
        }
        let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        File::open(folder).and_then(|folder| folder.sync_all()).map_err(write)?;
        let file = BufWriter::with_capacity(WRITE_BYTES, file);
        Ok(Log { path, file, num_records, record: PhantomData })
    }

    /// Records in it.
    pub(crate) fn len(&self) -> u64 {
        self.num_records
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Appends a record.
    ///
    /// # Errors
    /// If writing fails.
    pub(crate) fn push(&mut self, record: &T) -> Result<(), Error> {
        let written = self.file.write_all(bytemuck::bytes_of(record));
        written.map_err(|source| Error::Write { path: self.path.clone(), source })?;
        self.num_records += 1;
        Ok(())
    }

    /// Makes every record durable.
    ///
    /// # Errors
    /// If writing fails.
    pub(crate) fn sync(&mut self) -> Result<(), Error> {
        let written = self.file.flush().and_then(|()| self.file.get_ref().sync_data());
        written.map_err(|source| Error::Write { path: self.path.clone(), source })
    }

    /// Its records so far.
    ///
    /// # Errors
    /// If what is still to be written cannot be, or the file cannot be mapped.
    pub(crate) fn records(&mut self) -> Result<Records<T>, Error> {
        self.file.flush().map_err(|source| Error::Write { path: self.path.clone(), source })?;
        Records::map(self.file.get_ref(), &self.path, self.num_records)
    }
}

/// What is wrong with a record.
pub(crate) fn damaged(path: &Path, offset: u64, expected: String, found: String) -> Error {
    Error::DamagedScratch { path: path.to_owned(), offset, expected, found }
}

/// The size of so many records, or one that no file has.
pub(crate) fn num_bytes<T>(num_records: u64) -> u64 {
    num_records.saturating_mul(size_of::<T>() as u64)
}

/// Mapped records.
pub(crate) struct Records<T> {
    bytes: Option<Mmap>,
    record: PhantomData<T>,
}

impl<T: Pod> Records<T> {
    /// The first `num_records` of a file that has so many.
    fn map(file: &File, path: &Path, num_records: u64) -> Result<Self, Error> {
        let read = |source| Error::Read { path: path.to_owned(), source };
        let bytes = if num_records == 0 { None } else { Some(map_options::<T>(num_records).map_err(read)?) };
        // SAFETY: the file is scratch of this run, which writes nothing below the end of what is mapped.
        let bytes = bytes.map(|options| unsafe { options.map(file) }).transpose().map_err(read)?;
        Ok(Records { bytes, record: PhantomData })
    }
}

impl<T: Pod> std::ops::Deref for Records<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        // A mapping starts at a page and was made of whole records.
        self.bytes.as_deref().map_or(&[], bytemuck::cast_slice)
    }
}

fn map_options<T>(num_records: u64) -> std::io::Result<MmapOptions> {
    let len = usize::try_from(num_bytes::<T>(num_records)).map_err(|_| std::io::ErrorKind::FileTooLarge)?;
    let mut options = MmapOptions::new();
    options.len(len);
    Ok(options)
}

/// A file of records that ceases to be with the process, however that ends.
pub(crate) struct Nameless<T> {
    /// The name that it had for a moment, for messages.
    path: PathBuf,
    file: File,
    num_records: u64,
    record: PhantomData<T>,
}

impl<T: Pod> Nameless<T> {
    /// An empty file in `dir`, which messages call `what`.
    ///
    /// # Errors
    /// If it cannot be made.
    pub(crate) fn create(dir: &Path, what: &str) -> Result<Self, Error> {
        static NUM_CREATED: AtomicU64 = AtomicU64::new(0);
        let number = NUM_CREATED.fetch_add(1, Ordering::Relaxed);
        let path = dir.join(format!(".{what}-{number}.{}.eyas-partial", std::process::id()));
        let write = |source| Error::Write { path: path.clone(), source };
        let file =
            File::options().read(true).write(true).create(true).truncate(true).open(&path).map_err(write)?;
        std::fs::remove_file(&path).map_err(write)?;
        Ok(Nameless { path, file, num_records: 0, record: PhantomData })
    }

    /// Records in it.
    pub(crate) fn len(&self) -> u64 {
        self.num_records
    }

    /// Appends records in one write.
    ///
    /// # Errors
    /// If writing fails.
    pub(crate) fn push_all(&mut self, records: &[T]) -> Result<(), Error> {
        let written = self.file.write_all_at(bytemuck::cast_slice(records), num_bytes::<T>(self.num_records));
        written.map_err(|source| Error::Write { path: self.path.clone(), source })?;
        self.num_records += records.len() as u64;
        Ok(())
    }

    /// Reads the records from `start` on, which must be there.
    ///
    /// # Errors
    /// If reading fails.
    pub(crate) fn read(&self, start: u64, records: &mut [T]) -> Result<(), Error> {
        let read = self.file.read_exact_at(bytemuck::cast_slice_mut(records), num_bytes::<T>(start));
        read.map_err(|source| Error::Read { path: self.path.clone(), source })
    }

    /// All records, to be read.
    ///
    /// # Errors
    /// If the file cannot be mapped.
    pub(crate) fn records(self) -> Result<Records<T>, Error> {
        Records::map(&self.file, &self.path, self.num_records)
    }

    /// All records, to be changed. Every byte of them was written, so that the disk has room for what is changed.
    ///
    /// # Errors
    /// If the file cannot be mapped.
    pub(crate) fn records_mut(self) -> Result<RecordsMut<T>, Error> {
        let read = |source| Error::Read { path: self.path.clone(), source };
        let options = map_options::<T>(self.num_records.max(1)).map_err(read)?;
        if self.num_records == 0 {
            // A mapping is never empty.
            self.file.set_len(size_of::<T>() as u64).map_err(read)?;
        }
        // SAFETY: the file has no name and no other handle: nobody else changes it.
        let bytes = unsafe { options.map_mut(&self.file) }.map_err(read)?;
        Ok(RecordsMut { bytes, len: self.num_records as usize, record: PhantomData })
    }
}

/// Gathers records and appends them many at a time.
pub(crate) struct Appender<T> {
    file: Nameless<T>,
    buffer: Vec<T>,
    capacity: usize,
}

impl<T: Pod> Appender<T> {
    /// Appends to `file`, `capacity` records at a time.
    pub(crate) fn new(file: Nameless<T>, capacity: usize) -> Self {
        Appender { file, buffer: Vec::new(), capacity }
    }

    /// Appends a record.
    ///
    /// # Errors
    /// If writing fails.
    pub(crate) fn push(&mut self, record: T) -> Result<(), Error> {
        self.buffer.push(record);
        if self.buffer.len() >= self.capacity { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> Result<(), Error> {
        self.file.push_all(&self.buffer)?;
        self.buffer.clear();
        Ok(())
    }

    /// The file with all records in it.
    ///
    /// # Errors
    /// If writing fails.
    pub(crate) fn finish(mut self) -> Result<Nameless<T>, Error> {
        self.flush()?;
        Ok(self.file)
    }
}

/// Mapped records that can be changed.
pub(crate) struct RecordsMut<T> {
    bytes: MmapMut,
    len: usize,
    record: PhantomData<T>,
}

impl<T: Pod> std::ops::Deref for RecordsMut<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        &bytemuck::cast_slice(&self.bytes)[..self.len]
    }
}

impl<T: Pod> std::ops::DerefMut for RecordsMut<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        &mut bytemuck::cast_slice_mut(&mut self.bytes)[..self.len]
    }
}
