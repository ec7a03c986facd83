//! Decodes ids one by one, as they are generated, without ever cutting a character.

use crate::tokenizer::Tokenizer;

/// Turns ids into text as they come. Bytes that may be the beginning of a character wait for the rest of it.
///
/// The strings returned, one after the other, are what [`Tokenizer::decode_lossy`] makes of all the ids.
#[derive(Clone, Debug, Default)]
pub struct StreamDecoder {
    /// The beginning of a character, at most three bytes.
    pending: Vec<u8>,
    skip_special: bool,
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
        self.pending.extend_from_slice(tokenizer.token_bytes(id).unwrap_or_default());
        let complete = self.pending.len() - incomplete_suffix(&self.pending);
        let text = String::from_utf8_lossy(&self.pending[..complete]).into_owned();
        self.pending.drain(..complete);
        text
    }

    /// The end: a character that was never completed becomes U+FFFD. The decoder can be used again.
    pub fn finish(&mut self) -> String {
        let text = String::from_utf8_lossy(&self.pending).into_owned();
        self.pending.clear();
        text
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
