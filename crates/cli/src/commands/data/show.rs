//! `eyas data show`: documents and samples as a person wants to see them.

use super::{ShowArgs, same_tokenizer};
use crate::commands::tokenizer;
use crate::errors::{Failure, Outcome};
use crate::format;
use crate::output::{Output, note};
use eyas_data::{Documents, Loader, Mode, Shards, is_shards};
use eyas_token::Tokenizer;
use std::io::{self, IsTerminal};
use std::path::Path;
use std::sync::Arc;

pub(super) fn show(args: &ShowArgs) -> Outcome {
    let tokenizer = args.tokenizer.as_deref().map(tokenizer::open).transpose()?;
    if is_shards(Path::new(&args.data)) {
        let hint = "add --tokenizer DIR, the tokenizer it was prepared with";
        let tokenizer = tokenizer
            .ok_or_else(|| Failure::usage(format!("{} holds token ids, not text", args.data)).hint(hint))?;
        return show_shards(args, tokenizer);
    }
    let mut output = Output::new();
    let options = args.source.options()?;
    // As `data prepare` encodes it.
    let encode = |tokenizer: &Tokenizer, text: &str| -> Outcome<Vec<u32>> {
        let mut ids = Vec::new();
        match options.raw {
            true => tokenizer.encode(text, &mut ids)?,
            false => tokenizer.encode_ordinary(text, &mut ids)?,
        }
        Ok(ids)
    };
    let mut documents = Documents::open(std::slice::from_ref(&args.data), &options)?;
    documents.notes().iter().for_each(note);
    for _ in 0..args.number {
        let Some(document) = documents.next().transpose()? else { break };
        let (bytes, lines) = (document.text.len() as u64, document.text.lines().count() as u64);
        let mut facts = format!("{}, {} lines", format::bytes(bytes), format::count(lines));
        if let Some(tokenizer) = &tokenizer {
            let ids = encode(tokenizer, &document.text)?;
            let each = bytes as f64 / ids.len().max(1) as f64;
            facts += &format!(", {} tokens ({each:.2} bytes each)", format::count(ids.len() as u64));
        }
        output.line(format_args!("── {} ── {facts}", document.path))?;
        match tokenizer.as_ref().filter(|_| args.tokens) {
            Some(tokenizer) => {
                let ids = encode(tokenizer, &document.text)?;
                output.line(visible(&ids, tokenizer, has_colour()))?;
            }
            None => output.line(document.text.trim_end_matches('\n'))?,
        }
        output.line("")?;
    }
    output.flush()
}

fn show_shards(args: &ShowArgs, tokenizer: Tokenizer) -> Outcome {
    let shards = Arc::new(Shards::open(Path::new(&args.data))?);
    same_tokenizer(&shards, Path::new(&args.data), &tokenizer)?;
    let (context_length, mode) = (shards.context_length(), shards.mode());
    let (tokens, documents) = (format::count(shards.num_tokens()), format::count(shards.num_documents()));
    let how = if mode == Mode::Chunk { "chunks" } else { "one stream, samples" };
    note(format_args!("{tokens} tokens of {documents} documents, {how} of {context_length}"));
    let loader = Loader::new(shards, context_length, 0, false)?;
    let (mut inputs, mut targets) = (vec![0; context_length], vec![0; context_length]);
    let mut output = Output::new();
    for position in 0..args.number.min(loader.num_samples()) {
        loader.sample(0, position, &mut inputs, &mut targets);
        output.line(format_args!(
            "── sample {} of {} ──",
            position + 1,
            format::count(loader.num_samples())
        ))?;
        match args.tokens {
            true => output.line(visible(&inputs, &tokenizer, has_colour()))?,
            false => output.line(tokenizer.decode_lossy(&inputs, false))?,
        }
    }
    output.flush()
}

fn has_colour() -> bool {
    io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// A text with its tokens told apart: by two backgrounds in turn, special tokens by a third, or by bars between them. Bytes
/// that are no whole character are written `\xe2`.
fn visible(ids: &[u32], tokenizer: &Tokenizer, has_colour: bool) -> String {
    let mut text = String::new();
    for (i, id) in ids.iter().enumerate() {
        let bytes = tokenizer.token_bytes(*id).unwrap_or_default();
        let piece: String = bytes
            .utf8_chunks()
            .flat_map(|chunk| {
                let invalid: String = chunk.invalid().iter().map(|byte| format!("\\x{byte:02x}")).collect();
                [chunk.valid().to_owned(), invalid]
            })
            .collect();
        if !has_colour {
            text += if i > 0 { "│" } else { "" };
            text += &piece;
            continue;
        }
        let colour = match (tokenizer.is_special(*id), i % 2) {
            (true, _) => "\x1b[30;43m",
            (false, 0) => "\x1b[48;5;236m",
            _ => "\x1b[48;5;240m",
        };
        // A background that goes on over a line's end fills the rest of the line on some terminals.
        for (j, line) in piece.split('\n').enumerate() {
            text += if j > 0 { "⏎\x1b[0m\n" } else { "" };
            text += colour;
            text += line;
        }
        text += "\x1b[0m";
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use eyas_token::{TrainOptions, WordCounts, train};

    #[test]
    fn tokens_are_told_apart() {
        let mut counts = WordCounts::new();
        counts.add("import os\nimport sys\n");
        let options = TrainOptions { vocab_size: 262, ..Default::default() };
        let tokenizer = train(counts, &options, &mut |_, _| {}).expect("a tokenizer");
        let mut ids = Vec::new();
        tokenizer.encode("import é", &mut ids).expect("encoded");
        let plain = visible(&ids, &tokenizer, false);
        assert!(plain.contains('│') && plain.ends_with("\\xc3│\\xa9"), "{plain}");
        assert_eq!(plain.replace('│', ""), "import \\xc3\\xa9");
        let coloured = visible(&ids, &tokenizer, true);
        assert!(coloured.starts_with("\x1b[48;5;236m") && coloured.ends_with("\x1b[0m"));
    }
}
