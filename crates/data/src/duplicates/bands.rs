//! Which pairs of signatures are worth comparing: those that agree in all lanes of a band.
//!
//! A signature is b bands of r lanes. Documents of Jaccard index s agree in a band with probability s^r, so they become
//! candidates with P(s) = 1 - (1 - s^r)^b, a curve like an S. As datasketch does, b and r minimize
//!
//! ```text
//! w₊ ∫₀ᵗ P(s) ds  +  w₋ ∫ₜ¹ (1 - P(s)) ds        with  b r <= 256,  t = 0.7
//! ```
//!
//! the weighted areas of false positives and false negatives. datasketch weighs both alike and gets 25 bands of 10, by
//! which half of the pairs at the threshold are missed. Here every candidate is compared after, so a false positive costs
//! a look at 1 KB and a false negative stays in the data: weights 0.1 and 0.9 give 32 bands of 8 lanes, all 256 of them.
//! P(0.5) = 0.12, P(0.6) = 0.42, P(0.7) = 0.85, P(0.8) = 0.997, P(0.9) = 1 to six digits.

use super::minhash::Signature;
use crate::permutation::mix;
use bytemuck::{Pod, Zeroable};

/// The Jaccard index from which on two documents are near duplicates, as in BigCode's near-deduplication.
pub(crate) const THRESHOLD: f64 = 0.7;
/// Bands of a signature.
pub(crate) const BANDS: usize = 32;
/// Lanes of a band.
pub(crate) const ROWS: usize = 8;

/// A band of a document. Sorted, those that agree are neighbours, in the order of their documents.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub(crate) struct Band {
    key: [u32; 2],
    /// The document's number.
    pub(crate) document: u32,
}

impl Band {
    /// The bands of document number `document`.
    pub(crate) fn all(document: u32, signature: &Signature) -> [Band; BANDS] {
        let lanes = signature.lanes().as_chunks::<ROWS>().0;
        std::array::from_fn(|band| {
            let [low, high] = [&lanes[band][..4], &lanes[band][4..]]
                .map(|half| half.iter().fold(0, |all, lane| all << 16 | u64::from(*lane)));
            // The number of the band is part of the key, so that bands are told apart in one sorted list.
            let key = mix(mix(low.wrapping_add(band as u64 + 1)).wrapping_add(high));
            Band { key: [(key >> 32) as u32, key as u32], document }
        })
    }

    /// Whether two documents agree in a band. By a chance of 2^-64 they do not; comparing them tells.
    pub(crate) fn is_same(&self, other: &Band) -> bool {
        self.key == other.key
    }

    fn order(&self) -> (u64, u32) {
        (u64::from(self.key[0]) << 32 | u64::from(self.key[1]), self.document)
    }
}

impl Ord for Band {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.order().cmp(&other.order())
    }
}

impl PartialOrd for Band {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Band {
    fn eq(&self, other: &Self) -> bool {
        self.order() == other.order()
    }
}

impl Eq for Band {}

#[cfg(test)]
mod tests {
    use super::super::minhash::LANES;
    use super::super::minhash::tests::planted;
    use super::*;

    fn candidate(s: f64, bands: usize, rows: usize) -> f64 {
        1.0 - (1.0 - s.powi(rows as i32)).powi(bands as i32)
    }

    /// The integral of `f`, by the midpoint rule.
    fn area(from: f64, to: f64, f: impl Fn(f64) -> f64) -> f64 {
        const STEPS: u32 = 400;
        let step = (to - from) / f64::from(STEPS);
        (0..STEPS).map(|i| f(from + (f64::from(i) + 0.5) * step) * step).sum()
    }

    fn best(positive: f64, negative: f64) -> (usize, usize) {
        let shapes = (1..=LANES).flat_map(|bands| (1..=LANES / bands).map(move |rows| (bands, rows)));
        let cost = |&(bands, rows): &(usize, usize)| {
            positive * area(0.0, THRESHOLD, |s| candidate(s, bands, rows))
                + negative * area(THRESHOLD, 1.0, |s| 1.0 - candidate(s, bands, rows))
        };
        let costs = shapes.map(|shape| (cost(&shape), shape));
        costs.min_by(|a, b| a.0.total_cmp(&b.0)).map(|(_, shape)| shape).expect("a shape")
    }

    #[test]
    fn the_shape_is_the_best_one() {
        assert_eq!(best(0.1, 0.9), (BANDS, ROWS));
        assert_eq!(best(0.5, 0.5), (25, 10), "datasketch's own");
    }

    #[test]
    fn candidates_follow_the_curve() {
        const PAIRS: u32 = 300;
        for jaccard in [0.4, 0.5, 0.6, 0.7, 0.8, 0.9] {
            let (mut num_candidates, mut exact) = (0, 0.0);
            for seed in 0..PAIRS {
                let (a, b, j) = planted(seed, jaccard);
                let [a, b] = [a, b].map(|text| Band::all(0, &Signature::of(&text).expect("words")));
                num_candidates += u32::from(a.iter().zip(&b).any(|(a, b)| a.is_same(b)));
                exact = j;
            }
            let want = candidate(exact, BANDS, ROWS);
            let error = 4.0 * (want * (1.0 - want) / f64::from(PAIRS)).sqrt() + 1.0 / f64::from(PAIRS);
            let share = f64::from(num_candidates) / f64::from(PAIRS);
            assert!((share - want).abs() < error, "{exact}: {share}, expected {want} ± {error}");
        }
    }
}
