//! Documents that share a sample, kept apart: runs, what they refuse, and what is scored.

use crate::common::{World, run, run_to_end, run_until, weights};
use eyas_train::Event;
use std::fs;

/// A world with `rows.jsonl`: documents so short that a sample holds several.
fn world() -> World {
    let world = World::new();
    let row = |i| format!("{{\"content\": \"result = value * {i}\\n\"}}\n");
    fs::write(world.path("rows.jsonl"), (0..200).map(row).collect::<String>()).expect("written");
    world
}

/// The settings of a run on them, masked or not.
fn settings<'a>(rows: &'a str, mask: &'a str) -> [(&'a str, &'a str); 5] {
    [("train_data", rows), ("mode", "pack"), ("raw", ""), ("resid_pdrop", "0.1"), ("mask_documents", mask)]
}

#[test]
fn a_masked_run_learns_and_resumes_with_the_same_bits() {
    let world = world();
    let rows = world.path("rows.jsonl").to_string_lossy().into_owned();
    let config = |output: &str, mask| world.config(output, &settings(&rows, mask)).expect("valid");
    let whole = run_to_end(config("whole", "true"));
    assert!(whole[11] < whole[0] - 1.0, "{whole:?}");
    let without = run_to_end(config("without", "false"));
    assert_ne!(whole[0], without[0], "documents of the first update saw each other");
    let card = |output: &str| fs::read_to_string(world.path(output).join("README.md")).expect("a card");
    assert!(card("whole").contains("- mask_documents: true\n"));
    assert!(!card("without").contains("mask_documents"));

    assert!(run_until(config("cut", "true"), 7).stopped);
    assert_eq!(run_to_end(config("cut", "true")), whole[3..]);
    assert!(weights(&world.path("cut")) == weights(&world.path("whole")), "weights differ after a stop");
    let settings: Vec<_> =
        settings(&rows, "true").into_iter().chain([("gradient_checkpointing", "")]).collect();
    run(world.config("one", &settings).expect("valid"), 1, &mut |_, _| {}).expect("a run");
    assert!(weights(&world.path("one")) == weights(&world.path("whole")), "weights differ with one thread");
}

#[test]
fn a_run_that_goes_on_without_its_mask_says_so() {
    let world = world();
    let rows = world.path("rows.jsonl").to_string_lossy().into_owned();
    let config = |mask| world.config("out", &settings(&rows, mask)).expect("valid");
    run_until(config("true"), 2);
    let mut warnings = Vec::new();
    run(config("false"), 2, &mut |event, _| {
        if let Event::Warning(text) = event {
            warnings.push(text.to_string());
        }
    })
    .expect("a run");
    let expected =
        "`mask_documents` was true in the checkpoint and is false now: the run is not the same".to_string();
    assert!(warnings.contains(&expected), "{warnings:?}");
}

#[test]
fn data_in_chunks_are_refused() {
    let world = World::new();
    let message = |settings: &[(&str, &str)]| {
        let config = world.config("out", settings).expect("the settings alone are right");
        run(config, 1, &mut |_, _| {}).expect_err("refused").to_string()
    };
    assert_eq!(
        message(&[("mask_documents", "")]),
        "`mask_documents`: expected false, since a sample of mode chunk is of one document, or mode = \"pack\", got true"
    );
    assert!(!world.path("out/data").exists(), "nothing was prepared");
    run_to_end(world.config("first", &[("max_steps", "1")]).expect("valid"));
    let shards = world.path("first/data/train_data").to_string_lossy().into_owned();
    // Of prepared data their own mode counts.
    let message = message(&[("train_data", &shards), ("mask_documents", ""), ("mode", "pack")]);
    assert!(
        message.contains("expected data of mode pack, since mask_documents is true, got chunks"),
        "{message}"
    );
    assert!(message.contains(&shards) && message.contains("--mode pack"), "{message}");
}
