//! Requests to the hub: GET alone, redirects by hand, every answer bounded in size and in time.
//!
//! Redirects are followed here rather than in the library, for two reasons. The token goes to the endpoint's host and to
//! no other, however a redirect leads there; and the hub says only in its redirect which file the content network is going
//! to send. A redirect from TLS to plain text is refused.

use super::connect::agent;
use super::error::HubError;
use super::id::HubId;
use super::options::{HubOptions, Secret};
use super::refusal;
use super::retry::Attempts;
use serde::de::DeserializeOwned;
use std::io::Read;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};
use ureq::http::{HeaderMap, Uri};
use ureq::{Agent, Body, BodyReader};

/// Most redirects in a row.
const MAX_REDIRECTS: usize = 10;
/// Most bytes of a redirect's body that are read so that its connection can be used again.
const MAX_REDIRECT_BODY_BYTES: u64 = 16 << 10;

/// A connection pool and who asks.
pub(super) struct Client {
    agent: Agent,
    /// Without a slash at its end.
    endpoint: String,
    /// Where the token may go.
    home: Origin,
    token: Option<Secret>,
    options: HubOptions,
    /// Whether anything ever answered.
    has_answered: AtomicBool,
}

/// What is asked for.
#[derive(Default)]
pub(super) struct Get<'a> {
    pub(super) address: &'a str,
    /// First byte and the byte after the last.
    pub(super) range: Option<(u64, u64)>,
    /// The file is wanted only if it is still this one.
    pub(super) validator: Option<&'a Validator>,
    /// The whole body must come within this.
    pub(super) body_time: Option<Duration>,
}

/// An ETag and the server that gave it; another server's say nothing about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Validator {
    pub(super) origin: Origin,
    pub(super) etag: String,
    /// It stands for files that mean the same, and no range may be asked for by it.
    pub(super) is_weak: bool,
}

/// An answer of status 200 or 206.
pub(super) struct Answer {
    pub(super) is_partial: bool,
    pub(super) headers: HeaderMap,
    pub(super) body: BodyReader<'static>,
    /// The ETag of the file that the hub said its redirect leads to.
    pub(super) linked_etag: Option<String>,
    /// What answered in the end.
    pub(super) address: String,
    pub(super) origin: Origin,
}

/// Why there is no answer.
#[derive(Debug)]
pub(super) enum Failure {
    /// The connection failed; the next may not.
    Broken { address: String, what: String, hint: &'static str },
    /// The answer is another status.
    Status(Status),
    /// It is of no use to try again.
    Final(HubError),
}

/// A status other than success, and what the hub says about it.
#[derive(Debug)]
pub(super) struct Status {
    pub(super) address: String,
    pub(super) is_home: bool,
    pub(super) status: u16,
    /// The hub's own name for what is wrong.
    pub(super) code: String,
    pub(super) message: String,
    /// How long it asks to be left alone.
    pub(super) asked_wait: Option<Duration>,
}

/// An answer of JSON.
pub(super) struct Page<T> {
    pub(super) value: T,
    pub(super) num_bytes: u64,
    /// The address of the page that follows.
    pub(super) next: Option<String>,
}

impl Client {
    pub(super) fn new(options: &HubOptions) -> Result<Self, HubError> {
        let endpoint = options.endpoint.trim_end_matches('/').to_owned();
        let wrong = || HubError::Option {
            name: "HF_ENDPOINT",
            what: format!("`{}`; expected https://HOST", shown(&endpoint)),
        };
        let home = Origin::of(&endpoint).filter(|_| !endpoint.contains(['?', '#'])).ok_or_else(wrong)?;
        Ok(Client {
            agent: agent(options)?,
            endpoint,
            home,
            token: options.find_token()?,
            options: options.clone(),
            has_answered: AtomicBool::new(false),
        })
    }

    pub(super) fn options(&self) -> &HubOptions {
        &self.options
    }

    pub(super) fn has_token(&self) -> bool {
        self.token.is_some()
    }

    pub(super) fn has_answered(&self) -> bool {
        self.has_answered.load(Ordering::Relaxed)
    }

    /// The address of a path of the hub, which begins with `/`.
    pub(super) fn address(&self, path: &str) -> String {
        format!("{}{path}", self.endpoint)
    }

    /// Asks once, and follows redirects.
    pub(super) fn get(&self, get: &Get<'_>) -> Result<Answer, Failure> {
        let (mut address, mut linked_etag) = (get.address.to_owned(), None);
        for _ in 0..=MAX_REDIRECTS {
            let origin = Origin::of(&address).ok_or_else(|| strange(&address, "a redirect", &address))?;
            let response = self.ask(get, &address, &origin)?;
            let status = response.status().as_u16();
            let (parts, body) = response.into_parts();
            match status {
                200 | 206 => {
                    let body = body.into_with_config().limit(u64::MAX).reader();
                    let (is_partial, headers) = (status == 206, parts.headers);
                    return Ok(Answer { is_partial, headers, body, linked_etag, address, origin });
                }
                301 | 302 | 303 | 307 | 308 => {
                    linked_etag = linked_etag.or_else(|| etag(&parts.headers, "x-linked-etag"));
                    let location = header(&parts.headers, "location").unwrap_or_default();
                    drain(body, self.options.patience.silence);
                    let next =
                        join(&address, location).ok_or_else(|| strange(&address, "a redirect", location))?;
                    if address.starts_with("https:") && !next.starts_with("https:") {
                        return Err(strange(&address, "a redirect out of TLS", &next));
                    }
                    address = next;
                }
                _ => {
                    let is_home = origin == self.home;
                    let status = Status::of(status, &parts.headers, &address, is_home);
                    drain(body, self.options.patience.silence);
                    return Err(Failure::Status(status));
                }
            }
        }
        Err(Failure::Final(HubError::Answer {
            address: shown(get.address),
            what: "redirects",
            expected: format!("at most {MAX_REDIRECTS}"),
            found: "more".to_owned(),
            hint: "check HF_ENDPOINT and the proxy",
        }))
    }

    /// One request to one server.
    fn ask(
        &self,
        get: &Get<'_>,
        address: &str,
        origin: &Origin,
    ) -> Result<ureq::http::Response<Body>, Failure> {
        let mut request = self.agent.get(address);
        if let Some(token) = self.token.as_ref().filter(|_| *origin == self.home) {
            request = request.header("authorization", format!("Bearer {}", token.reveal()));
        }
        if let Some((first, end)) = get.range {
            request = request.header("range", format!("bytes={first}-{}", end.saturating_sub(1)));
        }
        if let Some(validator) = get.validator.filter(|v| v.origin == *origin && !v.is_weak) {
            request = request.header("if-range", format!("\"{}\"", validator.etag));
        }
        let response = request.config().timeout_recv_body(get.body_time).build().call();
        let response = response.map_err(|error| broken(address, &error))?;
        self.has_answered.store(true, Ordering::Relaxed);
        Ok(response)
    }

    /// Asks for JSON of at most `limit` bytes, as often as patience allows.
    pub(super) fn json<T: DeserializeOwned>(
        &self,
        id: &HubId,
        address: &str,
        limit: u64,
    ) -> Result<Page<T>, HubError> {
        let mut attempts = Attempts::new(self, id);
        loop {
            match self.json_once(address, limit) {
                Ok(page) => return Ok(page),
                Err(failure) => attempts.failed(failure)?,
            }
        }
    }

    fn json_once<T: DeserializeOwned>(&self, address: &str, limit: u64) -> Result<Page<T>, Failure> {
        let body_time = Some(self.options.patience.silence.saturating_mul(10));
        let answer = self.get(&Get { address, body_time, ..Default::default() })?;
        let mut bytes = Vec::new();
        let read = answer.body.take(limit.saturating_add(1)).read_to_end(&mut bytes);
        read.map_err(|error| broken(address, &ureq::Error::from(error)))?;
        let wrong = |expected: &str, found: String| {
            let address = shown(address);
            let hint = "check HF_ENDPOINT, and whether the network asks to log in";
            let expected = expected.to_owned();
            Failure::Final(HubError::Answer { address, what: "an answer", expected, found, hint })
        };
        if bytes.len() as u64 > limit {
            return Err(wrong(&format!("at most {limit} bytes"), "more".to_owned()));
        }
        let value = serde_json::from_slice(&bytes).map_err(|error| {
            let start = shorten(&String::from_utf8_lossy(&bytes[..bytes.len().min(200)]));
            wrong("JSON as the hub sends it", format!("`{start}` ({error})"))
        })?;
        let next = header(&answer.headers, "link").and_then(next_link);
        // The hub names itself in links even where a mirror passes them on.
        let next = next.and_then(|link| link.find("/api/").map(|start| self.address(&link[start..])));
        Ok(Page { value, num_bytes: bytes.len() as u64, next })
    }
}

impl Status {
    fn of(status: u16, headers: &HeaderMap, address: &str, is_home: bool) -> Self {
        let text = |name| shorten(header(headers, name).unwrap_or_default());
        Status {
            address: shown(address),
            is_home,
            status,
            code: text("x-error-code"),
            message: text("x-error-message"),
            asked_wait: asked_wait(headers),
        }
    }

    /// Whether the same request may get another answer later.
    pub(super) fn may_pass(&self) -> bool {
        matches!(self.status, 408 | 425 | 429 | 500 | 502 | 503 | 504 | 520..=530)
    }

    pub(super) fn describe(&self) -> String {
        refusal::describe(self)
    }
}

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
fn join(address: &str, location: &str) -> Option<String> {
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

/// The link to the next page of a `Link` header: `<https://...>; rel="next"`.
fn next_link(header: &str) -> Option<&str> {
    header.split('<').skip(1).find_map(|link| {
        let (address, parameters) = link.split_once('>')?;
        let rel = |p: &str| p.trim().trim_end_matches(',').trim().replace('"', "") == "rel=next";
        parameters.split(';').any(rel).then_some(address)
    })
}

/// How long a server asks to be left alone: `Retry-After`, in seconds or as a date, or the hub's own
/// `RateLimit: "api";r=0;t=55`.
fn asked_wait(headers: &HeaderMap) -> Option<Duration> {
    let seconds = |text: &str| text.trim().parse().ok().map(Duration::from_secs);
    let until = |text: &str| date(text)?.duration_since(SystemTime::now()).ok();
    let rate_limit = || header(headers, "ratelimit")?.split(';').find_map(|p| p.trim().strip_prefix("t="));
    let retry_after = header(headers, "retry-after").and_then(|text| seconds(text).or_else(|| until(text)));
    retry_after.or_else(|| rate_limit().and_then(seconds))
}

/// A date as HTTP writes it: `Sun, 06 Nov 1994 08:49:37 GMT`.
fn date(text: &str) -> Option<SystemTime> {
    const MONTHS: [&str; 12] =
        ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let (_, text) = text.split_once(", ")?;
    let [day, month, year, time, "GMT"] = text.split_whitespace().collect::<Vec<_>>()[..] else {
        return None;
    };
    let month = MONTHS.iter().position(|name| *name == month)? as u64;
    let (day, year) = (day.parse::<u64>().ok()?, year.parse::<u64>().ok()?);
    let time: Vec<u64> = time.split(':').map(str::parse).collect::<Result<_, _>>().ok()?;
    let [hour, minute, second] = time[..] else { return None };
    if !(1..=31).contains(&day) || !(1970..=9999).contains(&year) || hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    // Years begin in March here, so that the day that some of them lack is their last; then months have 30.6 days.
    let (year, month) = if month < 2 { (year - 1, month + 10) } else { (year, month - 2) };
    let days = year * 365 + year / 4 - year / 100 + year / 400 + (month * 306 + 5) / 10 + day - 1;
    let seconds = (days - 719_468) * 86_400 + hour * 3600 + minute * 60 + second;
    SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(seconds))
}

pub(super) fn header<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

/// An ETag without its quotes, and without the mark that it is a weak one.
pub(super) fn etag(headers: &HeaderMap, name: &str) -> Option<String> {
    let text = header(headers, name)?;
    let text = text.strip_prefix("W/").unwrap_or(text).trim_matches('"');
    (!text.is_empty() && text.len() <= 256 && !text.contains('"')).then(|| text.to_owned())
}

/// Reads a body that nobody wants, if it is short and comes soon, so that its connection can be used again.
fn drain(body: Body, time: Duration) {
    let mut reader = body.into_with_config().limit(u64::MAX).reader().take(MAX_REDIRECT_BODY_BYTES);
    let (start, mut buffer) = (Instant::now(), [0; 4096]);
    // A body that cannot be read costs the connection, and nothing else.
    while start.elapsed() < time && reader.read(&mut buffer).is_ok_and(|num_read| num_read > 0) {}
}

fn strange(address: &str, what: &'static str, found: &str) -> Failure {
    Failure::Final(HubError::Answer {
        address: shown(address),
        what,
        expected: "http(s)://HOST/..., and https after https".to_owned(),
        found: format!("`{}`", shorten(&shown(found))),
        hint: "check HF_ENDPOINT and the proxy",
    })
}

/// What a failure of the library means. Its own texts may hold addresses, whose queries are not for everyone.
pub(super) fn broken(address: &str, error: &ureq::Error) -> Failure {
    use ureq::Error as E;
    let network = "check the network; with HF_HUB_OFFLINE=1 the cache alone is used";
    let certificates = "if something on this network opens TLS, name its certificates in SSL_CERT_FILE";
    let (what, hint) = match error {
        E::HostNotFound => ("its name is unknown (DNS)".to_owned(), network),
        E::Timeout(ureq::Timeout::Connect | ureq::Timeout::Resolve) => {
            ("no connection in time".to_owned(), network)
        }
        E::Timeout(_) => ("it fell silent".to_owned(), network),
        E::Io(error) if error.to_string().contains("certificate") => (format!("TLS: {error}"), certificates),
        E::Io(error) => (error.to_string(), network),
        E::Rustls(error) => (format!("TLS: {error}"), certificates),
        E::Tls(what) => (format!("TLS: {what}"), certificates),
        E::ConnectProxyFailed(_) => ("the proxy refused the connection".to_owned(), "check HTTPS_PROXY"),
        E::BadUri(_) => ("its address is wrong".to_owned(), "check HF_ENDPOINT"),
        other => (other.to_string(), network),
    };
    Failure::Broken { address: shown(address), what, hint }
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
    fn dates() {
        let seconds =
            |text| date(text).map(|d| d.duration_since(SystemTime::UNIX_EPOCH).expect("later").as_secs());
        assert_eq!(seconds("Thu, 01 Jan 1970 00:00:00 GMT"), Some(0));
        assert_eq!(seconds("Sun, 06 Nov 1994 08:49:37 GMT"), Some(784_111_777));
        assert_eq!(seconds("Thu, 29 Feb 2024 23:59:59 GMT"), Some(1_709_251_199));
        assert_eq!(seconds("Fri, 01 Mar 2024 00:00:00 GMT"), Some(1_709_251_200));
        for text in
            ["", "5", "Sun, 06 Nov 1994 08:49 GMT", "Sun, 99 Nov 1994 08:49:37 GMT", "x, 1 y 2 3:4:5 GMT"]
        {
            assert_eq!(seconds(text), None, "{text}");
        }
    }

    #[test]
    fn links() {
        assert_eq!(next_link("<https://a/b?c=d>; rel=\"next\""), Some("https://a/b?c=d"));
        assert_eq!(next_link("<x>; rel=\"prev\", <y>; title=a; rel=next"), Some("y"));
        for none in ["", "<x>", "<x>; rel=\"last\"", "x; rel=\"next\"", "<x"] {
            assert_eq!(next_link(none), None, "{none}");
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
