//! Arrays that live in memory, or in a mapped file without a name when memory would not hold them.
//!
//! The trick: a page of a shared mapping can be given back at any time, since the file keeps what was written. So how much
//! of a mapped array is resident is this program's choice, and the code that uses the array sees a slice either way.
//! Space on disk is reserved before it is written to, so that a full disk is an error and not a signal.

use crate::count::MemoryLimit;
use crate::error::Error;
use crate::spill::{nameless_file, spill};
use bytemuck::Pod;
use memmap2::{MmapMut, UncheckedAdvice};
use rustix::fs::FallocateFlags;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// Disk space is reserved in steps of this many bytes.
const RESERVE_BYTES: u64 = 64 << 20;

/// An array that grows at its end.
pub(crate) struct Buffer<T> {
    storage: Storage<T>,
}

enum Storage<T> {
    Memory(Vec<T>),
    Mapped(Mapped),
}

struct Mapped {
    map: MmapMut,
    file: File,
    folder: PathBuf,
    /// Bytes of disk that are ours.
    reserved: u64,
    /// Items in use.
    len: usize,
}

impl<T: Pod> Buffer<T> {
    /// An empty array in memory.
    pub(crate) fn in_memory() -> Self {
        Self { storage: Storage::Memory(Vec::new()) }
    }

    /// An empty array of at most `most` items in a file in `folder`, which takes disk as it grows.
    ///
    /// # Errors
    /// [`Error::Spill`].
    pub(crate) fn in_file(folder: &Path, most: u64) -> Result<Self, Error> {
        let file = nameless_file(folder)?;
        let num_bytes = (most * size_of::<T>() as u64).next_multiple_of(RESERVE_BYTES).max(RESERVE_BYTES);
        file.set_len(num_bytes).map_err(|source| spill(folder, "size", source))?;
        // SAFETY: the file has no name and this is its only handle, so nobody else changes or shortens it.
        let map = unsafe { MmapMut::map_mut(&file) }.map_err(|source| spill(folder, "map", source))?;
        let mapped = Mapped { map, file, folder: folder.to_path_buf(), reserved: 0, len: 0 };
        Ok(Self { storage: Storage::Mapped(mapped) })
    }

    pub(crate) fn len(&self) -> usize {
        match &self.storage {
            Storage::Memory(items) => items.len(),
            Storage::Mapped(mapped) => mapped.len,
        }
    }

    pub(crate) fn push(&mut self, item: T) -> Result<(), Error> {
        match &mut self.storage {
            Storage::Memory(items) => items.push(item),
            Storage::Mapped(mapped) => {
                let at = mapped.len;
                mapped.resize::<T>(at + 1)?;
                mapped.items_mut()[at] = item;
            }
        }
        Ok(())
    }

    /// Sets the length. Items beyond the old one are any.
    ///
    /// # Errors
    /// [`Error::Spill`] where the disk is full.
    pub(crate) fn resize(&mut self, len: usize) -> Result<(), Error> {
        match &mut self.storage {
            Storage::Memory(items) => items.resize(len, T::zeroed()),
            Storage::Mapped(mapped) => mapped.resize::<T>(len)?,
        }
        Ok(())
    }

    /// Empties it. A file keeps its disk.
    pub(crate) fn clear(&mut self) {
        match &mut self.storage {
            Storage::Memory(items) => items.clear(),
            Storage::Mapped(mapped) => mapped.len = 0,
        }
    }

    /// Gives back the memory of a mapped array. What it holds stays.
    pub(crate) fn release(&mut self) {
        if let Storage::Mapped(mapped) = &self.storage {
            // SAFETY: the mapping is shared and of a file, so what was written stays in the file's pages, and the next
            // access finds it there. Failure only means that the pages stay resident.
            let _ = unsafe { mapped.map.unchecked_advise(UncheckedAdvice::DontNeed) };
        }
    }
}

impl<T: Pod> std::ops::Deref for Buffer<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        match &self.storage {
            Storage::Memory(items) => items,
            Storage::Mapped(mapped) => {
                &bytemuck::cast_slice(&mapped.map[..mapped.len * size_of::<T>()])[..mapped.len]
            }
        }
    }
}

impl<T: Pod> std::ops::DerefMut for Buffer<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        match &mut self.storage {
            Storage::Memory(items) => items,
            Storage::Mapped(mapped) => mapped.items_mut(),
        }
    }
}

impl Mapped {
    fn items_mut<T: Pod>(&mut self) -> &mut [T] {
        let num_bytes = self.len * size_of::<T>();
        bytemuck::cast_slice_mut(&mut self.map[..num_bytes])
    }

    fn resize<T>(&mut self, len: usize) -> Result<(), Error> {
        let num_bytes = (len * size_of::<T>()) as u64;
        assert!(num_bytes <= self.map.len() as u64, "{len} items in a file of {} bytes", self.map.len());
        while self.reserved < num_bytes {
            reserve(&self.file, self.reserved).map_err(|source| spill(&self.folder, "reserve", source))?;
            self.reserved += RESERVE_BYTES;
        }
        self.len = len;
        Ok(())
    }
}

/// Makes [`RESERVE_BYTES`] from `offset` on the file's own.
fn reserve(file: &File, offset: u64) -> std::io::Result<()> {
    match rustix::fs::fallocate(file, FallocateFlags::empty(), offset, RESERVE_BYTES) {
        // Some file systems reserve only what is written.
        Err(rustix::io::Errno::OPNOTSUPP) => {
            let zeros = vec![0; 1 << 20];
            (0..RESERVE_BYTES).step_by(zeros.len()).try_for_each(|at| file.write_all_at(&zeros, offset + at))
        }
        result => result.map_err(Into::into),
    }
}

/// Tells when mapped arrays shall give their memory back.
///
/// The system is asked only once as many places were touched as could use up what was free. Near the limit that is often,
/// so memory is given back while some is left.
pub(crate) struct Residency {
    max_bytes: Option<u64>,
    /// Places that may be touched before the next look at the memory in use.
    num_left: usize,
    /// `/proc/self/statm`, open.
    status: Option<File>,
}

/// What touching a place may bring in: the system may map a huge page for its cell, and another for its record.
pub(crate) const TOUCH_BYTES: u64 = 4 << 20;
/// Where less is free, memory is used up.
const LEAST_FREE: u64 = 32 << 20;

impl Residency {
    /// No limit where nothing is mapped.
    pub(crate) fn new(limit: Option<&MemoryLimit>) -> Self {
        Self {
            max_bytes: limit.map(|limit| limit.max_bytes - limit.max_bytes / 16),
            num_left: if limit.is_some() { 0 } else { usize::MAX },
            status: limit.and_then(|_| File::open("/proc/self/statm").ok()),
        }
    }

    /// The number of places that may be touched before [`Residency::is_used_up`] is to be asked; at least one.
    #[inline]
    pub(crate) fn num_left(&self) -> usize {
        self.num_left.max(1)
    }

    /// Notes that so many places were touched. True where memory is used up, and must be given back.
    #[inline]
    pub(crate) fn is_used_up(&mut self, num_touched: usize) -> bool {
        let Some(max_bytes) = self.max_bytes else { return false };
        self.num_left = self.num_left.saturating_sub(num_touched);
        self.num_left == 0 && self.look(max_bytes)
    }

    fn look(&mut self, max_bytes: u64) -> bool {
        // Where the system does not tell, memory is given back at every look.
        let free = self.resident_bytes().and_then(|bytes| max_bytes.checked_sub(bytes)).unwrap_or(0);
        self.num_left = (free / TOUCH_BYTES) as usize;
        free < LEAST_FREE
    }

    /// Memory that the process has resident, mapped files included.
    fn resident_bytes(&self) -> Option<u64> {
        let mut text = [0; 128];
        let len = self.status.as_ref()?.read_at(&mut text, 0).ok()?;
        let pages: u64 = str::from_utf8(&text[..len]).ok()?.split_ascii_whitespace().nth(1)?.parse().ok()?;
        Some(pages * rustix::param::page_size() as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_as_good_as_memory() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let mut arrays =
            [Buffer::<u32>::in_memory(), Buffer::in_file(folder.path(), 20_000_000).expect("a file")];
        assert_eq!(std::fs::read_dir(folder.path()).expect("a folder").count(), 0, "the file has no name");
        for array in &mut arrays {
            for item in 0..1000 {
                array.push(item).expect("pushed");
            }
            array.resize(18_000_000).expect("room");
            array[17_999_999] = 7;
            array.release();
            array[1000] = 1000;
            assert_eq!((array.len(), array[999], array[1000], array[17_999_999]), (18_000_000, 999, 1000, 7));
            array.resize(2).expect("shorter");
            assert_eq!(array[..], [0, 1]);
        }
    }
}
