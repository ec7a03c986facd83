//! Decodes ids one by one, as they are generated, without ever cutting a character.

use crate::tokenizer::Tokenizer;

/// Turns ids into text as they come. Bytes that may be the beginning of a character wait for the rest of it.
///
/// The strings returned, one after the other, are what [`Tokenizer::decode_lossy`] makes of all the ids. A decoder of a
/// slow tokenizer may change what it gave before (WordPiece's takes out spaces before punctuation): then what was
/// returned stays, and what differs follows.
#[derive(Clone, Debug, Default)]
pub struct StreamDecoder {
    /// The beginning of a character, at most three bytes.
    pending: Vec<u8>,
    window: Window,
    skip_special: bool,
}

/// Where a token's text depends on those before it: the ids that gave the last text, and those that gave none yet.
#[derive(Clone, Debug, Default)]
struct Window {
    ids: Vec<u32>,
    num_given: usize,
    /// The text of the first `num_given` ids.
    given: String,
    /// The text of the others so far, which may change.
    waiting: String,
}

impl StreamDecoder {
    /// Nothing pending; special tokens are written as their text.
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether special tokens give no text.
    #[must_use]
    pub fn skip_special(mut self, skip_special: bool) -> Self {
        self.skip_special = skip_special;
        self
    }

    /// The text that `id` completes, which may be empty. An unknown id gives none.
    pub fn push(&mut self, tokenizer: &Tokenizer, id: u32) -> String {
        if self.skip_special && tokenizer.is_special(id) {
            return String::new();
        }
        if let Some(library) = tokenizer.whole_text_decoder() {
            return self.window.push(tokenizer, id, library.may_change(id));
        }
        self.pending.extend_from_slice(&tokenizer.token_bytes(id).unwrap_or_default());
        let complete = self.pending.len() - incomplete_suffix(&self.pending);
        let text = String::from_utf8_lossy(&self.pending[..complete]).into_owned();
        self.pending.drain(..complete);
        text
    }

    /// The end: a character that was never completed becomes U+FFFD. The decoder can be used again.
    pub fn finish(&mut self) -> String {
        let text = String::from_utf8_lossy(&self.pending).into_owned() + &self.window.waiting;
        self.pending.clear();
        self.window = Window::default();
        text
    }
}

impl Window {
    /// As the library's `DecodeStream`: decodes again from the last ids that gave text, and returns what is new, if no
    /// later id changes it.
    fn push(&mut self, tokenizer: &Tokenizer, id: u32, may_change: bool) -> String {
        self.ids.push(id);
        let text = tokenizer.decode_lossy(&self.ids, false);
        let same = self.given.chars().zip(text.chars()).take_while(|(given, now)| given == now);
        let same = same.map(|(c, _)| c.len_utf8()).sum();
        self.waiting = text[same..].into();
        if may_change || self.waiting.is_empty() || text.ends_with(char::REPLACEMENT_CHARACTER) {
            return String::new();
        }
        self.ids.drain(..self.num_given);
        self.num_given = self.ids.len();
        self.given = tokenizer.decode_lossy(&self.ids, false);
        std::mem::take(&mut self.waiting)
    }
}

/// How many bytes at the end of `bytes` begin a character that more bytes could complete.
fn incomplete_suffix(bytes: &[u8]) -> usize {
    let last = bytes.utf8_chunks().last().map_or(&[][..], |chunk| chunk.invalid());
    match std::str::from_utf8(last) {
        Err(error) if error.error_len().is_none() => last.len(),
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_unfinished_characters_wait() {
        let cases: [(&[u8], usize); 8] = [
            (b"", 0),
            (b"abc", 0),
            ("é".as_bytes(), 0),
            (b"a\xc3", 1),
            (b"\xf0\x9f\x98", 3),
            (b"\xff", 0),
            (b"\xff\xe2\x82", 2),
            (b"\xe2\x82a", 0),
        ];
        for (bytes, expected) in cases {
            assert_eq!(incomplete_suffix(bytes), expected, "{bytes:?}");
        }
    }
}
