//! A parquet file's footer: its columns, and where each row group has those that are wanted.
//!
//! Row groups are parsed one by one when they are read, and only the wanted columns of them, so that a million columns or
//! row groups cost the bytes of the footer and nothing more. Refuses encrypted files, columns that live in other files,
//! and a text column that does not hold strings.

use super::codec::Codec;
use super::thrift::{Compact, Kind};
use super::{Fault, read_exactly};
use crate::blob::Blob;

/// What closes a footer: its length and the magic number.
const TRAILER_BYTES: u64 = 8;
/// The least that a parquet file can be: the magic number, a footer of nothing, its length, the magic number.
const MIN_FILE_BYTES: u64 = 4 + TRAILER_BYTES;
/// Largest footer that is read. Those of tables with tens of thousands of row groups and statistics have some megabytes.
const MAX_FOOTER_BYTES: u64 = 256 << 20;
/// Bytes that are read first; most footers lie within.
const TAIL_BYTES: u64 = 64 << 10;
/// Largest page of the text column, without compression. Most writers aim at 1 MB, and the largest known at 100 MB.
const MAX_TEXT_PAGE_BYTES: u64 = 256 << 20;
/// Largest page of another column.
const MAX_OTHER_PAGE_BYTES: u64 = 32 << 20;
/// Pages up to here are accepted whatever their column claims to have: some writers claim too little.
const COMMON_PAGE_BYTES: u64 = 16 << 20;
/// Longest name of a column.
const MAX_NAME_BYTES: u64 = 64 << 10;

/// The columns that are read, in this order.
pub(super) const NUM_COLUMNS: usize = 4;
/// Those beside the text.
const NAMES: [&str; NUM_COLUMNS - 1] = ["path", "repo_name", "license"];

/// The footer, with a place in its list of row groups.
pub(super) struct Footer {
    bytes: Vec<u8>,
    /// Where the footer lies in the file; all row groups lie before.
    start: u64,
    /// Where the next row group lies in `bytes`, and how many there still are.
    next: usize,
    num_left: u64,
    columns: [Option<Column>; NUM_COLUMNS],
    /// Bytes of all columns read so far. They cannot be more than the file has, unless row groups overlap; so a small file
    /// cannot be a large one by naming the same bytes again and again.
    num_chunk_bytes: u64,
}

/// A column that is read.
#[derive(Clone, Debug)]
struct Column {
    /// Its place among the leaves of the schema.
    leaf: u64,
    name: String,
    optional: bool,
}

/// A row group.
pub(super) struct RowGroup {
    pub(super) num_rows: u64,
    /// Text, path, repository, license.
    pub(super) chunks: [Option<Chunk>; NUM_COLUMNS],
}

/// A column of a row group.
#[derive(Clone, Debug)]
pub(super) struct Chunk {
    pub(super) name: String,
    /// Whether a row may have none of it.
    pub(super) optional: bool,
    pub(super) codec: Codec,
    /// Its first byte in the file.
    pub(super) start: u64,
    pub(super) len: u64,
    /// What it claims to have without compression.
    pub(super) uncompressed: u64,
    /// Largest page that is accepted, without compression.
    pub(super) most_page_bytes: u64,
}

impl Footer {
    /// Reads and checks a footer. With `text_field`, that column is the text; else `content`, then `text`.
    pub(super) fn read(blob: &dyn Blob, text_field: Option<&str>) -> Result<Self, Fault> {
        let len = blob.len();
        if len < MIN_FILE_BYTES {
            return Err(
                Fault::new(format!("has {len} bytes, but a parquet file at least {MIN_FILE_BYTES}")).at(0)
            );
        }
        let tail_start = len - len.min(TAIL_BYTES);
        let tail = read_exactly(blob, tail_start, len - tail_start)?;
        let (rest, trailer) = tail.split_at(tail.len() - TRAILER_BYTES as usize);
        let trailer_start = len - TRAILER_BYTES;
        match &trailer[4..] {
            b"PAR1" => {}
            b"PARE" => {
                return Err(
                    Fault::new("is encrypted; expected a parquet file in the clear").at(trailer_start)
                );
            }
            other => {
                let other = other.escape_ascii();
                let reason = format!("ends with `{other}`, expected `PAR1`: it is not parquet, or was cut");
                return Err(Fault::new(reason).at(trailer_start));
            }
        }
        let footer_len = u64::from(u32::from_le_bytes([trailer[0], trailer[1], trailer[2], trailer[3]]));
        let most = MAX_FOOTER_BYTES.min(len - MIN_FILE_BYTES);
        if footer_len > most {
            let reason = format!("has a footer of {footer_len} bytes, but {most} at the most are possible");
            return Err(Fault::new(reason).at(trailer_start));
        }
        let start = trailer_start - footer_len;
        let bytes = match usize::try_from(start.checked_sub(tail_start).unwrap_or(u64::MAX)) {
            Ok(start) if start <= rest.len() => rest[start..].to_vec(),
            _ => read_exactly(blob, start, footer_len)?,
        };
        Self::parse(bytes, start, text_field).map_err(|fault| fault.at(start))
    }

    fn parse(bytes: Vec<u8>, start: u64, text_field: Option<&str>) -> Result<Self, Fault> {
        let mut input = Compact::new(&bytes[..]);
        let (mut columns, mut groups, mut id) = (None, None, 0);
        while let Some(kind) = input.field(&mut id)? {
            match (id, kind) {
                (2, Kind::List) => columns = Some(Schema::new(text_field).read(&mut input)?),
                (4, Kind::List) => {
                    let num = input.structures()?;
                    groups = Some((input.num_read() as usize, num));
                    // What is passed over here is known to be well formed, if not yet to be true.
                    (0..num).try_for_each(|_| input.skip(Kind::Struct))?;
                }
                // Of the footer of an encrypted file, in the clear.
                (8, Kind::Struct) => {
                    return Err(Fault::new("is encrypted; expected a parquet file in the clear"));
                }
                _ => input.skip(kind)?,
            }
        }
        let columns = columns.ok_or_else(|| Fault::new("has no schema"))?;
        let (next, num_left) = groups.ok_or_else(|| Fault::new("has no list of row groups"))?;
        Ok(Footer { bytes, start, next, num_left, columns, num_chunk_bytes: 0 })
    }

    /// Makes the row group before the last.
    pub(super) fn finish(&mut self) {
        self.num_left = 0;
    }

    /// The next row group, `None` after the last.
    pub(super) fn next_row_group(&mut self) -> Result<Option<RowGroup>, Fault> {
        if self.num_left == 0 {
            return Ok(None);
        }
        let at = self.start + self.next as u64;
        self.num_left -= 1;
        let mut input = Compact::new(&self.bytes[self.next..]);
        let group = self.row_group(&mut input).map_err(|fault| fault.at(at))?;
        self.next += input.num_read() as usize;
        self.num_chunk_bytes += group.chunks.iter().flatten().map(|chunk| chunk.len).sum::<u64>();
        if self.num_chunk_bytes > self.start {
            return Err(Fault::new("has row groups that overlap").at(at));
        }
        Ok(Some(group))
    }

    fn row_group(&self, input: &mut Compact<&[u8]>) -> Result<RowGroup, Fault> {
        let (mut chunks, mut num_rows, mut id) = ([const { None }; NUM_COLUMNS], None, 0);
        while let Some(kind) = input.field(&mut id)? {
            match (id, kind) {
                (1, Kind::List) => {
                    for leaf in 0..input.structures()? {
                        let wanted =
                            |column: &Option<Column>| column.as_ref().is_some_and(|c| c.leaf == leaf);
                        match self.columns.iter().position(wanted) {
                            Some(i) => chunks[i] = Some(RawChunk::read(input)?),
                            None => input.skip(Kind::Struct)?,
                        }
                    }
                }
                (3, Kind::I64) => num_rows = Some(input.i64()?),
                _ => input.skip(kind)?,
            }
        }
        let num_rows = num_rows.and_then(|num| u64::try_from(num).ok());
        let num_rows = num_rows.ok_or_else(|| Fault::new("has a row group without a number of rows"))?;
        let mut group = RowGroup { num_rows, chunks: [const { None }; NUM_COLUMNS] };
        if num_rows == 0 {
            // Writers give the columns of no rows offsets that mean nothing.
            return Ok(group);
        }
        for (i, (column, chunk)) in self.columns.iter().zip(chunks).enumerate() {
            let Some(column) = column else { continue };
            let chunk = chunk.unwrap_or_default().check(column, num_rows, self.start);
            let chunk = chunk.map_err(|reason| Fault::new(format!("column `{}` {reason}", column.name)))?;
            let most = if i == 0 { MAX_TEXT_PAGE_BYTES } else { MAX_OTHER_PAGE_BYTES };
            group.chunks[i] = Some(Chunk { most_page_bytes: chunk.most_page_bytes.min(most), ..chunk });
        }
        Ok(group)
    }
}

impl RowGroup {
    /// Bytes that its columns claim to be without compression.
    pub(super) fn claimed_bytes(&self) -> u64 {
        let chunks = self.chunks.iter().flatten();
        chunks.map(|chunk| chunk.uncompressed.max(chunk.len)).fold(0, u64::saturating_add)
    }
}

/// What the footer says of a column of a row group.
#[derive(Default)]
struct RawChunk {
    elsewhere: bool,
    encrypted: bool,
    codec: Option<i32>,
    num_values: Option<i64>,
    uncompressed: Option<i64>,
    compressed: Option<i64>,
    data_offset: Option<i64>,
    dictionary_offset: Option<i64>,
}

impl RawChunk {
    fn read(input: &mut Compact<&[u8]>) -> Result<Self, Fault> {
        let (mut chunk, mut id) = (RawChunk::default(), 0);
        while let Some(kind) = input.field(&mut id)? {
            match (id, kind) {
                (3, Kind::Struct) => chunk.read_metadata(input)?,
                _ => {
                    chunk.elsewhere |= id == 1;
                    chunk.encrypted |= id == 8;
                    input.skip(kind)?;
                }
            }
        }
        Ok(chunk)
    }

    fn read_metadata(&mut self, input: &mut Compact<&[u8]>) -> Result<(), Fault> {
        let mut id = 0;
        while let Some(kind) = input.field(&mut id)? {
            match (id, kind) {
                (4, Kind::I32) => self.codec = Some(input.i32()?),
                (5, Kind::I64) => self.num_values = Some(input.i64()?),
                (6, Kind::I64) => self.uncompressed = Some(input.i64()?),
                (7, Kind::I64) => self.compressed = Some(input.i64()?),
                (9, Kind::I64) => self.data_offset = Some(input.i64()?),
                (11, Kind::I64) => self.dictionary_offset = Some(input.i64()?),
                _ => input.skip(kind)?,
            }
        }
        Ok(())
    }

    /// The chunk, if what it claims is possible in a file whose data end at `end`.
    fn check(self, column: &Column, num_rows: u64, end: u64) -> Result<Chunk, String> {
        if self.elsewhere || self.encrypted {
            return Err(format!("is {}", if self.encrypted { "encrypted" } else { "in another file" }));
        }
        let positive = |value: Option<i64>, what: &str| match value.map(u64::try_from) {
            Some(Ok(value)) => Ok(value),
            _ => Err(format!("has a row group without {what}")),
        };
        let num_values = positive(self.num_values, "a number of values")?;
        let len = positive(self.compressed, "a length")?;
        let uncompressed = positive(self.uncompressed, "an uncompressed length")?;
        let data = positive(self.data_offset, "an offset")?;
        // Some writers say 0 where there is no dictionary.
        let dictionary =
            self.dictionary_offset.and_then(|offset| u64::try_from(offset).ok()).filter(|at| *at > 0);
        let start = dictionary.map_or(data, |dictionary| dictionary.min(data));
        if num_values != num_rows {
            return Err(format!("has {num_values} values in a row group of {num_rows} rows"));
        }
        if start < 4 || start.checked_add(len).is_none_or(|chunk_end| chunk_end > end) {
            return Err(format!("has {len} bytes from byte {start} on, but the data end at byte {end}"));
        }
        let codec = Codec::of(self.codec)?;
        let most_page_bytes = uncompressed.max(COMMON_PAGE_BYTES);
        let name = column.name.clone();
        Ok(Chunk { name, optional: column.optional, codec, start, len, uncompressed, most_page_bytes })
    }
}

/// Finds the wanted columns while the schema passes by.
struct Schema<'a> {
    text_field: Option<&'a str>,
    /// `content` or the text field, then `text`: what was found first of each name.
    texts: [Option<Result<Column, String>>; 2],
    others: [Option<Column>; NUM_COLUMNS - 1],
    /// Names for a message.
    names: Vec<String>,
    num_names: u64,
}

/// A node of the schema.
#[derive(Default)]
struct Node {
    name: Vec<u8>,
    physical: Option<i32>,
    repetition: Option<i32>,
    num_children: u64,
    converted: Option<i32>,
}

impl<'a> Schema<'a> {
    fn new(text_field: Option<&'a str>) -> Self {
        Schema {
            text_field,
            texts: [None, None],
            others: [const { None }; 3],
            names: Vec::new(),
            num_names: 0,
        }
    }

    /// Reads the nodes, which are a tree in the order of its leaves, each with its number of children.
    fn read(mut self, input: &mut Compact<&[u8]>) -> Result<[Option<Column>; NUM_COLUMNS], Fault> {
        let num_nodes = input.structures()?;
        let (mut open, mut leaf): (Vec<u64>, u64) = (Vec::new(), 0);
        for i in 0..num_nodes {
            let node = Node::read(input)?;
            if i == 0 {
                open.push(node.num_children);
                continue;
            }
            while open.last() == Some(&0) {
                open.pop();
            }
            let top = open.len() == 1;
            let left =
                open.last_mut().ok_or_else(|| Fault::new("has a schema with nodes outside its tree"))?;
            *left -= 1;
            if top {
                self.note(&node, leaf);
            }
            if node.physical.is_some() {
                leaf += 1;
            } else {
                open.push(node.num_children);
            }
        }
        if open.iter().any(|left| *left > 0) {
            return Err(Fault::new("has a schema with fewer nodes than its tree"));
        }
        self.choose()
    }

    /// Keeps a column of the highest level if it is wanted.
    fn note(&mut self, node: &Node, leaf: u64) {
        const MAX_NAMES: usize = 20;
        let name = String::from_utf8_lossy(&node.name);
        self.num_names += 1;
        if self.names.len() < MAX_NAMES {
            let short: String = name.chars().take(40).collect();
            self.names.push(format!("`{short}` ({})", node.kind()));
        }
        let column =
            || Column { leaf, name: name.clone().into_owned(), optional: node.repetition != Some(0) };
        let text = match self.text_field {
            Some(field) => (*name == *field).then_some(0),
            None => ["content", "text"].iter().position(|field| name == *field),
        };
        if let Some(i) = text {
            let found = || if node.is_strings() { Ok(column()) } else { Err(node.kind().to_owned()) };
            self.texts[i].get_or_insert_with(found);
            return;
        }
        if let Some(i) = NAMES.iter().position(|other| name == *other)
            && node.is_strings()
        {
            self.others[i].get_or_insert_with(column);
        }
    }

    fn choose(self) -> Result<[Option<Column>; NUM_COLUMNS], Fault> {
        let field = self.text_field.unwrap_or("content");
        let [first, second] = self.texts;
        let (field, found) =
            if first.is_none() && second.is_some() { ("text", second) } else { (field, first) };
        let what = match found {
            Some(Ok(text)) => {
                let [path, repo_name, license] = self.others;
                return Ok([Some(text), path, repo_name, license]);
            }
            Some(Err(kind)) => format!("column `{field}` is {kind}, expected strings"),
            None if self.text_field.is_some() => format!("no column `{field}`"),
            None => "no column `content` or `text`".to_owned(),
        };
        let more = self.num_names - self.names.len() as u64;
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        let names = self.names.join(", ");
        Err(Fault::new(format!("{what}; its columns are {names}{more}; hint: choose one with text_field")))
    }
}

impl Node {
    fn read(input: &mut Compact<&[u8]>) -> Result<Self, Fault> {
        let (mut node, mut id) = (Node::default(), 0);
        while let Some(kind) = input.field(&mut id)? {
            match (id, kind) {
                (1, Kind::I32) => node.physical = Some(input.i32()?),
                (3, Kind::I32) => node.repetition = Some(input.i32()?),
                (4, Kind::Binary) => node.name = input.binary(MAX_NAME_BYTES)?,
                (5, Kind::I32) => {
                    let num = input.i32()?;
                    let negative = |_| Fault::new(format!("has a schema with {num} nodes below one"));
                    node.num_children = u64::try_from(num).map_err(negative)?;
                }
                (6, Kind::I32) => node.converted = Some(input.i32()?),
                _ => input.skip(kind)?,
            }
        }
        // A leaf has a type and no children; writers that say otherwise mean a group.
        if node.num_children > 0 {
            node.physical = None;
        }
        Ok(node)
    }

    /// Plain bytes count as strings too, since some writers do not say; whether they are UTF-8 is seen row by row.
    fn is_strings(&self) -> bool {
        self.kind() == "strings"
    }

    fn kind(&self) -> &'static str {
        const REPEATED: i32 = 2;
        const DECIMAL: i32 = 5;
        const BSON: i32 = 20;
        match (self.physical, self.converted) {
            (None, _) => "nested",
            _ if self.repetition == Some(REPEATED) => "a list",
            (Some(0), _) => "booleans",
            (Some(1 | 2), _) => "integers",
            (Some(3), _) => "timestamps",
            (Some(4 | 5), _) => "numbers",
            (Some(6), Some(DECIMAL)) => "decimals",
            (Some(6), Some(BSON)) => "BSON",
            (Some(6), _) => "strings",
            (Some(_), _) => "bytes of fixed length",
        }
    }
}
