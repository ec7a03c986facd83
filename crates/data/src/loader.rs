//! The loader: from a position in an epoch to a sample, in constant time and without a table.

use crate::error::Error;
use crate::mixture::Mixture;
use crate::permutation::Permutation;
use crate::shards::{Mode, Shards};
use std::ops::Range;
use std::sync::Arc;

/// A target that is not scored; the value that the network's loss ignores.
pub const IGNORE: u32 = u32::MAX;

/// Samples of (inputs, targets), each of T tokens.
///
/// In chunk mode a sample is a chunk and the same shifted by one, so its last position has no target. In pack mode
/// sample `i` is tokens `i T ..= i T + T` of the stream: T inputs, T targets. With weights the same holds of the stretch of
/// each source.
#[derive(Clone)]
pub struct Loader {
    shards: Arc<Shards>,
    context_length: usize,
    num_samples: u64,
    seed: u64,
    shuffle: bool,
    mixture: Option<Mixture>,
    /// Of the positions of an epoch those that leave `rank` when divided by `num_ranks` are this loader's.
    rank: u64,
    num_ranks: u64,
}

impl Loader {
    /// Samples of `context_length` tokens. With `shuffle` each epoch has its own order, a function of `seed`; without it
    /// samples come as they lie.
    ///
    /// # Errors
    /// If there is not one whole sample, or the shards' chunks have another length.
    pub fn new(shards: Arc<Shards>, context_length: usize, seed: u64, shuffle: bool) -> Result<Self, Error> {
        if context_length == 0 {
            return Err(Error::Option {
                name: "context_length",
                found: "0".into(),
                expected: "a positive number",
            });
        }
        if shards.mode() == Mode::Chunk && shards.context_length() != context_length {
            let (path, found) = (shards.dir().to_owned(), shards.context_length());
            return Err(Error::ContextLength { path, found, expected: context_length });
        }
        let length = context_length as u64;
        let (num_samples, needed) = match shards.mode() {
            Mode::Chunk => (shards.num_tokens() / length, length),
            Mode::Pack => (shards.num_tokens().saturating_sub(1) / length, length + 1),
        };
        if num_samples == 0 {
            let (path, num_tokens) = (shards.dir().to_owned(), shards.num_tokens());
            return Err(Error::TooLittle { path, num_tokens, needed });
        }
        Ok(Loader {
            shards,
            context_length,
            num_samples,
            seed,
            shuffle,
            mixture: None,
            rank: 0,
            num_ranks: 1,
        })
    }

    /// Reads sources by weight: of each the share of samples that its weight is of all weights, however large it is. There is one
    /// weight for each of [`Shards::sources`], in their order, and an epoch has as many samples as the sources together.
    ///
    /// # Errors
    /// If samples are not shuffled, there are more or fewer weights than sources, one is no positive number or 0, all are 0, or a
    /// source that has a weight has not one whole sample.
    pub fn weighted(self, weights: &[f64]) -> Result<Self, Error> {
        let refuse = |found: String, expected| Err(Error::Option { name: "data_weights", found, expected });
        let sources = self.shards.sources();
        if !self.shuffle {
            return refuse("without shuffle".into(), "shuffle = true: sources lie one after the other");
        }
        if weights.len() != sources.len() {
            let names: Vec<&str> = sources.iter().map(|source| &*source.name).collect();
            let found = format!("{} for {} sources ({})", weights.len(), sources.len(), names.join(", "));
            return refuse(found, "one for each source, in their order");
        }
        let is_weight = |weight: &f64| weight.is_finite() && *weight >= 0.0;
        let sum: f64 = weights.iter().sum();
        if !weights.iter().all(is_weight) || sum <= 0.0 || !sum.is_finite() {
            return refuse(format!("{weights:?}"), "positive numbers, or 0 for a source that is not read");
        }
        let length = self.context_length as u64;
        let (mut parts, mut start) = (Vec::new(), 0);
        for (source, weight) in sources.iter().zip(weights) {
            // In pack mode the first input of a source behind another is the token that ended that one's last document.
            let begin = if self.shards.mode() == Mode::Pack && start > 0 { start - 1 } else { start };
            start += source.num_tokens;
            let num_samples = match self.shards.mode() {
                Mode::Chunk => (start - begin) / length,
                Mode::Pack => (start - begin).saturating_sub(1) / length,
            };
            if *weight > 0.0 && num_samples == 0 {
                let found = format!("{weight} for {}, of {} tokens", source.name, source.num_tokens);
                return refuse(found, "0 for a source without one whole sample");
            }
            parts.push((begin, num_samples));
        }
        let mixture = Mixture::new(&parts, weights);
        Ok(Loader { num_samples: mixture.num_places(), mixture: Some(mixture), ..self })
    }

    /// The samples of one of `num_ranks` processes that train together: each has as many, and no two the same. The
    /// samples that do not go round are nobody's.
    ///
    /// # Errors
    /// If there is no such rank, or not one sample for each.
    pub fn for_rank(self, rank: u64, num_ranks: u64) -> Result<Self, Error> {
        if rank >= num_ranks {
            let found = format!("{rank} of {num_ranks}");
            return Err(Error::Option { name: "rank", found, expected: "a number below that of all ranks" });
        }
        if self.num_samples < num_ranks {
            let (path, num_tokens) = (self.shards.dir().to_owned(), self.shards.num_tokens());
            let needed = num_ranks * self.context_length as u64;
            return Err(Error::TooLittle { path, num_tokens, needed });
        }
        Ok(Loader { rank, num_ranks, ..self })
    }

    /// Samples in an epoch.
    pub fn num_samples(&self) -> u64 {
        self.num_samples / self.num_ranks
    }

    /// T.
    pub fn context_length(&self) -> usize {
        self.context_length
    }

    /// The shards.
    pub fn shards(&self) -> &Arc<Shards> {
        &self.shards
    }

    /// The place in the stream of the first token of sample `position` of epoch `epoch`.
    pub fn start(&self, epoch: u64, position: u64) -> u64 {
        assert!(position < self.num_samples(), "sample {position} of {}", self.num_samples());
        let position = position * self.num_ranks + self.rank;
        let (start, sample) = match &self.mixture {
            Some(mixture) => mixture.sample(self.seed, epoch, position),
            None if self.shuffle => (0, Permutation::new(self.num_samples, self.seed, epoch).apply(position)),
            None => (0, position),
        };
        start + sample * self.context_length as u64
    }

    /// The documents that sample `position` of epoch `epoch` is of, by their numbers.
    pub fn documents(&self, epoch: u64, position: u64) -> Range<u64> {
        let start = self.start(epoch, position);
        self.shards.documents_of(start..start + self.context_length as u64)
    }

    /// Writes sample `position` of epoch `epoch`: T inputs and T targets, [`IGNORE`] where there is none.
    pub fn sample(&self, epoch: u64, position: u64, inputs: &mut [u32], targets: &mut [u32]) {
        let length = self.context_length;
        assert!(
            inputs.len() == length && targets.len() == length,
            "a sample has {length} inputs and targets"
        );
        let start = self.start(epoch, position);
        self.shards.read(start, inputs);
        let last = match self.shards.mode() {
            Mode::Chunk => IGNORE,
            Mode::Pack => {
                let mut next = [0];
                self.shards.read(start + length as u64, &mut next);
                next[0]
            }
        };
        targets[..length - 1].copy_from_slice(&inputs[1..]);
        targets[length - 1] = last;
    }
}
