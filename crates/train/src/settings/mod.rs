//! Settings: one flat TOML file, whose every key is also a flag. Names, types and defaults are TrainingArguments' and
//! GPT2Config's.
//!
//! Owns what a configuration may say. Refuses unknown names with the nearest known one, wrong types and impossible numbers,
//! with the line. The one trick: [`table`](self) is the only place that names a setting.

mod documents;
mod table;
#[cfg(test)]
mod tests;
mod value;

pub use documents::DOCUMENTS;
pub use table::{MODEL_SETTINGS, SETTINGS, Setting, TrainConfig};
pub use value::{DecayType, Kind, OptimizerKind, SaveStrategy, SchedulerType, Strategy};

use crate::error::Error;
use crate::plan::Epochs;
use std::collections::HashMap;
use std::path::Path;
use toml::de::DeTable;
use value::{Raw, Value as _};

/// Other names of settings.
pub const ALIASES: [(&str, &str); 1] = [("evaluation_strategy", "eval_strategy")];

/// TrainingArguments' names that a person may well bring along, and what there is instead.
const ABSENT: &[(&str, &str)] = &[
    ("greater_is_better", "each metric knows which way is better"),
    ("lr_scheduler_kwargs", "write min_lr, min_lr_rate, num_decay_steps, ... as settings of their own"),
    ("logging_nan_inf_filter", "a loss that is not finite is never hidden; see skip_non_finite"),
    ("ignore_data_skip", "finding the place in the data takes no time"),
    ("save_safetensors", "nothing else is ever written"),
    ("save_only_model", "a checkpoint is what a run goes on from; the model folder is output_dir itself"),
    ("restore_callback_states_from_checkpoint", "everything is restored"),
    ("logging_strategy", "set logging_steps"),
    ("torch_compile", "there is nothing to compile"),
    ("dataloader_num_workers", "samples are read from memory-mapped shards, without workers"),
    ("hub_model_id", "pushing to the hub is not available yet"),
    ("hub_token", "pushing to the hub is not available yet"),
    ("hub_strategy", "pushing to the hub is not available yet"),
    ("fp16_full_eval", "evaluation runs in the precision of training"),
];

/// What activations and compute copies of weights are kept in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Precision {
    /// f32.
    F32,
    /// bf16.
    Bf16,
    /// fp16: on GPUs.
    F16,
}

/// Every setting, GPT2Config's keys included.
pub fn settings() -> impl Iterator<Item = &'static Setting> {
    SETTINGS.iter().chain(MODEL_SETTINGS)
}

/// The setting whose name is spelt most like `name`, if any is close; kebab-case is understood.
pub fn nearest_setting(name: &str) -> Option<&'static str> {
    let name = name.trim_start_matches('-').replace('-', "_").to_lowercase();
    eyas_model::nearest(&name, settings().map(|setting| setting.name))
}

impl TrainConfig {
    /// Reads a configuration file's text, then `overrides`: pairs of a name, in snake_case or kebab-case, and an argument.
    /// An empty argument is a bare flag. Of a name given twice the last counts; the arguments of a list add up.
    ///
    /// # Errors
    /// What the settings alone can say is wrong: names, types, numbers, contradictions.
    pub fn parse(toml: &str, overrides: &[(String, String)]) -> Result<Self, Error> {
        let mut config = Self::defaults();
        let mut lines = HashMap::new();
        for (name, raw, line) in read_file(toml)? {
            config.set(&name, &raw, Some(line))?;
            lines.insert(canonical(&name).to_string(), line);
        }
        let (file_bf16, file_fp16) = (config.bf16, config.fp16);
        config.apply(overrides, &mut lines)?;
        // The precision of the command line replaces the file's.
        let given = |name: &str| overrides.iter().any(|(key, _)| key.replace('-', "_") == name);
        if config.bf16 && given("bf16") && file_fp16 && !given("fp16") {
            config.fp16 = false;
        }
        if config.fp16 && given("fp16") && file_bf16 && !given("bf16") {
            config.bf16 = false;
        }
        config.check(&lines)?;
        Ok(config)
    }

    /// Applies the command line's settings. Lists given there replace the file's.
    fn apply(
        &mut self,
        overrides: &[(String, String)],
        lines: &mut HashMap<String, usize>,
    ) -> Result<(), Error> {
        let mut lists: Vec<(String, Vec<Raw>)> = Vec::new();
        for (name, argument) in overrides {
            let name = name.trim_start_matches('-').replace('-', "_");
            lines.remove(canonical(&name));
            let is_list = |setting: &&Setting| setting.name == name && setting.kind == Kind::List;
            if !settings().any(|setting| is_list(&setting)) {
                self.set(&name, &Raw::Argument(argument.clone()), None)?;
                continue;
            }
            match lists.iter_mut().find(|(list, _)| *list == name) {
                Some((_, items)) => items.push(Raw::Argument(argument.clone())),
                None => lists.push((name, vec![Raw::Argument(argument.clone())])),
            }
        }
        lists.into_iter().try_for_each(|(name, items)| self.set(&name, &Raw::List(items), None))
    }

    fn set(&mut self, name: &str, raw: &Raw, line: Option<usize>) -> Result<(), Error> {
        if self.assign(canonical(name), raw, line)? {
            return Ok(());
        }
        if !eyas_model::Config::KEYS.contains(&name) {
            return Err(Error::UnknownSetting { name: name.into(), line, hint: hint_for(name, raw) });
        }
        // The model's own reader says what is wrong with the value.
        let wrong =
            |expected: String| Error::Setting { name: name.into(), line, expected, got: raw.describe() };
        let text = raw.spelling().ok_or_else(|| wrong("one value".into()))?;
        match eyas_model::Config::default().set(name, &text) {
            Ok(()) => {}
            Err(eyas_model::Error::Config { expected, .. }) => return Err(wrong(expected)),
            Err(other) => return Err(other.into()),
        }
        self.model.retain(|(key, _)| key != name);
        self.model.push((name.into(), text));
        Ok(())
    }

    /// Updates between evaluations; `None` if there are none.
    pub(crate) fn eval_every(&self, epochs: &Epochs) -> Option<u64> {
        match self.eval_strategy {
            Strategy::No => None,
            Strategy::Steps => Some(self.eval_steps.unwrap_or(self.logging_steps)),
            Strategy::Epoch => Some(epochs.updates_per_epoch()),
        }
    }

    /// Updates between checkpoints; `None` if they do not come at intervals.
    pub(crate) fn save_every(&self, epochs: &Epochs) -> Option<u64> {
        match self.save_strategy {
            SaveStrategy::No | SaveStrategy::Best => None,
            SaveStrategy::Steps => Some(self.save_steps),
            SaveStrategy::Epoch => Some(epochs.updates_per_epoch()),
        }
    }

    /// Whether the run evaluates at all.
    pub(crate) fn evaluates(&self) -> bool {
        self.eval_strategy != Strategy::No || self.eval_on_start
    }

    /// What the settings say of the element type.
    pub fn precision(&self) -> Precision {
        match (self.fp16, self.bf16) {
            (true, _) => Precision::F16,
            (_, true) => Precision::Bf16,
            _ => Precision::F32,
        }
    }

    /// Checks numbers and what must be given.
    fn check(&self, lines: &HashMap<String, usize>) -> Result<(), Error> {
        let refuse = |name: &str, expected: &str, got: String| {
            Err(Error::Setting {
                name: name.into(),
                line: lines.get(name).copied(),
                expected: expected.into(),
                got,
            })
        };
        for (name, count) in [
            ("per_device_train_batch_size", self.per_device_train_batch_size as u64),
            ("per_device_eval_batch_size", self.per_device_eval_batch_size as u64),
            ("gradient_accumulation_steps", self.gradient_accumulation_steps as u64),
            ("logging_steps", self.logging_steps),
            ("save_steps", self.save_steps),
            ("eval_steps", self.eval_steps.unwrap_or(1)),
            ("save_total_limit", self.save_total_limit.unwrap_or(1) as u64),
            ("context_length", self.context_length.unwrap_or(1) as u64),
            ("early_stopping_patience", self.early_stopping_patience.unwrap_or(1)),
            ("sample_max_new_tokens", self.sample_max_new_tokens as u64),
        ] {
            if !(1..=MAX_COUNT).contains(&count) {
                return refuse(name, &format!("1 to {MAX_COUNT}"), count.to_string());
            }
        }
        for (name, number) in self.numbers() {
            if number.is_some_and(|number| number < 0.0) {
                return refuse(name, "0 or more", number.unwrap_or_default().to_string());
            }
        }
        for (name, number) in [
            ("adam_beta1", self.adam_beta1),
            ("adam_beta2", self.adam_beta2),
            ("muon_momentum", self.muon_momentum),
        ] {
            if !(0.0..1.0).contains(&number) {
                return refuse(name, "a number from 0 to below 1", number.to_string());
            }
        }
        for (name, share) in [
            ("warmup_ratio", self.warmup_ratio),
            ("min_lr_rate", self.min_lr_rate.unwrap_or(0.0)),
            ("min_lr_ratio", self.min_lr_ratio),
        ] {
            if share > 1.0 {
                return refuse(name, "a share, 0 to 1", share.to_string());
            }
        }
        self.check_length(&refuse)?;
        self.check_schedule(&refuse)?;
        self.check_best(&refuse)?;
        self.check_weights(&refuse)?;
        self.check_given(&refuse)
    }

    /// What can be known of weights before the data are.
    fn check_weights(&self, refuse: &impl Fn(&str, &str, String) -> Result<(), Error>) -> Result<(), Error> {
        let weights = &self.data_weights;
        if weights.is_empty() {
            return Ok(());
        }
        let sum: f64 = weights.iter().sum();
        if weights.iter().any(|weight| *weight < 0.0) || sum <= 0.0 || !sum.is_finite() {
            return refuse(
                "data_weights",
                "positive numbers, or 0 for data that are not read",
                format!("{weights:?}"),
            );
        }
        // One may be a folder of prepared data, of several sources.
        if self.train_data.len() > 1 && weights.len() != self.train_data.len() {
            let got = format!("{} for {} in train_data", weights.len(), self.train_data.len());
            return refuse("data_weights", "one for each of train_data", got);
        }
        match self.shuffle {
            true => Ok(()),
            false => refuse(
                "data_weights",
                "none with shuffle = false: data lie one after the other",
                "weights".into(),
            ),
        }
    }

    /// Numbers that may not be negative.
    fn numbers(&self) -> [(&'static str, Option<f64>); 15] {
        [
            ("learning_rate", Some(self.learning_rate)),
            ("weight_decay", Some(self.weight_decay)),
            ("adam_epsilon", Some(self.adam_epsilon)),
            ("max_grad_norm", Some(self.max_grad_norm)),
            ("muon_learning_rate", self.muon_learning_rate),
            ("warmup_steps", Some(self.warmup_steps)),
            ("warmup_ratio", Some(self.warmup_ratio)),
            ("min_lr", self.min_lr),
            ("min_lr_rate", self.min_lr_rate),
            ("num_decay_steps", Some(self.num_decay_steps)),
            ("min_lr_ratio", Some(self.min_lr_ratio)),
            ("max_minutes", Some(self.max_minutes)),
            ("num_train_epochs", Some(self.num_train_epochs)),
            ("early_stopping_threshold", Some(self.early_stopping_threshold)),
            ("save_patience_minutes", Some(self.save_patience_minutes)),
        ]
    }

    fn check_length(&self, refuse: &impl Fn(&str, &str, String) -> Result<(), Error>) -> Result<(), Error> {
        if self.max_steps == 0 || self.max_steps < -1 {
            return refuse("max_steps", "1 or more, or -1 for none", self.max_steps.to_string());
        }
        if self.num_train_epochs == 0.0 && self.max_steps < 0 && self.max_minutes == 0.0 {
            return refuse("num_train_epochs", "more than 0", "0".into());
        }
        // A float of that size still holds every update exactly.
        if self.num_train_epochs > 1e9 || self.max_minutes > 1e9 {
            return refuse(
                "num_train_epochs",
                "at most 1e9, as max_minutes",
                self.num_train_epochs.to_string(),
            );
        }
        if self.save_patience_minutes > 1e9 {
            return refuse("save_patience_minutes", "at most 1e9", self.save_patience_minutes.to_string());
        }
        if self.max_steps > 1 << 53 {
            return refuse("max_steps", "at most 2^53", self.max_steps.to_string());
        }
        if self.max_minutes > 0.0 && self.max_steps > 0 {
            return refuse("max_minutes", "one of max_minutes and max_steps", "both".into());
        }
        Ok(())
    }

    fn check_schedule(&self, refuse: &impl Fn(&str, &str, String) -> Result<(), Error>) -> Result<(), Error> {
        match self.lr_scheduler_type {
            SchedulerType::CosineWithMinLr => match (self.min_lr, self.min_lr_rate) {
                (Some(min_lr), None) if min_lr > self.learning_rate => {
                    return refuse("min_lr", "at most learning_rate", min_lr.to_string());
                }
                (Some(_), None) | (None, Some(_)) => {}
                (None, None) => return refuse("min_lr", "a number, for cosine_with_min_lr", "none".into()),
                _ => return refuse("min_lr", "one of min_lr and min_lr_rate", "both".into()),
            },
            SchedulerType::WarmupStableDecay => {
                if self.num_decay_steps == 0.0 {
                    return refuse("num_decay_steps", "a number, for warmup_stable_decay", "0".into());
                }
                if self.max_minutes > 0.0 && self.num_decay_steps >= 1.0 {
                    let got = self.num_decay_steps.to_string();
                    return refuse("num_decay_steps", "a share below 1, since max_minutes is given", got);
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// What needs evaluations, and what they must come together with.
    fn check_best(&self, refuse: &impl Fn(&str, &str, String) -> Result<(), Error>) -> Result<(), Error> {
        let needs = [
            ("load_best_model_at_end", self.load_best_model_at_end),
            ("early_stopping_patience", self.early_stopping_patience.is_some()),
            ("save_strategy", self.save_strategy == SaveStrategy::Best),
            ("metric_for_best_model", self.metric_for_best_model.is_some()),
        ];
        if let Some((name, _)) = needs.iter().find(|(_, needs)| *needs && self.eval_strategy == Strategy::No)
        {
            return refuse("eval_strategy", &format!("steps or epoch, since {name} is given"), "no".into());
        }
        if !self.sample_prompts.is_empty() && !self.evaluates() {
            return refuse(
                "sample_prompts",
                "none, since there are no evaluations (eval_strategy)",
                "some".into(),
            );
        }
        if self.load_best_model_at_end {
            let eval_steps = self.eval_steps.unwrap_or(self.logging_steps);
            match (self.save_strategy, self.eval_strategy) {
                (SaveStrategy::Best, _) | (SaveStrategy::Epoch, Strategy::Epoch) => {}
                (SaveStrategy::Steps, Strategy::Steps) if self.save_steps.is_multiple_of(eval_steps) => {}
                (SaveStrategy::Steps, Strategy::Steps) => {
                    let expected =
                        format!("a multiple of eval_steps = {eval_steps}, for load_best_model_at_end");
                    return refuse("save_steps", &expected, self.save_steps.to_string());
                }
                _ => {
                    let expected = "eval_strategy's value, or best, for load_best_model_at_end";
                    return refuse("save_strategy", expected, self.save_strategy.to_json().to_string());
                }
            }
        }
        for target in &self.report_to {
            if !["tensorboard", "all", "none"].contains(&target.as_str()) {
                return refuse("report_to", "tensorboard, all or none", target.clone());
            }
        }
        Ok(())
    }

    /// Only copies in bf16 are rounded by chance.
    fn check_rounding(&self, refuse: &impl Fn(&str, &str, String) -> Result<(), Error>) -> Result<(), Error> {
        if !self.stochastic_rounding {
            return Ok(());
        }
        let (expected, got) = match self.precision() {
            Precision::Bf16 => return Ok(()),
            Precision::F32 => ("bf16 = true beside it, or false: in f32 nothing is rounded", "true with f32"),
            Precision::F16 => {
                ("bf16 = true instead of fp16, or false: only bf16 is rounded by chance", "true with fp16")
            }
        };
        refuse("stochastic_rounding", expected, got.into())
    }

    fn check_given(&self, refuse: &impl Fn(&str, &str, String) -> Result<(), Error>) -> Result<(), Error> {
        let missing = |name, hint| Err(Error::MissingSetting { name, hint });
        if self.output_dir.as_os_str().is_empty() {
            return missing("output_dir", "the folder for checkpoints and the model");
        }
        if self.train_data.is_empty() {
            return missing(
                "train_data",
                "a folder of code, .jsonl files, or a folder made by `eyas data prepare`",
            );
        }
        if self.evaluates() && self.eval_data.is_empty() {
            let hint =
                "eval_strategy or eval_on_start asks for evaluations; give data, or eval_strategy = \"no\"";
            return missing("eval_data", hint);
        }
        if self.tokenizer.is_none() && self.model_name_or_path.is_none() {
            return missing("tokenizer", "a tokenizer folder, such as `eyas tokenizer train` makes");
        }
        if self.fp16 && self.bf16 {
            return refuse("fp16", "one of fp16 and bf16", "both".into());
        }
        self.check_rounding(refuse)?;
        if self.overwrite_output_dir && self.resume_from_checkpoint.is_some() {
            return refuse(
                "overwrite_output_dir",
                "false, since resume_from_checkpoint is given",
                "true".into(),
            );
        }
        Ok(())
    }
}

/// The largest batch, interval or context: it keeps products of three of them within u64.
const MAX_COUNT: u64 = 1 << 20;

/// The id of the hub that `path` names, if it does.
pub(crate) fn hub_id(path: &str) -> Option<&str> {
    path.strip_prefix("hub:")
}

/// Refuses a path that is an id of the hub.
pub(crate) fn refuse_hub(name: &'static str, path: &Path) -> Result<(), Error> {
    let text = path.to_string_lossy();
    hub_id(&text).map_or(Ok(()), |id| Err(Error::Hub { name, id: id.into() }))
}

fn canonical(name: &str) -> &str {
    ALIASES.iter().find(|(alias, _)| *alias == name).map_or(name, |(_, name)| name)
}

fn hint_for(name: &str, raw: &Raw) -> String {
    let plain = name.to_lowercase();
    if let Some((_, instead)) = ABSENT.iter().find(|(absent, _)| *absent == plain) {
        return format!(": {instead}");
    }
    if matches!(raw, Raw::Other("a section")) {
        return "; the file has no sections, write every key at its top".into();
    }
    nearest_setting(name).map_or_else(String::new, |near| format!("; did you mean `{near}`?"))
}

/// The keys of a TOML file in the order of their lines, with their values.
fn read_file(toml: &str) -> Result<Vec<(String, Raw, usize)>, Error> {
    let line_of = |at: usize| 1 + toml.as_bytes().iter().take(at).filter(|&&byte| byte == b'\n').count();
    let table = DeTable::parse(toml).map_err(|error| Error::Toml {
        line: error.span().map_or(1, |span| line_of(span.start)),
        message: error.message().to_string(),
    })?;
    let mut entries: Vec<_> = table
        .get_ref()
        .iter()
        .map(|(key, value)| {
            (key.get_ref().to_string(), Raw::from_toml(value.get_ref()), line_of(key.span().start))
        })
        .collect();
    entries.sort_by_key(|(_, _, line)| *line);
    Ok(entries)
}
