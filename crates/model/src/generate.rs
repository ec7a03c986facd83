//! Generation: the prompt is read once, then each sequence grows by a token at a time.
//!
//! Prompt and new tokens together never exceed the network's positions: a sequence ends with [`FinishReason::Length`] there,
//! and a prompt that leaves no room is an error. Sequences that have ended stay in the batch, unread, until all have.

use crate::cache::KvCache;
use crate::error::Error;
use crate::memory::check_generation;
use crate::model::Gpt;
use crate::sampling::Sampling;
use eyas_ops::{Backend, Rng};
use std::ops::ControlFlow;

/// Why a sequence ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FinishReason {
    /// An end token came, or the caller asked.
    Stop,
    /// It reached `max_new_tokens`, or the network's positions.
    Length,
}

/// One generated sequence.
#[derive(Clone, Debug, PartialEq)]
pub struct Generated {
    /// The new tokens only; an end token is the last of them.
    pub ids: Vec<u32>,
    /// Why it ended.
    pub finish_reason: FinishReason,
}

struct Sequence {
    rng: Rng,
    /// Prompt and new tokens.
    tokens: Vec<u32>,
    finish_reason: Option<FinishReason>,
}

/// Continues `prompt` in `num_sequences` ways. `on_token` gets each new token as it comes, with the number of its
/// sequence; `Break` ends that sequence.
pub fn generate<D: Backend>(
    gpt: &Gpt<D>,
    prompt: &[u32],
    sampling: &Sampling,
    num_sequences: usize,
    on_token: &mut dyn FnMut(usize, u32) -> ControlFlow<()>,
) -> Result<Vec<Generated>, Error> {
    sampling.validate()?;
    check_sequences(sampling, num_sequences)?;
    let (&last, first) = check_prompt(gpt, prompt)?;
    // A token is read only if another follows, so the last of a sequence needs no room.
    let max_len = prompt.len().saturating_add(sampling.max_new_tokens).min(gpt.config().n_positions);
    check_generation(gpt, num_sequences, max_len)?;
    let mut cache = KvCache::new(gpt, max_len);
    gpt.prefill(&mut cache, first);
    if num_sequences > 1 {
        cache = cache.repeat(gpt, num_sequences);
    }

    let sequence = |i: usize| Sequence {
        rng: Rng::new(sampling.seed.wrapping_add(i as u64)),
        tokens: prompt.to_vec(),
        finish_reason: None,
    };
    let mut sequences: Vec<Sequence> = (0..num_sequences).map(sequence).collect();
    let mut tokens = vec![last; num_sequences];
    let vocab_size = gpt.config().vocab_size;
    while sequences.iter().any(|sequence| sequence.finish_reason.is_none()) {
        let logits = gpt.step(&mut cache, &tokens);
        let rows = logits.chunks_exact_mut(vocab_size);
        for (i, (sequence, logits)) in sequences.iter_mut().zip(rows).enumerate() {
            if sequence.finish_reason.is_none() {
                tokens[i] = sequence.grow(logits, sampling, max_len, |id| on_token(i, id))?;
            }
        }
    }
    Ok(sequences.into_iter().map(|sequence| sequence.finish(prompt.len())).collect())
}

impl Sequence {
    /// Chooses the next token by its logits.
    fn grow(
        &mut self,
        logits: &mut [f32],
        sampling: &Sampling,
        max_len: usize,
        on_token: impl FnOnce(u32) -> ControlFlow<()>,
    ) -> Result<u32, Error> {
        sampling.process(logits, &self.tokens);
        let id =
            sampling.choose(logits, &mut self.rng).ok_or(Error::Logits { num_tokens: self.tokens.len() })?;
        self.tokens.push(id);
        if on_token(id).is_break() || sampling.eos_token_ids.contains(&id) {
            self.finish_reason = Some(FinishReason::Stop);
        } else if self.tokens.len() >= max_len {
            self.finish_reason = Some(FinishReason::Length);
        }
        Ok(id)
    }

    fn finish(mut self, prompt_len: usize) -> Generated {
        let ids = self.tokens.split_off(prompt_len);
        Generated { ids, finish_reason: self.finish_reason.unwrap_or(FinishReason::Length) }
    }
}

fn check_sequences(sampling: &Sampling, num_sequences: usize) -> Result<(), Error> {
    let max = if sampling.do_sample { MAX_SEQUENCES } else { 1 };
    if (1..=max).contains(&num_sequences) {
        return Ok(());
    }
    let expected =
        if sampling.do_sample { "1 to 1024" } else { "1, because without do_sample all are the same" };
    Err(Error::Sampling { name: "num_return_sequences", expected, got: num_sequences.to_string() })
}

/// Sequences that are worth the memory of their caches.
const MAX_SEQUENCES: usize = 1024;

/// The prompt's last token and those before it.
fn check_prompt<'a, D: Backend>(gpt: &Gpt<D>, prompt: &'a [u32]) -> Result<(&'a u32, &'a [u32]), Error> {
    let (vocab_size, positions) = (gpt.config().vocab_size, gpt.config().n_positions);
    if let Some(id) = prompt.iter().find(|&&id| id as usize >= vocab_size) {
        let problem = format!("token id {id} is not below the model's vocabulary size {vocab_size}");
        return Err(Error::Prompt(problem + "; is it the tokenizer that the model was trained with?"));
    }
    if prompt.len() >= positions {
        let problem = format!("{} tokens leave no room for a new one in {positions} positions", prompt.len());
        return Err(Error::Prompt(problem + "; keep its last tokens only"));
    }
    let split = prompt.split_last();
    split.ok_or_else(|| Error::Prompt("it has no tokens; begin with the end-of-text token".into()))
}
