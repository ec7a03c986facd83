//! `eyas tokenizer encode` and `decode`: text to ids and back.

use crate::errors::{Failure, Outcome};
use crate::output::Output;
use std::fs::File;
use std::io::{BufRead, BufReader, stdin};
use std::path::{Path, PathBuf};

/// Turn text into ids: one JSON array a document
///
/// A document is a FILE, the whole of stdin, or with --jsonl a line's text field. `<|endoftext|>` in the text becomes
/// its id, as in Hugging Face tokenizers.
#[derive(clap::Args)]
#[command(after_long_help = "\
Examples:
  eyas tokenizer encode --tokenizer DIR < main.rs
  eyas tokenizer encode --tokenizer DIR src/*.rs
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
}

/// Turn ids into text: the reverse of encode
///
/// Reads JSON arrays of ids, one a line, and writes the bytes they stand for, with nothing between documents.
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

    /// Write JSON lines, one document each, in the field `content`
    #[arg(long)]
    jsonl: bool,
}

pub(super) fn encode(args: &EncodeArgs) -> Outcome {
    let tokenizer = super::open(&args.tokenizer)?;
    let mut output = Output::new();
    let mut ids = Vec::new();
    let mut write = |text: &str| {
        ids.clear();
        tokenizer.encode(text, &mut ids)?;
        output.json(&ids)
    };
    each_input(&args.files, &mut |name, input| {
        if args.jsonl {
            return each_line(name, input, &mut |line, text| {
                let row =
                    serde_json::from_str(text).map_err(|error| bad_line(name, line, &error.to_string()))?;
                write(
                    text_of(&row, args.text_field.as_deref())
                        .map_err(|problem| bad_line(name, line, &problem))?,
                )
            });
        }
        let mut bytes = Vec::new();
        input.read_to_end(&mut bytes).map_err(|error| Failure::io("read", Path::new(name), &error))?;
        let text = str::from_utf8(&bytes).map_err(|error| {
            Failure::failed(format!("{name}: byte {}: expected UTF-8 text", error.valid_up_to()))
                .hint("convert the file to UTF-8 first, for example with iconv")
        })?;
        write(text)
    })?;
    output.flush()
}

pub(super) fn decode(args: &DecodeArgs) -> Outcome {
    let tokenizer = super::open(&args.tokenizer)?;
    let mut output = Output::new();
    each_input(&args.files, &mut |name, input| {
        each_line(name, input, &mut |line, text| {
            let ids: Vec<u32> = serde_json::from_str(text).map_err(|error| {
                bad_line(name, line, &format!("expected a JSON array of ids: {error}"))
                    .hint("for example [15, 270, 3]")
            })?;
            let mut bytes = Vec::new();
            tokenizer.decode(&ids, &mut bytes)?;
            match args.jsonl {
                true => output.json(&serde_json::json!({ "content": String::from_utf8_lossy(&bytes) })),
                false => output.bytes(&bytes),
            }
        })
    })?;
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

fn bad_line(name: &str, line: usize, problem: &str) -> Failure {
    Failure::failed(format!("{name}: line {line}: {problem}"))
}

/// Calls `f` with each file, or with stdin where there is none.
fn each_input(files: &[PathBuf], f: &mut dyn FnMut(&str, &mut dyn BufRead) -> Outcome) -> Outcome {
    if files.is_empty() {
        return f("stdin", &mut stdin().lock());
    }
    for path in files {
        let file = File::open(path).map_err(|error| Failure::io("read", path, &error))?;
        f(&path.display().to_string(), &mut BufReader::new(file))?;
    }
    Ok(())
}

/// Calls `f` with each line that is not blank, and its number from 1.
fn each_line(name: &str, input: &mut dyn BufRead, f: &mut dyn FnMut(usize, &str) -> Outcome) -> Outcome {
    for (i, line) in input.lines().enumerate() {
        let line = line.map_err(|error| bad_line(name, i + 1, &format!("cannot read: {error}")))?;
        if !line.trim().is_empty() {
            f(i + 1, &line)?;
        }
    }
    Ok(())
}
