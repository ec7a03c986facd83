//! MinHash: a document as 256 numbers, of which two documents share about as many as their Jaccard index says.
//!
//! A document is the set of its shingles, five words in a row (`words`). Lane i of a signature is the least of π_i(x) over
//! the shingles x, each of 32 bits, with π_i(x) = a_i x + b_i mod 2^32 and a_i odd. The shingle hashes are as good as
//! random, so the least one of the union of two sets is each member with the same chance under *any* fixed permutation:
//! a lane agrees with probability |A ∩ B| / |A ∪ B| exactly, and the share of lanes that agree is an unbiased estimate
//! (Broder 1997). That the lanes have different permutations only makes them independent enough, so that the variance is
//! near J (1 - J) / 256; the tests measure both.
//!
//! Of a lane 16 bits are kept (b-bit minwise hashing, Li and König 2010). Lanes that differ then agree by a chance of
//! 2^-16, which moves the estimate by 0.000015 at the most and halves what lies on disk.

use super::words::{AS_WRITTEN, Rolling, Words};
use crate::permutation::mix;
use bytemuck::{Pod, Zeroable};

/// Lanes of a signature.
pub(crate) const LANES: usize = 256;
/// Words of a shingle, as in BigCode's near-deduplication.
const SHINGLE_WORDS: usize = 5;
/// Fewer words make no signature, as in codeparrot's script: a handful of shingles says little about a document.
const MIN_WORDS: usize = 10;
/// Shingles that are gathered before they go through the lanes: 4 KB, which stay in the first-level cache.
const BLOCK: usize = 1024;
/// Lanes that go through a block together: with AVX2 their factors, summands and minima are twelve of sixteen registers.
const GROUP: usize = 32;

/// What a document looks like, in 512 bytes.
#[derive(Clone, Copy, PartialEq, Eq, Pod, Zeroable)]
#[repr(transparent)]
pub struct Signature([u16; LANES]);

impl Signature {
    /// The signature of a text; `None` if it has fewer than ten words, which are too few to be compared.
    pub fn of(text: &str) -> Option<Self> {
        Self::with(text, lower)
    }

    fn with(text: &str, lower: impl Fn(&mut [u32; LANES], &[u32])) -> Option<Self> {
        let mut rolling = Rolling::new(SHINGLE_WORDS);
        let mut minima = [u32::MAX; LANES];
        let (mut block, mut filled) = ([0; BLOCK], 0);
        for word in Words::new(text, &AS_WRITTEN) {
            let Some(hash) = rolling.push(word.hash) else { continue };
            block[filled] = (mix((hash >> 64) as u64) >> 32) as u32;
            filled += 1;
            if filled == BLOCK {
                lower(&mut minima, &block);
                filled = 0;
            }
        }
        if rolling.num_words() < MIN_WORDS {
            return None;
        }
        lower(&mut minima, &block[..filled]);
        // A minimum has its upper bits empty, and its lower ones are those of the shingle in every lane alike: the
        // middle of a product has something of all.
        Some(Signature(minima.map(|least| (least.wrapping_mul(0x9e37_79b1) >> 16) as u16)))
    }

    /// The number of lanes, of 256, that are the same.
    pub(crate) fn num_equal(&self, other: &Signature) -> u32 {
        self.0.iter().zip(&other.0).map(|(a, b)| u32::from(a == b)).sum()
    }

    /// An estimate of the Jaccard index of two documents' shingles; its standard error is 0.03 at the most.
    pub fn similarity(&self, other: &Signature) -> f64 {
        f64::from(self.num_equal(other)) / LANES as f64
    }

    /// The lanes.
    pub(crate) fn lanes(&self) -> &[u16; LANES] {
        &self.0
    }
}

impl std::fmt::Debug for Signature {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Signature({:04x?}..)", &self.0[..4])
    }
}

/// The permutations' factors and summands.
static FACTORS: [u32; LANES] = constants(0x6d69_6e68, 1);
static SUMMANDS: [u32; LANES] = constants(0x6c61_6e65, 0);

const fn constants(seed: u64, or: u32) -> [u32; LANES] {
    let mut table = [0; LANES];
    let mut lane = 0;
    while lane < LANES {
        table[lane] = (mix((seed << 32) + lane as u64) >> 32) as u32 | or;
        lane += 1;
    }
    table
}

/// Lowers the minimum of every lane to the least image of `shingles`, with the best instructions there are.
fn lower(minima: &mut [u32; LANES], shingles: &[u32]) {
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx2") {
        // SAFETY: the machine has the instructions, as was just asked.
        return unsafe { lower_avx2(minima, shingles) };
    }
    lower_groups(minima, shingles);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn lower_avx2(minima: &mut [u32; LANES], shingles: &[u32]) {
    lower_groups(minima, shingles);
}

/// Plain loops of fixed length, which the compiler turns into the instructions that its caller may use.
#[inline(always)]
fn lower_groups(minima: &mut [u32; LANES], shingles: &[u32]) {
    let groups = minima.as_chunks_mut::<GROUP>().0.iter_mut();
    let factors = FACTORS.as_chunks::<GROUP>().0;
    let summands = SUMMANDS.as_chunks::<GROUP>().0;
    for ((minima, factors), summands) in groups.zip(factors).zip(summands) {
        let mut least = *minima;
        for shingle in shingles {
            for lane in 0..GROUP {
                let image = shingle.wrapping_mul(factors[lane]).wrapping_add(summands[lane]);
                least[lane] = least[lane].min(image);
            }
        }
        *minima = least;
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// The definition, lane by lane.
    fn lower_reference(minima: &mut [u32; LANES], shingles: &[u32]) {
        for (lane, least) in minima.iter_mut().enumerate() {
            for shingle in shingles {
                *least = (*least).min(FACTORS[lane].wrapping_mul(*shingle).wrapping_add(SUMMANDS[lane]));
            }
        }
    }

    /// Text of the words `w0`, `w1`, ... of a range.
    pub(crate) fn numbered(words: std::ops::Range<u32>) -> String {
        words.fold(String::new(), |text, word| text + &format!("w{word} "))
    }

    /// Two documents whose Jaccard index is the one returned, near `jaccard`. No two `seed`s share a word.
    pub(crate) fn planted(seed: u32, jaccard: f64) -> (String, String, f64) {
        // c common shingles and t of each document alone make c / (c + 2 t).
        let common = 400u32;
        let own = ((f64::from(common) / jaccard - f64::from(common)) / 2.0).round() as u32;
        let base = seed * 100_000;
        let first = numbered(base..base + common + 4 + own);
        let second = numbered(base..base + common + 4) + &numbered(base + 50_000..base + 50_000 + own);
        (first, second, f64::from(common) / f64::from(common + 2 * own))
    }

    #[test]
    fn fast_is_the_reference() {
        // Around the group, the block, and not a multiple of either.
        for num_words in [10, 11, 41, 1027, 1028, 1029, 2052, 5003] {
            let text = numbered(0..num_words);
            assert_eq!(Signature::of(&text), Signature::with(&text, lower_reference), "{num_words}");
            assert_eq!(Signature::of(&text), Signature::with(&text, lower_groups), "{num_words}");
        }
    }

    #[test]
    fn too_few_words_have_none() {
        assert_eq!(Signature::of(""), None);
        assert_eq!(Signature::of(&numbered(0..9)), None);
        assert!(Signature::of(&numbered(0..10)).is_some());
    }

    #[test]
    fn what_is_not_a_word_does_not_count() {
        let (a, b) = ("a b c d e f g h i j k", "a.b(c)\n\n  d + e {f} g;h,i\tj=>k!");
        assert_eq!(Signature::of(a), Signature::of(b));
    }

    #[test]
    fn the_estimate_is_unbiased_and_its_variance_is_that_of_independent_lanes() {
        const PAIRS: u32 = 400;
        for jaccard in [0.1, 0.3, 0.5, 0.7, 0.9] {
            let (mut sum, mut squares, mut exact) = (0.0, 0.0, 0.0);
            for seed in 0..PAIRS {
                let (a, b, j) = planted(seed, jaccard);
                let similarity =
                    Signature::of(&a).expect("words").similarity(&Signature::of(&b).expect("words"));
                (sum, squares, exact) = (sum + similarity, squares + (similarity - j).powi(2), j);
            }
            let (mean, variance) = (sum / f64::from(PAIRS), squares / f64::from(PAIRS));
            let want = exact * (1.0 - exact) / LANES as f64;
            // Four standard errors of the mean, and of a variance of 400 near-normal values.
            let error = 4.0 * (want / f64::from(PAIRS)).sqrt();
            assert!((mean - exact).abs() < error, "{exact}: mean {mean}, error {error}");
            let ratio = variance / want;
            assert!(
                (ratio - 1.0).abs() < 4.0 * (2.0 / f64::from(PAIRS)).sqrt(),
                "{exact}: variance x {ratio}"
            );
        }
    }

    #[test]
    fn small_sets_are_estimated_as_well() {
        // 12 words, one of them changed at the end: 7 of 9 shingles are common.
        let mut sum = 0.0;
        for seed in 0..300u32 {
            let words = numbered(seed * 100..seed * 100 + 11);
            let [a, b] = ["x", "y"].map(|last| Signature::of(&format!("{words}{last}")).expect("words"));
            sum += a.similarity(&b);
        }
        let (mean, want) = (sum / 300.0, 7.0 / 9.0);
        assert!((mean - want).abs() < 4.0 * (want * (1.0 - want) / 256.0 / 300.0f64).sqrt(), "{mean}");
    }
}
