//! Memory while bombs are read: files of some kilobytes that decompress to gigabytes, in one line or in many rows.
//!
//! One test, so that the peak that Linux keeps of a process is that of the file just read.
#![cfg(target_os = "linux")]

mod parquet_claims;

use eyas_data::{Documents, Reason, SourceOptions};
use parquet_claims::{Claims, strings};
use std::io::Write;
use std::path::Path;

/// Most that a reader may take, in KiB: a row of 64 MiB twice while it grows, the blocks ahead, and room for the allocator.
const MOST_KIB: u64 = 256 << 10;

/// Largest memory of the process since the last call with `reset`, in KiB.
fn peak_kib(reset: bool) -> Option<u64> {
    if reset {
        std::fs::write("/proc/self/clear_refs", "5").ok()?;
    }
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
    line.split_whitespace().nth(1)?.parse().ok()
}

/// Reads a file; how many documents it has, how many broken rows, and by how much memory grew.
fn read(path: &Path) -> Option<(u64, u64, u64)> {
    let before = peak_kib(true)?;
    let options = SourceOptions { raw: true, ..Default::default() };
    let data = path.to_str().expect("UTF-8").to_owned();
    let mut documents = Documents::open(&[data], &options).expect("data");
    documents.by_ref().for_each(drop);
    let report = documents.report();
    Some((
        report.num_documents,
        report.skipped_for(Reason::BrokenRow).num_documents,
        peak_kib(false)?.saturating_sub(before),
    ))
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).and_then(|()| encoder.finish()).expect("gzip")
}

fn zstd(bytes: &[u8]) -> Vec<u8> {
    zstd::encode_all(bytes, 1).expect("zstd")
}

/// A file's name, its bytes, the documents and broken rows that it has, and the most that memory may grow by, in KiB.
type Bomb = (&'static str, Vec<u8>, (u64, u64), u64);

/// Pages that claim much and have nothing cost nothing; one that has it is held, and some rows of it.
fn parquets() -> Vec<Bomb> {
    const ZSTD: i32 = 6;
    let mut files = Vec::new();
    for (name, codec) in [
        ("snappy.parquet", 1),
        ("gzip.parquet", 2),
        ("brotli.parquet", 4),
        ("zstd.parquet", ZSTD),
        ("lz4.parquet", 7),
    ] {
        let claims = Claims::new(strings(&["abc"]), 1, codec, 250 << 20);
        files.push((name, claims.file(), (0, 0), 16 << 10));
    }
    let text = "x".repeat(60 << 20);
    let page = strings(&[&text, &text, &text]);
    let claims = Claims::new(zstd(&page), 3, ZSTD, page.len());
    // 256 MiB for the page as it grows; a row being made, one that waits, one in the batch, and its document.
    files.push(("large.parquet", claims.file(), (3, 0), (256 + 4 * 60 + 64) << 10));
    files
}

#[test]
#[expect(clippy::print_stderr, reason = "a skipped test says so")]
fn bombs_are_read_in_bounded_memory() {
    let dir = tempfile::tempdir().expect("folder");
    let row = b"\n{\"text\":\"a\"}\n";
    let zeros = vec![0; 64 << 20];
    let rows = "{\"text\":\"\"}\n".repeat(100_000);
    let bomb = |pack: fn(&[u8]) -> Vec<u8>, start: &[u8], part: &[u8], times: usize, end: &[u8]| {
        [pack(start), pack(part).repeat(times), pack(end)].concat()
    };
    let mut files = vec![
        ("line.jsonl.zst", bomb(zstd, b"", &zeros, 48, row), (1, 1), MOST_KIB),
        ("line.jsonl.gz", bomb(gzip, b"", &zeros, 12, row), (1, 1), MOST_KIB),
        ("element.json.zst", bomb(zstd, b"[\"", &zeros, 12, b"\",{\"text\":\"a\"}]"), (1, 1), MOST_KIB),
        ("rows.jsonl.zst", bomb(zstd, b"", rows.as_bytes(), 20, row), (2_000_001, 0), MOST_KIB),
        ("blank.jsonl.zst", bomb(zstd, b"", &vec![b'\n'; 32 << 20], 4, row), (1, 0), MOST_KIB),
    ];
    drop((zeros, rows));
    files.extend(parquets());
    for (name, bytes, want, most) in files {
        let path = dir.path().join(name);
        std::fs::write(&path, &bytes).expect("file");
        let Some((num_documents, num_broken, grown)) = read(&path) else {
            eprintln!("skipped: this system does not let a process reset its peak");
            return;
        };
        assert_eq!((num_documents, num_broken), want, "{name}");
        assert!(grown < most, "{name} of {} bytes took {grown} KiB", bytes.len());
    }
}
