//! What a run carries from update to update beside weights and optimizer: trainer_state.json, without its hashes.
//!
//! The keys that transformers' TrainerState has are written under its names; the rest is what its `stateful_callbacks` has
//! under `eyas`, so that transformers reads the file. Place in the data,
//! learning rate and dropout all follow from `global_step`, the seed and the settings, so nothing of them can be forgotten;
//! what the state adds is the settings themselves, to say what changed.

use crate::checkpoint::{self, Checkpoint, OWN};
use crate::error::Error;
use crate::loss_scale::LossScale;
use crate::passes::{ASKED, MERGED, split_otherwise};
use crate::plan::Plan;
use crate::runlog::{RunLog, Window};
use crate::settings::TrainConfig;
use eyas_data::Loader;
use eyas_model::Config;
use eyas_token::Tokenizer;
use serde_json::{Map, Value, json};

/// Settings that do not change what is learned.
const HARMLESS: &[&str] = &[
    "output_dir",
    "overwrite_output_dir",
    "resume_from_checkpoint",
    "push_to_hub",
    "eval_data",
    "eval_strategy",
    "eval_steps",
    "eval_on_start",
    "per_device_eval_batch_size",
    "skip_non_finite",
    "logging_steps",
    "logging_first_step",
    "save_strategy",
    "save_steps",
    "save_total_limit",
    "save_in_background",
    "save_patience_minutes",
    "metric_for_best_model",
    "load_best_model_at_end",
    "early_stopping_patience",
    "early_stopping_threshold",
    "sample_prompts",
    "sample_max_new_tokens",
    "report_to",
    "logging_dir",
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
    /// A hash of every token that was read, in its order: BLAKE3 of the hash before and an update's tokens.
    pub(crate) tokens_digest: [u8; 32],
    /// Learning rate of the last update, for a line of the log that is still to come.
    pub(crate) learning_rate: f64,
    /// Its gradient norm.
    pub(crate) grad_norm: f64,
    /// Sums since the last log line.
    pub(crate) window: Window,
    /// Sums since the beginning.
    pub(crate) total: Window,
    /// Updates that were left out because something was not finite.
    pub(crate) skipped_updates: u64,
    /// fp16's loss scale; `None` in other precisions.
    pub(crate) loss_scale: Option<LossScale>,
}

/// What the training data are, for a resumed run to compare.
pub(crate) fn data_identity(loader: &Loader, tokenizer: &Tokenizer) -> Value {
    json!({
        "num_samples": loader.num_samples(),
        "shards": blake3::Hash::from_bytes(loader.shards().fingerprint()).to_hex().to_string(),
        "context_length": loader.context_length(),
        "mode": loader.shards().mode(),
        "tokenizer": blake3::Hash::from_bytes(tokenizer.fingerprint()).to_hex().to_string(),
    })
}

impl State {
    /// The content of trainer_state.json.
    pub(crate) fn to_json(&self, run: &RunFacts<'_>) -> Map<String, Value> {
        let RunFacts { config, plan, data, log, best, best_checkpoint, elapsed_seconds } = *run;
        let state = json!({
            "best_global_step": best.map(|(step, _)| step),
            "best_metric": best.map(|(_, value)| value),
            "best_model_checkpoint": best_checkpoint,
            "epoch": plan.epochs.epoch_after(self.step),
            "eval_steps": config.eval_every(&plan.epochs).unwrap_or(0),
            "global_step": self.step,
            "is_hyper_param_search": false,
            "is_local_process_zero": true,
            "is_world_process_zero": true,
            "log_history": log.history(),
            "logging_steps": config.logging_steps,
            "max_steps": plan.num_steps(),
            "num_input_tokens_seen": self.num_tokens,
            "num_train_epochs": config.num_train_epochs,
            "save_steps": config.save_every(&plan.epochs).unwrap_or(0),
            "stateful_callbacks": {OWN: {
                "version": env!("CARGO_PKG_VERSION"),
                "elapsed_seconds": elapsed_seconds,
                "learning_rate": self.learning_rate,
                "grad_norm": self.grad_norm,
                "window": self.window.to_json(),
                "total": self.total.to_json(),
                "skipped_updates": self.skipped_updates,
                "loss_scale": self.loss_scale.map(LossScale::to_json),
                "position": position(plan, self.step),
                "tokens_digest": blake3::Hash::from_bytes(self.tokens_digest).to_hex().to_string(),
                "samples": log.samples(),
                "data": data,
                "settings": config.to_json(),
                ASKED: plan.asked_batch_size,
                MERGED: plan.merged,
            }},
            "total_flos": self.num_tokens as f64 * plan.flops_per_token,
            "train_batch_size": config.per_device_train_batch_size,
            "trial_name": null,
            "trial_params": null,
        });
        match state {
            Value::Object(map) => map,
            _ => Map::new(),
        }
    }

    /// What a checkpoint says of its run.
    pub(crate) fn from_checkpoint(checkpoint: &Checkpoint) -> Result<Resumed, Error> {
        let missing =
            |key: &str| Error::checkpoint(&checkpoint.path, format!("trainer_state.json lacks `{key}`"));
        let (state, own) = (&checkpoint.state, checkpoint::own(&checkpoint.state));
        let window = |key: &str| {
            own[key].as_object().and_then(Window::from_json).ok_or_else(|| missing(&format!("{OWN}.{key}")))
        };
        let loss_scale = match &own["loss_scale"] {
            Value::Null => None,
            value => Some(LossScale::from_json(value).ok_or_else(|| missing("eyas.loss_scale"))?),
        };
        let number = |key: &str| state.get(key).and_then(Value::as_u64).ok_or_else(|| missing(key));
        let digest = own["tokens_digest"].as_str().and_then(|hex| blake3::Hash::from_hex(hex).ok());
        let history = state.get("log_history").and_then(Value::as_array).cloned();
        let elapsed_seconds = own["elapsed_seconds"].as_f64();
        Ok(Resumed {
            state: State {
                step: checkpoint.step()?,
                num_tokens: number("num_input_tokens_seen")?,
                tokens_digest: *digest.ok_or_else(|| missing("eyas.tokens_digest"))?.as_bytes(),
                // null is what was not finite.
                learning_rate: own["learning_rate"].as_f64().unwrap_or(f64::NAN),
                grad_norm: own["grad_norm"].as_f64().unwrap_or(f64::NAN),
                window: window("window")?,
                total: window("total")?,
                skipped_updates: own["skipped_updates"]
                    .as_u64()
                    .ok_or_else(|| missing("eyas.skipped_updates"))?,
                loss_scale,
            },
            elapsed_seconds: elapsed_seconds.ok_or_else(|| missing("eyas.elapsed_seconds"))?,
            history: history.ok_or_else(|| missing("log_history"))?,
            samples: own["samples"].as_array().cloned().ok_or_else(|| missing("eyas.samples"))?,
        })
    }

    /// Enters the tokens of an update into the digest.
    pub(crate) fn digest(&mut self, tokens: &[u32]) {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&self.tokens_digest);
        for chunk in tokens.chunks(256) {
            let mut bytes = [0; 1024];
            for (bytes, token) in bytes.chunks_exact_mut(4).zip(chunk) {
                bytes.copy_from_slice(&token.to_le_bytes());
            }
            hasher.update(&bytes[..4 * chunk.len()]);
        }
        self.tokens_digest = *hasher.finalize().as_bytes();
    }
}

/// What trainer_state.json says beside the state itself.
#[derive(Clone, Copy)]
pub(crate) struct RunFacts<'a> {
    pub(crate) config: &'a TrainConfig,
    pub(crate) plan: &'a Plan,
    pub(crate) data: &'a Value,
    pub(crate) log: &'a RunLog,
    /// Step and metric of the best evaluation.
    pub(crate) best: Option<(u64, f64)>,
    /// The checkpoint of that step, if there is one.
    pub(crate) best_checkpoint: Option<&'a str>,
    /// Seconds since the beginning.
    pub(crate) elapsed_seconds: f64,
}

/// What a checkpoint says of its run.
#[derive(Default)]
pub(crate) struct Resumed {
    pub(crate) state: State,
    pub(crate) elapsed_seconds: f64,
    pub(crate) history: Vec<Value>,
    pub(crate) samples: Vec<Value>,
}

/// Where in the data the next update begins; for people, since it follows from the step.
fn position(plan: &Plan, step: u64) -> Value {
    let (epoch, samples) = plan.epochs.samples_of(step);
    json!({"epoch": epoch, "sample": samples.start})
}

/// What differs between a checkpoint's run and this one, of what changes the result: a line each.
///
/// # Errors
/// Tokens of another tokenizer, which the weights do not know, or other tokens of data that have the same name.
pub(crate) fn differences(
    checkpoint: &Checkpoint,
    config: &TrainConfig,
    model: &Config,
    data: &Value,
    asked_batch_size: usize,
) -> Result<Vec<String>, Error> {
    let own = checkpoint::own(&checkpoint.state);
    if own["data"]["tokenizer"] != data["tokenizer"] {
        let problem = "it was trained with another tokenizer; choose another output_dir, or overwrite_output_dir = true";
        return Err(Error::checkpoint(&checkpoint.path, problem));
    }
    // Who names other data means it; under the same name there must be the same tokens.
    let settings = TrainConfig { model: Vec::new(), ..config.clone() }.to_json();
    if own["settings"]["train_data"] == settings["train_data"] && own["data"]["shards"] != data["shards"] {
        let problem = "train_data has other tokens now than those it was trained on, under the same name; give the data as they \
                       were, choose another output_dir, or overwrite_output_dir = true";
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
    // Of the model the settings hold only what was given; its configuration is compared, whose shapes are known to be the same.
    let before = Config::load(&checkpoint.path)?;
    for (name, before, now) in [
        ("resid_pdrop", before.resid_pdrop, model.resid_pdrop),
        ("embd_pdrop", before.embd_pdrop, model.embd_pdrop),
        ("attn_pdrop", before.attn_pdrop, model.attn_pdrop),
        ("layer_norm_epsilon", before.layer_norm_epsilon, model.layer_norm_epsilon),
    ] {
        compare(name, &json!(before), &json!(now));
    }
    // Samples at once, and passes of an update, are the device's affair where an update was asked for in the same way.
    let split = split_otherwise(config, own, asked_batch_size);
    let is_compared = |name: &str| {
        !HARMLESS.contains(&name)
            && (split.is_none()
                || !["per_device_train_batch_size", "gradient_accumulation_steps"].contains(&name))
    };
    for (name, now) in settings.iter().filter(|(name, _)| is_compared(name)) {
        // A setting that the version which saved did not know has its default now, or is meant.
        own["settings"].get(name).into_iter().for_each(|before| compare(name, before, now));
    }
    for key in ["num_samples", "context_length", "mode", "shards"] {
        compare(key, &own["data"][key], &data[key]);
    }
    lines.extend(split);
    Ok(lines)
}
