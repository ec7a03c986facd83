//! A file of the hub, read where it is, as if it were here.
//!
//! The trick: a file is asked for in ranges that grow, 1 MiB, 4 MiB and so on to 256 MiB. A reader of a few bytes gets little
//! more than those, and its connection is free for the next range; a reader of everything asks once in 256 MiB. Whatever breaks
//! is asked for again from the byte that was reached, and only what is the same file is taken: its size, its ETags, and,
//! when a reader has seen it from the first byte to the last, its hash.

use super::address::{encode, shorten, shown};
use super::content::{ContentHash, ContentHasher};
use super::error::HubError;
use super::headers::{etag, header};
use super::http::{Answer, Client, Failure, Get, Validator, broken};
use super::id::HubId;
use super::listing::RemoteEntry;
use super::retry::Attempts;
use crate::blob::Blob;
use std::io::{self, Read};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use ureq::BodyReader;

/// Bytes of the first range of a reader that may want little, and of any range at the most.
const FIRST_RANGE_BYTES: u64 = 1 << 20;
const MAX_RANGE_BYTES: u64 = 256 << 20;
/// How many times longer a range is than the one before it.
const RANGE_GROWTH: u64 = 4;
/// Bytes that are thrown away at the most where a server sends no ranges, to get to a place in a file.
const MAX_SKIPPED_BYTES: u64 = 64 << 20;
/// Bytes after which a connection counts as one that works.
const PROGRESS_BYTES: u64 = 64 << 10;
/// A connection with fewer bytes in a second is as good as dead.
const LEAST_BYTES_PER_SECOND: u64 = 1024;

/// A file of the hub, and how to get it.
pub(super) struct Source {
    client: Arc<Client>,
    id: HubId,
    pub(super) entry: RemoteEntry,
    pub(super) hash: ContentHash,
    address: String,
    name: String,
    known: Mutex<Known>,
}

/// What was learned about a file when it was last asked for.
#[derive(Clone, Default)]
struct Known {
    /// Where the hub's redirect led. It may end at any time.
    direct: Option<String>,
    validator: Option<Validator>,
}

impl Source {
    pub(super) fn new(
        client: Arc<Client>,
        id: &HubId,
        commit: &str,
        entry: &RemoteEntry,
        hash: &ContentHash,
    ) -> Self {
        let path: Vec<String> = entry.path.split('/').map(encode).collect();
        let path = format!("/datasets/{}/resolve/{commit}/{}", id.name(), path.join("/"));
        Source {
            address: client.address(&path),
            name: format!("hub:{}@{}:{}", id.name(), commit.get(..12).unwrap_or(commit), entry.path),
            client,
            id: id.clone(),
            entry: entry.clone(),
            hash: hash.clone(),
            known: Mutex::default(),
        }
    }

    pub(super) fn client(&self) -> &Client {
        &self.client
    }

    pub(super) fn changed(
        &self,
        what: &'static str,
        expected: impl ToString,
        found: impl ToString,
    ) -> HubError {
        let (expected, found) = (expected.to_string(), shorten(&found.to_string()));
        HubError::Changed { address: shown(&self.address), what, expected, found }
    }

    /// Asks for a range, at the place where the last one came from if there is one.
    fn ask(&self, range: (u64, u64)) -> Result<Answer, Failure> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let range = Some(range);
        let validator = known.validator.as_ref();
        if let Some(address) = &known.direct {
            let answer = self.client.get(&Get { address, range, validator, body_time: None });
            if let Ok(answer) = answer {
                return Ok(answer);
            }
            // Such addresses are good for an hour or so; the hub gives another.
            self.known.lock().unwrap_or_else(PoisonError::into_inner).direct = None;
        }
        self.client.get(&Get { address: &self.address, range, validator, body_time: None })
    }

    /// Refuses the answer of another file, and remembers where this one came from.
    fn check(&self, answer: &Answer) -> Result<(), Failure> {
        let changed = |what, found: &str| Failure::Final(self.changed(what, &self.hash, found));
        if let Some(linked) =
            answer.linked_etag.as_ref().filter(|linked| self.hash.is_contradicted_by(linked))
        {
            return Err(changed("the ETag of the hub", linked));
        }
        if let Some(encoding) = header(&answer.headers, "content-encoding").filter(|e| *e != "identity") {
            return Err(self.wrong(
                answer,
                "a file",
                "its own bytes",
                &format!("content-encoding {encoding}"),
            ));
        }
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(etag) = etag(&answer.headers, "etag") {
            if self.hash.is_contradicted_by(&etag) {
                return Err(changed("its ETag", &etag));
            }
            let is_weak = header(&answer.headers, "etag").is_some_and(|text| text.starts_with("W/"));
            let validator = Validator { origin: answer.origin.clone(), etag, is_weak };
            if let Some(before) = known.validator.as_ref()
                && before.origin == validator.origin
                && before.etag != validator.etag
            {
                return Err(Failure::Final(self.changed("its ETag", &before.etag, &validator.etag)));
            }
            known.validator = Some(validator);
        }
        known.direct = (answer.address != self.address).then(|| answer.address.clone());
        Ok(())
    }

    fn wrong(&self, answer: &Answer, what: &'static str, expected: &str, found: &str) -> Failure {
        Failure::Final(HubError::Answer {
            address: shown(&answer.address),
            what,
            expected: expected.to_owned(),
            found: shorten(found),
            hint: "check HF_ENDPOINT and the proxy",
        })
    }
}

/// A file of the hub that is not kept here.
pub(super) struct RemoteFile(pub(super) Arc<Source>);

impl Blob for RemoteFile {
    fn name(&self) -> String {
        self.0.name.clone()
    }

    fn len(&self) -> u64 {
        self.0.entry.size
    }

    fn read_from(&self, offset: u64) -> io::Result<Box<dyn Read + Send>> {
        let mut reader = RemoteReader::new(self.0.clone(), offset);
        reader.range_bytes = FIRST_RANGE_BYTES;
        reader.max_skipped_bytes = MAX_SKIPPED_BYTES;
        reader.hasher = (offset == 0).then(|| self.0.hash.hasher(self.0.entry.size));
        Ok(Box::new(reader))
    }
}

/// Reads a file of the hub from some place to its end.
pub(super) struct RemoteReader {
    source: Arc<Source>,
    position: u64,
    open: Option<Open>,
    /// Length of the next range.
    range_bytes: u64,
    max_skipped_bytes: u64,
    /// Attempts in a row that brought nothing.
    num_failed: u32,
    bytes_since_failure: u64,
    pace: Pace,
    hasher: Option<ContentHasher>,
}

/// An answer that is being read.
struct Open {
    body: BodyReader<'static>,
    address: String,
    /// Where in the file it ends.
    end: u64,
}

impl RemoteReader {
    /// A reader that asks for long ranges at once, and leaves the hash to its caller.
    pub(super) fn new(source: Arc<Source>, position: u64) -> Self {
        RemoteReader {
            source,
            position,
            open: None,
            range_bytes: MAX_RANGE_BYTES,
            max_skipped_bytes: u64::MAX,
            num_failed: 0,
            bytes_since_failure: 0,
            pace: Pace::default(),
            hasher: None,
        }
    }

    /// Reads what comes next, or says why nothing did. Zero bytes mean that it is to be called again.
    fn step(&mut self, buffer: &mut [u8]) -> Result<usize, Failure> {
        let mut open = match self.open.take() {
            Some(open) => open,
            None => self.open()?,
        };
        let room = usize::try_from(open.end - self.position).unwrap_or(usize::MAX).min(buffer.len());
        let num_read = self.pace.read(&self.source, &mut open, &mut buffer[..room])?;
        if num_read == 0 {
            return Err(open.broken("it ended early"));
        }
        self.position += num_read as u64;
        self.bytes_since_failure += num_read as u64;
        if self.position < open.end {
            self.open = Some(open);
        } else {
            self.range_bytes = (self.range_bytes * RANGE_GROWTH).min(MAX_RANGE_BYTES);
            open.finish();
        }
        if self.open.is_none() || self.bytes_since_failure >= PROGRESS_BYTES {
            self.num_failed = 0;
        }
        Ok(num_read)
    }

    /// Asks for the range at the present position.
    fn open(&mut self) -> Result<Open, Failure> {
        let (source, position) = (self.source.clone(), self.position);
        let size = source.entry.size;
        let end = position.saturating_add(self.range_bytes).min(size);
        let answer = match source.ask((position, end)) {
            Err(Failure::Status(status)) if status.status == 416 => {
                return Err(Failure::Final(source.changed("its size", size, format!("at most {position}"))));
            }
            answer => answer?,
        };
        source.check(&answer)?;
        if answer.is_partial {
            let end = self.end_of_range(&answer, end)?;
            return Ok(Open { body: answer.body, address: answer.address, end });
        }
        if let Some(length) = header(&answer.headers, "content-length").filter(|l| l.parse() != Ok(size)) {
            return Err(Failure::Final(source.changed("its size", size, length)));
        }
        if position > self.max_skipped_bytes {
            let expected = format!("status 206 and the bytes from {position} on");
            return Err(Failure::Final(HubError::Answer {
                address: shown(&answer.address),
                what: "a file",
                expected,
                found: "status 200 and the whole of it".to_owned(),
                hint: "something on the way sends no ranges: download the dataset instead of reading it where it is",
            }));
        }
        let mut open = Open { body: answer.body, address: answer.address, end: size };
        self.skip(&mut open, position)?;
        Ok(open)
    }

    /// Where the range ends that an answer of status 206 brings.
    fn end_of_range(&self, answer: &Answer, asked_end: u64) -> Result<u64, Failure> {
        let source = &self.source;
        let text = header(&answer.headers, "content-range").unwrap_or_default();
        let expected = format!("bytes {}-{}/{}", self.position, asked_end - 1, source.entry.size);
        let Some((first, last, total)) = parse_range(text) else {
            return Err(source.wrong(answer, "a range", &expected, &format!("`{text}`")));
        };
        if total.is_some_and(|total| total != source.entry.size) {
            return Err(Failure::Final(source.changed(
                "its size",
                source.entry.size,
                total.unwrap_or_default(),
            )));
        }
        let end = last.saturating_add(1);
        // A server may send less than was asked for, but not next to nothing, request by request.
        let is_short = end < asked_end && end.saturating_sub(first) < PROGRESS_BYTES;
        if first != self.position || end <= first || end > asked_end || is_short {
            return Err(source.wrong(answer, "a range", &expected, text));
        }
        let length = header(&answer.headers, "content-length").and_then(|length| length.parse().ok());
        if length.is_some_and(|length: u64| length != end - first) {
            return Err(source.wrong(answer, "a range", &format!("{} bytes", end - first), "another length"));
        }
        Ok(end)
    }

    /// Reads `num_bytes` and throws them away.
    fn skip(&mut self, open: &mut Open, num_bytes: u64) -> Result<(), Failure> {
        let mut buffer = vec![0; 64 << 10];
        let mut left = num_bytes;
        while left > 0 {
            let room = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
            match self.pace.read(&self.source, open, &mut buffer[..room])? {
                0 => return Err(open.broken("it ended early")),
                num_read => left -= num_read as u64,
            }
        }
        Ok(())
    }

    /// Waits after a failure, or gives up.
    fn failed(&mut self, failure: Failure) -> Result<(), HubError> {
        self.bytes_since_failure = 0;
        self.pace = Pace::default();
        let mut attempts = Attempts::after(&self.source.client, &self.source.id, self.num_failed);
        attempts.failed(failure)?;
        self.num_failed = attempts.num_failed();
        Ok(())
    }

    /// At the end: what was read is what was listed.
    fn verify(&mut self) -> Result<(), HubError> {
        let Some(hasher) = self.hasher.take() else { return Ok(()) };
        let hash = hasher.finish();
        if hash == self.source.hash {
            Ok(())
        } else {
            Err(self.source.changed("its hash", &self.source.hash, hash))
        }
    }
}

impl Read for RemoteReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        while self.position < self.source.entry.size {
            match self.step(buffer) {
                Ok(num_read) => {
                    if let Some(hasher) = &mut self.hasher {
                        hasher.update(&buffer[..num_read]);
                    }
                    return Ok(num_read);
                }
                Err(failure) => self.failed(failure).map_err(io::Error::other)?,
            }
        }
        self.verify().map_err(io::Error::other)?;
        Ok(0)
    }
}

impl Open {
    fn broken(&self, what: &str) -> Failure {
        let hint = "check the network";
        Failure::Broken { address: shown(&self.address), what: what.to_owned(), hint }
    }

    /// Lets the library see that the answer is over, so that it keeps the connection.
    fn finish(mut self) {
        // An answer that is not over costs its connection, and nothing else.
        let _ = self.body.read(&mut [0]);
    }
}

/// How fast bytes come while they are waited for. The time between two reads does not count: that is the reader's.
#[derive(Default)]
struct Pace {
    waited: Duration,
    num_bytes: u64,
}

impl Pace {
    /// Reads once. A server that keeps a connection open with a byte now and then has broken it.
    fn read(&mut self, source: &Source, open: &mut Open, buffer: &mut [u8]) -> Result<usize, Failure> {
        let start = Instant::now();
        let num_read = open.body.read(buffer).map_err(|e| broken(&open.address, &ureq::Error::from(e)))?;
        self.waited += start.elapsed();
        self.num_bytes += num_read as u64;
        let silence = source.client.options().patience.silence;
        if self.waited >= silence {
            let least = self.waited.as_secs_f64() * LEAST_BYTES_PER_SECOND as f64;
            if (self.num_bytes as f64) < least {
                return Err(open.broken("it sends less than 1 kB a second"));
            }
            *self = Pace::default();
        }
        Ok(num_read)
    }
}

/// First and last byte and, if it is told, the size, of `bytes 0-9/100`.
fn parse_range(text: &str) -> Option<(u64, u64, Option<u64>)> {
    let (range, total) = text.strip_prefix("bytes ")?.split_once('/')?;
    let (first, last) = range.split_once('-')?;
    let total = if total == "*" { None } else { Some(total.parse().ok()?) };
    Some((first.parse().ok()?, last.parse().ok()?, total))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges() {
        assert_eq!(parse_range("bytes 0-9/100"), Some((0, 9, Some(100))));
        assert_eq!(parse_range("bytes 5-5/*"), Some((5, 5, None)));
        for text in
            ["", "bytes */100", "bytes 0-9", "bytes 0-/1", "bytes -1-2/3", "items 0-9/100", "bytes 0-9/x"]
        {
            assert_eq!(parse_range(text), None, "{text}");
        }
    }
}
