//! What a run leaves in its output folder, read as anybody could.
//!
//! Two finished runs are compared file by file and byte by byte. What depends on the clock is taken out of the files that are
//! known to tell of it: keys of JSON whose names speak of time or speed, and trainer_state.json's hash of itself, which those
//! times go into. TensorBoard's events are left out, since their names and records have times; report.html is for `page`.

use super::error::Error;
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{ErrorKind, Read, Seek, SeekFrom};
use std::path::Path;

pub(crate) const STATE: &str = "trainer_state.json";
const METRICS: &str = "metrics.jsonl";
const VISIBLE: &str = "checkpoint-";
const HIDDEN: &str = ".checkpoint-";

/// The names in a folder; none where there is no folder.
fn names(folder: &Path) -> Result<Vec<String>, Error> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(Error::io("read", folder)(error)),
    };
    let name = |entry: std::io::Result<fs::DirEntry>| Ok(entry?.file_name().to_string_lossy().into_owned());
    let mut names: Vec<String> =
        entries.map(name).collect::<Result<_, _>>().map_err(Error::io("read", folder))?;
    names.sort();
    Ok(names)
}

/// The steps of the checkpoints, oldest first.
pub(crate) fn checkpoints(out: &Path) -> Result<Vec<u64>, Error> {
    let names = names(out)?;
    let mut steps: Vec<u64> =
        names.iter().filter_map(|name| name.strip_prefix(VISIBLE)?.parse().ok()).collect();
    steps.sort_unstable();
    Ok(steps)
}

/// The step of the newest checkpoint; 0 if there is none.
pub(crate) fn newest(out: &Path) -> Result<u64, Error> {
    Ok(checkpoints(out)?.last().copied().unwrap_or(0))
}

/// The step of a checkpoint that is being written, or was when the process died.
pub(crate) fn half_written(out: &Path) -> Result<Option<u64>, Error> {
    let step = |name: &String| name.strip_prefix(HIDDEN)?.strip_suffix(".tmp")?.parse().ok();
    Ok(names(out)?.iter().find_map(step))
}

/// Hidden folders of checkpoints, those that are being removed too.
pub(crate) fn leftovers(out: &Path) -> Result<Vec<String>, Error> {
    Ok(names(out)?.into_iter().filter(|name| name.starts_with(HIDDEN)).collect())
}

/// metrics.jsonl.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Metrics {
    pub(crate) lines: Vec<Map<String, Value>>,
    /// Whether the last line was cut off.
    pub(crate) is_torn: bool,
}

impl Metrics {
    pub(crate) fn read(out: &Path) -> Result<Self, Error> {
        let path = out.join(METRICS);
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Metrics::default()),
            Err(error) => return Err(Error::io("read", &path)(error)),
        };
        let lines: Vec<_> = text.lines().map_while(|line| serde_json::from_str(line).ok()).collect();
        let is_torn = lines.len() < text.lines().count() || !(text.is_empty() || text.ends_with('\n'));
        Ok(Metrics { lines, is_torn })
    }

    /// The lines of updates, with their steps.
    fn updates(&self) -> impl Iterator<Item = (u64, &Map<String, Value>)> {
        let updates = self.lines.iter().filter(|line| line.contains_key("loss"));
        updates.map(|line| (line.get("step").and_then(Value::as_u64).unwrap_or(0), line))
    }

    /// Updates done.
    pub(crate) fn last_step(&self) -> u64 {
        self.updates().last().map_or(0, |(step, _)| step)
    }

    /// The first step up to `step` whose line is not the same here and in `later`, speeds and times included. Updates that
    /// were done anew would have other times, so that none means that they were not.
    pub(crate) fn first_not_kept(&self, step: u64, later: &Metrics) -> Option<u64> {
        let mut then = later.updates();
        let mut kept = self.updates().take_while(|(at, _)| *at <= step);
        kept.find(|(_, line)| then.next().is_none_or(|(_, now)| now != *line)).map(|(at, _)| at)
    }
}

/// Whether the last thing told is an update after which an evaluation every `eval_steps` is due. Reads the end of the file
/// only: it is asked for all the time.
pub(crate) fn is_evaluating(out: &Path, eval_steps: u64) -> bool {
    const TAIL_BYTES: u64 = 1024;
    let tail = || -> std::io::Result<Vec<u8>> {
        let mut file = File::open(out.join(METRICS))?;
        let num_bytes = file.metadata()?.len();
        file.seek(SeekFrom::Start(num_bytes.saturating_sub(TAIL_BYTES)))?;
        let mut tail = Vec::new();
        file.read_to_end(&mut tail)?;
        Ok(tail)
    };
    let tail = tail().unwrap_or_default();
    let last = tail.strip_suffix(b"\n").and_then(|lines| lines.rsplit(|&byte| byte == b'\n').next());
    let line: Option<Value> = last.and_then(|line| serde_json::from_slice(line).ok());
    let step = line.filter(|line| line.get("loss").is_some()).and_then(|line| line["step"].as_u64());
    step.is_some_and(|step| step.is_multiple_of(eval_steps))
}

/// Whether a key tells of time or speed.
fn is_of_the_clock(key: &str) -> bool {
    const WORDS: &[&str] = &[
        "second",
        "seconds",
        "ms",
        "us",
        "ns",
        "minutes",
        "hours",
        "time",
        "times",
        "date",
        "wall",
        "clock",
        "runtime",
        "speed",
        "peak",
        "mfu",
        "utilization",
        "stall",
        "stalls",
        "stalled",
        "waited",
        "waiting",
        "started",
        "ended",
        "updated",
    ];
    key.split('_').any(|word| WORDS.contains(&word))
}

/// A JSON value without what tells of time, speed and the place of the output folder.
pub(crate) fn without_clock(value: Value) -> Value {
    match value {
        Value::Object(map) => {
            // The state's hash of itself is of its times too.
            let is_kept = |key: &str| !is_of_the_clock(key) && !["output_dir", "state_blake3"].contains(&key);
            let kept = map.into_iter().filter(|(key, _)| is_kept(key));
            let place_of = |key: &str, value: &Value| match (key, value.as_str()) {
                ("best_model_checkpoint", Some(path)) => {
                    Path::new(path).file_name().map(|name| name.to_string_lossy().into())
                }
                _ => None,
            };
            let kept = kept.map(|(key, value)| {
                let value = place_of(&key, &value).unwrap_or_else(|| without_clock(value));
                (key, value)
            });
            Value::Object(kept.collect())
        }
        Value::Array(items) => Value::Array(items.into_iter().map(without_clock).collect()),
        other => other,
    }
}

/// A file's content without what depends on the clock.
fn comparable(name: &str, bytes: Vec<u8>) -> Vec<u8> {
    let parsed = |bytes: &[u8]| serde_json::from_slice::<Value>(bytes).map(without_clock);
    match name {
        "run.json" | STATE => match parsed(&bytes) {
            Ok(Value::Object(mut state)) => {
                // Where a state says what else there is, times have gone into the hashes of only two files.
                if let Some(Value::Object(files)) = state.get_mut("files") {
                    files.retain(|file, _| file != "report.html" && file != "run.json");
                }
                format!("{:#}\n", Value::Object(state)).into_bytes()
            }
            _ => bytes,
        },
        METRICS => {
            let lines: Result<Vec<_>, _> = bytes.split_inclusive(|&byte| byte == b'\n').map(parsed).collect();
            lines.map_or(bytes, |lines| {
                lines.iter().map(|line| format!("{line}\n")).collect::<String>().into_bytes()
            })
        }
        _ => bytes,
    }
}

/// All that a finished run is compared by.
pub(crate) struct Left {
    /// Content by path within output_dir.
    files: BTreeMap<String, Vec<u8>>,
    num_checkpoints: usize,
}

impl Left {
    /// Reads the model folder, the data and the newest checkpoint in `out`.
    pub(crate) fn read(out: &Path) -> Result<Self, Error> {
        let steps = checkpoints(out)?;
        let newest = steps.last().map_or(String::new(), |step| format!("{VISIBLE}{step}"));
        let mut files = BTreeMap::new();
        collect(out, "", &mut files, &|path| {
            let top = path.split('/').next().unwrap_or(path);
            let is_old = top.starts_with(VISIBLE) && top != newest;
            !is_old && path != ".lock" && path != "report.html" && !path.contains("tensorboard")
        })?;
        Ok(Left { files, num_checkpoints: steps.len() })
    }

    /// What is not the same in `other`: file, and where it begins to differ.
    pub(crate) fn differences(&self, other: &Left) -> Vec<(String, String)> {
        let mut found = Vec::new();
        for (path, bytes) in &self.files {
            match other.files.get(path) {
                None => found.push((path.clone(), "is missing".into())),
                Some(got) if got != bytes => found.push((path.clone(), first_difference(bytes, got))),
                Some(_) => {}
            }
        }
        let surplus = other.files.keys().filter(|path| !self.files.contains_key(*path));
        found.extend(surplus.map(|path| (path.clone(), "is not there after the uninterrupted run".into())));
        found
    }

    /// How many checkpoints were kept.
    pub(crate) fn num_checkpoints(&self) -> usize {
        self.num_checkpoints
    }

    /// The value of `key` anywhere in the newest checkpoint's state.
    pub(crate) fn find_in_state(&self, key: &str) -> Option<Value> {
        let (_, text) = self.files.iter().find(|(path, _)| path.ends_with(STATE))?;
        find(&serde_json::from_slice(text).ok()?, key)
    }
}

fn find(value: &Value, key: &str) -> Option<Value> {
    match value {
        Value::Object(map) => {
            map.get(key).cloned().or_else(|| map.values().find_map(|value| find(value, key)))
        }
        Value::Array(items) => items.iter().find_map(|value| find(value, key)),
        _ => None,
    }
}

/// Reads the files below `folder`, as far as `is_wanted` says.
fn collect(
    folder: &Path,
    prefix: &str,
    files: &mut BTreeMap<String, Vec<u8>>,
    is_wanted: &dyn Fn(&str) -> bool,
) -> Result<(), Error> {
    for name in names(folder)? {
        let (path, relative) = (folder.join(&name), format!("{prefix}{name}"));
        if !is_wanted(&relative) {
            continue;
        }
        if path.is_dir() {
            collect(&path, &format!("{relative}/"), files, is_wanted)?;
        } else {
            let bytes = fs::read(&path).map_err(Error::io("read", &path))?;
            files.insert(relative, comparable(&name, bytes));
        }
    }
    Ok(())
}

/// Where two texts or byte strings part, in words.
fn first_difference(expected: &[u8], got: &[u8]) -> String {
    let at = expected.iter().zip(got).take_while(|(a, b)| a == b).count();
    let (Ok(a), Ok(b)) = (std::str::from_utf8(expected), std::str::from_utf8(got)) else {
        return format!("differs from byte {at} on, of {} and {}", expected.len(), got.len());
    };
    let line = a.lines().zip(b.lines()).take_while(|(a, b)| a == b).count();
    let text =
        |text: &str| text.lines().nth(line).unwrap_or("nothing").trim().chars().take(300).collect::<String>();
    format!("line {}: expected `{}`, got `{}`", line + 1, text(a), text(b))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn times_are_no_difference_and_all_else_is() {
        let state = |seconds: f64, loss: f64| {
            let value = json!({"eyas": {"elapsed_seconds": seconds}, "log_history": [{"loss": loss}], "state_blake3": seconds.to_string()});
            comparable(STATE, value.to_string().into_bytes())
        };
        assert_eq!(state(1.0, 2.0), state(3.0, 2.0));
        assert_ne!(state(1.0, 2.0), state(1.0, 2.0 + f64::EPSILON * 2.0));
        let best =
            |path: &str| comparable(STATE, json!({"best_model_checkpoint": path}).to_string().into_bytes());
        assert_eq!(best("/whole/out/checkpoint-3"), best("/parts/out/checkpoint-3"));
        assert_ne!(best("/whole/out/checkpoint-3"), best("/whole/out/checkpoint-4"));
        let line =
            |speed: f64| format!("{{\"skipped_updates\": 0, \"tokens_per_second\": {speed}}}\n").into_bytes();
        assert_eq!(comparable(METRICS, line(1.0)), comparable(METRICS, line(2.0)));
        assert_ne!(comparable("other.json", line(1.0)), comparable("other.json", line(2.0)));
        assert!(String::from_utf8(comparable(METRICS, line(1.0))).expect("text").contains("skipped_updates"));
    }

    #[test]
    fn updates_done_anew_are_seen() {
        let metrics = |speeds: &[f64]| Metrics {
            lines: speeds
                .iter()
                .enumerate()
                .filter_map(|(i, speed)| {
                    json!({"step": i + 1, "loss": 1, "speed": speed}).as_object().cloned()
                })
                .collect(),
            is_torn: false,
        };
        let before = metrics(&[1.0, 2.0, 3.0]);
        assert_eq!(before.first_not_kept(2, &metrics(&[1.0, 2.0, 4.0])), None);
        assert_eq!(before.first_not_kept(3, &metrics(&[1.0, 2.0, 4.0])), Some(3));
        assert_eq!(before.first_not_kept(3, &metrics(&[1.0])), Some(2));
        assert_eq!(before.first_not_kept(0, &Metrics::default()), None);
    }

    #[test]
    fn a_key_is_found_wherever_it_is() {
        let value = json!({"a": [1, {"eyas": {"data": {"tokens_digest": "x"}}}]});
        assert_eq!(find(&value, "tokens_digest"), Some(json!("x")));
        assert_eq!(find(&value, "other"), None);
    }
}
