//! Values of settings: from TOML or from a command-line argument to a type, and back to JSON for the checkpoint.
//!
//! Owns the types that a setting may have. An argument is text without a type, a TOML value has one: the difference is
//! kept, so that `learning_rate = "fast"` in a file and `--learning-rate fast` are refused alike, and `seed = "42"` in a
//! file is refused as transformers would.

use crate::best::Metric;
use eyas_data::{Mode, OnError};
use serde_json::{Value as Json, json};
use std::path::PathBuf;
use toml::de::DeValue;

/// A value as it was written.
#[derive(Clone, Debug)]
pub(crate) enum Raw {
    /// A command-line argument, or a default.
    Argument(String),
    /// A TOML string.
    Text(String),
    /// A TOML integer, in digits.
    Integer(String),
    /// A TOML float.
    Float(String),
    /// A TOML boolean.
    Bool(bool),
    /// A TOML array.
    List(Vec<Raw>),
    /// A table or a date: what no setting is.
    Other(&'static str),
}

impl Raw {
    pub(crate) fn from_toml(value: &DeValue<'_>) -> Self {
        match value {
            DeValue::String(text) => Raw::Text(text.to_string()),
            DeValue::Integer(digits) => i128::from_str_radix(digits.as_str(), digits.radix())
                .map_or(Raw::Other("a number out of range"), |number| Raw::Integer(number.to_string())),
            DeValue::Float(digits) => Raw::Float(digits.as_str().to_string()),
            DeValue::Boolean(value) => Raw::Bool(*value),
            DeValue::Array(items) => {
                Raw::List(items.iter().map(|item| Raw::from_toml(item.get_ref())).collect())
            }
            DeValue::Datetime(_) => Raw::Other("a date"),
            DeValue::Table(_) => Raw::Other("a section"),
        }
    }

    /// For error messages: the value and, where it helps, its type.
    pub(crate) fn describe(&self) -> String {
        match self {
            Raw::Argument(text) if text.is_empty() => "nothing".into(),
            Raw::Argument(text) => format!("`{text}`"),
            Raw::Text(text) => format!("the text \"{text}\""),
            Raw::Integer(digits) | Raw::Float(digits) => digits.clone(),
            Raw::Bool(value) => value.to_string(),
            Raw::List(_) => "a list".into(),
            Raw::Other(kind) => (*kind).into(),
        }
    }

    /// The value as an argument would spell it, for the model's settings.
    pub(crate) fn spelling(&self) -> Option<String> {
        match self {
            Raw::Argument(text) | Raw::Text(text) | Raw::Integer(text) | Raw::Float(text) => {
                Some(text.clone())
            }
            Raw::Bool(value) => Some(value.to_string()),
            Raw::List(_) | Raw::Other(_) => None,
        }
    }

    fn text(&self) -> Option<&str> {
        match self {
            Raw::Argument(text) | Raw::Text(text) if !text.is_empty() => Some(text),
            _ => None,
        }
    }
}

/// What kind of value a setting takes: what the command line needs to know to parse it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `true` or `false`; as a flag, its presence is `true`.
    Flag,
    /// A whole number.
    Integer,
    /// A number.
    Number,
    /// Text.
    Text,
    /// A path.
    Path,
    /// One or more texts: the flag may be repeated or take several.
    List,
    /// One of some names.
    Choice(&'static [&'static str]),
}

/// A type that a setting may have.
pub(crate) trait Value: Sized {
    const KIND: Kind;
    fn expected() -> String;
    fn parse(raw: &Raw) -> Option<Self>;
    fn to_json(&self) -> Json;
}

impl Value for bool {
    const KIND: Kind = Kind::Flag;
    fn expected() -> String {
        "true or false".into()
    }
    fn parse(raw: &Raw) -> Option<Self> {
        match raw {
            Raw::Bool(value) => Some(*value),
            Raw::Argument(text) => match text.to_lowercase().as_str() {
                // A bare flag.
                "" | "true" | "yes" | "1" => Some(true),
                "false" | "no" | "0" => Some(false),
                _ => None,
            },
            _ => None,
        }
    }
    fn to_json(&self) -> Json {
        json!(self)
    }
}

macro_rules! integer {
    ($($type:ty: $expected:literal),*) => {$(
        impl Value for $type {
            const KIND: Kind = Kind::Integer;
            fn expected() -> String {
                $expected.into()
            }
            fn parse(raw: &Raw) -> Option<Self> {
                match raw {
                    Raw::Integer(digits) => digits.parse().ok(),
                    Raw::Argument(text) => text.replace('_', "").parse().ok(),
                    _ => None,
                }
            }
            fn to_json(&self) -> Json {
                json!(self)
            }
        }
    )*};
}
integer!(usize: "a whole number, not negative", u64: "a whole number, not negative", i64: "a whole number");

impl Value for f64 {
    const KIND: Kind = Kind::Number;
    fn expected() -> String {
        "a number".into()
    }
    fn parse(raw: &Raw) -> Option<Self> {
        let number: f64 = match raw {
            Raw::Integer(digits) | Raw::Float(digits) => digits.parse().ok()?,
            Raw::Argument(text) => text.replace('_', "").parse().ok()?,
            _ => return None,
        };
        number.is_finite().then_some(number)
    }
    fn to_json(&self) -> Json {
        // A whole number is written as one: it may be a number of updates.
        if self.fract() == 0.0 && self.abs() < 1e15 { json!(*self as i64) } else { json!(self) }
    }
}

impl Value for String {
    const KIND: Kind = Kind::Text;
    fn expected() -> String {
        "text".into()
    }
    fn parse(raw: &Raw) -> Option<Self> {
        raw.text().map(String::from)
    }
    fn to_json(&self) -> Json {
        json!(self)
    }
}

impl Value for PathBuf {
    const KIND: Kind = Kind::Path;
    fn expected() -> String {
        "a path".into()
    }
    fn parse(raw: &Raw) -> Option<Self> {
        match raw {
            // The default of a path that must be given.
            Raw::Argument(text) if text.is_empty() => Some(PathBuf::new()),
            _ => raw.text().map(PathBuf::from),
        }
    }
    fn to_json(&self) -> Json {
        json!(self.to_string_lossy())
    }
}

impl Value for Vec<String> {
    const KIND: Kind = Kind::List;
    fn expected() -> String {
        "text or a list of texts".into()
    }
    fn parse(raw: &Raw) -> Option<Self> {
        match raw {
            Raw::Argument(text) if text.is_empty() => Some(Vec::new()),
            Raw::List(items) => items.iter().map(|item| item.text().map(String::from)).collect(),
            _ => raw.text().map(|text| vec![text.into()]),
        }
    }
    fn to_json(&self) -> Json {
        json!(self)
    }
}

impl Value for Vec<f64> {
    const KIND: Kind = Kind::List;
    fn expected() -> String {
        "a number or a list of numbers".into()
    }
    fn parse(raw: &Raw) -> Option<Self> {
        match raw {
            Raw::Argument(text) if text.is_empty() => Some(Vec::new()),
            Raw::List(items) => items.iter().map(f64::parse).collect(),
            _ => f64::parse(raw).map(|number| vec![number]),
        }
    }
    fn to_json(&self) -> Json {
        self.iter().map(Value::to_json).collect()
    }
}

impl<T: Value> Value for Option<T> {
    const KIND: Kind = T::KIND;
    fn expected() -> String {
        T::expected()
    }
    fn parse(raw: &Raw) -> Option<Self> {
        match raw {
            Raw::Argument(text) if matches!(text.to_lowercase().as_str(), "" | "none" | "null") => Some(None),
            _ => T::parse(raw).map(Some),
        }
    }
    fn to_json(&self) -> Json {
        self.as_ref().map_or(Json::Null, T::to_json)
    }
}

/// Makes an enumeration a value: its names, the first of each variant being the one that is written.
macro_rules! choice {
    ($type:ty { $($variant:path = $name:literal $(| $alias:literal)*),* $(,)? }) => {
        impl Value for $type {
            const KIND: Kind = Kind::Choice(&[$($name $(, $alias)*),*]);
            fn expected() -> String {
                [$($name),*].join(", ")
            }
            fn parse(raw: &Raw) -> Option<Self> {
                match raw.text()? {
                    $($name $(| $alias)* => Some($variant),)*
                    _ => None,
                }
            }
            fn to_json(&self) -> Json {
                match self {
                    $($variant => json!($name),)*
                }
            }
        }
    };
}

/// The curve of the learning rate: transformers' names and formulas.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SchedulerType {
    /// Down to 0 in a line.
    Linear,
    /// Down to 0 along half a cosine.
    Cosine,
    /// Down to `min_lr` along half a cosine.
    CosineWithMinLr,
    /// The same throughout; no warm-up.
    Constant,
    /// The same after the warm-up.
    ConstantWithWarmup,
    /// The same after the warm-up, then down over the last `num_decay_steps`.
    WarmupStableDecay,
}
choice!(SchedulerType {
    SchedulerType::Linear = "linear",
    SchedulerType::Cosine = "cosine",
    SchedulerType::CosineWithMinLr = "cosine_with_min_lr",
    SchedulerType::Constant = "constant",
    SchedulerType::ConstantWithWarmup = "constant_with_warmup",
    SchedulerType::WarmupStableDecay = "warmup_stable_decay",
});

choice!(OnError { OnError::Skip = "skip", OnError::Fail = "fail" });

/// How `warmup_stable_decay` ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DecayType {
    /// In a line.
    Linear,
    /// Along half a cosine.
    Cosine,
    /// 1 - sqrt(progress).
    OneMinusSqrt,
}
choice!(DecayType { DecayType::Linear = "linear", DecayType::Cosine = "cosine", DecayType::OneMinusSqrt = "1-sqrt" });

/// When something is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Strategy {
    /// Never.
    No,
    /// Every so many updates.
    Steps,
    /// At the end of each epoch.
    Epoch,
}
choice!(Strategy { Strategy::No = "no", Strategy::Steps = "steps", Strategy::Epoch = "epoch" });

/// When a checkpoint is saved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SaveStrategy {
    /// Never.
    No,
    /// Every so many updates.
    Steps,
    /// At the end of each epoch.
    Epoch,
    /// When an evaluation is better than all before.
    Best,
}
choice!(SaveStrategy {
    SaveStrategy::No = "no",
    SaveStrategy::Steps = "steps",
    SaveStrategy::Epoch = "epoch",
    SaveStrategy::Best = "best",
});

/// The optimizer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OptimizerKind {
    /// AdamW for everything.
    AdamW,
    /// Muon for the matrices of the blocks, AdamW for the rest.
    Muon,
}
choice!(OptimizerKind {
    OptimizerKind::AdamW = "adamw" | "adamw_torch" | "adamw_torch_fused",
    OptimizerKind::Muon = "muon",
});

choice!(Metric {
    Metric::Loss = "eval_loss" | "loss",
    Metric::Perplexity = "eval_perplexity" | "perplexity",
    Metric::BitsPerByte = "eval_bits_per_byte" | "bits_per_byte",
    Metric::NextTokenAccuracy = "eval_next_token_accuracy" | "next_token_accuracy",
});

choice!(Mode { Mode::Chunk = "chunk", Mode::Pack = "pack" });
