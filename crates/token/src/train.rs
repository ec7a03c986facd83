//! Trains a vocabulary: the merges that the `tokenizers` library's BpeTrainer finds, in its order, with its ids.
//!
//! The vocabulary is the special tokens, the 256 bytes sorted by the character that spells them, then one token a
//! merge. A merge is the pair of highest count, of several the lowest ids. A merge that spells a special token takes
//! its id. Counts are 64 bits wide; the library's 32 overflow past two billion.

use crate::added::AddedToken;
use crate::alphabet;
use crate::count::{MemoryLimit, WordCounts};
use crate::error::Error;
use crate::pairs::{Pairs, Plan};
use crate::report::Report;
use crate::tokenizer::{END_OF_TEXT, Engine, Parts, Token, Tokenizer};
use std::collections::HashMap;

/// What to train.
#[derive(Clone, Debug)]
pub struct TrainOptions {
    /// Tokens in all: special ones, bytes and merges. The result has fewer when the corpus has no more pairs to merge.
    pub vocab_size: usize,
    /// Take the first ids, in this order; those of `from` come before them.
    pub special_tokens: Vec<String>,
    /// Pairs that occur less often are not merged.
    pub min_frequency: u64,
    /// How much memory to take; by default any.
    pub limit: Option<MemoryLimit>,
    /// Make one as this, as train_new_from_iterator of transformers does: its special tokens come first, with their flags,
    /// its other added tokens are left out, and a word that is a token needs no merges where it is so there. The words
    /// must have been cut by its [`Tokenizer::splitter`].
    pub from: Option<Tokenizer>,
}

impl Default for TrainOptions {
    /// 50,000 tokens, `<|endoftext|>` first, no least frequency.
    fn default() -> Self {
        Self {
            vocab_size: 50_000,
            special_tokens: vec![END_OF_TEXT.to_string()],
            min_frequency: 0,
            limit: None,
            from: None,
        }
    }
}

impl TrainOptions {
    /// Refuses what training would refuse, before anything is counted.
    ///
    /// # Errors
    /// [`Error::VocabularyTooSmall`], [`Error::NotTrainable`], [`Error::SpecialToken`] for an empty, repeated or one-byte
    /// special token.
    pub fn check(&self) -> Result<(), Error> {
        Vocabulary::new(&special_tokens(self)?.0, self.vocab_size).map(|_| ())
    }
}

/// How far training is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Distinct words are put together from all runs; so many so far.
    Words(u64),
    /// Merges are found.
    Merges {
        /// So many so far.
        done: usize,
        /// So many in all.
        wanted: usize,
    },
}

/// What training makes.
#[derive(Debug)]
pub struct Trained {
    /// The tokenizer.
    pub tokenizer: Tokenizer,
    /// How the corpus uses its vocabulary.
    pub report: Report,
    /// The most bytes that lay in temporary files while merges were found; 0 where memory sufficed.
    pub num_file_bytes: u64,
}

/// Merges are reported this many at a time.
const PROGRESS_EVERY: usize = 64;

/// Trains a tokenizer on counted words. `progress` gets the merges done and the merges wanted, now and then.
///
/// # Errors
/// As [`train_and_report`].
pub fn train(
    counts: WordCounts,
    options: &TrainOptions,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<Tokenizer, Error> {
    let mut merges = |stage| {
        if let Stage::Merges { done, wanted } = stage {
            progress(done, wanted);
        }
    };
    Ok(train_and_report(counts, options, &mut merges)?.tokenizer)
}

/// Trains a tokenizer on counted words, and looks at how they use it.
///
/// # Errors
/// As [`TrainOptions::check`]; [`Error::CorpusTooLarge`] beyond a terabyte of distinct words, [`Error::Spill`] where
/// neither memory nor disk suffices, and what [`WordCounts::check`] has to tell.
pub fn train_and_report(
    counts: WordCounts,
    options: &TrainOptions,
    progress: &mut dyn FnMut(Stage),
) -> Result<Trained, Error> {
    train_from(counts, options, None, progress)
}

/// Trains with pairs kept from a threshold on; by default a guess.
fn train_from(
    counts: WordCounts,
    options: &TrainOptions,
    threshold: Option<i64>,
    progress: &mut dyn FnMut(Stage),
) -> Result<Trained, Error> {
    let (added, ignore_merges) = special_tokens(options)?;
    let mut vocabulary = Vocabulary::new(&added, options.vocab_size)?;
    let num_base = vocabulary.tokens.len();
    let wanted = options.vocab_size - num_base;
    let plan = Plan {
        num_merges: wanted,
        min_frequency: options.min_frequency,
        limit: options.limit.as_ref(),
        threshold,
    };
    let (num_bytes, byte_ids, splitter) =
        (counts.num_bytes(), vocabulary.byte_ids(), counts.splitter().clone());
    let runs = counts.into_runs()?;
    let mut pairs = Pairs::new(runs, &byte_ids, &plan, &mut |done| progress(Stage::Words(done)))?;
    let mut num_file_bytes = pairs.num_file_bytes();
    let mut merges = Vec::with_capacity(wanted.min(1 << 20));
    let (mut batch, mut last_told) = (Vec::new(), 0);
    progress(Stage::Merges { done: 0, wanted });
    while vocabulary.tokens.len() < options.vocab_size {
        let mut next = pairs.pop_best()?;
        batch.clear();
        while let Some(best) = next {
            let num_tokens = vocabulary.tokens.len();
            let joined = vocabulary.join(best.left(), best.right());
            merges.push((best.left(), best.right(), joined));
            batch.push((best, joined));
            let is_new = vocabulary.tokens.len() > num_tokens;
            let may_go_on = is_new && vocabulary.tokens.len() < options.vocab_size;
            next = if may_go_on { pairs.pop_beside(&batch) } else { None };
        }
        if batch.is_empty() {
            break;
        }
        pairs.merge(&batch, vocabulary.tokens.len())?;
        let done = vocabulary.tokens.len() - num_base;
        if done >= last_told + PROGRESS_EVERY {
            last_told = done;
            num_file_bytes = num_file_bytes.max(pairs.num_file_bytes());
            progress(Stage::Merges { done, wanted });
        }
    }
    progress(Stage::Merges { done: vocabulary.tokens.len() - num_base, wanted });
    let tokenizer =
        Tokenizer::from_parts(Parts { added, tokens: vocabulary.tokens, merges, splitter, ignore_merges });
    let report = Report::new(&mut pairs, &byte_ids, &tokenizer, num_bytes);
    Ok(Trained { tokenizer, report, num_file_bytes })
}

/// The special tokens by id, and whether a word that is a token needs no merges.
fn special_tokens(options: &TrainOptions) -> Result<(Vec<AddedToken>, bool), Error> {
    let (mut added, mut ignore_merges) = (Vec::new(), false);
    match options.from.as_ref().map(|from| &from.inner.engine) {
        None => {}
        Some(Engine::Library(library)) => {
            return Err(Error::NotTrainable { problem: library.reason.clone() });
        }
        Some(Engine::ByteLevel(from)) => {
            ignore_merges = from.ignore_merges;
            added.extend(from.added.tokens().iter().filter(|token| token.special).cloned());
        }
    }
    added.extend(options.special_tokens.iter().map(|content| AddedToken::special(0, content)));
    added.iter_mut().enumerate().for_each(|(id, token)| token.id = id as u32);
    Ok((added, ignore_merges))
}

/// The tokens so far, and their ids by bytes.
struct Vocabulary {
    tokens: Vec<Token>,
    ids: HashMap<Box<[u8]>, u32>,
}

impl Vocabulary {
    /// Special tokens and bytes, of `vocab_size` tokens in all.
    fn new(special_tokens: &[AddedToken], vocab_size: usize) -> Result<Self, Error> {
        let mut vocabulary = Self { tokens: Vec::new(), ids: HashMap::new() };
        for (i, AddedToken { content, .. }) in special_tokens.iter().enumerate() {
            let token = Token::new(content);
            let problem = match &token {
                _ if content.is_empty() => "is empty",
                _ if special_tokens[..i].iter().any(|other| other.content == *content) => "is given twice",
                Token::Bytes(bytes) if bytes.len() == 1 => {
                    "is the spelling of a single byte, which is a token already"
                }
                _ => {
                    vocabulary.push(token);
                    continue;
                }
            };
            return Err(Error::SpecialToken { token: content.clone(), problem });
        }
        for byte in alphabet::bytes_by_char() {
            vocabulary.push(Token::Bytes([byte].into()));
        }
        let (least, num_special) = (vocabulary.tokens.len(), special_tokens.len());
        if vocab_size < least {
            return Err(Error::VocabularyTooSmall { asked: vocab_size, least, num_special });
        }
        Ok(vocabulary)
    }

    fn push(&mut self, token: Token) -> u32 {
        let id = self.tokens.len() as u32;
        if let Token::Bytes(bytes) = &token {
            self.ids.insert(bytes.clone(), id);
        }
        self.tokens.push(token);
        id
    }

    fn byte_ids(&self) -> [u32; 256] {
        let mut ids = [0; 256];
        for (byte, id) in ids.iter_mut().enumerate() {
            *id = self.ids[&[byte as u8][..]];
        }
        ids
    }

    /// The id of the token that the two make together, which is new unless a special token is spelled so.
    fn join(&mut self, left: u32, right: u32) -> u32 {
        let mut bytes = Vec::new();
        for id in [left, right] {
            // Symbols of words are bytes and what was joined from them: never a token spelled otherwise.
            if let Token::Bytes(part) = &self.tokens[id as usize] {
                bytes.extend_from_slice(part);
            }
        }
        match self.ids.get(&bytes[..]) {
            Some(&id) => id,
            None => self.push(Token::Bytes(bytes.into())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::split::Pattern;
    use crate::splitter::Splitter;

    /// Text in which everything occurs: ties, overlaps, long words.
    fn corpus() -> Vec<String> {
        let source = [include_str!("table.rs"), include_str!("words.rs")];
        let runs = (1..90).map(|n| format!(" {}{} ", "ab".repeat(n), "=".repeat(3 * n)));
        source.into_iter().map(String::from).chain(runs).collect()
    }

    fn trained(limit: Option<MemoryLimit>, vocab_size: usize, threshold: Option<i64>) -> ([u8; 32], Report) {
        let mut counts = WordCounts::new();
        if let Some(limit) = &limit {
            counts = counts.limited(limit, 1);
        }
        corpus().iter().for_each(|text| counts.add(text));
        let options = TrainOptions { vocab_size, limit, ..TrainOptions::default() };
        let trained = train_from(counts, &options, threshold, &mut |_| {}).expect("trained");
        (trained.tokenizer.fingerprint(), trained.report)
    }

    #[test]
    fn neither_memory_nor_threshold_change_the_result() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        // With a limit of 0, memory is given back at every place.
        let limits =
            [(700, Some(0)), (300, Some(1 << 25)), (900, Some(1 << 25)), (900, None), (100_000, None)];
        for (vocab_size, max_bytes) in limits {
            let expected = trained(None, vocab_size, Some(1));
            for threshold in [None, Some(7), Some(1 << 40)] {
                let folder = folder.path().to_path_buf();
                let limit = max_bytes.map(|max_bytes| MemoryLimit { max_bytes, folder });
                let found = trained(limit, vocab_size, threshold);
                assert_eq!(found.0, expected.0, "{vocab_size}, {max_bytes:?}, {threshold:?}");
                assert_eq!(found.1.num_tokens, expected.1.num_tokens);
            }
        }
    }

    #[test]
    fn the_report_counts_what_encoding_gives() {
        let mut counts = WordCounts::new();
        corpus().iter().for_each(|text| counts.add(text));
        let options = TrainOptions { vocab_size: 700, ..TrainOptions::default() };
        let Trained { tokenizer, report, .. } =
            train_and_report(counts, &options, &mut |_| {}).expect("trained");
        let mut ids = Vec::new();
        for text in corpus() {
            tokenizer.encode_ordinary(&text, &mut ids).expect("encoded");
        }
        assert_eq!(report.num_tokens, ids.len() as u64);
        for token in report.longest.iter().chain(report.odd.iter().flat_map(|odd| &odd.examples)) {
            let num_uses = ids.iter().filter(|&&id| id == token.id).count();
            assert_eq!(token.num_uses, num_uses as u64, "{token:?}");
        }
    }

    #[test]
    fn one_like_another() {
        let special = |content: &str, special| AddedToken {
            lstrip: special,
            special,
            ..AddedToken::special(0, content)
        };
        let mut parts = Parts {
            tokens: alphabet::bytes_by_char().map(|byte| Token::Bytes([byte].into())).collect(),
            merges: Vec::new(),
            added: vec![special("<a>", true), special("ordinary", false), special("<b>", true)],
            splitter: Splitter::new(Pattern::Qwen2),
            ignore_merges: true,
        };
        (256..).zip(&mut parts.added).for_each(|(id, token)| token.id = id);
        let from = Tokenizer::from_parts(parts);
        let mut counts = WordCounts::with_splitter(from.splitter().expect("byte-level"));
        counts.add("let x12 = 12; let x12 = 12;");
        let options = TrainOptions {
            vocab_size: 270,
            special_tokens: vec!["<c>".into()],
            from: Some(from),
            ..TrainOptions::default()
        };
        let tokenizer = train(counts, &options, &mut |_, _| {}).expect("trained");
        let Engine::ByteLevel(made) = &tokenizer.inner.engine else { panic!("byte-level") };
        let added: Vec<(u32, &str, bool)> =
            made.added.tokens().iter().map(|token| (token.id, &*token.content, token.lstrip)).collect();
        assert_eq!(added, [(0, "<a>", true), (1, "<b>", true), (2, "<c>", false)]);
        assert!(made.ignore_merges);
        assert_eq!(made.splitter.pattern(), Pattern::Qwen2);
        // Every digit is a word there.
        assert_eq!(tokenizer.token_to_id("12"), None);
    }
}
