//! GPT-2's spelling of bytes: every byte has a printable character, so that a token of any bytes is a JSON string.
//!
//! Bytes that are printable in Latin-1 stand for themselves; the other 68 take the characters from U+0100 on, in
//! order (a space is `Ġ`, a newline `Ċ`). Source: `bytes_to_unicode` in GPT-2's encoder.py.

/// The character of each byte.
const CHARS: [char; 256] = chars();
/// The byte of each character below U+0144, 256 where there is none.
const BYTES: [u16; 0x144] = bytes();

const fn chars() -> [char; 256] {
    let mut table = ['\0'; 256];
    let (mut byte, mut extra) = (0, 0x100);
    while byte < 256 {
        let is_printable = matches!(byte, 0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff);
        let code = if is_printable { byte as u32 } else { extra };
        if !is_printable {
            extra += 1;
        }
        table[byte] = match char::from_u32(code) {
            Some(c) => c,
            None => unreachable!(),
        };
        byte += 1;
    }
    table
}

const fn bytes() -> [u16; 0x144] {
    let mut table = [256; 0x144];
    let mut byte = 0;
    while byte < 256 {
        table[CHARS[byte] as usize] = byte as u16;
        byte += 1;
    }
    table
}

/// The byte that a character spells.
pub(crate) fn byte_of(c: char) -> Option<u8> {
    BYTES.get(c as usize).and_then(|&byte| u8::try_from(byte).ok())
}

/// The characters that spell `bytes`.
pub(crate) fn spell(bytes: &[u8]) -> String {
    bytes.iter().map(|&byte| CHARS[usize::from(byte)]).collect()
}

/// The bytes that `spelling` stands for, or `None` when one of its characters spells no byte.
pub(crate) fn unspell(spelling: &str) -> Option<Vec<u8>> {
    spelling.chars().map(byte_of).collect()
}

/// All bytes, sorted by the character that spells them: the order in which a vocabulary lists them.
pub(crate) fn bytes_by_char() -> impl Iterator<Item = u8> {
    BYTES.iter().filter_map(|&byte| u8::try_from(byte).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spelling_is_a_bijection() {
        let all: Vec<u8> = (0..=255).collect();
        assert_eq!(unspell(&spell(&all)).as_deref(), Some(&all[..]));
        assert_eq!(spell(b" a\n\x00\xad"), "ĠaĊĀŃ");
        assert_eq!(unspell("a b"), None);
        assert_eq!(unspell("日"), None);
        assert_eq!(bytes_by_char().count(), 256);
        assert_eq!(bytes_by_char().next(), Some(b'!'));
        assert_eq!(bytes_by_char().last(), Some(0xad));
    }
}
