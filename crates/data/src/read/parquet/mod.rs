//! Rows of a parquet file: four columns of strings at the most, row group by row group, in order.
//!
//! Made for files that nobody vouches for. The crate `parquet` (60.1) makes room by the sizes in page headers, decompresses
//! gzip and brotli pages until they end, and loops as often as a list claims to be long; here every claim is checked
//! against bytes that are there before it is used, and what eyas has no use for is not read at all.
//!
//! Row groups are decoded ahead by a thread each, while what they claim to decompress to is small; no page may be larger
//! than its claim, and each thread has room for some rows alone, so memory is bounded whatever a file says. Should a
//! decoder panic after all, its thread ends without a word, which is an error like any other damage.

mod codec;
mod column;
mod footer;
mod pages;
mod thrift;
mod values;

use super::queue::{Receiver, Sender, queue};
use super::row::Row;
use super::{MAX_ROW_BYTES, RawRow, too_long};
use crate::blob::Blob;
use crate::error::Error;
use column::{Cell, Column};
use footer::{Footer, NUM_COLUMNS, RowGroup};
use std::collections::VecDeque;
use std::io::{self, Read};
use std::sync::Arc;

/// Row groups decoded at once, at the most.
const MAX_WORKERS: usize = 8;
/// Uncompressed bytes of row groups that are decoded at once, unless one alone has more.
const AHEAD_BYTES: u64 = 128 << 20;
/// Bytes of rows that a thread may have ready.
const READY_BYTES: usize = 16 << 20;
/// Bytes of text that are handed over together, about, and rows of them.
const BLOCK_BYTES: usize = 1 << 20;
const BLOCK_ROWS: usize = 1024;
/// What a row costs beside its strings, about.
const ROW_BYTES: usize = 256;

/// What is wrong with a file, and where.
#[derive(Debug)]
struct Fault {
    reason: String,
    offset: Option<u64>,
}

impl Fault {
    fn new(reason: impl Into<String>) -> Self {
        Fault { reason: reason.into(), offset: None }
    }

    fn ended() -> Self {
        Fault::new("ends too early, or was cut while it was read")
    }

    /// Notes where it is, unless that is known better already.
    fn at(mut self, offset: u64) -> Self {
        self.offset.get_or_insert(offset);
        self
    }

    fn into_error(self, name: &str) -> Error {
        let Fault { reason, offset } = self;
        Error::BrokenFile { name: name.to_owned(), offset, text_offset: None, reason }
    }
}

impl From<io::Error> for Fault {
    fn from(error: io::Error) -> Self {
        Fault::new(format!("cannot be read: {error}"))
    }
}

/// `len` bytes from `offset` on.
fn read_exactly(blob: &dyn Blob, offset: u64, len: u64) -> Result<Vec<u8>, Fault> {
    let read = || {
        let mut bytes = Vec::new();
        blob.read_from(offset)?.take(len).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    let bytes: Vec<u8> = read().map_err(|error: io::Error| Fault::from(error).at(offset))?;
    if (bytes.len() as u64) < len {
        return Err(Fault::ended().at(offset + bytes.len() as u64));
    }
    Ok(bytes)
}

/// A parquet file being read.
pub(super) struct ParquetRows {
    blob: Arc<dyn Blob>,
    footer: Footer,
    /// What its rows are called by.
    row_name: Arc<str>,
    /// Row groups being decoded, in order, and the one after them.
    running: VecDeque<Running>,
    waiting: Option<RowGroup>,
    max_workers: usize,
    /// Rows in row groups that were begun.
    num_rows: u64,
    ready: std::vec::IntoIter<RawRow>,
    /// What is wrong with the footer from here on: it is told after all rows before.
    fault: Option<Error>,
}

/// A row group that a thread decodes.
struct Running {
    receiver: Receiver<Message>,
    claimed_bytes: u64,
}

enum Message {
    Rows(Vec<RawRow>),
    /// The last message.
    End(Result<(), Error>),
}

impl ParquetRows {
    /// Reads the footer.
    pub(super) fn open(blob: Arc<dyn Blob>, text_field: Option<&str>, row_name: &str) -> Result<Self, Error> {
        let footer = Footer::read(&*blob, text_field).map_err(|fault| fault.into_error(&blob.name()))?;
        let max_workers = std::thread::available_parallelism().map_or(1, |n| n.get().min(MAX_WORKERS));
        Ok(ParquetRows {
            blob,
            footer,
            row_name: row_name.into(),
            running: VecDeque::new(),
            waiting: None,
            max_workers,
            num_rows: 0,
            ready: Vec::new().into_iter(),
            fault: None,
        })
    }

    /// The next row, `None` after the last. After an error there is nothing more.
    pub(super) fn next(&mut self) -> Result<Option<RawRow>, Error> {
        loop {
            if let Some(row) = self.ready.next() {
                return Ok(Some(row));
            }
            if let Err(error) = self.start_ahead() {
                self.fault = Some(error);
            }
            let Some(first) = self.running.front() else {
                return self.fault.take().map_or(Ok(None), Err);
            };
            match first.receiver.receive() {
                Some(Message::Rows(rows)) => self.ready = rows.into_iter(),
                Some(Message::End(Ok(()))) => {
                    self.running.pop_front();
                }
                Some(Message::End(Err(error))) => return Err(self.stop(error)),
                None => {
                    let error = super::decoder_died(&self.blob.name());
                    return Err(self.stop(error));
                }
            }
        }
    }

    /// Ends all threads; nothing more comes.
    fn stop(&mut self, error: Error) -> Error {
        self.running.clear();
        self.footer.finish();
        (self.waiting, self.fault) = (None, None);
        error
    }

    /// Begins row groups as far as there is room.
    fn start_ahead(&mut self) -> Result<(), Error> {
        while self.fault.is_none() {
            if self.waiting.is_none() {
                let group = self.footer.next_row_group();
                self.waiting = group.map_err(|fault| fault.into_error(&self.blob.name()))?;
            }
            let Some(group) = self.waiting.take_if(|group| has_room(&self.running, group, self.max_workers))
            else {
                break;
            };
            self.start(group)?;
        }
        Ok(())
    }

    /// Begins a row group.
    fn start(&mut self, group: RowGroup) -> Result<(), Error> {
        let (sender, receiver) = queue(READY_BYTES);
        let claimed_bytes = group.claimed_bytes();
        let (blob, row_name, first_row) = (self.blob.clone(), self.row_name.clone(), self.num_rows);
        self.num_rows = self.num_rows.saturating_add(group.num_rows);
        let work = move || {
            let result = decode(&*blob, &group, &row_name, first_row, &sender);
            let end = result.map_err(|fault| fault.into_error(&blob.name()));
            // False only where nobody is interested.
            let _ = sender.send(Message::End(end), 0);
        };
        let thread = std::thread::Builder::new().name("parquet".into()).spawn(work);
        thread.map_err(|source| Error::Read { path: self.blob.name().into(), source })?;
        self.running.push_back(Running { receiver, claimed_bytes });
        Ok(())
    }
}

/// Whether a row group may be begun beside those that are running.
fn has_room(running: &VecDeque<Running>, group: &RowGroup, max_workers: usize) -> bool {
    let claimed = running.iter().map(|running| running.claimed_bytes);
    let claimed = claimed.fold(group.claimed_bytes(), u64::saturating_add);
    running.is_empty() || running.len() < max_workers && claimed <= AHEAD_BYTES
}

/// Decodes a row group. Rows before damage are sent before it is returned.
fn decode(
    blob: &dyn Blob,
    group: &RowGroup,
    row_name: &str,
    first_row: u64,
    sender: &Sender<Message>,
) -> Result<(), Fault> {
    let mut rows = Block { rows: Vec::new(), bytes: 0, sender };
    let result = decode_rows(blob, group, row_name, first_row, &mut rows);
    rows.send();
    result
}

fn decode_rows(
    blob: &dyn Blob,
    group: &RowGroup,
    row_name: &str,
    first_row: u64,
    rows: &mut Block<'_>,
) -> Result<(), Fault> {
    let open = |i: usize| group.chunks[i].as_ref().map(|chunk| Column::open(blob, chunk)).transpose();
    let Some(mut texts) = open(0)? else { return Ok(()) };
    let text_field = group.chunks[0].as_ref().map_or("", |chunk| &chunk.name);
    let mut others: [Option<Column>; NUM_COLUMNS - 1] = [open(1)?, open(2)?, open(3)?];
    let mut done = 0;
    while done < group.num_rows {
        // Rows are counted from 1, as lines are.
        let name = format!("{row_name}:{}", first_row.saturating_add(done).saturating_add(1));
        match texts.next(group.num_rows - done)? {
            Cell::Nulls(num) => {
                for other in others.iter_mut().flatten() {
                    other.skip(num)?;
                }
                done += num;
                let reason = format!("{name}: column `{text_field}` is null, expected a string");
                rows.push(RawRow::Broken { reason, num_rows: num }, 0);
            }
            Cell::Text(text) => {
                done += 1;
                let (row, bytes) = row(name, text, &mut others)?;
                rows.push(row, bytes);
            }
        }
        if !rows.send_if_full() {
            return Ok(());
        }
    }
    Ok(())
}

/// A row of all columns, and its size.
fn row(
    name: String,
    text: &[u8],
    others: &mut [Option<Column>; NUM_COLUMNS - 1],
) -> Result<(RawRow, usize), Fault> {
    let mut strings = [const { None }; NUM_COLUMNS - 1];
    for (string, other) in strings.iter_mut().zip(others) {
        if let Some(Cell::Text(bytes)) = other.as_mut().map(|other| other.next(1)).transpose()? {
            // A path that is not UTF-8 or endless is no name.
            *string =
                std::str::from_utf8(bytes).ok().filter(|s| s.len() <= MAX_NAME_BYTES).map(str::to_owned);
        }
    }
    let broken = |reason| RawRow::Broken { reason, num_rows: 1 };
    if text.len() > MAX_ROW_BYTES {
        return Ok((broken(too_long(&name)), 0));
    }
    let text = match std::str::from_utf8(text) {
        Ok(text) => text.to_owned(),
        Err(error) => {
            return Ok((broken(format!("{name}: not UTF-8 from byte {} on", error.valid_up_to())), 0));
        }
    };
    let bytes = text.len() + strings.iter().flatten().map(String::len).sum::<usize>();
    let [path, repo_name, license] = strings;
    Ok((RawRow::Fields { name, row: Row::of(text, path, repo_name, license) }, bytes))
}

/// Longest path, repository or license that is kept.
const MAX_NAME_BYTES: usize = 64 << 10;

/// Rows that are handed over together.
struct Block<'a> {
    rows: Vec<RawRow>,
    bytes: usize,
    sender: &'a Sender<Message>,
}

impl Block<'_> {
    fn push(&mut self, row: RawRow, bytes: usize) {
        self.rows.push(row);
        self.bytes += bytes + ROW_BYTES;
    }

    /// False where nobody receives any longer.
    fn send_if_full(&mut self) -> bool {
        self.bytes < BLOCK_BYTES && self.rows.len() < BLOCK_ROWS || self.send()
    }

    fn send(&mut self) -> bool {
        let rows = std::mem::take(&mut self.rows);
        let bytes = std::mem::take(&mut self.bytes);
        rows.is_empty() || self.sender.send(Message::Rows(rows), bytes)
    }
}
