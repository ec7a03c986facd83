//! Evaluation: loss, perplexity, bits per byte and next-token accuracy.
//!
//! A stream is cut into windows of `context_length` targets, the last one shorter; every token but the first is a target
//! once. Bits per byte = summed loss / (ln 2 x UTF-8 bytes), of the documents for a stream, of the scored tokens for
//! chunks, whose cutting drops the rest of a document. The mean is over all targets, and depends on no batch size.
//! A network that keeps documents apart does so in the windows of a stream, prepared or not; a chunk is of one document.

use crate::error::Error;
use eyas_data::{EvalStream, Loader, Mode, Shards};
use eyas_model::{Activations, Gpt, IGNORE};
use eyas_ops::Backend;
use eyas_token::Tokenizer;
use serde::Serialize;
use std::ops::ControlFlow;
use std::sync::Arc;

/// What an evaluation says.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct EvalResult {
    /// Mean over targets, in nats.
    pub loss: f64,
    /// exp(loss).
    pub perplexity: f64,
    /// Summed loss / (ln 2 x bytes).
    pub bits_per_byte: f64,
    /// Share of targets that were the most likely token.
    pub next_token_accuracy: f64,
    /// Targets.
    pub num_targets: u64,
    /// UTF-8 bytes that they stand for.
    pub num_bytes: u64,
}

/// Tokens to evaluate on.
pub enum EvalData {
    /// Documents joined by end-of-text.
    Stream(EvalStream),
    /// Prepared data: windows of the stream in pack mode, chunks by themselves in chunk mode.
    Shards {
        /// The tokens.
        shards: Arc<Shards>,
        /// UTF-8 bytes of each token, for chunks.
        token_bytes: Vec<u32>,
    },
}

impl EvalData {
    /// Prepared data, with the tokenizer that says what bytes their tokens stand for.
    pub fn shards(shards: Arc<Shards>, tokenizer: &Tokenizer) -> Self {
        let bytes = |id: u32| match tokenizer.is_special(id) {
            // It stands for the end of a document, not for text.
            true => 0,
            false => tokenizer.token_bytes(id).map_or(0, |bytes| bytes.len() as u32),
        };
        let token_bytes = (0..tokenizer.vocab_size() as u32).map(bytes).collect();
        EvalData::Shards { shards, token_bytes }
    }

    /// Targets that an evaluation with windows of `context_length` scores.
    pub fn num_targets(&self, context_length: usize) -> u64 {
        match self {
            EvalData::Stream(stream) => (stream.ids.len() as u64).saturating_sub(1),
            EvalData::Shards { shards, .. } => match shards.mode() {
                Mode::Pack => shards.num_tokens().saturating_sub(1),
                Mode::Chunk => shards.num_tokens() / context_length as u64 * (context_length as u64 - 1),
            },
        }
    }
}

/// Scores `data` in windows of `context_length` targets, `batch` of them at a time as far as `activations` hold them.
/// `progress` is told how many targets of how many are done, and may break: then `None` is returned.
///
/// # Errors
/// Data without a target, or chunks of another length.
pub fn evaluate<D: Backend>(
    gpt: &Gpt<D>,
    activations: &mut Activations<D>,
    data: &EvalData,
    context_length: usize,
    batch: usize,
    progress: &mut dyn FnMut(u64, u64) -> ControlFlow<()>,
) -> Result<Option<EvalResult>, Error> {
    assert!(
        context_length > 0 && context_length <= activations.capacity(),
        "a window must fit the activations"
    );
    let num_targets = data.num_targets(context_length);
    if num_targets == 0 {
        return Err(Error::NothingToEvaluate);
    }
    let batch = batch.clamp(1, activations.capacity() / context_length);
    let scorer = Scorer { gpt, activations, progress, expected: num_targets, sums: Sums::default() };
    match data {
        EvalData::Stream(stream) => {
            let read = |start: u64, out: &mut [u32]| {
                let start = start as usize;
                out.copy_from_slice(&stream.ids[start..start + out.len()]);
            };
            Ok(scorer.stream(read, stream.ids.len() as u64, stream.num_bytes, context_length, batch))
        }
        EvalData::Shards { shards, token_bytes } => match shards.mode() {
            Mode::Pack => {
                let read = |start: u64, out: &mut [u32]| shards.read(start, out);
                Ok(scorer.stream(read, shards.num_tokens(), shards.num_bytes(), context_length, batch))
            }
            Mode::Chunk => {
                let loader = Loader::new(shards.clone(), context_length, 0, false)?;
                Ok(scorer.chunks(&loader, token_bytes, context_length, batch))
            }
        },
    }
}

#[derive(Default)]
struct Sums {
    loss: f64,
    num_correct: u64,
    num_targets: u64,
    num_bytes: u64,
}

struct Scorer<'a, D: Backend> {
    gpt: &'a Gpt<D>,
    activations: &'a mut Activations<D>,
    progress: &'a mut dyn FnMut(u64, u64) -> ControlFlow<()>,
    expected: u64,
    sums: Sums,
}

impl<D: Backend> Scorer<'_, D> {
    fn stream(
        mut self,
        read: impl Fn(u64, &mut [u32]),
        num_tokens: u64,
        num_bytes: u64,
        context_length: usize,
        batch: usize,
    ) -> Option<EvalResult> {
        let mut ids = vec![0; batch * context_length + 1];
        let mut start = 0;
        while start + 1 < num_tokens {
            let left = num_tokens - 1 - start;
            // Whole windows first, as many as the batch holds; the short one at the end goes alone.
            let count = match left / context_length as u64 {
                0 => left as usize,
                windows => context_length * batch.min(windows as usize),
            };
            let ids = &mut ids[..=count];
            read(start, ids);
            self.score(&ids[..count], &ids[1..], context_length.min(count)).is_continue().then_some(())?;
            start += count as u64;
        }
        self.sums.num_bytes = num_bytes;
        Some(self.sums.result())
    }

    fn chunks(
        mut self,
        loader: &Loader,
        token_bytes: &[u32],
        time: usize,
        batch: usize,
    ) -> Option<EvalResult> {
        let (mut inputs, mut targets) = (vec![0; batch * time], vec![IGNORE; batch * time]);
        let mut position = 0;
        while position < loader.num_samples() {
            let rows = (loader.num_samples() - position).min(batch as u64) as usize;
            let (inputs, targets) = (&mut inputs[..rows * time], &mut targets[..rows * time]);
            for (inputs, targets) in inputs.chunks_exact_mut(time).zip(targets.chunks_exact_mut(time)) {
                loader.sample(0, position, inputs, targets);
                position += 1;
            }
            let bytes = |&id: &u32| token_bytes.get(id as usize).map_or(0, |&bytes| u64::from(bytes));
            self.sums.num_bytes += targets.iter().map(bytes).sum::<u64>();
            self.score(inputs, targets, time).is_continue().then_some(())?;
        }
        Some(self.sums.result())
    }

    fn score(&mut self, inputs: &[u32], targets: &[u32], time: usize) -> ControlFlow<()> {
        let scores = self.gpt.evaluate(self.activations, inputs, targets, time);
        for ((loss, prediction), target) in scores.losses.iter().zip(scores.predictions).zip(targets) {
            if *target != IGNORE {
                self.sums.loss += f64::from(*loss);
                self.sums.num_correct += u64::from(prediction == target);
                self.sums.num_targets += 1;
            }
        }
        (self.progress)(self.sums.num_targets, self.expected)
    }
}

impl Sums {
    fn result(&self) -> EvalResult {
        let num_targets = self.num_targets as f64;
        let loss = self.loss / num_targets;
        EvalResult {
            loss,
            perplexity: loss.exp(),
            bits_per_byte: self.loss / (std::f64::consts::LN_2 * self.num_bytes as f64),
            next_token_accuracy: self.num_correct as f64 / num_targets,
            num_targets: self.num_targets,
            num_bytes: self.num_bytes,
        }
    }
}
