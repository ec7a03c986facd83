//! Data of a run: folders of prepared shards as they are, everything else prepared into `<output_dir>/data/`.
//!
//! Refuses shards of another tokenizer or context, and data without a sample. What was prepared is used again when
//! it was made from the same sources in the same way: a resumed run must read the tokens it read before, and files that
//! have not changed need not be read twice. A folder of code may have changed unseen, so a new run prepares it again.

use crate::checkpoint::write_text;
use crate::error::Error;
use crate::evaluate::EvalData;
use crate::event::{Event, OnEvent};
use crate::output::DATA;
use crate::settings::TrainConfig;
use eyas_data::{
    Loader, Mode, PrepareOptions, Shards, SourceOptions, eval_stream, is_shards, names_rows, prepare,
};
use eyas_token::Tokenizer;
use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::UNIX_EPOCH;

/// The data of a run, and how to open more of it.
pub(crate) struct Corpus<'a> {
    pub(crate) config: &'a TrainConfig,
    pub(crate) tokenizer: &'a Tokenizer,
    pub(crate) context_length: usize,
    /// Whether the run goes on from a checkpoint.
    pub(crate) resuming: bool,
}

/// The prepared data that `train_data` names, if it is a folder of shards.
///
/// # Errors
/// Shards that are damaged.
pub(crate) fn prepared(name: &'static str, data: &[String]) -> Result<Option<Arc<Shards>>, Error> {
    match data {
        [one] if is_shards(Path::new(one)) => Ok(Some(Arc::new(Shards::open(Path::new(one))?))),
        many => match many.iter().find(|entry| is_shards(Path::new(entry))) {
            None => Ok(None),
            Some(shards) => Err(Error::Setting {
                name: name.into(),
                line: None,
                expected: "one folder of prepared data alone, or sources".into(),
                got: format!("prepared data, {shards}, among others"),
            }),
        },
    }
}

impl Corpus<'_> {
    /// Opens the training data.
    pub(crate) fn train(
        &self,
        ready: Option<Arc<Shards>>,
        on_event: &mut OnEvent<'_>,
    ) -> Result<Loader, Error> {
        let name = "train_data";
        let (path, shards) = match ready {
            Some(shards) => (PathBuf::from(&self.config.train_data[0]), shards),
            None => self.prepare(name, &self.config.train_data, self.config.raw, on_event)?,
        };
        self.check(name, &path, &shards)?;
        let loader = self.loader(name, &shards)?;
        match &self.config.data_weights[..] {
            [] => Ok(loader),
            weights => Ok(loader.weighted(weights)?),
        }
    }

    /// Opens the evaluation data, if there are any.
    pub(crate) fn eval(&self, on_event: &mut OnEvent<'_>) -> Result<Option<EvalData>, Error> {
        let (name, data) = ("eval_data", &self.config.eval_data);
        if data.is_empty() {
            return Ok(None);
        }
        // Rows to evaluate on are taken as they are, since someone has chosen them and others are measured on the same;
        // `eyas eval` does so too.
        let raw = self.config.raw || data.iter().all(|entry| names_rows(entry));
        let (path, shards) = match prepared(name, data)? {
            Some(shards) => (PathBuf::from(&data[0]), shards),
            // A stream is small enough to be held, and its windows need no shards.
            None if self.config.mode == Mode::Pack => {
                let source = self.source_options(raw);
                return Ok(Some(EvalData::Stream(eval_stream(data, self.tokenizer, &source)?)));
            }
            None => self.prepare(name, data, raw, on_event)?,
        };
        self.check(name, &path, &shards)?;
        let evaluation = EvalData::shards(shards.clone(), self.tokenizer);
        if evaluation.num_targets(self.context_length) == 0 {
            return Err(self.too_little(name, &shards));
        }
        Ok(Some(evaluation))
    }

    fn loader(&self, name: &'static str, shards: &Arc<Shards>) -> Result<Loader, Error> {
        let seed = self.config.data_seed.unwrap_or(self.config.seed);
        let loader = Loader::new(shards.clone(), self.context_length, seed, self.config.shuffle)?;
        let batch = self.config.per_device_train_batch_size as u64;
        let least = if self.config.dataloader_drop_last { batch } else { 1 };
        match loader.num_samples() < least {
            true => Err(self.too_little(name, shards)),
            false => Ok(loader),
        }
    }

    fn too_little(&self, name: &'static str, shards: &Shards) -> Error {
        Error::TooLittleData { name, context_length: self.context_length, got: shards.num_tokens() }
    }

    /// Refuses shards that this run cannot read.
    fn check(&self, name: &'static str, path: &Path, shards: &Shards) -> Result<(), Error> {
        let refuse =
            |expected: String, got: String| Err(Error::Data { name, path: path.into(), expected, got });
        if shards.tokenizer_fingerprint() != self.tokenizer.fingerprint() {
            return refuse("tokens of this run's tokenizer".into(), "another tokenizer's".into());
        }
        if shards.mode() == Mode::Chunk {
            if shards.context_length() != self.context_length {
                let expected = format!("chunks of context_length = {}", self.context_length);
                return refuse(expected, shards.context_length().to_string());
            }
            if self.context_length < 2 {
                return refuse("chunks of 2 tokens or more, since the last has no target".into(), "1".into());
            }
        }
        Ok(())
    }

    fn source_options(&self, raw: bool) -> SourceOptions {
        SourceOptions { raw, ..self.config.source_options() }
    }

    /// Prepares `data`, or finds it prepared.
    fn prepare(
        &self,
        setting: &'static str,
        data: &[String],
        raw: bool,
        on_event: &mut OnEvent<'_>,
    ) -> Result<(PathBuf, Arc<Shards>), Error> {
        let folder = self.config.output_dir.join(DATA);
        let (path, record_path) = (folder.join(setting), folder.join(format!("{setting}.json")));
        let record = self.record(data, raw);
        let is_reusable = self.is_reusable(&record_path, &record);
        if is_reusable && is_shards(&path) {
            let shards = Shards::open(&path)?;
            on_event(Event::Reused { setting, path: &path });
            return Ok((path, Arc::new(shards)));
        }
        let before = fs::read_to_string(&record_path).ok();
        if let (true, false, "train_data", Some(before)) = (self.resuming, is_reusable, setting, &before) {
            return Err(self.changed(before, &record));
        }
        // The record goes first: shards without one are never taken for finished. The shards go when there are others.
        remove_if_there(&record_path)?;
        fs::create_dir_all(&folder).map_err(Error::io("create the folder", &folder))?;
        let options = PrepareOptions {
            mode: self.config.mode,
            context_length: self.context_length,
            source: self.source_options(raw),
            validation_one_in: None,
            fim: self.config.fim(),
        };
        let prepared = prepare(data, self.tokenizer, &options, &path, &mut |progress| {
            on_event(Event::Preparing { setting, progress });
        });
        if let (Err(_), Some(before)) = (&prepared, &before) {
            // What was there before still is; the error of the preparation is the one to report.
            let _ = write_text(&record_path, before);
        }
        let report = prepared?;
        write_text(&record_path, &format!("{record:#}\n"))?;
        on_event(Event::Prepared { setting, path: &path, report: &report });
        let shards = Shards::open(&path)?;
        Ok((path, Arc::new(shards)))
    }

    /// Why a run that goes on does not get its data: they would be others than those it was trained on so far.
    fn changed(&self, before: &str, now: &Value) -> Error {
        let before: Value = serde_json::from_str(before).unwrap_or_default();
        let differs =
            |(key, now): (&String, &Value)| (before[key] != *now && key != "stamps").then(|| key.clone());
        let key = now.as_object().into_iter().flatten().find_map(differs).unwrap_or_else(|| "stamps".into());
        let text = |value: &Value| format!("{key} {}", value[&key]);
        Error::Data {
            name: "train_data",
            path: self.config.output_dir.join(DATA),
            expected: format!("{}, as in the run that goes on here", text(&before)),
            got: format!("{}; give the same data, or another output_dir", text(now)),
        }
    }

    /// What decides the tokens: the sources with their sizes and times, and how they are cut.
    fn record(&self, data: &[String], raw: bool) -> Value {
        let fingerprint = blake3::Hash::from_bytes(self.tokenizer.fingerprint()).to_hex().to_string();
        let mut record = json!({
            "data": data,
            "stamps": data.iter().map(|entry| stamp(Path::new(entry))).collect::<Vec<_>>(),
            "mode": self.config.to_json()["mode"],
            "context_length": self.context_length,
            "text_field": self.config.text_field,
            "raw": raw,
            "tokenizer": fingerprint,
        });
        record["source"] = json!(self.source_options(raw));
        record["fim"] = json!(self.config.fim());
        record
    }

    fn is_reusable(&self, record_path: &Path, record: &Value) -> bool {
        let Ok(text) = fs::read_to_string(record_path) else { return false };
        let Ok(mut stored) = serde_json::from_str::<Value>(&text) else { return false };
        // A benchmark may have changed unseen, as a folder may.
        if self.config.decontaminate.is_some() && !self.resuming {
            return false;
        }
        let is_known =
            |stamps: &Value| stamps.as_array().is_some_and(|stamps| stamps.iter().all(|s| !s.is_null()));
        if self.resuming || !is_known(&record["stamps"]) {
            // Folders have no stamp: only a resumed run may take them as they were.
            if !self.resuming {
                return false;
            }
            stored["stamps"] = record["stamps"].clone();
            // What the record did not tell of when the run was begun is as it was then.
            for (key, value) in record.as_object().into_iter().flatten() {
                if stored.get(key).is_none() {
                    stored[key] = value.clone();
                }
            }
        }
        // However a path is spelt, it is the same.
        let paths = |record: &Value| -> Vec<PathBuf> {
            let paths = record["data"].as_array().into_iter().flatten().filter_map(Value::as_str);
            paths.map(|path| fs::canonicalize(path).unwrap_or_else(|_| path.into())).collect()
        };
        if paths(&stored) == paths(record) {
            stored["data"] = record["data"].clone();
        }
        stored == *record
    }
}

/// Size and time of a file; null for what is not a file.
fn stamp(path: &Path) -> Value {
    let Ok(metadata) = fs::metadata(path) else { return Value::Null };
    let modified = metadata.modified().ok().and_then(|time| time.duration_since(UNIX_EPOCH).ok());
    match modified {
        Some(time) if metadata.is_file() => json!([metadata.len(), time.as_nanos() as u64]),
        _ => Value::Null,
    }
}

fn remove_if_there(path: &Path) -> Result<(), Error> {
    let removed = if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
    match removed {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(Error::io("remove", path)(error)),
        _ => Ok(()),
    }
}
