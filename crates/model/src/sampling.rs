//! From logits to a token, as transformers does it: which tokens may follow, and which one does.
//!
//! The order of the processors is transformers': repetition penalty, temperature, top-k, top-p. Greedy decoding takes the
//! penalty alone. A filtered token has score -infinity.

use crate::error::Error;
use eyas_ops::Rng;

/// How tokens are chosen. Names and defaults are those of transformers' GenerationConfig.
#[derive(Clone, Debug, PartialEq)]
pub struct Sampling {
    /// Draw from the distribution; else take the most likely token.
    pub do_sample: bool,
    /// Divides the logits.
    pub temperature: f32,
    /// Keep only this many of the most likely tokens; 0 keeps all.
    pub top_k: usize,
    /// Keep only the most likely tokens that together have this probability.
    pub top_p: f32,
    /// Divides the positive logits of tokens that occurred, and multiplies their negative ones.
    pub repetition_penalty: f32,
    /// Sequence i draws from the stream of seed + i.
    pub seed: u64,
    /// New tokens of a sequence at most.
    pub max_new_tokens: usize,
    /// Tokens that end a sequence.
    pub eos_token_ids: Vec<u32>,
}

impl Default for Sampling {
    fn default() -> Self {
        Sampling {
            do_sample: false,
            temperature: 1.0,
            top_k: 50,
            top_p: 1.0,
            repetition_penalty: 1.0,
            seed: 42,
            max_new_tokens: 64,
            eos_token_ids: Vec::new(),
        }
    }
}

impl Sampling {
    /// Checks every parameter's range.
    pub fn validate(&self) -> Result<(), Error> {
        let positive = |x: f32| x.is_finite() && x > 0.0;
        for (name, value, is_valid, expected) in [
            ("temperature", self.temperature, positive(self.temperature), "a number above 0"),
            ("top_p", self.top_p, self.top_p > 0.0 && self.top_p <= 1.0, "a number above 0, at most 1"),
            (
                "repetition_penalty",
                self.repetition_penalty,
                positive(self.repetition_penalty),
                "a number above 0",
            ),
        ] {
            if !is_valid {
                return Err(Error::Sampling { name, expected, got: value.to_string() });
            }
        }
        if self.max_new_tokens == 0 {
            return Err(Error::Sampling { name: "max_new_tokens", expected: "at least 1", got: "0".into() });
        }
        Ok(())
    }

    /// Turns `logits` into the scores that the token is chosen by, given the tokens so far, prompt included.
    pub fn process(&self, logits: &mut [f32], tokens: &[u32]) {
        penalize_repetition(logits, tokens, self.repetition_penalty);
        if self.do_sample {
            logits.iter_mut().for_each(|score| *score /= self.temperature);
            keep_top_k(logits, self.top_k);
            keep_top_p(logits, self.top_p);
        }
    }

    /// Chooses a token by processed scores. `None` if they are not finite where they should be.
    pub fn choose(&self, scores: &[f32], rng: &mut Rng) -> Option<u32> {
        // Not `any`: its early exit keeps the loop from being vectorized.
        let is_broken = |score: &f32| u32::from(score.is_nan() || *score == f32::INFINITY);
        if scores.iter().map(is_broken).fold(0, |any, is_broken| any | is_broken) != 0 {
            return None;
        }
        if self.do_sample { draw(scores, rng) } else { most_likely(scores) }
    }
}

fn penalize_repetition(scores: &mut [f32], tokens: &[u32], penalty: f32) {
    if penalty == 1.0 {
        return;
    }
    let mut seen = vec![false; scores.len()];
    for &token in tokens {
        let id = token as usize;
        if id < scores.len() && !std::mem::replace(&mut seen[id], true) {
            scores[id] = if scores[id] < 0.0 { scores[id] * penalty } else { scores[id] / penalty };
        }
    }
}

/// Tokens as likely as the k-th are kept, so that there may be more than k.
fn keep_top_k(scores: &mut [f32], k: usize) {
    if k == 0 || k >= scores.len() {
        return;
    }
    let mut sorted = scores.to_vec();
    let (_, kth, _) = sorted.select_nth_unstable_by(k - 1, |a, b| b.total_cmp(a));
    let kth = *kth;
    scores.iter_mut().filter(|score| **score < kth).for_each(|score| *score = f32::NEG_INFINITY);
}

/// Drops the least likely tokens that together have at most 1 - p; the most likely one is always kept.
fn keep_top_p(scores: &mut [f32], p: f32) {
    if p >= 1.0 {
        return;
    }
    let mut ascending: Vec<usize> = (0..scores.len()).filter(|&id| scores[id] > f32::NEG_INFINITY).collect();
    ascending.sort_by(|&a, &b| scores[a].total_cmp(&scores[b]));
    let Some(&best) = ascending.last() else { return };
    let max = f64::from(scores[best]);
    let weight = |id: usize| (f64::from(scores[id]) - max).exp();
    let total: f64 = ascending.iter().map(|&id| weight(id)).sum();
    let (mut below, threshold) = (0.0, 1.0 - f64::from(p));
    let dropped = ascending.iter().take_while(|&&id| {
        below += weight(id) / total;
        id != best && below <= threshold
    });
    for id in dropped.copied().collect::<Vec<_>>() {
        scores[id] = f32::NEG_INFINITY;
    }
}

/// The token with the highest score, the lowest id on ties.
fn most_likely(scores: &[f32]) -> Option<u32> {
    const LANES: usize = 16;
    let larger = |a: f32, b: f32| if b > a { b } else { a };
    let (chunks, rest) = scores.as_chunks::<LANES>();
    let mut lanes = [f32::NEG_INFINITY; LANES];
    for chunk in chunks {
        lanes.iter_mut().zip(chunk).for_each(|(lane, score)| *lane = larger(*lane, *score));
    }
    let best = lanes.iter().chain(rest).fold(f32::NEG_INFINITY, |best, score| larger(best, *score));
    let id = scores.iter().position(|score| *score == best)?;
    (best > f32::NEG_INFINITY).then_some(id as u32)
}

/// A token drawn with probability softmax(scores).
fn draw(scores: &[f32], rng: &mut Rng) -> Option<u32> {
    let max = f64::from(scores[most_likely(scores)? as usize]);
    let weight = |score: &f32| (f64::from(*score) - max).exp();
    let mut left = rng.uniform() * scores.iter().map(weight).sum::<f64>();
    let mut last = None;
    for (id, score) in scores.iter().enumerate().filter(|(_, score)| **score > f32::NEG_INFINITY) {
        last = Some(id as u32);
        left -= weight(score);
        if left < 0.0 {
            break;
        }
    }
    last
}

#[cfg(test)]
mod tests {
    use super::*;

    const NONE: f32 = f32::NEG_INFINITY;

    #[test]
    fn top_k_keeps_ties_and_is_clipped() {
        let mut scores = [1.0, 3.0, 2.0, 2.0, 0.0];
        keep_top_k(&mut scores, 2);
        assert_eq!(scores, [NONE, 3.0, 2.0, 2.0, NONE]);
        let mut scores = [1.0, 3.0];
        keep_top_k(&mut scores, 50);
        assert_eq!(scores, [1.0, 3.0]);
    }

    #[test]
    fn top_p_drops_the_tail_and_keeps_one() {
        let scores = [0.5f32, 0.3, 0.15, 0.05].map(f32::ln);
        let mut kept = scores;
        keep_top_p(&mut kept, 0.9);
        assert_eq!(kept, [scores[0], scores[1], scores[2], NONE]);
        let mut kept = scores;
        keep_top_p(&mut kept, 1e-6);
        assert_eq!(kept, [scores[0], NONE, NONE, NONE]);
    }

    #[test]
    fn the_penalty_counts_a_token_once() {
        let mut scores = [2.0, -2.0, 1.0];
        penalize_repetition(&mut scores, &[0, 1, 0, 1, 7], 2.0);
        assert_eq!(scores, [1.0, -4.0, 1.0]);
    }

    #[test]
    fn draws_follow_the_probabilities() {
        let sampling = Sampling { do_sample: true, ..Sampling::default() };
        let scores = [0.6f32.ln(), NONE, 0.3f32.ln(), 0.1f32.ln()];
        let (mut rng, mut counts) = (Rng::new(1), [0usize; 4]);
        for _ in 0..20_000 {
            counts[sampling.choose(&scores, &mut rng).map_or(1, |id| id as usize)] += 1;
        }
        for (count, expected) in counts.into_iter().zip([0.6, 0.0, 0.3, 0.1]) {
            assert!((count as f64 / 20_000.0 - expected).abs() < 0.015, "{counts:?}");
        }
    }

    #[test]
    fn greedy_takes_the_lowest_id_on_ties_and_refuses_nan() {
        let (sampling, mut rng) = (Sampling::default(), Rng::new(1));
        assert_eq!(sampling.choose(&[0.0, 2.0, 2.0], &mut rng), Some(1));
        assert_eq!(sampling.choose(&[0.0, f32::NAN], &mut rng), None);
        // Of more scores than are looked at together.
        let best = |best: &[usize], score| {
            let mut scores = vec![-1.0; 37];
            best.iter().for_each(|&id| scores[id] = score);
            Sampling::default().choose(&scores, &mut Rng::new(1))
        };
        assert_eq!(
            [best(&[21, 5], 2.0), best(&[36, 5], 2.0), best(&[36], 2.0)],
            [Some(5), Some(5), Some(36)]
        );
        assert_eq!([best(&[20], f32::INFINITY), best(&[20], f32::NAN)], [None, None]);
        assert_eq!(sampling.choose(&[-0.0, 0.0], &mut rng), Some(0));
        assert_eq!(sampling.choose(&[f32::NEG_INFINITY; 20], &mut rng), None);
        assert_eq!(sampling.choose(&[], &mut rng), None);
    }

    #[test]
    fn impossible_parameters_are_refused() {
        let good = Sampling { do_sample: true, ..Sampling::default() };
        assert!(good.validate().is_ok());
        for bad in [
            Sampling { temperature: 0.0, ..good.clone() },
            Sampling { temperature: f32::NAN, ..good.clone() },
            Sampling { top_p: 0.0, ..good.clone() },
            Sampling { top_p: 1.1, ..good.clone() },
            Sampling { repetition_penalty: -1.0, ..good.clone() },
            Sampling { max_new_tokens: 0, ..good.clone() },
        ] {
            assert!(bad.validate().is_err(), "{bad:?}");
        }
    }
}
