//! The pages of a column in a row group, one after the other, decompressed.
//!
//! A page's header is checked before anything is read by it: its bytes lie within the column, and neither form of it is
//! larger than the column may have.

use super::Fault;
use super::codec::Codec;
use super::footer::Chunk;
use super::thrift::{Compact, Kind};
use crate::blob::Blob;
use std::io::{BufRead, BufReader, Read};
use std::ops::Range;

/// Bytes that are read from the file at once.
const INPUT_BYTES: usize = 256 << 10;

/// A column of a row group, being read.
pub(super) struct Pages {
    input: BufReader<Box<dyn Read + Send>>,
    /// Where in the file the next page begins, and where the column ends.
    at: u64,
    end: u64,
    codec: Codec,
    optional: bool,
    most_bytes: u64,
    compressed: Vec<u8>,
}

/// A page.
pub(super) enum Page {
    /// The values that later pages name by their numbers.
    Dictionary {
        bytes: Vec<u8>,
        num_values: u64,
    },
    Data(DataPage),
}

/// A page of values.
pub(super) struct DataPage {
    pub(super) bytes: Vec<u8>,
    /// Values and nulls in it.
    pub(super) num_values: u64,
    /// Where it says which values there are; `None` where none can be missing.
    pub(super) levels: Option<Range<usize>>,
    /// Where its values begin.
    pub(super) values: usize,
    pub(super) encoding: i32,
}

/// What stands before a page.
#[derive(Default)]
struct Header {
    page_type: Option<i32>,
    uncompressed: Option<i32>,
    compressed: Option<i32>,
    num_values: Option<i32>,
    encoding: Option<i32>,
    level_encoding: Option<i32>,
    /// Bytes of levels in a page of the second version.
    definition_bytes: Option<i32>,
    repetition_bytes: Option<i32>,
    /// Whether a page of the second version was left as it is.
    stored: bool,
}

impl Pages {
    pub(super) fn open(blob: &dyn Blob, chunk: &Chunk) -> Result<Self, Fault> {
        let input = blob.read_from(chunk.start).map_err(|error| Fault::from(error).at(chunk.start))?;
        Ok(Pages {
            input: BufReader::with_capacity(INPUT_BYTES, input),
            at: chunk.start,
            end: chunk.start + chunk.len,
            codec: chunk.codec,
            optional: chunk.optional,
            most_bytes: chunk.most_page_bytes,
            compressed: Vec::new(),
        })
    }

    /// The next page and where it lies, `None` at the end of the column.
    pub(super) fn next(&mut self) -> Result<Option<(u64, Page)>, Fault> {
        while self.at < self.end {
            let at = self.at;
            if let Some(page) = self.page().map_err(|fault| fault.at(at))? {
                return Ok(Some((at, page)));
            }
        }
        Ok(None)
    }

    /// A page, `None` if it is of no use here.
    fn page(&mut self) -> Result<Option<Page>, Fault> {
        const DATA: i32 = 0;
        const DICTIONARY: i32 = 2;
        const DATA_2: i32 = 3;
        let mut input = Compact::new(self.input.by_ref().take(self.end - self.at));
        let header = Header::read(&mut input)?;
        self.at += input.num_read();
        let (compressed, uncompressed) = self.sizes(&header)?;
        self.compressed.clear();
        self.input.by_ref().take(compressed).read_to_end(&mut self.compressed)?;
        self.at += self.compressed.len() as u64;
        if (self.compressed.len() as u64) < compressed {
            return Err(Fault::ended());
        }
        let num_values = size(header.num_values, "values");
        match header.page_type {
            Some(DATA) => self.data(&header, num_values?, uncompressed).map(Some),
            Some(DATA_2) => self.data_2(&header, num_values?, uncompressed).map(Some),
            Some(DICTIONARY) => {
                let bytes = self.decompress(0, uncompressed)?;
                Ok(Some(Page::Dictionary { bytes, num_values: num_values? }))
            }
            // An index, or something newer.
            Some(_) => Ok(None),
            None => Err(Fault::new("has a page without a type")),
        }
    }

    /// The sizes of a page as it is and decompressed, if they are possible.
    fn sizes(&self, header: &Header) -> Result<(u64, usize), Fault> {
        let compressed = size(header.compressed, "bytes")?;
        let uncompressed = size(header.uncompressed, "bytes without compression")?;
        let left = self.end - self.at;
        if compressed > left {
            return Err(Fault::new(format!("has a page of {compressed} bytes where {left} are left")));
        }
        let most = self.most_bytes;
        if compressed.max(uncompressed) > most {
            let reason = format!(
                "has a page of {uncompressed} bytes ({compressed} compressed), expected {most} at the most"
            );
            return Err(Fault::new(reason));
        }
        Ok((compressed, uncompressed as usize))
    }

    /// The page's bytes, of which the first `stored` are never compressed.
    fn decompress(&mut self, stored: usize, uncompressed: usize) -> Result<Vec<u8>, Fault> {
        if self.codec == Codec::None {
            let bytes = std::mem::take(&mut self.compressed);
            if bytes.len() != uncompressed {
                let found = bytes.len();
                return Err(Fault::new(format!("has a page of {uncompressed} bytes that has {found}")));
            }
            return Ok(bytes);
        }
        let mut bytes = self.compressed[..stored].to_vec();
        let rest = &self.compressed[stored..];
        // Where all values are null, some writers leave nothing, and others the compressed form of nothing.
        if uncompressed > stored {
            self.codec.decompress(rest, &mut bytes, uncompressed - stored).map_err(Fault::new)?;
        }
        Ok(bytes)
    }

    /// Levels are compressed with the values, and say their length.
    fn data(&mut self, header: &Header, num_values: u64, uncompressed: usize) -> Result<Page, Fault> {
        const RLE: i32 = 3;
        let bytes = self.decompress(0, uncompressed)?;
        let (mut levels, mut values) = (None, 0);
        if self.optional {
            if header.level_encoding != Some(RLE) {
                return Err(Fault::new(
                    "has a page whose levels have an encoding that nothing writes any longer",
                ));
            }
            let len = bytes.first_chunk().map(|len| u32::from_le_bytes(*len) as usize);
            let end = len.and_then(|len| len.checked_add(4)).filter(|end| *end <= bytes.len());
            values = end.ok_or_else(|| Fault::new("has a page whose levels are longer than itself"))?;
            levels = Some(4..values);
        }
        let encoding = header.encoding.unwrap_or(-1);
        Ok(Page::Data(DataPage { bytes, num_values, levels, values, encoding }))
    }

    /// Levels stand before the values, never compressed.
    fn data_2(&mut self, header: &Header, num_values: u64, uncompressed: usize) -> Result<Page, Fault> {
        let repetition = size(header.repetition_bytes, "bytes of levels")? as usize;
        let definition = size(header.definition_bytes, "bytes of levels")? as usize;
        let values = repetition + definition;
        if values > self.compressed.len().min(uncompressed) {
            return Err(Fault::new("has a page whose levels are longer than itself"));
        }
        let bytes = if header.stored {
            std::mem::take(&mut self.compressed)
        } else {
            self.decompress(values, uncompressed)?
        };
        let levels = self.optional.then_some(repetition..values);
        let encoding = header.encoding.unwrap_or(-1);
        Ok(Page::Data(DataPage { bytes, num_values, levels, values, encoding }))
    }
}

/// A size in a header, which is signed there.
fn size(value: Option<i32>, what: &str) -> Result<u64, Fault> {
    match value.map(u64::try_from) {
        Some(Ok(value)) => Ok(value),
        Some(Err(_)) => Err(Fault::new(format!("has a page of {} {what}", value.unwrap_or_default()))),
        None => Err(Fault::new(format!("has a page without a number of {what}"))),
    }
}

impl Header {
    fn read(input: &mut Compact<impl BufRead>) -> Result<Self, Fault> {
        let (mut header, mut id) = (Header::default(), 0);
        while let Some(kind) = input.field(&mut id)? {
            match (id, kind) {
                (1, Kind::I32) => header.page_type = Some(input.i32()?),
                (2, Kind::I32) => header.uncompressed = Some(input.i32()?),
                (3, Kind::I32) => header.compressed = Some(input.i32()?),
                // Of a page of values, a dictionary, and a page of values of the second version.
                (5 | 7 | 8, Kind::Struct) => header.read_inner(id, input)?,
                _ => input.skip(kind)?,
            }
        }
        Ok(header)
    }

    fn read_inner(&mut self, of: i16, input: &mut Compact<impl BufRead>) -> Result<(), Fault> {
        let mut id = 0;
        while let Some(kind) = input.field(&mut id)? {
            match (of, id, kind) {
                (_, 1, Kind::I32) => self.num_values = Some(input.i32()?),
                (5 | 7, 2, Kind::I32) | (8, 4, Kind::I32) => self.encoding = Some(input.i32()?),
                (5, 3, Kind::I32) => self.level_encoding = Some(input.i32()?),
                (8, 5, Kind::I32) => self.definition_bytes = Some(input.i32()?),
                (8, 6, Kind::I32) => self.repetition_bytes = Some(input.i32()?),
                (8, 7, Kind::False) => self.stored = true,
                _ => input.skip(kind)?,
            }
        }
        Ok(())
    }
}
