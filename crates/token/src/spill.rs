//! Sorted runs of counted words, in memory and on disk, and the one sorted list that they add up to.
//!
//! On disk a word is what it shares with the word before it, as a number of bytes, then its own bytes and its count.
//! All runs of a thread lie in one file without a name, so that the number of open files is the number of threads.

use crate::count::Slot;
use crate::error::Error;
use crate::word::Interner;
use std::cmp::Ordering;
use std::collections::BinaryHeap;
use std::collections::binary_heap::PeekMut;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

/// Words in ascending order, each once.
pub(crate) enum Run {
    Memory(Sorted),
    Disk(DiskRun),
}

impl Run {
    /// Its size on disk, if it is there.
    pub(crate) fn num_disk_bytes(&self) -> Option<u64> {
        match self {
            Run::Memory(_) => None,
            Run::Disk(run) => Some(run.end - run.start),
        }
    }

    /// Its size in memory.
    pub(crate) fn num_memory_bytes(&self) -> u64 {
        match self {
            Run::Memory(sorted) => {
                (sorted.short.capacity() * size_of::<Slot>() + 3 * sorted.long.num_bytes()) as u64
            }
            Run::Disk(_) => 0,
        }
    }

    /// The sum of the lengths of its words, and their number; an upper bound where it is on disk.
    pub(crate) fn size(&self) -> (u64, u64) {
        match self {
            Run::Memory(sorted) => sorted.size(),
            Run::Disk(run) => run.size,
        }
    }
}

/// The words of one table.
pub(crate) struct Sorted {
    pub(crate) short: Vec<Slot>,
    long: Interner,
    long_counts: Vec<u64>,
    /// The words of `long` in ascending order.
    order: Vec<usize>,
}

impl Sorted {
    /// `short` is sorted.
    pub(crate) fn new(short: Vec<Slot>, long: Interner, long_counts: Vec<u64>) -> Self {
        let mut order: Vec<usize> = (0..long.len()).collect();
        order.sort_unstable_by_key(|&index| long.get(index));
        Self { short, long, long_counts, order }
    }

    fn size(&self) -> (u64, u64) {
        let short: usize = self.short.iter().map(|slot| slot.key.bytes().1).sum();
        ((short + self.long.num_bytes()) as u64, (self.short.len() + self.order.len()) as u64)
    }
}

/// Where [`Sorted`] is being read.
#[derive(Clone, Copy, Default)]
struct Position {
    short: usize,
    long: usize,
}

impl Position {
    /// Puts the next word into `word` and returns its count.
    fn next(&mut self, sorted: &Sorted, word: &mut Vec<u8>) -> Option<u64> {
        let long = sorted.order.get(self.long).map(|&index| (sorted.long.get(index), index));
        word.clear();
        if let Some(slot) = sorted.short.get(self.short) {
            let (bytes, length) = slot.key.bytes();
            let bytes = &bytes[..length];
            if long.is_none_or(|(long, _)| bytes < long) {
                word.extend_from_slice(bytes);
                self.short += 1;
                return Some(slot.count);
            }
        }
        let (bytes, index) = long?;
        word.extend_from_slice(bytes);
        self.long += 1;
        Some(sorted.long_counts[index])
    }
}

/// A file of runs. It has no name.
pub(crate) struct RunFile {
    file: Arc<File>,
    folder: Arc<Path>,
    end: u64,
}

/// A part of a [`RunFile`].
pub(crate) struct DiskRun {
    file: Arc<File>,
    folder: Arc<Path>,
    start: u64,
    end: u64,
    size: (u64, u64),
}

impl RunFile {
    pub(crate) fn create(folder: &Path) -> Result<Self, Error> {
        let file = nameless_file(folder)?;
        Ok(Self { file: Arc::new(file), folder: folder.into(), end: 0 })
    }

    /// Appends a run.
    pub(crate) fn write(&mut self, sorted: &Sorted) -> Result<Run, Error> {
        let start = self.end;
        self.end += write_run(&self.file, sorted).map_err(|source| spill(&self.folder, "write", source))?;
        let (file, folder) = (self.file.clone(), self.folder.clone());
        Ok(Run::Disk(DiskRun { file, folder, start, end: self.end, size: sorted.size() }))
    }
}

/// A file that ceases to be with the process, however that ends.
pub(crate) fn nameless_file(folder: &Path) -> Result<File, Error> {
    tempfile::tempfile_in(folder).map_err(|source| spill(folder, "create", source))
}

/// What went wrong with a file in `folder`.
pub(crate) fn spill(folder: &Path, doing: &'static str, source: io::Error) -> Error {
    Error::Spill { folder: folder.to_path_buf(), doing, source }
}

fn write_run(file: &File, sorted: &Sorted) -> io::Result<u64> {
    let mut out = BufWriter::with_capacity(1 << 18, file);
    let (mut position, mut word, mut last, mut num_bytes) = (Position::default(), Vec::new(), Vec::new(), 0);
    let mut entry = Vec::new();
    while let Some(count) = position.next(sorted, &mut word) {
        let shared = word.iter().zip(&last).take_while(|(a, b)| a == b).count();
        entry.clear();
        push_number(&mut entry, shared as u64);
        push_number(&mut entry, (word.len() - shared) as u64);
        entry.extend_from_slice(&word[shared..]);
        push_number(&mut entry, count);
        out.write_all(&entry)?;
        num_bytes += entry.len() as u64;
        std::mem::swap(&mut word, &mut last);
    }
    out.flush()?;
    Ok(num_bytes)
}

/// Seven bits a byte, the lowest first, the top bit where more follow.
fn push_number(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

/// Reads a [`DiskRun`] from its start to its end.
struct DiskReader {
    run: DiskRun,
    buffer: Box<[u8]>,
    at: usize,
    filled: usize,
}

impl DiskReader {
    fn new(run: DiskRun, buffer_bytes: usize) -> Self {
        Self { run, buffer: vec![0; buffer_bytes].into(), at: 0, filled: 0 }
    }

    /// Turns `word`, the word before, into the next and returns its count.
    fn next(&mut self, word: &mut Vec<u8>) -> io::Result<Option<u64>> {
        if self.at == self.filled && self.run.start == self.run.end {
            return Ok(None);
        }
        let shared = self.number()? as usize;
        let own = self.number()? as usize;
        word.truncate(shared);
        for _ in 0..own {
            let byte = self.byte()?;
            word.push(byte);
        }
        self.number().map(Some)
    }

    fn number(&mut self) -> io::Result<u64> {
        let (mut number, mut shift) = (0, 0);
        loop {
            let byte = self.byte()?;
            number |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(number);
            }
            shift += 7;
        }
    }

    fn byte(&mut self) -> io::Result<u8> {
        if self.at == self.filled {
            let wanted = self.buffer.len().min((self.run.end - self.run.start) as usize);
            self.filled = self.run.file.read_at(&mut self.buffer[..wanted], self.run.start)?;
            if self.filled == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            self.run.start += self.filled as u64;
            self.at = 0;
        }
        self.at += 1;
        Ok(self.buffer[self.at - 1])
    }
}

enum Source {
    Memory(Sorted, Position),
    Disk(DiskReader),
}

/// The next word of a run; the least is the greatest in a heap.
struct Head {
    /// The first eight bytes, big-endian: they decide nearly every comparison.
    prefix: u64,
    word: Vec<u8>,
    count: u64,
    source: Source,
}

impl Head {
    /// False at the run's end.
    fn advance(&mut self) -> Result<bool, Error> {
        let count = match &mut self.source {
            Source::Memory(sorted, position) => position.next(sorted, &mut self.word),
            Source::Disk(reader) => {
                reader.next(&mut self.word).map_err(|source| spill(&reader.run.folder, "read", source))?
            }
        };
        let mut first = [0; 8];
        let length = self.word.len().min(8);
        first[..length].copy_from_slice(&self.word[..length]);
        self.prefix = u64::from_be_bytes(first);
        self.count = count.unwrap_or(0);
        Ok(count.is_some())
    }
}

impl Ord for Head {
    fn cmp(&self, other: &Self) -> Ordering {
        other.prefix.cmp(&self.prefix).then_with(|| other.word.cmp(&self.word))
    }
}

impl PartialOrd for Head {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Head {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Head {}

/// Memory for reading runs on disk, all together.
const READ_BYTES: usize = 16 << 20;

/// What takes a word and its count.
type TakeWord<'f> = dyn FnMut(&[u8], u64) -> Result<(), Error> + 'f;

/// Calls `f` with every distinct word and its count over all `runs`, in ascending order.
pub(crate) fn for_each_word(runs: Vec<Run>, f: &mut TakeWord<'_>) -> Result<(), Error> {
    let buffer_bytes = (READ_BYTES / runs.len().max(1)).clamp(1 << 12, 1 << 18);
    let mut heads = BinaryHeap::new();
    for run in runs {
        let source = match run {
            Run::Memory(sorted) => Source::Memory(sorted, Position::default()),
            Run::Disk(run) => Source::Disk(DiskReader::new(run, buffer_bytes)),
        };
        let mut head = Head { prefix: 0, word: Vec::new(), count: 0, source };
        if head.advance()? {
            heads.push(head);
        }
    }
    let (mut word, mut count) = (Vec::new(), 0);
    while let Some(mut head) = heads.peek_mut() {
        if head.word != word {
            if count > 0 {
                f(&word, count)?;
            }
            word.clone_from(&head.word);
            count = 0;
        }
        count += head.count;
        if !head.advance()? {
            PeekMut::pop(head);
        }
    }
    if count > 0 { f(&word, count) } else { Ok(()) }
}
