//! Requests to the hub: GET alone, redirects by hand, every answer bounded in size and in time.
//!
//! Redirects are followed here rather than in the library, for two reasons. The token goes to the endpoint's host and to
//! no other, however a redirect leads there; and the hub says only in its redirect which file the content network is going
//! to send. A redirect from TLS to plain text is refused.

use super::address::{Origin, join, shorten, shown};
use super::connect::agent;
use super::error::HubError;
use super::headers::{asked_wait, etag, header, next_link};
use super::id::HubId;
use super::options::{HubOptions, Secret};
use super::refusal;
use super::retry::Attempts;
use serde::de::DeserializeOwned;
use std::io::Read;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use ureq::http::HeaderMap;
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
