//! Loads tokenizer.json, or vocab.json with merges.txt.
//!
//! Byte-level BPE of a known kind is read by `byte_level`, everything else by `library`. What neither would give the
//! right ids for is refused, naming file and field.

use crate::added::AddedToken;
use crate::byte_level;
use crate::error::Error;
use crate::file::{File, get};
use crate::library::Library;
use crate::original::Original;
use crate::parts::flatten;
use crate::splitter::Splitter;
use crate::tokenizer::{ByteLevel, END_OF_TEXT, Engine, Parts, Tokenizer};
use crate::vocabulary::{Refusal, Vocabulary};
use serde_json::Value;
use std::path::Path;
use tokenizers::PostProcessorWrapper;

impl Tokenizer {
    /// Loads a folder with tokenizer.json, or with vocab.json and merges.txt, or a tokenizer.json itself.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Read`], [`Error::TooLarge`], [`Error::Json`], [`Error::Unsupported`] and
    /// [`Error::Invalid`].
    pub fn load(path: &Path) -> Result<Self, Error> {
        if !path.is_dir() {
            return from_json(path);
        }
        let (json, vocabulary) = (path.join("tokenizer.json"), path.join("vocab.json"));
        let merges = path.join("merges.txt");
        if json.exists() {
            from_json(&json)
        } else if vocabulary.exists() && merges.exists() {
            from_vocabulary_and_merges(&vocabulary, &merges, &path.join("added_tokens.json"))
        } else {
            Err(Error::NotFound { path: path.into() })
        }
    }
}

fn from_json(path: &Path) -> Result<Tokenizer, Error> {
    let file = File { path };
    let bytes = file.read()?;
    let root = file.parse(&bytes)?;
    let root = file.object("the file", &root)?;
    let version = get(root, "version");
    if !version.is_null() && version != "1.0" {
        return Err(file.unsupported("version", version, "\"1.0\""));
    }
    check_post_processor(file, get(root, "post_processor"))?;
    let engine = match byte_level::read(file, root) {
        Ok(parts) => Engine::ByteLevel(ByteLevel::new(parts)),
        Err(Refusal::Slow(reason)) => Engine::Library(Library::read(file, root, reason)?),
        Err(Refusal::Error(error)) => return Err(error),
    };
    Ok(Tokenizer::new(engine, Some(Original::read(path, bytes)?)))
}

/// It changes no id here, where no special tokens are added, unless a template leaves out a text or repeats it. But a file
/// that other programs cannot load is not one to train with.
fn check_post_processor(file: File<'_>, json: &Value) -> Result<(), Error> {
    for part in flatten(file, "post_processor", json, "processors")? {
        part.build::<PostProcessorWrapper>(file)?;
        if part.kind() == "TemplateProcessing" {
            let pieces = part.json["single"].as_array().map_or(&[][..], Vec::as_slice);
            let mut texts = pieces.iter().filter_map(|piece| piece.get("Sequence"));
            if texts.next().is_none_or(|text| text["id"] != "A") || texts.next().is_some() {
                let field = format!("{}.single", part.field);
                return Err(file.unsupported(field, &part.json["single"], "a template with one Sequence, A"));
            }
        }
    }
    Ok(())
}

/// GPT-2's own pair of files. Its one special token, wherever the vocabulary has it, is `<|endoftext|>`.
fn from_vocabulary_and_merges(vocabulary: &Path, merges: &Path, added: &Path) -> Result<Tokenizer, Error> {
    if added.exists() {
        return Err(Error::Unsupported {
            path: added.into(),
            field: "added_tokens.json beside vocab.json".into(),
            found: "present".into(),
            supported: "a tokenizer.json with its added_tokens; transformers' fast tokenizer saves one",
        });
    }
    let file = File { path: vocabulary };
    let vocabulary = Vocabulary::read(file, "the file", &file.parse(&file.read()?)?);
    let vocabulary = vocabulary.map_err(|refusal| match refusal {
        Refusal::Error(error) => error,
        Refusal::Slow(problem) => file.invalid("the file", problem),
    })?;
    let file = File { path: merges };
    let text = String::from_utf8(file.read()?).map_err(|error| {
        file.invalid("the file", format!("is not UTF-8 at byte {}", error.utf8_error().valid_up_to()))
    })?;
    let merges = vocabulary.merges_of_lines(file, &text)?;
    let end_of_text = vocabulary.id(END_OF_TEXT).map(|id| AddedToken::special(id, END_OF_TEXT));
    Ok(Tokenizer::from_parts(Parts {
        tokens: vocabulary.tokens,
        merges,
        added: end_of_text.into_iter().collect(),
        splitter: Splitter::default(),
        ignore_merges: false,
    }))
}
