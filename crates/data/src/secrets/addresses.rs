//! What has an `@` in it: passwords in URLs, and e-mail addresses.
//!
//! Code has `@` for many things: decorators, versions (`lodash@4.17.21`), matrix products (`a@b.mean`), scopes
//! (`@babel/core`), logins (`git@github.com:`). An address ends in a top-level domain that exists, and nothing is called on
//! it.

use super::literal::{is_example, is_password, is_random};
use super::{Found, Kind, run_end, run_start};

/// The longest local part, RFC 5321.
const MAX_LOCAL: usize = 64;
/// The longest domain, RFC 1035.
const MAX_DOMAIN: usize = 253;
/// The longest user and password that are looked for in a URL.
const MAX_USERINFO: usize = 256;

/// Top-level domains of more than two letters that people have addresses at.
#[rustfmt::skip]
const TOP_LEVEL: [&str; 78] = [
    "academy", "aero", "agency", "app", "art", "asia", "audio", "bio", "biz", "blog", "build", "business",
    "cafe", "cat", "center", "cloud", "club", "codes", "com", "community", "company", "consulting", "cool",
    "coop", "dev", "digital", "edu", "education", "email", "energy", "engineer", "engineering", "expert",
    "foundation", "games", "gmbh", "gov", "group", "guru", "health", "host", "info", "ink", "institute",
    "int", "international", "jobs", "legal", "life", "link", "live", "ltd", "marketing", "media", "mil",
    "mobi", "museum", "name", "net", "network", "news", "ninja", "one", "online", "ooo", "org", "page", "pro",
    "science", "shop", "site", "software", "solutions", "studio", "systems", "tech", "technology", "xyz",
];

/// The two-letter ones (ISO 3166-1, and eu, uk, su, ac): for each first letter the second ones.
#[rustfmt::skip]
const COUNTRIES: [&str; 26] = [
    "cdefgilmoqrstuwxz", "abdefghijmnorstvwyz", "acdfghiklmnoruvwxyz", "ejkmoz", "cegrstu", "ijkmor",
    "abdefghilmnpqrstuwy", "kmnrtu", "delmnoqrst", "emop", "eghimnprwyz", "abcikrstuvy",
    "acdeghklmnopqrstuvwxyz", "acefgilopruz", "m", "aefghklmnrstwy", "a", "eosuw", "abcdeghijklmnorstuvxyz",
    "cdfghjklmnortvwz", "agksyz", "aceginu", "fs", "", "et", "amw",
];

/// Domains that nobody has an address at: RFC 2606, RFC 6761, and names that examples use.
#[rustfmt::skip]
const RESERVED: [&str; 22] = [
    "acme.com", "bar.com", "company.com", "domain.com", "domain.tld", "email.com", "example.com",
    "example.edu", "example.net", "example.org", "foo.bar", "foo.com", "host.com", "mail.com", "mydomain.com",
    "myhost.com", "server.com", "site.com", "some.com", "somewhere.com", "test.com", "yourdomain.com",
];

/// Local parts that are programs.
const PROGRAMS: [&str; 10] = [
    "bot",
    "do-not-reply",
    "donotreply",
    "git",
    "hg",
    "mailer-daemon",
    "no-reply",
    "noreply",
    "notifications",
    "svn",
];

/// Finds the addresses and passwords of `text`.
pub(super) fn find(text: &[u8], found: &mut Vec<Found>) {
    let mut done = 0;
    for at in memchr::memchr_iter(b'@', text) {
        if at < done {
            continue;
        }
        match userinfo_start(text, at) {
            Some(start) => {
                let end = userinfo_end(text, at);
                found.extend(url_password(text, start, end));
                done = end + 1;
            }
            None => {
                if let Some(email) = email(text, at) {
                    done = email.range.end;
                    found.push(email);
                }
            }
        }
    }
}

/// Where `user:password` starts in `scheme://user:password@host`, whose `@` is the one given.
fn userinfo_start(text: &[u8], at: usize) -> Option<usize> {
    let start = run_start(text, at, MAX_USERINFO, is_userinfo);
    (text[..start].ends_with(b"://") && start < at).then_some(start)
}

/// Where it ends: a password may hold an `@` that its writer did not escape, so at the last one before the host.
fn userinfo_end(text: &[u8], at: usize) -> usize {
    let host_end = run_end(text, at, MAX_USERINFO, |b| is_userinfo(b) || b == b'@');
    at + text[at..host_end].iter().rposition(|b| *b == b'@').unwrap_or(0)
}

/// The password of the user and password at `start..at`.
fn url_password(text: &[u8], start: usize, at: usize) -> Option<Found> {
    let host = text.get(at + 1)?;
    if !host.is_ascii_alphanumeric() && !b"[{$%<_".contains(host) {
        return None;
    }
    let userinfo = &text[start..at];
    let Some(colon) = userinfo.iter().position(|b| *b == b':') else {
        let token = userinfo.len() >= 20 && is_random(userinfo) && !is_example(userinfo);
        return token.then_some(Found { kind: Kind::UrlPassword, range: start..at });
    };
    let (user, password) = (&userinfo[..colon], &userinfo[colon + 1..]);
    let secret = user != password && user != b"anonymous" && is_url_password(password);
    secret.then_some(Found { kind: Kind::UrlPassword, range: start + colon + 1..at })
}

/// In a URL even a plain word is a password, unless it is one of those that stand for any.
fn is_url_password(value: &[u8]) -> bool {
    const PLAIN: [&[u8]; 12] = [
        b"password",
        b"passwd",
        b"pass",
        b"pwd",
        b"pw",
        b"secret",
        b"postgres",
        b"guest",
        b"admin",
        b"root",
        b"test",
        b"user",
    ];
    let plain = PLAIN.iter().any(|word| value.eq_ignore_ascii_case(word));
    let port = value.iter().all(u8::is_ascii_digit);
    value.len() >= 6
        && !plain
        && !port
        && (is_password(value, false) || is_random(value) && !is_example(value))
}

fn is_userinfo(byte: u8) -> bool {
    byte > b' ' && byte != 0x7f && !b"\"'`@\\,/?#".contains(&byte)
}

/// The address whose `@` is the one given.
fn email(text: &[u8], at: usize) -> Option<Found> {
    let mut start =
        run_start(text, at, MAX_LOCAL + 1, |b| b.is_ascii_alphanumeric() || b"._%+-".contains(&b));
    if at - start > MAX_LOCAL {
        return None;
    }
    // What is glued to it: an escape (`\n`), a sign of a list or diff.
    if start > 0 && text[start - 1] == b'\\' && matches!(text[start], b'n' | b't' | b'r') {
        start += 1;
    }
    start = run_end(text, start, at - start, |b| !b.is_ascii_alphanumeric());
    let end = domain_end(text, at + 1)?;
    let (local, domain) = (&text[start..at], &text[at + 1..end]);
    let first = start.checked_sub(1).map(|before| text[before]);
    // Half of a word in another script, an attribute or a path: none is an address.
    let glued = first.is_some_and(|b| b >= 0x80 || b"/$@".contains(&b));
    let next = text.get(end).copied().unwrap_or(b' ');
    let used = b"([@=/".contains(&next);
    let login =
        next == b':' && text.get(end + 1).is_some_and(|b| b.is_ascii_alphanumeric() || b"/~".contains(b));
    if local.is_empty() || glued || used || login || next >= 0x80 || !is_somebody(local, domain) {
        return None;
    }
    Some(Found { kind: Kind::Email, range: start..end })
}

/// Where the domain ends that starts at `start`: labels with dots, the last one a top-level domain.
fn domain_end(text: &[u8], start: usize) -> Option<usize> {
    let end = run_end(text, start, MAX_DOMAIN + 1, |b| b.is_ascii_alphanumeric() || b == b'.' || b == b'-');
    let dots = text[start..end].iter().rev().take_while(|b| matches!(b, b'.' | b'-')).count();
    let end = end - dots;
    let domain = &text[start..end];
    let dot = domain.iter().rposition(|b| *b == b'.')?;
    let labels = domain.split(|b| *b == b'.').all(|label| !label.is_empty() && label[0] != b'-');
    let underscore = text.get(end) == Some(&b'_');
    (domain.len() <= MAX_DOMAIN && labels && !underscore && is_top_level(&domain[dot + 1..])).then_some(end)
}

fn is_top_level(label: &[u8]) -> bool {
    let mut small = [0; 16];
    let Some(small) = small.get_mut(..label.len()) else { return false };
    small.copy_from_slice(label);
    small.make_ascii_lowercase();
    match small {
        [first @ b'a'..=b'z', second] => COUNTRIES[usize::from(*first - b'a')].as_bytes().contains(second),
        _ => TOP_LEVEL.binary_search_by(|known| known.as_bytes().cmp(small)).is_ok(),
    }
}

/// Whether an address may be a person's: not at a domain for examples, not that of a program.
fn is_somebody(local: &[u8], domain: &[u8]) -> bool {
    let is = |word: &&str, text: &[u8]| text.eq_ignore_ascii_case(word.as_bytes());
    let reserved = RESERVED.iter().any(|name| {
        let tail = domain.len().checked_sub(name.len()).map(|from| (from, &domain[from..]));
        tail.is_some_and(|(from, tail)| is(name, tail) && (from == 0 || domain[from - 1] == b'.'))
    });
    let labels_reserved = domain.split(|b| *b == b'.').any(|label| {
        let starts = |word: &str| {
            label.len() >= word.len() && label[..word.len()].eq_ignore_ascii_case(word.as_bytes())
        };
        starts("example") || starts("your")
    });
    let letters = local.len() == 1 && domain.get(1) == Some(&b'.');
    // `12345+jane@users.noreply.github.com` names a person, unlike `noreply@github.com`.
    !reserved && !labels_reserved && !letters && !PROGRAMS.iter().any(|word| is(word, local))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn top_level_domains() {
        assert!(TOP_LEVEL.is_sorted(), "binary search needs a sorted table");
        for label in ["com", "ORG", "de", "io", "Uk", "dev"] {
            assert!(is_top_level(label.as_bytes()), "{label}");
        }
        for label in ["", "T", "xx", "mean", "shape", "png", "1", "averyverylonglabelindeed"] {
            assert!(!is_top_level(label.as_bytes()), "{label}");
        }
    }
}
