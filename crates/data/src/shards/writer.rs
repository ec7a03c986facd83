//! Writes a folder of shards: hashed while they are written, in a folder beside, renamed when it is whole.

use super::{
    DOCUMENTS, Dtype, Entry, FORMAT, INDEX, Index, MAX_NAME_BYTES, Mode, NAMES, SHARD_TOKENS, VERSION, hex,
    is_shards,
};
use crate::error::Error;
use serde_json::json;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

/// Writes a folder of shards. Nothing is visible until [`finish`](ShardsWriter::finish).
pub struct ShardsWriter {
    out: PathBuf,
    temporary: PathBuf,
    index: Index,
    tokens: Option<HashedFile>,
    tokens_in_file: u64,
    documents: Option<HashedFile>,
    names: Option<HashedFile>,
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
        let temporary = out.with_file_name(format!(".{name}.{}.eyas-partial", std::process::id()));
        let write = |source| Error::Write { path: temporary.clone(), source };
        if temporary.exists() {
            std::fs::remove_dir_all(&temporary).map_err(write)?;
        }
        std::fs::create_dir_all(&temporary).map_err(write)?;
        let documents = Some(HashedFile::create(temporary.join(DOCUMENTS))?);
        let names = Some(HashedFile::create(temporary.join(NAMES))?);
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
            names: None,
        };
        let (out, tokens, buffer) = (out.to_owned(), None, Vec::new());
        Ok(ShardsWriter {
            out,
            temporary,
            index,
            tokens,
            tokens_in_file: 0,
            documents,
            names,
            buffer,
            finished: false,
        })
    }

    /// Tokens written so far.
    pub fn num_tokens(&self) -> u64 {
        self.index.num_tokens
    }

    /// Begins the document `name` of `num_bytes` UTF-8 bytes at the present end of the stream.
    ///
    /// # Errors
    /// If writing fails.
    pub fn begin_document(&mut self, name: &str, num_bytes: u64) -> Result<(), Error> {
        self.index.num_documents += 1;
        self.index.num_bytes += num_bytes;
        let start = self.index.num_tokens.to_le_bytes();
        self.documents.as_mut().map_or(Ok(()), |file| file.write(&start))?;
        let line = json!(name).to_string() + "\n";
        // A name that no reader would take is left empty, so that those after it stay in their lines.
        let line = if line.len() as u64 >= MAX_NAME_BYTES { "\"\"\n" } else { &line };
        self.names.as_mut().map_or(Ok(()), |file| file.write(line.as_bytes()))
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
        self.index.names = self.names.take().map(HashedFile::finish).transpose()?;
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
            let aside = self.temporary.with_extension("old.eyas-partial");
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
