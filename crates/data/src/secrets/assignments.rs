//! Literals beside a name that says what they are: `password = "..."` in all the ways that languages and files write it.
//!
//! The last word of a name says what it holds: `db_password`, but not `password_field`; `apiKey`, but not `keyName`. Of
//! the value only a literal is taken, never a call, a name or a template, and only one that looks like what the name
//! promises (see `literal`).

use super::kind::PLACEHOLDERS;
use super::literal::{MAX_PASSWORD, holds, is_name, is_password, is_random, is_secret};
use super::{Found, Kind, run_end, run_start};

/// The longest name that is looked at.
const MAX_NAME: usize = 64;
/// The longest value.
const MAX_VALUE: usize = 1024;

/// What a name promises.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Promise {
    Password,
    Secret,
}

/// What is between a name and its value.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Link {
    /// `=`, `:`, `=>` and the like.
    Assigned,
    /// `,` after a name in quotes, or an opening parenthesis: an argument, which may be something else.
    Argument,
    /// `<password>...<`
    Element,
    /// `--password ...`, `PASSWORD '...'`
    Space,
}

/// A value and how it is written.
struct Value {
    start: usize,
    end: usize,
    quoted: bool,
}

/// The value of the name that has the anchor at `at`.
pub(super) fn find(text: &[u8], at: usize, found: &mut Vec<Found>) -> usize {
    let name_end = run_end(text, at, MAX_NAME, is_name_byte);
    let Some((link, after)) = link(text, name_end) else { return name_end };
    let name_start = run_start(text, at, MAX_NAME, is_name_byte);
    let name = &text[name_start..name_end];
    if name.len() >= MAX_NAME {
        return name_end;
    }
    let words = Words::of(name);
    let Some(promise) = words.promise() else { return name_end };
    // `"AWS::AppSync::ApiKey": "..."` names a type, and `<PASSWORD>` is what we wrote.
    let before = &text[..name_start];
    let ours = before.ends_with(b"<")
        && PLACEHOLDERS.iter().any(|p| text[name_start - 1..].starts_with(p.as_bytes()));
    if ours || before.ends_with(b"::") || link == Link::Argument && !words.ends_plainly() {
        return name_end;
    }
    let setting = is_setting(text, name_start, name_end);
    let most = if promise == Promise::Password { MAX_PASSWORD + 1 } else { MAX_VALUE };
    let text = &text[..text.len().min(after + most + 256)];
    let Some(value) = value(text, name_start, name_end, link, after, setting) else { return name_end };
    let range = value.start..value.end;
    let kind = kind(promise, &words, &text[range.clone()], link, value.quoted, setting);
    match kind {
        Some(kind) => {
            let end = range.end;
            found.push(Found { kind, range });
            end
        }
        // What is long is not looked at again from within, so that work stays linear.
        None if range.len() > MAX_PASSWORD => range.end,
        None => name_end,
    }
}

/// The password of SQL's `IDENTIFIED BY '...'`, which is at `at`.
pub(super) fn identified_by(text: &[u8], at: usize, found: &mut Vec<Found>) -> usize {
    let after = at + b"IDENTIFIED BY".len();
    let start = run_end(text, after, 8, |b| b == b' ');
    if let Some(Value { start, end, .. }) = quoted(text, start)
        && is_password(&text[start..end], false)
    {
        found.push(Found { kind: Kind::Password, range: start..end });
    }
    after
}

fn is_name_byte(byte: u8) -> bool {
    is_name(&[byte])
}

fn is_blank(byte: u8) -> bool {
    byte == b' ' || byte == b'\t'
}

/// What links the name that ends at `name_end` with a value, and where that ends.
fn link(text: &[u8], name_end: usize) -> Option<(Link, usize)> {
    let mut after = name_end;
    after += usize::from(text.get(after) == Some(&b'\\'));
    let in_quotes = text.get(after).is_some_and(|b| b"\"'`".contains(b));
    after += usize::from(in_quotes);
    after = run_end(text, after, 2, |b| b == b']');
    let space = run_end(text, after, 80, is_blank);
    let rest = &text[space..];
    let assigned = [&b":="[..], b"=>", b"===", b"==", b"!==", b"!=", b"?=", b"<-", b"=", b":"];
    if let Some(sign) = assigned.iter().find(|sign| rest.starts_with(sign)) {
        return Some((Link::Assigned, space + sign.len()));
    }
    match rest.first()? {
        b',' if in_quotes => Some((Link::Argument, space + 1)),
        b'(' if !in_quotes => Some((Link::Argument, space + 1)),
        b'>' if !in_quotes => Some((Link::Element, space + 1)),
        _ if space > after && !in_quotes => Some((Link::Space, space)),
        _ => None,
    }
}

/// The literal after a link.
fn value(
    text: &[u8],
    name_start: usize,
    name_end: usize,
    link: Link,
    after: usize,
    setting: bool,
) -> Option<Value> {
    let before = name_start.checked_sub(1).map(|before| text[before]);
    let start = run_end(text, after, 80, is_blank);
    match link {
        Link::Element => {
            let end = run_end(text, after, 256, |b| b > b' ' && b != b'<');
            (before == Some(b'<') && text.get(end) == Some(&b'<')).then_some(Value {
                start: after,
                end,
                quoted: true,
            })
        }
        Link::Argument => quoted(text, start),
        Link::Space => {
            let line = &text[run_start(text, name_start, 80, |b| b != b'\n')..name_start];
            let header = holds(&text[name_start.saturating_sub(20)..name_start], b"uthorization");
            match text.get(start)? {
                b'\'' if text[name_start..name_end].eq_ignore_ascii_case(b"password") => quoted(text, start),
                b'"' if line.trim_ascii_start().starts_with(b"#") => quoted(text, start),
                _ if header || text[name_start..].starts_with(b"--") => bare(text, start, setting),
                // Go: `var password string = "..."`.
                _ => {
                    let of_type = |b: u8| b.is_ascii_alphanumeric() || b"_*[].".contains(&b);
                    quoted(text, past_type(text, start, of_type)?)
                }
            }
        }
        Link::Assigned => {
            let of_type = |b: u8| b.is_ascii_alphanumeric() || b"_&'<>[]|?. *:".contains(&b);
            quoted(text, start)
                .or_else(|| quoted(text, past_type(text, start, of_type)?))
                .or_else(|| bare(text, start, setting))
        }
    }
}

/// After `Type =`, where that stands at `start`.
fn past_type(text: &[u8], start: usize, of_type: impl Fn(u8) -> bool) -> Option<usize> {
    let end = run_end(text, run_end(text, start, 48, of_type), 80, is_blank);
    let assigned = end > start && text.get(end) == Some(&b'=') && text.get(end + 1) != Some(&b'=');
    assigned.then(|| run_end(text, end + 1, 80, is_blank))
}

/// The literal in quotes that starts at `start`, perhaps after a parenthesis and a prefix such as `b` or `@`.
fn quoted(text: &[u8], start: usize) -> Option<Value> {
    let start = start + usize::from(text.get(start) == Some(&b'('));
    let mut start = run_end(text, start, 2, |b| b"bBuUrRfFL@$&".contains(&b));
    let escaped = text.get(start) == Some(&b'\\');
    start += usize::from(escaped);
    let quote = *text.get(start).filter(|b| b"\"'`".contains(b))?;
    let tripled = text[start..].starts_with(&[quote; 3]);
    let start = start + if tripled { 3 } else { 1 };
    let mut end = start;
    while end - start <= MAX_VALUE {
        match *text.get(end)? {
            b'\n' => return None,
            b'\\' if escaped && text.get(end + 1) == Some(&quote) => break,
            b'\\' => end += 2,
            byte if byte == quote => break,
            _ => end += 1,
        }
    }
    (end - start <= MAX_VALUE && end <= text.len()).then_some(Value { start, end, quoted: true })
}

/// The literal without quotes that starts at `start`: what follows it must not make it code. `setting` says that it has
/// the rest of its line.
fn bare(text: &[u8], start: usize, setting: bool) -> Option<Value> {
    // Elsewhere than in a file of settings, `&` goes on with the next parameter of a URL.
    let ends = |b: u8| b <= b' ' || b == 0x7f || b"\"'`,;()[]{}<>\\".contains(&b) || !setting && b == b'&';
    let set = |b: u8| !ends(b);
    let end = run_end(text, start, MAX_VALUE, set);
    let code = text.get(end).is_some_and(|b| b"([{,)".contains(b));
    (!code && end > start && text[start] < 0x80 && text.get(end).is_none_or(u8::is_ascii)).then_some(Value {
        start,
        end,
        quoted: false,
    })
}

/// Whether the name starts its line and has its value right after it, as in files of settings and environments.
fn is_setting(text: &[u8], name_start: usize, name_end: usize) -> bool {
    let line = &text[run_start(text, name_start, 64, |b| b != b'\n')..name_start];
    let starts = [&b""[..], b"export ", b"ENV ", b"ARG ", b"set ", b"SET ", b"- "];
    let next = text.get(name_end + 1).is_some_and(|b| b.is_ascii_graphic());
    starts.contains(&line) && text.get(name_end) == Some(&b'=') && next
}

/// What the value is, if it is anything.
fn kind(
    promise: Promise,
    words: &Words,
    value: &[u8],
    link: Link,
    quoted: bool,
    setting: bool,
) -> Option<Kind> {
    let base64 = |length| {
        value.len() == length && value.iter().all(|b| b.is_ascii_alphanumeric() || b"+/=".contains(b))
    };
    let hex = || value.iter().all(u8::is_ascii_hexdigit);
    if promise == Promise::Secret {
        let name = words.joined();
        if base64(40) && !hex() && is_random(value) && (holds(name, b"aws") || holds(name, b"secret_access"))
        {
            return Some(Kind::AwsSecretKey);
        }
        if is_random(value)
            && (base64(88) && name.ends_with(b"account_key")
                || base64(44) && name.ends_with(b"shared_access_key")
                || value.len() == 40 && (holds(&value[3..6], b"8Q~") || holds(&value[3..6], b"7Q~")))
        {
            return Some(Kind::AzureKey);
        }
        if !is_secret(value) || !quoted && value.iter().filter(|b| **b == b'.').count() > 2 {
            return None;
        }
        let own = match value.len() {
            36 if holds(name, b"heroku") => Kind::HerokuKey,
            32 if hex() && holds(name, b"twilio") => Kind::TwilioKey,
            _ if link == Link::Space && !quoted && words.is(b"token") => Kind::BearerAuthorization,
            _ => Kind::Secret,
        };
        return Some(own);
    }
    let strict = link == Link::Argument || !quoted && !setting;
    is_password(value, strict).then_some(Kind::Password)
}

/// A name in small letters, its words apart by `_`: `dbPassword1` is `db_password`.
struct Words {
    bytes: [u8; 2 * MAX_NAME],
    len: usize,
}

/// Words at the end of a name that say which of several it is.
#[rustfmt::skip]
const VARIANTS: [&[u8]; 20] = [
    b"value", b"string", b"str", b"text", b"literal", b"plain", b"plaintext", b"production", b"prod",
    b"staging", b"live", b"dev", b"test", b"old", b"new", b"default", b"raw", b"base64", b"primary",
    b"secondary",
];
/// Words before `key` that make it a secret one.
#[rustfmt::skip]
const SECRET_KEYS: [&[u8]; 27] = [
    b"access", b"account", b"admin", b"api", b"app", b"application", b"auth", b"client", b"consumer",
    b"cookie", b"crypt", b"encrypt", b"encryption", b"hmac", b"jwt", b"license", b"master", b"private",
    b"secret", b"server", b"service", b"session", b"shared", b"sign", b"signing", b"storage", b"write",
];
/// What the last word of a name may end in.
#[rustfmt::skip]
const SECRETS: [&[u8]; 12] = [
    b"secret", b"token", b"apikey", b"accesskey", b"secretkey", b"privatekey", b"authkey", b"accountkey",
    b"credential", b"credentials", b"encryptionkey", b"masterkey",
];

impl Words {
    fn of(name: &[u8]) -> Self {
        let (mut bytes, mut len) = ([0; 2 * MAX_NAME], 0);
        for (i, byte) in name.iter().enumerate() {
            let before = i.checked_sub(1).map_or(b'_', |before| name[before]);
            let small_after = name.get(i + 1).is_some_and(u8::is_ascii_lowercase);
            let hump = byte.is_ascii_uppercase()
                && (before.is_ascii_lowercase() || before.is_ascii_uppercase() && small_after);
            let separator = !byte.is_ascii_alphanumeric();
            if (hump || separator) && len > 0 && bytes[len - 1] != b'_' {
                bytes[len] = b'_';
                len += 1;
            }
            if !separator {
                bytes[len] = byte.to_ascii_lowercase();
                len += 1;
            }
        }
        let mut words = Self { bytes, len };
        words.drop_variants();
        words
    }

    /// Drops what numbers it, and which of several it is.
    fn drop_variants(&mut self) {
        loop {
            let trimmed = run_start(&self.bytes, self.len, self.len, |b| b == b'_' || b.is_ascii_digit());
            let last = self.bytes[..trimmed].rsplit(|b| *b == b'_').next().unwrap_or_default();
            let variant = VARIANTS.contains(&last);
            self.len = trimmed - if variant { last.len() } else { 0 };
            if !variant {
                return;
            }
        }
    }

    fn joined(&self) -> &[u8] {
        &self.bytes[..self.len]
    }

    fn is(&self, word: &[u8]) -> bool {
        self.joined() == word
    }

    /// Whether the last word is one that stands for itself: `set_password(...)`, and not `splitpasswd(...)`.
    fn ends_plainly(&self) -> bool {
        let last = self.joined().rsplit(|b| *b == b'_').next().unwrap_or_default();
        let plain = [
            &b"password"[..],
            b"passwd",
            b"passphrase",
            b"pass",
            b"pwd",
            b"secret",
            b"token",
            b"key",
            b"credential",
            b"apikey",
        ];
        plain.contains(&last)
    }

    fn promise(&self) -> Option<Promise> {
        let mut words = self.joined().rsplit(|b| *b == b'_');
        let last = words.next()?;
        let before = words.next().unwrap_or_default();
        let ends = |endings: &[&[u8]]| endings.iter().any(|ending| last.ends_with(ending));
        if ends(&[b"password", b"passwd", b"passphrase", b"passwort", b"pwd"])
            || last == b"pass"
            || last == b"dbpass"
        {
            return Some(Promise::Password);
        }
        let secret = ends(&SECRETS)
            || last == b"key" && SECRET_KEYS.contains(&before)
            || last == b"auth" && (before.is_empty() || before == b"npm");
        // A public key's token, or one by which a request or a page is known again, opens nothing.
        let public =
            [&b"public"[..], b"next", b"page", b"continuation", b"idempotency", b"key"].contains(&before);
        (secret && !(last == b"token" && public)).then_some(Promise::Secret)
    }
}
