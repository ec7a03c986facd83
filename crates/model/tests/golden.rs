//! The network held beside PyTorch's: logits, losses, the gradient of every parameter, generated ids, filtered
//! distributions, files and printed trees, as transformers made them.
//!
//! Each folder of tests/golden with a golden.json is one shape: a model folder saved by transformers, and beside it
//! `golden.safetensors` (`input_ids` and `targets`, i32 (B, T), -100 where there is no target; `logits`; `losses`, one for each token; `grad.` + the
//! name of each parameter, of the mean loss over targets; in one shape also `weights` and `weighted_grad.` + name, of the sum of
//! weights x losses) and `golden.json` (`tree`; `greedy`: prompt, ids and
//! repetition_penalty; `filtered`: tokens, logits, the parameters, and the probabilities that are left).

mod common;

use common::{gpu, host, relative_error};
use eyas_model::{Activations, Config, Gpt, Gradients, IGNORE, Sampling, Use, generate, module_tree};
use eyas_ops::{Backend, Bf16, Cpu, CudaElement, F16, Isa};
use safetensors::SafeTensors;
use serde_json::Value;
use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

fn shapes() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let entries = fs::read_dir(&root).unwrap_or_else(|error| panic!("{}: {error}", root.display()));
    let mut shapes: Vec<_> = entries
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.join("golden.json").is_file())
        .collect();
    shapes.sort();
    assert!(shapes.len() >= 4, "expected at least four shapes in {}, got {}", root.display(), shapes.len());
    shapes
}

fn json(path: &Path) -> Value {
    serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap()
}

fn f32s(file: &SafeTensors<'_>, name: &str) -> Vec<f32> {
    let data = file.tensor(name).unwrap().data();
    data.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect()
}

fn ids(file: &SafeTensors<'_>, name: &str) -> Vec<u32> {
    let data = file.tensor(name).unwrap().data();
    let id = |b: &[u8]| u32::try_from(i32::from_le_bytes(b.try_into().unwrap())).unwrap_or(IGNORE);
    data.chunks_exact(4).map(id).collect()
}

/// Norm-wise relative errors of one shape: the largest forward, the largest backward with the parameter it is of.
fn errors<D: Backend>(device: Arc<D>, shape: &Path) -> (f64, f64, String) {
    let bytes = fs::read(shape.join("golden.safetensors")).unwrap();
    let golden = SafeTensors::deserialize(&bytes).unwrap();
    let dims = golden.tensor("input_ids").unwrap().shape().to_vec();
    let (inputs, targets) = (ids(&golden, "input_ids"), ids(&golden, "targets"));
    let gpt = Gpt::load(device, shape, Use::Training).unwrap();
    let (mut acts, mut grads) = (Activations::new(&gpt, dims[0], dims[1]), Gradients::new(&gpt));
    gpt.forward(&mut acts, &inputs, dims[1], None);
    let mut forward = relative_error(&gpt.logits(&acts), &f32s(&golden, "logits"));
    let num_targets = targets.iter().filter(|&&target| target != IGNORE).count();
    // The mean over targets, and, in the shape that has them, the losses weighed one by one.
    let mut objectives = vec![("grad", vec![1.0 / num_targets as f32; targets.len()])];
    if golden.tensor("weights").is_ok() {
        objectives.push(("weighted_grad", f32s(&golden, "weights")));
    }
    let mut backward = (0.0, String::new());
    for (prefix, weights) in objectives {
        grads.clear();
        gpt.backward(&mut acts, &mut grads, &targets, &weights);
        let losses = gpt.losses(&mut acts);
        forward = forward.max(relative_error(losses, &f32s(&golden, "losses")));
        for (declared, grad) in gpt.declarations().iter().zip(grads.table.iter()) {
            let name = format!("{prefix}.{}", declared.name);
            let error = relative_error(&host(&**gpt.device(), grad), &f32s(&golden, &name));
            assert!(error.is_finite(), "{}: {name}: {error}", shape.display());
            if error >= backward.0 {
                backward = (error, name);
            }
        }
    }
    (forward, backward.0, backward.1)
}

/// Checks every shape on every instruction set of this machine, and on a GPU.
fn check<E: eyas_ops::gemm::Word + CudaElement>(max_forward: f64, max_backward: f64) {
    for shape in shapes() {
        for isa in Isa::ALL.into_iter().filter(|isa| isa.is_available()) {
            let device = Arc::new(Cpu::<E>::with(isa, 2));
            check_shape(device, &shape, &format!("{} {isa}", E::NAME), max_forward, max_backward);
        }
    }
    check_on_gpu::<E>(max_forward, max_backward);
}

fn check_on_gpu<E: CudaElement>(max_forward: f64, max_backward: f64) {
    let Some(device) = gpu::<E>() else { return };
    for shape in shapes() {
        check_shape(device.clone(), &shape, &format!("{} CUDA", E::NAME), max_forward, max_backward);
    }
}

#[expect(
    clippy::print_stdout,
    reason = "the measured errors are what a person runs this with --nocapture for"
)]
fn check_shape<D: Backend>(device: Arc<D>, shape: &Path, label: &str, max_forward: f64, max_backward: f64) {
    let (forward, backward, worst) = errors(device, shape);
    let name = shape.file_name().unwrap().to_string_lossy();
    let measured = format!("{name} {label}: forward {forward:.2e}, backward {backward:.2e} ({worst})");
    assert!(forward < max_forward && backward < max_backward, "{measured}");
    println!("{measured}");
}

#[test]
fn f32_is_pytorch_s() {
    check::<f32>(1e-5, 1e-4);
}

#[test]
fn bf16_is_near_pytorch_s_f32() {
    check::<Bf16>(2e-2, 2e-2);
}

#[test]
fn f16_is_near_pytorch_s_f32() {
    check_on_gpu::<F16>(2e-2, 2e-2);
}

#[test]
fn greedy_ids_are_those_of_transformers() {
    let mut num_checked = 0;
    for shape in shapes() {
        let golden = json(&shape.join("golden.json"));
        num_checked += check_greedy(Arc::new(Cpu::<f32>::new()), &shape, &golden);
        if let Some(device) = gpu::<f32>() {
            check_greedy(device, &shape, &golden);
        }
    }
    assert!(num_checked >= 64, "only {num_checked} ids");
}

/// Returns how many ids were compared.
fn check_greedy<D: Backend>(device: Arc<D>, shape: &Path, golden: &Value) -> usize {
    let gpt = Gpt::load(device, shape, Use::Inference).unwrap();
    let mut num_checked = 0;
    for case in golden["greedy"].as_array().unwrap() {
        let numbers = |key: &str| -> Vec<u32> { serde_json::from_value(case[key].clone()).unwrap() };
        let (prompt, expected) = (numbers("prompt"), numbers("ids"));
        let sampling = Sampling {
            repetition_penalty: case["repetition_penalty"].as_f64().unwrap() as f32,
            max_new_tokens: expected.len(),
            ..Sampling::default()
        };
        let done = generate(&gpt, &prompt, &sampling, 1, &mut |_, _| ControlFlow::Continue(())).unwrap();
        assert_eq!(done[0].ids, expected, "{}", shape.display());
        num_checked += expected.len();
    }
    num_checked
}
#[test]
fn filtered_distributions_are_those_of_transformers() {
    let mut num_checked = 0;
    for shape in shapes() {
        for case in json(&shape.join("golden.json"))["filtered"].as_array().unwrap() {
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
            let mut scores: Vec<f32> = serde_json::from_value(case["logits"].clone()).unwrap();
            let expected: Vec<f32> = serde_json::from_value(case["probabilities"].clone()).unwrap();
            sampling.process(&mut scores, &tokens);
            let max = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let weights: Vec<f32> = scores.iter().map(|score| (score - max).exp()).collect();
            let total: f32 = weights.iter().sum();
            let ours: Vec<f32> = weights.iter().map(|weight| weight / total).collect();
            let kept = |p: &[f32]| p.iter().map(|&p| p > 0.0).collect::<Vec<_>>();
            assert_eq!(kept(&ours), kept(&expected), "{case}");
            assert!(relative_error(&ours, &expected) < 1e-5, "{case}");
            num_checked += 1;
        }
    }
    assert!(num_checked > 0, "no distributions");
}

#[test]
fn trees_and_files_are_those_of_transformers() {
    for shape in shapes() {
        let config = Config::load(&shape).unwrap();
        let tree = json(&shape.join("golden.json"))["tree"].clone();
        assert_eq!(module_tree(&config), tree.as_str().unwrap().trim_end().to_string() + "\n");
        let out = tempfile::TempDir::new().unwrap();
        let gpt = Gpt::load(Arc::new(Cpu::<f32>::new()), &shape, Use::Inference).unwrap();
        gpt.save(out.path()).unwrap();
        for name in ["config.json", "generation_config.json"] {
            let (mut ours, mut theirs) = (json(&out.path().join(name)), json(&shape.join(name)));
            for json in [&mut ours, &mut theirs] {
                json.as_object_mut().unwrap().remove("transformers_version");
            }
            assert_eq!(ours, theirs, "{}", shape.join(name).display());
        }
        let [ours, theirs] = [out.path(), &shape].map(|dir| fs::read(dir.join("model.safetensors")).unwrap());
        let [ours, theirs] = [&ours, &theirs].map(|bytes| SafeTensors::deserialize(bytes).unwrap());
        assert_eq!(ours.len(), theirs.len());
        for (name, tensor) in theirs.iter() {
            let same = ours.tensor(name).unwrap();
            assert!(same.shape() == tensor.shape() && same.data() == tensor.data(), "{name}");
        }
    }
}
