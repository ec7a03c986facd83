//! Regular expressions of a tokenizer.json: never a hang, and an error where the `tokenizers` library would silently
//! stop matching.
//!
//! An expression without look-around or back reference runs in linear time. The others backtrack, and the engine gives
//! up after a million steps, where the library takes what follows for text without matches: other ids, unnoticed.
//! Here that is an error which names the expression. Many matches that each stay under the limit are stopped by time.

use std::cell::Cell;
use std::fmt;
use std::time::{Duration, Instant};
use tokenizers::Offsets;
use tokenizers::pattern::Pattern;

/// Longest expression, in bytes. The longest in use has a tenth of this.
const LONGEST: usize = 1 << 14;
/// Largest product of the counts in braces: `{1,3}` ten times is 59,049.
const MOST_REPEATS: u64 = 1_000_000;
/// What matching may take, and more for each byte: far more than an expression in use takes.
const PATIENCE: Duration = Duration::from_secs(30);
const PATIENCE_PER_BYTE: Duration = Duration::from_micros(60);

/// An expression, compiled.
#[derive(Clone, Debug)]
pub(crate) struct Bounded {
    source: String,
    regex: fancy_regex::Regex,
}

impl Bounded {
    /// # Errors
    /// Says what is wrong with the expression, without naming it.
    pub(crate) fn regex(source: &str) -> Result<Self, String> {
        if source.len() > LONGEST {
            return Err(format!("expected at most {LONGEST} bytes, found {}", source.len()));
        }
        if num_repeats(source) > MOST_REPEATS {
            return Err(format!("repeats more than {MOST_REPEATS} times"));
        }
        let regex = fancy_regex::Regex::new(source).map_err(|error| error.to_string())?;
        Ok(Self { source: source.into(), regex })
    }

    /// Matches `text` itself.
    ///
    /// # Errors
    /// As [`Bounded::regex`].
    pub(crate) fn literal(text: &str) -> Result<Self, String> {
        match text.len() > LONGEST {
            true => Err(format!("expected at most {LONGEST} bytes, found {}", text.len())),
            false => Self::regex(&fancy_regex::escape(text)),
        }
    }
}

impl Pattern for &Bounded {
    fn find_matches(&self, text: &str) -> tokenizers::Result<Vec<(Offsets, bool)>> {
        if text.is_empty() {
            return Ok(vec![((0, 0), false)]);
        }
        let patience =
            PATIENCE + PATIENCE_PER_BYTE.saturating_mul(u32::try_from(text.len()).unwrap_or(u32::MAX));
        let (started, mut done, mut pieces) = (Instant::now(), 0, Vec::new());
        for found in self.regex.find_iter(text) {
            let found =
                found.map_err(|error| TooHard { source: self.source.clone(), problem: error.to_string() })?;
            if done < found.start() {
                pieces.push(((done, found.start()), false));
            }
            pieces.push(((found.start(), found.end()), true));
            done = found.end();
            if started.elapsed() > patience {
                let problem = format!("it took {patience:?} for {done} of {} bytes", text.len());
                return Err(TooHard { source: self.source.clone(), problem }.into());
            }
        }
        if done < text.len() {
            pieces.push(((done, text.len()), false));
        }
        Ok(pieces)
    }
}

/// Matches found before.
pub(crate) struct Found(Cell<Vec<(Offsets, bool)>>);

impl Found {
    pub(crate) fn new(pieces: Vec<(Offsets, bool)>) -> Self {
        Self(Cell::new(pieces))
    }
}

impl Pattern for Found {
    fn find_matches(&self, _: &str) -> tokenizers::Result<Vec<(Offsets, bool)>> {
        Ok(self.0.take())
    }
}

#[derive(Debug)]
struct TooHard {
    source: String,
    problem: String,
}

impl fmt::Display for TooHard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { source, problem } = self;
        write!(f, "the regular expression {source:?} of this tokenizer is too hard to match here: {problem}")
    }
}

impl std::error::Error for TooHard {}

/// The product of the counts in braces. An empty repetition inside others would run that often without a step back.
fn num_repeats(source: &str) -> u64 {
    let (mut product, mut rest) = (1_u64, source);
    while let Some(at) = rest.find(['\\', '{']) {
        let escaped = rest[at..].strip_prefix('\\');
        let mut after = escaped.map_or(&rest[at..], |escaped| {
            let mut chars = escaped.chars();
            chars.next();
            chars.as_str()
        });
        if let Some(braced) = after.strip_prefix('{') {
            let (inside, outside) = braced.split_once('}').unwrap_or((braced, ""));
            if escaped.is_none() {
                let counts = inside.split(',').filter_map(|count| count.trim().parse::<u64>().ok());
                product = product.saturating_mul(counts.max().unwrap_or(1).max(1));
            }
            after = if escaped.is_none() { braced } else { outside };
        }
        rest = after;
    }
    product
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repeats() {
        for (source, expected) in [
            (r"\p{N}{1,3}| ?\x{1234}+", 3),
            (r"((a{10}){10,}){2,4}", 400),
            (r"\{7}{5}", 5),
            (r"{{{", 1),
            (r"a{99999999999999999999}", 1),
            (r"\", 1),
        ] {
            assert_eq!(num_repeats(source), expected, "{source}");
        }
    }

    #[test]
    fn what_cannot_be_compiled() {
        for source in
            ["(", "(a{1000}){1001}", "(a{900}){900}", &"(".repeat(1000), &"a".repeat(20_000), "a**{"]
        {
            assert!(Bounded::regex(source).is_err(), "{source}");
        }
        assert!(Bounded::literal("(").is_ok());
    }

    #[test]
    fn a_catastrophe_is_an_error() {
        let bounded = Bounded::regex(r"(?:(a|aa)+)(?<!c)b").expect("compiles");
        let error = (&bounded).find_matches(&"a".repeat(100)).expect_err("too hard").to_string();
        assert!(error.contains(r#""(?:(a|aa)+)(?<!c)b" of this tokenizer is too hard"#), "{error}");
    }
}
