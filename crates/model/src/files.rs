//! Model folders of Hugging Face: config.json, generation_config.json and model.safetensors, read and written.
//!
//! Reads every layout that GPT-2 checkpoints come in: with and without the `transformer.` prefix, with stored attention
//! masks, with the tied head stored, in f32, f16 or bf16, whole or in shards. Refuses pickle (.bin, .pt), shards outside
//! the folder, and any tensor that is missing, unknown, of the wrong shape, or not finite. The trick: a folder is first
//! resolved to one table from declared names to places in files, whatever its layout, and only then read.

use crate::config::Config;
use crate::error::{Error, InFile};
use crate::parameters::{Declaration, Parameters};
use crate::safetensors::{TensorFile, TensorOut, write_tensors};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, BufWriter, Read, Write};
use std::path::Path;

/// The names of the files.
pub(crate) const CONFIG: &str = "config.json";
const GENERATION_CONFIG: &str = "generation_config.json";
const WEIGHTS: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";
const PREFIX: &str = "transformer.";
const HEAD: &str = "lm_head.weight";
const MAX_INDEX_BYTES: u64 = 64 << 20;

/// The weights of a model folder, found and checked by name; read them with [`read`](Self::read).
pub(crate) struct WeightFiles {
    files: Vec<TensorFile>,
    /// From the declared name to the file and the name in it.
    places: BTreeMap<String, (usize, String)>,
}

impl WeightFiles {
    /// Finds every declared tensor in folder `dir`.
    pub(crate) fn open(dir: &Path, declared: &Parameters<Declaration>) -> Result<Self, Error> {
        let open = |name: &str| TensorFile::open(&dir.join(name));
        // A whole file wins over an index, as in transformers.
        let files = if dir.join(WEIGHTS).exists() {
            vec![open(WEIGHTS)?]
        } else if dir.join(INDEX).exists() {
            let index = read_index(dir)?;
            let names: BTreeSet<_> = index.values().collect();
            let files = names.into_iter().map(|name| open(name)).collect::<Result<Vec<_>, _>>()?;
            check_index(dir, &index, &files)?;
            files
        } else {
            return Err(no_weights(dir)).in_file(dir);
        };
        Self::resolve(files, declared).in_file(dir)
    }

    /// Finds the declared tensors in `files` and checks their shapes, so that no more memory will be asked for than the
    /// files hold.
    fn resolve(files: Vec<TensorFile>, declared: &Parameters<Declaration>) -> Result<Self, Error> {
        let mut wanted: BTreeMap<&str, &Declaration> =
            declared.iter().map(|d| (d.name.as_str(), d)).collect();
        wanted.insert(HEAD, &declared.wte);
        let mut places = BTreeMap::new();
        let mut unexpected = Vec::new();
        for (number, file) in files.iter().enumerate() {
            for stored in file.tensors().keys().filter(|name| !is_mask(name)) {
                let has_full_name = stored.starts_with(PREFIX) || stored == HEAD;
                let name = if has_full_name { stored.clone() } else { format!("{PREFIX}{stored}") };
                match wanted.remove(name.as_str()) {
                    Some(declared) => {
                        file.check(stored, &declared.shape)?;
                        places.insert(name, (number, stored.clone()));
                    }
                    None => unexpected.push(stored.clone()),
                }
            }
        }
        wanted.remove(HEAD);
        // A surplus says what kind of model it is, a lack only follows from it.
        if !unexpected.is_empty() {
            return Err(Error::UnexpectedTensors { names: unexpected });
        }
        if !wanted.is_empty() {
            return Err(Error::MissingTensors { names: wanted.into_keys().map(String::from).collect() });
        }
        Ok(WeightFiles { files, places })
    }

    /// Reads one declared tensor.
    pub(crate) fn read(&mut self, declared: &Declaration) -> Result<Vec<f32>, Error> {
        let (file, stored) = &self.places[&declared.name];
        self.files[*file].read(stored, &declared.shape)
    }

    /// If the head is stored, it must be the token embedding, to which GPT-2 ties it.
    pub(crate) fn check_head(&mut self, wte: &Declaration, values: &[f32]) -> Result<(), Error> {
        let Some((file, stored)) = self.places.get(HEAD) else { return Ok(()) };
        let file = &mut self.files[*file];
        let head = file.read(stored, &wte.shape)?;
        match head.iter().zip(values).position(|(head, wte)| head != wte) {
            None => Ok(()),
            Some(at) => Err(Error::Tensor {
                name: HEAD.into(),
                expected: format!("the same values as {}, to which the head is tied", wte.name),
                got: format!("{} for {} at element {at}", head[at], values[at]),
            })
            .in_file(file.path()),
        }
    }
}

/// Causal masks, which older versions stored: `h.0.attn.bias`, `h.0.attn.masked_bias`.
fn is_mask(name: &str) -> bool {
    name.ends_with(".attn.bias") || name.ends_with(".attn.masked_bias")
}

/// Why folder `dir` has no weights that can be read.
fn no_weights(dir: &Path) -> Error {
    let pickles =
        ["pytorch_model.bin", "pytorch_model.bin.index.json", "model.pt", "model.pth", "model.ckpt"];
    let (problem, hint) = if !dir.is_dir() {
        ("not a folder".into(), "a model is a folder with config.json and model.safetensors")
    } else if let Some(name) = pickles.iter().find(|name| dir.join(name).exists()) {
        let problem = format!("it holds {name}, a pickle, which can run code when it is read");
        (problem, "save it again with save_pretrained(..., safe_serialization=True)")
    } else {
        (format!("it holds neither {WEIGHTS} nor {INDEX}"), "was it saved completely?")
    };
    Error::Folder { problem, hint }
}

/// The index of shards: from tensor names to file names, each a plain name within the folder.
fn read_index(dir: &Path) -> Result<BTreeMap<String, String>, Error> {
    let path = dir.join(INDEX);
    let parse = |text: String| {
        let index: Value = serde_json::from_str(&text)?;
        let Some(map) = index["weight_map"].as_object() else {
            return Err(Error::Index("expected an object `weight_map`, got none".into()));
        };
        map.iter().map(|(tensor, file)| plain_name(tensor, file)).collect()
    };
    read_small(&path, MAX_INDEX_BYTES).and_then(parse).in_file(&path)
}

fn plain_name(tensor: &str, file: &Value) -> Result<(String, String), Error> {
    let name = file.as_str().filter(|name| {
        let mut parts = Path::new(name).components();
        let plain = matches!(parts.next(), Some(std::path::Component::Normal(part)) if part == *name);
        plain && parts.next().is_none() && !name.contains('\\') && name.ends_with(".safetensors")
    });
    name.map(|name| (tensor.to_string(), name.to_string())).ok_or_else(|| {
        Error::Index(format!(
            "`{tensor}`: expected the name of a .safetensors file in this folder, got {file}"
        ))
    })
}

/// Every tensor of the index must be in the file that the index names.
fn check_index(dir: &Path, index: &BTreeMap<String, String>, files: &[TensorFile]) -> Result<(), Error> {
    for (tensor, name) in index {
        let path = dir.join(name);
        if !files.iter().any(|file| file.path() == path && file.tensors().contains_key(tensor)) {
            return Err(Error::Index(format!("tensor `{tensor}` is not in {name}")))
                .in_file(&dir.join(INDEX));
        }
    }
    Ok(())
}

/// Writes a model folder: each file becomes visible when it is whole.
pub(crate) fn save_model(dir: &Path, config: &Config, tensors: Vec<TensorOut<'_>>) -> Result<(), Error> {
    fs::create_dir_all(dir).map_err(Error::io("create the folder")).in_file(dir)?;
    write_tensors(&dir.join(WEIGHTS), &[("format", "pt".into())], tensors)?;
    for (name, text) in config_files(config) {
        let path = dir.join(name);
        write_atomically(&path, |out| out.write_all(text.as_bytes())).in_file(&path)?;
    }
    Ok(())
}

/// The files of a model folder beside its weights: name and text.
pub(crate) fn config_files(config: &Config) -> [(&'static str, String); 2] {
    [(CONFIG, config.to_json()), (GENERATION_CONFIG, generation_config(config))]
}

/// generation_config.json as transformers derives it from a configuration.
fn generation_config(config: &Config) -> String {
    let mut map = json!({
        "_from_model_config": true,
        "bos_token_id": config.bos_token_id,
        "eos_token_id": config.eos_token_id,
        "output_attentions": false,
        "output_hidden_states": false,
        "use_cache": config.extra.get("use_cache").unwrap_or(&Value::Bool(true)),
    });
    if let Some(map) = map.as_object_mut() {
        map.retain(|_, value| !value.is_null());
    }
    serde_json::to_string_pretty(&map).expect("a map of JSON values is JSON") + "\n"
}

/// Reads a text file of at most `max_bytes`.
pub(crate) fn read_small(path: &Path, max_bytes: u64) -> Result<String, Error> {
    let file = File::open(path).map_err(Error::io("open"))?;
    let mut text = String::new();
    let num_bytes = file.take(max_bytes + 1).read_to_string(&mut text).map_err(Error::io("read"))?;
    if num_bytes as u64 > max_bytes {
        let problem = format!("it is larger than {max_bytes} bytes");
        return Err(Error::Folder { problem, hint: "is it the right file?" });
    }
    Ok(text)
}

/// Writes `path` so that it is whole or as it was before: into a hidden file beside it that ends in `.eyas-partial`, flushed to the disk, then
/// renamed over it, and the folder flushed too.
pub fn write_atomically(
    path: &Path,
    write: impl FnOnce(&mut BufWriter<&File>) -> io::Result<()>,
) -> Result<(), Error> {
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let temporary = dir.join(format!(".{name}.{}.eyas-partial", std::process::id()));
    let written = || -> io::Result<()> {
        let file = File::create(&temporary)?;
        let mut out = BufWriter::with_capacity(1 << 20, &file);
        write(&mut out)?;
        out.flush()?;
        drop(out);
        file.sync_all()?;
        fs::rename(&temporary, path)?;
        File::open(dir)?.sync_all()
    };
    written().map_err(|source| {
        // The write failed for its own reason, which is the one to report.
        let _ = fs::remove_file(&temporary);
        Error::Io { action: "write", source }
    })
}
