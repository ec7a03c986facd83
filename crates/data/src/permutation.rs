//! A keyed permutation of 0..n without a table: a Feistel network on the smallest even number of bits that holds n,
//! walked along its cycle until it lands below n (Black and Rogaway, 2002). Fewer than four steps on average.

/// Rounds of the network; four already make a pseudo-random permutation (Luby and Rackoff, 1988).
const ROUNDS: u64 = 6;

/// A permutation of `0..len`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Permutation {
    len: u64,
    half_bits: u32,
    key: u64,
}

impl Permutation {
    /// The permutation of `0..len` that `seed` and `epoch` name.
    pub(crate) fn new(len: u64, seed: u64, epoch: u64) -> Self {
        let bits = u64::BITS - len.saturating_sub(1).leading_zeros();
        let key = mix(mix(seed).wrapping_add(epoch).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        Permutation { len, half_bits: bits.div_ceil(2).max(1), key }
    }

    /// Where `index`, below the length, goes.
    pub(crate) fn apply(&self, index: u64) -> u64 {
        assert!(index < self.len, "index {index} of {}", self.len);
        let mut x = index;
        loop {
            x = self.feistel(x);
            if x < self.len {
                return x;
            }
        }
    }

    fn feistel(&self, x: u64) -> u64 {
        let mask = (1u64 << self.half_bits) - 1;
        let (mut left, mut right) = (x >> self.half_bits, x & mask);
        for round in 0..ROUNDS {
            let f = mix(right ^ self.key.wrapping_add(round.wrapping_mul(0xd1b5_4a32_d192_ed03)));
            (left, right) = (right, left ^ (f & mask));
        }
        left << self.half_bits | right
    }
}

/// Spreads every bit over all: SplitMix64's finalizer.
pub(crate) const fn mix(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_length_is_permuted() {
        for len in (1..200).chain([1000, 4096, 4097]) {
            let permutation = Permutation::new(len, 42, 1);
            let mut seen: Vec<u64> = (0..len).map(|i| permutation.apply(i)).collect();
            seen.sort_unstable();
            assert!(seen.iter().copied().eq(0..len), "{len}");
        }
    }

    #[test]
    fn epochs_and_seeds_differ_and_nothing_stays() {
        let order = |seed, epoch| -> Vec<u64> {
            let permutation = Permutation::new(1000, seed, epoch);
            (0..1000).map(|i| permutation.apply(i)).collect()
        };
        let first = order(42, 0);
        for other in [order(42, 1), order(43, 0), (0..1000).collect()] {
            let same = first.iter().zip(&other).filter(|(a, b)| a == b).count();
            assert!(same < 10, "{same}");
        }
        // Neighbours end far apart.
        let mean: f64 = first.windows(2).map(|w| w[0].abs_diff(w[1]) as f64).sum::<f64>() / 999.0;
        assert!((280.0..390.0).contains(&mean), "{mean}");
    }

    #[test]
    fn large_lengths() {
        let permutation = Permutation::new(u64::MAX / 3, 1, 0);
        assert!(permutation.apply(12345) < u64::MAX / 3);
    }
}
