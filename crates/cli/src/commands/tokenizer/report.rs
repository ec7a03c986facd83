//! What a new vocabulary looks like, as a person reads it.

use crate::format;
use eyas_token::{Report, TokenUse};
use std::fmt::{Display, Formatter, Result};

/// The report on stderr.
pub(super) struct Shown<'a>(pub(super) &'a Report);

impl Display for Shown<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        let Report { num_tokens_for_50_90_99_percent: [half, ninety, ninety_nine], .. } = self.0;
        let count = |number: usize| format::count(number as u64);
        writeln!(
            f,
            "{:.3} bytes per token: {} are {} tokens; {} distinct words",
            self.0.bytes_per_token,
            format::bytes(self.0.num_bytes),
            format::count(self.0.num_tokens),
            format::count(self.0.num_distinct_words)
        )?;
        writeln!(
            f,
            "of {} tokens {} make 50 % of the text, {} make 90 %, {} make 99 %; {} are used fewer than 100 times",
            count(self.0.vocab_size),
            count(*half),
            count(*ninety),
            count(*ninety_nine),
            count(self.0.num_used_under_100_times)
        )?;
        write!(f, "longest, with how often each is used: {}", List(&self.0.longest))?;
        for odd in self.0.odd.iter().filter(|odd| odd.num_tokens > 0) {
            write!(f, "\n{}: {}, such as {}", odd.criterion, count(odd.num_tokens), List(&odd.examples))?;
        }
        Ok(())
    }
}

/// Tokens shown, with their uses.
struct List<'a>(&'a [TokenUse]);

/// Tokens on a line, and characters of each.
const NUM_SHOWN: usize = 5;
const NUM_CHARS: usize = 24;

impl Display for List<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        for (i, token) in self.0.iter().take(NUM_SHOWN).enumerate() {
            let text: String = token.text.chars().take(NUM_CHARS).collect();
            let more = if token.text.chars().count() > NUM_CHARS { "..." } else { "" };
            let comma = if i > 0 { ", " } else { "" };
            write!(f, "{comma}{text:?}{more} ({})", format::count(token.num_uses))?;
        }
        Ok(())
    }
}
