//! Which files a dataset has at a commit.
//!
//! A revision is turned into a commit once, and everything after is asked of that commit, so that a push in between
//! changes nothing. The listing comes in pages, and none of it is believed: names become paths in the cache, hashes become
//! names of files there, and neither pages nor their number are bounded by what the hub says.

use super::address::{encode, shorten, shown};
use super::content::ContentHash;
use super::error::HubError;
use super::http::Client;
use super::id::{HubId, is_commit};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

/// Most bytes of the answer about a revision, which names every file too, and of a page of the listing.
const MAX_ANSWER_BYTES: u64 = 64 << 20;
/// Most bytes of all pages together: millions of files.
pub(super) const MAX_LISTING_BYTES: u64 = 512 << 20;
/// Most pages of a listing.
const MAX_PAGES: usize = 10_000;
/// Longest path in a dataset, and longest name in it: what file systems take.
const MAX_PATH_BYTES: usize = 1024;
const MAX_PART_BYTES: usize = 255;

/// A file of a dataset.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RemoteEntry {
    /// Its path in the dataset, with `/`. It is relative and stays below where it is put.
    pub(crate) path: String,
    /// Its size in bytes.
    pub(crate) size: u64,
    /// What its bytes hash to. `None` where only the cache has told of it.
    pub(super) hash: Option<ContentHash>,
}

/// All files of a dataset at a commit, by path. This is what `huggingface_hub` keeps of a commit as `trees/COMMIT.json`,
/// so it is written and read in that form.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Listing {
    format_version: u32,
    files: BTreeMap<String, ListedFile>,
}

/// What is known of a file: its name in git, and where git has but a pointer, what that points to.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct ListedFile {
    size: u64,
    blob_id: ContentHash,
    #[serde(skip_serializing_if = "Option::is_none")]
    lfs_sha256: Option<ContentHash>,
    #[serde(skip_serializing_if = "Option::is_none")]
    lfs_size: Option<u64>,
    /// Not used here, but kept for Python.
    #[serde(skip_serializing_if = "Option::is_none")]
    xet_hash: Option<ContentHash>,
}

/// What the hub says of a revision, as far as it matters.
#[derive(Deserialize)]
struct Revision {
    sha: String,
}

/// An entry of the tree as the hub sends it.
#[derive(Deserialize)]
struct TreeEntry {
    r#type: String,
    path: String,
    #[serde(default)]
    oid: String,
    #[serde(default)]
    size: u64,
    lfs: Option<LargeFile>,
    #[serde(rename = "xetHash")]
    xet_hash: Option<String>,
}

/// A file that lies outside of git.
#[derive(Deserialize)]
struct LargeFile {
    oid: String,
    size: u64,
}

impl Listing {
    /// The version of the form that is written here.
    const VERSION: u32 = 1;

    /// Whether it can be believed: it is read from disk too.
    pub(super) fn is_valid(&self) -> bool {
        self.format_version == Self::VERSION && self.files.keys().all(|path| is_safe_path(path))
    }

    /// The files, ordered by path.
    pub(super) fn entries(&self) -> Vec<RemoteEntry> {
        let entry = |(path, file): (&String, &ListedFile)| RemoteEntry {
            path: path.clone(),
            size: file.lfs_size.unwrap_or(file.size),
            hash: Some(file.lfs_sha256.as_ref().unwrap_or(&file.blob_id).clone()),
        };
        self.files.iter().map(entry).collect()
    }
}

/// The commit that a revision is at now.
pub(super) fn find_commit(client: &Client, id: &HubId) -> Result<String, HubError> {
    if is_commit(id.revision()) {
        return Ok(id.revision().to_owned());
    }
    let address = client.address(&format!("/api/datasets/{}/revision/{}", id.name(), encode(id.revision())));
    let answer = client.json::<Revision>(id, &address, MAX_ANSWER_BYTES)?;
    if !is_commit(&answer.value.sha) {
        return Err(wrong(&address, "a commit", "40 hexadecimal digits", &answer.value.sha));
    }
    Ok(answer.value.sha)
}

/// All files at a commit.
pub(super) fn fetch(client: &Client, id: &HubId, commit: &str) -> Result<Listing, HubError> {
    let first = client.address(&format!("/api/datasets/{}/tree/{commit}?recursive=true", id.name()));
    let (mut files, mut num_bytes, mut next) = (BTreeMap::new(), 0, Some(first.clone()));
    for _ in 0..MAX_PAGES {
        let Some(address) = next else {
            return Ok(Listing { format_version: Listing::VERSION, files });
        };
        let room = MAX_ANSWER_BYTES.min(MAX_LISTING_BYTES - num_bytes);
        let page = client.json::<Vec<TreeEntry>>(id, &address, room)?;
        num_bytes += page.num_bytes;
        next = page.next;
        if page.value.is_empty() && next.is_some() {
            return Err(wrong(
                &address,
                "a page of the listing",
                "files, since another page follows",
                "none",
            ));
        }
        for entry in page.value.into_iter().filter(|entry| entry.r#type == "file") {
            add(&mut files, &address, entry)?;
        }
    }
    Err(wrong(&first, "a listing", &format!("at most {MAX_PAGES} pages"), "more"))
}

/// Adds what the hub says of a file, if it can be true.
fn add(files: &mut BTreeMap<String, ListedFile>, address: &str, entry: TreeEntry) -> Result<(), HubError> {
    if !is_safe_path(&entry.path) {
        let found = format!("`{}`", entry.path);
        return Err(wrong(address, "the name of a file", "a relative path without `.` and `..`", &found));
    }
    let hash = |text: &str| {
        let found = format!("`{text}` for {}", entry.path);
        let error = || wrong(address, "the hash of a file", "40 or 64 hexadecimal digits", &found);
        ContentHash::parse(text).ok_or_else(error)
    };
    let file = ListedFile {
        size: entry.size,
        blob_id: hash(&entry.oid)?,
        lfs_sha256: entry.lfs.as_ref().map(|large| hash(&large.oid)).transpose()?,
        lfs_size: entry.lfs.as_ref().map(|large| large.size),
        xet_hash: entry.xet_hash.as_deref().and_then(ContentHash::parse),
    };
    match files.entry(entry.path) {
        Entry::Vacant(place) => place.insert(file),
        Entry::Occupied(place) => {
            return Err(wrong(address, "a listing", "every file once", &format!("`{}` twice", place.key())));
        }
    };
    Ok(())
}

/// Whether a path stays below the folder that it is joined to.
pub(super) fn is_safe_path(path: &str) -> bool {
    path.len() <= MAX_PATH_BYTES
        && !path.chars().any(|c| c.is_control() || c == '\\')
        && path
            .split('/')
            .all(|part| !part.is_empty() && part.len() <= MAX_PART_BYTES && part != "." && part != "..")
}

fn wrong(address: &str, what: &'static str, expected: &str, found: &str) -> HubError {
    HubError::Answer {
        address: shown(address),
        what,
        expected: expected.to_owned(),
        found: shorten(found),
        hint: "a hub does not send this; check HF_ENDPOINT",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_that_leave_their_folder_are_not_safe() {
        for path in ["a.json", "a/b/c.json", "..a/b..", "a b/ü.json", ".hidden"] {
            assert!(is_safe_path(path), "{path}");
        }
        let long = "a".repeat(256);
        for path in
            ["", "/a", "a/", "a//b", ".", "..", "a/../b", "../a", "a/./b", "a\\b", "a\0b", "a\nb", &long]
        {
            assert!(!is_safe_path(path), "{path}");
        }
    }

    #[test]
    fn a_listing_that_python_kept_is_understood() {
        let (git, sha) = ("0".repeat(40), "1".repeat(64));
        let json = format!(
            r#"{{"format_version": 1, "files": {{
                "b.parquet": {{"size": 134, "blob_id": "{git}", "lfs_sha256": "{sha}", "lfs_size": 5, "xet_hash": "{sha}"}},
                "a.json": {{"size": 7, "blob_id": "{git}"}}}}}}"#
        );
        let listing: Listing = serde_json::from_str(&json).expect("a listing");
        assert!(listing.is_valid());
        let entry = |path: &str, size, hash| RemoteEntry {
            path: path.to_owned(),
            size,
            hash: ContentHash::parse(hash),
        };
        assert_eq!(listing.entries(), [entry("a.json", 7, &git), entry("b.parquet", 5, &sha)]);
        let again = serde_json::to_string(&listing).expect("JSON");
        assert_eq!(serde_json::from_str::<Listing>(&again).expect("a listing"), listing);
        for (from, to) in [("\"a.json", "\"../a.json"), (": 1, ", ": 2, ")] {
            let listing: Listing = serde_json::from_str(&json.replace(from, to)).expect("a listing");
            assert!(!listing.is_valid(), "{to}");
        }
        assert!(serde_json::from_str::<Listing>(&json.replace(&git, "../x")).is_err());
    }
}
