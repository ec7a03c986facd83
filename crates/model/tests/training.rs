//! The network as a thing that learns: derivatives with dropout, bits, accumulation, short batches, overfitting.

mod common;

use common::{cpu, host, network, relative_error, tiny, tokens};
use eyas_model::{Activations, Config, Gpt, Gradients, IGNORE, Init, Use, memory_plan};
use eyas_ops::{Backend, Bf16, Cpu, Isa, Rounding};
use std::sync::Arc;

const TIME: usize = 7;

fn batch(rows: usize) -> (Vec<u32>, Vec<u32>) {
    let vocab_size = tiny().vocab_size;
    let mut targets = tokens(rows * TIME, vocab_size, 2);
    targets[TIME - 1] = IGNORE;
    (tokens(rows * TIME, vocab_size, 1), targets)
}

fn mean_weights(targets: &[u32]) -> Vec<f32> {
    let num_targets = targets.iter().filter(|&&target| target != IGNORE).count();
    vec![1.0 / num_targets as f32; targets.len()]
}

/// Losses and gradients of one micro-batch.
fn gradients<D: Backend>(
    gpt: &Gpt<D>,
    inputs: &[u32],
    targets: &[u32],
    key: Option<u64>,
) -> (Vec<f32>, Vec<Vec<f32>>) {
    let (mut acts, mut grads) = (Activations::new(gpt, inputs.len() / TIME, TIME), Gradients::new(gpt));
    gpt.forward(&mut acts, inputs, TIME, key);
    gpt.backward(&mut acts, &mut grads, targets, &mean_weights(targets));
    let losses = gpt.losses(&mut acts).to_vec();
    (losses, grads.table.iter().map(|grad| host(&**gpt.device(), grad)).collect())
}

/// The masks of the backward pass must be those of the forward pass: along the gradient, the loss must rise as fast as the
/// gradient says.
#[test]
fn the_gradient_with_dropout_is_the_derivative_of_the_loss() {
    let (inputs, targets) = batch(4);
    let key = Some(99);
    for (embd, attn, resid) in [(0.3, 0.0, 0.0), (0.0, 0.3, 0.0), (0.0, 0.0, 0.3), (0.1, 0.1, 0.1)] {
        let config = Config { embd_pdrop: embd, attn_pdrop: attn, resid_pdrop: resid, ..tiny() };
        let mut gpt = network(config, 2, Use::Training);
        let (_, grads) = gradients(&gpt, &inputs, &targets, key);
        let norm = grads.iter().flatten().map(|&g| f64::from(g) * f64::from(g)).sum::<f64>().sqrt();
        let step = 1e-2 / norm;
        let mut loss_after = |factor: f64| {
            gpt.update(|_, weights| {
                for (weight, grad) in weights.iter_mut().zip(&grads) {
                    weight
                        .iter_mut()
                        .zip(grad)
                        .for_each(|(w, g)| *w += (factor * step * f64::from(*g)) as f32);
                }
            });
            let (losses, _) = gradients(&gpt, &inputs, &targets, key);
            losses.iter().map(|&loss| f64::from(loss)).sum::<f64>() / (losses.len() - 1) as f64
        };
        let (above, below) = (loss_after(1.0), loss_after(-2.0));
        let slope = (above - below) / (2.0 * step * norm * norm);
        assert!((slope - 1.0).abs() < 0.01, "dropouts {embd} {attn} {resid}: slope {slope}, expected 1");
    }
}

#[test]
fn dropout_changes_the_loss_and_its_key_names_the_mask() {
    let (inputs, targets) = batch(4);
    let gpt = network(tiny(), 2, Use::Training);
    let losses = |key| gradients(&gpt, &inputs, &targets, key).0;
    assert_eq!(losses(Some(1)), losses(Some(1)));
    assert_ne!(losses(Some(1)), losses(Some(2)));
    assert_ne!(losses(Some(1)), losses(None));
}

#[test]
fn bits_do_not_depend_on_the_number_of_threads() {
    let (inputs, targets) = batch(5);
    let run = |threads| gradients(&network(tiny(), threads, Use::Training), &inputs, &targets, Some(3));
    let one = run(1);
    for threads in [2, 3] {
        assert!(run(threads) == one, "{threads} threads");
    }
}

#[test]
fn an_update_may_round_copies_by_chance_and_leaves_weights_alone() {
    let (inputs, targets) = batch(4);
    let new = |threads| {
        let device = Arc::new(Cpu::<Bf16>::with(Isa::detect(), threads));
        let mut gpt = Gpt::new(device, Config { initializer_range: 0.2, ..tiny() }, Use::Training).unwrap();
        gpt.init(42);
        gpt
    };
    let mut gpt = new(2);
    let weights: Vec<_> = gpt.weights().iter().map(|weight| host(&**gpt.device(), weight)).collect();
    let nearest = gradients(&gpt, &inputs, &targets, None);
    let rounded = |gpt: &mut Gpt<Cpu<Bf16>>, rounding| {
        gpt.update_rounded(rounding, |_, _| ());
        for (now, before) in gpt.weights().iter().zip(&weights) {
            assert!(host(&**gpt.device(), now) == *before, "weights stay in f32");
        }
        gradients(gpt, &inputs, &targets, None)
    };
    let [one, two] = [1, 2].map(|key| Rounding::Stochastic { key });
    let first = rounded(&mut gpt, one);
    assert_ne!(first.0, nearest.0);
    assert_ne!(first.0, rounded(&mut gpt, two).0);
    assert!(first == rounded(&mut gpt, one), "the key decides");
    assert!(first == rounded(&mut new(3), one), "threads change no bit");
    assert!(nearest == rounded(&mut gpt, Rounding::Nearest));
    // What is loaded is rounded to nearest.
    rounded(&mut gpt, one);
    let folder = tempfile::TempDir::new().unwrap();
    gpt.save(folder.path()).unwrap();
    gpt.reload(folder.path()).unwrap();
    assert!(nearest == gradients(&gpt, &inputs, &targets, None));
}

/// Losses and gradients of what two micro-batches add up to, the second shorter, with an evaluation between them.
fn two_micro_batches<D: Backend>(
    device: D,
    config: &Config,
    checkpointing: bool,
) -> (Vec<f32>, Vec<Vec<f32>>) {
    let device = Arc::new(device);
    let mut gpt =
        Gpt::new(device, Config { initializer_range: 0.2, ..config.clone() }, Use::Training).unwrap();
    gpt.init(42);
    gpt.set_gradient_checkpointing(checkpointing);
    let (mut acts, mut grads) = (Activations::new(&gpt, 3, TIME), Gradients::new(&gpt));
    let mut losses = Vec::new();
    for (rows, key) in [(3, 8), (2, 9)] {
        let (inputs, targets) = batch(rows);
        gpt.forward(&mut acts, &inputs, TIME, Some(key));
        gpt.backward(&mut acts, &mut grads, &targets, &mean_weights(&targets));
        losses.extend_from_slice(gpt.losses(&mut acts));
        losses.extend_from_slice(gpt.evaluate(&mut acts, &inputs, &targets, TIME).losses);
    }
    (losses, grads.table.iter().map(|grad| host(&**gpt.device(), grad)).collect())
}

#[test]
fn gradient_checkpointing_changes_no_bit() {
    fn check<D: Backend>(name: &str, on: impl Fn(usize) -> D) {
        for (n_layer, dropout, threads) in
            [(1, 0.1, 2), (2, 0.0, 1), (2, 0.1, 2), (5, 0.0, 2), (5, 0.1, 1), (5, 0.1, 2)]
        {
            let config =
                Config { n_layer, embd_pdrop: dropout, attn_pdrop: dropout, resid_pdrop: dropout, ..tiny() };
            let (losses, grads) = two_micro_batches(on(threads), &config, true);
            let (expected_losses, expected_grads) = two_micro_batches(on(threads), &config, false);
            let case = format!("{name}, {n_layer} layers, dropout {dropout}, {threads} threads");
            assert!(losses == expected_losses, "{case}: losses");
            for ((declared, grad), expected) in config.parameters().iter().zip(&grads).zip(&expected_grads) {
                assert!(grad.iter().any(|&g| g != 0.0), "{case}: {} has no gradient", declared.name);
                assert!(grad == expected, "{case}: {}", declared.name);
            }
        }
    }
    check("f32", |threads| Cpu::<f32>::with(Isa::detect(), threads));
    check("bf16", |threads| Cpu::<Bf16>::with(Isa::detect(), threads));
}

#[test]
#[should_panic(expected = "used up")]
fn gradient_checkpointing_refuses_a_second_backward_pass() {
    let (inputs, targets) = batch(1);
    let mut gpt = network(tiny(), 1, Use::Training);
    gpt.set_gradient_checkpointing(true);
    let (mut acts, mut grads) = (Activations::new(&gpt, 1, TIME), Gradients::new(&gpt));
    gpt.forward(&mut acts, &inputs, TIME, None);
    for _ in 0..2 {
        gpt.backward(&mut acts, &mut grads, &targets, &mean_weights(&targets));
    }
}

#[test]
fn two_micro_batches_add_up_to_one_batch() {
    let (inputs, targets) = batch(4);
    let (weights, half) = (mean_weights(&targets), 2 * TIME);
    let gpt = network(tiny(), 2, Use::Training);
    let (_, whole) = gradients(&gpt, &inputs, &targets, None);
    let (mut acts, mut grads) = (Activations::new(&gpt, 2, TIME), Gradients::new(&gpt));
    grads.clear();
    for part in [0..half, half..2 * half] {
        gpt.forward(&mut acts, &inputs[part.clone()], TIME, None);
        gpt.backward(&mut acts, &mut grads, &targets[part.clone()], &weights[part]);
    }
    for ((declared, grad), whole) in gpt.declarations().iter().zip(grads.table.iter()).zip(&whole) {
        let error = relative_error(&host(&**gpt.device(), grad), whole);
        assert!(error < 1e-5, "{}: {error:e}", declared.name);
    }
    grads.clear();
    assert_eq!(grads.norm(), 0.0);
}

#[test]
fn a_short_batch_gives_what_its_rows_give_in_a_full_one() {
    let (inputs, targets) = batch(3);
    let gpt = network(tiny(), 2, Use::Training);
    let mut acts = Activations::new(&gpt, 3, TIME);
    let full = gpt.evaluate(&mut acts, &inputs, &targets, TIME);
    let (losses, predictions) = (full.losses.to_vec(), full.predictions.to_vec());
    // The same buffers, now with another batch's leftovers in them.
    for rows in [1, 2] {
        let n = rows * TIME;
        let short = gpt.evaluate(&mut acts, &inputs[..n], &targets[..n], TIME);
        assert!(relative_error(short.losses, &losses[..n]) < 1e-6);
        assert_eq!(short.predictions, &predictions[..n]);
    }
    // A shorter row sees the same past.
    let row = gpt.evaluate(&mut acts, &inputs[..4], &targets[..4], 4);
    assert!(relative_error(row.losses, &losses[..4]) < 1e-6);

    let mut grads = Gradients::new(&gpt);
    gpt.forward(&mut acts, &inputs[..TIME], TIME, Some(1));
    gpt.backward(&mut acts, &mut grads, &targets[..TIME], &mean_weights(&targets[..TIME]));
    let (_, expected) = gradients(&gpt, &inputs[..TIME], &targets[..TIME], Some(1));
    for (grad, expected) in grads.table.iter().zip(&expected) {
        assert_eq!(&host(&**gpt.device(), grad), expected);
    }
}

#[test]
fn evaluation_needs_no_training_buffers() {
    let (inputs, targets) = batch(3);
    let scores = |purpose| {
        let gpt = network(tiny(), 2, purpose);
        let mut acts = Activations::new(&gpt, 3, TIME);
        let scores = gpt.evaluate(&mut acts, &inputs, &targets, TIME);
        (scores.losses.to_vec(), scores.predictions.to_vec())
    };
    assert_eq!(scores(Use::Training), scores(Use::Inference));
}

#[test]
fn predictions_are_the_most_likely_tokens() {
    let (inputs, targets) = batch(3);
    let gpt = network(tiny(), 2, Use::Inference);
    let mut acts = Activations::new(&gpt, 3, TIME);
    let predictions = gpt.evaluate(&mut acts, &inputs, &targets, TIME).predictions.to_vec();
    let logits = gpt.logits(&acts);
    for (row, &prediction) in logits.chunks_exact(tiny().vocab_size).zip(&predictions) {
        let max = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        assert_eq!(row[prediction as usize], max);
    }
}

fn overfit<D: Backend>(
    mut gpt: Gpt<D>,
    add: impl Fn(&D, &mut eyas_ops::Buf<D, f32>, &eyas_ops::Buf<D, f32>),
) -> f64 {
    let (inputs, targets) = batch(3);
    let (mut acts, mut grads) = (Activations::new(&gpt, 3, TIME), Gradients::new(&gpt));
    let weights = mean_weights(&targets);
    let mut loss = f64::INFINITY;
    for _ in 0..300 {
        grads.clear();
        gpt.forward(&mut acts, &inputs, TIME, None);
        gpt.backward(&mut acts, &mut grads, &targets, &weights);
        let losses = gpt.losses(&mut acts);
        loss = losses.iter().zip(&weights).map(|(&l, &w)| f64::from(l) * f64::from(w)).sum();
        gpt.update(|device, weights| {
            weights.iter_mut().zip(grads.table.iter()).for_each(|(weight, grad)| add(device, weight, grad));
        });
    }
    loss
}

#[test]
fn plain_gradient_descent_learns_one_batch_by_heart() {
    let sgd = |weight: &mut [f32], grad: &[f32]| {
        weight.iter_mut().zip(grad).for_each(|(w, g)| *w -= 0.2 * g);
    };
    let loss = overfit(network(tiny(), 2, Use::Training), |_, weight, grad| sgd(weight, grad));
    assert!(loss < 0.02, "f32: {loss}");
    let config = Config { initializer_range: 0.2, ..tiny() };
    let mut gpt = Gpt::new(Arc::new(Cpu::<Bf16>::new()), config, Use::Training).unwrap();
    gpt.init(42);
    let loss = overfit(gpt, |_, weight, grad| sgd(weight, grad));
    assert!(loss < 0.02, "bf16: {loss}");
}

#[test]
fn initial_values_have_the_deviations_of_gpt2() {
    let config = Config { vocab_size: 500, n_positions: 64, n_embd: 96, n_head: 3, ..Config::default() };
    let mut gpt = Gpt::new(cpu(2), config, Use::Training).unwrap();
    gpt.init(7);
    for (declared, weight) in gpt.declarations().iter().zip(gpt.weights().iter()) {
        let values = host(&**gpt.device(), weight);
        let n = values.len() as f64;
        let mean = values.iter().map(|&x| f64::from(x)).sum::<f64>() / n;
        let deviation = (values.iter().map(|&x| (f64::from(x) - mean).powi(2)).sum::<f64>() / n).sqrt();
        match declared.init {
            Init::Normal { std } => {
                let expected = if declared.name.ends_with("c_proj.weight") { 0.0041 } else { 0.0200 };
                assert!((f64::from(std) - expected).abs() < 5e-5, "{}: {std}", declared.name);
                assert!((deviation / f64::from(std) - 1.0).abs() < 0.03, "{}: {deviation}", declared.name);
                assert!(mean.abs() < 5.0 * deviation / n.sqrt(), "{}: mean {mean}", declared.name);
            }
            Init::Zeros => assert!(values.iter().all(|&x| x == 0.0)),
            Init::Ones => assert!(values.iter().all(|&x| x == 1.0)),
        }
    }
    let first = host(&**gpt.device(), &gpt.weights().wte);
    gpt.init(8);
    assert_ne!(host(&**gpt.device(), &gpt.weights().wte), first);
    gpt.init(7);
    assert_eq!(host(&**gpt.device(), &gpt.weights().wte), first);
}

#[test]
fn an_untrained_network_is_as_unsure_as_chance() {
    let mut gpt = Gpt::new(cpu(2), tiny(), Use::Training).unwrap();
    gpt.init(1);
    let (inputs, targets) = batch(3);
    let mut acts = Activations::new(&gpt, 3, TIME);
    let scores = gpt.evaluate(&mut acts, &inputs, &targets, TIME);
    let loss = scores.losses.iter().sum::<f32>() / (scores.losses.len() - 1) as f32;
    assert!((loss - (tiny().vocab_size as f32).ln()).abs() < 0.05, "{loss}");
    assert_eq!(scores.losses[TIME - 1], 0.0, "an ignored target has no loss");
}

#[test]
fn the_memory_plan_counts_every_kind() {
    let plan_with =
        |purpose, checkpointing| memory_plan(&*cpu(1), &Config::default(), 8, 128, purpose, checkpointing);
    let plan = |purpose| plan_with(purpose, false);
    let training = plan(Use::Training);
    let bytes = |kind: &str| training.items.iter().find(|item| item.0 == kind).map(|item| item.1).unwrap();
    assert_eq!(bytes("parameters"), 4 * 124_439_808);
    assert_eq!(bytes("gradients"), bytes("parameters"));
    // 12 blocks that save 12 C and the statistics for each token (this device makes GELU's output, 4 C, again), and a quarter of
    // it for the rest at most.
    let saved = 12 * 8 * 128 * (768 * (1 + 3 + 1 + 1 + 1 + 4 + 1) + 4 + 12) * 4;
    assert!((saved..saved * 5 / 4).contains(&bytes("activations")), "{} {saved}", bytes("activations"));
    assert!(plan(Use::Inference).total_bytes() < training.total_bytes() / 3);
    // With gradient checkpointing 11 sets of what is inside a block less.
    let inside = 8 * 128 * (768 * (1 + 3 + 1 + 1 + 1 + 4) + 4 + 12) * 4;
    let less = training.total_bytes() - plan_with(Use::Training, true).total_bytes();
    assert_eq!(less, 11 * inside);
    assert_eq!(plan_with(Use::Inference, true), plan(Use::Inference));
}
