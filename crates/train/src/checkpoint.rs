//! Checkpoints: `checkpoint-<step>/` in the output folder, whole or absent.
//!
//! A checkpoint is a model folder (config.json, generation_config.json, model.safetensors, tokenizer files, README.md) plus
//! optimizer.safetensors and trainer_state.json, which lists the BLAKE3 hash and the size of every other file and ends with
//! a hash of itself. It is written under a hidden name, flushed to the disk, then renamed; one that is removed is renamed to
//! a hidden name first. So a kill at any instant leaves only whole folders under visible names, and damage from elsewhere
//! is found by the hashes before anything is loaded.

use crate::error::Error;
use crate::optimizer::Optimizer;
use crate::output::{HIDDEN, sync_dir};
use eyas_model::{Gpt, write_atomically};
use eyas_ops::Backend;
use eyas_token::Tokenizer;
use serde_json::{Map, Value, json};
use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

const PREFIX: &str = "checkpoint-";
const STATE: &str = "trainer_state.json";
const OPTIMIZER: &str = "optimizer.safetensors";
const CARD: &str = "README.md";
/// Keys of trainer_state.json that this module owns.
const FILES: &str = "files";
const HASH: &str = "blake3";
/// A log of millions of lines fits.
const MAX_STATE_BYTES: u64 = 1 << 30;

/// What a checkpoint holds.
pub struct Contents<'a, D: Backend> {
    /// The network.
    pub gpt: &'a Gpt<D>,
    /// Its optimizer.
    pub optimizer: &'a Optimizer<D>,
    /// The tokenizer it was trained with.
    pub tokenizer: &'a Tokenizer,
    /// The text of README.md.
    pub card: &'a str,
    /// The content of trainer_state.json, without the hashes.
    pub state: Map<String, Value>,
}

/// A checkpoint whose hashes have been checked.
#[derive(Clone, Debug)]
pub struct Checkpoint {
    /// Its folder.
    pub path: PathBuf,
    /// The content of trainer_state.json.
    pub state: Map<String, Value>,
}

/// Writes `checkpoint-<step>` into `output_dir` and returns its path. One of that name that was there is replaced.
///
/// # Errors
/// The operating system's; then nothing visible has changed.
pub fn save<D: Backend>(output_dir: &Path, step: u64, contents: Contents<'_, D>) -> Result<PathBuf, Error> {
    let hidden = output_dir.join(format!("{HIDDEN}{step}.tmp"));
    let written = write(&hidden, contents).and_then(|()| show(output_dir, step, &hidden));
    if written.is_err() {
        // The write failed for its own reason, which is the one to report.
        let _ = fs::remove_dir_all(&hidden);
    }
    written
}

fn write<D: Backend>(dir: &Path, contents: Contents<'_, D>) -> Result<(), Error> {
    fs::create_dir(dir).map_err(Error::io("create the folder", dir))?;
    save_model(dir, contents.gpt, contents.tokenizer, contents.card)?;
    contents.optimizer.save(&dir.join(OPTIMIZER))?;
    let mut state = contents.state;
    state.insert(FILES.into(), hash_files(dir)?.into());
    let hash = hash_of(&state);
    state.insert(HASH.into(), hash.into());
    write_text(&dir.join(STATE), &pretty(&state))
}

/// Writes a model folder: network, tokenizer and model card.
///
/// # Errors
/// The operating system's; each file is whole or as it was.
pub fn save_model<D: Backend>(
    dir: &Path,
    gpt: &Gpt<D>,
    tokenizer: &Tokenizer,
    card: &str,
) -> Result<(), Error> {
    gpt.save(dir)?;
    tokenizer.save(dir)?;
    write_text(&dir.join(CARD), card)
}

/// Renames the finished folder to its visible name.
fn show(output_dir: &Path, step: u64, hidden: &Path) -> Result<PathBuf, Error> {
    let path = output_dir.join(format!("{PREFIX}{step}"));
    if path.exists() {
        remove(&path)?;
    }
    fs::rename(hidden, &path).map_err(Error::io("rename", hidden))?;
    sync_dir(output_dir)?;
    Ok(path)
}

/// Removes a checkpoint, at once for anyone who looks.
pub(crate) fn remove(path: &Path) -> Result<(), Error> {
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let hidden = path.with_file_name(format!(".{name}.old"));
    fs::rename(path, &hidden).map_err(Error::io("remove", path))?;
    fs::remove_dir_all(&hidden).map_err(Error::io("remove", &hidden))
}

/// The checkpoints of `output_dir`, whole or not: step and folder, newest first.
///
/// # Errors
/// A folder that cannot be read.
pub fn list(output_dir: &Path) -> Result<Vec<(u64, PathBuf)>, Error> {
    let mut found = Vec::new();
    for entry in fs::read_dir(output_dir).map_err(Error::io("read", output_dir))? {
        let entry = entry.map_err(Error::io("read", output_dir))?;
        let step = entry.file_name().to_str().and_then(|name| name.strip_prefix(PREFIX)?.parse().ok());
        found.extend(step.filter(|_| entry.path().is_dir()).map(|step| (step, entry.path())));
    }
    found.sort_by_key(|(step, _)| std::cmp::Reverse(*step));
    Ok(found)
}

/// The newest whole checkpoint of `output_dir`, or `None` if it holds no checkpoint at all. `on_broken` is told of each that is
/// passed over.
///
/// # Errors
/// [`Error::NoWholeCheckpoint`] if there are some and all are broken.
pub fn newest_whole(
    output_dir: &Path,
    on_broken: &mut dyn FnMut(&Error),
) -> Result<Option<Checkpoint>, Error> {
    let mut newest = None;
    for (_, path) in list(output_dir)? {
        match Checkpoint::open(&path) {
            Ok(checkpoint) => return Ok(Some(checkpoint)),
            Err(error) => {
                on_broken(&error);
                newest.get_or_insert(error);
            }
        }
    }
    let refuse = |newest| Err(Error::NoWholeCheckpoint { path: output_dir.into(), newest: Box::new(newest) });
    newest.map_or(Ok(None), refuse)
}

/// Removes checkpoints until `limit` are left, and returns what was removed. The one of step `newest`, which has just been
/// written, always stays; those after it, which were found broken, go first, then the oldest.
///
/// # Errors
/// The operating system's.
pub fn retain(output_dir: &Path, newest: u64, limit: usize) -> Result<Vec<PathBuf>, Error> {
    let mut others = list(output_dir)?;
    let num_checkpoints = others.len();
    others.retain(|(step, _)| *step != newest);
    others.sort_by_key(|(step, _)| (*step < newest, *step));
    let surplus = num_checkpoints.saturating_sub(limit.max(1));
    let removed: Vec<_> = others.into_iter().take(surplus).map(|(_, path)| path).collect();
    removed.iter().try_for_each(|path| remove(path))?;
    Ok(removed)
}

impl Checkpoint {
    /// Reads a checkpoint's state and checks the hash of every file it lists.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] that names the file that is missing or changed.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let mut state = read_state(&path.join(STATE))?;
        let state_path = path.join(STATE);
        let Some(Value::Object(files)) = state.shift_remove(FILES) else {
            return Err(Error::checkpoint(&state_path, "it lists no files"));
        };
        for name in ["config.json", "model.safetensors", OPTIMIZER] {
            if !files.contains_key(name) {
                return Err(Error::checkpoint(&state_path, format!("it does not list {name}")));
            }
        }
        for (name, entry) in &files {
            check_file(&path.join(name), name, entry)?;
        }
        Ok(Checkpoint { path: path.into(), state })
    }

    /// The number of updates done.
    ///
    /// # Errors
    /// A state without it.
    pub fn step(&self) -> Result<u64, Error> {
        let step = self.state.get("global_step").and_then(Value::as_u64);
        step.ok_or_else(|| Error::checkpoint(&self.path.join(STATE), "`global_step` is missing"))
    }

    /// Where the optimizer's state is.
    pub fn optimizer(&self) -> PathBuf {
        self.path.join(OPTIMIZER)
    }
}

fn read_state(path: &Path) -> Result<Map<String, Value>, Error> {
    let file = File::open(path).map_err(|error| Error::checkpoint(path, error.to_string()))?;
    let mut text = String::new();
    let read = file.take(MAX_STATE_BYTES + 1).read_to_string(&mut text);
    read.map_err(|error| Error::checkpoint(path, error.to_string()))?;
    if text.len() as u64 > MAX_STATE_BYTES {
        return Err(Error::checkpoint(path, format!("it is larger than {MAX_STATE_BYTES} bytes")));
    }
    let mut state: Map<String, Value> = serde_json::from_str(&text)
        .map_err(|error| Error::checkpoint(path, format!("not valid JSON: {error}")))?;
    let Some(Value::String(stored)) = state.shift_remove(HASH) else {
        return Err(Error::checkpoint(path, "it lacks its hash; was it written by eyas?"));
    };
    if stored != hash_of(&state) {
        return Err(Error::checkpoint(path, "it was changed after it was written: its hash differs"));
    }
    Ok(state)
}

fn check_file(path: &Path, name: &str, entry: &Value) -> Result<(), Error> {
    // A name with a folder in it would lead out of the checkpoint.
    if Path::new(name).file_name().is_none_or(|plain| plain != name) {
        return Err(Error::checkpoint(path, "its name is not a plain file name"));
    }
    let (num_bytes, hash) = hash_file(path).map_err(|error| Error::checkpoint(path, error.to_string()))?;
    if entry["num_bytes"].as_u64() != Some(num_bytes) {
        let expected = &entry["num_bytes"];
        return Err(Error::checkpoint(path, format!("expected {expected} bytes, got {num_bytes}")));
    }
    match entry[HASH].as_str() == Some(hash.as_str()) {
        true => Ok(()),
        false => Err(Error::checkpoint(path, "it was changed after it was written: its hash differs")),
    }
}

/// Name, size and hash of every file in `dir`.
fn hash_files(dir: &Path) -> Result<Map<String, Value>, Error> {
    let mut files = Map::new();
    for entry in fs::read_dir(dir).map_err(Error::io("read", dir))? {
        let path = entry.map_err(Error::io("read", dir))?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let (num_bytes, hash) = hash_file(&path).map_err(Error::io("read", &path))?;
        files.insert(name, json!({"num_bytes": num_bytes, HASH: hash}));
    }
    files.sort_keys();
    Ok(files)
}

fn hash_file(path: &Path) -> std::io::Result<(u64, String)> {
    let mut hasher = blake3::Hasher::new();
    hasher.update_reader(File::open(path)?)?;
    Ok((hasher.count(), hasher.finalize().to_hex().to_string()))
}

/// The hash of a state: of its text as it will be read back.
fn hash_of(state: &Map<String, Value>) -> String {
    blake3::hash(pretty(state).as_bytes()).to_hex().to_string()
}

fn pretty(state: &Map<String, Value>) -> String {
    serde_json::to_string_pretty(state).expect("a map of JSON values is JSON") + "\n"
}

/// Writes a text file that is whole or as it was.
pub(crate) fn write_text(path: &Path, text: &str) -> Result<(), Error> {
    match write_atomically(path, |out| out.write_all(text.as_bytes())) {
        Ok(()) => Ok(()),
        Err(eyas_model::Error::Io { action, source }) => Err(Error::Io { action, path: path.into(), source }),
        Err(other) => Err(other.into()),
    }
}
