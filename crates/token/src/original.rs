//! The files that a tokenizer was loaded from, byte for byte, so that saving it loses nothing.

use crate::error::Error;
use crate::file::File;
use serde_json::Value;
use std::path::Path;

/// What transformers writes beside tokenizer.json.
const BESIDE: [&str; 2] = ["tokenizer_config.json", "special_tokens_map.json"];

/// A tokenizer.json and those of its companions that were there.
pub(crate) struct Original {
    /// Names and contents.
    pub(crate) files: Vec<(&'static str, Vec<u8>)>,
    /// The `eos_token` that they name.
    pub(crate) end_of_text: Option<String>,
}

impl Original {
    /// The `tokenizer` just read from `path`, and its companions. A file of another name has none.
    ///
    /// # Errors
    /// [`Error::Read`], [`Error::TooLarge`] and [`Error::Json`] for a companion.
    pub(crate) fn read(path: &Path, tokenizer: Vec<u8>) -> Result<Self, Error> {
        let mut original = Self { files: vec![("tokenizer.json", tokenizer)], end_of_text: None };
        if path.file_name().is_none_or(|name| name != "tokenizer.json") {
            return Ok(original);
        }
        for name in BESIDE {
            let path = path.with_file_name(name);
            if !path.exists() {
                continue;
            }
            let file = File { path: &path };
            let bytes = file.read()?;
            let json = file.parse(&bytes)?;
            file.object("the file", &json)?;
            original.end_of_text = original.end_of_text.or_else(|| end_of_text(&json));
            original.files.push((name, bytes));
        }
        Ok(original)
    }
}

/// `eos_token`, which is a string or an added token.
fn end_of_text(config: &Value) -> Option<String> {
    let token = &config["eos_token"];
    token.as_str().or_else(|| token["content"].as_str()).map(String::from)
}
