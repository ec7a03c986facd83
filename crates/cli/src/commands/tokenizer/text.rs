//! `eyas tokenizer encode` and `decode`: text to ids and back.
//!
//! Documents are encoded on all cores and written in order. A document is held whole, and so are its ids: where a text can
//! be cut without changing an id depends on what follows. A stream of any number of documents takes little memory.

use super::in_order::in_order;
use crate::errors::{Failure, Outcome};
use crate::output::Output;
use eyas_token::Tokenizer;
use serde_json::json;
use std::fs::File;
use std::io::{BufRead, BufReader, stdin};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Turn text into ids: one JSON array a document
///
/// A document is a FILE, the whole of stdin, or with --jsonl a line's text field. Special tokens in the text, such as
/// `<|endoftext|>`, become their ids, as in Hugging Face tokenizers.
#[derive(clap::Args)]
#[command(after_long_help = "\
Examples:
  eyas tokenizer encode --tokenizer DIR < main.rs
  eyas tokenizer encode --tokenizer DIR --json src/*.rs
  eyas tokenizer encode --tokenizer DIR --jsonl train.jsonl > ids.jsonl")]
pub(crate) struct EncodeArgs {
    /// Folder with tokenizer.json (or vocab.json and merges.txt), or a tokenizer.json
    #[arg(long, value_name = "DIR")]
    tokenizer: PathBuf,

    /// Files to encode [default: stdin]
    files: Vec<PathBuf>,

    /// The input is JSON lines: encode the text field of each
    #[arg(long)]
    jsonl: bool,

    /// Field of the text, with --jsonl [default: `content`, then `text`]
    #[arg(long, value_name = "NAME", requires = "jsonl")]
    text_field: Option<String>,

    /// One JSON object a document: file, line (with --jsonl), num_bytes, ids
    #[arg(long)]
    json: bool,

    /// What to do with input that is not UTF-8
    #[arg(long, value_name = "HOW", value_enum, default_value_t = NonUtf8::Error, conflicts_with = "jsonl")]
    non_utf8: NonUtf8,
}

#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum NonUtf8 {
    /// Refuse it, with the offset of the first wrong byte
    Error,
    /// Each wrong byte is the token of that byte, and what lies between them is text: decode gives the same bytes
    Bytes,
}

/// Turn ids into text: the reverse of encode
///
/// Reads JSON arrays of ids, or objects with `ids`, one a line, and writes the bytes they stand for, with nothing between
/// documents.
#[derive(clap::Args)]
#[command(after_long_help = "\
Examples:
  echo '[15, 270, 3]' | eyas tokenizer decode --tokenizer DIR
  eyas tokenizer encode --tokenizer DIR < main.rs | eyas tokenizer decode --tokenizer DIR | diff - main.rs")]
pub(crate) struct DecodeArgs {
    /// Folder with tokenizer.json (or vocab.json and merges.txt), or a tokenizer.json
    #[arg(long, value_name = "DIR")]
    tokenizer: PathBuf,

    /// Files with ids [default: stdin]
    files: Vec<PathBuf>,

    /// One JSON object a document, the text in the field `content`; bytes that are not UTF-8 become U+FFFD
    #[arg(long, visible_alias = "jsonl")]
    json: bool,
}

/// Input that a worker gets at once.
const BATCH_BYTES: usize = 1 << 19;

/// A document or a line, and where it comes from.
struct Item {
    name: Arc<str>,
    /// From 1, of JSON lines.
    line: Option<usize>,
    bytes: Vec<u8>,
}

/// Items on their way to a worker.
type Batch = Vec<Item>;

pub(super) fn encode(args: &EncodeArgs) -> Outcome {
    let tokenizer = super::open(&args.tokenizer)?;
    let mut output = Output::new();
    in_order(
        eyas_ops::available_threads(),
        |send| {
            let (mut batch, mut num_bytes) = (Batch::new(), 0);
            let mut push = |item: Item| {
                num_bytes += item.bytes.len() + 64;
                batch.push(item);
                if num_bytes < BATCH_BYTES {
                    return true;
                }
                num_bytes = 0;
                send(std::mem::take(&mut batch))
            };
            let read = each_input(&args.files, &mut |name, input| match args.jsonl {
                true => each_line(name, input, &mut push),
                false => read_whole(name, input).map(&mut push),
            });
            send(batch);
            read.map(|_| ())
        },
        |batch| encode_batch(args, &tokenizer, &batch),
        |text| output.bytes(&text),
    )?;
    output.flush()
}

fn read_whole(name: &Arc<str>, input: &mut dyn BufRead) -> Outcome<Item> {
    let mut bytes = Vec::new();
    input.read_to_end(&mut bytes).map_err(|error| Failure::io("read", Path::new(&**name), &error))?;
    Ok(Item { name: name.clone(), line: None, bytes })
}

/// The output for a few items.
fn encode_batch(args: &EncodeArgs, tokenizer: &Tokenizer, batch: &[Item]) -> Outcome<Vec<u8>> {
    let (mut ids, mut output) = (Vec::new(), Vec::new());
    for item in batch {
        ids.clear();
        let row;
        let bytes = match item.line {
            Some(_) => {
                row = serde_json::from_slice(&item.bytes).map_err(|error| item.failure(error))?;
                let text = text_of(&row, args.text_field.as_deref());
                text.map_err(|problem| item.failure(problem))?.as_bytes()
            }
            None => &item.bytes,
        };
        match str::from_utf8(bytes) {
            Ok(text) => tokenizer.encode(text, &mut ids),
            Err(_) if args.non_utf8 == NonUtf8::Bytes => tokenizer.encode_bytes(bytes, &mut ids),
            Err(error) => {
                return Err(item.failure(format!("byte {}: expected UTF-8 text", error.valid_up_to())).hint(
                    "convert it first, for example with iconv, or encode it as it is with --non-utf8 bytes",
                ));
            }
        }
        .map_err(|error| Failure::from(error).in_file(Path::new(&item.place())))?;
        let written = match args.json {
            false => serde_json::to_writer(&mut output, &ids),
            true => serde_json::to_writer(&mut output, &item.object(bytes.len(), &ids)),
        };
        written.map_err(|error| item.failure(error))?;
        output.push(b'\n');
    }
    Ok(output)
}

impl Item {
    fn place(&self) -> String {
        match self.line {
            Some(line) => format!("{}: line {line}", self.name),
            None => self.name.to_string(),
        }
    }

    fn failure(&self, problem: impl std::fmt::Display) -> Failure {
        Failure::failed(format!("{}: {problem}", self.place()))
    }

    fn object(&self, num_bytes: usize, ids: &[u32]) -> serde_json::Value {
        match self.line {
            Some(line) => json!({"file": &*self.name, "line": line, "num_bytes": num_bytes, "ids": ids}),
            None => json!({"file": &*self.name, "num_bytes": num_bytes, "ids": ids}),
        }
    }
}

/// A document of ids, as `encode` writes it.
#[derive(serde::Deserialize)]
#[serde(untagged, expecting = "expected a JSON array of ids, or an object with `ids`")]
enum Ids {
    Array(Vec<u32>),
    Object { ids: Vec<u32> },
}

pub(super) fn decode(args: &DecodeArgs) -> Outcome {
    let tokenizer = super::open(&args.tokenizer)?;
    let (mut output, mut bytes) = (Output::new(), Vec::new());
    let mut decode = |item: &Item| {
        let ids = serde_json::from_slice(&item.bytes);
        let (Ids::Array(ids) | Ids::Object { ids }) =
            ids.map_err(|error| item.failure(error).hint("for example [15, 270, 3]"))?;
        bytes.clear();
        tokenizer
            .decode(&ids, &mut bytes)
            .map_err(|error| Failure::from(error).in_file(Path::new(&item.place())))?;
        match args.json {
            true => output.json(&json!({ "content": String::from_utf8_lossy(&bytes) })),
            false => output.bytes(&bytes),
        }
    };
    let mut decoded = Ok(());
    each_input(&args.files, &mut |name, input| {
        each_line(name, input, &mut |item| {
            decoded = decode(&item);
            decoded.is_ok()
        })
    })?;
    decoded?;
    output.flush()
}

/// The text of a row: the field asked for, else `content`, else `text`.
fn text_of<'a>(row: &'a serde_json::Value, field: Option<&str>) -> Result<&'a str, String> {
    let found = match field {
        Some(name) => row.get(name).map(|value| (name, value)),
        None => ["content", "text"].into_iter().find_map(|name| row.get(name).map(|value| (name, value))),
    };
    match found {
        Some((name, value)) => value.as_str().ok_or_else(|| format!("`{name}` is not text")),
        None => Err(format!("no field `{}`", field.unwrap_or("content` or `text"))),
    }
}

/// Takes an input and its name, and says whether to go on.
type EachInput<'f> = dyn FnMut(&Arc<str>, &mut dyn BufRead) -> Outcome<bool> + 'f;

/// Calls `f` with each file, or with stdin where there is none, until it returns false.
fn each_input(files: &[PathBuf], f: &mut EachInput<'_>) -> Outcome<bool> {
    if files.is_empty() {
        return f(&"stdin".into(), &mut stdin().lock());
    }
    for path in files {
        let file = File::open(path).map_err(|error| Failure::io("read", path, &error))?;
        if !f(&path.display().to_string().into(), &mut BufReader::new(file))? {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Calls `f` with each line that is not blank, until it returns false.
fn each_line(name: &Arc<str>, input: &mut dyn BufRead, f: &mut dyn FnMut(Item) -> bool) -> Outcome<bool> {
    for line in 1.. {
        let mut item = Item { name: name.clone(), line: Some(line), bytes: Vec::new() };
        let read = input.read_until(b'\n', &mut item.bytes);
        if read.map_err(|error| item.failure(format!("cannot read: {error}")))? == 0 {
            break;
        }
        if !item.bytes.trim_ascii().is_empty() && !f(item) {
            return Ok(false);
        }
    }
    Ok(true)
}
