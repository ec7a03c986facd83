//! Datasets of the Hugging Face hub as sources of data: `hub:OWNER/NAME[@REVISION][:PATTERN]`.
//!
//! Owns finding out which files a dataset has, choosing those that are data, and getting their bytes: into the cache that
//! Python's `huggingface_hub` has too, or by reading them where they are. Everything is of one commit, and every file is
//! verified by its hash. Refuses what a hub does not send: names that leave their folder, answers without end, redirects in
//! circles, files that change.
//!
//! The client is our own, some hundred lines over `ureq`: GET, ranges and redirects are all that is needed. The library
//! `hf-hub` does more (uploads, its own transfer protocol, an executor) for 235 crates; `ureq` with TLS by `rustls` and
//! `ring` is 25, of which 16 are new here, and builds with a C compiler alone.
//!
//! Reading order: `id` (what an argument means), `options`, `listing` (a revision to a commit to files), `select` (which of
//! them are data), `remote` (a file read by ranges), `download` and `cache`, and below these `http`, `connect`, `retry` and
//! `refusal`.

mod address;
mod cache;
mod connect;
mod content;
mod download;
mod error;
mod headers;
mod http;
mod id;
mod listing;
mod options;
mod refusal;
mod remote;
mod retry;
mod select;
#[cfg(test)]
mod tests;

pub use error::HubError;
pub(crate) use id::HubId;
pub(crate) use listing::RemoteEntry;
pub use options::{HubEvent, HubListener, HubOptions, Secret};
pub use retry::Patience;

use crate::blob::{Blob, LocalFile};
use crate::error::Error;
use cache::Cache;
use http::Client;
use listing::Listing;
use remote::{RemoteFile, Source};
use select::{human_bytes, select};
use std::sync::Arc;

/// The data files of a dataset at a commit.
pub(crate) struct Dataset {
    id: HubId,
    commit: String,
    files: Vec<RemoteEntry>,
    summary: String,
    /// None where only the cache may be used.
    client: Option<Arc<Client>>,
    cache: Option<Cache>,
    streaming: bool,
}

impl Dataset {
    /// Finds out what `id` means now. No file is downloaded yet.
    ///
    /// # Errors
    /// If the hub cannot be reached or refuses, or has no data there; offline, if the cache lacks a file.
    pub(crate) fn resolve(id: &HubId, options: &HubOptions) -> Result<Self, Error> {
        let cache = options.cache_dir.as_deref().map(|root| Cache::new(root, id.name()));
        let (commit, entries, client) = if options.offline {
            let (commit, entries) = list_offline(id, cache.as_ref())?;
            (commit, entries, None)
        } else {
            let client = Arc::new(Client::new(options)?);
            let keep = cache.as_ref().filter(|_| !options.streaming);
            let (commit, listing) = list(&client, id, cache.as_ref(), keep)?;
            (commit, listing.entries(), Some(client))
        };
        let selection = select(&entries, id)?;
        let dataset = Dataset {
            id: id.clone(),
            summary: format!("{id} at commit {}: {}", short(&commit), selection.summary),
            commit,
            files: selection.files,
            client,
            cache,
            streaming: options.streaming,
        };
        if options.offline {
            dataset.check_cached()?;
        }
        Ok(dataset)
    }

    /// The commit that everything is of.
    pub(crate) fn commit(&self) -> &str {
        &self.commit
    }

    /// The files that are data, ordered by path.
    pub(crate) fn files(&self) -> &[RemoteEntry] {
        &self.files
    }

    /// What was chosen and what was left out, for people.
    pub(crate) fn summary(&self) -> &str {
        &self.summary
    }

    /// The file `index` of [`files`](Self::files), from the cache if it has it. Else it is downloaded now, or, with
    /// `streaming`, read by and by from where it is.
    ///
    /// # Errors
    /// If it can be neither found nor downloaded.
    ///
    /// # Panics
    /// If there is no such file.
    pub(crate) fn blob(&self, index: usize) -> Result<Arc<dyn Blob>, Error> {
        let entry = &self.files[index];
        if let Some(path) = self.cache.as_ref().and_then(|cache| cache.find(&self.commit, entry)) {
            return Ok(Arc::new(LocalFile::open(&path)?));
        }
        let (Some(client), Some(hash)) = (&self.client, &entry.hash) else {
            return Err(missing(&self.id, self.cache.as_ref(), &entry.path).into());
        };
        let source = Arc::new(Source::new(client.clone(), &self.id, &self.commit, entry, hash));
        if self.streaming {
            return Ok(Arc::new(RemoteFile(source)));
        }
        let Some(cache) = &self.cache else {
            let what = "there is no folder to keep files in; set HF_HUB_CACHE or HF_HOME".to_owned();
            return Err(HubError::Option { name: "HF_HUB_CACHE", what }.into());
        };
        let path = download::download(&source, cache, &self.commit)?;
        Ok(Arc::new(LocalFile::open(&path)?))
    }

    /// Offline, a file that is missing is better known at once than after hours.
    fn check_cached(&self) -> Result<(), HubError> {
        let is_here = |entry: &&RemoteEntry| {
            self.cache.as_ref().is_some_and(|cache| cache.find(&self.commit, entry).is_some())
        };
        let absent: Vec<&RemoteEntry> = self.files.iter().filter(|entry| !is_here(entry)).collect();
        let Some(first) = absent.first() else { return Ok(()) };
        let num_bytes = absent.iter().fold(0u64, |sum, entry| sum.saturating_add(entry.size));
        let what = format!(
            "{} of {} files ({}) of {} at commit {}, the first of them {}",
            absent.len(),
            self.files.len(),
            human_bytes(num_bytes),
            self.id,
            short(&self.commit),
            first.path
        );
        Err(missing(&self.id, self.cache.as_ref(), &what))
    }
}

/// The commit and its files, as the hub says; a commit never changes, so what the cache has of it holds.
fn list(
    client: &Client,
    id: &HubId,
    cache: Option<&Cache>,
    keep: Option<&Cache>,
) -> Result<(String, Listing), HubError> {
    let commit = listing::find_commit(client, id).map_err(|error| hint_at_cache(error, id, cache))?;
    let listed = cache.and_then(|cache| cache.read_listing(&commit));
    let listing = match listed {
        Some(listing) => listing,
        None => {
            let listing = listing::fetch(client, id, &commit)?;
            keep.map_or(Ok(()), |cache| cache.write_listing(&commit, &listing))?;
            listing
        }
    };
    keep.map_or(Ok(()), |cache| cache.write_commit(id.revision(), &commit))?;
    Ok((commit, listing))
}

/// The commit and its files, as far as the cache knows them.
fn list_offline(id: &HubId, cache: Option<&Cache>) -> Result<(String, Vec<RemoteEntry>), HubError> {
    let known = cache.and_then(|cache| {
        let commit = cache.read_commit(id.revision())?;
        // Python may have put files there without listing all of the commit.
        let entries =
            cache.read_listing(&commit).map_or_else(|| cache.files(&commit), |listing| listing.entries());
        (!entries.is_empty()).then_some((commit, entries))
    });
    known.ok_or_else(|| {
        missing(id, cache, &format!("revision `{}` of the dataset {}", id.revision(), id.name()))
    })
}

/// Nobody has to know by heart that there is a cache.
fn hint_at_cache(error: HubError, id: &HubId, cache: Option<&Cache>) -> HubError {
    match (error, cache.and_then(|cache| cache.read_commit(id.revision()))) {
        (HubError::Unreachable { address, what, num_attempts, .. }, Some(commit)) => {
            let commit = short(&commit);
            let hint = format!("the cache knows commit {commit} of it: set HF_HUB_OFFLINE=1 to use that");
            HubError::Unreachable { address, what, num_attempts, hint }
        }
        (error, _) => error,
    }
}

fn missing(id: &HubId, cache: Option<&Cache>, what: &str) -> HubError {
    let (what, name) = (what.to_owned(), id.name());
    let Some(cache) = cache else {
        let hint = "set HF_HUB_CACHE or HF_HOME".to_owned();
        return HubError::Offline { what, cache: "(there is none)".into(), hint };
    };
    let hint = format!("run it once without HF_HUB_OFFLINE, or `hf download --repo-type dataset {name}`");
    HubError::Offline { what, cache: cache.root().to_owned(), hint }
}

/// A commit as people read it.
fn short(commit: &str) -> &str {
    commit.get(..12).unwrap_or(commit)
}
