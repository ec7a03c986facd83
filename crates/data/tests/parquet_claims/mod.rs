//! Small parquet files that say of themselves what a test wants, true or not: one page of strings in a row group.

/// Writes the structures of a parquet file, true or not.
#[derive(Default)]
struct Thrift {
    bytes: Vec<u8>,
    last: Vec<i16>,
}

impl Thrift {
    fn structure(write: impl FnOnce(&mut Thrift)) -> Vec<u8> {
        let mut thrift = Thrift { last: vec![0], ..Default::default() };
        write(&mut thrift);
        thrift.bytes.push(0);
        thrift.bytes
    }

    fn varint(&mut self, mut value: u64) {
        while value > 0x7f {
            self.bytes.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.bytes.push(value as u8);
    }

    fn field(&mut self, id: i16, kind: u8) {
        let last = self.last.last_mut().expect("a structure");
        self.bytes.push(((id - *last) as u8) << 4 | kind);
        *last = id;
    }

    fn integer(&mut self, id: i16, kind: u8, value: i64) {
        self.field(id, kind);
        self.varint((value << 1 ^ value >> 63) as u64);
    }

    fn i32(&mut self, id: i16, value: i32) {
        self.integer(id, 5, i64::from(value));
    }

    fn i64(&mut self, id: i16, value: i64) {
        self.integer(id, 6, value);
    }

    fn text(&mut self, id: i16, text: &str) {
        self.field(id, 8);
        self.varint(text.len() as u64);
        self.bytes.extend_from_slice(text.as_bytes());
    }

    fn inner(&mut self, id: i16, structure: Vec<u8>) {
        self.field(id, 12);
        self.bytes.extend(structure);
    }

    /// A list that claims `len` elements.
    fn list(&mut self, id: i16, len: u64, elements: &[Vec<u8>]) {
        self.field(id, 9);
        self.bytes.push(0xfc);
        self.varint(len);
        self.bytes.extend(elements.concat());
    }
}

/// What a small parquet file says of itself. The default is true.
#[derive(Clone)]
pub(crate) struct Claims {
    pub(crate) codec: i32,
    /// The page as it lies there.
    pub(crate) body: Vec<u8>,
    pub(crate) uncompressed: i32,
    pub(crate) compressed: i32,
    pub(crate) page_values: i32,
    pub(crate) encoding: i32,
    pub(crate) chunk_values: i64,
    pub(crate) chunk_compressed: i64,
    pub(crate) chunk_uncompressed: i64,
    pub(crate) offset: i64,
    pub(crate) num_rows: i64,
    pub(crate) num_groups: usize,
    pub(crate) claimed_groups: u64,
    pub(crate) num_columns: usize,
    pub(crate) optional: bool,
    pub(crate) footer_len: Option<u32>,
}

const PLAIN: i32 = 0;

impl Claims {
    pub(crate) fn new(body: Vec<u8>, num_rows: i32, codec: i32, uncompressed: usize) -> Self {
        let len = body.len();
        Claims {
            codec,
            uncompressed: uncompressed as i32,
            compressed: len as i32,
            page_values: num_rows,
            encoding: PLAIN,
            chunk_values: i64::from(num_rows),
            chunk_compressed: -1,
            chunk_uncompressed: uncompressed as i64 + 100,
            offset: 4,
            num_rows: i64::from(num_rows),
            num_groups: 1,
            claimed_groups: 1,
            num_columns: 1,
            optional: false,
            footer_len: None,
            body,
        }
    }

    /// The file.
    pub(crate) fn file(&self) -> Vec<u8> {
        let mut file = b"PAR1".to_vec();
        let header = Thrift::structure(|header| {
            header.i32(1, 0);
            header.i32(2, self.uncompressed);
            header.i32(3, self.compressed);
            header.inner(
                5,
                Thrift::structure(|page| {
                    page.i32(1, self.page_values);
                    page.i32(2, self.encoding);
                    page.i32(3, 3);
                    page.i32(4, 3);
                }),
            );
        });
        file.extend(&header);
        file.extend(&self.body);
        let true_len = (header.len() + self.body.len()) as i64;
        let chunk = Thrift::structure(|chunk| {
            chunk.i64(2, 4);
            chunk.inner(
                3,
                Thrift::structure(|meta| {
                    meta.i32(1, 6);
                    meta.i32(4, self.codec);
                    meta.i64(5, self.chunk_values);
                    meta.i64(6, self.chunk_uncompressed);
                    meta.i64(7, if self.chunk_compressed < 0 { true_len } else { self.chunk_compressed });
                    meta.i64(9, self.offset);
                }),
            );
        });
        let group = Thrift::structure(|group| {
            group.list(1, self.num_columns as u64, &vec![chunk; self.num_columns]);
            group.i64(3, self.num_rows);
        });
        let mut schema = vec![Thrift::structure(|root| {
            root.text(4, "root");
            root.i32(5, self.num_columns as i32);
        })];
        schema.extend((0..self.num_columns).map(|i| {
            Thrift::structure(|node| {
                node.i32(1, 6);
                node.i32(3, i32::from(self.optional));
                node.text(4, if i == 0 { "text" } else { "other" });
            })
        }));
        let footer = Thrift::structure(|footer| {
            footer.i32(1, 1);
            footer.list(2, schema.len() as u64, &schema);
            footer.i64(3, self.num_rows);
            footer.list(4, self.claimed_groups, &vec![group; self.num_groups]);
        });
        file.extend(&footer);
        file.extend(self.footer_len.unwrap_or(footer.len() as u32).to_le_bytes());
        file.extend(b"PAR1");
        file
    }
}

/// The strings as a page has them, each with its length before it.
pub(crate) fn strings(all: &[&str]) -> Vec<u8> {
    all.iter().flat_map(|s| [&(s.len() as u32).to_le_bytes()[..], s.as_bytes()].concat()).collect()
}
