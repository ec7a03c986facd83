//! Writes the files of a folder of shards, hashed while they are written. The folder is the caller's: it stands beside the
//! place that it is meant for until it is whole. What was made durable by [`ShardsWriter::sync`] can be gone on from.

use super::{
    DOCUMENTS, Dtype, Entry, FORMAT, INDEX, Index, MAX_ROW_BYTES, Mode, SHARD_TOKENS, SourceTokens, TABLE,
    VERSION, bad, hex,
};
use crate::error::Error;
use crate::source::Document;
use serde::{Deserialize, Serialize};
use serde_json::{Map, json};
use std::fs::{File, OpenOptions};
use std::io::{BufWriter, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

/// Writes the files of a folder of shards.
pub(crate) struct ShardsWriter {
    folder: PathBuf,
    index: Index,
    tokens: Option<HashedFile>,
    documents: HashedFile,
    table: HashedFile,
    words: Vec<u16>,
    /// The argument that what is pushed is of.
    argument: usize,
}

/// What a writer has made durable: enough to go on from.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Written {
    index: Index,
    /// Bytes of the shard that is not full yet, if one was begun.
    tokens: Option<u64>,
    documents: u64,
    table: u64,
    argument: usize,
}

impl ShardsWriter {
    /// Begins in an empty folder.
    ///
    /// # Errors
    /// If the files cannot be written.
    pub(crate) fn create(
        folder: &Path,
        mode: Mode,
        context_length: usize,
        vocab_size: usize,
        tokenizer: [u8; 32],
        origins: &[String],
    ) -> Result<Self, Error> {
        let empty = |file: &str| Entry { file: file.to_owned(), num_bytes: 0, blake3: String::new() };
        Ok(ShardsWriter {
            folder: folder.to_owned(),
            index: Index {
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
                source: origins.join(" "),
                sources: origins.iter().map(|name| SourceTokens::none(name)).collect(),
                shards: Vec::new(),
                documents: empty(DOCUMENTS),
                names: None,
                table: None,
            },
            tokens: None,
            documents: HashedFile::create(folder.join(DOCUMENTS))?,
            table: HashedFile::create(folder.join(TABLE))?,
            words: Vec::new(),
            argument: 0,
        })
    }

    /// Goes on from what `written` says: what the files have beyond that is cut off.
    ///
    /// # Errors
    /// If a file is shorter, or cannot be read or written.
    pub(crate) fn resume(folder: &Path, written: Written) -> Result<Self, Error> {
        let open = |name: &str, num_bytes| HashedFile::resume(folder.join(name), num_bytes);
        let Written { index, tokens, documents, table, argument } = written;
        for entry in &index.shards {
            let path = folder.join(&entry.file);
            let num_bytes = std::fs::metadata(&path).map_or(0, |metadata| metadata.len());
            if num_bytes != entry.num_bytes {
                return Err(bad(&path, "size", &entry.num_bytes.to_string(), &num_bytes.to_string()));
            }
        }
        let tokens = tokens.map(|num_bytes| open(&shard_name(index.shards.len()), num_bytes)).transpose()?;
        Ok(ShardsWriter {
            folder: folder.to_owned(),
            tokens,
            documents: open(DOCUMENTS, documents)?,
            table: open(TABLE, table)?,
            words: Vec::new(),
            argument,
            index,
        })
    }

    /// Tokens written so far.
    pub(crate) fn num_tokens(&self) -> u64 {
        self.index.num_tokens
    }

    /// Begins a document at the present end of the stream.
    ///
    /// # Errors
    /// If writing fails.
    pub(crate) fn begin_document(&mut self, document: &Document) -> Result<(), Error> {
        self.argument = document.argument as usize;
        self.index.sources[self.argument].num_documents += 1;
        self.index.num_documents += 1;
        self.index.num_bytes += document.text.len() as u64;
        self.documents.write(&self.index.num_tokens.to_le_bytes())?;
        let mut row = Map::new();
        row.insert("path".into(), json!(document.path));
        if let Some(language) = document.language {
            row.insert("language".into(), json!(language.name()));
        }
        if let Some(license) = &document.license {
            row.insert("license".into(), json!(license));
        }
        let mut line = serde_json::Value::Object(row).to_string() + "\n";
        if line.len() as u64 >= MAX_ROW_BYTES {
            // A row that no reader would take is left empty, so that those after it stay in their lines.
            "{}\n".clone_into(&mut line);
        }
        self.table.write(line.as_bytes())
    }

    /// Appends tokens to the stream.
    ///
    /// # Errors
    /// If writing fails.
    pub(crate) fn push(&mut self, mut ids: &[u32]) -> Result<(), Error> {
        let size = self.index.dtype.size();
        while !ids.is_empty() {
            let file = match &mut self.tokens {
                Some(file) => file,
                none => {
                    let name = shard_name(self.index.shards.len());
                    none.insert(HashedFile::create(self.folder.join(name))?)
                }
            };
            let room = (SHARD_TOKENS - file.num_bytes / size).min(ids.len() as u64) as usize;
            let (now, rest) = ids.split_at(room);
            match self.index.dtype {
                Dtype::U16 => {
                    self.words.clear();
                    self.words.extend(now.iter().map(|id| (*id as u16).to_le()));
                    file.write(bytemuck::cast_slice(&self.words))?;
                }
                Dtype::U32 => {
                    let words: Vec<u32> = now.iter().map(|id| id.to_le()).collect();
                    file.write(bytemuck::cast_slice(&words))?;
                }
            }
            self.index.num_tokens += room as u64;
            self.index.sources[self.argument].num_tokens += room as u64;
            if file.num_bytes == SHARD_TOKENS * size {
                self.close_shard()?;
            }
            ids = rest;
        }
        Ok(())
    }

    fn close_shard(&mut self) -> Result<(), Error> {
        if let Some(mut file) = self.tokens.take() {
            self.index.shards.push(file.entry()?);
        }
        Ok(())
    }

    /// Makes everything so far durable.
    ///
    /// # Errors
    /// If writing fails.
    pub(crate) fn sync(&mut self) -> Result<Written, Error> {
        self.tokens.as_mut().map_or(Ok(()), HashedFile::sync)?;
        self.documents.sync()?;
        self.table.sync()?;
        sync_folder(&self.folder)?;
        Ok(Written {
            index: self.index.clone(),
            tokens: self.tokens.as_ref().map(|file| file.num_bytes),
            documents: self.documents.num_bytes,
            table: self.table.num_bytes,
            argument: self.argument,
        })
    }

    /// Writes the index: the folder is then whole and durable. What each argument gave comes back.
    ///
    /// # Errors
    /// If writing fails.
    pub(crate) fn finish(mut self) -> Result<Vec<SourceTokens>, Error> {
        self.close_shard()?;
        self.index.documents = self.documents.entry()?;
        self.index.table = Some(self.table.entry()?);
        let json = serde_json::to_vec_pretty(&self.index).unwrap_or_default();
        let mut file = HashedFile::create(self.folder.join(INDEX))?;
        file.write(&json)?;
        file.sync()?;
        sync_folder(&self.folder)?;
        Ok(self.index.sources)
    }
}

fn shard_name(i: usize) -> String {
    format!("tokens-{i:05}.bin")
}

/// Makes the names in a folder durable.
pub(crate) fn sync_folder(dir: &Path) -> Result<(), Error> {
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
        Ok(HashedFile::new(path, file, blake3::Hasher::new(), 0))
    }

    /// Goes on behind the first `num_bytes` of a file. What is behind them is removed.
    fn resume(path: PathBuf, num_bytes: u64) -> Result<Self, Error> {
        let read = |source| Error::Read { path: path.clone(), source };
        let file = OpenOptions::new().read(true).write(true).open(&path);
        let mut file = file.map_err(|error| bad(&path, "the file", "to be there", &error.to_string()))?;
        let mut hasher = blake3::Hasher::new();
        let hashed = std::io::copy(&mut (&mut file).take(num_bytes), &mut hasher).map_err(read)?;
        if hashed < num_bytes {
            return Err(bad(
                &path,
                "size",
                &format!("{num_bytes} bytes or more"),
                &format!("{hashed} bytes"),
            ));
        }
        let write = |source| Error::Write { path: path.clone(), source };
        file.set_len(num_bytes).map_err(write)?;
        file.seek(SeekFrom::Start(num_bytes)).map_err(write)?;
        Ok(HashedFile::new(path, file, hasher, num_bytes))
    }

    fn new(path: PathBuf, file: File, hasher: blake3::Hasher, num_bytes: u64) -> Self {
        HashedFile { path, file: BufWriter::with_capacity(1 << 20, file), hasher, num_bytes }
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.hasher.update(bytes);
        self.num_bytes += bytes.len() as u64;
        self.file.write_all(bytes).map_err(|source| Error::Write { path: self.path.clone(), source })
    }

    fn sync(&mut self) -> Result<(), Error> {
        let write = |source| Error::Write { path: self.path.clone(), source };
        self.file.flush().map_err(write)?;
        self.file.get_ref().sync_all().map_err(write)
    }

    /// What the index says of it. It is durable then.
    fn entry(&mut self) -> Result<Entry, Error> {
        self.sync()?;
        let file = self.path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        Ok(Entry { file, num_bytes: self.num_bytes, blake3: self.hasher.finalize().to_hex().to_string() })
    }
}
