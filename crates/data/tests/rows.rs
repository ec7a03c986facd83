//! Rows of datasets as a user has them: every format and compression gives the same documents.
//!
//! The parquet files in tests/golden are pyarrow's (tools/reference/rows_golden.py); rows.jsonl there has the same rows.

use eyas_data::{Document, Documents, Error, OnError, Reason, SourceOptions, SourceReport};
use std::io::Write;
use std::path::{Path, PathBuf};

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)
}

fn raw() -> SourceOptions {
    SourceOptions { raw: true, ..Default::default() }
}

/// All documents, and the error that ended them.
fn read(data: &Path, options: &SourceOptions) -> (Vec<Document>, SourceReport, Option<Error>) {
    let data = data.to_str().expect("UTF-8").to_owned();
    let mut documents = Documents::open(&[data], options).expect("data");
    let (mut all, mut error) = (Vec::new(), None);
    for document in documents.by_ref() {
        match document {
            Ok(document) => all.push(document),
            Err(found) => error = Some(found),
        }
    }
    (all, documents.report().clone(), error)
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(bytes).and_then(|()| encoder.finish()).expect("gzip")
}

fn zstd(bytes: &[u8]) -> Vec<u8> {
    zstd::encode_all(bytes, 3).expect("zstd")
}

/// The lines as one array, with and without blanks.
fn arrays(lines: &str) -> [String; 2] {
    let lines: Vec<&str> = lines.lines().collect();
    [format!("[{}]", lines.join(",")), format!("\u{feff} \n[\n  {}\n]\n\n", lines.join("\n,\n  "))]
}

#[test]
fn every_format_gives_the_same_documents() {
    let lines = std::fs::read_to_string(golden("rows.jsonl")).expect("golden rows");
    let (want, ..) = read(&golden("rows.jsonl"), &raw());
    assert_eq!((want.len(), want[7].path.as_str()), (60, "r1/src/f7.rs"));
    let dir = tempfile::tempdir().expect("folder");
    let [compact, spread] = arrays(&lines);
    let (first, second) = lines.split_at(lines.len() / 2 - 7);
    assert!(!first.ends_with('\n'), "members that end within a line");
    let in_two =
        |pack: fn(&[u8]) -> Vec<u8>| [pack(first.as_bytes()), pack(b""), pack(second.as_bytes())].concat();
    let padded = [gzip(lines.as_bytes()), vec![0; 1000]].concat();
    let files: [(&str, Vec<u8>); 16] = [
        ("a.jsonl", lines.clone().into_bytes()),
        ("a.ndjson", lines.replace('\n', "\r\n").into_bytes()),
        ("lines.json", lines.trim_end().into()),
        ("compact.json", compact.clone().into_bytes()),
        ("spread.json", spread.clone().into_bytes()),
        ("a.jsonl.gz", gzip(lines.as_bytes())),
        ("a.NDJSON.GZ", gzip(lines.as_bytes())),
        ("compact.json.gz", gzip(compact.as_bytes())),
        ("members.jsonl.gz", in_two(gzip)),
        ("padded.jsonl.gz", padded),
        ("a.jsonl.zst", zstd(lines.as_bytes())),
        ("a.ndjson.zst", zstd(lines.as_bytes())),
        ("spread.json.zst", zstd(spread.as_bytes())),
        ("frames.jsonl.zst", in_two(zstd)),
        // A frame that is none of data comes first in files of some tools.
        ("skip.jsonl.zst", [b"\x50\x2a\x4d\x18\x03\0\0\0abc", &zstd(lines.as_bytes())[..]].concat()),
        ("marked.jsonl", format!("\u{feff}{lines}").into_bytes()),
    ];
    for (name, bytes) in &files {
        let path = dir.path().join(name);
        std::fs::write(&path, bytes).expect("file");
        let (found, report, error) = read(&path, &raw());
        assert_eq!((found, report.num_skipped()), (want.clone(), 0), "{name}: {report} {error:?}");
    }
    let (all, ..) = read(&dir.path().join("*.json*"), &raw());
    assert_eq!(all.len(), 60 * (files.len() - 3), "a glob, by name, in its own case");
}

#[test]
fn every_parquet_gives_the_same_documents() {
    let (want, ..) = read(&golden("rows.jsonl"), &raw());
    for name in [
        "snappy",
        "zstd-groups",
        "gzip-plain",
        "brotli",
        "lz4",
        "none-large",
        "pages-2",
        "pages-dictionary",
        "delta-length",
        "delta",
    ] {
        let (found, report, error) = read(&golden(&format!("{name}.parquet")), &raw());
        assert_eq!((&found, report.num_skipped()), (&want, 0), "{name}: {report} {error:?}");
    }
    let paths = SourceOptions { text_field: Some("path".into()), ..raw() };
    let (found, ..) = read(&golden("snappy.parquet"), &paths);
    assert_eq!(found[7].text, "src/f7.rs", "another column as the text");
}

#[test]
fn nulls_are_broken_rows_or_missing_names() {
    let (rows, ..) = read(&golden("rows.jsonl"), &raw());
    for file in ["nulls", "nulls-2"] {
        let (found, report, _) = read(&golden(&format!("{file}.parquet")), &raw());
        let mut want = Vec::new();
        for (i, row) in rows.iter().enumerate().filter(|(i, _)| i % 4 != 0) {
            let path = match (i % 3 == 0, i % 7 == 0) {
                (true, _) => format!("{file}.parquet:{}", i + 1),
                (false, true) => format!("src/f{i}.rs"),
                (false, false) => row.path.clone(),
            };
            want.push((path, row.text.clone()));
        }
        let found: Vec<_> = found.into_iter().map(|document| (document.path, document.text)).collect();
        assert_eq!(
            (found, report.skipped_for(Reason::BrokenRow).num_documents, report.num_skipped()),
            (want, 15, 15),
            "{file}: {report}"
        );
        let example = format!("{file}.parquet:5: column `content` is null, expected a string");
        assert_eq!(report.examples[1], example);
    }
}

#[test]
fn a_text_that_is_none_is_said_with_the_columns_there_are() {
    let error = |field: Option<&str>| {
        let options = SourceOptions { text_field: field.map(str::to_owned), ..raw() };
        let (documents, report, error) = read(&golden("nested.parquet"), &options);
        assert_eq!((documents.len(), report.skipped_for(Reason::BrokenFile).num_documents), (0, 1));
        error.expect("no document").to_string()
    };
    let columns = "its columns are `id` (integers), `content` (nested), `info` (nested), `body` (strings), `on` (booleans)";
    for (field, what) in [
        (None, "column `content` is nested, expected strings"),
        (Some("info"), "column `info` is nested, expected strings"),
        (Some("id"), "column `id` is integers, expected strings"),
        (Some("on"), "column `on` is booleans, expected strings"),
        (Some("path"), "no column `path`"),
    ] {
        let error = error(field);
        assert!(error.contains(what) && error.contains(columns), "{error}");
    }
    let options = SourceOptions { text_field: Some("body".into()), ..raw() };
    assert_eq!(read(&golden("nested.parquet"), &options).0[0].text, "x");
}

#[test]
fn rows_without_a_path_have_the_same_name_however_they_are_packed() {
    let dir = tempfile::tempdir().expect("folder");
    let lines = b"{\"text\":\"one\"}\n\n{\"text\":\"two\"}\n";
    for (name, bytes) in
        [("d.jsonl", lines.to_vec()), ("d.jsonl.gz", gzip(lines)), ("d.jsonl.zst", zstd(lines))]
    {
        std::fs::write(dir.path().join(name), bytes).expect("file");
        let (found, ..) = read(&dir.path().join(name), &raw());
        let names: Vec<&str> = found.iter().map(|document| document.path.as_str()).collect();
        assert_eq!(names, ["d.jsonl:1", "d.jsonl:3"], "{name}");
    }
}

#[test]
fn broken_is_skipped_and_counted_or_an_error() {
    let dir = tempfile::tempdir().expect("folder");
    let lines = std::fs::read(golden("rows.jsonl")).expect("golden rows");
    let packed = gzip(&lines);
    let good = b"{\"content\":\"a\"}\n{\"content\":null}\n{\"content\":\"b\"}\n";
    std::fs::write(dir.path().join("a.jsonl"), good).expect("file");
    std::fs::write(dir.path().join("b.jsonl.gz"), &packed[..packed.len() - 200]).expect("file");
    std::fs::write(dir.path().join("c.jsonl"), "{\"content\":\"c\"}\n").expect("file");
    let all = dir.path().join("*");
    let (found, report, error) = read(&all, &raw());
    assert!(error.is_none() && found.len() > 20, "{report}");
    assert_eq!((&*found[1].text, found.last().map(|d| &*d.text)), ("b", Some("c")), "reading goes on");
    assert_eq!(
        (
            report.skipped_for(Reason::BrokenRow).num_documents,
            report.skipped_for(Reason::BrokenFile).num_documents
        ),
        (1, 1)
    );
    assert_eq!(report.examples[0], "a.jsonl:2: field `content` is null, expected a string (at byte 16)");
    let cut = format!("b.jsonl.gz, at byte {} (byte ", packed.len() - 200);
    assert!(report.examples[1].contains(&cut) && report.examples[1].ends_with("it was cut"), "{report}");

    let strict = SourceOptions { on_error: OnError::Fail, ..raw() };
    let (found, _, error) = read(&all, &strict);
    assert_eq!(found.len(), 1, "what comes before the broken row");
    assert!(matches!(error, Some(Error::BrokenRow { reason }) if reason.contains("a.jsonl:2")));
    let (found, _, error) = read(&dir.path().join("b.jsonl.gz"), &strict);
    assert!(found.len() > 20, "what comes before the cut");
    assert!(
        matches!(error, Some(Error::BrokenFile { offset: Some(_), text_offset: Some(_), .. })),
        "{error:?}"
    );
}

#[test]
#[cfg(unix)]
fn a_pipe_is_read_to_its_end() {
    let dir = tempfile::tempdir().expect("folder");
    let path = dir.path().join("pipe.jsonl");
    let made = std::process::Command::new("mkfifo").arg(&path).status().expect("mkfifo");
    assert!(made.success());
    let lines = std::fs::read(golden("rows.jsonl")).expect("golden rows").repeat(100);
    let writer = {
        let path = path.clone();
        std::thread::spawn(move || std::fs::write(path, lines))
    };
    let (found, report, _) = read(&path, &raw());
    assert_eq!((found.len(), report.num_skipped()), (6000, 0), "{report}");
    writer.join().expect("no panic").expect("all was taken");
}
