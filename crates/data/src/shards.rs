//! Token shards: the format on disk, its writer and its reader.
//!
//! A folder holds:
//!
//! - `tokens-00000.bin`, ...: token ids, flat, little-endian, u16 where the vocabulary has at most 65,536 entries, else
//!   u32. The files are one stream, in order.
//! - `documents.bin`: for each document the index of its first token in the stream, little-endian u64.
//! - `documents.jsonl`: for each document, in a line of its own, its `path`, and its `language` and `license` where they are
//!   known. Read only when a document is to be named to a person. Version 2 has `names.txt` instead, with the path alone as a
//!   JSON string; version 1 has neither.
//! - `index.json`: `format` ("eyas-shards"), `version` (4, or one before), `mode` ("chunk": the stream is chunks of `context_length`
//!   tokens, each within one document; "pack": documents with the end-of-text token before the first and after each),
//!   `context_length`, `dtype` ("u16" or "u32"), `vocab_size`, `num_tokens`, `num_documents`, `num_bytes` (UTF-8 bytes of
//!   the documents), `tokenizer` (hex of the tokenizer's fingerprint), `source` (what it was made from), `sources` (for each
//!   argument its `name`, `num_documents` and `num_tokens`: the stream is theirs, one after the other; not before version 4), and for each file its `file`, `num_bytes` and `blake3`.
//!
//! The folder is written beside its place and renamed, so it is whole or absent. A reader checks sizes, hashes and the
//! range of the ids before anything is used, and maps the files.

mod writer;

use crate::error::Error;
use memmap2::Mmap;
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::ops::Range;
use std::path::{Path, PathBuf};

pub(crate) use writer::{ShardsWriter, Written, sync_folder};

const INDEX: &str = "index.json";
const DOCUMENTS: &str = "documents.bin";
const FORMAT: &str = "eyas-shards";
pub(crate) const VERSION: u32 = 4;
const NAMES: &str = "names.txt";
const TABLE: &str = "documents.jsonl";
/// A longer line of the table is not one of ours.
const MAX_ROW_BYTES: u64 = 1 << 16;
/// Tokens of a shard file.
const SHARD_TOKENS: u64 = 64 << 20;
/// An index has a line a shard; more than this is not one of ours.
const MAX_INDEX_BYTES: u64 = 16 << 20;

/// How documents become a stream of tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// Each document alone, cut into full chunks of the context length; the rest of it is dropped. The tutorial's way.
    Chunk,
    /// Documents joined by end-of-text, none lost.
    Pack,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Index {
    format: String,
    version: u32,
    mode: Mode,
    context_length: usize,
    dtype: Dtype,
    vocab_size: usize,
    num_tokens: u64,
    num_documents: u64,
    num_bytes: u64,
    tokenizer: String,
    source: String,
    #[serde(default)]
    sources: Vec<SourceTokens>,
    shards: Vec<Entry>,
    documents: Entry,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    names: Option<Entry>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    table: Option<Entry>,
}

/// What an argument gave: a stretch of the stream.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SourceTokens {
    /// The argument, a git repository or a dataset of the hub with its commit.
    pub name: String,
    /// Documents.
    pub num_documents: u64,
    /// Tokens, with those that end documents.
    pub num_tokens: u64,
}

impl SourceTokens {
    fn none(name: &str) -> Self {
        SourceTokens { name: name.to_owned(), num_documents: 0, num_tokens: 0 }
    }
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    file: String,
    num_bytes: u64,
    blake3: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Dtype {
    U16,
    U32,
}

impl Dtype {
    fn for_vocabulary(vocab_size: usize) -> Self {
        if vocab_size <= 1 << 16 { Dtype::U16 } else { Dtype::U32 }
    }

    fn size(self) -> u64 {
        match self {
            Dtype::U16 => 2,
            Dtype::U32 => 4,
        }
    }
}

/// Whether `dir` holds token shards: it has an index that says so.
pub fn is_shards(dir: &Path) -> bool {
    read_index(dir).is_ok()
}

/// Whether `dir` holds token shards and nothing else.
pub(crate) fn holds_only_shards(dir: &Path) -> bool {
    let is_ours = |name: &str| {
        let number = name.strip_prefix("tokens-").and_then(|rest| rest.strip_suffix(".bin"));
        [INDEX, DOCUMENTS, NAMES, TABLE].contains(&name)
            || number
                .is_some_and(|number| !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit()))
    };
    let Ok(mut entries) = std::fs::read_dir(dir) else { return false };
    let all_ours = entries.all(|entry| {
        entry.is_ok_and(|entry| {
            entry.file_type().is_ok_and(|kind| kind.is_file())
                && entry.file_name().to_str().is_some_and(is_ours)
        })
    });
    all_ours && is_shards(dir)
}

fn hex(bytes: &[u8; 32]) -> String {
    blake3::Hash::from_bytes(*bytes).to_hex().to_string()
}

/// Token shards, validated and mapped.
pub struct Shards {
    dir: PathBuf,
    index: Index,
    tokenizer: [u8; 32],
    shards: Vec<Mapped>,
    documents: Option<Mmap>,
}

/// A shard file and the place of its first token in the stream.
struct Mapped {
    start: u64,
    bytes: Mmap,
}

impl Shards {
    /// Opens and validates a folder: sizes, hashes, and every id below the vocabulary size.
    ///
    /// # Errors
    /// If a file is missing, damaged, or says what the others do not.
    pub fn open(dir: &Path) -> Result<Self, Error> {
        let index = read_index(dir)?;
        let index_path = dir.join(INDEX);
        let tokenizer = blake3::Hash::from_hex(&index.tokenizer)
            .map_err(|_| bad(&index_path, "tokenizer", "64 hexadecimal digits", &index.tokenizer))?;
        let mut shards = Vec::new();
        let mut start = 0;
        for entry in &index.shards {
            let Some(bytes) = map(dir, entry)? else { continue };
            check_ids(&dir.join(&entry.file), &bytes, &index)?;
            let num_tokens = bytes.len() as u64 / index.dtype.size();
            shards.push(Mapped { start, bytes });
            start += num_tokens;
        }
        if start != index.num_tokens {
            return Err(bad(&index_path, "num_tokens", &start.to_string(), &index.num_tokens.to_string()));
        }
        let in_sources = index.sources.iter().try_fold(0u64, |sum, part| sum.checked_add(part.num_tokens));
        if !index.sources.is_empty() && in_sources != Some(index.num_tokens) {
            let found = in_sources.map_or("more than there can be".into(), |sum| sum.to_string());
            return Err(bad(&index_path, "tokens of all sources", &index.num_tokens.to_string(), &found));
        }
        let documents = map(dir, &index.documents)?;
        let listed = documents.as_ref().map_or(0, |d| d.len() as u64 / 8);
        if listed != index.num_documents {
            return Err(bad(
                &index_path,
                "num_documents",
                &listed.to_string(),
                &index.num_documents.to_string(),
            ));
        }
        Ok(Shards { dir: dir.to_owned(), index, tokenizer: *tokenizer.as_bytes(), shards, documents })
    }

    /// The folder.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Tokens in the stream.
    pub fn num_tokens(&self) -> u64 {
        self.index.num_tokens
    }

    /// Documents in the stream.
    pub fn num_documents(&self) -> u64 {
        self.index.num_documents
    }

    /// UTF-8 bytes of the documents.
    pub fn num_bytes(&self) -> u64 {
        self.index.num_bytes
    }

    /// How documents became tokens.
    pub fn mode(&self) -> Mode {
        self.index.mode
    }

    /// Length of the chunks; in pack mode, what was given when the shards were made.
    pub fn context_length(&self) -> usize {
        self.index.context_length
    }

    /// Every id is below this.
    pub fn vocab_size(&self) -> usize {
        self.index.vocab_size
    }

    /// Fingerprint of the tokenizer that made the ids.
    pub fn tokenizer_fingerprint(&self) -> [u8; 32] {
        self.tokenizer
    }

    /// A hash of every token and of where documents begin.
    pub fn fingerprint(&self) -> [u8; 32] {
        let mut hasher = blake3::Hasher::new();
        for entry in self.index.shards.iter().chain([&self.index.documents]) {
            hasher.update(entry.blake3.as_bytes());
        }
        *hasher.finalize().as_bytes()
    }

    /// What the shards were made from, as the writer was told.
    pub fn source(&self) -> &str {
        &self.index.source
    }

    /// What each argument gave, in the order of the stream; empty for shards that do not tell.
    pub fn sources(&self) -> &[SourceTokens] {
        &self.index.sources
    }

    /// Index of the first token of document `i`.
    pub fn document_start(&self, i: u64) -> u64 {
        assert!(i < self.num_documents(), "document {i} of {}", self.num_documents());
        let bytes = self.documents.as_deref().unwrap_or(&[]);
        let at = i as usize * 8;
        u64::from_le_bytes(std::array::from_fn(|j| bytes[at + j]))
    }

    /// The documents that tokens `range` of the stream are of.
    pub fn documents_of(&self, range: Range<u64>) -> Range<u64> {
        let starts_up_to = |token: u64| {
            // How many documents start at `token` or before it.
            let (mut low, mut high) = (0, self.num_documents());
            while low < high {
                let middle = low + (high - low) / 2;
                if self.document_start(middle) <= token { low = middle + 1 } else { high = middle }
            }
            low
        };
        let last = range.end.max(range.start + 1) - 1;
        starts_up_to(range.start).saturating_sub(1)..starts_up_to(last)
    }

    /// The name of document `i`: a path, or a line of a file. From shards that know no names, its number.
    pub fn document_name(&self, i: u64) -> String {
        self.read_name(i).unwrap_or_else(|| format!("document {i} of {}", self.source()))
    }

    /// Reads the path in a line of the table; the lines before it are passed over.
    fn read_name(&self, i: u64) -> Option<String> {
        let Index { names, table, .. } = &self.index;
        let file = if table.is_some() { TABLE } else { names.as_ref().map(|_| NAMES)? };
        let mut lines = BufReader::new(File::open(self.dir.join(file)).ok()?);
        let mut line = Vec::new();
        for _ in 0..=i {
            line.clear();
            let num_bytes = lines.by_ref().take(MAX_ROW_BYTES).read_until(b'\n', &mut line).ok()?;
            if num_bytes == 0 {
                return None;
            }
        }
        let row: serde_json::Value = serde_json::from_slice(&line).ok()?;
        // In version 2 a line is the path itself.
        row.as_str().or(row["path"].as_str()).map(str::to_owned)
    }

    /// Copies tokens `start ..` of the stream, which must hold as many, to `out`.
    pub fn read(&self, start: u64, out: &mut [u32]) {
        let end = start + out.len() as u64;
        assert!(end <= self.num_tokens(), "tokens {start}..{end} of {}", self.num_tokens());
        let mut shard = self.shards.partition_point(|shard| shard.start <= start).saturating_sub(1);
        let (mut at, mut out) = (start, out);
        while !out.is_empty() {
            let Mapped { start, bytes } = &self.shards[shard];
            let offset = ((at - start) * self.index.dtype.size()) as usize;
            let bytes = &bytes[offset..];
            let count = (bytes.len() / self.index.dtype.size() as usize).min(out.len());
            let (now, rest) = out.split_at_mut(count);
            match self.index.dtype {
                Dtype::U16 => {
                    now.iter_mut()
                        .zip(bytes.as_chunks::<2>().0)
                        .for_each(|(o, b)| *o = u16::from_le_bytes(*b).into());
                }
                Dtype::U32 => now
                    .iter_mut()
                    .zip(bytes.as_chunks::<4>().0)
                    .for_each(|(o, b)| *o = u32::from_le_bytes(*b)),
            }
            at += count as u64;
            out = rest;
            shard += 1;
        }
    }
}

fn bad(path: &Path, what: &str, expected: &str, found: &str) -> Error {
    Error::BadShards {
        path: path.to_owned(),
        what: what.to_owned(),
        expected: expected.to_owned(),
        found: found.to_owned(),
    }
}

fn read_index(dir: &Path) -> Result<Index, Error> {
    let path = dir.join(INDEX);
    let read = |source| Error::Read { path: path.clone(), source };
    let size = std::fs::metadata(&path).map_err(read)?.len();
    if size > MAX_INDEX_BYTES {
        return Err(bad(&path, "size", &format!("at most {MAX_INDEX_BYTES} bytes"), &size.to_string()));
    }
    let bytes = std::fs::read(&path).map_err(read)?;
    let index: Index = serde_json::from_slice(&bytes)
        .map_err(|e| bad(&path, "contents", "an index of shards", &e.to_string()))?;
    if index.format != FORMAT || !(1..=VERSION).contains(&index.version) {
        let found = format!("{} {}", index.format, index.version);
        return Err(bad(&path, "format", &format!("{FORMAT} 1 to {VERSION}"), &found));
    }
    if index.vocab_size == 0 || index.vocab_size > u32::MAX as usize || index.context_length == 0 {
        let found = format!("{} and {}", index.vocab_size, index.context_length);
        return Err(bad(&path, "vocab_size and context_length", "positive numbers", &found));
    }
    if index.dtype != Dtype::for_vocabulary(index.vocab_size) {
        return Err(bad(&path, "dtype", "the one for the vocabulary size", &format!("{:?}", index.dtype)));
    }
    Ok(index)
}

/// Maps a file of the folder after checking its size and its hash; `None` if it is empty.
fn map(dir: &Path, entry: &Entry) -> Result<Option<Mmap>, Error> {
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '.';
    if !entry.file.chars().all(plain) || entry.file.starts_with('.') {
        return Err(bad(&dir.join(INDEX), "file", "a plain file name", &entry.file));
    }
    let path = dir.join(&entry.file);
    let read = |source| Error::Read { path: path.clone(), source };
    let file = File::open(&path).map_err(read)?;
    let size = file.metadata().map_err(read)?.len();
    if size != entry.num_bytes {
        return Err(bad(&path, "size", &format!("{} bytes", entry.num_bytes), &format!("{size} bytes")));
    }
    if size == 0 {
        return Ok(None);
    }
    // SAFETY: the file is ours and is not changed while it is mapped: shards are replaced by rename, never in place.
    let bytes = unsafe { Mmap::map(&file) }.map_err(read)?;
    let hash = blake3::Hasher::new().update_rayon(&bytes).finalize().to_hex();
    if hash.as_str() != entry.blake3 {
        return Err(bad(&path, "BLAKE3", &entry.blake3, &hash));
    }
    Ok(Some(bytes))
}

fn check_ids(path: &Path, bytes: &[u8], index: &Index) -> Result<(), Error> {
    let size = index.dtype.size();
    if !(bytes.len() as u64).is_multiple_of(size) {
        return Err(bad(path, "size", &format!("a multiple of {size} bytes"), &bytes.len().to_string()));
    }
    let largest = match index.dtype {
        Dtype::U16 => bytes.as_chunks::<2>().0.iter().map(|b| u32::from(u16::from_le_bytes(*b))).max(),
        Dtype::U32 => bytes.as_chunks::<4>().0.iter().map(|b| u32::from_le_bytes(*b)).max(),
    };
    match largest {
        Some(id) if id as usize >= index.vocab_size => {
            Err(bad(path, "ids", &format!("below the vocabulary size {}", index.vocab_size), &id.to_string()))
        }
        _ => Ok(()),
    }
}
