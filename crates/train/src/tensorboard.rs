//! Scalars and completions as TensorBoard reads them: one event file in the run's `logging_dir`.
//!
//! The file is TFRecords: length as u64, masked CRC32C of these 8 bytes, an Event as protobuf, masked CRC32C of it; all
//! little-endian. Tags are those of transformers' TensorBoardCallback: `train/loss`, `eval/loss`, ...
//!
//! TensorBoard draws every file of a folder into one curve, so a run that goes on from a checkpoint would show updates that
//! were lost beside those that replaced them. The one trick: like metrics.jsonl the file is begun anew with the whole history,
//! each line at the time it was first written, and then the run's earlier file is removed. Only files of the same run are:
//! their names end in its mark and a process number.

use crate::error::Error;
use crate::event::Sample;
use serde_json::Value;
use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{BufWriter, Read, Write};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

/// Writes an event file.
pub struct TensorBoard {
    path: PathBuf,
    out: BufWriter<File>,
}

/// Whether a line is of training or of an evaluation, and its step: what a line's time is known by.
type Key = (bool, u64);

impl TensorBoard {
    /// Begins a file in `dir`, which is created, with the lines of `history` as metrics.jsonl has them, and removes earlier
    /// files of the same run. `run` is a name that tells the runs of one `dir` apart: the output folder's.
    ///
    /// # Errors
    /// The operating system's; then earlier files stay.
    pub fn create(dir: &Path, run: &str, history: &[Value]) -> Result<Self, Error> {
        fs::create_dir_all(dir).map_err(Error::io("create the folder", dir))?;
        let mark = mark(run);
        let earlier = earlier(dir, &mark)?;
        let mut times = HashMap::new();
        earlier.iter().for_each(|path| read_times(path, &mut times));
        let now = now();
        // Files are read in the order of their names: this one comes last even where a clock went back.
        let seconds = earlier.iter().filter_map(|path| seconds_of(path)).max().map_or(0, |last| last + 1);
        let name = format!("{PREFIX}{:010}{mark}{}", seconds.max(now as u64), std::process::id());
        // TensorBoard takes any file with `tfevents` in its name, so a half-written one must not have it.
        let hidden = dir.join(format!(".{}{mark}tmp", std::process::id()));
        let path = dir.join(name);
        let file = File::create(&hidden).map_err(Error::io("create", &hidden))?;
        let mut writer = TensorBoard { path: hidden.clone(), out: BufWriter::new(file) };
        writer.begin(now)?;
        for line in history {
            let time = key_of(line).and_then(|key| times.get(&key)).copied();
            writer.events_of(line, time.unwrap_or(now))?;
        }
        writer.flush()?;
        fs::rename(&hidden, &path).map_err(Error::io("rename", &hidden))?;
        for path in earlier {
            fs::remove_file(&path).map_err(Error::io("remove", &path))?;
        }
        writer.path = path;
        Ok(writer)
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Writes every number of a line of metrics.jsonl, and makes them visible.
    ///
    /// # Errors
    /// The operating system's.
    pub fn line(&mut self, line: &Value) -> Result<(), Error> {
        self.events_of(line, now())?;
        self.flush()
    }

    /// Writes a number, at the present time. [`TensorBoard::flush`] makes it visible.
    ///
    /// # Errors
    /// The operating system's.
    pub fn scalar(&mut self, step: u64, tag: &str, value: f64) -> Result<(), Error> {
        self.event(now(), step, &summary(&scalar(tag, value as f32)))
    }

    /// Writes completions for the Text tab, and makes them visible. A file that was begun anew has none: on resuming, those
    /// that the run has kept are to be written again.
    ///
    /// # Errors
    /// The operating system's.
    pub fn samples(&mut self, samples: &[Sample]) -> Result<(), Error> {
        for sample in samples {
            // The tab shows Markdown, in which indented lines are code as they are.
            let code: String = format!("{}{}", sample.prompt, sample.completion)
                .split('\n')
                .map(|line| format!("    {line}\n"))
                .collect();
            let title: String =
                sample.prompt.split_whitespace().collect::<Vec<_>>().join(" ").chars().take(40).collect();
            self.event(now(), sample.step, &summary(&text(&format!("samples/{title}"), &code)))?;
        }
        self.flush()
    }

    /// Makes what was written visible.
    ///
    /// # Errors
    /// The operating system's.
    pub fn flush(&mut self) -> Result<(), Error> {
        self.out.flush().map_err(Error::io("write", &self.path))
    }

    /// The version, then a start: a TensorBoard that shows the run already drops what it has from step 0 on.
    fn begin(&mut self, time: f64) -> Result<(), Error> {
        self.event(time, 0, &bytes_field(FILE_VERSION, b"brain.Event:2"))?;
        self.event(time, 0, &bytes_field(SESSION_LOG, &varint_field(1, SESSION_START)))
    }

    fn events_of(&mut self, line: &Value, time: f64) -> Result<(), Error> {
        let Some(step) = line["step"].as_u64() else { return Ok(()) };
        for (key, value) in line.as_object().into_iter().flatten() {
            // null is what was not finite: TensorBoard knows how to show that.
            let value = if value.is_null() { Some(f64::NAN) } else { value.as_f64() };
            let Some(value) = value.filter(|_| key != "step") else { continue };
            self.event(time, step, &summary(&scalar(&tag(key), value as f32)))?;
        }
        Ok(())
    }

    fn event(&mut self, time: f64, step: u64, what: &[u8]) -> Result<(), Error> {
        let mut event = fixed64_field(WALL_TIME, time);
        event.extend(varint_field(STEP, step));
        event.extend(what);
        let record = record(&event);
        self.out.write_all(&record).map_err(Error::io("write", &self.path))
    }
}

/// The tag of a line's key, as transformers makes it.
fn tag(key: &str) -> String {
    let of = |prefix| key.strip_prefix(prefix);
    match (of("eval_"), of("test_")) {
        (Some(name), _) => format!("eval/{name}"),
        (_, Some(name)) => format!("test/{name}"),
        _ => format!("train/{key}"),
    }
}

const PREFIX: &str = "events.out.tfevents.";

/// What names of a run's files have between time and process: where others have the host.
fn mark(run: &str) -> String {
    let plain = |char: char| if char.is_alphanumeric() || char == '-' { char } else { '_' };
    // Names of files have their limit, in bytes.
    let name: String = run
        .chars()
        .map(plain)
        .scan(0, |length, char| {
            *length += char.len_utf8();
            (*length <= 120).then_some(char)
        })
        .collect();
    format!(".eyas-{name}.")
}

/// The run's event files in `dir`, by time.
fn earlier(dir: &Path, mark: &str) -> Result<Vec<PathBuf>, Error> {
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let is_ours = |name: &str| {
        let parts = name.strip_prefix(PREFIX).and_then(|rest| rest.split_once(mark));
        parts.is_some_and(|(seconds, process)| is_number(seconds) && is_number(process))
    };
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).map_err(Error::io("read", dir))? {
        let entry = entry.map_err(Error::io("read", dir))?;
        if entry.file_name().to_str().is_some_and(is_ours) {
            found.push(entry.path());
        }
    }
    found.sort();
    Ok(found)
}

fn seconds_of(path: &Path) -> Option<u64> {
    path.file_name()?.to_str()?.strip_prefix(PREFIX)?.split('.').next()?.parse().ok()
}

fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |time| time.as_secs_f64())
}

fn key_of(line: &Value) -> Option<Key> {
    let is_eval = line.as_object()?.keys().any(|key| key.starts_with("eval_"));
    Some((is_eval, line["step"].as_u64()?))
}

// Numbers of fields: tensorflow/core/util/event.proto, framework/summary.proto, framework/tensor.proto.
const WALL_TIME: u64 = 1;
const STEP: u64 = 2;
const FILE_VERSION: u64 = 3;
const SUMMARY: u64 = 5;
const SESSION_LOG: u64 = 7;
const SESSION_START: u64 = 1;
const SUMMARY_VALUE: u64 = 1;
const TAG: u64 = 1;
const SIMPLE_VALUE: u64 = 2;
const TENSOR: u64 = 8;
const METADATA: u64 = 9;

/// Kinds of fields on the wire.
const VARINT: u64 = 0;
const FIXED64: u64 = 1;
const BYTES: u64 = 2;
const FIXED32: u64 = 5;

fn summary(value: &[u8]) -> Vec<u8> {
    bytes_field(SUMMARY, &bytes_field(SUMMARY_VALUE, value))
}

fn scalar(tag: &str, value: f32) -> Vec<u8> {
    let mut field = bytes_field(TAG, tag.as_bytes());
    field.extend(varint(SIMPLE_VALUE << 3 | FIXED32));
    field.extend(value.to_le_bytes());
    field
}

/// A tensor of one string, for the plugin `text`.
fn text(tag: &str, text: &str) -> Vec<u8> {
    const STRING: u64 = 7;
    let mut field = bytes_field(TAG, tag.as_bytes());
    let mut tensor = varint_field(1, STRING);
    tensor.extend(bytes_field(2, &bytes_field(2, &varint_field(1, 1))));
    tensor.extend(bytes_field(8, text.as_bytes()));
    field.extend(bytes_field(TENSOR, &tensor));
    field.extend(bytes_field(METADATA, &bytes_field(1, &bytes_field(1, b"text"))));
    field
}

fn varint(mut number: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    while number >= 0x80 {
        bytes.push(number as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
    bytes
}

fn varint_field(field: u64, number: u64) -> Vec<u8> {
    [varint(field << 3 | VARINT), varint(number)].concat()
}

fn fixed64_field(field: u64, number: f64) -> Vec<u8> {
    [varint(field << 3 | FIXED64), number.to_le_bytes().to_vec()].concat()
}

fn bytes_field(field: u64, bytes: &[u8]) -> Vec<u8> {
    [varint(field << 3 | BYTES), varint(bytes.len() as u64), bytes.to_vec()].concat()
}

fn record(data: &[u8]) -> Vec<u8> {
    let length = (data.len() as u64).to_le_bytes();
    [&length[..], &masked_crc(&length).to_le_bytes(), data, &masked_crc(data).to_le_bytes()].concat()
}

/// CRC32C, turned and shifted so that a checksum of data that hold checksums is not special.
fn masked_crc(data: &[u8]) -> u32 {
    crc32c::crc32c(data).rotate_right(15).wrapping_add(0xa282_ead8)
}

/// The times of the lines of a file of ours, as far as it is whole: what does not fit is no reason not to go on.
fn read_times(path: &Path, times: &mut HashMap<Key, f64>) {
    let Ok(mut file) = File::open(path).map(std::io::BufReader::new) else { return };
    let (mut head, mut data) = ([0; 12], Vec::new());
    while file.read_exact(&mut head).is_ok() {
        let (length, crc) = head.split_at(8);
        let length = u64::from_le_bytes(length.try_into().unwrap_or_default());
        // Only our own records are short; a damaged length would ask for all memory.
        if masked_crc(&head[..8]).to_le_bytes() != *crc || length > 1 << 24 {
            return;
        }
        data.resize(length as usize + 4, 0);
        if file.read_exact(&mut data).is_err() {
            return;
        }
        if let Some((time, step, tag)) = decode(&data[..length as usize]) {
            times.entry((tag.starts_with("eval/"), step)).or_insert(time);
        }
    }
}

/// Time, step and tag of an event with a summary.
fn decode(event: &[u8]) -> Option<(f64, u64, String)> {
    let (mut time, mut step, mut tag) = (None, 0, None);
    for (field, value) in fields(event) {
        match (field, value) {
            (WALL_TIME, Field::Fixed(bytes)) => time = Some(f64::from_le_bytes(bytes.try_into().ok()?)),
            (STEP, Field::Number(number)) => step = number,
            (SUMMARY, Field::Bytes(summary)) => {
                let value = fields(summary).find_map(|field| match field {
                    (SUMMARY_VALUE, Field::Bytes(value)) => Some(value),
                    _ => None,
                })?;
                tag = fields(value).find_map(|field| match field {
                    (TAG, Field::Bytes(tag)) => Some(String::from_utf8_lossy(tag).into_owned()),
                    _ => None,
                });
            }
            _ => {}
        }
    }
    Some((time?, step, tag?))
}

/// The value of a field.
#[derive(Debug, PartialEq)]
enum Field<'a> {
    Number(u64),
    Fixed(&'a [u8]),
    Bytes(&'a [u8]),
}

/// The fields of a message, until its end or what is none.
fn fields(mut message: &[u8]) -> impl Iterator<Item = (u64, Field<'_>)> {
    std::iter::from_fn(move || {
        let key = read_varint(&mut message)?;
        let mut take = |length: u64| message.split_off(..usize::try_from(length).ok()?);
        let value = match key & 7 {
            VARINT => Field::Number(read_varint(&mut message)?),
            FIXED64 => Field::Fixed(take(8)?),
            FIXED32 => Field::Fixed(take(4)?),
            BYTES => {
                let length = read_varint(&mut message)?;
                Field::Bytes(message.split_off(..usize::try_from(length).ok()?)?)
            }
            _ => return None,
        };
        Some((key >> 3, value))
    })
}

fn read_varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut number = 0;
    for shift in (0..64).step_by(7) {
        let byte = *bytes.split_off_first()?;
        number |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Some(number);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// Every event of a file, with its checksums checked: time, step, tag and the bytes of its value.
    fn events(path: &Path) -> Vec<(f64, u64, String, Vec<u8>)> {
        let bytes = fs::read(path).expect("a file");
        let mut rest = &bytes[..];
        let mut found = Vec::new();
        while !rest.is_empty() {
            let length = rest.split_off(..8).expect("a length");
            let crc = rest.split_off(..4).expect("its checksum");
            assert_eq!(crc, masked_crc(length).to_le_bytes());
            let length = u64::from_le_bytes(length.try_into().expect("8 bytes")) as usize;
            let data = rest.split_off(..length).expect("data");
            assert_eq!(rest.split_off(..4).expect("their checksum"), masked_crc(data).to_le_bytes());
            let Some((time, step, tag)) = decode(data) else { continue };
            let Some((_, Field::Bytes(summary))) = fields(data).find(|(field, _)| *field == SUMMARY) else {
                continue;
            };
            let Some((_, Field::Bytes(value))) = fields(summary).next() else { continue };
            let value = fields(value).find_map(|field| match field {
                (SIMPLE_VALUE, Field::Fixed(bytes)) | (TENSOR, Field::Bytes(bytes)) => Some(bytes.to_vec()),
                _ => None,
            });
            found.push((time, step, tag, value.expect("a value")));
        }
        found
    }

    fn files(dir: &Path) -> Vec<String> {
        let read = fs::read_dir(dir).expect("a folder");
        let mut names: Vec<_> =
            read.map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }

    #[test]
    fn the_bytes_are_those_of_tensorflow() {
        // Made with the protobufs and the RecordWriter of Python's `tensorboard` 2.21.
        let mut event = fixed64_field(WALL_TIME, 1.0);
        event.extend(bytes_field(FILE_VERSION, b"brain.Event:2"));
        let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        assert_eq!(hex(&record(&event)), GOLDEN_VERSION);
        let mut event = fixed64_field(WALL_TIME, 1.5);
        event.extend(varint_field(STEP, 300));
        event.extend(summary(&scalar("train/loss", 2.5)));
        assert_eq!(hex(&record(&event)), GOLDEN_SCALAR);
        let mut event = fixed64_field(WALL_TIME, 1.5);
        event.extend(varint_field(STEP, 300));
        event.extend(summary(&text("samples/def", "    def f():")));
        assert_eq!(hex(&record(&event)), GOLDEN_TEXT);
    }

    const GOLDEN_VERSION: &str =
        "1800000000000000a37f4b2209000000000000f03f1a0d627261696e2e4576656e743a3286bf577a";
    const GOLDEN_SCALAR: &str =
        "2100000000000000017becf609000000000000f83f10ac022a130a110a0a747261696e2f6c6f73731500002040b4ca3a3b";
    const GOLDEN_TEXT: &str = "3f000000000000005165766109000000000000f83f10ac022a310a2f0a0b73616d706c65732f64656642160807120412020801420c20202020646566206628293a4a080a060a047465787487066699";

    #[test]
    fn a_line_becomes_a_scalar_a_number() {
        let dir = tempfile::tempdir().expect("a folder");
        let mut board = TensorBoard::create(dir.path(), "run", &[]).expect("created");
        board.line(&json!({"step": 10, "epoch": 0.5, "loss": 3.25, "grad_norm": null})).expect("written");
        board
            .line(&json!({"step": 10, "epoch": 0.5, "eval_loss": 3.5, "eval_perplexity": 33.0}))
            .expect("written");
        board.line(&json!({"train_loss": 3.0})).expect("no step, no scalar");
        board.scalar(11, "train/loss", 3.0).expect("written");
        let sample = Sample { step: 10, prompt: "def f():\n".into(), completion: "return 1".into() };
        board.samples(&[sample]).expect("written");
        let events = events(board.path());
        let tags: Vec<_> = events.iter().map(|event| (event.1, event.2.as_str())).collect();
        assert_eq!(
            tags,
            [
                (10, "train/epoch"),
                (10, "train/loss"),
                (10, "train/grad_norm"),
                (10, "train/epoch"),
                (10, "eval/loss"),
                (10, "eval/perplexity"),
                (11, "train/loss"),
                (10, "samples/def f():"),
            ]
        );
        assert_eq!(events[1].3, 3.25_f32.to_le_bytes());
        assert!(f32::from_le_bytes(events[2].3.clone().try_into().expect("4 bytes")).is_nan());
        assert!(String::from_utf8_lossy(&events[7].3).contains("    def f():\n    return 1\n"));
        assert!(events.iter().all(|event| (event.0 - now()).abs() < 60.0));
    }

    #[test]
    fn a_resumed_run_shows_no_lost_updates_and_keeps_its_times() {
        let dir = tempfile::tempdir().expect("a folder");
        let line = |step: u64, loss: f64| json!({"step": step, "loss": loss});
        fs::write(dir.path().join("events.out.tfevents.1700000000.host.7"), "somebody's").expect("written");
        drop(TensorBoard::create(dir.path(), "other", &[line(1, 9.0)]).expect("created"));
        let mut first = TensorBoard::create(dir.path(), "a run", &[]).expect("created");
        first.event(1000.25, 1, &summary(&scalar("train/loss", 3.0))).expect("written");
        first.event(1001.25, 2, &summary(&scalar("train/loss", 2.0))).expect("written");
        first.flush().expect("flushed");
        // As a killed process leaves it.
        let torn = [fs::read(first.path()).expect("read"), vec![9; 30]].concat();
        fs::write(first.path(), torn).expect("torn");
        let old = first.path().to_path_buf();
        let mut second = TensorBoard::create(dir.path(), "a run", &[line(1, 3.0)]).expect("created");
        second.line(&line(2, 1.5)).expect("written");
        assert!(!old.exists() && second.path() > old.as_path());
        let events = events(second.path());
        assert_eq!(events.len(), 2);
        assert_eq!((events[0].0, events[0].1), (1000.25, 1));
        assert_eq!((events[1].1, &events[1].3[..]), (2, &1.5_f32.to_le_bytes()[..]));
        assert!((events[1].0 - now()).abs() < 60.0);
        let names = files(dir.path());
        assert_eq!(names.len(), 3, "{names:?}");
        assert!(
            names.iter().any(|name| name.contains(".host."))
                && names.iter().any(|name| name.contains(".eyas-other."))
        );
    }

    #[test]
    fn names_of_runs_make_names_of_files() {
        assert_eq!(mark("a/b c.d"), ".eyas-a_b_c_d.");
        assert!(mark(&"🦅é".repeat(200)).len() <= 128);
        for (key, expected) in
            [("loss", "train/loss"), ("eval_loss", "eval/loss"), ("test_loss", "test/loss")]
        {
            assert_eq!(tag(key), expected);
        }
    }
}
