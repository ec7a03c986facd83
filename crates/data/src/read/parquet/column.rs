//! A column of strings in a row group, read row by row out of its pages.
//!
//! One page and one dictionary are in memory; a string is a slice of them until the row is made.

use super::Fault;
use super::footer::Chunk;
use super::pages::{DataPage, Page, Pages};
use super::values::{Runs, lengths, take};
use crate::blob::Blob;
use std::ops::Range;

/// What a row has in the column.
pub(super) enum Cell<'a> {
    /// This many rows, from here on, have nothing.
    Nulls(u64),
    /// One row has this, which should be UTF-8.
    Text(&'a [u8]),
}

/// The column, with a place in it.
pub(super) struct Column {
    pages: Pages,
    /// Where the page is that is being read; for messages.
    page_at: u64,
    page: Vec<u8>,
    /// Rows of the page that are left.
    num_left: u64,
    /// Which of them have a value; `None` where all do.
    levels: Option<Runs>,
    /// Rows that are known to have a value.
    num_present: u64,
    values: Values,
    dictionary: Option<Dictionary>,
}

/// How the page has its values, and what is left of them.
enum Values {
    /// Each with its length before it.
    Plain(Range<usize>),
    /// Numbers of the dictionary.
    Numbers(Runs),
    /// Lengths first, then all bytes.
    Lengths { lengths: std::vec::IntoIter<u32>, bytes: Range<usize> },
    /// As before, each without what it shares with the one before.
    Suffixes {
        prefixes: std::vec::IntoIter<u32>,
        suffixes: std::vec::IntoIter<u32>,
        bytes: Range<usize>,
        last: Vec<u8>,
    },
}

/// Strings that are named by their numbers.
struct Dictionary {
    bytes: Vec<u8>,
    /// Start and length of each.
    places: Vec<(u32, u32)>,
}

impl Column {
    pub(super) fn open(blob: &dyn Blob, chunk: &Chunk) -> Result<Self, Fault> {
        Ok(Column {
            pages: Pages::open(blob, chunk)?,
            page_at: chunk.start,
            page: Vec::new(),
            num_left: 0,
            levels: None,
            num_present: 0,
            values: Values::Plain(0..0),
            dictionary: None,
        })
    }

    /// The next row, or all nulls up to the next that has something, `most` at the most.
    pub(super) fn next(&mut self, most: u64) -> Result<Cell<'_>, Fault> {
        while self.num_left == 0 {
            self.load()?;
        }
        let at = self.page_at;
        if self.num_present == 0 {
            let most = most.min(self.num_left);
            let (present, num) = match &mut self.levels {
                None => (1, most),
                Some(levels) => levels.next(&self.page, most).map_err(|fault| fault.at(at))?,
            };
            if present == 0 {
                self.num_left -= num;
                return Ok(Cell::Nulls(num));
            }
            self.num_present = num;
        }
        self.num_present -= 1;
        self.num_left -= 1;
        self.value().map(Cell::Text).map_err(|fault| fault.at(at))
    }

    /// Passes over rows.
    pub(super) fn skip(&mut self, mut num: u64) -> Result<(), Fault> {
        while num > 0 {
            num -= match self.next(num)? {
                Cell::Nulls(nulls) => nulls,
                Cell::Text(_) => 1,
            };
        }
        Ok(())
    }

    /// Goes on to the next page of values.
    fn load(&mut self) -> Result<(), Fault> {
        // Two pages are never held at once.
        self.page = Vec::new();
        let Some((at, page)) = self.pages.next()? else {
            return Err(Fault::new("has a column with fewer rows than its row group").at(self.page_at));
        };
        self.page_at = at;
        match page {
            Page::Dictionary { bytes, num_values } => {
                self.dictionary = Some(Dictionary::new(bytes, num_values).map_err(|fault| fault.at(at))?);
                Ok(())
            }
            Page::Data(page) => self.open_page(page).map_err(|fault| fault.at(at)),
        }
    }

    fn open_page(&mut self, page: DataPage) -> Result<(), Fault> {
        let mut range = page.values..page.bytes.len();
        let most = page.num_values;
        self.values = match page.encoding {
            0 => Values::Plain(range),
            // Old writers name numbers of the dictionary by the encoding of the dictionary itself.
            2 | 8 => {
                if self.dictionary.is_none() {
                    return Err(Fault::new("has a page that needs a dictionary, but there is none"));
                }
                // A page of nulls alone need not say how wide no number is.
                let width = take(&page.bytes, &mut range, 1).map_or(0, |width| u32::from(width[0]));
                Values::Numbers(Runs::new(range, width)?)
            }
            6 => {
                let lengths = lengths(&page.bytes, &mut range, most)?.into_iter();
                Values::Lengths { lengths, bytes: range }
            }
            7 => {
                let prefixes = lengths(&page.bytes, &mut range, most)?.into_iter();
                let suffixes = lengths(&page.bytes, &mut range, most)?.into_iter();
                Values::Suffixes { prefixes, suffixes, bytes: range, last: Vec::new() }
            }
            other => {
                return Err(Fault::new(format!(
                    "has strings in the encoding {other}, which is not one of strings"
                )));
            }
        };
        self.levels = page.levels.map(|range| Runs::new(range, 1)).transpose()?;
        self.num_left = page.num_values;
        self.num_present = 0;
        self.page = page.bytes;
        Ok(())
    }

    fn value(&mut self) -> Result<&[u8], Fault> {
        let page = &self.page;
        match &mut self.values {
            Values::Plain(range) => {
                let len = take(page, range, 4)?;
                let len = u32::from_le_bytes([len[0], len[1], len[2], len[3]]);
                take(page, range, len as usize)
            }
            Values::Numbers(runs) => {
                let (number, _) = runs.next(page, 1)?;
                let dictionary = self.dictionary.as_ref();
                let found = dictionary.and_then(|dictionary| dictionary.get(number));
                found.ok_or_else(|| {
                    Fault::new(format!("has the number {number}, which its dictionary has not"))
                })
            }
            Values::Lengths { lengths, bytes } => take(page, bytes, next(lengths)?),
            Values::Suffixes { prefixes, suffixes, bytes, last } => {
                let (prefix, suffix) = (next(prefixes)?, next(suffixes)?);
                if prefix > last.len() {
                    let len = last.len();
                    return Err(Fault::new(format!(
                        "has a string that shares {prefix} bytes with one of {len}"
                    )));
                }
                last.truncate(prefix);
                last.extend_from_slice(take(page, bytes, suffix)?);
                Ok(last)
            }
        }
    }
}

fn next(lengths: &mut std::vec::IntoIter<u32>) -> Result<usize, Fault> {
    match lengths.next() {
        Some(length) => Ok(length as usize),
        None => Err(Fault::new("has a page with fewer strings than it says")),
    }
}

impl Dictionary {
    /// Strings, each with its length before it.
    fn new(bytes: Vec<u8>, num_values: u64) -> Result<Self, Fault> {
        let (mut places, mut range) = (Vec::new(), 0..bytes.len());
        for _ in 0..num_values {
            let len = take(&bytes, &mut range, 4)?;
            let len = u32::from_le_bytes([len[0], len[1], len[2], len[3]]);
            places.push((range.start as u32, len));
            take(&bytes, &mut range, len as usize)?;
        }
        Ok(Dictionary { bytes, places })
    }

    fn get(&self, number: u32) -> Option<&[u8]> {
        let (start, len) = *self.places.get(number as usize)?;
        self.bytes.get(start as usize..start as usize + len as usize)
    }
}
