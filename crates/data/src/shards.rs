//! Token shards: the format on disk, its writer and its reader.
//!
//! A folder holds:
//!
//! - `tokens-00000.bin`, ...: token ids, flat, little-endian, u16 where the vocabulary has at most 65,536 entries, else
//!   u32. The files are one stream, in order.
//! - `documents.bin`: for each document the index of its first token in the stream, little-endian u64.
//! - `index.json`: `format` ("eyas-shards"), `version` (1), `mode` ("chunk": the stream is chunks of `context_length`
//!   tokens, each within one document; "pack": documents with the end-of-text token before the first and after each),
//!   `context_length`, `dtype` ("u16" or "u32"), `vocab_size`, `num_tokens`, `num_documents`, `num_bytes` (UTF-8 bytes of
//!   the documents), `tokenizer` (hex of the tokenizer's fingerprint), `source` (what it was made from), and for each
//!   file its `file`, `num_bytes` and `blake3`.
//!
//! The folder is written beside its place and renamed, so it is whole or absent. A reader checks sizes, hashes and the
//! range of the ids before anything is used, and maps the files.

use crate::error::Error;
use memmap2::Mmap;
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

const INDEX: &str = "index.json";
const DOCUMENTS: &str = "documents.bin";
const FORMAT: &str = "eyas-shards";
const VERSION: u32 = 1;
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
    shards: Vec<Entry>,
    documents: Entry,
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

/// Writes a folder of shards. Nothing is visible until [`finish`](ShardsWriter::finish).
pub struct ShardsWriter {
    out: PathBuf,
    temporary: PathBuf,
    index: Index,
    tokens: Option<HashedFile>,
    tokens_in_file: u64,
    documents: Option<HashedFile>,
    buffer: Vec<u8>,
    finished: bool,
}

impl ShardsWriter {
    /// Starts a folder at `out`, which must be absent, empty, or shards, which are then replaced at the end.
    ///
    /// # Errors
    /// If `out` holds something else or cannot be written.
    pub fn create(
        out: &Path,
        mode: Mode,
        context_length: usize,
        vocab_size: usize,
        tokenizer: [u8; 32],
        source: &str,
    ) -> Result<Self, Error> {
        let empty = |dir: &Path| std::fs::read_dir(dir).is_ok_and(|mut entries| entries.next().is_none());
        if out.exists() && !empty(out) && !is_shards(out) {
            return Err(Error::OutputInUse { path: out.to_owned() });
        }
        let name = out.file_name().unwrap_or_default().to_string_lossy();
        let temporary = out.with_file_name(format!(".{name}.partial-{}", std::process::id()));
        let write = |source| Error::Write { path: temporary.clone(), source };
        if temporary.exists() {
            std::fs::remove_dir_all(&temporary).map_err(write)?;
        }
        std::fs::create_dir_all(&temporary).map_err(write)?;
        let documents = Some(HashedFile::create(temporary.join(DOCUMENTS))?);
        let index = Index {
            format: FORMAT.to_owned(),
            version: VERSION,
            mode,
            context_length,
            dtype: Dtype::for_vocabulary(vocab_size),
            vocab_size,
            num_tokens: 0,
            num_documents: 0,
            num_bytes: 0,
            tokenizer: hex(&tokenizer),
            source: source.to_owned(),
            shards: Vec::new(),
            documents: Entry { file: DOCUMENTS.to_owned(), num_bytes: 0, blake3: String::new() },
        };
        let (out, tokens, buffer) = (out.to_owned(), None, Vec::new());
        Ok(ShardsWriter {
            out,
            temporary,
            index,
            tokens,
            tokens_in_file: 0,
            documents,
            buffer,
            finished: false,
        })
    }

    /// Tokens written so far.
    pub fn num_tokens(&self) -> u64 {
        self.index.num_tokens
    }

    /// Begins a document of `num_bytes` UTF-8 bytes at the present end of the stream.
    ///
    /// # Errors
    /// If writing fails.
    pub fn begin_document(&mut self, num_bytes: u64) -> Result<(), Error> {
        self.index.num_documents += 1;
        self.index.num_bytes += num_bytes;
        let start = self.index.num_tokens.to_le_bytes();
        self.documents.as_mut().map_or(Ok(()), |file| file.write(&start))
    }

    /// Appends tokens to the stream.
    ///
    /// # Errors
    /// If writing fails.
    pub fn push(&mut self, mut ids: &[u32]) -> Result<(), Error> {
        while !ids.is_empty() {
            let room = (SHARD_TOKENS - self.tokens_in_file).min(ids.len() as u64) as usize;
            let (now, rest) = ids.split_at(room);
            self.buffer.clear();
            match self.index.dtype {
                Dtype::U16 => self.buffer.extend(now.iter().flat_map(|id| (*id as u16).to_le_bytes())),
                Dtype::U32 => self.buffer.extend(now.iter().flat_map(|id| id.to_le_bytes())),
            }
            let file = match &mut self.tokens {
                Some(file) => file,
                none => {
                    let name = format!("tokens-{:05}.bin", self.index.shards.len());
                    none.insert(HashedFile::create(self.temporary.join(name))?)
                }
            };
            file.write(&self.buffer)?;
            self.tokens_in_file += room as u64;
            self.index.num_tokens += room as u64;
            if self.tokens_in_file == SHARD_TOKENS {
                self.close_shard()?;
            }
            ids = rest;
        }
        Ok(())
    }

    fn close_shard(&mut self) -> Result<(), Error> {
        if let Some(file) = self.tokens.take() {
            self.index.shards.push(file.finish()?);
            self.tokens_in_file = 0;
        }
        Ok(())
    }

    /// Makes the folder durable and visible.
    ///
    /// # Errors
    /// If writing fails; what stood at `out` before is then untouched.
    pub fn finish(mut self) -> Result<(), Error> {
        self.close_shard()?;
        if let Some(documents) = self.documents.take() {
            self.index.documents = documents.finish()?;
        }
        let json = serde_json::to_vec_pretty(&self.index).unwrap_or_default();
        let mut file = HashedFile::create(self.temporary.join(INDEX))?;
        file.write(&json)?;
        file.finish()?;
        let write = |path: &Path| {
            let path = path.to_owned();
            move |source| Error::Write { path, source }
        };
        sync_folder(&self.temporary)?;
        if self.out.exists() {
            // A folder cannot be replaced in one step: the old one moves aside, and goes when the new one is there.
            let aside = self.temporary.with_extension("old");
            std::fs::rename(&self.out, &aside).map_err(write(&self.out))?;
            std::fs::rename(&self.temporary, &self.out).map_err(write(&self.out))?;
            std::fs::remove_dir_all(&aside).map_err(write(&aside))?;
        } else {
            std::fs::rename(&self.temporary, &self.out).map_err(write(&self.out))?;
        }
        self.finished = true;
        sync_folder(self.out.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new(".")))
    }
}

impl Drop for ShardsWriter {
    /// Removes what was begun and not finished.
    fn drop(&mut self) {
        if !self.finished {
            // Best effort: the error that brought us here is the one to report.
            let _ = std::fs::remove_dir_all(&self.temporary);
        }
    }
}

fn sync_folder(dir: &Path) -> Result<(), Error> {
    let write = |source| Error::Write { path: dir.to_owned(), source };
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(write)
}

/// A file that is hashed while it is written.
struct HashedFile {
    path: PathBuf,
    file: BufWriter<File>,
    hasher: blake3::Hasher,
    num_bytes: u64,
}

impl HashedFile {
    fn create(path: PathBuf) -> Result<Self, Error> {
        let file = File::create(&path).map_err(|source| Error::Write { path: path.clone(), source })?;
        Ok(HashedFile {
            path,
            file: BufWriter::with_capacity(1 << 20, file),
            hasher: blake3::Hasher::new(),
            num_bytes: 0,
        })
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.hasher.update(bytes);
        self.num_bytes += bytes.len() as u64;
        self.file.write_all(bytes).map_err(|source| Error::Write { path: self.path.clone(), source })
    }

    fn finish(mut self) -> Result<Entry, Error> {
        let write = |source| Error::Write { path: self.path.clone(), source };
        self.file.flush().map_err(write)?;
        self.file.get_ref().sync_all().map_err(write)?;
        let file = self.path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        Ok(Entry { file, num_bytes: self.num_bytes, blake3: self.hasher.finalize().to_hex().to_string() })
    }
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

    /// What the shards were made from, as the writer was told.
    pub fn source(&self) -> &str {
        &self.index.source
    }

    /// Index of the first token of document `i`.
    pub fn document_start(&self, i: u64) -> u64 {
        assert!(i < self.num_documents(), "document {i} of {}", self.num_documents());
        let bytes = self.documents.as_deref().unwrap_or(&[]);
        let at = i as usize * 8;
        u64::from_le_bytes(std::array::from_fn(|j| bytes[at + j]))
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
    if index.format != FORMAT || index.version != VERSION {
        let found = format!("{} {}", index.format, index.version);
        return Err(bad(&path, "format", &format!("{FORMAT} {VERSION}"), &found));
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
