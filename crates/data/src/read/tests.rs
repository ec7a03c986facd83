//! Rows over blobs that do what files should not: come in pieces, end early, grow, fail, or are never read to the end.

use super::*;
use std::io::{self, Read, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// A file in memory, with habits.
struct Memory {
    name: &'static str,
    bytes: Vec<u8>,
    /// What it says its length is.
    len: u64,
    /// Most bytes that one call of `read` gives.
    piece: usize,
    /// Where reading fails.
    fails_at: Option<usize>,
    /// Whether its reader is gone.
    dropped: Arc<AtomicBool>,
}

/// The name and text of a document, or why it is none.
type Found = Result<(String, String), String>;

impl Memory {
    fn new(name: &'static str, bytes: impl Into<Vec<u8>>) -> Self {
        let bytes = bytes.into();
        let len = bytes.len() as u64;
        Memory { name, bytes, len, piece: usize::MAX, fails_at: None, dropped: Arc::default() }
    }

    /// All rows, as their documents, and the error that ended them.
    fn read(self) -> (Vec<Found>, Option<Error>) {
        let mut rows = match Rows::open(Arc::new(self), None) {
            Ok(rows) => rows,
            Err(error) => return (Vec::new(), Some(error)),
        };
        let mut all = Vec::new();
        loop {
            let (name, row) = match rows.next() {
                Ok(Some(RawRow::Json { name, bytes, .. })) => (name, Row::parse(&bytes, None)),
                Ok(Some(RawRow::Fields { name, row })) => (name, Ok(row)),
                Ok(Some(RawRow::Broken { reason, num_rows })) => {
                    all.extend((0..num_rows).map(|_| Err(reason.clone())));
                    continue;
                }
                Ok(None) => return (all, None),
                Err(error) => {
                    assert!(matches!(rows.next(), Ok(None)), "nothing comes after an error");
                    return (all, Some(error));
                }
            };
            let row = row.and_then(|row| row.into_document(None, name));
            all.push(row.map(|row| (row.path, row.text)));
        }
    }
}

struct MemoryReader {
    bytes: io::Cursor<Vec<u8>>,
    piece: usize,
    fails_at: Option<usize>,
    dropped: Arc<AtomicBool>,
}

impl Blob for Memory {
    fn name(&self) -> String {
        format!("somewhere/{}", self.name)
    }

    fn len(&self) -> u64 {
        self.len
    }

    fn read_from(&self, offset: u64) -> io::Result<Box<dyn Read + Send>> {
        let mut bytes = io::Cursor::new(self.bytes.clone());
        bytes.set_position(offset);
        let (piece, fails_at, dropped) = (self.piece, self.fails_at, self.dropped.clone());
        Ok(Box::new(MemoryReader { bytes, piece, fails_at, dropped }))
    }
}

impl Read for MemoryReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let at = self.bytes.position() as usize;
        if self.fails_at.is_some_and(|fails_at| at >= fails_at) {
            return Err(io::Error::other("the cable is out"));
        }
        let most = buffer.len().min(self.piece).min(self.fails_at.map_or(usize::MAX, |end| end - at));
        self.bytes.read(&mut buffer[..most])
    }
}

impl Drop for MemoryReader {
    fn drop(&mut self) {
        self.dropped.store(true, Ordering::SeqCst);
    }
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).and_then(|()| encoder.finish()).expect("gzip")
}

fn lines(num: usize) -> String {
    (0..num).map(|i| format!("{{\"path\":\"{i}.rs\",\"content\":\"fn f{i}() {{}}\"}}\n")).collect()
}

fn golden(name: &str) -> Vec<u8> {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name);
    std::fs::read(path).expect("golden file")
}

#[test]
fn pieces_of_any_size_give_the_same_rows() {
    let lines = lines(200);
    let array = format!("[{}]", lines.trim_end().replace('\n', ", "));
    let (want, _) = Memory::new("a.jsonl", lines.as_bytes()).read();
    assert_eq!(want.len(), 200);
    let zstd = zstd::encode_all(lines.as_bytes(), 1).expect("zstd");
    for (name, bytes) in [
        ("a.jsonl", lines.clone().into_bytes()),
        ("a.json", array.into_bytes()),
        ("a.jsonl.gz", [gzip(&lines.as_bytes()[..999]), gzip(&lines.as_bytes()[999..])].concat()),
        ("a.jsonl.zst", zstd),
    ] {
        for piece in [1, 2, 3, 7, 100] {
            let (found, error) = Memory { piece, ..Memory::new(name, bytes.clone()) }.read();
            assert!(error.is_none() && found == want, "{name} in pieces of {piece}: {error:?}");
        }
    }
    let bytes = golden("zstd-groups.parquet");
    let (want, _) = Memory::new("a.parquet", bytes.clone()).read();
    let (found, _) = Memory { piece: 3, ..Memory::new("a.parquet", bytes) }.read();
    assert!(want.len() == 60 && found == want);
}

#[test]
fn a_file_that_ends_early_grows_or_fails_is_told_with_the_place() {
    let lines = lines(20);
    let len = lines.len() as u64;
    let cut = Memory { len: len + 500, ..Memory::new("a.jsonl", lines.as_bytes()) };
    let (found, error) = cut.read();
    let error = error.expect("an error").to_string();
    assert_eq!(found.len(), 20);
    let want = format!(
        "somewhere/a.jsonl, at byte {len}, ends here, but had {} bytes when it was opened",
        len + 500
    );
    assert_eq!(error, want);

    let grown = Memory { len: 60, ..Memory::new("a.jsonl", lines.as_bytes()) };
    assert_eq!(grown.read().0.len(), 2, "60 bytes are a row and a part of one");
    let pipe = Memory { len: 0, ..Memory::new("a.jsonl", lines.as_bytes()) };
    assert_eq!(pipe.read().0.len(), 20, "a length of 0 says nothing");

    let bytes = gzip(lines.as_bytes());
    for (name, bytes) in [("a.jsonl", lines.clone().into_bytes()), ("a.jsonl.gz", bytes)] {
        let (found, error) = Memory { fails_at: Some(150), ..Memory::new(name, bytes) }.read();
        let error = error.expect("an error").to_string();
        assert!(error.contains(", at byte 150") && error.contains("the cable is out"), "{error}");
        assert!(found.len() >= 3 && found.iter().all(Result::is_ok), "{name}: {found:?}");
    }
    // A parquet file is read from its end, so one that was cut since has another end, or none where it should be.
    let bytes = golden("zstd-groups.parquet");
    let len = bytes.len() as u64;
    let (_, error) = Memory { len, ..Memory::new("a.parquet", &bytes[..bytes.len() - 100]) }.read();
    assert!(error.expect("an error").to_string().contains("was cut while it was read"));
    let (found, error) = Memory { fails_at: Some(bytes.len() / 2), ..Memory::new("a.parquet", bytes) }.read();
    assert!(found.is_empty() && error.expect("an error").to_string().contains("the cable is out"));
}

#[test]
fn rows_before_a_broken_row_group_come_out() {
    let bytes = golden("zstd-groups.parquet");
    let (whole, _) = Memory::new("a.parquet", bytes.clone()).read();
    let magic: Vec<usize> =
        (0..bytes.len() - 4).filter(|at| bytes[*at..].starts_with(b"\x28\xb5\x2f\xfd")).collect();
    // Pages of the third of four row groups are damaged.
    for at in &magic[magic.len() / 2..magic.len() * 3 / 4] {
        let mut broken = bytes.clone();
        broken[*at] ^= 1;
        let (found, error) = Memory::new("a.parquet", broken).read();
        assert!(whole.starts_with(&found) && found.len() >= 32, "{} rows", found.len());
        if let Some(error) = error {
            assert!(error.to_string().contains("damaged zstd data"), "{error}");
        }
    }
}

#[test]
fn rows_before_damaged_compression_come_out() {
    let lines = lines(100_000);
    let (want, _) = Memory::new("a.jsonl", lines.as_bytes()).read();
    let mut encoder = zstd::Encoder::new(Vec::new(), 1).expect("zstd");
    encoder.include_checksum(true).expect("zstd");
    let zstd = encoder.write_all(lines.as_bytes()).and_then(|()| encoder.finish()).expect("zstd");
    for (name, mut bytes) in [("a.jsonl.gz", gzip(lines.as_bytes())), ("a.jsonl.zst", zstd)] {
        let at = bytes.len() * 3 / 4;
        bytes[at..at + 64].fill(0xa5);
        let (found, error) = Memory::new(name, bytes).read();
        let same = found.iter().zip(&want).take_while(|(found, want)| found == want).count();
        // A block of zstd is 128 KiB, of some 3 MB here.
        assert!(same > want.len() * 7 / 10 - 2000, "{name}: {same} of {}", want.len());
        let error = error.expect("an error").to_string();
        assert!(error.contains("damaged"), "{error}");
    }
}

#[test]
fn threads_end_when_nobody_reads_on() {
    let lines = lines(2_000_000);
    let bytes = gzip(lines.as_bytes());
    for (name, bytes) in [("a.jsonl", lines.into_bytes()), ("a.jsonl.gz", bytes)] {
        let memory = Memory::new(name, bytes);
        let dropped = memory.dropped.clone();
        let mut rows = Rows::open(Arc::new(memory), None).expect("rows");
        assert!(matches!(rows.next(), Ok(Some(_))));
        assert!(!dropped.load(Ordering::SeqCst), "there is more than is read ahead");
        drop(rows);
        let start = Instant::now();
        while !dropped.load(Ordering::SeqCst) {
            assert!(start.elapsed() < Duration::from_secs(60), "the thread goes on");
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

#[test]
fn licenses_come_from_json_and_parquet() {
    let licenses = |name: &'static str, bytes: Vec<u8>| {
        let mut rows = Rows::open(Arc::new(Memory::new(name, bytes)), None).expect("rows");
        let mut all = Vec::new();
        while let Some(row) = rows.next().expect("a row") {
            let row = match row {
                RawRow::Json { bytes, .. } => Row::parse(&bytes, None),
                RawRow::Fields { row, .. } => Ok(row),
                RawRow::Broken { reason, .. } => Err(reason),
            };
            let row = row.and_then(|row| row.into_document(None, String::new()));
            all.push(row.expect("a document").license);
        }
        all
    };
    let json = licenses("a.jsonl", golden("rows.jsonl"));
    assert_eq!(json[1].as_deref(), Some("apache-2.0"));
    assert_eq!(licenses("a.parquet", golden("snappy.parquet")), json);
}

#[test]
fn names() {
    for name in ["a.jsonl", "a.ndjson.gz", "A.JSON.ZST", "a.parquet", "x/y.b.json"] {
        assert!(is_rows(name), "{name}");
    }
    for name in ["a.py", "a.py.gz", "a.parquet.gz", "jsonl", "a.jsonl.bz2", "a.gz", "a.json5", ""] {
        assert!(!is_rows(name), "{name}");
    }
}
