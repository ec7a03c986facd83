//! Addresses: where a redirect leads, whom a token may be sent to, and what messages may show.

use ureq::http::Uri;

/// `scheme://host:port`: what a token may be sent to, or an ETag compared with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Origin {
    scheme: String,
    host: String,
    port: u16,
}

impl Origin {
    /// `None` if `address` is not of HTTP, or has a name or password in it.
    pub(super) fn of(address: &str) -> Option<Self> {
        let uri: Uri = address.parse().ok()?;
        let (scheme, authority) = (uri.scheme_str()?, uri.authority()?);
        let usual = match scheme {
            "https" => 443,
            "http" => 80,
            _ => return None,
        };
        if authority.as_str().contains('@') || authority.host().is_empty() {
            return None;
        }
        let (scheme, host) = (scheme.to_owned(), authority.host().to_ascii_lowercase());
        Some(Origin { scheme, host, port: authority.port_u16().unwrap_or(usual) })
    }
}

/// Where a redirect leads.
pub(super) fn join(address: &str, location: &str) -> Option<String> {
    let location = location.split('#').next().filter(|location| !location.is_empty())?;
    let (scheme, rest) = address.split_once("://")?;
    let authority_end = rest.find(['/', '?']).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(authority_end);
    if location.contains("://") && location.starts_with("http") {
        Some(location.to_owned())
    } else if location.starts_with("//") {
        Some(format!("{scheme}:{location}"))
    } else if location.starts_with('/') {
        Some(format!("{scheme}://{authority}{location}"))
    } else {
        let path = path.split('?').next().unwrap_or_default();
        let folder = path.rfind('/').map_or("/", |slash| &path[..=slash]);
        Some(format!("{scheme}://{authority}{folder}{location}"))
    }
}

/// A text as a part of an address.
pub(super) fn encode(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            encoded.push(byte.into());
        } else {
            encoded += &format!("%{byte:02X}");
        }
    }
    encoded
}

/// An address as messages show it: without its query, which may be signed, and without a name and password.
pub(super) fn shown(address: &str) -> String {
    let address = address.split(['?', '#']).next().unwrap_or_default();
    let (scheme, rest) = address.split_once("://").unwrap_or(("", address));
    let authority = rest.split('/').next().unwrap_or_default();
    match authority.rfind('@') {
        Some(at) => format!("{scheme}://...{}", &rest[at..]),
        None => address.to_owned(),
    }
}

/// What a message shows of a text that another machine sent: a line, and not a long one.
pub(super) fn shorten(text: &str) -> String {
    const MOST: usize = 200;
    let clean: String = text.chars().take(MOST).map(|c| if c.is_control() { '?' } else { c }).collect();
    if text.chars().nth(MOST).is_some() { clean + "..." } else { clean }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redirects_lead_where_a_browser_would_go() {
        for (address, location, want) in [
            ("https://a/b/c?q=1", "https://x/y", "https://x/y"),
            ("https://a/b/c?q=1", "//x/y", "https://x/y"),
            ("https://a:8/b/c?q=1", "/y?z", "https://a:8/y?z"),
            ("https://a/b/c?q=/1/2", "y", "https://a/b/y"),
            ("https://a", "y#z", "https://a/y"),
        ] {
            assert_eq!(join(address, location).as_deref(), Some(want));
        }
        assert_eq!(join("https://a/b", ""), None);
        assert_eq!(join("https://a/b", "#c"), None);
    }

    #[test]
    fn origins_are_compared_with_their_ports() {
        let origin = |address| Origin::of(address).expect(address);
        assert_eq!(origin("https://A.b/x"), origin("https://a.b:443/y?z"));
        assert_ne!(origin("https://a.b"), origin("http://a.b"));
        assert_ne!(origin("https://a.b"), origin("https://a.b:444"));
        assert_ne!(origin("https://a.b"), origin("https://a.b.c"));
        for address in
            ["", "a.b", "ftp://a.b", "https://u:p@a.b", "https://a.b@c.d", "https://", "https://a b"]
        {
            assert_eq!(Origin::of(address), None, "{address}");
        }
    }

    #[test]
    fn addresses_are_shown_without_what_opens_files() {
        assert_eq!(shown("https://a/b?X-Signature=secret#f"), "https://a/b");
        assert_eq!(shown("https://u:p@a/b@c"), "https://...@a/b@c");
        assert_eq!(shown("u:p@a"), "://...@a");
        assert_eq!(encode("refs/pr/1 ü"), "refs%2Fpr%2F1%20%C3%BC");
        assert_eq!(shorten("a\nb\u{1b}[2J"), "a?b?[2J");
        assert_eq!(shorten(&"x".repeat(300)).len(), 203);
    }
}
