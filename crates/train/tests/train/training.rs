//! Runs: bits across stops, resumes and threads; logs, evaluations, budgets; arithmetic that breaks down.

use crate::common::{World, run, run_on, run_to_end, run_until, weights};
use eyas_data::{Loader, Shards};
use eyas_model::{Gpt, Use};
use eyas_ops::{Bf16, Cpu, Isa};
use eyas_train::{Error, Event, Samples, Step};
use serde_json::Value;
use std::fs;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

fn lines(dir: &Path) -> Vec<Value> {
    let text = fs::read_to_string(dir.join("metrics.jsonl")).expect("metrics");
    text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

#[test]
fn a_run_learns_and_leaves_a_model_folder() {
    let world = World::new();
    let settings = [
        ("eval_data", &*world.path("valid").to_string_lossy().into_owned()),
        ("eval_strategy", "steps"),
        ("eval_steps", "6"),
        ("eval_on_start", ""),
    ];
    let losses = run_to_end(world.config("out", &settings).expect("valid"));
    assert_eq!(losses.len(), 12);
    assert!((losses[0] - 300f64.ln()).abs() < 0.3, "untrained: {}", losses[0]);
    assert!(losses[11] < losses[0] - 1.0, "{losses:?}");

    let out = world.path("out");
    for name in ["config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "README.md"]
    {
        assert!(out.join(name).exists() && out.join("checkpoint-12").join(name).exists(), "{name}");
    }
    let lines = lines(&out);
    let steps = |key: &str| -> Vec<_> {
        lines.iter().filter(|l| l.get(key).is_some()).map(|l| l["step"].as_u64().unwrap_or(99)).collect()
    };
    assert_eq!(steps("loss"), [4, 8, 12]);
    assert_eq!(steps("eval_loss"), [0, 6, 12]);
    for key in ["epoch", "learning_rate", "grad_norm", "tokens_per_second", "num_tokens"] {
        assert!(lines[1][key].is_number(), "{key}");
    }
    // Updates 1 to 4 have the same number of targets, so their mean is the line's.
    let mean = losses[..4].iter().sum::<f64>() / 4.0;
    let logged = lines.iter().find(|line| line.get("loss").is_some()).and_then(|line| line["loss"].as_f64());
    assert!((logged.unwrap_or(0.0) - mean).abs() < 1e-12);
    let evaluated: Vec<_> = lines.iter().filter_map(|line| line["eval_loss"].as_f64()).collect();
    assert!(evaluated[2] < evaluated[0] - 1.0, "{evaluated:?}");
}

#[test]
fn a_resumed_run_ends_with_the_same_bits() {
    let world = World::new();
    let whole = run_to_end(world.config("whole", &[]).expect("valid"));
    // After the first micro-batch of an update, after an update, in the middle, at the very start and near the end.
    for at in [1, 2, 7, 8, 23] {
        let output = format!("cut-{at}");
        let outcome = run_until(world.config(&output, &[]).expect("valid"), at);
        assert!(outcome.stopped);
        assert_eq!(outcome.step, at as u64 / 2);
        assert!(world.path(&output).join(format!("checkpoint-{}", at / 2)).is_dir());
        assert!(!world.path(&output).join("model.safetensors").exists(), "the run is not done");
        let rest = run_to_end(world.config(&output, &[]).expect("valid"));
        assert_eq!(rest, whole[at / 2..]);
        assert!(weights(&world.path(&output)) == weights(&world.path("whole")), "weights differ");
        let same = |name: &str| {
            let of = |dir: &str| fs::read(world.path(dir).join("checkpoint-12").join(name)).expect("a file");
            of(&output) == of("whole")
        };
        assert!(same("optimizer.safetensors") && same("tokenizer.json"));
        let logged = |dir: &str| -> Vec<_> {
            lines(&world.path(dir)).into_iter().map(|l| (l["step"].clone(), l["loss"].clone())).collect()
        };
        assert_eq!(logged(&output), logged("whole"));
    }
}

#[test]
fn several_stops_and_muon_and_epochs_change_no_bit() {
    let world = World::new();
    let settings = [
        ("optim", "muon"),
        ("max-steps", "-1"),
        ("num-train-epochs", "1.5"),
        ("per-device-train-batch-size", "32"),
    ];
    let whole = run_to_end(world.config("whole", &settings).expect("valid"));
    for _ in 0..4 {
        run_until(world.config("cut", &settings).expect("valid"), 3);
    }
    let rest = run_to_end(world.config("cut", &settings).expect("valid"));
    assert_eq!(rest, whole[whole.len() - rest.len()..]);
    assert!(weights(&world.path("cut")) == weights(&world.path("whole")), "weights differ");
}

#[test]
fn threads_change_no_bit() {
    let world = World::new();
    for (output, threads) in [("1", 1), ("2", 2), ("4", 4)] {
        run(world.config(output, &[]).expect("valid"), threads, &mut |_, _| {}).expect("a run");
        assert!(
            weights(&world.path("1")) == weights(&world.path(output)),
            "weights differ with {threads} threads"
        );
    }
}

#[test]
fn gradient_checkpointing_takes_less_memory_and_changes_no_bit_whenever_it_begins() {
    let world = World::new();
    let dropout =
        |checkpointing: &'static str| [("resid_pdrop", "0.1"), ("gradient_checkpointing", checkpointing)];
    let mut bytes = Vec::new();
    let mut run_with =
        |output: &str, checkpointing, stop_after: u64| {
            run(world.config(output, &dropout(checkpointing)).expect("valid"), 2, &mut |event, stop| {
                match event {
                    Event::Plan(plan) => bytes.push(plan.memory_bytes()),
                    Event::Step(metrics) => stop.store(metrics.step == stop_after, Ordering::Relaxed),
                    Event::Warning(warning) => assert!(!warning.contains("not the same"), "{warning}"),
                    _ => {}
                }
            })
            .expect("a run");
        };
    run_with("whole", "false", 0);
    run_with("cut", "false", 5);
    run_with("cut", "true", 0);
    assert!(weights(&world.path("cut")) == weights(&world.path("whole")), "weights differ");
    assert!(bytes[0] == bytes[1] && bytes[2] < bytes[1], "{bytes:?}");
}

#[test]
fn bf16_learns_alike_and_resumes_with_the_same_bits() {
    let world = World::new();
    let exact = run_to_end(world.config("f32", &[]).expect("valid"));
    let bf16 = |output: &str, stop_after: u64| {
        let mut losses = Vec::new();
        let device = Cpu::<Bf16>::with(Isa::detect(), 2);
        run_on(device, world.config(output, &[("bf16", "")]).expect("valid"), &mut |event, stop| {
            if let Event::Step(metrics) = event {
                losses.push(metrics.loss);
                stop.store(metrics.step == stop_after, Ordering::Relaxed);
            }
        })
        .expect("a run");
        losses
    };
    let rounded = bf16("whole", 0);
    for (exact, rounded) in exact.iter().zip(&rounded) {
        assert!((exact - rounded).abs() < 0.05 * exact, "{exact} {rounded}");
    }
    let begun = bf16("cut", 5);
    assert_eq!([begun, bf16("cut", 0)].concat(), rounded);
    assert!(weights(&world.path("cut")) == weights(&world.path("whole")), "weights differ");
}

#[test]
fn the_seed_decides() {
    let world = World::new();
    let first = run_to_end(world.config("a", &[("max_steps", "3")]).expect("valid"));
    assert_eq!(first, run_to_end(world.config("b", &[("max_steps", "3")]).expect("valid")));
    assert_ne!(first, run_to_end(world.config("c", &[("max_steps", "3"), ("seed", "7")]).expect("valid")));
}

#[test]
fn accumulation_weighs_every_token_alike() {
    let world = World::new();
    let none = [("resid_pdrop", "0"), ("embd_pdrop", "0"), ("attn_pdrop", "0"), ("max_steps", "4")];
    let cut = |batch, accumulation| {
        let settings: Vec<_> = none
            .into_iter()
            .chain([("per_device_train_batch_size", batch), ("gradient_accumulation_steps", accumulation)])
            .collect();
        run_to_end(world.config(&format!("b{batch}"), &settings).expect("valid"))
    };
    let (one, many) = (cut("6", "1"), cut("2", "3"));
    for (one, many) in one.iter().zip(&many) {
        assert!((one - many).abs() < 1e-4, "{one} {many}");
    }
}

#[test]
fn a_loss_that_is_not_finite_ends_the_run_and_keeps_its_checkpoints() {
    let world = World::new();
    let settings =
        [("learning_rate", "1e30"), ("max_grad_norm", "0"), ("save_steps", "1"), ("warmup_steps", "0")];
    let error = run(world.config("out", &settings).expect("valid"), 2, &mut |_, _| {})
        .expect_err("nothing is finite");
    let Error::NotFinite { step, .. } = error else { panic!("{error}") };
    assert!(error.to_string().contains(&format!("update {step}")), "{error}");
    assert_eq!(eyas_train::checkpoint::list(&world.path("out")).expect("listed")[0].0, step - 1);
}

#[test]
fn a_run_with_a_deadline_ends_with_it() {
    let world = World::new();
    // 1.8 seconds, of which half are slept away before a stop: the resumed run knows of them.
    let settings =
        [("max_steps", "-1"), ("max_minutes", "0.03"), ("save_strategy", "no"), ("warmup_steps", "2")];
    let first = run(world.config("out", &settings).expect("valid"), 2, &mut |event, stop| {
        if matches!(event, Event::Step(metrics) if metrics.step == 3) {
            std::thread::sleep(Duration::from_millis(900));
            stop.store(true, Ordering::Relaxed);
        }
    })
    .expect("a run");
    assert!(first.stopped && first.checkpoint.is_some(), "a stop saves, whatever save_strategy says");
    let mut steps = Vec::new();
    let outcome = run(world.config("out", &settings).expect("valid"), 2, &mut |event, _| {
        if let Event::Step(metrics) = event {
            steps.push(**metrics);
        }
    })
    .expect("a run");
    assert!(!outcome.stopped && steps.len() > 3);
    // Half of the time is over, so the cosine is halfway down when the run goes on, and at its end when it is.
    assert!((1e-3..7e-3).contains(&steps[0].learning_rate), "{:?}", steps[0]);
    let last = steps[steps.len() - 1];
    assert!(last.learning_rate < 1e-3 && last.fraction > 0.9, "{last:?}");
    assert!((1.6..2.3).contains(&last.elapsed_seconds), "{last:?}");
    assert!(world.path("out").join("model.safetensors").exists());
}

#[test]
fn an_evaluation_can_be_stopped_and_is_made_up_for() {
    let world = World::new();
    let valid = world.path("valid").to_string_lossy().into_owned();
    let settings =
        [("eval_data", valid.as_str()), ("eval_strategy", "steps"), ("eval_steps", "6"), ("mode", "pack")];
    let outcome = run(world.config("out", &settings).expect("valid"), 2, &mut |event, stop| {
        if let Event::Evaluating { .. } = event {
            stop.store(true, Ordering::Relaxed);
        }
    })
    .expect("a run");
    assert!(outcome.stopped && outcome.step == 6);
    run_to_end(world.config("out", &settings).expect("valid"));
    let steps: Vec<_> = lines(&world.path("out"))
        .iter()
        .filter(|l| l.get("eval_loss").is_some())
        .map(|l| l["step"].clone())
        .collect();
    assert_eq!(steps, [6, 12]);
}

#[test]
fn a_pass_over_merged_micro_batches_gives_the_gradients_of_separate_ones() {
    let world = World::new();
    let none = [("resid_pdrop", "0"), ("embd_pdrop", "0"), ("attn_pdrop", "0"), ("max_steps", "1")];
    run_to_end(world.config("out", &none).expect("valid"));
    let device = Arc::new(Cpu::<f32>::with(Isa::detect(), 2));
    let gpt = Gpt::load(device, &world.path("out"), Use::Training).expect("a model");
    let shards = Arc::new(Shards::open(&world.path("out/data/train_data")).expect("shards"));
    let loader = Loader::new(shards, 16, 1, true).expect("a loader");
    // Updates of eight micro-batches of 3 samples: a whole one, and the end of an epoch with two and a third, shorter one.
    for num_samples in [24, 7] {
        let of = |merged: usize| {
            let mut step = Step::new(&gpt, 3 * merged, 8 / merged, 16);
            let samples =
                Samples { epoch: 0, positions: 5..5 + num_samples, batch: 3 * merged, dropout_key: None };
            let mut num_passes = 0;
            let loss = step
                .gradients_of(&gpt, &loader, &samples, 1.0, &mut |_, _| {
                    num_passes += 1;
                    ControlFlow::Continue(())
                })
                .expect("not stopped");
            assert_eq!(num_passes, (num_samples as usize).div_ceil(3 * merged));
            let gradients: Vec<Vec<f32>> =
                step.gradients.table.iter().map(|gradient| gradient.to_vec()).collect();
            (loss, gradients.concat())
        };
        let (separate, expected) = of(1);
        assert_eq!(separate.num_tokens, 16 * num_samples);
        let largest = expected.iter().fold(0f32, |largest, x| largest.max(x.abs()));
        for merged in [2, 4, 8] {
            let (loss, got) = of(merged);
            assert_eq!((loss.num_targets, loss.num_tokens), (separate.num_targets, separate.num_tokens));
            assert!((loss.sum / separate.sum - 1.0).abs() < 1e-6, "{loss:?} {separate:?}");
            for (got, expected) in got.iter().zip(&expected) {
                assert!((got - expected).abs() < 1e-5 * largest, "{merged} merged: {got} {expected}");
            }
        }
    }
}
