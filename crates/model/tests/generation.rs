//! Generation: the cache must change nothing, and every way to end must end.

mod common;

use common::{network, tiny, tokens};
use eyas_model::{
    Activations, Error, FinishReason, Format, Generated, Gpt, KvCache, Sampling, Use, generate,
};
use eyas_ops::{Backend, Bf16, Cpu};
use std::ops::ControlFlow;
use std::sync::Arc;

fn run<D: Backend>(gpt: &Gpt<D>, prompt: &[u32], sampling: &Sampling, n: usize) -> Vec<Generated> {
    generate(gpt, prompt, sampling, n, &mut |_, _| ControlFlow::Continue(())).unwrap()
}

/// Greedy decoding that runs the whole sequence again for each token.
fn greedy_without_cache<D: Backend>(gpt: &Gpt<D>, prompt: &[u32], n: usize) -> Vec<u32> {
    let (vocab_size, mut ids) = (gpt.config().vocab_size, prompt.to_vec());
    for _ in 0..n {
        let mut acts = Activations::new(gpt, 1, ids.len());
        gpt.forward(&mut acts, &ids, ids.len(), None);
        let logits = gpt.logits(&acts);
        let last = &logits[logits.len() - vocab_size..];
        let best = (0..vocab_size).rev().max_by(|&a, &b| last[a].total_cmp(&last[b])).unwrap();
        ids.push(best as u32);
    }
    ids.split_off(prompt.len())
}

#[test]
fn a_cached_network_says_what_a_full_one_says() {
    let gpt = network(tiny(), 2, Use::Inference);
    let sampling = Sampling { max_new_tokens: 18, ..Sampling::default() };
    for prompt_len in [1, 2, 5] {
        let prompt = tokens(prompt_len, 37, prompt_len as u64);
        assert_eq!(run(&gpt, &prompt, &sampling, 1)[0].ids, greedy_without_cache(&gpt, &prompt, 18));
    }
}

#[test]
fn cached_logits_are_the_full_ones_for_long_prompts_and_repeated_sequences() {
    let config = eyas_model::Config { n_positions: 300, ..tiny() };
    let gpt = network(config, 2, Use::Inference);
    let ids = tokens(290, 37, 5);
    let mut acts = Activations::new(&gpt, 1, ids.len());
    gpt.forward(&mut acts, &ids, ids.len(), None);
    let full = gpt.logits(&acts);
    let mut cache = KvCache::new(&gpt, 300);
    // More than one piece, then what was read after the first 140 tokens is forgotten and read again.
    gpt.prefill(&mut cache, &ids[..200]);
    cache.truncate(140);
    gpt.prefill(&mut cache, &ids[140..280]);
    let mut cache = cache.repeat(&gpt, 3);
    for at in 280..290 {
        let logits = gpt.step(&mut cache, &[ids[at]; 3]);
        for row in logits.chunks_exact(37) {
            let error = common::relative_error(row, &full[at * 37..(at + 1) * 37]);
            assert!(error < 1e-5, "token {at}: {error:e}");
        }
    }
    assert_eq!(cache.len(), 290);
}

#[test]
fn bf16_is_cached_alike() {
    let mut gpt = Gpt::new(Arc::new(Cpu::<Bf16>::new()), tiny(), Use::Inference).unwrap();
    gpt.init(1);
    let prompt = tokens(5, 37, 9);
    let mut acts = Activations::new(&gpt, 1, 5);
    gpt.forward(&mut acts, &prompt, 5, None);
    let full = gpt.logits(&acts);
    let mut cache = KvCache::new(&gpt, 5);
    gpt.prefill(&mut cache, &prompt[..4]);
    let error = common::relative_error(gpt.step(&mut cache, &prompt[4..]), &full[4 * 37..]);
    assert!(error < 2e-2, "{error:e}");
}

#[test]
fn quantized_networks_are_cached_alike() {
    for format in [Format::Int8, Format::Int4] {
        let gpt = network(tiny(), 2, Use::Quantized(format));
        let ids = tokens(20, 37, 9);
        let mut acts = Activations::new(&gpt, 1, 20);
        gpt.forward(&mut acts, &ids, 20, None);
        let full = gpt.logits(&acts);
        let mut cache = KvCache::new(&gpt, 20);
        gpt.prefill(&mut cache, &ids[..12]);
        for at in 12..20 {
            let row = gpt.step(&mut cache, &ids[at..at + 1]);
            // A single row is multiplied in fixed point, which keeps 15 bits.
            let error = common::relative_error(row, &full[at * 37..][..37]);
            assert!(error < 1e-3, "{format}, token {at}: {error:e}");
        }
    }
}

#[test]
fn sequences_are_streams_of_their_own_and_seeds_repeat() {
    let gpt = network(tiny(), 2, Use::Inference);
    let sampling = Sampling { do_sample: true, max_new_tokens: 12, ..Sampling::default() };
    let three = run(&gpt, &[1, 2], &sampling, 3);
    assert_eq!(three, run(&gpt, &[1, 2], &sampling, 3));
    assert!(three[0] != three[1] && three[1] != three[2]);
    // Sequence i of seed s is the first of seed s + i.
    for (i, sequence) in three.iter().enumerate() {
        let alone = Sampling { seed: sampling.seed + i as u64, ..sampling.clone() };
        assert_eq!(&run(&gpt, &[1, 2], &alone, 1)[0], sequence);
    }
}

#[test]
fn an_end_token_ends_its_sequence_only() {
    let gpt = network(tiny(), 2, Use::Inference);
    let free = Sampling { do_sample: true, max_new_tokens: 12, ..Sampling::default() };
    let without = run(&gpt, &[1, 2], &free, 3);
    let stop = without[1].ids[4];
    let with = run(&gpt, &[1, 2], &Sampling { eos_token_ids: vec![stop], ..free }, 3);
    for (with, without) in with.iter().zip(&without) {
        let end = without.ids.iter().position(|&id| id == stop);
        assert_eq!(with.ids, without.ids[..end.map_or(12, |end| end + 1)]);
        let expected = if end.is_some() { FinishReason::Stop } else { FinishReason::Length };
        assert_eq!(with.finish_reason, expected);
    }
}

#[test]
fn the_caller_sees_each_token_and_may_stop() {
    let gpt = network(tiny(), 2, Use::Inference);
    let mut seen = Vec::new();
    let sampling = Sampling { max_new_tokens: 10, ..Sampling::default() };
    let done = generate(&gpt, &[3], &sampling, 1, &mut |sequence, id| {
        seen.push((sequence, id));
        if seen.len() == 4 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    let done = done.unwrap();
    assert_eq!(done[0].finish_reason, FinishReason::Stop);
    assert_eq!(seen.iter().map(|&(_, id)| id).collect::<Vec<_>>(), done[0].ids);
}

#[test]
fn positions_bound_the_sequence() {
    let gpt = network(tiny(), 1, Use::Inference);
    let endless = Sampling { max_new_tokens: usize::MAX, ..Sampling::default() };
    for prompt_len in [1, 22, 23] {
        let done = run(&gpt, &tokens(prompt_len, 37, 1), &endless, 1);
        assert_eq!((done[0].ids.len(), done[0].finish_reason), (24 - prompt_len, FinishReason::Length));
    }
}

#[test]
fn impossible_requests_are_errors() {
    let gpt = network(tiny(), 1, Use::Inference);
    let ask = |prompt: &[u32], sampling: &Sampling, n| {
        generate(&gpt, prompt, sampling, n, &mut |_, _| ControlFlow::Continue(()))
    };
    let greedy = Sampling::default();
    assert!(matches!(ask(&[], &greedy, 1), Err(Error::Prompt(_))));
    assert!(matches!(ask(&[37], &greedy, 1), Err(Error::Prompt(_))));
    assert!(matches!(ask(&[1; 24], &greedy, 1), Err(Error::Prompt(_))));
    assert!(matches!(ask(&[1], &greedy, 0), Err(Error::Sampling { .. })));
    assert!(matches!(ask(&[1], &greedy, 2), Err(Error::Sampling { .. })));
    let hot = Sampling { do_sample: true, temperature: -1.0, ..greedy };
    assert!(matches!(ask(&[1], &hot, 1), Err(Error::Sampling { .. })));
}

#[test]
fn broken_weights_are_an_error_and_not_a_token() {
    let mut gpt = network(tiny(), 1, Use::Inference);
    gpt.update(|_, weights| weights.ln_f.bias[0] = f32::NAN);
    let result = generate(&gpt, &[1], &Sampling::default(), 1, &mut |_, _| ControlFlow::Continue(()));
    assert!(matches!(result, Err(Error::Logits { num_tokens: 1 })), "{result:?}");
}
