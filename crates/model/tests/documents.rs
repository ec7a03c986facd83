//! Documents that share a row, kept apart: each is what it would be alone.

mod common;

use common::{host, network, relative_error, tiny, tokens};
use eyas_model::{Activations, Config, Gpt, Gradients, Use};
use eyas_ops::{Backend, Bf16, Cpu, Isa};
use std::sync::Arc;

/// The token that ends a document.
const END: u32 = 0;
/// Tokens of a row.
const TIME: usize = 16;
/// Tokens of its first document.
const FIRST: usize = 8;

/// A row of two documents of equal length, the first of which is named by `seed`.
fn row(seed: u64) -> Vec<u32> {
    let words = |n, seed| tokens(n, tiny().vocab_size - 1, seed).into_iter().map(|id| id + 1);
    let ended = |seed| words(FIRST - 1, seed).chain([END]);
    ended(seed).chain(ended(99)).collect()
}

#[test]
fn what_stands_in_another_document_changes_no_bit() {
    let mut gpt = network(tiny(), 2, Use::Training);
    let mut acts = Activations::new(&gpt, 1, TIME);
    let mut logits = |end: Option<u32>, seed| {
        gpt.set_document_end(end);
        gpt.forward(&mut acts, &row(seed), TIME, None);
        gpt.logits(&acts)
    };
    let vocab_size = tiny().vocab_size;
    let [one, other] = [1, 2].map(|seed| logits(Some(END), seed));
    let (first, second) = (..FIRST * vocab_size, FIRST * vocab_size..);
    assert!(one[second.clone()] == other[second.clone()], "the second document saw the first");
    assert!(one[first] != other[first]);
    // The first document is what it was without the mask, and the second is not.
    let [unmasked, other] = [1, 2].map(|seed| logits(None, seed));
    assert!(unmasked[first] == one[first]);
    assert!(unmasked[second.clone()] != one[second.clone()]);
    assert!(unmasked[second.clone()] != other[second]);
    // A row without a border is one document.
    let whole = tokens(TIME, vocab_size - 1, 3).into_iter().map(|id| id + 1).collect::<Vec<_>>();
    let mut losses = |end| {
        gpt.set_document_end(end);
        gpt.evaluate(&mut acts, &whole, &whole, TIME).losses.to_vec()
    };
    assert_eq!(losses(Some(END)), losses(None));
}

/// Losses and gradients of a micro-batch of rows of `time` tokens.
fn gradients<D: Backend>(
    gpt: &Gpt<D>,
    inputs: &[u32],
    time: usize,
    key: Option<u64>,
) -> (Vec<f32>, Vec<Vec<f32>>) {
    let (mut acts, mut grads) = (Activations::new(gpt, inputs.len() / time, time), Gradients::new(gpt));
    gpt.forward(&mut acts, inputs, time, key);
    let targets: Vec<u32> = inputs.iter().map(|id| (id + 5) % tiny().vocab_size as u32).collect();
    gpt.backward(&mut acts, &mut grads, &targets, &vec![1.0 / inputs.len() as f32; inputs.len()]);
    let losses = gpt.losses(&mut acts).to_vec();
    (losses, grads.table.iter().map(|grad| host(&**gpt.device(), grad)).collect())
}

#[test]
fn documents_of_a_row_learn_as_if_each_had_its_own() {
    let mut gpt = network(tiny(), 2, Use::Training);
    // Without positions it does not matter where in a row a document stands.
    gpt.update(|_, weights| weights.wpe.fill(0.0));
    let inputs = row(1);
    let (losses, mut alone) = gradients(&gpt, &inputs, FIRST, None);
    let (_, unmasked) = gradients(&gpt, &inputs, TIME, None);
    gpt.set_document_end(Some(END));
    let (masked_losses, mut together) = gradients(&gpt, &inputs, TIME, None);
    let error = relative_error(&masked_losses, &losses);
    assert!(error < 1e-6, "losses: {error:e}");
    // Positions have gradients all the same: those of the second document lie further on.
    let channels = tiny().n_embd;
    for (declared, grad) in gpt.declarations().iter().zip(alone.iter_mut().zip(&mut together)) {
        if declared.name.contains("wpe") {
            let (alone, together) = grad;
            assert!(together[FIRST * channels..TIME * channels].iter().any(|&x| x != 0.0));
            for i in 0..FIRST * channels {
                together[i] += std::mem::take(&mut together[FIRST * channels + i]);
            }
            assert!(alone[FIRST * channels..].iter().all(|&x| x == 0.0));
        }
    }
    for (declared, ((alone, together), unmasked)) in
        gpt.declarations().iter().zip(alone.iter().zip(&together).zip(&unmasked))
    {
        let error = relative_error(together, alone);
        assert!(error < 1e-5, "{}: {error:e}", declared.name);
        assert!(together != unmasked, "{}", declared.name);
    }
}

#[test]
fn gradient_checkpointing_and_threads_change_no_bit() {
    fn check<D: Backend>(on: impl Fn(usize) -> D) {
        let run = |threads, checkpointing, end| {
            let config = Config { n_layer: 3, initializer_range: 0.2, ..tiny() };
            let mut gpt = Gpt::new(Arc::new(on(threads)), config, Use::Training).unwrap();
            gpt.init(42);
            gpt.set_gradient_checkpointing(checkpointing);
            gpt.set_document_end(end);
            gradients(&gpt, &[row(1), row(2), row(3)].concat(), TIME, Some(4))
        };
        let expected = run(1, false, Some(END));
        for (threads, checkpointing) in [(1, true), (2, false), (3, true)] {
            assert!(run(threads, checkpointing, Some(END)) == expected, "{threads} threads, {checkpointing}");
        }
        assert!(run(1, true, None) != expected);
    }
    check(|threads| Cpu::<f32>::with(Isa::detect(), threads));
    check(|threads| Cpu::<Bf16>::with(Isa::detect(), threads));
}
