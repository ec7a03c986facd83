//! Files of rows that are damaged, cut or made to do harm: errors with a place, never a panic or a hang.
//!
//! What comes out before the damage is checked against the whole file where that can be known: a file that is cut gives a
//! beginning of its rows. Memory is watched in rows_memory.rs.

mod parquet_claims;

use eyas_data::{Document, Documents, Error, Reason, SourceOptions, SourceReport};
use parquet_claims::{Claims, strings};
use std::io::Write;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

/// A folder with one file that is written again and again.
struct Bench {
    dir: TempDir,
}

impl Bench {
    fn new() -> Self {
        Bench { dir: tempfile::tempdir().expect("folder") }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn read(&self, name: &str, bytes: &[u8]) -> (Vec<Document>, SourceReport) {
        let path = self.path(name);
        std::fs::write(&path, bytes).expect("file");
        let data = path.to_str().expect("UTF-8").to_owned();
        let options = SourceOptions { raw: true, ..Default::default() };
        let mut documents = Documents::open(&[data], &options).expect("data");
        let mut all = Vec::new();
        for document in documents.by_ref() {
            match document {
                Ok(document) => all.push(document),
                Err(error) => assert!(matches!(error, Error::NoDocuments { .. }), "{error}"),
            }
        }
        let report = documents.report();
        assert!(
            !report.examples.iter().any(|example| example.contains("defect")),
            "a decoder panicked: {report}"
        );
        (all, report.clone())
    }
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(bytes).and_then(|()| encoder.finish()).expect("gzip")
}

fn zstd(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = zstd::Encoder::new(Vec::new(), 3).expect("zstd");
    encoder.include_checksum(true).expect("zstd");
    encoder.write_all(bytes).and_then(|()| encoder.finish()).expect("zstd")
}

fn golden(name: &str) -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name);
    std::fs::read(path).expect("golden file")
}

fn lines(num: usize) -> String {
    (0..num).map(|i| format!("{{\"path\":\"{i}.rs\",\"content\":\"fn f{i}() {{\\n}}\\n\"}}\n")).collect()
}

/// A small file of each kind.
fn small_files() -> Vec<(&'static str, Vec<u8>)> {
    let lines = lines(12);
    let array = format!("[{}]", lines.trim_end().replace('\n', ","));
    vec![
        ("a.jsonl", lines.clone().into_bytes()),
        ("a.json", array.into_bytes()),
        ("a.jsonl.gz", [gzip(&lines.as_bytes()[..100]), gzip(&lines.as_bytes()[100..])].concat()),
        ("a.jsonl.zst", [zstd(&lines.as_bytes()[..100]), zstd(&lines.as_bytes()[100..])].concat()),
        ("brotli.parquet", golden("brotli.parquet")),
        ("lz4.parquet", golden("lz4.parquet")),
        ("gzip.parquet", golden("gzip-plain.parquet")),
        ("delta.parquet", golden("delta.parquet")),
        ("nulls.parquet", golden("nulls-2.parquet")),
    ]
}

#[test]
fn a_cut_anywhere_gives_a_beginning_of_the_rows_and_an_error() {
    let bench = Bench::new();
    for (name, bytes) in small_files() {
        let (whole, _) = bench.read(name, &bytes);
        assert!(whole.len() >= 12, "{name}");
        for len in 0..bytes.len() {
            let (found, report) = bench.read(name, &bytes[..len]);
            assert!(whole.starts_with(&found), "{name} cut at {len}: {found:?}");
            // Members, frames and lines that are whole are a whole file.
            let expected = name != "a.jsonl" && found.len() < whole.len() - 11;
            let broken = report.skipped_for(Reason::BrokenFile).num_documents
                + report.skipped_for(Reason::BrokenRow).num_documents;
            assert!(broken > 0 || !expected || len < 200, "{name} cut at {len}: {report}");
        }
    }
}

#[test]
fn a_flipped_byte_anywhere_is_survived() {
    let bench = Bench::new();
    for (name, bytes) in small_files() {
        let whole = bench.read(name, &bytes);
        let mut unnoticed = 0;
        for at in 0..bytes.len() {
            let mut flipped = bytes.clone();
            flipped[at] ^= if at % 3 == 0 { 0xff } else { 1 << (at % 8) };
            unnoticed += usize::from(bench.read(name, &flipped) == whole);
        }
        // Checksums of gzip and zstd leave nothing unnoticed but fields that say nothing; parquet has none.
        let most = if name.ends_with("zst") || name.ends_with("gz") { 20 } else { bytes.len() };
        assert!(unnoticed < most, "{name}: {unnoticed} flips of {} bytes went unnoticed", bytes.len());
    }
}

/// A generator of numbers for the mutations (splitmix64).
struct Random(u64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ z >> 31) % end as u64) as usize
    }
}

#[test]
fn random_mutations_are_survived() {
    let (bench, mut random) = (Bench::new(), Random(20));
    for (name, bytes) in small_files() {
        for _ in 0..400 {
            let mut mutated = bytes.clone();
            for _ in 0..=random.below(4) {
                let at = random.below(mutated.len());
                let len = random.below(mutated.len() - at).min(random.below(40));
                match random.below(4) {
                    0 => mutated[at] = random.below(256) as u8,
                    1 => drop(mutated.drain(at..at + len)),
                    2 => mutated.extend_from_within(at..at + len),
                    _ => mutated[at..at + len].fill([0, 0x80, 0xff, 0x7f][random.below(4)]),
                }
                if mutated.is_empty() {
                    break;
                }
            }
            bench.read(name, &mutated);
        }
    }
}

#[test]
fn rows_of_all_sorts_of_nonsense() {
    let bench = Bench::new();
    let nested = format!("{}{}", "[".repeat(50_000), "]".repeat(50_000));
    let (deep, deep_text) = (format!("{{\"text\":\"x\",\"a\":{nested}}}"), format!("{{\"text\":{nested}}}"));
    let rows: [(&[u8], bool); 15] = [
        (b"{\"text\":\"a\"}", true),
        (b"{\"text\":\"\xff\xfe\"}", false),
        (b"\0\0\0\0", false),
        (b"{\"text\":\"a\0b\"}", false),
        (b"{\"text\":\"a\\u0000b\"}", true),
        (b"{\"text\":null}", false),
        (b"{\"text\":[\"a\"]}", false),
        (b"{\"text\":{\"text\":\"a\"}}", false),
        (b"{\"text\":\"a\",\"text\":\"b\"}", true),
        (b"{\"text\":\"a\"", false),
        (b"[{\"text\":\"a\"}]", false),
        (b"{\"text\":1e999999}", false),
        (b"{\"text\":\"\\udc00\"}", false),
        (deep.as_bytes(), true),
        (deep_text.as_bytes(), false),
    ];
    let (found, report) = bench.read("a.jsonl", &rows.map(|(row, _)| row).join(&b'\n'));
    let num_good = rows.iter().filter(|(_, good)| *good).count();
    assert_eq!(
        (found.len(), report.skipped_for(Reason::BrokenRow).num_documents),
        (num_good, (rows.len() - num_good) as u64),
        "{report}"
    );
    // The same between brackets: an element that is not closed takes what follows with it, so it goes last.
    let mut elements: Vec<&[u8]> = rows.iter().map(|(row, _)| *row).collect();
    let open = elements.remove(9);
    let array = [b"[", &elements.join(&b',')[..], b"]"].concat();
    let (found, report) = bench.read("a.json", &array);
    assert_eq!(
        (found.len(), report.skipped_for(Reason::BrokenRow).num_documents),
        (num_good, (rows.len() - num_good - 1) as u64),
        "{report}"
    );
    let (found, report) = bench.read("a.json", &[b"[{\"text\":\"a\"},", open, b"]"].concat());
    assert_eq!((found.len(), report.skipped_for(Reason::BrokenFile).num_documents), (1, 1), "{report}");
}

#[test]
fn arrays_that_are_not_quite() {
    let bench = Bench::new();
    for (json, num_good, num_broken, reason) in [
        ("[]", 0, 0, ""),
        (" [ \n ] \n", 0, 0, ""),
        ("[", 0, 0, "ends inside its array"),
        (r#"[{"text":"a"}"#, 0, 0, "ends inside its array"),
        (r#"[{"text":"a"},"#, 1, 0, "ends inside its array"),
        (r#"[{"text":"a"},]"#, 1, 1, ""),
        (r#"[,{"text":"a"}]"#, 1, 1, ""),
        (r#"[{"text":"a"}] x"#, 1, 0, "at byte 15 of its text, goes on after its array"),
        (r#"[{"text":"a"}][{"text":"b"}]"#, 1, 0, "goes on after its array"),
        (r#"[{"text":"a]},\\"}, 3, "[", {"text":"\""}]"#, 2, 2, ""),
        (r#"[{"text":"a"}}, {"text":"b"}]"#, 1, 1, ""),
        (r#"[{"text":"a"]]]"#, 0, 1, "goes on after its array"),
    ] {
        let (found, report) = bench.read("a.json", json.as_bytes());
        assert_eq!(
            (found.len(), report.skipped_for(Reason::BrokenRow).num_documents),
            (num_good, num_broken),
            "{json}: {report}"
        );
        let example = report.examples.last().map_or("", |example| example);
        assert_eq!(
            report.skipped_for(Reason::BrokenFile).num_documents,
            u64::from(!reason.is_empty()),
            "{json}: {report}"
        );
        assert!(example.contains(reason), "{json}: {example}");
    }
}

#[test]
fn compressed_files_that_are_not() {
    let bench = Bench::new();
    // A window of 2^31 bytes in 14 bytes: a zstd frame may ask for it, and is refused.
    let window = b"\x28\xb5\x2f\xfd\x00\xa8\x01\x00\x00".to_vec();
    let good = b"{\"text\":\"a\"}\n";
    for (name, bytes, num_good, reason) in [
        ("a.jsonl.gz", Vec::new(), 0, "is empty, which no gzip file is"),
        ("a.jsonl.zst", Vec::new(), 0, "is empty, which no zstd file is"),
        ("a.jsonl.gz", good.to_vec(), 0, "damaged gzip data"),
        ("a.jsonl.zst", good.to_vec(), 0, "damaged zstd data"),
        ("a.jsonl.zst", window, 0, "too much memory"),
        ("a.jsonl.gz", [gzip(good), b"more".to_vec()].concat(), 1, "damaged gzip data"),
        ("a.jsonl.zst", [zstd(good), b"more".to_vec()].concat(), 1, "damaged zstd data"),
        ("a.parquet", Vec::new(), 0, "has 0 bytes, but a parquet file at least 12"),
        ("a.parquet", good.to_vec(), 0, "expected `PAR1`"),
    ] {
        let (found, report) = bench.read(name, &bytes);
        assert_eq!(
            (found.len(), report.skipped_for(Reason::BrokenFile).num_documents),
            (num_good, 1),
            "{name}: {report}"
        );
        assert!(report.examples[0].contains(reason), "{}", report.examples[0]);
    }
}

/// Three strings in a file that says the truth.
fn plain() -> Claims {
    let body = strings(&["one", "two", "three"]);
    let len = body.len();
    Claims::new(body, 3, 0, len)
}

#[test]
fn parquet_files_that_claim_too_much() {
    let bench = Bench::new();
    let good = plain();
    let (found, report) = bench.read("a.parquet", &good.file());
    assert_eq!((found.len(), report.num_skipped()), (3, 0), "{report}");
    assert_eq!((found[2].path.as_str(), found[2].text.as_str()), ("a.parquet:3", "three"));

    type Edit = fn(&mut Claims);
    let cases: [(Edit, &str); 24] = [
        (|c| c.uncompressed = i32::MAX, "has a page of 2147483647 bytes (23 compressed)"),
        (|c| c.compressed = i32::MAX, "where 23 are left"),
        (|c| (c.compressed, c.uncompressed) = (-1, -1), "has a page of -1 bytes"),
        (|c| c.uncompressed = 22, "has a page of 22 bytes that has 23"),
        (|c| (c.codec, c.uncompressed) = (1, 200 << 20), "at the most"),
        (|c| (c.codec, c.uncompressed, c.chunk_uncompressed) = (1, 200 << 20, i64::MAX), "cannot give"),
        (|c| (c.codec, c.uncompressed, c.chunk_uncompressed) = (7, 200 << 20, i64::MAX), "cannot give"),
        (|c| (c.codec, c.uncompressed, c.chunk_uncompressed) = (6, 200 << 20, i64::MAX), "damaged zstd data"),
        (|c| (c.codec, c.uncompressed, c.chunk_uncompressed) = (2, 200 << 20, i64::MAX), "damaged gzip data"),
        (|c| (c.codec, c.uncompressed, c.chunk_uncompressed) = (4, 200 << 20, i64::MAX), "brotli"),
        (|c| c.codec = 3, "is compressed with LZO"),
        (|c| c.codec = -7, "the unknown codec -7"),
        (|c| c.page_values = -1, "has a page of -1 values"),
        (|c| (c.num_rows, c.chunk_values) = (i64::MAX, i64::MAX), "fewer rows than its row group"),
        (
            |c| (c.num_rows, c.chunk_values, c.page_values) = (1 << 30, 1 << 30, 1 << 30),
            "ends 4 bytes too early",
        ),
        (|c| c.num_rows = 4, "has 3 values in a row group of 4 rows"),
        (|c| c.num_rows = -4, "without a number of rows"),
        (|c| c.chunk_compressed = i64::MAX, "but the data end at byte"),
        (|c| c.offset = i64::MAX, "but the data end at byte"),
        (|c| c.offset = 0, "bytes from byte 0 on"),
        (|c| c.encoding = 8, "needs a dictionary"),
        (|c| c.encoding = 5, "in the encoding 5"),
        (|c| c.claimed_groups = u64::MAX, "ends too early"),
        (|c| c.footer_len = Some(u32::MAX), "has a footer of 4294967295 bytes"),
    ];
    for (edit, reason) in cases {
        let mut claims = good.clone();
        edit(&mut claims);
        let (_, report) = bench.read("a.parquet", &claims.file());
        assert_eq!(report.skipped_for(Reason::BrokenFile).num_documents, 1, "{reason}: {report}");
        assert!(report.examples[0].contains(reason), "expected {reason}: {}", report.examples[0]);
        assert!(report.examples[0].contains(", at byte "), "{}", report.examples[0]);
    }

    let mut lengths = good.clone();
    lengths.body[7..11].fill(0xff);
    let (found, report) = bench.read("a.parquet", &lengths.file());
    assert_eq!(
        (found.len(), report.skipped_for(Reason::BrokenFile).num_documents),
        (1, 1),
        "a string of 4 GB: {report}"
    );

    let overlap = Claims { num_groups: 500, claimed_groups: 500, ..good.clone() };
    let (found, report) = bench.read("a.parquet", &overlap.file());
    assert!(found.len() < 10 && report.examples[0].contains("row groups that overlap"), "{report}");

    let none = Claims { offset: 0, ..Claims::new(Vec::new(), 0, 1, 0) };
    let (found, report) = bench.read("a.parquet", &none.file());
    assert_eq!(
        (found.len(), report.num_skipped()),
        (0, 0),
        "a row group of no rows, as pyarrow has it: {report}"
    );

    let wide = Claims { num_columns: 300_000, ..good.clone() };
    let (found, report) = bench.read("a.parquet", &wide.file());
    assert_eq!((found.len(), report.num_skipped()), (3, 0), "{report}");
}

#[test]
fn endless_nulls_are_counted_and_not_walked() {
    let bench = Bench::new();
    // A run of 2^31 - 1 nulls: four bytes of length, the run, its value.
    let body = [&6_u32.to_le_bytes()[..], &[0xfe, 0xff, 0xff, 0xff, 0x0f, 0x00]].concat();
    let len = body.len();
    let claims = Claims { optional: true, ..Claims::new(body, i32::MAX, 0, len) };
    let (found, report) = bench.read("a.parquet", &claims.file());
    assert_eq!(
        (found.len(), report.skipped_for(Reason::BrokenRow).num_documents),
        (0, i32::MAX as u64),
        "{report}"
    );
    assert!(report.examples[0].contains("a.parquet:1: column `text` is null"), "{report}");
}

#[test]
fn strings_that_are_not_utf8_are_broken_rows() {
    let bench = Bench::new();
    let mut claims = plain();
    claims.body[5] = 0xff;
    let (found, report) = bench.read("a.parquet", &claims.file());
    assert_eq!(
        (found.len(), report.skipped_for(Reason::BrokenRow).num_documents, report.num_skipped()),
        (2, 1, 1),
        "{report}"
    );
    assert_eq!(report.examples[0], "a.parquet:1: not UTF-8 from byte 1 on");
}
