//! Private keys in text armour: what lies between the markers goes, the markers stay.

use super::{Found, Kind, run_end};

/// The longest body that is looked at: a PGP key with its signatures.
const MAX_BODY: usize = 64 << 10;
/// The shortest run of base64 that is taken for key material, as a line has it.
const MIN_LINE: usize = 16;
/// The most that lies between two lines of a body whose end is not marked: indentation, quotes, signs.
const MAX_GAP: usize = 40;

fn is_base64(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"+/=".contains(&byte)
}

/// The key whose `BEGIN ` is at `at`.
pub(super) fn find(text: &[u8], at: usize, found: &mut Vec<Found>) -> usize {
    let label_start = at + b"BEGIN ".len();
    let label_end =
        run_end(text, label_start, 48, |b| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b' ');
    let label = &text[label_start..label_end];
    let marked = text[..at].ends_with(b"-----") && text[label_end..].starts_with(b"-----");
    // SSH2 writes `---- BEGIN SSH2 ENCRYPTED PRIVATE KEY ----`.
    let marked = marked || text[..at].ends_with(b"---- ") && text[label_end..].starts_with(b"----");
    if !marked || !label.windows(11).any(|word| word == b"PRIVATE KEY") {
        return label_end;
    }
    let start = run_end(text, label_end, 5, |b| b == b'-');
    let limit = text.len().min(start + MAX_BODY);
    // No body holds four hyphens: there it ends, or there is another marker.
    let dashes = memchr::memmem::find(&text[start..limit], b"----").map(|length| start + length);
    let end = match dashes {
        Some(end) if text[end..].starts_with(b"-----END") || text[end..].starts_with(b"---- END") => {
            marked_body(text, start, end)
        }
        _ => open_body(text, start, dashes.unwrap_or(limit)),
    };
    push(text, start, end, found)
}

/// The lines after `Private-Lines: 14` of a PuTTY key.
pub(super) fn putty(text: &[u8], at: usize, found: &mut Vec<Found>) -> usize {
    let start = run_end(text, at, 32, |b| !b.is_ascii_digit() && b != b'\n');
    let start = run_end(text, start, 4, |b| b.is_ascii_digit());
    let end = open_body(text, start, text.len().min(start + MAX_BODY));
    push(text, start, end, found)
}

/// The end of a body that a marker ends, if it is a key and not code that speaks of one.
fn marked_body(text: &[u8], start: usize, end: usize) -> usize {
    let body = &text[start..end];
    let lines = body.split(|b| !is_base64(*b)).filter(|run| run.len() >= MIN_LINE);
    let key: usize = lines.map(<[u8]>::len).sum();
    if key * 2 >= body.len() { end } else { start }
}

/// The end of the last of the lines of key material that follow `start`.
fn open_body(text: &[u8], start: usize, limit: usize) -> usize {
    let mut end = start;
    loop {
        let mut line = end;
        // The next run that is long enough, past signs and short words (`Comment: x`, `\n`).
        let line_end = loop {
            line = run_end(text, line, MAX_GAP, |b| !is_base64(b));
            let line_end = run_end(text, line, limit.saturating_sub(line), is_base64);
            if line_end - line >= MIN_LINE {
                break line_end;
            }
            if line_end - end > MAX_GAP || line_end == line {
                return end;
            }
            line = line_end;
        };
        end = line_end;
    }
}

/// Notes the body from its first to its last letter, so that line breaks and quotes at its ends stay.
fn push(text: &[u8], start: usize, end: usize, found: &mut Vec<Found>) -> usize {
    // A sign that stands alone joins strings: `"..." +`.
    let joins = |at: usize, beside: Option<&u8>| {
        matches!(text[at], b'+' | b'/') && beside.is_none_or(|b| !is_base64(*b))
    };
    let mut first = start;
    while first < end && (!is_base64(text[first]) || joins(first, text.get(first + 1))) {
        // The letter of an escape is not the key's.
        first += if text[first] == b'\\' { 2 } else { 1 };
    }
    let mut last = end;
    while last > first + 1
        && (!is_base64(text[last - 1]) || text[last - 2] == b'\\' || joins(last - 1, Some(&text[last - 2])))
    {
        last -= 1;
    }
    if last.saturating_sub(first) >= MIN_LINE {
        found.push(Found { kind: Kind::PrivateKey, range: first..last });
    }
    end.max(start)
}
