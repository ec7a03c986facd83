//! Added tokens: texts that become one id each before any word is cut, `<|endoftext|>` among them.
//!
//! Found as the `tokenizers` crate finds them: leftmost, then longest; those with `normalized: false` in the whole
//! text first, the others by their normal form in the normal form of what remains between them.

use crate::error::Error;
use crate::normalizer::Normalizer;
use crate::splitter::Splitter;
use crate::unicode::{S, class};
use aho_corasick::{AhoCorasick, AhoCorasickKind, Input, MatchKind};

/// One added token and its flags, as tokenizer.json names them. `single_word` is always false here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct AddedToken {
    pub(crate) id: u32,
    pub(crate) content: String,
    /// Swallows the white space before it.
    pub(crate) lstrip: bool,
    /// Swallows the white space after it.
    pub(crate) rstrip: bool,
    /// Matched after the tokens that are not, in normalized text.
    pub(crate) normalized: bool,
    /// Skipped by a decoder that is asked to.
    pub(crate) special: bool,
}

impl AddedToken {
    /// A special token, found wherever it is written, with nothing swallowed.
    pub(crate) fn special(id: u32, content: &str) -> Self {
        let content = content.to_string();
        Self { id, content, lstrip: false, rstrip: false, normalized: false, special: true }
    }
}

/// All added tokens of a tokenizer, ready to be found.
#[derive(Clone)]
pub(crate) struct AddedTokens {
    tokens: Vec<AddedToken>,
    /// What each is matched as and stands for.
    normal_forms: Vec<String>,
    as_written: Matcher,
    normalized: Matcher,
}

impl AddedTokens {
    /// `tokens` have distinct, non-empty contents, and normal forms that `normalizer` can make.
    pub(crate) fn new(tokens: Vec<AddedToken>, normalizer: Option<&Normalizer>) -> Self {
        let normal_form = |token: &AddedToken| match normalizer.filter(|_| token.normalized) {
            Some(normalizer) => {
                normalizer.apply(&token.content).map_or(token.content.clone(), |text| text.into())
            }
            None => token.content.clone(),
        };
        let normal_forms: Vec<String> = tokens.iter().map(normal_form).collect();
        let matcher = |normalized| {
            let all = tokens.iter().zip(&normal_forms).enumerate();
            let wanted = all.filter(|(_, (token, _))| token.normalized == normalized);
            Matcher::new(wanted.map(|(index, (_, text))| (text.as_bytes(), index as u32)))
        };
        Self { as_written: matcher(false), normalized: matcher(true), normal_forms, tokens }
    }

    pub(crate) fn tokens(&self) -> &[AddedToken] {
        &self.tokens
    }

    /// The text that the token of this index stands for.
    pub(crate) fn normal_form(&self, index: usize) -> &str {
        &self.normal_forms[index]
    }

    /// Cuts `text` at the added tokens: `emit` gets, in order, pieces of plain text in normal form, and ids.
    ///
    /// # Errors
    /// [`Error::Library`] from the normalizer.
    pub(crate) fn split(
        &self,
        text: &str,
        splitter: &Splitter,
        emit: &mut impl FnMut(Piece<'_>),
    ) -> Result<(), Error> {
        let mut result = Ok(());
        self.split_by(&self.as_written, text, &mut |piece| match piece {
            Piece::Text(text) => match splitter.normalize(text) {
                Ok(text) => self.split_by(&self.normalized, &text, emit),
                Err(error) => result = Err(error),
            },
            Piece::Id(_) => emit(piece),
        });
        result
    }

    fn split_by(&self, matcher: &Matcher, text: &str, emit: &mut impl FnMut(Piece<'_>)) {
        let (mut from, mut done) = (0, 0);
        while let Some((mut start, mut end, index)) = matcher.find(text.as_bytes(), from) {
            from = end;
            let token = &self.tokens[index as usize];
            if token.lstrip {
                start = trim_end(&text[..start]).max(done);
            }
            if token.rstrip {
                end += leading_white_space(&text[end..]);
            }
            if done < start {
                emit(Piece::Text(&text[done..start]));
            }
            emit(Piece::Id(token.id));
            done = end;
        }
        if done < text.len() {
            emit(Piece::Text(&text[done..]));
        }
    }
}

/// What [`AddedTokens::split`] finds.
pub(crate) enum Piece<'t> {
    /// Text without added tokens, not empty.
    Text(&'t str),
    /// An added token.
    Id(u32),
}

/// The length of `text` without the white space at its end.
fn trim_end(text: &str) -> usize {
    text.trim_end_matches(|c| class(c as u32) == S).len()
}

/// The bytes of white space that `text` starts with.
fn leading_white_space(text: &str) -> usize {
    text.len() - text.trim_start_matches(|c| class(c as u32) == S).len()
}

/// Finds the leftmost, then longest of several patterns, in time linear in the text.
#[derive(Clone)]
struct Matcher {
    /// None without patterns.
    automaton: Option<AhoCorasick>,
    /// The number that stands for each pattern.
    numbers: Vec<u32>,
}

impl Matcher {
    fn new<'p>(patterns: impl Iterator<Item = (&'p [u8], u32)>) -> Self {
        // An empty one, which a normalizer may make, is never found.
        let (patterns, numbers): (Vec<_>, Vec<_>) = patterns.filter(|(bytes, _)| !bytes.is_empty()).unzip();
        let automaton = (!patterns.is_empty()).then(|| {
            AhoCorasick::builder()
                .match_kind(MatchKind::LeftmostLongest)
                // Its size follows that of the patterns; a table of all transitions would be hundreds of times larger.
                .kind(Some(AhoCorasickKind::ContiguousNFA))
                .build(patterns)
                .expect("fewer than two billion states, since a file has fewer bytes")
        });
        Self { automaton, numbers }
    }

    /// Start, end and number of the first match at or after `from`.
    fn find(&self, text: &[u8], from: usize) -> Option<(usize, usize, u32)> {
        let found = self.automaton.as_ref()?.find(Input::new(text).range(from..))?;
        Some((found.start(), found.end(), self.numbers[found.pattern()]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split(tokens: Vec<AddedToken>, text: &str) -> Vec<String> {
        let mut pieces = Vec::new();
        let mut emit = |piece: Piece<'_>| match piece {
            Piece::Text(text) => pieces.push(text.to_string()),
            Piece::Id(id) => pieces.push(format!("#{id}")),
        };
        AddedTokens::new(tokens, None).split(text, &Splitter::default(), &mut emit).expect("no normalizer");
        pieces
    }

    #[test]
    fn leftmost_then_longest() {
        let tokens = vec![
            AddedToken::special(0, "<a>"),
            AddedToken::special(1, "<a><b>"),
            AddedToken::special(2, "b>"),
        ];
        assert_eq!(split(tokens.clone(), "x<a><b><a>b>"), ["x", "#1", "#0", "#2"]);
        assert_eq!(split(tokens.clone(), "<<a>"), ["<", "#0"]);
        assert_eq!(split(tokens.clone(), ""), Vec::<String>::new());
        assert_eq!(split(tokens, "<a"), ["<a"]);
        assert_eq!(split(vec![], "<a"), ["<a"]);
    }

    #[test]
    fn flags() {
        let mask = AddedToken { lstrip: true, ..AddedToken::special(0, "<m>") };
        let pad = AddedToken { rstrip: true, ..AddedToken::special(1, "<p>") };
        let late = AddedToken { normalized: true, ..AddedToken::special(2, "m><") };
        let tokens = vec![mask, pad, late];
        assert_eq!(split(tokens.clone(), "a \u{3000}<m><p> \n b m><p>"), ["a", "#0", "#1", "b m>", "#1"]);
        assert_eq!(split(tokens, "b m><<m>"), ["b ", "#2", "#0"]);
    }
}
