//! How a new vocabulary is used by the corpus it was made from: exact, from the symbols that training ended with.

use crate::pairs::Pairs;
use crate::tokenizer::Tokenizer;
use serde::Serialize;

/// Tokens shown of each kind.
const NUM_SHOWN: usize = 10;
/// Tokens used less often than this learn little in training.
const RARE: u64 = 100;

/// What a person wants to know of a vocabulary before training with it. Counts are over the whole corpus.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Tokens in the vocabulary.
    pub vocab_size: usize,
    /// UTF-8 bytes of the corpus.
    pub num_bytes: u64,
    /// Distinct words that the corpus was cut into.
    pub num_distinct_words: u64,
    /// Tokens that the corpus becomes.
    pub num_tokens: u64,
    /// Bytes by tokens.
    pub bytes_per_token: f64,
    /// How many tokens, the most frequent first, make 50, 90 and 99 % of the corpus's tokens.
    pub num_tokens_for_50_90_99_percent: [usize; 3],
    /// Tokens used fewer than 100 times, those never used included; special tokens do not count.
    pub num_used_under_100_times: usize,
    /// The longest tokens.
    pub longest: Vec<TokenUse>,
    /// Tokens that may not be worth their place, by criterion.
    pub odd: Vec<Odd>,
}

/// A token and its use.
#[derive(Clone, Debug, Serialize)]
pub struct TokenUse {
    /// Its id.
    pub id: u32,
    /// Its bytes as text; what is not UTF-8 as U+FFFD.
    pub text: String,
    /// How often it is used.
    pub num_uses: u64,
}

/// Tokens with something odd about them.
#[derive(Clone, Debug, Serialize)]
pub struct Odd {
    /// What is odd.
    pub criterion: &'static str,
    /// How many there are.
    pub num_tokens: usize,
    /// The longest of them; of equal length the lowest id.
    pub examples: Vec<TokenUse>,
}

/// The uses of each id.
struct Uses {
    /// In the corpus.
    counts: Vec<u64>,
    /// Distinct words that have it, counted up to 2, and the last of them.
    words: Vec<(u8, u64)>,
}

impl Report {
    pub(crate) fn new(
        pairs: &mut Pairs,
        byte_ids: &[u32; 256],
        tokenizer: &Tokenizer,
        num_bytes: u64,
    ) -> Self {
        let vocab_size = tokenizer.vocab_size();
        let uses = Uses::new(pairs, byte_ids, vocab_size);
        let ordinary = |&id: &u32| !tokenizer.is_special(id);
        let ids: Vec<u32> = (0..vocab_size as u32).filter(ordinary).collect();
        let bytes = |id: u32| tokenizer.token_bytes(id).unwrap_or_default();
        let num_tokens: u64 = uses.counts.iter().sum();
        // The 256 bytes are there whether they are used or not.
        let merged = |id: u32| bytes(id).len() > 1;
        let criteria: [(&str, &dyn Fn(u32) -> bool); 4] = [
            ("never used: only a step towards longer tokens", &|id| {
                merged(id) && uses.counts[id as usize] == 0
            }),
            ("used in one distinct word only", &|id| merged(id) && uses.words[id as usize].0 == 1),
            ("pieces of characters, no text by themselves", &|id| {
                merged(id) && str::from_utf8(&bytes(id)).is_err()
            }),
            ("numbers of four digits or more", &|id| is_number(&bytes(id))),
        ];
        let show = |mut ids: Vec<u32>| -> Vec<TokenUse> {
            ids.sort_by_key(|&id| std::cmp::Reverse(bytes(id).len()));
            let shown = ids.into_iter().take(NUM_SHOWN);
            shown
                .map(|id| TokenUse {
                    id,
                    text: String::from_utf8_lossy(&bytes(id)).into_owned(),
                    num_uses: uses.counts[id as usize],
                })
                .collect()
        };
        let odd = criteria.map(|(criterion, is_odd)| {
            let found: Vec<u32> = ids.iter().copied().filter(|&id| is_odd(id)).collect();
            Odd { criterion, num_tokens: found.len(), examples: show(found) }
        });
        Self {
            vocab_size,
            num_bytes,
            num_distinct_words: pairs.num_words,
            num_tokens,
            bytes_per_token: num_bytes as f64 / num_tokens.max(1) as f64,
            num_tokens_for_50_90_99_percent: uses.needed_for([50, 90, 99]),
            num_used_under_100_times: ids.iter().filter(|&&id| uses.counts[id as usize] < RARE).count(),
            longest: show(ids.clone()),
            odd: odd.into(),
        }
    }
}

fn is_number(token: &[u8]) -> bool {
    let digits = token.strip_prefix(b" ").unwrap_or(token);
    digits.len() >= 4 && digits.iter().all(u8::is_ascii_digit)
}

impl Uses {
    fn new(pairs: &mut Pairs, byte_ids: &[u32; 256], vocab_size: usize) -> Self {
        let mut uses = Self { counts: vec![0; vocab_size], words: vec![(0, 0); vocab_size] };
        let mut index = 0;
        let mut add = |index, id: u32, count: i64| {
            uses.counts[id as usize] += count as u64;
            let (num, last) = &mut uses.words[id as usize];
            if *last != index {
                *num = num.saturating_add(1).min(2);
                *last = index;
            }
        };
        for (byte, &count) in pairs.byte_counts.clone().iter().enumerate().filter(|&(_, &count)| count > 0) {
            index += 1;
            add(index, byte_ids[byte], count);
        }
        pairs.for_each_word(|symbols, count| {
            index += 1;
            symbols.for_each(|id| add(index, id, count));
        });
        uses
    }

    /// How many of the most frequent tokens make so many percent of all.
    fn needed_for<const N: usize>(&self, percents: [u64; N]) -> [usize; N] {
        let mut counts = self.counts.clone();
        counts.sort_unstable_by(|a, b| b.cmp(a));
        let total: u64 = counts.iter().sum();
        percents.map(|percent| {
            let wanted = (u128::from(total) * u128::from(percent)).div_ceil(100) as u64;
            let mut sum = 0;
            counts
                .iter()
                .take_while(|&&count| {
                    let is_needed = sum < wanted;
                    sum += count;
                    is_needed
                })
                .count()
        })
    }
}
