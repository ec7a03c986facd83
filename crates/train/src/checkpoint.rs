//! Checkpoints: `checkpoint-<step>/` in the output folder, whole or absent.
//!
//! A checkpoint is a model folder (config.json, generation_config.json, model.safetensors, tokenizer files, README.md) plus
//! optimizer.safetensors and trainer_state.json, which lists the BLAKE3 hash and the size of every other file and holds a
//! hash of itself. It is written under a hidden name, flushed to the disk, then renamed; one that is removed is renamed to
//! a hidden name first. So a kill at any instant leaves only whole folders under visible names, and damage from elsewhere
//! is found by the hashes before anything is loaded.

use crate::error::Error;
use crate::output::HIDDEN;
use crate::snapshot::{CARD, Contents, MODEL, OPTIMIZER};
use crate::storage::{Disk, Storage};
use eyas_model::{Gpt, write_atomically};
use eyas_ops::Backend;
use eyas_token::Tokenizer;
use serde_json::{Map, Value, json};
use std::io::{self, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

const PREFIX: &str = "checkpoint-";
const STATE: &str = "trainer_state.json";
/// Where transformers keeps what callbacks remember, and the name that eyas has among them.
pub(crate) const CALLBACKS: &str = "stateful_callbacks";
pub(crate) const OWN: &str = "eyas";
/// Keys of trainer_state.json that this module owns.
const FILES: &str = "files";
const HASH: &str = "blake3";
/// The hash of the state's own text, in which [`NO_HASH`] stands in its place: so no byte of it can change unseen.
const STATE_HASH: &str = "state_blake3";
const NO_HASH: &str = "0000000000000000000000000000000000000000000000000000000000000000";
/// A log of millions of lines fits.
const MAX_STATE_BYTES: u64 = 1 << 30;

/// A checkpoint whose hashes have been checked.
#[derive(Clone, Debug)]
pub struct Checkpoint {
    /// Its folder.
    pub path: PathBuf,
    /// The content of trainer_state.json.
    pub state: Map<String, Value>,
}

/// Where the checkpoint of `step` is, or would be.
pub fn path(output_dir: &Path, step: u64) -> PathBuf {
    output_dir.join(format!("{PREFIX}{step}"))
}

/// Writes `checkpoint-<step>` into `output_dir` and returns its path. One of that name that was there is replaced, and goes
/// when the new one is durable.
///
/// # Errors
/// The operating system's; then no whole checkpoint has changed.
pub fn write(storage: &dyn Storage, output_dir: &Path, contents: Contents<'_>) -> Result<PathBuf, Error> {
    let path = path(output_dir, contents.step);
    let hidden = output_dir.join(format!("{HIDDEN}{}.tmp", contents.step));
    let written = write_hidden(storage, &hidden, contents).and_then(|()| {
        let aside = storage.exists(&path).then(|| move_aside(storage, &path)).transpose()?;
        let shown = storage.rename(&hidden, &path).map_err(Error::io("rename", &hidden));
        if let (Err(_), Some(aside)) = (&shown, &aside) {
            // It is still the best there is of this step.
            let _ = storage.rename(aside, &path);
        }
        shown?;
        storage.sync_dir(output_dir).map_err(Error::io("write", output_dir))?;
        aside.map_or(Ok(()), |aside| storage.remove_dir_all(&aside).map_err(Error::io("remove", &aside)))
    });
    if written.is_err() {
        // The write failed for its own reason, which is the one to report.
        let _ = storage.remove_dir_all(&hidden);
    }
    written.map(|()| path)
}

/// Writes the whole of a checkpoint, and makes it durable under its hidden name.
fn write_hidden(storage: &dyn Storage, dir: &Path, contents: Contents<'_>) -> Result<(), Error> {
    if storage.exists(dir) {
        // Left by a save that failed, and whose remains could not be removed then.
        storage.remove_dir_all(dir).map_err(Error::io("remove", dir))?;
    }
    storage.create_dir(dir).map_err(Error::io("create the folder", dir))?;
    let mut listed = Map::new();
    for file in &contents.files {
        let path = dir.join(&file.name);
        let entry = write_file(storage, &path, &*file.write_to).map_err(Error::io("write", &path))?;
        listed.insert(file.name.clone(), entry);
    }
    listed.sort_keys();
    let mut state = contents.state;
    own_mut(&mut state).insert(FILES.into(), listed.into());
    own_mut(&mut state).insert(STATE_HASH.into(), NO_HASH.into());
    let path = dir.join(STATE);
    let text = pretty(&state);
    let text = with_hash(&text, NO_HASH, &blake3::hash(text.as_bytes()).to_hex());
    write_file(storage, &path, &|out| out.write_all(text.as_bytes())).map_err(Error::io("write", &path))?;
    storage.sync_dir(dir).map_err(Error::io("write", dir))
}

/// Writes a file and flushes it to the disk; returns its size and hash, which are those of what was meant to be written.
fn write_file(
    storage: &dyn Storage,
    path: &Path,
    write_to: &dyn Fn(&mut dyn Write) -> io::Result<()>,
) -> io::Result<Value> {
    let file = storage.create(path)?;
    let mut out = Hashed { out: BufWriter::with_capacity(1 << 18, file), hasher: blake3::Hasher::new() };
    write_to(&mut out)?;
    out.out.flush()?;
    out.out.get_mut().sync()?;
    Ok(json!({"num_bytes": out.hasher.count(), HASH: out.hasher.finalize().to_hex().to_string()}))
}

/// Hashes what goes through it.
struct Hashed<W> {
    out: W,
    hasher: blake3::Hasher,
}

impl<W: Write> Write for Hashed<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let num_written = self.out.write(bytes)?;
        self.hasher.update(&bytes[..num_written]);
        Ok(num_written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

/// What eyas keeps in a state beside TrainerState's own keys: where transformers keeps what its callbacks remember, so that
/// its TrainerState reads the file.
pub(crate) fn own(state: &Map<String, Value>) -> &Value {
    state.get(CALLBACKS).map_or(&Value::Null, |callbacks| &callbacks[OWN])
}

fn own_mut(state: &mut Map<String, Value>) -> &mut Map<String, Value> {
    let callbacks = state.entry(CALLBACKS).or_insert_with(|| json!({}));
    if !callbacks[OWN].is_object() {
        *callbacks = json!({OWN: {}});
    }
    callbacks[OWN].as_object_mut().expect("an object was put there")
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

/// Removes a checkpoint, at once for anyone who looks.
pub(crate) fn remove(storage: &dyn Storage, path: &Path) -> Result<(), Error> {
    let hidden = move_aside(storage, path)?;
    storage.remove_dir_all(&hidden).map_err(Error::io("remove", &hidden))
}

/// Gives a checkpoint a hidden name, and returns that.
fn move_aside(storage: &dyn Storage, path: &Path) -> Result<PathBuf, Error> {
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let hidden = path.with_file_name(format!(".{name}.old"));
    if storage.exists(&hidden) {
        storage.remove_dir_all(&hidden).map_err(Error::io("remove", &hidden))?;
    }
    storage.rename(path, &hidden).map_err(Error::io("remove", path))?;
    Ok(hidden)
}

/// Whether two paths are the same folder, however they are spelt.
pub(crate) fn is_same(a: &Path, b: &Path) -> bool {
    match (a.canonicalize(), b.canonicalize()) {
        (Ok(a), Ok(b)) => a == b,
        _ => a == b,
    }
}

/// What a file that cannot be read says of its checkpoint: one that is missing or ends too soon is broken, but a disk that fails,
/// or a lack of permission, says nothing.
fn unreadable(path: &Path) -> impl FnOnce(io::Error) -> Error {
    use io::ErrorKind::{InvalidData, IsADirectory, NotFound, UnexpectedEof};
    move |error| match error.kind() {
        NotFound | UnexpectedEof | InvalidData | IsADirectory => Error::checkpoint(path, error.to_string()),
        _ => Error::io("read", path)(error),
    }
}

/// The checkpoints of `output_dir`, whole or not: step and folder, newest first.
///
/// # Errors
/// A folder that cannot be read.
pub fn list(output_dir: &Path) -> Result<Vec<(u64, PathBuf)>, Error> {
    list_in(&Disk, output_dir)
}

/// The same in another file system than the disk's.
///
/// # Errors
/// The same.
pub fn list_in(storage: &dyn Storage, output_dir: &Path) -> Result<Vec<(u64, PathBuf)>, Error> {
    let entries = storage.list(output_dir).map_err(Error::io("read", output_dir))?;
    let step = |name: &str| name.strip_prefix(PREFIX)?.parse().ok();
    let found = entries.iter().filter(|(_, is_dir)| *is_dir);
    let mut found: Vec<_> =
        found.filter_map(|(name, _)| Some((step(name)?, output_dir.join(name)))).collect();
    found.sort_by_key(|(step, _)| std::cmp::Reverse(*step));
    Ok(found)
}

/// The newest whole checkpoint of `output_dir`, or `None` if it holds no checkpoint at all. `on_broken` is told of each that is
/// passed over.
///
/// # Errors
/// [`Error::NoWholeCheckpoint`] if there are some and all are broken; what the operating system says of one that cannot be
/// read.
pub fn newest_whole(
    storage: &dyn Storage,
    output_dir: &Path,
    on_broken: &mut dyn FnMut(&Error),
) -> Result<Option<Checkpoint>, Error> {
    let mut newest = None;
    for (_, path) in list_in(storage, output_dir)? {
        match Checkpoint::open_in(storage, &path) {
            Ok(checkpoint) => return Ok(Some(checkpoint)),
            // It may well be whole: going on from an older one would replace it.
            Err(error) if error.is_io() => return Err(error),
            Err(error) => {
                on_broken(&error);
                newest.get_or_insert(error);
            }
        }
    }
    let refuse = |newest| Err(Error::NoWholeCheckpoint { path: output_dir.into(), newest: Box::new(newest) });
    newest.map_or(Ok(None), refuse)
}

impl Checkpoint {
    /// Reads a checkpoint's state and checks the hash of every file it lists.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] that names the file that is missing or changed.
    pub fn open(path: &Path) -> Result<Self, Error> {
        Self::open_in(&Disk, path)
    }

    /// The same in another file system than the disk's.
    ///
    /// # Errors
    /// The same.
    pub fn open_in(storage: &dyn Storage, path: &Path) -> Result<Self, Error> {
        let state_path = path.join(STATE);
        let mut state = read_state(storage, &state_path)?;
        let Some(Value::Object(files)) = own_mut(&mut state).shift_remove(FILES) else {
            return Err(Error::checkpoint(&state_path, "it lists no files"));
        };
        for name in ["config.json", MODEL, OPTIMIZER] {
            if !files.contains_key(name) {
                return Err(Error::checkpoint(&state_path, format!("it does not list {name}")));
            }
        }
        for (name, entry) in &files {
            check_file(storage, &path.join(name), name, entry)?;
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

fn read_state(storage: &dyn Storage, path: &Path) -> Result<Map<String, Value>, Error> {
    let file = storage.open(path).map_err(unreadable(path))?;
    let mut text = String::new();
    let read = file.take(MAX_STATE_BYTES + 1).read_to_string(&mut text);
    read.map_err(unreadable(path))?;
    if text.len() as u64 > MAX_STATE_BYTES {
        return Err(Error::checkpoint(path, format!("it is larger than {MAX_STATE_BYTES} bytes")));
    }
    let mut state: Map<String, Value> = serde_json::from_str(&text)
        .map_err(|error| Error::checkpoint(path, format!("not valid JSON: {error}")))?;
    let Some(Value::String(stored)) = own_mut(&mut state).shift_remove(STATE_HASH) else {
        return Err(Error::checkpoint(path, "it lacks its hash; was it written by eyas?"));
    };
    if blake3::hash(with_hash(&text, &stored, NO_HASH).as_bytes()).to_hex().as_str() != stored {
        return Err(Error::checkpoint(path, "it was changed after it was written: its hash differs"));
    }
    Ok(state)
}

/// The text of a state with `new` for its hash `old`. No text in it looks like that key: its quotation marks would be escaped.
fn with_hash(text: &str, old: &str, new: &str) -> String {
    let entry = |hash: &str| format!("\"{STATE_HASH}\": \"{hash}\"");
    text.replacen(&entry(old), &entry(new), 1)
}

fn check_file(storage: &dyn Storage, path: &Path, name: &str, entry: &Value) -> Result<(), Error> {
    // A name with a folder in it would lead out of the checkpoint.
    if Path::new(name).file_name().is_none_or(|plain| plain != name) {
        return Err(Error::checkpoint(path, "its name is not a plain file name"));
    }
    let (num_bytes, hash) = hash_file(storage, path).map_err(unreadable(path))?;
    if entry["num_bytes"].as_u64() != Some(num_bytes) {
        let expected = &entry["num_bytes"];
        return Err(Error::checkpoint(path, format!("expected {expected} bytes, got {num_bytes}")));
    }
    match entry[HASH].as_str() == Some(hash.as_str()) {
        true => Ok(()),
        false => Err(Error::checkpoint(path, "it was changed after it was written: its hash differs")),
    }
}

fn hash_file(storage: &dyn Storage, path: &Path) -> io::Result<(u64, String)> {
    let mut hasher = blake3::Hasher::new();
    hasher.update_reader(storage.open(path)?)?;
    Ok((hasher.count(), hasher.finalize().to_hex().to_string()))
}

pub(crate) fn pretty(state: &Map<String, Value>) -> String {
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
