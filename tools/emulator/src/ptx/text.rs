//! The structure of a PTX text: kernels, scopes, labels, statements.

use std::iter::Peekable;
use std::str::CharIndices;

/// A kernel's head and body.
pub(super) struct Entry<'a> {
    pub(super) name: &'a str,
    /// What stands between the parentheses.
    pub(super) parameters: &'a str,
    /// What stands between them and the body: .maxntid and the like.
    pub(super) directives: &'a str,
    pub(super) body: &'a str,
}

/// What a body is made of.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Piece<'a> {
    Open,
    Close,
    Label(&'a str),
    Statement(&'a str),
}

/// A declaration of shared memory; no bytes where the launch says how many.
pub(super) struct Shared<'a> {
    pub(super) name: &'a str,
    pub(super) align: usize,
    pub(super) bytes: Option<usize>,
}

/// All kernels.
pub(super) fn entries(text: &str) -> Result<Vec<Entry<'_>>, String> {
    let mut entries = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.find(".entry ") {
        rest = &rest[at + ".entry ".len()..];
        let open = rest.find('(').ok_or("a kernel without parameters")?;
        let close = rest.find(')').ok_or("parameters without an end")?;
        let begin = rest.find('{').ok_or("a kernel without a body")?;
        let end = begin + length_of_body(&rest[begin..]).ok_or("a body without an end")?;
        let ordered = open < close && close < begin;
        if !ordered {
            return Err("a kernel's head that is not understood".into());
        }
        entries.push(Entry {
            name: rest[..open].trim(),
            parameters: &rest[open + 1..close],
            directives: &rest[close + 1..begin],
            body: &rest[begin + 1..end],
        });
        rest = &rest[end..];
    }
    Ok(entries)
}

/// Bytes before the brace that closes the first.
fn length_of_body(text: &str) -> Option<usize> {
    let mut depth = 0;
    for (at, c) in text.char_indices() {
        match c {
            '{' => depth += 1,
            '}' => {
                depth -= 1;
                if depth == 0 {
                    return Some(at);
                }
            }
            _ => {}
        }
    }
    None
}

/// Shared memory that is declared outside of kernels, where lines are not indented.
pub(super) fn module_shared(text: &str) -> Vec<Shared<'_>> {
    let shared = |line| {
        let (rest, is_dynamic) = match str::strip_prefix(line, ".extern .shared ") {
            Some(rest) => (rest, true),
            None => (line.strip_prefix(".shared ")?, false),
        };
        let (name, align, bytes) = declaration(rest.strip_suffix(';')?)?;
        Some(Shared { name, align, bytes: (!is_dynamic).then_some(bytes) })
    };
    text.lines().filter_map(shared).collect()
}

/// The name, alignment and bytes of `.align N .b8 name[size]`; no bytes where the brackets are empty.
pub(super) fn declaration(text: &str) -> Option<(&str, usize, usize)> {
    let rest = text.trim().strip_prefix(".align ")?;
    let (align, rest) = rest.split_once(' ')?;
    let (kind, rest) = rest.trim().split_once(' ')?;
    let element = match kind {
        ".b8" | ".u8" => 1,
        ".b16" | ".u16" => 2,
        ".b32" | ".u32" | ".f32" => 4,
        ".b64" | ".u64" | ".f64" => 8,
        _ => return None,
    };
    let rest = rest.trim();
    let (name, bytes) = match rest.split_once('[') {
        Some((name, size)) => match size.strip_suffix(']')? {
            "" => (name, 0),
            size => (name, element * size.parse::<usize>().ok()?),
        },
        None => (rest, element),
    };
    Some((name, align.parse().ok()?, bytes))
}

/// A body's pieces, in order.
pub(super) fn pieces(body: &str) -> Result<Vec<Piece<'_>>, String> {
    let mut pieces = Vec::new();
    let mut chars = body.char_indices().peekable();
    while let Some(&(start, c)) = chars.peek() {
        match c {
            c if c.is_whitespace() => _ = chars.next(),
            '{' => {
                chars.next();
                pieces.push(Piece::Open);
            }
            '}' => {
                chars.next();
                pieces.push(Piece::Close);
            }
            '/' => skip_line(&mut chars),
            _ => pieces.push(statement(body, start, &mut chars)?),
        }
    }
    Ok(pieces)
}

fn skip_line(chars: &mut Peekable<CharIndices<'_>>) {
    while chars.next_if(|&(_, c)| c != '\n').is_some() {}
}

/// A label or a statement that begins at `start`.
fn statement<'a>(
    body: &'a str,
    start: usize,
    chars: &mut Peekable<CharIndices<'_>>,
) -> Result<Piece<'a>, String> {
    let mut is_name = true;
    while let Some((at, c)) = chars.next() {
        match c {
            ';' => return Ok(Piece::Statement(body[start..at].trim())),
            // `again: mbarrier...`, but not `shared::cta`.
            ':' if is_name && chars.peek().is_none_or(|&(_, next)| next != ':') => {
                return Ok(Piece::Label(&body[start..at]));
            }
            c => is_name &= c.is_alphanumeric() || c == '_' || c == '$',
        }
    }
    Err(format!("a statement without an end: {}", body[start..].lines().next().unwrap_or_default()))
}
