//! What a run carries from update to update beside weights and optimizer: trainer_state.json, without its hashes.
//!
//! The keys that transformers' TrainerState has are written under its names; the rest is under `eyas`. Place in the data,
//! learning rate and dropout all follow from `global_step`, the seed and the settings, so nothing of them can be forgotten;
//! what the state adds is the settings themselves, to say what changed.

use crate::checkpoint::Checkpoint;
use crate::error::Error;
use crate::loss_scale::LossScale;
use crate::plan::Plan;
use crate::runlog::Window;
use crate::settings::{Strategy, TrainConfig};
use eyas_data::Loader;
use eyas_token::Tokenizer;
use serde_json::{Map, Value, json};

/// Settings that do not change what is learned.
const HARMLESS: [&str; 22] = [
    "output_dir",
    "overwrite_output_dir",
    "resume_from_checkpoint",
    "push_to_hub",
    "eval_data",
    "eval_strategy",
    "eval_steps",
    "eval_on_start",
    "per_device_eval_batch_size",
    "logging_steps",
    "logging_first_step",
    "save_strategy",
    "save_steps",
    "save_total_limit",
    "num_threads",
    "gradient_checkpointing",
    "device",
    // The data's identity is compared instead of their path.
    "train_data",
    "tokenizer",
    "config",
    "model_name_or_path",
    "context_length",
];

/// The numbers of a run in progress.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct State {
    /// Updates done.
    pub(crate) step: u64,
    /// Tokens read.
    pub(crate) num_tokens: u64,
    /// Seconds of the run before this process, or until the state was taken.
    pub(crate) elapsed_seconds: f64,
    /// Sums since the last log line.
    pub(crate) window: Window,
    /// fp16's loss scale; `None` in other precisions.
    pub(crate) loss_scale: Option<LossScale>,
}

/// What the training data are, for a resumed run to compare.
pub(crate) fn data_identity(loader: &Loader, tokenizer: &Tokenizer) -> Value {
    json!({
        "num_samples": loader.num_samples(),
        "context_length": loader.context_length(),
        "mode": loader.shards().mode(),
        "tokenizer": blake3::Hash::from_bytes(tokenizer.fingerprint()).to_hex().to_string(),
    })
}

impl State {
    /// The content of trainer_state.json.
    pub(crate) fn to_json(
        &self,
        config: &TrainConfig,
        plan: &Plan,
        data: &Value,
        history: &[Value],
    ) -> Map<String, Value> {
        let every = |strategy: Strategy, steps: u64| match strategy {
            Strategy::No => 0,
            Strategy::Steps => steps,
            Strategy::Epoch => plan.epochs.updates_per_epoch(),
        };
        let state = json!({
            "best_global_step": null,
            "best_metric": null,
            "best_model_checkpoint": null,
            "epoch": plan.epochs.epoch_after(self.step),
            "eval_steps": every(config.eval_strategy, config.eval_steps.unwrap_or(config.logging_steps)),
            "global_step": self.step,
            "is_hyper_param_search": false,
            "is_local_process_zero": true,
            "is_world_process_zero": true,
            "log_history": history,
            "logging_steps": config.logging_steps,
            "max_steps": plan.num_steps(),
            "num_input_tokens_seen": self.num_tokens,
            "num_train_epochs": config.num_train_epochs,
            "save_steps": every(config.save_strategy, config.save_steps),
            "stateful_callbacks": {},
            "total_flos": self.num_tokens as f64 * plan.flops_per_token,
            "train_batch_size": config.per_device_train_batch_size,
            "trial_name": null,
            "trial_params": null,
            "eyas": {
                "version": env!("CARGO_PKG_VERSION"),
                "elapsed_seconds": self.elapsed_seconds,
                "window": self.window.to_json(),
                "loss_scale": self.loss_scale.map(LossScale::to_json),
                "position": position(plan, self.step),
                "data": data,
                "settings": config.to_json(),
            },
        });
        match state {
            Value::Object(map) => map,
            _ => Map::new(),
        }
    }

    /// The state of a checkpoint, and its log.
    pub(crate) fn from_checkpoint(checkpoint: &Checkpoint) -> Result<(Self, Vec<Value>), Error> {
        let missing =
            |key: &str| Error::checkpoint(&checkpoint.path, format!("trainer_state.json lacks `{key}`"));
        let state = &checkpoint.state;
        let own = state.get("eyas").ok_or_else(|| missing("eyas"))?;
        let window = own["window"].as_object().and_then(Window::from_json);
        let loss_scale = match &own["loss_scale"] {
            Value::Null => None,
            value => Some(LossScale::from_json(value).ok_or_else(|| missing("eyas.loss_scale"))?),
        };
        let number = |key: &str| state.get(key).and_then(Value::as_u64).ok_or_else(|| missing(key));
        let history = state.get("log_history").and_then(Value::as_array).cloned();
        Ok((
            State {
                step: checkpoint.step()?,
                num_tokens: number("num_input_tokens_seen")?,
                elapsed_seconds: own["elapsed_seconds"]
                    .as_f64()
                    .ok_or_else(|| missing("eyas.elapsed_seconds"))?,
                window: window.ok_or_else(|| missing("eyas.window"))?,
                loss_scale,
            },
            history.ok_or_else(|| missing("log_history"))?,
        ))
    }
}

/// Where in the data the next update begins; for people, since it follows from the step.
fn position(plan: &Plan, step: u64) -> Value {
    let (epoch, samples) = plan.epochs.samples_of(step);
    json!({"epoch": epoch, "sample": samples.start})
}

/// What differs between a checkpoint's run and this one, of what changes the result: a line each.
///
/// # Errors
/// Tokens of another tokenizer, which the weights do not know.
pub(crate) fn differences(
    checkpoint: &Checkpoint,
    config: &TrainConfig,
    data: &Value,
) -> Result<Vec<String>, Error> {
    let own = &checkpoint.state["eyas"];
    if own["data"]["tokenizer"] != data["tokenizer"] {
        let problem = "it was trained with another tokenizer; choose another output_dir, or overwrite_output_dir = true";
        return Err(Error::checkpoint(&checkpoint.path, problem));
    }
    let mut lines = Vec::new();
    let mut compare = |name: &str, before: &Value, now: &Value| {
        if before != now {
            lines.push(format!(
                "`{name}` was {before} in the checkpoint and is {now} now: the run is not the same"
            ));
        }
    };
    let settings = config.to_json();
    for (name, now) in settings.iter().filter(|(name, _)| !HARMLESS.contains(&name.as_str())) {
        compare(name, &own["settings"][name], now);
    }
    for key in ["num_samples", "context_length", "mode"] {
        compare(key, &own["data"][key], &data[key]);
    }
    Ok(lines)
}
