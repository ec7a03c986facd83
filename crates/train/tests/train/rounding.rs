//! Stochastic rounding of compute copies: bits across stops, resumes and threads, and what a run says of it.

use crate::common::{World, run_on, weights};
use eyas_ops::{Bf16, Cpu, Isa};
use eyas_train::{Event, TrainConfig};
use serde_json::Value;
use std::fs;
use std::path::Path;
use std::sync::atomic::Ordering;

/// Losses of the updates of a run in bf16 that is asked to stop after micro-batch `stop_after`, if it comes to that, and its
/// warnings.
fn losses(config: TrainConfig, threads: usize, stop_after: usize) -> (Vec<f64>, Vec<String>) {
    let (mut losses, mut warnings, mut seen) = (Vec::new(), Vec::new(), 0);
    let device = Cpu::<Bf16>::with(Isa::detect(), threads);
    run_on(device, config, &mut |event, stop| match event {
        Event::Step(metrics) => losses.push(metrics.loss),
        Event::Warning(text) => warnings.push(text.to_string()),
        Event::MicroBatch { .. } => {
            seen += 1;
            if seen == stop_after {
                stop.store(true, Ordering::Relaxed);
            }
        }
        _ => {}
    })
    .expect("a run");
    (losses, warnings)
}

/// Steps and losses of the evaluations of a run.
fn evaluations(dir: &Path) -> Vec<(Value, Value)> {
    let text = fs::read_to_string(dir.join("metrics.jsonl")).expect("metrics");
    let lines = text.lines().map(|line| serde_json::from_str::<Value>(line).expect("JSON"));
    let lines = lines.filter(|line| line.get("eval_loss").is_some());
    lines.map(|line| (line["step"].clone(), line["eval_loss"].clone())).collect()
}

#[test]
fn a_resumed_run_that_rounds_by_chance_ends_with_the_same_bits() {
    let world = World::new();
    let valid = world.path("valid").to_string_lossy().into_owned();
    for optim in ["adamw", "muon"] {
        let settings = [
            ("bf16", ""),
            ("stochastic_rounding", ""),
            ("optim", optim),
            ("eval_data", &valid),
            ("eval_strategy", "steps"),
            ("eval_steps", "4"),
        ];
        let config = |output: &str| world.config(&format!("{optim}-{output}"), &settings).expect("valid");
        let path = |output: &str| world.path(&format!("{optim}-{output}"));
        let (whole, _) = losses(config("whole"), 2, 0);
        // After the first micro-batch of all, after the first update, and after that before an evaluation and one later.
        for at in [1, 2, 8, 10, 15] {
            let output = format!("cut-{at}");
            let (begun, _) = losses(config(&output), 2, at);
            assert_eq!(begun.len(), at / 2);
            let (rest, warnings) = losses(config(&output), 1, 0);
            assert_eq!([begun, rest].concat(), whole, "stopped after micro-batch {at}");
            assert!(weights(&path(&output)) == weights(&path("whole")), "weights differ");
            assert_eq!(evaluations(&path(&output)), evaluations(&path("whole")));
            assert!(!warnings.iter().any(|text| text.contains("not the same")), "{warnings:?}");
        }
    }
}

#[test]
fn it_is_another_run_than_one_that_rounds_to_nearest_and_learns_as_well() {
    let world = World::new();
    let learn = |output: &str, settings: &[(&str, &str)]| {
        let settings: Vec<_> = [("bf16", "")].into_iter().chain(settings.iter().copied()).collect();
        losses(world.config(output, &settings).expect("valid"), 2, 0).0
    };
    let nearest = learn("nearest", &[]);
    let by_chance = learn("chance", &[("stochastic_rounding", "")]);
    assert_eq!(nearest, learn("off", &[("stochastic_rounding", "false")]));
    // The first update begins with copies of the nearest numbers.
    assert_eq!(nearest[0], by_chance[0]);
    assert!(nearest[1..].iter().zip(&by_chance[1..]).all(|(nearest, by_chance)| nearest != by_chance));
    for (nearest, by_chance) in nearest.iter().zip(&by_chance) {
        assert!((nearest - by_chance).abs() < 0.05 * nearest, "{nearest} {by_chance}");
    }
    assert_eq!(by_chance, learn("again", &[("stochastic_rounding", "")]));
    let card = fs::read_to_string(world.path("chance/README.md")).expect("a card");
    assert!(card.contains("- stochastic_rounding: true"), "{card}");
}

#[test]
fn a_change_of_rounding_is_said() {
    let world = World::new();
    let config = |settings: &[(&str, &str)]| world.config("out", settings).expect("valid");
    losses(config(&[("bf16", ""), ("max_steps", "2")]), 1, 0);
    let settings = [("bf16", ""), ("max_steps", "4"), ("stochastic_rounding", "")];
    let (_, warnings) = losses(config(&settings), 1, 0);
    let said =
        |text: &String| text.contains("`stochastic_rounding` was false in the checkpoint and is true now");
    assert!(warnings.iter().any(said), "{warnings:?}");
}
