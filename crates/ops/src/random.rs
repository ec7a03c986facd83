//! Counter-based randomness: a value is a function of a key and an index, so nothing is stored, every element can be
//! drawn again in the backward pass, and results do not depend on the number of threads.
//!
//! The mixer is a 32-bit integer hash with two keyed rounds of multiply and xor-shift (constants of Chris Wellons'
//! search, "hash-prospector", bias 0.17). It vectorizes, which a cipher such as Philox does not do as well.

/// Mixes the 32-bit counter `index` under `key` to 32 uniform bits.
#[inline(always)]
pub fn mix(key: u64, index: u32) -> u32 {
    let mut x = index.wrapping_mul(0x9e37_79b1) ^ (key as u32);
    x ^= x >> 16;
    x = x.wrapping_mul(0x7feb_352d);
    x ^= x >> 15;
    x = x.wrapping_mul(0x846c_a68b) ^ ((key >> 32) as u32);
    x ^= x >> 16;
    x = x.wrapping_mul(0x7feb_352d);
    x ^= x >> 15;
    x
}

/// SplitMix64's finalizer: turns structured 64-bit numbers into keys.
#[inline]
fn finalize(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// The key of one slice of what `key` names.
#[inline]
pub(crate) fn slice_key(key: u64, slice: u64) -> u64 {
    finalize(key ^ finalize(slice.wrapping_add(1)))
}

/// One dropout site at one step: the probability, and the key of its mask.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Dropout {
    probability: f32,
    key: u64,
    site: u64,
}

impl Dropout {
    /// No dropout: every element is kept as it is.
    pub const NONE: Dropout = Dropout { probability: 0.0, key: 0, site: 0 };

    /// Dropout with `probability` in [0, 1); `key` names the run, the step and the micro-batch, `site` the place in
    /// the network.
    pub fn new(probability: f32, key: u64, site: u64) -> Self {
        assert!((0.0..1.0).contains(&probability), "dropout probability {probability} is not in [0, 1)");
        Dropout {
            probability,
            key: finalize(finalize(key).wrapping_add(site.wrapping_mul(0x9e37_79b9_7f4a_7c15))),
            site,
        }
    }

    /// The same site of another step.
    pub(crate) fn with_key(&self, key: u64) -> Self {
        Dropout::new(self.probability, key, self.site)
    }

    /// Whether any element can be dropped.
    #[inline(always)]
    pub fn is_active(&self) -> bool {
        self.probability > 0.0
    }

    /// The factor of element `index`: 0 if it is dropped, else 1 / (1 - probability).
    #[inline(always)]
    pub fn factor(&self, index: u32) -> f32 {
        // 24 bits are compared as an integer that f32 holds exactly.
        let draw = (mix(self.key, index) >> 8) as i32;
        let threshold = (self.probability * 16_777_216.0) as i32;
        if draw < threshold { 0.0 } else { 1.0 / (1.0 - self.probability) }
    }

    /// Key, threshold of the 24-bit draw, and factor of what is kept: for kernels that draw by themselves.
    pub(crate) fn parts(&self) -> (u64, i32, f32) {
        (self.key, (self.probability * 16_777_216.0) as i32, 1.0 / (1.0 - self.probability))
    }

    /// The same site for another slice of the work, such as one head: its elements start again at index 0.
    #[inline]
    pub fn slice(&self, slice: u64) -> Self {
        Dropout { key: slice_key(self.key, slice), ..*self }
    }
}

/// A small sequential generator (SplitMix64) for initial values and sampling.
#[derive(Clone, Debug)]
pub struct Rng {
    state: u64,
    spare: Option<f64>,
}

impl Rng {
    /// A generator whose stream is a function of `seed` alone.
    pub fn new(seed: u64) -> Self {
        Rng { state: finalize(seed ^ 0x5851_f42d_4c95_7f2d), spare: None }
    }

    /// The next 64 uniform bits.
    pub fn next_u64(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        finalize(self.state)
    }

    /// Uniform in [0, 1), with 53 bits.
    pub fn uniform(&mut self) -> f64 {
        (self.next_u64() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// Standard normal (Box and Muller, 1958).
    pub fn normal(&mut self) -> f64 {
        if let Some(value) = self.spare.take() {
            return value;
        }
        let radius = (-2.0 * (1.0 - self.uniform()).ln()).sqrt();
        let angle = std::f64::consts::TAU * self.uniform();
        self.spare = Some(radius * angle.sin());
        radius * angle.cos()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dropout_keeps_the_mean_and_neighbours_are_independent() {
        for site in 0..20 {
            let dropout = Dropout::new(0.1, 42, site);
            let n = 1 << 18;
            let dropped = |i: u32| dropout.factor(i) == 0.0;
            let mut joint = 0;
            let count = (0..n).filter(|&i| dropped(i)).count();
            for i in 0..n {
                joint += usize::from(dropped(i) && dropped(i + 1));
            }
            let (rate, pairs) = (count as f64 / f64::from(n), joint as f64 / f64::from(n));
            assert!((rate - 0.1).abs() < 0.003, "site {site}: rate {rate}");
            assert!((pairs - 0.01).abs() < 0.001, "site {site}: pairs {pairs}");
        }
    }

    #[test]
    fn sites_and_slices_are_independent() {
        let a = Dropout::new(0.5, 1, 0);
        for b in [Dropout::new(0.5, 1, 1), Dropout::new(0.5, 2, 0), a.slice(0), a.slice(1)] {
            let same = (0..100_000).filter(|&i| a.factor(i) == b.factor(i)).count();
            assert!((49_000..51_000).contains(&same), "{same}");
        }
    }

    #[test]
    fn normal_has_unit_variance() {
        let mut rng = Rng::new(7);
        let values: Vec<f64> = (0..100_000).map(|_| rng.normal()).collect();
        let mean = values.iter().sum::<f64>() / 1e5;
        let variance = values.iter().map(|x| x * x).sum::<f64>() / 1e5;
        assert!(mean.abs() < 0.01 && (variance - 1.0).abs() < 0.02, "{mean} {variance}");
    }
}
