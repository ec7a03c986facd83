//! A server of HTTP/1.1 on this machine that answers as the hub does, or as badly as a test asks for.

use crate::hub::content::ContentHash;
use ring::digest;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use std::collections::{BTreeMap, VecDeque};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// A request as it came.
#[derive(Clone, Debug)]
pub(super) struct Request {
    /// Path and query.
    pub(super) target: String,
    headers: Vec<(String, String)>,
}

impl Request {
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    /// The range asked for, as first byte and byte after the last.
    pub(super) fn range(&self) -> Option<(usize, usize)> {
        let (first, last) = self.header("range")?.strip_prefix("bytes=")?.split_once('-')?;
        Some((first.parse().ok()?, last.parse::<usize>().map_or(usize::MAX, |last| last + 1)))
    }
}

/// An answer.
#[derive(Clone, Debug, Default)]
pub(super) struct Reply {
    pub(super) status: u16,
    pub(super) headers: Vec<(String, String)>,
    pub(super) body: Vec<u8>,
    /// The connection is closed after so many bytes of the body, whatever its announced length.
    pub(super) cut: Option<usize>,
    /// After so many bytes of the body nothing comes for a while.
    pub(super) stall: Option<(usize, Duration)>,
    /// The wait before every byte of the body.
    pub(super) trickle: Option<Duration>,
    /// The wait before anything is sent.
    pub(super) delay: Option<Duration>,
}

impl Reply {
    pub(super) fn new(status: u16, body: impl Into<Vec<u8>>) -> Self {
        Reply { status, body: body.into(), ..Default::default() }
    }

    pub(super) fn with(mut self, name: &str, value: impl ToString) -> Self {
        self.headers.retain(|(key, _)| !key.eq_ignore_ascii_case(name));
        self.headers.push((name.to_owned(), value.to_string()));
        self
    }
}

/// A connection, in the clear or not.
trait Stream: Read + Write + Send {}
impl<T: Read + Write + Send> Stream for T {}

/// What answers.
type Handler = dyn Fn(&Request) -> Reply + Send + Sync;

/// A listening server; it ends when it is dropped.
pub(super) struct Server {
    port: u16,
    requests: Arc<Mutex<Vec<Request>>>,
    num_connections: Arc<AtomicUsize>,
    stop: Arc<AtomicBool>,
}

impl Server {
    pub(super) fn start(handler: impl Fn(&Request) -> Reply + Send + Sync + 'static) -> Self {
        Self::serve(handler, |stream| Some(Box::new(stream)))
    }

    /// A server of HTTPS, whose certificate is by `tls/authority.pem`.
    pub(super) fn start_tls(handler: impl Fn(&Request) -> Reply + Send + Sync + 'static) -> Self {
        let chain = CertificateDer::from_pem_slice(include_bytes!("tls/server.pem")).expect("a certificate");
        let key = PrivateKeyDer::from_pem_slice(include_bytes!("tls/server.key")).expect("a key");
        let config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_no_client_auth()
            .with_single_cert(vec![chain], key)
            .expect("a certificate and its key");
        let config = Arc::new(config);
        Self::serve(handler, move |stream| {
            let connection = ServerConnection::new(config.clone()).ok()?;
            Some(Box::new(StreamOwned::new(connection, stream)))
        })
    }

    fn serve(
        handler: impl Fn(&Request) -> Reply + Send + Sync + 'static,
        open: impl Fn(TcpStream) -> Option<Box<dyn Stream>> + Send + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let server = Server {
            port: listener.local_addr().expect("an address").port(),
            requests: Arc::default(),
            num_connections: Arc::default(),
            stop: Arc::default(),
        };
        let handler: Arc<Handler> = Arc::new(handler);
        let (requests, num, stop) =
            (server.requests.clone(), server.num_connections.clone(), server.stop.clone());
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if stop.load(Ordering::SeqCst) {
                    break;
                }
                num.fetch_add(1, Ordering::SeqCst);
                let (handler, requests) = (handler.clone(), requests.clone());
                let Ok(socket) = stream.try_clone() else { continue };
                let Some(stream) = open(stream) else { continue };
                std::thread::spawn(move || {
                    converse(stream, &*handler, &requests);
                    let _ = socket.shutdown(Shutdown::Both);
                });
            }
        });
        server
    }

    pub(super) fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// All requests so far.
    pub(super) fn requests(&self) -> Vec<Request> {
        self.requests.lock().expect("requests").clone()
    }

    pub(super) fn num_connections(&self) -> usize {
        self.num_connections.load(Ordering::SeqCst)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        // Wakes the thread that listens.
        drop(TcpStream::connect(("127.0.0.1", self.port)));
    }
}

/// Answers requests of a connection until either side ends it.
fn converse(stream: Box<dyn Stream>, handler: &Handler, requests: &Mutex<Vec<Request>>) {
    let mut stream = BufReader::new(stream);
    while let Some(request) = read_request(&mut stream) {
        requests.lock().expect("requests").push(request.clone());
        if write_reply(stream.get_mut(), &handler(&request)).is_none() {
            break;
        }
    }
}

fn read_request(input: &mut impl BufRead) -> Option<Request> {
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        if input.read_line(&mut line).ok()? == 0 {
            return None;
        }
        let line = line.trim_end();
        if line.is_empty() {
            break;
        }
        lines.push(line.to_owned());
    }
    let target = lines.first()?.split(' ').nth(1)?.to_owned();
    let header =
        |line: &String| line.split_once(':').map(|(name, value)| (name.to_owned(), value.trim().to_owned()));
    Some(Request { target, headers: lines.iter().skip(1).filter_map(header).collect() })
}

/// `None` if the connection is to be closed.
fn write_reply(output: &mut impl Write, reply: &Reply) -> Option<()> {
    if let Some(delay) = reply.delay {
        std::thread::sleep(delay);
    }
    let mut head = format!("HTTP/1.1 {} Whatever\r\n", reply.status);
    let has_length = reply.headers.iter().any(|(name, _)| {
        ["content-length", "transfer-encoding", "connection"].contains(&name.to_lowercase().as_str())
    });
    if !has_length {
        head += &format!("Content-Length: {}\r\n", reply.body.len());
    }
    for (name, value) in &reply.headers {
        head += &format!("{name}: {value}\r\n");
    }
    output.write_all((head + "\r\n").as_bytes()).ok()?;
    let end = reply.cut.unwrap_or(reply.body.len()).min(reply.body.len());
    match reply.trickle {
        None => {
            let (first, wait) = reply.stall.unwrap_or((end, Duration::ZERO));
            output.write_all(&reply.body[..first]).ok()?;
            std::thread::sleep(wait);
            output.write_all(&reply.body[first..end]).ok()?;
        }
        Some(wait) => {
            for byte in &reply.body[..end] {
                std::thread::sleep(wait);
                output.write_all(&[*byte]).ok()?;
            }
        }
    }
    output.flush().ok()?;
    let closes = reply.cut.is_some() || reply.headers.iter().any(|(_, value)| value == "close");
    (!closes).then_some(())
}

/// The commit that every dataset of the tests is at.
pub(super) const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// What goes wrong with the next request for a file's bytes.
pub(super) type Fault = Box<dyn FnOnce(&Request, Reply) -> Reply + Send>;

/// A file and its hashes.
struct Stored {
    bytes: Vec<u8>,
    sha256: String,
    git_hash: String,
}

/// What both servers of a [`Hub`] know.
#[derive(Default)]
struct World {
    /// Files by path; those with `small` in their name lie in git, all others are large.
    files: BTreeMap<String, Stored>,
    /// Files in a page of the listing.
    page: usize,
    /// Only who has this may look.
    token: Option<String>,
    faults: Mutex<VecDeque<Fault>>,
}

/// The hub, with the dataset `owner/name`, and the content network that it redirects to.
pub(super) struct Hub {
    pub(super) hub: Server,
    pub(super) cdn: Server,
    world: Arc<World>,
}

impl Hub {
    pub(super) fn start(files: &[(&str, &[u8])]) -> Self {
        Hub::with(files, 1000, None)
    }

    pub(super) fn with(files: &[(&str, &[u8])], page: usize, token: Option<&str>) -> Self {
        let stored =
            |bytes: &[u8]| Stored { bytes: bytes.to_vec(), sha256: sha256(bytes), git_hash: git_hash(bytes) };
        let files = files.iter().map(|(path, bytes)| ((*path).to_owned(), stored(bytes))).collect();
        let world =
            Arc::new(World { files, page, token: token.map(str::to_owned), faults: Mutex::default() });
        let at_cdn = world.clone();
        let cdn = Server::start(move |request| at_cdn.cdn(request));
        let (at_hub, url) = (world.clone(), cdn.url());
        let hub = Server::start(move |request| at_hub.hub(request, &url));
        Hub { hub, cdn, world }
    }

    /// Adds to what goes wrong, in turn, with requests for the bytes of large files.
    pub(super) fn fault(&self, fault: impl FnOnce(&Request, Reply) -> Reply + Send + 'static) {
        self.world.faults.lock().expect("faults").push_back(Box::new(fault));
    }
}

impl World {
    fn hub(&self, request: &Request, cdn: &str) -> Reply {
        let target = request.target.as_str();
        if self
            .token
            .as_ref()
            .is_some_and(|token| request.header("authorization") != Some(format!("Bearer {token}").as_str()))
        {
            return Reply::new(401, "")
                .with("X-Error-Code", "GatedRepo")
                .with("X-Error-Message", "ask first");
        }
        let revision = "/api/datasets/owner/name/revision/";
        let tree = format!("/api/datasets/owner/name/tree/{COMMIT}?recursive=true");
        let resolve = format!("/datasets/owner/name/resolve/{COMMIT}/");
        if let Some(rest) = target.strip_prefix(revision) {
            return match rest {
                "main" | "refs%2Fpr%2F1" => {
                    Reply::new(200, format!("{{\"sha\":\"{COMMIT}\",\"siblings\":[]}}"))
                }
                _ => Reply::new(404, "").with("X-Error-Code", "RevisionNotFound"),
            };
        }
        if let Some(rest) = target.strip_prefix(&tree) {
            return self.tree(request, rest);
        }
        if let Some(path) = target.strip_prefix(&resolve).map(|path| path.replace("%20", " ")) {
            return match self.files.get(&path) {
                None => Reply::new(404, "").with("X-Error-Code", "EntryNotFound"),
                Some(file) if path.contains("small") => ranged(request, &file.bytes, &file.git_hash),
                Some(file) => Reply::new(302, "moved")
                    .with("Location", format!("{cdn}/{}?Signature=secret", file.sha256))
                    .with("X-Linked-Etag", format!("\"{}\"", file.sha256))
                    .with("X-Linked-Size", file.bytes.len()),
            };
        }
        Reply::new(404, "").with("X-Error-Code", "RepoNotFound")
    }

    fn tree(&self, request: &Request, rest: &str) -> Reply {
        let start: usize = rest.strip_prefix("&cursor=").map_or(0, |n| n.parse().expect("a cursor"));
        let entry = |(path, file): (&String, &Stored)| {
            let (oid, size) = (&file.git_hash, file.bytes.len());
            if path.contains("small") {
                return serde_json::json!({"type": "file", "path": path, "oid": oid, "size": size});
            }
            let lfs = serde_json::json!({"oid": file.sha256, "size": size, "pointerSize": 134});
            serde_json::json!({"type": "file", "path": path, "oid": oid, "size": size, "lfs": lfs})
        };
        let entries: Vec<_> = self.files.iter().map(entry).skip(start).take(self.page).collect();
        let end = start + entries.len();
        let reply = Reply::new(200, serde_json::Value::from(entries).to_string());
        if end == self.files.len() {
            return reply;
        }
        let path = request.target.split('&').next().unwrap_or_default();
        // A mirror passes on links to the hub itself, which must not be followed there.
        reply.with("Link", format!("<https://huggingface.co{path}&cursor={end}>; rel=\"next\""))
    }

    fn cdn(&self, request: &Request) -> Reply {
        let hash = request.target.trim_start_matches('/').split('?').next().unwrap_or_default();
        let file = self.files.values().find(|file| file.sha256 == hash);
        let reply = file.map_or_else(|| Reply::new(404, ""), |file| ranged(request, &file.bytes, "opaque-1"));
        let fault = self.faults.lock().expect("faults").pop_front();
        fault.map_or(reply.clone(), |fault| fault(request, reply))
    }
}

/// A file, or the range of it that is asked for.
fn ranged(request: &Request, bytes: &[u8], etag: &str) -> Reply {
    let etag = format!("\"{etag}\"");
    let Some((start, end)) = request.range() else {
        return Reply::new(200, bytes).with("ETag", etag);
    };
    let (end, total) = (end.min(bytes.len()), bytes.len());
    if start >= end {
        return Reply::new(416, "").with("Content-Range", format!("bytes */{total}"));
    }
    Reply::new(206, &bytes[start..end])
        .with("Content-Range", format!("bytes {start}-{}/{total}", end - 1))
        .with("ETag", etag)
}

pub(super) fn sha256(bytes: &[u8]) -> String {
    digest::digest(&digest::SHA256, bytes).as_ref().iter().map(|b| format!("{b:02x}")).collect()
}

pub(super) fn git_hash(bytes: &[u8]) -> String {
    let any = ContentHash::parse(&"0".repeat(40)).expect("a hash");
    let mut hasher = any.hasher(bytes.len() as u64);
    hasher.update(bytes);
    hasher.finish().to_string()
}
