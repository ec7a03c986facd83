//! The rest of the recipe: the best model, early stopping, samples, what is not finite, saving on request.

use crate::common::{World, run, run_to_end, run_until, weights};
use eyas_ops::{Cpu, Isa, Rng};
use eyas_train::{
    Checkpoint, Error, Event, RUN, Requests, RunRecord, SAMPLES, Sample, Status, Trainer, checkpoint,
};
use serde_json::Value;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;

fn lines(path: &Path) -> Vec<Value> {
    let text = fs::read_to_string(path).expect("lines");
    text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

fn own(dir: &Path, step: u64) -> Value {
    let state = Checkpoint::open(&checkpoint::path(dir, step)).expect("whole").state;
    state["stateful_callbacks"]["eyas"].clone()
}

fn record(dir: &Path) -> RunRecord {
    serde_json::from_slice(&fs::read(dir.join(RUN)).expect("run.json")).expect("a record")
}

/// Text that nobody can learn: the better the network knows code, the worse it does here.
fn noise(world: &World) -> String {
    let mut rng = Rng::new(3);
    let text: String = (0..600).map(|_| char::from(b' ' + (rng.next_u64() % 90) as u8)).collect();
    fs::create_dir_all(world.path("noise")).expect("made");
    fs::write(world.path("noise/a.jsonl"), serde_json::json!({ "content": text }).to_string())
        .expect("written");
    world.path("noise/a.jsonl").to_string_lossy().into_owned()
}

#[test]
fn the_best_checkpoint_stays_and_its_weights_are_the_models() {
    let world = World::new();
    let noise = noise(&world);
    let settings = [
        ("eval_data", noise.as_str()),
        ("mode", "pack"),
        ("eval_strategy", "steps"),
        ("eval_steps", "2"),
        ("save_steps", "2"),
        ("save_total_limit", "1"),
        ("load_best_model_at_end", ""),
        ("max_steps", "20"),
        ("warmup_steps", "0"),
    ];
    let mut loaded = None;
    run(world.config("out", &settings).expect("valid"), 2, &mut |event, _| {
        if let Event::LoadedBest { path, metric, value } = event {
            loaded = Some((path.to_path_buf(), metric.to_string(), *value));
        }
    })
    .expect("a run");
    let out = world.path("out");
    let evaluations = lines(&out.join("metrics.jsonl"));
    let evaluations = evaluations.iter().filter(|line| line.get("eval_loss").is_some());
    let losses: Vec<_> = evaluations
        .map(|line| (line["eval_loss"].as_f64().expect("a loss"), line["step"].as_u64()))
        .collect();
    let (best, step) = losses.iter().copied().reduce(|a, b| if b.0 < a.0 { b } else { a }).expect("some");
    let step = step.expect("a step");
    assert!(step < 20, "noise was learned: {losses:?}");
    assert_eq!(loaded, Some((checkpoint::path(&out, step), "eval_loss".into(), best)));
    let there: Vec<_> = checkpoint::list(&out).expect("listed").into_iter().map(|(step, _)| step).collect();
    assert_eq!(there, [20, step], "the last and the best");
    assert!(weights(&out) == weights(&checkpoint::path(&out, step)), "the model is the best one");
    let state = Checkpoint::open(&checkpoint::path(&out, 20)).expect("whole").state;
    assert_eq!((&state["best_metric"], &state["best_global_step"]), (&best.into(), &step.into()));
    assert!(state["best_model_checkpoint"].as_str().is_some_and(|path| path.ends_with(&format!("-{step}"))));
    let record = record(&out);
    assert_eq!((record.status, record.best.map(|best| best.step)), (Status::Done, Some(step)));

    // With save_strategy best there are no others.
    let mut best_only = settings.to_vec();
    best_only.extend([("save_strategy", "best"), ("max_steps", "10")]);
    run_to_end(world.config("best", &best_only).expect("valid"));
    let there = checkpoint::list(&world.path("best")).expect("listed");
    assert!(there.len() == 2 && there[0].0 == 10, "{there:?}");
}

#[test]
fn patience_ends_a_run_whether_or_not_it_was_stopped_before() {
    let world = World::new();
    let valid = world.path("valid").to_string_lossy().into_owned();
    let settings = [
        ("eval_data", valid.as_str()),
        ("mode", "pack"),
        ("eval_strategy", "steps"),
        ("eval_steps", "3"),
        ("early_stopping_patience", "2"),
        ("early_stopping_threshold", "100"),
    ];
    let mut told = None;
    let outcome = run(world.config("out", &settings).expect("valid"), 2, &mut |event, _| {
        if let Event::StoppingEarly { step, evaluations } = event {
            told = Some((*step, *evaluations));
        }
    })
    .expect("a run");
    // The first counts, the two after it are not better by 100.
    assert_eq!((outcome.step, outcome.stopped, told), (9, false, Some((9, 2))));
    assert!(world.path("out/model.safetensors").exists());
    assert_eq!(run_until(world.config("cut", &settings).expect("valid"), 15).step, 7);
    assert_eq!(run_to_end(world.config("cut", &settings).expect("valid")).len(), 2);
    assert!(weights(&world.path("out")) == weights(&world.path("cut")));
    assert_eq!(run_to_end(world.config("cut", &settings).expect("valid")), [0.0; 0], "it is over");
}

#[test]
fn samples_come_with_evaluations_and_survive_a_stop_in_their_midst() {
    let world = World::new();
    let valid = world.path("valid").to_string_lossy().into_owned();
    let mut config = world.config(
        "out",
        &[
            ("eval_data", valid.as_str()),
            ("eval_strategy", "steps"),
            ("eval_steps", "4"),
            ("eval_on_start", ""),
            ("sample_prompts", "def f"),
            ("sample_prompts", "import numpy as"),
            ("sample_max_new_tokens", "7"),
        ],
    );
    let config = config.as_mut().expect("valid");
    run_to_end(config.clone());
    let samples: Vec<Sample> = lines(&world.path("out").join(SAMPLES))
        .into_iter()
        .map(|line| serde_json::from_value(line).expect("a sample"))
        .collect();
    let steps: Vec<_> = samples.iter().map(|sample| sample.step).collect();
    assert_eq!(steps, [0, 0, 4, 4, 8, 8, 12, 12]);
    assert_eq!((&*samples[0].prompt, &*samples[1].prompt), ("def f", "import numpy as"));
    assert!(samples.iter().any(|sample| !sample.completion.is_empty()));

    // Stopped while the first prompt is continued: the evaluation is made again, and nothing is there twice.
    config.output_dir = world.path("cut");
    let requests = Requests::default();
    let (mut after_evaluation, mut evaluated) = (0, 0);
    let mut on_event = |event: Event<'_>| match event {
        Event::Evaluating { done, of } if done == of => {
            evaluated += 1;
            // The second evaluation is that after update 4; the request is seen at the first token after it.
            if evaluated == 2 {
                requests.stop.store(true, Ordering::Relaxed);
            }
        }
        Event::Evaluated { .. } => after_evaluation += 1,
        _ => {}
    };
    let device = Arc::new(Cpu::<f32>::with(Isa::detect(), 2));
    let mut trainer = Trainer::new(device, config.clone(), &mut on_event).expect("a trainer");
    let outcome = trainer.run(&requests, &mut on_event).expect("a run");
    drop(trainer);
    assert!(outcome.stopped && outcome.step == 4, "{outcome:?}");
    assert_eq!(after_evaluation, 1);
    run_to_end(config.clone());
    let read = |name: &str| fs::read(world.path(name).join(SAMPLES)).expect("samples");
    assert!(read("out") == read("cut"));
}

#[test]
fn prompts_that_cannot_be_continued_are_refused() {
    let world = World::new();
    let valid = world.path("valid").to_string_lossy().into_owned();
    let refused = |prompt: &str| {
        let settings =
            [("eval_data", valid.as_str()), ("eval_strategy", "steps"), ("sample_prompts", prompt)];
        run(world.config("out", &settings).expect("valid"), 1, &mut |_, _| {})
            .expect_err("refused")
            .to_string()
    };
    let error = refused(&"x = 1\n".repeat(40));
    assert!(error.contains("sample_prompts") && error.contains("at most 15 tokens"), "{error}");
}

#[test]
fn what_is_not_finite_names_its_documents_or_is_left_out_and_counted() {
    let world = World::new();
    let broken =
        [("learning_rate", "1e30"), ("max_grad_norm", "0"), ("warmup_steps", "0"), ("logging_steps", "1")];
    let error = run(world.config("out", &broken).expect("valid"), 2, &mut |_, _| {}).expect_err("not finite");
    let Error::NotFinite { documents, .. } = &error else { panic!("{error}") };
    assert!(documents.contains("file_") && documents.contains(".py"), "{error}");
    let failed = record(&world.path("out"));
    assert!(failed.status == Status::Failed && failed.error.is_some_and(|text| text.contains("file_")));

    let settings = [&broken[..], &[("skip_non_finite", "")]].concat();
    let mut warnings = Vec::new();
    let outcome = run(world.config("skip", &settings).expect("valid"), 2, &mut |event, _| {
        if let Event::Warning(text) = event {
            warnings.push(text.to_string());
        }
    })
    .expect("a run");
    assert!(outcome.step == 12 && outcome.skipped_updates >= 10, "{outcome:?}");
    assert!(warnings.iter().any(|text| text.contains("left out") && text.contains("file_")), "{warnings:?}");
    let log = lines(&world.path("skip/metrics.jsonl"));
    assert_eq!(log[11]["skipped_updates"], outcome.skipped_updates);
    assert_eq!(own(&world.path("skip"), 12)["skipped_updates"], outcome.skipped_updates);

    let endless = [&settings[..], &[("max_steps", "500")]].concat();
    let error = run(world.config("never", &endless).expect("valid"), 2, &mut |_, _| {}).expect_err("never");
    assert!(matches!(error, Error::NeverFinite { count: 100, .. }), "{error}");
}

#[test]
fn weights_that_are_not_finite_are_never_saved() {
    let world = World::new();
    // The second moment of a gradient above 1.8e19 has no f32.
    let settings =
        [("learning_rate", "3e38"), ("max_grad_norm", "0"), ("warmup_steps", "0"), ("save_steps", "1")];
    let error = run(world.config("out", &settings).expect("valid"), 2, &mut |_, _| {}).expect_err("broken");
    assert!(matches!(error, Error::WeightsNotFinite { .. } | Error::NotFinite { .. }), "{error}");
    for (_, path) in checkpoint::list(&world.path("out")).expect("listed") {
        let device = Arc::new(Cpu::<f32>::with(Isa::detect(), 1));
        eyas_model::Gpt::load(device, &path, eyas_model::Use::Inference).expect("a checkpoint loads");
    }
}

#[test]
fn a_checkpoint_on_request_changes_nothing_else() {
    let world = World::new();
    run_to_end(world.config("whole", &[]).expect("valid"));
    let requests = Requests::default();
    let mut saved = Vec::new();
    let mut num_batches = 0;
    let mut on_event = |event: Event<'_>| match event {
        // In the middle of update 5.
        Event::MicroBatch { .. } => {
            num_batches += 1;
            requests.save.store(num_batches == 9, Ordering::Relaxed);
        }
        Event::Saved(path) => saved.push(path.to_path_buf()),
        _ => {}
    };
    let device = Arc::new(Cpu::<f32>::with(Isa::detect(), 2));
    let config = world.config("asked", &[]).expect("valid");
    let mut trainer = Trainer::new(device, config, &mut on_event).expect("a trainer");
    let outcome = trainer.run(&requests, &mut on_event).expect("a run");
    drop(trainer);
    assert!(!outcome.stopped && !requests.save.load(Ordering::Relaxed));
    assert_eq!(saved[0], world.path("asked/checkpoint-4"));
    assert!(weights(&world.path("asked")) == weights(&world.path("whole")));
    // And it is one that can be gone on from.
    let from = saved[0].to_string_lossy().into_owned();
    run_to_end(world.config("on", &[("resume_from_checkpoint", &from)]).expect("valid"));
    assert!(weights(&world.path("on")) == weights(&world.path("whole")));
    let digest = |name: &str| own(&world.path(name), 12)["tokens_digest"].clone();
    assert!(digest("on").is_string() && digest("on") == digest("whole"), "the same tokens were read");
}

#[test]
fn in_the_background_or_not_the_files_are_the_same() {
    let world = World::new();
    run_to_end(world.config("a", &[("save_steps", "5")]).expect("valid"));
    run_to_end(world.config("b", &[("save_steps", "5"), ("save_in_background", "false")]).expect("valid"));
    for step in [5, 10, 12] {
        for name in ["model.safetensors", "optimizer.safetensors", "config.json", "tokenizer.json"] {
            let read =
                |run: &str| fs::read(checkpoint::path(&world.path(run), step).join(name)).expect("a file");
            assert!(read("a") == read("b"), "{name} of step {step}");
        }
    }
}

#[test]
fn data_are_read_by_weight() {
    let world = World::new();
    let [code, valid] = ["code", "valid"].map(|name| world.path(name).to_string_lossy().into_owned());
    let losses = |output: &str, weights: &[&str]| {
        let mut settings = vec![("train_data", &*code), ("train_data", &*valid)];
        settings.extend(weights.iter().map(|weight| ("data_weights", *weight)));
        run_to_end(world.config(output, &settings).expect("valid"))
    };
    let by_size = losses("by_size", &[]);
    let by_weight = losses("by_weight", &["1", "9"]);
    assert_ne!(by_size, by_weight);
    assert_eq!(by_weight, losses("again", &["1", "9"]));
    // Prepared data know their sources too.
    let shards = world.path("by_size/data/train_data").to_string_lossy().into_owned();
    let prepared = |weights: &[&str]| {
        let mut settings = vec![("train_data", &*shards)];
        settings.extend(weights.iter().map(|weight| ("data_weights", *weight)));
        world.config("prepared", &settings).expect("the settings alone are right")
    };
    assert_eq!(by_weight, run_to_end(prepared(&["1", "9"])));
    let error = run(prepared(&["1", "2", "3"]), 1, &mut |_, _| {}).expect_err("too many weights");
    assert!(error.to_string().contains("3 for 2 sources"), "{error}");
}
