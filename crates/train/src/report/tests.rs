//! Pages of folders as runs leave them, whole and not.

use super::*;
use crate::output::OutputDir;
use crate::record::{RUN, RunRecord};
use crate::runlog::METRICS;
use crate::runlog::SAMPLES;
use serde_json::json;
use std::fmt::Write as _;
use std::fs;
use tempfile::TempDir;

pub(super) const HOSTILE: &str =
    "</script></pre><img src=x onerror=alert(1)>\" ' &amp; \u{0} \u{1b}[31m {{}} ]]> <!-- \u{202e}";

fn folder() -> TempDir {
    tempfile::tempdir().expect("a folder")
}

fn record(status: &str) -> RunRecord {
    let json = json!({
        "eyas": "0.1.0", "status": status, "device": "CPU, 2 threads, avx512bf16, bfloat16", "peak_flops": 4.64e11,
        "num_parameters": 2_990_208, "context_length": 256, "train_data": ["src", HOSTILE], "num_train_tokens": 10_051_852,
        "tokens_per_update": 4096, "num_steps": 1680, "flops_per_token": 1.8e7,
        "memory_bytes": {"weights": 12 << 20, "activations": 70 << 20, "nothing": 0},
        "step": 0, "epoch": 0.68, "num_tokens": 0, "skipped_updates": 0, "elapsed_seconds": 574.0, "best": null,
        "settings": {"learning_rate": 1e-3, "seed": 42, "sample_prompts": ["def f():", HOSTILE], "later_setting": [1, null]},
    });
    serde_json::from_value(json).expect("a record")
}

/// A log of `lines` lines, an evaluation after every tenth.
fn log(lines: u64) -> String {
    let mut text = String::new();
    for i in 1..=lines {
        let (step, loss) = (10 * i, 2.5 + 7.0 / i as f64 + 0.05 * (i as f64 * 1.7).sin());
        let _ = writeln!(
            text,
            r#"{{"step":{step},"epoch":0.1,"loss":{loss},"learning_rate":0.001,"grad_norm":0.7,"tokens_per_second":12000.0,"num_tokens":{},"skipped_updates":{}}}"#,
            4096 * step,
            u64::from(i > 2)
        );
        if i % 10 == 0 {
            let _ = writeln!(
                text,
                r#"{{"step":{step},"epoch":0.1,"eval_loss":{},"eval_perplexity":15.0,"eval_bits_per_byte":1.1,"eval_next_token_accuracy":0.5}}"#,
                loss + 0.1
            );
        }
    }
    text
}

fn write(dir: &TempDir, name: &str, text: impl AsRef<[u8]>) {
    fs::write(dir.path().join(name), text).expect("written");
}

fn open(dir: &TempDir) -> Run {
    Run::open(dir.path()).expect("a folder can always be opened")
}

/// That every element that is opened is closed, in order, and that nothing is asked for.
#[track_caller]
pub(super) fn check_page(page: &str) {
    let body = page.split("<body>").nth(1).expect("a body");
    let mut open = Vec::new();
    let mut rest = body;
    while let Some(at) = rest.find('<') {
        let end = at + rest[at..].find('>').expect("a tag ends");
        let tag = &rest[at + 1..end];
        rest = &rest[end + 1..];
        let name = tag.trim_start_matches('/').split([' ', '>']).next().unwrap_or_default();
        match tag.strip_prefix('/') {
            Some(name) => {
                if name == "body" {
                    break;
                }
                assert_eq!(open.pop().as_deref(), Some(name), "before {}", &rest[..rest.len().min(80)]);
            }
            None if tag.ends_with('/') => {}
            None => open.push(name.to_string()),
        }
        if name == "script" && !tag.starts_with('/') {
            rest = &rest[rest.find("</script>").expect("a script ends")..];
        }
    }
    assert!(open.is_empty(), "{open:?}");
    for part in [
        "http:",
        "https:",
        "<img",
        "<script src",
        "<link rel=\"style",
        "@import",
        "url(",
        "onerror=alert(1)>",
        "NaN",
        "inf\"",
        "\0",
    ] {
        assert!(!page.contains(part), "{part}");
    }
}

#[test]
fn an_empty_folder_is_a_page_that_says_so() {
    let dir = folder();
    let run = open(&dir);
    assert_eq!((run.state, run.step(), run.loss(), run.num_tokens()), (State::Unknown, None, None, None));
    let text = page(std::slice::from_ref(&run));
    check_page(&text);
    for part in ["There is no run.json", "There is no metrics.jsonl", "Nothing was logged."] {
        assert!(text.contains(part), "{part}");
    }
    check_page(&page(&[run.clone(), run]));
    check_page(&page(&[]));
    assert!(Run::open(&dir.path().join("missing")).is_err() && !Run::is_run(dir.path()));
}

#[test]
fn what_a_killed_run_leaves_is_read_as_far_as_it_goes() {
    let dir = folder();
    let whole = log(20);
    write(&dir, METRICS, &whole[..whole.len() - 30]);
    write(&dir, SAMPLES, "{\"step\":1,\"prompt\":\"a\",\"completion\":\"b\"}\n{\"step\":2,\"pro");
    write(&dir, RUN, "{\"eyas\": \"0.1");
    let run = open(&dir);
    assert_eq!((run.training.len(), run.evaluations.len(), run.samples.len()), (20, 1, 1));
    assert_eq!((run.step(), run.skipped_updates()), (Some(200), 1));
    let notes = run.notes.join("\n");
    assert_eq!(notes.matches("half a line").count(), 2, "{notes}");
    assert!(notes.contains("run.json"), "{notes}");
    check_page(&page(&[run]));

    write(
        &dir,
        METRICS,
        format!("[]\n\u{fffd}\n{whole}{{\"step\": 1}}\n\n{{\"step\":-1,\"loss\":\"x\"}}\n7"),
    );
    let run = open(&dir);
    assert_eq!(run.training.len(), 20);
    assert!(run.notes.iter().any(|note| note.contains("2 lines before it")), "{:?}", run.notes);
    check_page(&page(&[run]));
}

#[test]
fn numbers_that_are_none_are_gaps() {
    let dir = folder();
    let line = |step: u64, loss: &str| {
        format!(
            "{{\"step\":{step},\"loss\":{loss},\"learning_rate\":null,\"grad_norm\":1e300,\"tokens_per_second\":0}}\n"
        )
    };
    write(
        &dir,
        METRICS,
        [line(1, "9e99"), line(2, "null"), line(3, "-4"), line(3, "4")].concat()
            + "{\"step\":3,\"eval_loss\":null}\n",
    );
    let run = open(&dir);
    assert_eq!((run.training.len(), run.evaluations.len()), (4, 1));
    assert_eq!((run.tokens_per_second(), run.best_evaluation().is_none()), (None, true));
    let text = page(&[run]);
    check_page(&text);
    assert!(text.contains("Gaps: "));
}

#[test]
fn three_lines_and_a_hundred_thousand_are_drawn_alike() {
    let dir = folder();
    write(&dir, METRICS, log(3));
    record("done").save(dir.path()).expect("saved");
    let text = page(&[open(&dir)]);
    check_page(&text);
    assert_eq!(text.matches("<svg").count(), 4);
    assert!(text.contains("skipped update 30") && text.contains("class=\"dots c0\""));
    write(&dir, METRICS, log(100_000));
    let text = page(&[open(&dir)]);
    check_page(&text);
    assert!(text.len() < 1_500_000, "{} bytes", text.len());
    assert!(text.contains("class=\"mean c0\"") && text.contains("Above the picture"));
}

#[test]
fn what_files_say_is_text() {
    let dir = folder();
    write(&dir, METRICS, log(30));
    let mut record = record("failed");
    (record.error, record.device) = (Some(HOSTILE.into()), HOSTILE.into());
    record.save(dir.path()).expect("saved");
    let samples: String = (1..=200)
        .flat_map(|step| {
            ["def f():", HOSTILE].map(|prompt| json!({"step": step, "prompt": prompt, "completion": HOSTILE}))
        })
        .map(|sample| format!("{sample}\n"))
        .collect();
    write(&dir, SAMPLES, samples);
    let mut run = open(&dir);
    run.name = HOSTILE.into();
    assert_eq!((run.state, run.samples.len(), run.notes.len()), (State::Failed, 400, 0));
    let text = page(std::slice::from_ref(&run));
    check_page(&text);
    for part in
        ["later_setting", "198 more between, of which some are shown", "update 200, the last", "82.0 MiB"]
    {
        assert!(text.contains(part), "{part}");
    }
    let mut other = run.clone();
    if let Some(record) = &mut other.record {
        record.settings.insert("learning_rate".into(), 2e-3.into());
        record.tokens_per_update *= 2;
    }
    let text = page(&[run, other]);
    check_page(&text);
    assert!(
        text.contains("<th>learning_rate</th>")
            && !text.contains("<th>seed</th>")
            && text.contains("by tokens")
    );
}

#[test]
fn a_record_says_running_and_the_lock_whether_it_is_true() {
    let dir = folder();
    record("running").save(dir.path()).expect("saved");
    assert_eq!(open(&dir).state, State::Interrupted);
    let lock = OutputDir::open(dir.path()).expect("free");
    assert_eq!(open(&dir).state, State::Running);
    record("stopped").save(dir.path()).expect("saved");
    assert_eq!(open(&dir).state, State::Running, "it was taken up again");
    drop(lock);
    assert_eq!(open(&dir).state, State::Stopped);
    fs::remove_file(dir.path().join(RUN)).expect("removed");
    write(&dir, METRICS, "{\"train_loss\":3.0,\"train_runtime\":12.5}\n");
    let run = open(&dir);
    assert_eq!((run.state, run.elapsed_seconds()), (State::Done, Some(12.5)));
}

#[test]
fn a_report_is_written_whole() {
    let dir = folder();
    write(&dir, METRICS, log(5));
    let path = dir.path().join(REPORT);
    super::write(&[open(&dir)], &path).expect("written");
    assert_eq!(fs::read_to_string(&path).expect("text"), page(&[open(&dir)]));
}
