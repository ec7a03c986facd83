//! The steps of pre-tokenizers and decoders that have no fast path, as the `tokenizers` library does them but for
//! regular expressions, which are [`Bounded`], those known to [`Pattern`], which need none, and `Strip`, which panics.

use crate::bounded::Bounded;
use crate::error::Error;
use crate::file::{File, get};
use crate::parts::{Part, flatten};
use crate::split::Pattern;
use serde_json::Value;
use tokenizers::decoders::DecoderWrapper;
use tokenizers::decoders::strip::Strip;
use tokenizers::normalizer::SplitDelimiterBehavior;
use tokenizers::pattern::{Invert, Pattern as Matching};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::{Decoder as _, Offsets, PreTokenizedString, PreTokenizer as _, PreTokenizerWrapper};

/// Text without added tokens to words.
#[derive(Debug)]
pub(crate) struct PreTokenizer(Vec<PreTokenizing>);

#[derive(Debug)]
enum PreTokenizing {
    Library(PreTokenizerWrapper),
    Split { pattern: Bounded, behavior: SplitDelimiterBehavior, invert: bool },
    Words(Pattern),
    PrefixSpace,
}

impl PreTokenizer {
    /// Reads the value of `pre_tokenizer`; null keeps text whole.
    ///
    /// # Errors
    /// [`Error::Invalid`].
    pub(crate) fn read(file: File<'_>, json: &Value) -> Result<Self, Error> {
        let mut steps = Vec::new();
        for part in flatten(file, "pre_tokenizer", json, "pretokenizers")? {
            match part.kind() {
                "Split" => steps.push(split(file, &part)?),
                "ByteLevel" => {
                    // Read whole first, for the library's opinion of it.
                    let PreTokenizerWrapper::ByteLevel(step) = part.build(file)? else { continue };
                    steps.extend(step.add_prefix_space.then_some(PreTokenizing::PrefixSpace));
                    steps.extend(step.use_regex.then_some(PreTokenizing::Words(Pattern::Gpt2)));
                    let spell = ByteLevel::new(false, step.trim_offsets, false);
                    steps.push(PreTokenizing::Library(PreTokenizerWrapper::ByteLevel(spell)));
                }
                "FixedLength" if part.json["length"] == 0 => {
                    return Err(
                        file.invalid(format!("{}.length", part.field), "expected at least 1, found 0")
                    );
                }
                _ => steps.push(PreTokenizing::Library(part.build(file)?)),
            }
        }
        Ok(Self(steps))
    }

    pub(crate) fn apply(&self, text: &mut PreTokenizedString) -> tokenizers::Result<()> {
        for step in &self.0 {
            match step {
                PreTokenizing::Library(step) => step.pre_tokenize(text)?,
                PreTokenizing::Split { pattern, behavior, invert: false } => {
                    text.split(|_, part| part.split(pattern, *behavior))?;
                }
                PreTokenizing::Split { pattern, behavior, invert: true } => {
                    text.split(|_, part| part.split(Invert(pattern), *behavior))?;
                }
                PreTokenizing::Words(pattern) => {
                    text.split(|_, part| part.split(Words(*pattern), SplitDelimiterBehavior::Isolated))?;
                }
                PreTokenizing::PrefixSpace => text.split(|_, mut part| {
                    if !part.get().starts_with(' ') {
                        part.prepend(" ");
                    }
                    Ok(Some(part))
                })?,
            }
        }
        Ok(())
    }
}

fn split(file: File<'_>, part: &Part<'_>) -> Result<PreTokenizing, Error> {
    let object = file.object(&part.field, part.json)?;
    let field = |name: &str| format!("{}.{name}", part.field);
    let pattern = part.pattern(file)?;
    let behavior = crate::parts::build(file, &field("behavior"), get(object, "behavior").clone())?;
    let invert = file.bool(&field("invert"), get(object, "invert"))?;
    Ok(match known(part.json) {
        Some(pattern) => PreTokenizing::Words(pattern),
        None => PreTokenizing::Split { pattern, behavior, invert },
    })
}

/// The pattern that this `Split` cuts by, if it is one of [`Pattern`]'s: each match is a word. They match all of a text,
/// so to remove what does not match is the same.
pub(crate) fn known(split: &Value) -> Option<Pattern> {
    let regex = split["pattern"]["Regex"].as_str()?;
    match (split["behavior"].as_str()?, split["invert"].as_bool()?) {
        ("Isolated", false) | ("Removed", true) => {}
        _ => return None,
    }
    // GPT-2's comes before StarCoder's, whose expression is the same.
    Pattern::ALL.into_iter().find(|pattern| pattern.regex() == regex)
}

/// A [`Pattern`] as the library wants it.
struct Words(Pattern);

impl Matching for Words {
    fn find_matches(&self, text: &str) -> tokenizers::Result<Vec<(Offsets, bool)>> {
        let mut start = 0;
        let words = self.0.words(text).map(|word| {
            let offsets = (start, start + word.len());
            start = offsets.1;
            (offsets, true)
        });
        Ok(words.collect())
    }
}

/// Tokens to text.
#[derive(Debug)]
pub(crate) struct Decoder {
    /// None joins tokens with spaces.
    steps: Option<Vec<Decoding>>,
    /// Whether `<0x0A>` stands for a byte.
    pub(crate) has_byte_fallback: bool,
}

#[derive(Debug)]
enum Decoding {
    Library(DecoderWrapper),
    Replace { pattern: Bounded, content: String },
    Strip(Strip),
}

impl Decoder {
    /// Reads the value of `decoder`.
    ///
    /// # Errors
    /// [`Error::Invalid`].
    pub(crate) fn read(file: File<'_>, json: &Value) -> Result<Self, Error> {
        let (mut steps, mut has_byte_fallback) = (Vec::new(), false);
        for part in flatten(file, "decoder", json, "decoders")? {
            has_byte_fallback |= part.kind() == "ByteFallback";
            steps.push(match part.kind() {
                "Replace" => {
                    let (pattern, content) = part.replacement(file)?;
                    Decoding::Replace { pattern, content }
                }
                _ => match part.build(file)? {
                    DecoderWrapper::Strip(step) => Decoding::Strip(step),
                    step => Decoding::Library(step),
                },
            });
        }
        Ok(Self { steps: (!json.is_null()).then_some(steps), has_byte_fallback })
    }

    pub(crate) fn decode(&self, mut tokens: Vec<String>) -> tokenizers::Result<String> {
        let Some(steps) = &self.steps else { return Ok(tokens.join(" ")) };
        for step in steps {
            match step {
                Decoding::Library(step) => tokens = step.decode_chain(tokens)?,
                Decoding::Replace { pattern, content } => {
                    for token in &mut tokens {
                        *token = replace(pattern, content, token)?;
                    }
                }
                Decoding::Strip(step) => {
                    tokens.iter_mut().for_each(|token| *token = strip(step, token).to_owned());
                }
            }
        }
        Ok(tokens.concat())
    }
}

fn replace(pattern: &Bounded, content: &str, token: &str) -> tokenizers::Result<String> {
    let pieces = pattern.find_matches(token)?;
    Ok(pieces
        .into_iter()
        .map(|((start, end), found)| if found { content } else { &token[start..end] })
        .collect())
}

/// What is left of `token` when at most `start` and then `stop` times `content` are cut from its two ends. The library
/// does the same, but panics where the two cuts meet.
fn strip<'a>(step: &Strip, mut token: &'a str) -> &'a str {
    for _ in 0..step.start {
        let Some(rest) = token.strip_prefix(step.content) else { break };
        token = rest;
    }
    for _ in 0..step.stop {
        let Some(rest) = token.strip_suffix(step.content) else { break };
        token = rest;
    }
    token
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::guard::guarded;

    #[test]
    fn strips_as_the_library_does_and_where_it_panics() {
        let mut num_panics = 0;
        for (start, stop) in (0..4).flat_map(|start| (0..4).map(move |stop| (start, stop))) {
            let step = Strip::new('▁', start, stop);
            // Every token of up to five of two characters.
            for bits in 1u32..1 << 6 {
                let length = bits.ilog2();
                let token: String = (0..length).map(|i| ['a', '▁'][(bits >> i & 1) as usize]).collect();
                match guarded("strip", || step.decode_chain(vec![token.clone()])) {
                    Ok(text) => assert_eq!(strip(&step, &token), text[0], "{token:?}, {start}, {stop}"),
                    Err(_) => {
                        num_panics += 1;
                        // Too short for both cuts, of that character alone, or empty.
                        assert_eq!(strip(&step, &token), "", "{token:?}, {start}, {stop}");
                    }
                }
            }
        }
        assert!(num_panics > 0, "the library needs no help any more");
        assert_eq!(strip(&Strip::new('▁', usize::MAX, usize::MAX), "▁▁"), "");
    }
}
