//! Evaluation: the definition, on numbers computed here a second way.

use crate::common::World;
use eyas_data::{EvalStream, Mode, PrepareOptions, Shards, SourceOptions, eval_stream, prepare};
use eyas_model::{Activations, Config, Gpt, Use};
use eyas_ops::Cpu;
use eyas_token::Tokenizer;
use eyas_train::{Error, EvalData, EvalResult, evaluate};
use std::ops::ControlFlow;
use std::sync::Arc;

fn gpt(vocab_size: usize) -> Gpt<Cpu<f32>> {
    let config =
        Config { vocab_size, n_positions: 16, n_embd: 32, n_layer: 1, n_head: 2, ..Config::default() };
    let mut gpt = Gpt::new(Arc::new(Cpu::new()), config, Use::Inference).expect("a network");
    gpt.init(3);
    gpt
}

fn score(
    gpt: &Gpt<Cpu<f32>>,
    data: &EvalData,
    context_length: usize,
    batch: usize,
) -> Result<EvalResult, Error> {
    let mut activations = Activations::new(gpt, batch, context_length);
    let mut progress = |_, _| ControlFlow::Continue(());
    let result = evaluate(gpt, &mut activations, data, context_length, batch, &mut progress)?;
    Ok(result.expect("not stopped"))
}

/// Loss and hits of one window, from its logits in f64.
fn by_hand(gpt: &Gpt<Cpu<f32>>, inputs: &[u32], targets: &[u32]) -> (f64, u64) {
    let mut activations = Activations::new(gpt, 1, inputs.len());
    gpt.forward(&mut activations, inputs, inputs.len(), None);
    let logits = gpt.logits(&activations);
    let vocab_size = gpt.config().vocab_size;
    let (mut loss, mut hits) = (0.0, 0);
    for (logits, &target) in logits.chunks_exact(vocab_size).zip(targets) {
        let sum: f64 = logits.iter().map(|x| f64::from(*x).exp()).sum();
        loss += sum.ln() - f64::from(logits[target as usize]);
        let best = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        hits += u64::from(logits[target as usize] == best);
    }
    (loss, hits)
}

#[test]
fn a_stream_is_scored_once_in_windows() {
    let gpt = gpt(40);
    // Two windows of 8 and one of 3, and a batch that does not divide them.
    let ids: Vec<u32> = (0..20).map(|i| (i * i + 3) % 40).collect();
    let (mut loss, mut hits) = (0.0, 0);
    for (start, end) in [(0, 8), (8, 16), (16, 19)] {
        let (more, right) = by_hand(&gpt, &ids[start..end], &ids[start + 1..=end]);
        (loss, hits) = (loss + more, hits + right);
    }
    let data = EvalData::Stream(EvalStream { ids, num_bytes: 50, num_documents: 1 });
    let result = score(&gpt, &data, 8, 1).expect("scored");
    assert_eq!((result.num_targets, result.num_bytes), (19, 50));
    assert!((result.loss - loss / 19.0).abs() < 1e-5, "{} for {}", result.loss, loss / 19.0);
    assert!((result.perplexity - result.loss.exp()).abs() < 1e-9);
    let bits = loss / (std::f64::consts::LN_2 * 50.0);
    assert!((result.bits_per_byte - bits).abs() < 1e-5);
    assert!((result.next_token_accuracy - hits as f64 / 19.0).abs() < 1e-9);
    // How many windows are scored together changes no bit.
    for batch in [2, 5] {
        assert_eq!(score(&gpt, &data, 8, batch).expect("scored"), result);
    }
}

#[test]
fn shards_of_a_stream_are_scored_like_the_stream() {
    let world = World::new();
    let tokenizer = Tokenizer::load(&world.path("tokenizer")).expect("a tokenizer");
    let mut gpt = gpt(tokenizer.vocab_size());
    let data = [world.path("valid").to_string_lossy().into_owned()];
    let stream = eval_stream(&data, &tokenizer, &SourceOptions::default()).expect("a stream");
    let expected = score(&gpt, &EvalData::Stream(stream), 16, 4).expect("scored");
    let make = |mode: Mode| {
        let options = PrepareOptions {
            mode,
            context_length: 16,
            source: SourceOptions::default(),
            validation_one_in: None,
            fim: None,
        };
        let out = world.path(&format!("{mode:?}"));
        prepare(&data, &tokenizer, &options, &out, &mut |_| {}).expect("prepared");
    };
    let shards = |mode: Mode| {
        let shards = Shards::open(&world.path(&format!("{mode:?}"))).expect("shards");
        EvalData::shards(Arc::new(shards), &tokenizer)
    };
    [Mode::Pack, Mode::Chunk].into_iter().for_each(make);
    assert_eq!(score(&gpt, &shards(Mode::Pack), 16, 3).expect("scored"), expected);
    // A chunk's last token has no target, and what does not fill a chunk is not scored.
    let chunks = score(&gpt, &shards(Mode::Chunk), 16, 3).expect("scored");
    assert!(chunks.num_targets.is_multiple_of(15) && chunks.num_targets < expected.num_targets);
    assert!(chunks.num_bytes < expected.num_bytes);
    assert!((chunks.bits_per_byte - expected.bits_per_byte).abs() < 0.2, "{chunks:?} {expected:?}");

    // Kept apart, documents are scored otherwise, prepared or not, but for chunks, which are of one each.
    gpt.set_document_end(tokenizer.end_of_text());
    let stream = eval_stream(&data, &tokenizer, &SourceOptions::default()).expect("a stream");
    let masked = score(&gpt, &EvalData::Stream(stream), 16, 4).expect("scored");
    assert_ne!(masked.loss, expected.loss);
    assert_eq!(score(&gpt, &shards(Mode::Pack), 16, 3).expect("scored"), masked);
    assert_eq!(score(&gpt, &shards(Mode::Chunk), 16, 3).expect("scored"), chunks);
}

#[test]
fn nothing_to_score_is_an_error() {
    let data = EvalData::Stream(EvalStream { ids: vec![0], num_bytes: 0, num_documents: 0 });
    assert!(matches!(score(&gpt(40), &data, 8, 1), Err(Error::NothingToEvaluate)));
}
