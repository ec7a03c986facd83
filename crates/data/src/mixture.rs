//! Which sample comes when, where sources are read by weight: in constant time and without a table.
//!
//! Of the N samples of an epoch each source has a share by its weight, and which place in the epoch is whose is one
//! permutation of all N. A source counts the samples that it has given since the beginning, and every pass over it has an order
//! of its own: so a small one with a large weight comes round several times an epoch, each sample once before any comes
//! again, and a large one with a small weight goes on in the next epoch where it was.

use crate::permutation::Permutation;
use std::ops::Range;

/// A source: a stretch of samples.
#[derive(Clone, Debug)]
struct Part {
    /// Where its samples begin.
    start: u64,
    num_samples: u64,
    /// Its places among those that are permuted in an epoch.
    places: Range<u64>,
}

/// Sources by weight.
#[derive(Clone, Debug)]
pub(crate) struct Mixture {
    parts: Vec<Part>,
    num_places: u64,
}

impl Mixture {
    /// `parts` are the first place in the stream and the number of samples of each source, `weights` positive or 0, and not
    /// all 0. An epoch has as many samples as the sources together.
    pub(crate) fn new(parts: &[(u64, u64)], weights: &[f64]) -> Self {
        let num_places: u64 = parts.iter().map(|(_, num_samples)| num_samples).sum();
        let sum: f64 = weights.iter().sum();
        let (mut so_far, mut begin) = (0.0, 0);
        let parts = parts.iter().zip(weights).map(|(&(start, num_samples), weight)| {
            so_far += weight;
            // Rounded where shares meet, so that together they are all places.
            let end = ((so_far / sum * num_places as f64).round() as u64).clamp(begin, num_places);
            let places = begin..end;
            begin = end;
            Part { start, num_samples, places }
        });
        Mixture { parts: parts.collect(), num_places }
    }

    /// Samples in an epoch.
    pub(crate) fn num_places(&self) -> u64 {
        self.num_places
    }

    /// The sample at `position` of epoch `epoch`: where its source begins, and its number in the source.
    pub(crate) fn sample(&self, seed: u64, epoch: u64, position: u64) -> (u64, u64) {
        let place = Permutation::new(self.num_places, seed, epoch).apply(position);
        let number = self.parts.partition_point(|part| part.places.end <= place);
        let Part { start, num_samples, places } = &self.parts[number];
        let given = epoch * (places.end - places.start) + place - places.start;
        let order = seed.wrapping_add(number as u64 + 1);
        (*start, Permutation::new(*num_samples, order, given / num_samples).apply(given % num_samples))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;

    /// How often each sample of each source comes in the epochs.
    fn counts(mixture: &Mixture, epochs: Range<u64>) -> HashMap<(u64, u64), u64> {
        let mut counts = HashMap::new();
        for epoch in epochs {
            for position in 0..mixture.num_places() {
                *counts.entry(mixture.sample(7, epoch, position)).or_default() += 1;
            }
        }
        counts
    }

    fn of(counts: &HashMap<(u64, u64), u64>, start: u64) -> Vec<u64> {
        counts.iter().filter(|((source, _), _)| *source == start).map(|(_, many)| *many).collect()
    }

    #[test]
    fn shares_are_those_of_the_weights() {
        let mixture = Mixture::new(&[(0, 100), (1000, 700), (9000, 200)], &[2.0, 1.0, 0.0]);
        let counts = counts(&mixture, 0..1);
        let [small, large, none] = [0, 1000, 9000].map(|start| of(&counts, start));
        assert_eq!(small.iter().sum::<u64>(), 667);
        assert_eq!(large.iter().sum::<u64>(), 333);
        assert!(none.is_empty());
        // A sample comes again when all others have come as often.
        assert_eq!((small.len(), small.iter().min(), small.iter().max()), (100, Some(&6), Some(&7)));
        assert_eq!((large.len(), large.iter().max()), (333, Some(&1)));
    }

    #[test]
    fn a_source_goes_on_in_the_next_epoch_where_it_was() {
        let mixture = Mixture::new(&[(0, 30), (50, 10)], &[1.0, 1.0]);
        let counts = counts(&mixture, 0..3);
        let (large, small) = (of(&counts, 0), of(&counts, 50));
        assert_eq!((large.len(), large.iter().min(), large.iter().max()), (30, Some(&2), Some(&2)));
        assert_eq!((small.len(), small.iter().min(), small.iter().max()), (10, Some(&6), Some(&6)));
    }

    #[test]
    fn sources_come_mixed() {
        let mixture = Mixture::new(&[(0, 500), (500, 500)], &[1.0, 1.0]);
        let of_first = |position| mixture.sample(1, 0, position).0 == 0;
        let many = (0..100).filter(|position| of_first(*position)).count();
        assert!((30..70).contains(&many), "{many} of the first 100");
    }
}
