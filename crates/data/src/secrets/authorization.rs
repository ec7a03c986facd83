//! What opens a door as it stands: headers, signatures in URLs, hashes of passwords, `curl -u`.

use super::literal::{holds, is_example, is_password, is_random, is_secret};
use super::{Found, Kind, run_end, run_start};

/// The token of `Bearer `, whose `earer ` is at `at`.
pub(super) fn bearer(text: &[u8], at: usize, found: &mut Vec<Found>) -> usize {
    let start = run_end(text, at + 6, 4, |b| b == b' ');
    let end = run_end(text, start, 4096, |b| b.is_ascii_alphanumeric() || b"-._~+/=".contains(&b));
    let token = &text[start..end];
    if token.len() >= 16 && is_random(token) && !is_example(token) && token.iter().any(u8::is_ascii_digit) {
        found.push(Found { kind: Kind::BearerAuthorization, range: start..end });
    }
    end
}

/// The credentials of `Basic `, whose `asic ` is at `at`: known by what they decode to.
pub(super) fn basic(text: &[u8], at: usize, found: &mut Vec<Found>) -> usize {
    let start = at + 5;
    let end = run_end(text, start, 512, |b| b.is_ascii_alphanumeric() || b"+/=".contains(&b));
    if end - start >= 8 && is_user_and_password(&text[start..end]) {
        found.push(Found { kind: Kind::BasicAuthorization, range: start..end });
    }
    end
}

/// Whether this is base64 of printable text with a colon in it.
pub(super) fn is_user_and_password(base64: &[u8]) -> bool {
    let (mut bits, mut num_bits, mut colon) = (0u32, 0, false);
    for byte in base64.iter().take_while(|b| **b != b'=') {
        let six = match byte {
            b'A'..=b'Z' => byte - b'A',
            b'a'..=b'z' => byte - b'a' + 26,
            b'0'..=b'9' => byte - b'0' + 52,
            b'+' | b'-' => 62,
            _ => 63,
        };
        bits = bits << 6 | u32::from(six);
        num_bits += 6;
        if num_bits >= 8 {
            num_bits -= 8;
            let decoded = (bits >> num_bits) as u8;
            if decoded < b' ' || decoded == 0x7f {
                return false;
            }
            colon |= decoded == b':';
        }
    }
    colon
}

/// The signature in a URL of Azure storage, whose `sig=` is at `at`.
pub(super) fn signature(text: &[u8], at: usize, found: &mut Vec<Found>) -> usize {
    let start = at + 4;
    let end = run_end(text, start, 128, |b| b.is_ascii_alphanumeric() || b"%+/=-_".contains(&b));
    let around = &text[at.saturating_sub(400)..text.len().min(end + 200)];
    let parameter = at > 0 && b"?&;".contains(&text[at - 1]);
    let signature = &text[start..end];
    if parameter && (40..=100).contains(&signature.len()) && holds(around, b"se=") && is_random(signature) {
        found.push(Found { kind: Kind::AzureKey, range: start..end });
    }
    end
}

/// The hash by bcrypt whose `$2b$` is at `at`.
pub(super) fn password_hash(text: &[u8], at: usize, found: &mut Vec<Found>) -> usize {
    let cost_end = run_end(text, at + 4, 2, |b| b.is_ascii_digit());
    let end = run_end(text, cost_end + 1, 54, |b| b.is_ascii_alphanumeric() || b == b'.' || b == b'/');
    if cost_end == at + 6
        && text.get(cost_end) == Some(&b'$')
        && end == cost_end + 54
        && is_random(&text[cost_end + 1..end])
    {
        found.push(Found { kind: Kind::PasswordHash, range: at..end });
        return end;
    }
    at + 4
}

/// The password of `curl -u user:password`, whose ` -u ` is at `at`.
pub(super) fn command_line(text: &[u8], at: usize, found: &mut Vec<Found>) -> usize {
    let start = at + 4;
    let line = run_start(text, at, 200, |b| b != b'\n');
    if holds(&text[line..at], b"curl") {
        let quote = text.get(start).copied().filter(|b| b"\"'".contains(b));
        let start = start + usize::from(quote.is_some());
        let end = run_end(text, start, 200, |b| b > b' ' && !b"\"'`\\".contains(&b));
        if let Some(colon) = text[start..end].iter().position(|b| *b == b':') {
            let range = start + colon + 1..end;
            if is_password(&text[range.clone()], false) || is_secret(&text[range.clone()]) {
                found.push(Found { kind: Kind::Password, range });
            }
        }
        return end;
    }
    start
}
