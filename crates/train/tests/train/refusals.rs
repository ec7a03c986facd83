//! What is refused at the start, in words that say what to do, with nothing left behind.

use crate::common::{World, run, run_to_end};
use eyas_train::{Error, Event, TrainConfig};
use std::fs;

fn refused(world: &World, settings: &[(&str, &str)]) -> Error {
    let config = world.config("out", settings).expect("the settings alone are right");
    run(config, 1, &mut |_, _| {}).expect_err("refused")
}

fn message(world: &World, settings: &[(&str, &str)]) -> String {
    let error = refused(world, settings);
    assert!(!world.path("out/model.safetensors").exists());
    error.to_string()
}

#[test]
fn impossible_runs() {
    let world = World::new();
    let own = |name: &str| world.path(name).to_string_lossy().into_owned();
    fs::create_dir_all(world.path("empty")).expect("made");
    for (settings, words) in [
        (vec![("context_length", "32")], "`context_length`: expected 1 to n_positions = 16, got 32"),
        (vec![("n_head", "3")], "`n_head`: expected a divisor of n_embd = 32, got 3"),
        (vec![("vocab_size", "100")], "has 300 ids, the model only 100"),
        (vec![("tokenizer", &*own("nowhere"))], "nowhere"),
        (vec![("train_data", &*own("nowhere"))], "nowhere"),
        (vec![("train_data", &*own("empty"))], "empty"),
        (vec![("config", "gpt3")], "`config`: expected gpt2, gpt2-medium"),
        (vec![("model_name_or_path", &*own("nowhere"))], "nowhere"),
        (
            vec![("per_device_train_batch_size", "5000"), ("dataloader_drop_last", "")],
            "too few for one sample",
        ),
        (vec![("train_data", "hub:a b")], "`hub:a b` names no dataset"),
        (vec![("tokenizer", "hub:a/b")], "`tokenizer`: a/b is on the Hugging Face hub"),
        (vec![("eval_data", "hub:a b"), ("eval_strategy", "steps")], "`hub:a b` names no dataset"),
        (vec![("resume_from_checkpoint", &*own("nowhere"))], "nowhere"),
    ] {
        let message = message(&world, &settings);
        assert!(message.contains(words), "{settings:?}: {message}");
    }
}

#[test]
fn too_little_text_for_a_sample() {
    let world = World::new();
    fs::create_dir_all(world.path("little")).expect("made");
    fs::write(world.path("little/a.py"), "value = other\n").expect("written");
    let little = world.path("little").to_string_lossy().into_owned();
    let message = message(&world, &[("train_data", &little)]);
    assert!(message.contains("token"), "{message}");
}

#[test]
fn an_output_folder_that_cannot_be_used() {
    let world = World::new();
    fs::write(world.path("file"), "x").expect("written");
    let config = world.config("file", &[]).expect("valid");
    assert!(matches!(run(config, 1, &mut |_, _| {}), Err(Error::Io { .. })));
    let mut other = None;
    run(world.config("out", &[("max_steps", "1")]).expect("valid"), 1, &mut |event, _| {
        if let Event::Step(_) = event {
            other = Some(run(world.config("out", &[]).expect("valid"), 1, &mut |_, _| {}));
        }
    })
    .expect("the first run goes on");
    assert!(matches!(other, Some(Err(Error::InUse { .. }))));
}

#[test]
fn shards_of_another_tokenizer_or_context() {
    let world = World::new();
    run_to_end(world.config("first", &[("max_steps", "1")]).expect("valid"));
    let shards = world.path("first/data/train_data").to_string_lossy().into_owned();
    run_to_end(world.config("second", &[("max_steps", "1"), ("train_data", &shards)]).expect("valid"));
    let message = message(&world, &[("train_data", &shards), ("context_length", "8")]);
    assert!(message.contains("chunks of context_length = 8"), "{message}");
    let tokenizer = world.path("tokenizer/tokenizer.json");
    let text = fs::read_to_string(&tokenizer).expect("a tokenizer").replace("<|endoftext|>", "<|end|>");
    fs::write(&tokenizer, text).expect("written");
    let error = refused(&world, &[("train_data", &shards)]);
    assert!(error.to_string().contains("another tokenizer's"), "{error}");
}

#[test]
fn weights_to_begin_from_keep_their_shape() {
    let world = World::new();
    run_to_end(world.config("first", &[("max_steps", "3")]).expect("valid"));
    let first = world.path("first").to_string_lossy().into_owned();
    // Its own settings would say another n_layer: only dropouts may differ.
    let error = refused(&world, &[("model_name_or_path", &first), ("n_layer", "1")]);
    assert!(matches!(error, Error::Shape { key: "n_layer", .. }), "{error}");
    let losses = run_to_end(
        world.config("next", &[("model_name_or_path", &first), ("max_steps", "2")]).expect("valid"),
    );
    assert!(losses[0] < 5.6, "not untrained: {losses:?}");
}

#[test]
fn pushing_is_put_off_and_said_so() {
    let world = World::new();
    let mut warnings = Vec::new();
    let config = world.config("out", &[("push_to_hub", ""), ("max_steps", "1")]).expect("valid");
    run(config, 1, &mut |event, _| {
        if let Event::Warning(text) = event {
            warnings.push(text.to_string());
        }
    })
    .expect("a run");
    assert!(warnings.iter().any(|text| text.contains("huggingface-cli upload")), "{warnings:?}");
}

#[test]
fn prepared_data_are_used_again_only_when_nothing_changed() {
    let world = World::new();
    let text: String =
        (0..40).map(|i| format!("{{\"content\": \"def f{i}(x):\\n    return x + {i}\\n\"}}\n")).collect();
    let file = world.path("code.jsonl");
    fs::write(&file, &text).expect("written");
    let file = file.to_string_lossy().into_owned();
    let reused = |settings: &[(&str, &str)]| {
        let mut reused = false;
        let settings: Vec<_> = [
            ("train_data", file.as_str()),
            ("max_steps", "1"),
            ("overwrite_output_dir", ""),
            ("mode", "pack"),
        ]
        .into_iter()
        .chain(settings.iter().copied())
        .collect();
        let config: TrainConfig = world.config("out", &settings).expect("valid");
        run(config, 1, &mut |event, _| reused |= matches!(event, Event::Reused { .. })).expect("a run");
        reused
    };
    assert!(!reused(&[]));
    assert!(reused(&[]));
    for setting in ["keep_secrets", "skip_generated", "raw"] {
        let value = if setting == "skip_generated" { "false" } else { "" };
        assert!(!reused(&[(setting, value)]), "{setting}");
    }
    fs::write(&file, text + "{\"content\": \"def more(x):\\n    return x\\n\"}\n").expect("written");
    assert!(!reused(&[("raw", "")]));
}
