//! The loader: from a position in an epoch to a sample, in constant time and without a table.

use crate::error::Error;
use crate::permutation::Permutation;
use crate::shards::{Mode, Shards};
use std::ops::Range;
use std::sync::Arc;

/// A target that is not scored; the value that the network's loss ignores.
pub const IGNORE: u32 = u32::MAX;

/// Samples of (inputs, targets), each of T tokens.
///
/// In chunk mode a sample is a chunk and the same shifted by one, so its last position has no target. In pack mode
/// sample `i` is tokens `i T ..= i T + T` of the stream: T inputs, T targets.
#[derive(Clone)]
pub struct Loader {
    shards: Arc<Shards>,
    context_length: usize,
    num_samples: u64,
    seed: u64,
    shuffle: bool,
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
        Ok(Loader { shards, context_length, num_samples, seed, shuffle })
    }

    /// Samples in an epoch.
    pub fn num_samples(&self) -> u64 {
        self.num_samples
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
        let sample = if self.shuffle {
            Permutation::new(self.num_samples, self.seed, epoch).apply(position)
        } else {
            assert!(position < self.num_samples, "sample {position} of {}", self.num_samples);
            position
        };
        sample * self.context_length as u64
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
