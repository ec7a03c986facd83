//! Which tokenizer.json has a fast path: byte-level BPE that cuts text by one of [`Pattern`]'s expressions.
//!
//! Everything else is left to the library, with the reason. Settings that cannot change ids are let through:
//! truncation and padding (transformers sets both at each call), post-processors (they add special tokens, which is
//! for the caller to do here), `trim_offsets`, `fuse_unk`.

use crate::added::AddedToken;
use crate::error::Error;
use crate::file::{File, get, kind, shorten};
use crate::normalizer::Normalizer;
use crate::pipeline::known;
use crate::split::Pattern;
use crate::splitter::Splitter;
use crate::tokenizer::Parts;
use crate::vocabulary::{Refusal, Vocabulary};
use serde_json::{Map, Value};
use std::collections::HashSet;

/// Reads a tokenizer.json as byte-level BPE.
pub(crate) fn read(file: File<'_>, root: &Map<String, Value>) -> Result<Parts, Refusal> {
    let model = file.object("model", get(root, "model"))?;
    let ignore_merges = model_settings(file, model)?;
    if kind(get(root, "decoder")) != Some("ByteLevel") {
        return slow("decoder", get(root, "decoder"), "ByteLevel");
    }
    let (pattern, add_prefix_space) = pre_tokenizer(file, get(root, "pre_tokenizer"))?;
    let normalizer = Normalizer::read(file, get(root, "normalizer"))?;
    let vocabulary = Vocabulary::read(file, "model.vocab", get(model, "vocab"))?;
    let merges = vocabulary.merges(file, get(model, "merges"))?;
    let added = added_tokens(file, get(root, "added_tokens"), &vocabulary, normalizer.as_ref())?;
    let splitter = Splitter { normalizer, add_prefix_space, pattern };
    Ok(Parts { tokens: vocabulary.tokens, merges, added, splitter, ignore_merges })
}

fn slow<T>(field: &str, found: &Value, fast: &str) -> Result<T, Refusal> {
    Err(Refusal::Slow(format!("{field} is {}, not {fast}", shorten(found))))
}

/// Returns `ignore_merges`.
fn model_settings(file: File<'_>, model: &Map<String, Value>) -> Result<bool, Refusal> {
    match get(model, "type") {
        Value::Null => {}
        name => match file.text("model.type", name)? {
            "BPE" => {}
            "Unigram" | "WordPiece" | "WordLevel" => return slow("model.type", name, "\"BPE\""),
            _ => {
                let known = "\"BPE\", \"Unigram\", \"WordPiece\" or \"WordLevel\"";
                return Err(file.unsupported("model.type", name, known).into());
            }
        },
    }
    let dropout = get(model, "dropout");
    if !dropout.is_null() && dropout.as_f64() != Some(0.0) {
        // Not for the library either: a text would have other ids each time.
        return Err(file.unsupported("model.dropout", dropout, "null (ids would be random)").into());
    }
    let unknown = get(model, "unk_token");
    if !unknown.is_null() {
        file.text("model.unk_token", unknown)?;
        return slow("model.unk_token", unknown, "null");
    }
    for field in ["continuing_subword_prefix", "end_of_word_suffix"] {
        match get(model, field) {
            Value::Null => {}
            text => match file.text(&format!("model.{field}"), text)? {
                "" => {}
                _ => return slow(&format!("model.{field}"), text, "empty"),
            },
        }
    }
    let flag = |field: &str| match get(model, field) {
        Value::Null => Ok(false),
        flag => file.bool(&format!("model.{field}"), flag),
    };
    if flag("byte_fallback")? {
        return slow("model.byte_fallback", &Value::Bool(true), "false");
    }
    Ok(flag("ignore_merges")?)
}

/// Returns the pattern and `add_prefix_space`.
fn pre_tokenizer(file: File<'_>, json: &Value) -> Result<(Pattern, bool), Refusal> {
    let name = "pre_tokenizer";
    let byte_level = |json: &Value| match kind(json) {
        Some("ByteLevel") => {
            let object = file.object(name, json)?;
            let field = |field: &str| format!("{name}.{field}");
            let prefix = file.bool(&field("add_prefix_space"), get(object, "add_prefix_space"))?;
            let uses_regex = match get(object, "use_regex") {
                Value::Null => true,
                flag => file.bool(&field("use_regex"), flag)?,
            };
            Ok(Some((prefix, uses_regex)))
        }
        _ => Ok::<_, Error>(None),
    };
    if let Some((prefix, true)) = byte_level(json)? {
        return Ok((Pattern::Gpt2, prefix));
    }
    let fast = "one of GPT-2's, StarCoder's, Llama 3's and Qwen 2's";
    let parts = if kind(json) == Some("Sequence") { json["pretokenizers"].as_array() } else { None };
    let Some([first, second]) = parts.map(Vec::as_slice) else { return slow(name, json, fast) };
    match (kind(first), byte_level(second)?) {
        (Some("Digits"), Some((false, true))) if first["individual_digits"] == true => {
            Ok((Pattern::StarCoder, false))
        }
        (Some("Split"), Some((false, false))) => match known(first) {
            Some(pattern) => Ok((pattern, false)),
            None => slow(&format!("{name}.pretokenizers[0].pattern"), &first["pattern"], fast),
        },
        _ => slow(name, json, fast),
    }
}

/// The library ignores the ids in the file: a token of the vocabulary has that id, the others follow it in order.
/// A file that says otherwise is refused rather than read differently than its author meant.
fn added_tokens(
    file: File<'_>,
    found: &Value,
    vocabulary: &Vocabulary,
    normalizer: Option<&Normalizer>,
) -> Result<Vec<AddedToken>, Refusal> {
    let mut next_id = vocabulary.tokens.len() as u64;
    let (mut contents, mut matched) = (HashSet::new(), HashSet::new());
    let mut added = Vec::new();
    let list = if found.is_null() { &[] } else { file.list("added_tokens", found)? };
    for (i, token) in list.iter().enumerate() {
        let field = |name: &str| format!("added_tokens[{i}]{name}");
        let object = file.object(&field(""), token)?;
        let flag = |name: &str| file.bool(&field(&format!(".{name}")), get(object, name));
        let content = get(object, "content").as_str().filter(|content| !content.is_empty());
        let content =
            content.ok_or_else(|| file.invalid(field(".content"), "expected a string that is not empty"))?;
        let quoted = shorten(&content.into());
        if !contents.insert(content) {
            return Err(file.invalid(field(".content"), format!("{quoted} was added before")).into());
        }
        if flag("single_word")? {
            return slow(&field(".single_word"), &Value::Bool(true), "false");
        }
        let expected = vocabulary.id(content).map_or(next_id, u64::from);
        next_id += u64::from(expected == next_id);
        if get(object, "id").as_u64() != Some(expected) {
            let id = shorten(get(object, "id"));
            let problem = format!("expected {expected}, the id that the library gives {quoted}, found {id}");
            return Err(file.invalid(field(".id"), problem).into());
        }
        let id = u32::try_from(expected).map_err(|_| file.invalid(field(".id"), "does not fit 32 bits"))?;
        let normalized = flag("normalized")?;
        let normal_form =
            normalizer.filter(|_| normalized).map(|normalizer| normalizer.apply(content)).transpose()?;
        let normal_form = normal_form.map_or_else(|| content.to_string(), |text| text.into_owned());
        if normal_form.is_empty() || !matched.insert((normalized, normal_form)) {
            let problem = format!("the normal form of {quoted} is empty, or that of another");
            return Err(file.invalid(field(".content"), problem).into());
        }
        let (lstrip, rstrip, special) = (flag("lstrip")?, flag("rstrip")?, flag("special")?);
        added.push(AddedToken { id, content: content.into(), lstrip, rstrip, normalized, special });
    }
    added.sort_by_key(|token| token.id);
    Ok(added)
}
