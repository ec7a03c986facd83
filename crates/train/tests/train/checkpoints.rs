//! Checkpoints: damage is found, the rest is gone on from; old ones go when new ones are there.

use crate::common::{World, run, run_to_end, run_until, weights};
use eyas_train::{Error, Event, checkpoint};
use std::fs;
use std::path::Path;

fn steps(dir: &Path) -> Vec<u64> {
    checkpoint::list(dir).expect("listed").into_iter().map(|(step, _)| step).collect()
}

/// Flips one bit in the middle of a file.
fn damage(path: &Path) {
    let mut bytes = fs::read(path).expect("a file");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(path, bytes).expect("written");
}

#[test]
fn a_broken_checkpoint_is_passed_over_by_name() {
    type Break = fn(&Path);
    let breaks: [(&str, Break); 7] = [
        ("model.safetensors", damage),
        ("optimizer.safetensors", damage),
        ("trainer_state.json", damage),
        ("tokenizer.json", damage),
        ("config.json", |path| fs::remove_file(path).expect("removed")),
        ("model.safetensors", |path| fs::write(path, "").expect("cut")),
        ("trainer_state.json", |path| fs::write(path, "{}").expect("emptied")),
    ];
    let world = World::new();
    let settings = [("save_steps", "4"), ("max_steps", "8")];
    let whole = run_to_end(world.config("whole", &settings).expect("valid"));
    for (name, break_it) in breaks {
        let out = world.path("out");
        let _ = fs::remove_dir_all(&out);
        copy(&world.path("whole"), &out);
        break_it(&out.join("checkpoint-8").join(name));
        let (mut warnings, mut losses) = (Vec::new(), Vec::new());
        let outcome = run(world.config("out", &settings).expect("valid"), 2, &mut |event, _| match event {
            Event::Warning(text) => warnings.push(text.to_string()),
            Event::Step(metrics) => losses.push(metrics.loss),
            _ => {}
        });
        assert_eq!(outcome.expect("a run").step, 8);
        assert!(
            warnings.iter().any(|w| w.contains("checkpoint-8") && w.contains(name)),
            "{name}: {warnings:?}"
        );
        assert_eq!(losses, whole[4..], "{name}");
        assert!(weights(&out) == weights(&world.path("whole")), "{name}");
        // The broken one was replaced by a whole one.
        assert!(checkpoint::Checkpoint::open(&out.join("checkpoint-8")).is_ok());
    }
}

#[test]
fn a_run_whose_checkpoints_are_all_broken_is_refused() {
    let world = World::new();
    run_to_end(world.config("out", &[("max_steps", "1")]).expect("valid"));
    damage(&world.path("out/checkpoint-1/model.safetensors"));
    let error = run(world.config("out", &[]).expect("valid"), 1, &mut |_, _| {}).expect_err("refused");
    assert!(matches!(error, Error::NoWholeCheckpoint { .. }), "{error}");
    assert!(error.to_string().contains("model.safetensors"), "{error}");
    assert_eq!(steps(&world.path("out")), [1], "nothing was removed");
    run_to_end(world.config("out", &[("overwrite_output_dir", ""), ("max_steps", "2")]).expect("valid"));
    assert_eq!(steps(&world.path("out")), [2]);
}

#[test]
fn the_limit_keeps_the_newest() {
    let world = World::new();
    let mut seen = Vec::new();
    let config = world.config("out", &[("save_steps", "2"), ("save_total_limit", "2")]).expect("valid");
    run(config, 2, &mut |event, _| {
        if let Event::Saved(path) = event {
            seen.push(steps(path.parent().expect("the output folder")));
        }
    })
    .expect("a run");
    assert_eq!(seen[..3], [vec![2], vec![4, 2], vec![6, 4]]);
    assert_eq!(steps(&world.path("out")), [12, 10]);
    let left: Vec<_> =
        fs::read_dir(world.path("out")).expect("read").map(|e| e.expect("read").file_name()).collect();
    assert!(!left.iter().any(|name| name.to_string_lossy().starts_with(".checkpoint-")), "{left:?}");
}

#[test]
fn the_limit_takes_broken_newer_ones_first() {
    let world = World::new();
    run_to_end(world.config("out", &[("save_steps", "2"), ("max_steps", "6")]).expect("valid"));
    damage(&world.path("out/checkpoint-6/model.safetensors"));
    run_until(world.config("out", &[("save_total_limit", "1")]).expect("valid"), 3);
    assert_eq!(steps(&world.path("out")), [5], "resumed from 4, stopped after 5");
}

#[test]
fn a_checkpoint_can_be_chosen() {
    let world = World::new();
    let whole = run_to_end(world.config("a", &[("save_steps", "5")]).expect("valid"));
    let from = world.path("a/checkpoint-5").to_string_lossy().into_owned();
    let rest = run_to_end(world.config("b", &[("resume_from_checkpoint", &from)]).expect("valid"));
    assert_eq!(rest, whole[5..]);
    assert!(weights(&world.path("a")) == weights(&world.path("b")), "weights differ");
    // In its own folder the newer ones would be taken for this run's.
    let config = world.config("a", &[("resume_from_checkpoint", &from)]).expect("valid");
    let error = run(config, 1, &mut |_, _| {}).expect_err("refused").to_string();
    assert!(error.contains("checkpoint-1") && error.contains("newer"), "{error}");
}

#[test]
fn what_changed_is_said() {
    let world = World::new();
    run_until(world.config("out", &[]).expect("valid"), 5);
    let mut warnings = Vec::new();
    let config = world.config("out", &[("learning_rate", "1e-3"), ("logging_steps", "1")]).expect("valid");
    run(config, 2, &mut |event, _| {
        if let Event::Warning(text) = event {
            warnings.push(text.to_string());
        }
    })
    .expect("a run");
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert!(warnings[0].contains("`learning_rate` was 0.01"), "{warnings:?}");
    let error = run(world.config("out", &[("n_layer", "1")]).expect("valid"), 1, &mut |_, _| {})
        .expect_err("refused");
    assert!(matches!(error, Error::Shape { key: "n_layer", .. }), "{error}");
}

#[test]
fn other_tokens_under_the_same_name_are_refused() {
    let world = World::new();
    run_until(world.config("out", &[]).expect("valid"), 5);
    // What was prepared is gone, and would be made again from what the sources are now.
    fs::remove_dir_all(world.path("out/data/train_data")).expect("removed");
    fs::write(world.path("code/more.py"), "def more(value):\n    return value + 1\n").expect("written");
    let error =
        run(world.config("out", &[]).expect("valid"), 1, &mut |_, _| {}).expect_err("refused").to_string();
    assert!(error.contains("other tokens") && error.contains("checkpoint-"), "{error}");
    // With what was there before it goes on.
    fs::remove_file(world.path("code/more.py")).expect("removed");
    fs::remove_dir_all(world.path("out/data")).expect("removed");
    run_to_end(world.config("out", &[]).expect("valid"));
}

#[test]
fn a_finished_run_has_nothing_to_do() {
    let world = World::new();
    run_to_end(world.config("out", &[]).expect("valid"));
    let before = weights(&world.path("out"));
    assert_eq!(run_to_end(world.config("out", &[]).expect("valid")), [0.0; 0]);
    assert!(before == weights(&world.path("out")));
}

#[test]
fn the_state_has_the_names_of_transformers() {
    let world = World::new();
    run_to_end(world.config("out", &[]).expect("valid"));
    let state = eyas_train::Checkpoint::open(&world.path("out/checkpoint-12")).expect("whole").state;
    assert_eq!((state["global_step"].as_u64(), state["max_steps"].as_u64()), (Some(12), Some(12)));
    assert_eq!(state["log_history"].as_array().map(Vec::len), Some(3));
    assert!(
        state["epoch"].is_f64() && state["stateful_callbacks"]["eyas"]["settings"]["learning_rate"] == 0.01
    );
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("made");
    for entry in fs::read_dir(from).expect("read") {
        let path = entry.expect("read").path();
        let target = to.join(path.file_name().expect("a name"));
        if path.is_dir() {
            copy(&path, &target);
        } else {
            fs::copy(&path, &target).expect("copied");
        }
    }
}
