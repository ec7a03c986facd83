//! Pages about data that were really prepared, and about reports that say anything.

use super::super::tests::{HOSTILE, check_page};
use super::super::{check_place, corpus_page, write_corpus};
use super::*;
use eyas_data::{Fim, prepare};
use eyas_token::{Tokenizer, TrainOptions, WordCounts};
use std::fs;
use std::path::Path;
use tempfile::TempDir;

/// A folder with some code, of which not everything is taken, and a tokenizer for it.
fn world() -> (TempDir, Tokenizer) {
    let dir = tempfile::tempdir().expect("a folder");
    let code = dir.path().join("code");
    fs::create_dir(&code).expect("a folder");
    let mut counts = WordCounts::new();
    for i in 0..20 {
        let text = format!("// SPDX-License-Identifier: MIT\nfn f{i}() -> u32 {{\n    {i} + {}\n}}\n", i * i)
            .repeat(i + 1);
        counts.add(&text);
        fs::write(code.join(format!("{i}.rs")), &text).expect("written");
    }
    fs::write(code.join("mail.py"), "OWNER = 'jane.roe@falconry.net'\nprint(OWNER)\n").expect("written");
    fs::copy(code.join("3.rs"), code.join("copy.rs")).expect("copied");
    fs::write(code.join("x.bin"), b"\0\x01").expect("written");
    fs::write(code.join("empty.rs"), "\n").expect("written");
    let options = TrainOptions { vocab_size: 300, ..TrainOptions::default() };
    let tokenizer = eyas_token::train(counts, &options, &mut |_, _| {}).expect("a tokenizer");
    (dir, tokenizer)
}

fn options() -> PrepareOptions {
    PrepareOptions {
        mode: Mode::Pack,
        context_length: 32,
        source: SourceOptions { with_licenses: true, ..SourceOptions::default() },
        validation_one_in: Some(4),
        fim: None,
    }
}

fn prepared(dir: &Path, tokenizer: &Tokenizer, options: &PrepareOptions) -> PrepareReport {
    let data = [dir.join("code").display().to_string()];
    prepare(&data, tokenizer, options, &dir.join("shards"), &mut |_| {}).expect("prepared")
}

fn page(report: &PrepareReport, options: &PrepareOptions, name: &str) -> String {
    corpus_page(&Corpus {
        report,
        options,
        out: Path::new("some").join(name),
        num_output_bytes: 123_456,
        tokenizer: format!("{name} of 300 tokens"),
        machine: "2 threads".into(),
        // Longer than the stages took, on the slowest machine.
        elapsed_seconds: 600.0,
    })
}

#[test]
fn what_was_prepared_is_on_the_page() {
    let (dir, tokenizer) = world();
    let options = options();
    let report = prepared(dir.path(), &tokenizer, &options);
    let text = page(&report, &options, "shards");
    check_page(&text);
    for part in [
        "<title>shards · eyas</title>",
        "<dt>exact duplicates</dt><dd>1 (",
        "<dt>rust</dt>",
        "<dt>MIT</dt>",
        "<dt>not known</dt>",
        "<dt>email</dt><dd>1</dd>",
        "<dt>all else</dt>",
        "<dt>validation_one_in</dt><dd>4</dd>",
        "near ones were not sought",
        "a sample has 32 tokens",
        "tokens held out",
        "123.5 kB",
    ] {
        assert!(text.contains(part), "{part} in {text}");
    }
    assert_eq!(text.matches("<svg").count(), 1);
    assert!(!text.contains("with_licenses") && !text.contains("ends dropped"));
}

#[test]
fn what_was_not_sought_is_said() {
    let (dir, tokenizer) = world();
    let raw = SourceOptions { raw: true, ..SourceOptions::default() };
    let options = PrepareOptions { mode: Mode::Chunk, source: raw, validation_one_in: None, ..options() };
    let report = prepared(dir.path(), &tokenizer, &options);
    let text = page(&report, &options, "chunks");
    check_page(&text);
    for part in ["were not sought", "They were not sought.", "left as they are", "ends dropped"] {
        assert!(text.contains(part), "{part} in {text}");
    }
    assert!(text.contains("No document has a licence that is known."), "{text}");
}

#[test]
fn names_are_text_and_lists_end() {
    let (dir, tokenizer) = world();
    let mut options = options();
    let mut report = prepared(dir.path(), &tokenizer, &options);
    options.fim = Some(Fim { rate: 0.5, spm_rate: 0.25, seed: 7 });
    options.source.filters.exclude_paths = vec![HOSTILE.into()];
    let many = Count { num_documents: 2, num_bytes: 100 };
    let source = &mut report.source;
    for i in 0..1000 {
        source.licenses.insert(format!("{HOSTILE} {i}"), many);
        report.data.push(format!("{HOSTILE}/{i}"));
    }
    source.languages.insert(HOSTILE.into(), many);
    source.skipped.insert(HOSTILE.into(), many);
    source.secrets.insert(HOSTILE.into(), 3);
    source.examples = vec![HOSTILE.into(); 5];
    (report.notes, report.num_resumed_documents) = (vec![HOSTILE.into()], 5);
    let text = page(&report, &options, &HOSTILE.replace('/', "|"));
    check_page(&text);
    for part in
        ["of which the first are shown", "Gone on behind 5 documents", "<dt>fim_spm_rate</dt><dd>0.25</dd>"]
    {
        assert!(text.contains(part), "{part}");
    }
    assert!(text.len() < 400_000, "{} bytes", text.len());
}

#[test]
fn nothing_breaks_a_page() {
    let (dir, tokenizer) = world();
    let options = options();
    let mut report = prepared(dir.path(), &tokenizer, &options);
    report.source = SourceReport::default();
    report.seconds = Default::default();
    (report.data, report.lengths) = (Vec::new(), Vec::new());
    (report.num_tokens, report.num_validation_tokens, report.num_encoded_tokens) = (0, 0, 0);
    let text = page(&report, &options, "");
    check_page(&text);
    for part in
        ["Nothing was skipped.", "None was found.", "No document was encoded.", "No document has a language"]
    {
        assert!(text.contains(part), "{part}");
    }
    // Every class that a number has, and one that none has.
    report.lengths = vec![1; 70];
    report.seconds.read = f64::NAN;
    report.seconds.write = f64::INFINITY;
    check_page(&page(&report, &options, "x"));
    let corpus = Corpus {
        report: &report,
        options: &options,
        out: "/".into(),
        num_output_bytes: u64::MAX,
        tokenizer: String::new(),
        machine: String::new(),
        elapsed_seconds: 0.0,
    };
    check_page(&corpus_page(&corpus));
}

#[test]
fn a_page_has_a_place_before_there_is_one() {
    let (dir, tokenizer) = world();
    let path = dir.path().join("page.html");
    check_place(&path).expect("a place");
    assert!(!path.exists() && fs::read_dir(dir.path()).expect("listed").count() == 1, "nothing is left");
    for bad in ["missing/page.html", "code", "code/1.rs/page.html", "code/.."] {
        let error = check_place(&dir.path().join(bad)).expect_err(bad).to_string();
        assert!(error.contains("cannot write"), "{error}");
    }
    let options = options();
    let report = prepared(dir.path(), &tokenizer, &options);
    let corpus = Corpus {
        report: &report,
        options: &options,
        out: dir.path().join("shards"),
        num_output_bytes: 1,
        tokenizer: "t".into(),
        machine: "m".into(),
        elapsed_seconds: 1.0,
    };
    write_corpus(&corpus, &path).expect("written");
    assert_eq!(fs::read_to_string(&path).expect("text"), corpus_page(&corpus));
}
