//! What a value looks like: a word, a name or an example, or something that nobody would write but as a secret.
//!
//! Random strings are told from names by their pairs of letters: of the pairs in names that people write, 96 in 100 are
//! among the 250 most common ones, which are 37 in 100 of all pairs. Entropy does not tell them apart at these lengths:
//! a name of 20 characters has about as many different ones as 20 random hexadecimal digits.

use super::kind::PLACEHOLDERS;

/// The longest password that is looked for.
pub(super) const MAX_PASSWORD: usize = 128;

/// For each letter those that often follow it: the 250 most common pairs in the words of 2,700 files of Python.
#[rustfmt::skip]
const FOLLOWERS: [&str; 26] = [
    "bcdgiklmnprstuvxy", "aeijlosu", "acehiklorstu", "adeiostu", "acdefgilmnpqrstvwxy", "aefilortu",
    "aeghilnorsu", "aeiot", "abcdefglmnoprstvxz", "e", "ei", "adefilostuy", "abeimopsu", "acdefgilnopstuvy",
    "abcdgiklmnoprstuvw", "aehiloprstuy", "u", "acdegikmnorstuy", "acefhikopstuy", "acehiloprstuwy",
    "abceilmnprst", "aei", "aehior", "ceipt", "epst", "e",
];

/// [`FOLLOWERS`], a bit a letter.
const COMMON: [u32; 26] = {
    let mut table = [0; 26];
    let mut letter = 0;
    while letter < 26 {
        let followers = FOLLOWERS[letter].as_bytes();
        let mut i = 0;
        while i < followers.len() {
            table[letter] |= 1 << (followers[i] - b'a');
            i += 1;
        }
        letter += 1;
    }
    table
};

/// Words by which a value says that it is none. In small letters.
#[rustfmt::skip]
const EXAMPLES: [&str; 22] = [
    "example", "placeholder", "changeme", "change_me", "change-me", "your_", "your-", "yourpass", "yourkey",
    "yourtoken", "dummy", "redacted", "replace_", "replace-", "replaceme", "insert_", "insert-", "xxxx",
    "****", "....", "1234567890", "abcdefghij",
];

/// Words that stand for a password, and do not keep anything: `test123`, `admin`, `new_password1`. In small letters.
#[rustfmt::skip]
const STAND_INS: [&str; 60] = [
    "a", "abc", "admin", "administrator", "alice", "auth", "bad", "bar", "baz", "bob", "bogus", "confirm",
    "correct", "db", "default", "demo", "dev", "fake", "field", "foo", "foobar", "guest", "hello", "id",
    "incorrect", "input", "invalid", "key", "letmein", "mock", "my", "mypassword", "mysql", "new", "no",
    "none", "old", "p", "pass", "passw", "passwd", "password", "passwort", "postgres", "pw", "pwd", "qwerty",
    "rd", "root", "sample", "secret", "some", "super", "test", "testing", "token", "user", "username",
    "wrong", "x",
];

/// Whether a value is a template, an example or repetitive: nothing that keeps anything.
pub(super) fn is_example(value: &[u8]) -> bool {
    if value.first().is_none_or(|b| b"$%".contains(b) && value.len() < 40 && is_name(&value[1..])) {
        return true;
    }
    let pair = |open: u8, close: u8| {
        value.iter().position(|b| *b == open).is_some_and(|at| value[at..].contains(&close))
    };
    let templates = [&b"${"[..], b"$(", b"{{", b"%(", b"#{"];
    if pair(b'<', b'>') || pair(b'{', b'}') || templates.iter().any(|t| holds(value, t)) {
        return true;
    }
    if PLACEHOLDERS.iter().any(|word| holds(value, word.as_bytes())) || num_distinct(value) < 5 {
        return true;
    }
    EXAMPLES.iter().any(|word| holds_any_case(value, word.as_bytes()))
}

/// Whether a value looks random: not made of words.
pub(super) fn is_random(value: &[u8]) -> bool {
    let (odd, pairs) = odd_pairs(value);
    pairs >= 6 && odd * 5 >= pairs * 2
}

/// The same where a prefix speaks for it already: one in 600 random strings of 34 letters is not [`is_random`].
pub(super) fn may_be_random(value: &[u8]) -> bool {
    let (odd, pairs) = odd_pairs(value);
    pairs >= 6 && odd * 4 >= pairs
}

/// Whether a value could be a password that is worth keeping secret. `strict` asks for what no name or type has.
pub(super) fn is_password(value: &[u8], strict: bool) -> bool {
    if !(6..=MAX_PASSWORD).contains(&value.len())
        || value.iter().any(|b| b.is_ascii_whitespace() || b.is_ascii_control())
    {
        return false;
    }
    if is_example(value) || is_place(value) || is_stand_in(value) {
        return false;
    }
    // A last sign is that of a prompt, `Password:`, or ends a sentence.
    let inner = &value[..value.len() - 1];
    let sign =
        inner.iter().any(|b| b.is_ascii_punctuation() && !b"_-./:,\\'()[]".contains(b)) || !value.is_ascii();
    let digits = value.iter().filter(|b| b.is_ascii_digit()).count();
    let letters = value.iter().filter(|b| b.is_ascii_alphabetic()).count();
    if letters == 0 {
        return false;
    }
    let random = value.len() >= 8 && is_random(value);
    match strict {
        true => digits > 0 && (random || sign) || digits >= 3 && letters >= 4 && is_plain(value),
        false => random || sign && letters >= 3 || digits > 0 && is_plain(value),
    }
}

/// Whether a value could be a key or token that somebody was given.
pub(super) fn is_secret(value: &[u8]) -> bool {
    if !(16..=1024).contains(&value.len()) || is_example(value) || is_place(value) {
        return false;
    }
    let allowed = |b: &u8| b.is_ascii_graphic() && !b"[]{}<>|\\\"'`;,".contains(b);
    let digits = value.iter().filter(|b| b.is_ascii_digit()).count();
    let upper = value.iter().filter(|b| b.is_ascii_uppercase()).count();
    let lower = value.iter().filter(|b| b.is_ascii_lowercase()).count();
    value.iter().all(allowed) && (digits > 1 || upper > 2 && lower > 2) && is_random(value)
}

/// Whether a value is what a program may name a thing: letters, digits, `_`, `-`, `.`.
pub(super) fn is_name(value: &[u8]) -> bool {
    value.iter().all(|b| b.is_ascii_alphanumeric() || b"_-.".contains(b))
}

/// Letters and digits, perhaps with hyphens, and at most one other sign among them.
fn is_plain(value: &[u8]) -> bool {
    value.iter().filter(|b| !b.is_ascii_alphanumeric() && **b != b'-').count() <= 1
}

/// A URL, a path or a regular expression.
fn is_place(value: &[u8]) -> bool {
    holds(value, b"://")
        || value.starts_with(b"/")
        || value.starts_with(b"./")
        || value.starts_with(b"~/")
        || value.starts_with(b"^")
        || holds(value, b"[a-z")
        || holds(value, b"[A-Z")
        || holds(value, b"\\w")
}

/// Whether the words of a value all stand for something else.
fn is_stand_in(value: &[u8]) -> bool {
    value.split(|b| !b.is_ascii_alphabetic()).all(|word| {
        word.is_empty()
            || word.len() <= 13 && {
                let mut small = [0; 13];
                for (small, byte) in small.iter_mut().zip(word) {
                    *small = byte.to_ascii_lowercase();
                }
                STAND_INS.binary_search_by(|stand_in| stand_in.as_bytes().cmp(&small[..word.len()])).is_ok()
            }
    })
}

/// Of the pairs of neighbours that say something, how many are not those of words, and how many there are.
///
/// A letter beside a digit is odd, and two letters that seldom follow each other. Two digits say nothing, nor does a
/// capital after a small letter, where a word starts.
fn odd_pairs(value: &[u8]) -> (usize, usize) {
    let (mut odd, mut pairs) = (0, 0);
    for pair in value.windows(2) {
        let (a, b) = (pair[0], pair[1]);
        let is_odd = match (a.is_ascii_alphabetic(), b.is_ascii_alphabetic()) {
            (true, true) if a.is_ascii_lowercase() && b.is_ascii_uppercase() => continue,
            (true, true) => COMMON[usize::from((a | 32) - b'a')] >> ((b | 32) - b'a') & 1 == 0,
            (true, false) if b.is_ascii_digit() || b"+=$%^&*!#@".contains(&b) => true,
            (false, true) if a.is_ascii_digit() || b"+=$%^&*!#@".contains(&a) => true,
            _ => continue,
        };
        odd += usize::from(is_odd);
        pairs += 1;
    }
    (odd, pairs)
}

fn num_distinct(value: &[u8]) -> u32 {
    let mut seen = [0u64; 4];
    for byte in value {
        seen[usize::from(byte >> 6)] |= 1 << (byte & 63);
    }
    seen.iter().map(|bits| bits.count_ones()).sum()
}

/// Whether `word` is in `text`.
pub(super) fn holds(text: &[u8], word: &[u8]) -> bool {
    text.windows(word.len()).any(|window| window == word)
}

/// Whether `word`, in small letters, is in `text` in any case.
pub(super) fn holds_any_case(text: &[u8], word: &[u8]) -> bool {
    text.windows(word.len()).any(|window| window.eq_ignore_ascii_case(word))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_not_random_and_keys_are() {
        assert!(STAND_INS.is_sorted(), "binary search needs a sorted table");
        for name in
            ["authentication_backend", "clientSecretProvider", "token-refresh-interval", "sha256_digest_v2"]
        {
            assert!(!is_random(name.as_bytes()), "{name}");
        }
        for key in ["9f86d081884c7d659a2feaa0c55ad015", "wJalrXUtnFEMIK7MDENGbPxRfiCY", "k3v9x2mq8z7w1p5t"] {
            assert!(is_random(key.as_bytes()), "{key}");
        }
    }

    #[test]
    fn passwords_and_what_stands_for_one() {
        for value in ["hunter42", "Sunshine2024!", "tr0ub4dor&3", "p@55-W0rd!x", "xK9#mQ2$vL"] {
            assert!(is_password(value.as_bytes(), false), "{value}");
        }
        for value in [
            "password",
            "test123",
            "new_password1",
            "Password:",
            "id_password",
            "${DB_PASS}",
            "changeme123",
            "{pw1}x",
            "********",
        ] {
            assert!(!is_password(value.as_bytes(), false), "{value}");
        }
    }
}
