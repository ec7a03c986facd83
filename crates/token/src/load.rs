//! Reads tokenizer.json, or vocab.json with merges.txt, as Hugging Face writes them for byte-level BPE.
//!
//! Refuses every setting that would give other ids than the library gives, naming the field. Settings that cannot
//! change the ids of a text are let through: truncation and padding (transformers sets both at each call),
//! `trim_offsets`, `fuse_unk`. The vocabulary must have the ids 0 to n - 1, each once, and all 256 bytes; nothing is
//! allocated by what an id claims.

use crate::added::AddedToken;
use crate::alphabet;
use crate::error::Error;
use crate::splitter::Splitter;
use crate::tokenizer::{END_OF_TEXT, Parts, Token, Tokenizer};
use serde_json::{Map, Value};
use std::collections::{HashMap, HashSet};
use std::io::Read;
use std::path::Path;

/// No tokenizer of a quarter of a million tokens has a tenth of this.
const LARGEST_BYTES: u64 = 512 << 20;

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
    let root = file.parse()?;
    let root = file.object("the file", &root)?;
    file.expect_one_of(root, "", "version", &[Value::from("1.0"), Value::Null], "\"1.0\"")?;
    file.expect_one_of(root, "", "normalizer", &[Value::Null], "null")?;
    file.expect_byte_level(root, "post_processor", true, "null or ByteLevel")?;
    file.expect_byte_level(root, "decoder", false, "ByteLevel")?;
    let add_prefix_space = file.pre_tokenizer(root)?;
    let model = file.object("model", root.get("model").unwrap_or(&Value::Null))?;
    let ignore_merges = file.model_settings(model)?;
    let vocabulary = Vocabulary::read(file, "model.vocab", model.get("vocab"))?;
    let merges = file.merges(model.get("merges"), &vocabulary)?;
    let added = file.added_tokens(root.get("added_tokens"), &vocabulary)?;
    Ok(Tokenizer::from_parts(Parts {
        tokens: vocabulary.tokens,
        merges,
        added,
        splitter: Splitter { add_prefix_space, ..Splitter::default() },
        ignore_merges,
    }))
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
    let vocabulary = Vocabulary::read(file, "the file", Some(&file.parse()?))?;
    let file = File { path: merges };
    let text = String::from_utf8(file.read()?).map_err(|error| {
        file.invalid("the file", format!("is not UTF-8 at byte {}", error.utf8_error().valid_up_to()))
    })?;
    let mut found = Vec::new();
    for (i, line) in text.lines().enumerate().filter(|(_, line)| !line.starts_with("#version")) {
        let field = || format!("line {}", i + 1);
        let (left, right) = two_tokens(line).ok_or_else(|| file.invalid(field(), bad_merge(line)))?;
        found.push(vocabulary.merge(left, right).map_err(|problem| file.invalid(field(), problem))?);
    }
    let end_of_text = vocabulary.id(END_OF_TEXT).map(|id| AddedToken {
        id,
        content: END_OF_TEXT.into(),
        lstrip: false,
        rstrip: false,
        normalized: false,
        special: true,
    });
    Ok(Tokenizer::from_parts(Parts {
        tokens: vocabulary.tokens,
        merges: last_of_each(found),
        added: end_of_text.into_iter().collect(),
        splitter: Splitter::default(),
        ignore_merges: false,
    }))
}

/// A file being read, for its name in the errors.
#[derive(Clone, Copy)]
struct File<'p> {
    path: &'p Path,
}

impl File<'_> {
    fn invalid(self, field: impl Into<String>, problem: impl Into<String>) -> Error {
        Error::Invalid { path: self.path.into(), field: field.into(), problem: problem.into() }
    }

    fn unsupported(self, field: impl Into<String>, found: &Value, supported: &'static str) -> Error {
        Error::Unsupported { path: self.path.into(), field: field.into(), found: shorten(found), supported }
    }

    fn read(self) -> Result<Vec<u8>, Error> {
        let failed = |source| Error::Read { path: self.path.into(), source };
        let metadata = std::fs::metadata(self.path).map_err(failed)?;
        if !metadata.is_file() {
            return Err(failed(std::io::Error::other("not a regular file")));
        }
        let size = metadata.len();
        if size > LARGEST_BYTES {
            return Err(Error::TooLarge { path: self.path.into(), size, limit: LARGEST_BYTES });
        }
        let mut bytes = Vec::new();
        let file = std::fs::File::open(self.path).map_err(failed)?;
        file.take(LARGEST_BYTES).read_to_end(&mut bytes).map_err(failed)?;
        Ok(bytes)
    }

    fn parse(self) -> Result<Value, Error> {
        serde_json::from_slice(&self.read()?).map_err(|source| Error::Json { path: self.path.into(), source })
    }

    fn object<'v>(self, field: &str, value: &'v Value) -> Result<&'v Map<String, Value>, Error> {
        value
            .as_object()
            .ok_or_else(|| self.invalid(field, format!("expected an object, found {}", shorten(value))))
    }

    /// Checks that a field is one of these; a missing field counts as null.
    fn expect_one_of(
        self,
        object: &Map<String, Value>,
        prefix: &str,
        field: &str,
        accepted: &[Value],
        supported: &'static str,
    ) -> Result<(), Error> {
        let found = object.get(field).unwrap_or(&Value::Null);
        if accepted.contains(found) {
            return Ok(());
        }
        Err(self.unsupported(format!("{prefix}{field}"), found, supported))
    }

    fn expect_byte_level(
        self,
        root: &Map<String, Value>,
        field: &str,
        or_null: bool,
        supported: &'static str,
    ) -> Result<(), Error> {
        let found = root.get(field).unwrap_or(&Value::Null);
        if (or_null && found.is_null()) || found.get("type").is_some_and(|kind| kind == "ByteLevel") {
            return Ok(());
        }
        Err(self.unsupported(field, found, supported))
    }

    /// Returns `add_prefix_space`.
    fn pre_tokenizer(self, root: &Map<String, Value>) -> Result<bool, Error> {
        self.expect_byte_level(
            root,
            "pre_tokenizer",
            false,
            "ByteLevel with use_regex true (GPT-2's split)",
        )?;
        let settings = self.object("pre_tokenizer", &root["pre_tokenizer"])?;
        let accepted = [Value::Bool(true), Value::Null];
        self.expect_one_of(settings, "pre_tokenizer.", "use_regex", &accepted, "true (GPT-2's split)")?;
        self.bool("pre_tokenizer.add_prefix_space", settings.get("add_prefix_space"))
    }

    /// Returns `ignore_merges`.
    fn model_settings(self, model: &Map<String, Value>) -> Result<bool, Error> {
        let (null, off, empty) = (Value::Null, Value::Bool(false), Value::from(""));
        let only_null = std::slice::from_ref(&null);
        let zero = [null.clone(), Value::from(0), Value::from(0.0)];
        let check = |field, accepted: &[Value], supported| {
            self.expect_one_of(model, "model.", field, accepted, supported)
        };
        check("type", &[Value::from("BPE"), null.clone()], "\"BPE\"")?;
        check("dropout", &zero, "null")?;
        check("unk_token", only_null, "null (every byte is a token, so nothing is unknown)")?;
        check("continuing_subword_prefix", &[null.clone(), empty.clone()], "null or \"\"")?;
        check("end_of_word_suffix", &[null.clone(), empty], "null or \"\"")?;
        check("byte_fallback", &[null.clone(), off], "false (every byte is a token)")?;
        match model.get("ignore_merges") {
            None | Some(Value::Null) => Ok(false),
            found => self.bool("model.ignore_merges", found),
        }
    }

    fn bool(self, field: &str, found: Option<&Value>) -> Result<bool, Error> {
        let found = found.unwrap_or(&Value::Null);
        found
            .as_bool()
            .ok_or_else(|| self.invalid(field, format!("expected true or false, found {}", shorten(found))))
    }

    fn merges(self, found: Option<&Value>, vocabulary: &Vocabulary) -> Result<Vec<(u32, u32, u32)>, Error> {
        let list = self.list("model.merges", found)?;
        let mut merges = Vec::with_capacity(list.len());
        for (i, merge) in list.iter().enumerate() {
            let field = || format!("model.merges[{i}]");
            let two = match merge {
                Value::String(line) if line.starts_with("#version") => continue,
                Value::String(line) => two_tokens(line),
                Value::Array(parts) => match &parts[..] {
                    [Value::String(left), Value::String(right)] => Some((&left[..], &right[..])),
                    _ => None,
                },
                _ => None,
            };
            let (left, right) = two.ok_or_else(|| self.invalid(field(), bad_merge(&shorten(merge))))?;
            merges.push(vocabulary.merge(left, right).map_err(|problem| self.invalid(field(), problem))?);
        }
        Ok(last_of_each(merges))
    }

    fn list<'v>(self, field: &str, found: Option<&'v Value>) -> Result<&'v [Value], Error> {
        let found = found.unwrap_or(&Value::Null);
        let list = found.as_array().map(Vec::as_slice);
        list.ok_or_else(|| self.invalid(field, format!("expected a list, found {}", shorten(found))))
    }

    /// The library ignores the ids in the file: a token of the vocabulary has that id, the others follow it in order.
    /// A file that says otherwise is refused rather than read differently than its author meant.
    fn added_tokens(self, found: Option<&Value>, vocabulary: &Vocabulary) -> Result<Vec<AddedToken>, Error> {
        let mut next_id = vocabulary.tokens.len() as u64;
        let mut seen = HashSet::new();
        let mut added = Vec::new();
        let list = if found.is_some() { self.list("added_tokens", found)? } else { &[] };
        for (i, token) in list.iter().enumerate() {
            let field = |name: &str| format!("added_tokens[{i}]{name}");
            let object = self.object(&field(""), token)?;
            let flag = |name: &str| self.bool(&field(&format!(".{name}")), object.get(name));
            let content = object.get("content").and_then(Value::as_str).filter(|content| !content.is_empty());
            let content = content
                .ok_or_else(|| self.invalid(field(".content"), "expected a string that is not empty"))?;
            if !seen.insert(content) {
                return Err(self.invalid(field(".content"), format!("{content:?} was added before")));
            }
            if flag("single_word")? {
                return Err(self.unsupported(field(".single_word"), &Value::Bool(true), "false"));
            }
            let expected = vocabulary.id(content).map_or(next_id, u64::from);
            next_id += u64::from(expected == next_id);
            if object.get("id").and_then(Value::as_u64) != Some(expected) {
                let id = shorten(object.get("id").unwrap_or(&Value::Null));
                let problem =
                    format!("expected {expected}, the id that the library gives {content:?}, found {id}");
                return Err(self.invalid(field(".id"), problem));
            }
            added.push(AddedToken {
                id: u32::try_from(expected)
                    .map_err(|_| self.invalid(field(".id"), "does not fit 32 bits"))?,
                content: content.into(),
                lstrip: flag("lstrip")?,
                rstrip: flag("rstrip")?,
                normalized: flag("normalized")?,
                special: flag("special")?,
            });
        }
        added.sort_by_key(|token| token.id);
        Ok(added)
    }
}

/// The model's vocabulary while merges and added tokens are matched against it.
struct Vocabulary {
    tokens: Vec<Token>,
    ids: HashMap<String, u32>,
}

impl Vocabulary {
    fn read(file: File<'_>, field: &str, found: Option<&Value>) -> Result<Self, Error> {
        let map = file.object(field, found.unwrap_or(&Value::Null))?;
        let mut tokens: Vec<Option<Token>> = vec![None; map.len()];
        let mut ids = HashMap::with_capacity(map.len());
        for (spelling, id) in map {
            let problem = |problem: &str| file.invalid(format!("{field}[{spelling:?}]"), problem);
            let claimed =
                id.as_u64().ok_or_else(|| problem(&format!("expected an id, found {}", shorten(id))))?;
            if spelling.is_empty() {
                return Err(problem("a token without characters"));
            }
            let slot = usize::try_from(claimed).ok().and_then(|id| tokens.get_mut(id)).ok_or_else(|| {
                problem(&format!(
                    "id {claimed} leaves a gap: {} tokens have the ids 0 to {}",
                    map.len(),
                    map.len() - 1
                ))
            })?;
            if let Some(other) = slot {
                return Err(problem(&format!("id {claimed} is also that of {:?}", other.spelling())));
            }
            *slot = Some(Token::new(spelling));
            ids.insert(spelling.clone(), claimed as u32);
        }
        for byte in alphabet::bytes_by_char() {
            let spelling = alphabet::spell(&[byte]);
            if !ids.contains_key(&spelling) {
                let problem =
                    format!("lacks {spelling:?}, the byte {byte:#04x}, which text could then not express");
                return Err(file.invalid(field, problem));
            }
        }
        // As many distinct ids below their number as there are tokens: none is missing.
        Ok(Self { tokens: tokens.into_iter().flatten().collect(), ids })
    }

    fn id(&self, spelling: &str) -> Option<u32> {
        self.ids.get(spelling).copied()
    }

    fn merge(&self, left: &str, right: &str) -> Result<(u32, u32, u32), String> {
        let id = |token: &str| match self.id(token) {
            Some(_) if token.chars().any(|c| alphabet::byte_of(c).is_none()) => {
                Err(format!("{token:?} is not spelled in the byte alphabet"))
            }
            Some(id) => Ok(id),
            None => Err(format!("{token:?} is not in the vocabulary")),
        };
        Ok((id(left)?, id(right)?, id(&format!("{left}{right}"))?))
    }
}

/// A merge listed twice has the later rank, as in the library.
fn last_of_each(merges: Vec<(u32, u32, u32)>) -> Vec<(u32, u32, u32)> {
    let last: HashMap<(u32, u32), usize> =
        merges.iter().enumerate().map(|(rank, &(left, right, _))| ((left, right), rank)).collect();
    let is_last = |&(rank, &(left, right, _)): &(usize, &(u32, u32, u32))| last[&(left, right)] == rank;
    merges.iter().enumerate().filter(is_last).map(|(_, &merge)| merge).collect()
}

fn two_tokens(line: &str) -> Option<(&str, &str)> {
    line.split_once(' ').filter(|(_, right)| !right.contains(' '))
}

fn bad_merge(found: &str) -> String {
    format!("expected two tokens with a space between them, or a list of two, found {found}")
}

/// A value as one short line.
fn shorten(value: &Value) -> String {
    match value {
        Value::Array(list) if list.len() > 4 => format!("a list of {}", list.len()),
        Value::Object(object) if object.len() > 8 => format!("an object of {}", object.len()),
        _ => {
            let text = value.to_string();
            match text.char_indices().nth(120) {
                Some((end, _)) => format!("{}...", &text[..end]),
                None => text,
            }
        }
    }
}
