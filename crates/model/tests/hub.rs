//! What transformers writes beside one plain folder, held beside ours: layouts of checkpoints, the 124M network's tree,
//! configuration and tensors, greedy ids of 64 tokens, distributions with ties.
//!
//! The files of tests/golden are made by tools/reference/hub_golden.py: `layouts/NAME`, one tiny model in each layout, with
//! the logits that transformers computes from each in `layouts/golden.safetensors`; `gpt2.json`; `sampling.json` with the
//! model folder `greedy`. Every greedy id leads the runner-up by 1e-3 at least, so that rounding decides none.

mod common;

use common::relative_error;
use eyas_model::{Activations, Config, Gpt, KvCache, Sampling, Use, generate, module_tree, num_parameters};
use eyas_ops::Cpu;
use safetensors::SafeTensors;
use serde_json::Value;
use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden")
}

fn json(path: &Path) -> Value {
    serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap()
}

fn load(dir: &Path) -> Gpt<Cpu<f32>> {
    Gpt::load(Arc::new(Cpu::new()), dir, Use::Inference).unwrap()
}

#[test]
#[expect(
    clippy::print_stdout,
    reason = "the measured errors are what a person runs this with --nocapture for"
)]
fn every_layout_gives_the_logits_of_transformers() {
    let root = golden().join("layouts");
    let bytes = fs::read(root.join("golden.safetensors")).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let words = |name: &str| -> Vec<[u8; 4]> {
        file.tensor(name).unwrap().data().chunks_exact(4).map(|b| b.try_into().unwrap()).collect()
    };
    let ids: Vec<u32> = words("input_ids").into_iter().map(u32::from_le_bytes).collect();
    let time = file.tensor("input_ids").unwrap().shape()[1];
    let names: Vec<_> = file.names().into_iter().filter_map(|name| name.strip_prefix("logits.")).collect();
    assert_eq!(names.len(), 8, "{names:?}");
    for name in names {
        let gpt = load(&root.join(name));
        let mut acts = Activations::new(&gpt, ids.len() / time, time);
        gpt.forward(&mut acts, &ids, time, None);
        let expected: Vec<_> = words(&format!("logits.{name}")).into_iter().map(f32::from_le_bytes).collect();
        let error = relative_error(&gpt.logits(&acts), &expected);
        println!("{name}: {error:.2e}");
        assert!(error < 1e-5, "{name}: {error:e}");
    }
}

#[test]
fn the_network_of_124m_is_that_of_transformers() {
    let golden = json(&golden().join("gpt2.json"));
    let text = |key: &str| golden[key].as_str().unwrap();
    let mut config = Config::builtin("gpt2").unwrap();
    (config.vocab_size, config.n_ctx) = (50_000, Some(128));
    (config.bos_token_id, config.eos_token_id) = (Some(0), Some(0));
    assert_eq!(module_tree(&config).trim_end(), text("tree").trim_end());
    assert_eq!(num_parameters(&config), 124_242_432);
    assert_eq!(golden["num_parameters"], 124_242_432);

    let expected = golden["tensors"].as_object().unwrap();
    let declared = config.parameters();
    assert_eq!((declared.iter().count(), expected.len()), (148, 148));
    for declaration in declared.iter() {
        assert_eq!(serde_json::json!(declaration.shape), expected[&declaration.name], "{}", declaration.name);
    }

    // The version that wrote a file is its writer's own.
    let without_version = |text: &str| {
        let mut value: Value = serde_json::from_str(text).unwrap();
        value.as_object_mut().unwrap().remove("transformers_version");
        value
    };
    assert_eq!(without_version(&config.to_json()), without_version(text("config.json")));
    assert_eq!(Config::from_json(text("config.json")).unwrap().n_ctx, Some(128));
    // generation_config.json takes from the configuration only what every shape has: a tiny one stands for it.
    let out = tempfile::TempDir::new().unwrap();
    let tiny = Config { vocab_size: 5, n_positions: 2, n_embd: 4, n_layer: 1, n_head: 1, ..config };
    Gpt::new(Arc::new(Cpu::<f32>::new()), tiny, Use::Inference).unwrap().save(out.path()).unwrap();
    let saved = fs::read_to_string(out.path().join("generation_config.json")).unwrap();
    assert_eq!(without_version(&saved), without_version(text("generation_config.json")));
}

#[test]
fn greedy_ids_are_those_of_transformers_with_and_without_the_cache() {
    let gpt = load(&golden().join("greedy"));
    let cases = json(&golden().join("sampling.json"));
    for case in cases["greedy"].as_array().unwrap() {
        let numbers = |key: &str| -> Vec<u32> { serde_json::from_value(case[key].clone()).unwrap() };
        let (prompt, expected) = (numbers("prompt"), numbers("ids"));
        let penalty = case["repetition_penalty"].as_f64().unwrap() as f32;
        let sampling =
            Sampling { repetition_penalty: penalty, max_new_tokens: expected.len(), ..Sampling::default() };
        let done = generate(&gpt, &prompt, &sampling, 1, &mut |_, _| ControlFlow::Continue(())).unwrap();
        assert_eq!((&done[0].ids, expected.len()), (&expected, 64), "penalty {penalty}");

        // The same sequence in one forward pass and token by token through the cache: no id differs.
        let ids = [prompt.as_slice(), &expected].concat();
        let mut acts = Activations::new(&gpt, 1, ids.len());
        gpt.forward(&mut acts, &ids, ids.len(), None);
        let full = gpt.logits(&acts);
        let mut cache = KvCache::new(&gpt, ids.len());
        for (at, row) in full.chunks_exact(gpt.config().vocab_size).enumerate() {
            let mut cached = gpt.step(&mut cache, &ids[at..=at]).to_vec();
            let mut full = row.to_vec();
            let [ours, theirs] = [&mut cached, &mut full].map(|scores| {
                sampling.process(scores, &ids[..=at]);
                (0..scores.len()).rev().max_by(|&a, &b| scores[a].total_cmp(&scores[b]))
            });
            assert_eq!(ours, theirs, "token {at}");
        }
    }
}

/// Where equal tokens lie across the cut of top-p, those of lower id are dropped first: transformers' own rule with a stable
/// sort in place of torch.sort, which leaves their order open.
#[test]
fn ties_are_kept_and_dropped_as_transformers_does() {
    let cases = json(&golden().join("sampling.json"));
    let logits: Vec<f32> = serde_json::from_value(cases["logits"].clone()).unwrap();
    for case in cases["filtered"].as_array().unwrap() {
        let number = |key: &str| case[key].as_f64().unwrap() as f32;
        let sampling = Sampling {
            do_sample: true,
            repetition_penalty: number("repetition_penalty"),
            temperature: number("temperature"),
            top_k: number("top_k") as usize,
            top_p: number("top_p"),
            ..Sampling::default()
        };
        let tokens: Vec<u32> = serde_json::from_value(case["tokens"].clone()).unwrap();
        let expected: Vec<f32> = serde_json::from_value(case["probabilities"].clone()).unwrap();
        let mut scores = logits.clone();
        sampling.process(&mut scores, &tokens);
        let max = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let weights: Vec<f32> = scores.iter().map(|score| (score - max).exp()).collect();
        let total: f32 = weights.iter().sum();
        let ours: Vec<f32> = weights.iter().map(|weight| weight / total).collect();
        let kept = |p: &[f32]| (0..p.len()).filter(|&id| p[id] > 0.0).collect::<Vec<_>>();
        assert_eq!(kept(&ours), kept(&expected), "{sampling:?}");
        assert!(relative_error(&ours, &expected) < 1e-5, "{sampling:?}");
    }
}
