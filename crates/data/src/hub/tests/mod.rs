//! The hub as its tests see it: a server on this machine that does what it is told.

mod downloads;
mod refusals;
mod server;
mod streaming;

use super::*;
use server::Hub;
use std::path::Path;
use std::sync::Mutex;
use std::time::Duration;

/// Bytes that no two places of a file have in common.
fn bytes(len: usize) -> Vec<u8> {
    (0..len).map(|i| (i ^ (i >> 7) ^ (i >> 13) ^ (i >> 20)) as u8).collect()
}

/// Options for a hub on this machine, with little patience.
fn options(endpoint: &str, cache: Option<&Path>) -> HubOptions {
    let ms = Duration::from_millis;
    let patience = Patience {
        num_first_attempts: 2,
        num_attempts: 4,
        first_wait: ms(1),
        longest_wait: ms(4),
        longest_asked_wait: Duration::from_secs(5),
        connect: Duration::from_secs(5),
        silence: Duration::from_secs(5),
    };
    HubOptions {
        endpoint: endpoint.to_owned(),
        cache_dir: cache.map(Path::to_owned),
        streaming: cache.is_none(),
        patience,
        ..HubOptions::default()
    }
}

fn resolve(id: &str, options: &HubOptions) -> Result<Dataset, Error> {
    Dataset::resolve(&HubId::parse(id).expect(id), options)
}

fn error<T>(result: Result<T, impl ToString>) -> String {
    result.err().expect("an error").to_string()
}

/// Listens to events and keeps them.
fn listen(options: &mut HubOptions) -> Arc<Mutex<Vec<HubEvent>>> {
    let events: Arc<Mutex<Vec<HubEvent>>> = Arc::default();
    let heard = events.clone();
    options.listener = Some(Arc::new(move |event| heard.lock().expect("events").push(event.clone())));
    events
}

/// Everything from `offset` on.
fn read(blob: &dyn Blob, offset: u64) -> std::io::Result<Vec<u8>> {
    let mut all = Vec::new();
    std::io::Read::read_to_end(&mut blob.read_from(offset)?, &mut all)?;
    Ok(all)
}

/// The only file of `owner/name`, streamed from `hub`.
fn stream(hub: &Hub) -> Arc<dyn Blob> {
    resolve("hub:owner/name", &options(&hub.hub.url(), None)).expect("dataset").blob(0).expect("file")
}
