//! Cuts a stream into rows of JSON: one a line, or the elements of one array.
//!
//! Which of both it is shows in the first byte that is not blank. Rows are only found here, by line breaks or by brackets
//! outside strings; whether one is JSON is seen when it is parsed. A row that goes on for too long is passed over at the
//! speed of the search and never held, and neither is the array.

use super::stream::Stream;
use super::{MAX_ROW_BYTES, RawRow, too_long};
use crate::error::Error;
use memchr::{memchr, memchr2};

const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// The rows of a stream.
pub(super) struct JsonRows {
    input: Input,
    /// What messages call the file, and what rows are called by.
    name: String,
    row_name: String,
    layout: Layout,
    num_rows: u64,
}

enum Layout {
    /// Nothing was read yet.
    Unknown,
    Lines,
    /// Inside an array, before its first element or after a comma.
    Array,
    /// After the array.
    Ended,
}

/// The stream, block by block.
struct Input {
    stream: Stream,
    block: Vec<u8>,
    /// Where in the block the next byte is.
    at: usize,
    /// Where in the stream the block begins.
    block_offset: u64,
}

/// A row being put together.
#[derive(Default)]
struct Pending {
    bytes: Vec<u8>,
    too_long: bool,
}

/// Where in an element the search is.
#[derive(Default)]
struct Scan {
    depth: u64,
    in_string: bool,
    escaped: bool,
}

impl JsonRows {
    pub(super) fn new(stream: Stream, name: &str, row_name: &str) -> Self {
        let input = Input { stream, block: Vec::new(), at: 0, block_offset: 0 };
        let (name, row_name) = (name.to_owned(), row_name.to_owned());
        JsonRows { input, name, row_name, layout: Layout::Unknown, num_rows: 0 }
    }

    /// The next row, `None` at the end. After an error there is nothing more.
    pub(super) fn next(&mut self) -> Result<Option<RawRow>, Error> {
        let next = self.advance();
        if next.is_err() {
            self.layout = Layout::Ended;
            self.input.finish();
        }
        next
    }

    fn advance(&mut self) -> Result<Option<RawRow>, Error> {
        loop {
            match self.layout {
                Layout::Unknown => self.begin()?,
                Layout::Lines => {
                    let offset = self.input.offset();
                    let Some(line) = self.line()? else { return Ok(None) };
                    self.num_rows += 1;
                    // A blank line is no row; most tools leave one at the end.
                    if line.too_long || !line.bytes.trim_ascii().is_empty() {
                        return Ok(Some(self.row(line, offset)));
                    }
                }
                Layout::Array => {
                    let Some((element, offset)) = self.element()? else { continue };
                    self.num_rows += 1;
                    return Ok(Some(self.row(element, offset)));
                }
                Layout::Ended => return self.end().map(|()| None),
            }
        }
    }

    fn row(&self, row: Pending, offset: u64) -> RawRow {
        let name = format!("{}:{}", self.row_name, self.num_rows);
        if row.too_long {
            let reason = format!("{} (at byte {offset})", too_long(&name));
            return RawRow::Broken { reason, num_rows: 1 };
        }
        RawRow::Json { name, offset, bytes: row.bytes }
    }

    /// Looks at the first block.
    fn begin(&mut self) -> Result<(), Error> {
        self.layout = Layout::Lines;
        if !self.input.has_more()? {
            return Ok(());
        }
        if self.input.rest().starts_with(BYTE_ORDER_MARK) {
            self.input.at += BYTE_ORDER_MARK.len();
        }
        let rest = self.input.rest();
        let blank = rest.len() - rest.trim_ascii_start().len();
        if rest.get(blank) == Some(&b'[') {
            self.input.at += blank + 1;
            self.layout = Layout::Array;
        }
        Ok(())
    }

    /// The next line without its break, `None` at the end.
    fn line(&mut self) -> Result<Option<Pending>, Error> {
        let mut line = Pending::default();
        let mut any = false;
        while self.input.has_more()? {
            any = true;
            let rest = self.input.rest();
            let end = memchr(b'\n', rest);
            let piece = &rest[..end.unwrap_or(rest.len())];
            line.push(piece);
            self.input.at += piece.len() + usize::from(end.is_some());
            if end.is_some() {
                break;
            }
        }
        if line.bytes.last() == Some(&b'\r') {
            line.bytes.pop();
        }
        Ok(any.then_some(line))
    }

    /// The next element and where it begins, `None` if the array ends instead.
    fn element(&mut self) -> Result<Option<(Pending, u64)>, Error> {
        self.input.skip_blanks()?;
        let offset = self.input.offset();
        let (mut element, mut scan) = (Pending::default(), Scan::default());
        while self.input.has_more()? {
            let rest = self.input.rest();
            let end = scan.find_end(rest);
            element.push(&rest[..end.unwrap_or(rest.len())]);
            let Some(end) = end else {
                self.input.at = self.input.block.len();
                continue;
            };
            let closes = rest[end] == b']';
            self.input.at += end + 1;
            if closes {
                self.layout = Layout::Ended;
                // Nothing stands between the brackets of an empty array.
                if self.num_rows == 0 && element.bytes.trim_ascii().is_empty() && !element.too_long {
                    return Ok(None);
                }
            }
            return Ok(Some((element, offset)));
        }
        Err(self.broken("ends inside its array: it was cut"))
    }

    /// Checks that nothing follows the array.
    fn end(&mut self) -> Result<(), Error> {
        self.input.skip_blanks()?;
        if self.input.has_more()? {
            return Err(self.broken("goes on after its array, expected one array or one object a line"));
        }
        Ok(())
    }

    fn broken(&self, reason: &str) -> Error {
        let text_offset = Some(self.input.offset());
        Error::BrokenFile { name: self.name.clone(), offset: None, text_offset, reason: reason.to_owned() }
    }
}

impl Pending {
    fn push(&mut self, piece: &[u8]) {
        if self.too_long || self.bytes.len() + piece.len() > MAX_ROW_BYTES {
            (self.too_long, self.bytes) = (true, Vec::new());
        } else {
            self.bytes.extend_from_slice(piece);
        }
    }
}

impl Scan {
    /// Where the comma or bracket is that ends the element, if it is among these bytes.
    fn find_end(&mut self, bytes: &[u8]) -> Option<usize> {
        let mut at = 0;
        while at < bytes.len() {
            if self.escaped {
                self.escaped = false;
                at += 1;
                continue;
            }
            if self.in_string {
                at += memchr2(b'"', b'\\', &bytes[at..])?;
                self.escaped = bytes[at] == b'\\';
                self.in_string = self.escaped;
                at += 1;
                continue;
            }
            match bytes[at] {
                b',' | b']' if self.depth == 0 => return Some(at),
                b'"' => self.in_string = true,
                b'{' | b'[' => self.depth += 1,
                // A brace too many is left to the parser.
                b'}' | b']' => self.depth = self.depth.saturating_sub(1),
                _ => {}
            }
            at += 1;
        }
        None
    }
}

impl Input {
    /// Whether there is a byte more, having fetched its block.
    fn has_more(&mut self) -> Result<bool, Error> {
        while self.at == self.block.len() {
            self.block_offset += self.block.len() as u64;
            (self.block, self.at) = (Vec::new(), 0);
            match self.stream.next()? {
                Some(block) => self.block = block,
                None => return Ok(false),
            }
        }
        Ok(true)
    }

    fn rest(&self) -> &[u8] {
        &self.block[self.at..]
    }

    fn offset(&self) -> u64 {
        self.block_offset + self.at as u64
    }

    fn skip_blanks(&mut self) -> Result<(), Error> {
        while self.has_more()? {
            let rest = self.rest();
            let blank = rest.len() - rest.trim_ascii_start().len();
            let all = blank == rest.len();
            self.at += blank;
            if !all {
                break;
            }
        }
        Ok(())
    }

    /// Gives up the rest.
    fn finish(&mut self) {
        self.stream.finish();
        (self.block, self.at) = (Vec::new(), 0);
    }
}
