//! GPT2Config: the shape of the network, read from and written to config.json as transformers does.
//!
//! Owns the names, defaults and limits of every key. Refuses what the network does not implement, by name. The trick:
//! a configuration is a JSON map first and fields second, so that one reader serves files and `--set key=value`, and
//! keys that mean nothing here survive from a file that was read to the file that is written.

use crate::error::{Error, InFile, nearest};
use crate::parameters::{Declaration, Parameters};
use serde_json::{Map, Value, json};
use std::path::Path;

/// The shape of a GPT-2, its dropouts and its special tokens. Fields have the names and defaults of GPT2Config.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// V: token ids.
    pub vocab_size: usize,
    /// Rows of wpe: the longest sequence, in tokens.
    pub n_positions: usize,
    /// C: width of the residual stream.
    pub n_embd: usize,
    /// L: blocks.
    pub n_layer: usize,
    /// NH: attention heads of a block.
    pub n_head: usize,
    /// Width of the MLP; `None` means 4 `n_embd`.
    pub n_inner: Option<usize>,
    /// `gelu_new`, or its other name `gelu_pytorch_tanh`.
    pub activation_function: String,
    /// Probability of dropout after each `c_proj`.
    pub resid_pdrop: f32,
    /// Probability of dropout after the embeddings.
    pub embd_pdrop: f32,
    /// Probability of dropout on the attention probabilities.
    pub attn_pdrop: f32,
    /// Added to the variance in LayerNorm.
    pub layer_norm_epsilon: f32,
    /// Standard deviation of the initial weights.
    pub initializer_range: f32,
    /// Token that opens a document.
    pub bos_token_id: Option<u32>,
    /// Token that closes a document.
    pub eos_token_id: Option<u32>,
    /// The context length of a training run, which older files record; the network does not read it.
    pub n_ctx: Option<usize>,
    /// Keys of a file that mean nothing to the network, kept as they were.
    pub extra: Map<String, Value>,
}

/// Keys whose only implemented value is the one given.
const ONLY: [(&str, Value); 5] = [
    ("scale_attn_weights", Value::Bool(true)),
    ("scale_attn_by_inverse_layer_idx", Value::Bool(false)),
    ("reorder_and_upcast_attn", Value::Bool(false)),
    ("add_cross_attention", Value::Bool(false)),
    ("tie_word_embeddings", Value::Bool(true)),
];

const MODEL_TYPE: &str = "gpt2";
const ACTIVATIONS: [&str; 2] = ["gelu_new", "gelu_pytorch_tanh"];

/// Other names of the same keys (GPT2Config's attribute_map).
const ALIASES: [(&str, &str); 4] = [
    ("hidden_size", "n_embd"),
    ("max_position_embeddings", "n_positions"),
    ("num_attention_heads", "n_head"),
    ("num_hidden_layers", "n_layer"),
];

/// The largest of each size. They bound what a file can make us allocate, and keep products within u64.
const MAX_LAYERS: usize = 4096;
const MAX_WIDTH: usize = 1 << 20;
const MAX_ROWS: usize = 1 << 30;
const MAX_PARAMETERS: usize = 1 << 40;
const MAX_FILE_BYTES: u64 = 16 << 20;

impl Default for Config {
    /// GPT2Config's defaults: the 124M shape.
    fn default() -> Self {
        Config {
            vocab_size: 50257,
            n_positions: 1024,
            n_embd: 768,
            n_layer: 12,
            n_head: 12,
            n_inner: None,
            activation_function: ACTIVATIONS[0].into(),
            resid_pdrop: 0.1,
            embd_pdrop: 0.1,
            attn_pdrop: 0.1,
            layer_norm_epsilon: 1e-5,
            initializer_range: 0.02,
            bos_token_id: Some(50256),
            eos_token_id: Some(50256),
            n_ctx: None,
            extra: Map::new(),
        }
    }
}

impl Config {
    /// The names of the built-in shapes.
    pub const BUILTIN: [&str; 5] = ["gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl", "distilgpt2"];

    /// Every key that [`set`](Self::set) knows.
    pub const KEYS: [&str; 15] = [
        "vocab_size",
        "n_positions",
        "n_embd",
        "n_layer",
        "n_head",
        "n_inner",
        "activation_function",
        "resid_pdrop",
        "embd_pdrop",
        "attn_pdrop",
        "layer_norm_epsilon",
        "initializer_range",
        "bos_token_id",
        "eos_token_id",
        "n_ctx",
    ];

    /// A standard shape by its name, or `None`.
    pub fn builtin(name: &str) -> Option<Self> {
        let (n_layer, n_embd, n_head) = match name {
            "gpt2" => (12, 768, 12),
            "gpt2-medium" => (24, 1024, 16),
            "gpt2-large" => (36, 1280, 20),
            "gpt2-xl" => (48, 1600, 25),
            "distilgpt2" => (6, 768, 12),
            _ => return None,
        };
        Some(Config { n_layer, n_embd, n_head, ..Config::default() })
    }

    /// Reads `path`, a config.json or a folder with one, and validates it.
    pub fn load(path: &Path) -> Result<Self, Error> {
        let file = if path.is_dir() { path.join("config.json") } else { path.to_path_buf() };
        crate::files::read_small(&file, MAX_FILE_BYTES).and_then(|text| Self::from_json(&text)).in_file(&file)
    }

    /// Reads and validates the text of a config.json. Keys it lacks have GPT2Config's defaults.
    pub fn from_json(text: &str) -> Result<Self, Error> {
        let config = Self::from_map(serde_json::from_str(text)?)?;
        config.validate()?;
        Ok(config)
    }

    /// The text of a config.json: every GPT2Config key, sorted, as transformers writes it.
    pub fn to_json(&self) -> String {
        let map = Value::Object(self.to_map());
        serde_json::to_string_pretty(&map).expect("a map of JSON values is JSON") + "\n"
    }

    /// Sets one key from text, such as `n_layer` from `6` or `n_inner` from `null`. The whole is not validated, since
    /// several keys may have to change together: call [`validate`](Self::validate) after the last.
    pub fn set(&mut self, key: &str, value: &str) -> Result<(), Error> {
        let key = ALIASES.iter().find(|(alias, _)| *alias == key).map_or(key, |(_, name)| name);
        let known = || Self::KEYS.into_iter().chain(ONLY.iter().map(|(key, _)| *key));
        if !known().any(|name| name == key) {
            let candidates = Self::KEYS.into_iter().chain(ALIASES.iter().map(|(alias, _)| *alias));
            return Err(Error::UnknownKey { key: key.into(), nearest: nearest(key, candidates) });
        }
        let value = serde_json::from_str(value).unwrap_or_else(|_| Value::String(value.into()));
        let mut map = self.to_map();
        map.insert(key.into(), value);
        *self = Self::from_map(map)?;
        Ok(())
    }

    /// Checks that such a network can exist and fits the limits of this implementation.
    pub fn validate(&self) -> Result<(), Error> {
        for (key, size, max) in [
            ("vocab_size", self.vocab_size, MAX_ROWS),
            ("n_positions", self.n_positions, MAX_ROWS),
            ("n_embd", self.n_embd, MAX_WIDTH),
            ("n_layer", self.n_layer, MAX_LAYERS),
            ("n_head", self.n_head, MAX_WIDTH),
            ("n_inner", self.inner(), MAX_WIDTH * 4),
        ] {
            if size == 0 || size > max {
                return Err(Error::config(key, format!("1 to {max}"), size));
            }
        }
        if !self.n_embd.is_multiple_of(self.n_head) {
            let expected = format!("a divisor of n_embd = {}", self.n_embd);
            return Err(Error::config("n_head", expected, self.n_head));
        }
        for (key, probability) in [
            ("resid_pdrop", self.resid_pdrop),
            ("embd_pdrop", self.embd_pdrop),
            ("attn_pdrop", self.attn_pdrop),
        ] {
            if !(0.0..1.0).contains(&probability) {
                return Err(Error::config(key, "a probability in [0, 1)", probability));
            }
        }
        for (key, value) in
            [("layer_norm_epsilon", self.layer_norm_epsilon), ("initializer_range", self.initializer_range)]
        {
            if !(value.is_finite() && value >= 0.0) {
                return Err(Error::config(key, "a finite number, not negative", value));
            }
        }
        if !ACTIVATIONS.contains(&self.activation_function.as_str()) {
            let expected = ACTIVATIONS.join(" or ");
            return Err(Error::config("activation_function", expected, &self.activation_function));
        }
        // Each factor is bounded above, so the sum fits in u64 before it is compared.
        let num_parameters = crate::parameters::num_parameters(self);
        if num_parameters > MAX_PARAMETERS {
            let expected = format!("at most {MAX_PARAMETERS} parameters in all");
            return Err(Error::config("n_embd", expected, num_parameters));
        }
        Ok(())
    }

    /// Checks that sequences of `context_length` tokens have positions.
    pub fn validate_context(&self, context_length: usize) -> Result<(), Error> {
        if context_length == 0 || context_length > self.n_positions {
            let expected = format!("1 to n_positions = {}", self.n_positions);
            return Err(Error::config("context_length", expected, context_length));
        }
        Ok(())
    }

    /// HS: channels of one attention head.
    pub fn head_size(&self) -> usize {
        self.n_embd / self.n_head
    }

    /// Width of the MLP.
    pub fn inner(&self) -> usize {
        self.n_inner.unwrap_or(self.n_embd.saturating_mul(4))
    }

    /// Every parameter of the network, declared.
    pub fn parameters(&self) -> Parameters<Declaration> {
        Parameters::declare(self)
    }

    fn from_map(mut map: Map<String, Value>) -> Result<Self, Error> {
        for (alias, name) in ALIASES {
            if let Some(value) = map.remove(alias) {
                map.entry(name).or_insert(value);
            }
        }
        for (key, implemented) in ONLY.into_iter().chain([("model_type", json!(MODEL_TYPE))]) {
            match map.remove(key) {
                Some(value) if value != implemented => {
                    return Err(Error::config(
                        key,
                        format!("{implemented}, the only one implemented"),
                        value,
                    ));
                }
                _ => {}
            }
        }
        // They say how a file was saved; ours says how it will be.
        for key in ["architectures", "dtype", "torch_dtype"] {
            map.remove(key);
        }
        let default = Config::default();
        Ok(Config {
            vocab_size: size(&mut map, "vocab_size", default.vocab_size)?,
            n_positions: size(&mut map, "n_positions", default.n_positions)?,
            n_embd: size(&mut map, "n_embd", default.n_embd)?,
            n_layer: size(&mut map, "n_layer", default.n_layer)?,
            n_head: size(&mut map, "n_head", default.n_head)?,
            n_inner: optional_size(&mut map, "n_inner", default.n_inner)?,
            activation_function: name(&mut map, "activation_function", default.activation_function)?,
            resid_pdrop: number(&mut map, "resid_pdrop", default.resid_pdrop)?,
            embd_pdrop: number(&mut map, "embd_pdrop", default.embd_pdrop)?,
            attn_pdrop: number(&mut map, "attn_pdrop", default.attn_pdrop)?,
            layer_norm_epsilon: number(&mut map, "layer_norm_epsilon", default.layer_norm_epsilon)?,
            initializer_range: number(&mut map, "initializer_range", default.initializer_range)?,
            bos_token_id: token(&mut map, "bos_token_id", default.bos_token_id)?,
            eos_token_id: token(&mut map, "eos_token_id", default.eos_token_id)?,
            n_ctx: optional_size(&mut map, "n_ctx", default.n_ctx)?,
            extra: map,
        })
    }

    fn to_map(&self) -> Map<String, Value> {
        let float = |value: f32| value.to_string().parse::<f64>().map_or(Value::Null, Value::from);
        let mut map = inert_defaults();
        map.extend(self.extra.clone());
        map.extend(ONLY.map(|(key, value)| (key.to_string(), value)));
        let fields = json!({
            "architectures": ["GPT2LMHeadModel"],
            "dtype": "float32",
            "model_type": MODEL_TYPE,
            "vocab_size": self.vocab_size,
            "n_positions": self.n_positions,
            "n_embd": self.n_embd,
            "n_layer": self.n_layer,
            "n_head": self.n_head,
            "n_inner": self.n_inner,
            "activation_function": self.activation_function,
            "resid_pdrop": float(self.resid_pdrop),
            "embd_pdrop": float(self.embd_pdrop),
            "attn_pdrop": float(self.attn_pdrop),
            "layer_norm_epsilon": float(self.layer_norm_epsilon),
            "initializer_range": float(self.initializer_range),
            "bos_token_id": self.bos_token_id,
            "eos_token_id": self.eos_token_id,
        });
        if let Value::Object(fields) = fields {
            map.extend(fields);
        }
        if let Some(n_ctx) = self.n_ctx {
            map.insert("n_ctx".into(), n_ctx.into());
        }
        map.sort_keys();
        map
    }
}

/// Keys of GPT2Config that the network does not read.
fn inert_defaults() -> Map<String, Value> {
    let defaults = json!({
        "pad_token_id": null,
        "summary_activation": null,
        "summary_first_dropout": 0.1,
        "summary_proj_to_labels": true,
        "summary_type": "cls_index",
        "summary_use_proj": true,
        "use_cache": true,
    });
    match defaults {
        Value::Object(map) => map,
        _ => Map::new(),
    }
}

fn size(map: &mut Map<String, Value>, key: &str, default: usize) -> Result<usize, Error> {
    match map.remove(key) {
        None => Ok(default),
        Some(value) => as_size(key, &value, "a whole number"),
    }
}

fn optional_size(
    map: &mut Map<String, Value>,
    key: &str,
    default: Option<usize>,
) -> Result<Option<usize>, Error> {
    match map.remove(key) {
        None => Ok(default),
        Some(Value::Null) => Ok(None),
        Some(value) => as_size(key, &value, "a whole number or null").map(Some),
    }
}

fn as_size(key: &str, value: &Value, expected: &str) -> Result<usize, Error> {
    value.as_u64().and_then(|n| usize::try_from(n).ok()).ok_or_else(|| Error::config(key, expected, value))
}

fn number(map: &mut Map<String, Value>, key: &str, default: f32) -> Result<f32, Error> {
    match map.remove(key) {
        None => Ok(default),
        Some(value) => value.as_f64().map(|x| x as f32).ok_or_else(|| Error::config(key, "a number", value)),
    }
}

fn token(map: &mut Map<String, Value>, key: &str, default: Option<u32>) -> Result<Option<u32>, Error> {
    match map.remove(key) {
        None => Ok(default),
        Some(Value::Null) => Ok(None),
        Some(value) => {
            let id = value.as_u64().and_then(|n| u32::try_from(n).ok());
            id.map(Some).ok_or_else(|| Error::config(key, "one token id or null", value))
        }
    }
}

fn name(map: &mut Map<String, Value>, key: &str, default: String) -> Result<String, Error> {
    match map.remove(key) {
        None => Ok(default),
        Some(Value::String(name)) => Ok(name),
        Some(value) => Err(Error::config(key, "a name", value)),
    }
}
