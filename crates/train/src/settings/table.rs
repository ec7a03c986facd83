//! The one table of settings. Fields, defaults, types, help, flags and the JSON in checkpoints are made from it.

use super::value::{DecayType, Kind, OptimizerKind, Raw, SaveStrategy, SchedulerType, Strategy, Value};
use crate::best::Metric;
use crate::error::Error;
use eyas_data::{HubOptions, Mode, OnError};
use serde_json::{Map, Value as Json};
use std::path::PathBuf;

/// One setting: a key of the configuration file, and a flag.
#[derive(Clone, Copy, Debug)]
pub struct Setting {
    /// Its name in snake_case; the flag is the same in kebab-case.
    pub name: &'static str,
    /// The heading it stands under in the help text.
    pub group: &'static str,
    /// What it takes.
    pub kind: Kind,
    /// Its default, spelt as an argument; empty where there is none.
    pub default: &'static str,
    /// What it does, in a sentence.
    pub help: &'static str,
}

macro_rules! settings {
    ($($group:literal { $($name:ident: $type:ty = $default:literal, $help:literal;)* })*) => {
        /// A run's configuration: TrainingArguments' names and defaults.
        #[derive(Clone, Debug)]
        pub struct TrainConfig {
            $($(#[doc = $help] pub $name: $type,)*)*
            /// GPT2Config keys that differ from `config`'s, in the order given: `n_layer`, `resid_pdrop`, ...
            pub model: Vec<(String, String)>,
            /// Where the hub is, who asks and where its files are kept: what no setting says but the environment.
            pub hub: HubOptions,
        }

        /// Every setting but GPT2Config's keys, which [`MODEL_SETTINGS`] lists.
        pub const SETTINGS: &[Setting] = &[$($(Setting {
            name: stringify!($name),
            group: $group,
            kind: <$type as Value>::KIND,
            default: $default,
            help: $help,
        },)*)*];

        impl TrainConfig {
            /// All defaults. `output_dir`, `train_data` and `tokenizer` have none and are empty.
            pub(crate) fn defaults() -> Self {
                let default = |text: &str| Raw::Argument(text.into());
                TrainConfig {
                    $($($name: Value::parse(&default($default)).expect("a default has its setting's type"),)*)*
                    model: Vec::new(),
                    hub: HubOptions::default(),
                }
            }

            /// Sets the setting `name`; `false` if there is none of that name.
            pub(super) fn assign(&mut self, name: &str, raw: &Raw, line: Option<usize>) -> Result<bool, Error> {
                match name {
                    $($(stringify!($name) => self.$name = parse(name, raw, line)?,)*)*
                    _ => return Ok(false),
                }
                Ok(true)
            }

            /// Every setting and its value: what a checkpoint records.
            pub fn to_json(&self) -> Map<String, Json> {
                let mut map = Map::new();
                $($(map.insert(stringify!($name).into(), self.$name.to_json());)*)*
                map.extend(self.model.iter().map(|(key, value)| (key.clone(), value.clone().into())));
                map
            }
        }
    };
}

settings! {
    "Files" {
        output_dir: PathBuf = "", "Folder for checkpoints, metrics.jsonl and the trained model";
        overwrite_output_dir: bool = "false", "Start again: remove the checkpoints in output_dir instead of resuming from them";
        resume_from_checkpoint: Option<PathBuf> = "", "Checkpoint to go on from, instead of the newest in output_dir";
        report_to: Vec<String> = "", "Where metrics go beside metrics.jsonl: `tensorboard`, `all`, or `none`, which is the default";
        logging_dir: Option<PathBuf> = "", "Folder for TensorBoard's events; by default `tensorboard` in output_dir";
        push_to_hub: bool = "false", "Push to the Hugging Face hub; not available yet, and said so at the start";
    }
    "Data" {
        train_data: Vec<String> = "", "What to learn from: folders of code, git repositories, files of rows (.jsonl, .json, also .gz and .zst, .parquet), datasets of the hub (hub:OWNER/NAME), or a folder made by `eyas data prepare`";
        eval_data: Vec<String> = "", "What to evaluate on; the same kinds as train_data";
        data_weights: Vec<f64> = "", "How often samples come from each of train_data, as shares of the sum: `3 1` takes three of the first for one of the second, and comes round again where there are not so many; by default as many as there are";
        tokenizer: Option<PathBuf> = "", "Tokenizer: a folder or a tokenizer.json; by default that of model_name_or_path";
        mode: Mode = "chunk", "How documents become samples: `chunk`, each document cut alone, as in the course; `pack`, one stream";
        fim_rate: f64 = "0", "Share of documents that are turned round for fill-in-the-middle, in mode pack";
        fim_spm_rate: f64 = "0.5", "Share of those that have the suffix before the prefix";
        mask_documents: bool = "false", "Let a token attend to its own document alone, not to those before it in the sample, in training and in evaluations; in mode pack only. Positions stay those of the sample";
        context_length: Option<usize> = "", "T: tokens of a sample; by default that of prepared data, else n_positions";
        shuffle: bool = "true", "Take samples in a random order, another one each epoch; otherwise as they lie in the data";
        dataloader_drop_last: bool = "false", "Leave out the last batch of an epoch if it is short";
    }
    "Documents" {
        text_field: Option<String> = "", "Field of the text in rows; by default `content`, then `text`";
        raw: bool = "false", "Take every document as it is, whatever the settings below say";
        hub_streaming: bool = "false", "Read datasets of the hub where they are, instead of keeping them in the hub's cache";
        on_error: OnError = "skip", "What becomes of broken rows and files: skip, they are counted and passed over; fail, they end the command";
        keep_secrets: bool = "false", "Leave keys, tokens, passwords and e-mail addresses as they are, instead of `<KEY>`, `<PASSWORD>` and `<EMAIL>`";
        keywords: Vec<String> = "", "Take only documents that hold one of these words; the course's are pandas, sklearn, matplotlib and seaborn";
        languages: Vec<String> = "", "Take only documents in these languages, told by file name or `#!` line: python, rust, c++, ...";
        include_paths: Vec<String> = "", "Take only documents whose path matches one of these patterns: `*.py`, `src/**`, ...";
        exclude_paths: Vec<String> = "", "Skip documents whose path matches one of these patterns";
        licenses: Vec<String> = "", "Take only documents under these licences, by SPDX identifier: MIT, Apache-2.0, ...; told by the row, an SPDX header, or the nearest licence file";
        max_document_bytes: u64 = "1000000", "Skip larger documents; 0: none";
        max_line_length: usize = "1000", "Skip documents with a longer line, in characters; 0: none";
        max_mean_line_length: usize = "100", "Skip documents whose lines are longer on average; 0: none";
        min_alphanumeric: f64 = "0.25", "Skip documents with a smaller share of letters and digits";
        skip_generated: bool = "true", "Skip documents that say in their first lines that a program wrote them";
        skip_duplicates: bool = "true", "Skip documents equal to one before";
        skip_near_duplicates: bool = "false", "Skip documents that are nearly one before, seven tenths of their five-word sequences or more; data are read twice then";
        decontaminate: Option<PathBuf> = "", "Skip documents that share 13 words in a row with a text in this file or folder: a benchmark that the model is to be measured by";
    }
    "Model" {
        config: String = "gpt2", "Shape of a new model: gpt2, gpt2-medium, gpt2-large, gpt2-xl, distilgpt2, or a config.json";
        model_name_or_path: Option<PathBuf> = "", "Model folder to begin from, instead of new weights";
    }
    "Training" {
        num_train_epochs: f64 = "3", "Passes over the training data";
        max_steps: i64 = "-1", "Updates in all, instead of num_train_epochs; -1: not used";
        max_minutes: f64 = "0", "Minutes of training, instead of updates: the schedule ends when the time is up; 0: not used";
        per_device_train_batch_size: usize = "8", "B: samples of a micro-batch";
        gradient_accumulation_steps: usize = "1", "Micro-batches of an update";
        merge_micro_batches: bool = "true", "On a GPU: run as many micro-batches of an update as one pass as divide it and fit half of its memory, up to 65,536 tokens: fewer, larger products keep more of the card busy. The update stays the same but for rounding and dropout masks";
        gradient_checkpointing: bool = "false", "Keep only the activations between blocks, and compute the rest again in the backward pass: less memory, up to a quarter more arithmetic; changes no result";
        seed: u64 = "42", "Seed of initial weights and dropout";
        data_seed: Option<u64> = "", "Seed of the order of samples; by default seed";
        bf16: bool = "false", "Activations and compute copies of weights in bf16; everything else stays f32";
        fp16: bool = "false", "Activations and compute copies of weights in fp16, with a loss scale that follows overflows; needs a GPU";
        stochastic_rounding: bool = "false", "With bf16: round the compute copies of matrices that an update makes up or down by chance, so that they are right on average, instead of to the nearest number, which loses what is smaller than half a step of bf16. Evaluations of the run are of these copies too; what is saved is in f32, and a loaded model is rounded to nearest";
        tf32: bool = "false", "On a GPU: let f32 matrix products round their operands to TF32, which is faster and less exact";
        skip_non_finite: bool = "false", "Leave out an update whose loss or gradient is not finite, and count it in the log, instead of stopping the run";
        device: String = "auto", "Where to train: `auto`, a GPU if one is found; `cpu`; `cuda`, or `cuda:1` for another than the first";
        num_threads: usize = "0", "Threads; 0: one for each core. Results do not depend on it";
    }
    "Optimizer" {
        optim: OptimizerKind = "adamw", "Optimizer: adamw, or muon for the matrices of the blocks and adamw for the rest";
        learning_rate: f64 = "5e-5", "Highest learning rate";
        weight_decay: f64 = "0", "Decoupled weight decay of everything but biases and LayerNorm";
        adam_beta1: f64 = "0.9", "Decay of AdamW's first moment";
        adam_beta2: f64 = "0.999", "Decay of AdamW's second moment";
        adam_epsilon: f64 = "1e-8", "Added to the root of AdamW's second moment";
        max_grad_norm: f64 = "1", "Gradient norm over all parameters above which the gradient is scaled down; 0: never";
        muon_momentum: f64 = "0.95", "Muon's momentum";
        muon_learning_rate: Option<f64> = "", "Highest learning rate of Muon's matrices; by default learning_rate";
    }
    "Schedule" {
        lr_scheduler_type: SchedulerType = "linear", "Curve of the learning rate after the warm-up";
        warmup_steps: f64 = "0", "Updates over which the learning rate rises from 0; below 1, a share of all";
        warmup_ratio: f64 = "0", "Share of all updates over which it rises, if warmup_steps is 0";
        min_lr: Option<f64> = "", "Lowest learning rate of cosine_with_min_lr";
        min_lr_rate: Option<f64> = "", "The same as a share of learning_rate";
        num_decay_steps: f64 = "0", "Updates over which warmup_stable_decay decays; below 1, a share of all";
        decay_type: DecayType = "cosine", "Curve of that decay";
        min_lr_ratio: f64 = "0", "Lowest learning rate of warmup_stable_decay as a share of learning_rate";
    }
    "Logging, evaluation, saving" {
        logging_steps: u64 = "500", "Updates between lines of metrics.jsonl";
        logging_first_step: bool = "false", "Log the first update too";
        eval_strategy: Strategy = "no", "When to evaluate: no, steps or epoch";
        eval_steps: Option<u64> = "", "Updates between evaluations; by default logging_steps";
        eval_on_start: bool = "false", "Evaluate before the first update too";
        per_device_eval_batch_size: usize = "8", "Samples of an evaluation batch, as far as they fit the training buffers; changes no result";
        metric_for_best_model: Option<Metric> = "", "What makes a model the best: eval_loss, the default, eval_perplexity, eval_bits_per_byte or eval_next_token_accuracy, with or without eval_";
        load_best_model_at_end: bool = "false", "End with the best checkpoint's weights instead of the last; evaluations and checkpoints must come together";
        early_stopping_patience: Option<u64> = "", "Stop after so many evaluations in a row without a better metric; by default never";
        early_stopping_threshold: f64 = "0", "By how much the metric must be better to count";
        sample_prompts: Vec<String> = "", "Prompts that each evaluation completes greedily, for samples.jsonl and the report";
        sample_max_new_tokens: usize = "64", "Tokens of such a completion at most";
        save_strategy: SaveStrategy = "steps", "When to save a checkpoint: no, steps, epoch, or best, when an evaluation is better than all before; also at the end unless no";
        save_steps: u64 = "500", "Updates between checkpoints";
        save_total_limit: Option<usize> = "", "Checkpoints to keep, the newest; the best stays too. By default all";
        save_in_background: bool = "true", "Write checkpoints from a copy in memory while training goes on";
        save_patience_minutes: f64 = "30", "Minutes to wait, at the end, for a disk that does not take the last checkpoint";
    }
}

/// GPT2Config's keys, which the same file and the same flags may hold.
pub const MODEL_SETTINGS: &[Setting] = &[
    model("vocab_size", Kind::Integer, "V: rows of the token embedding; by default the tokenizer's ids"),
    model("n_positions", Kind::Integer, "Rows of the position embedding: the longest context"),
    model("n_embd", Kind::Integer, "C: width of the residual stream"),
    model("n_layer", Kind::Integer, "L: blocks"),
    model("n_head", Kind::Integer, "NH: attention heads; divides n_embd"),
    model("n_inner", Kind::Integer, "Width of the MLP; by default 4 n_embd"),
    model("activation_function", Kind::Text, "Activation of the MLP: gelu_new"),
    model("resid_pdrop", Kind::Number, "Dropout after each projection into the residual stream"),
    model("embd_pdrop", Kind::Number, "Dropout after the embeddings"),
    model("attn_pdrop", Kind::Number, "Dropout on the attention probabilities"),
    model("layer_norm_epsilon", Kind::Number, "Added to the variance in LayerNorm"),
    model("initializer_range", Kind::Number, "Standard deviation of the initial weights"),
    model(
        "bos_token_id",
        Kind::Integer,
        "Token that opens a document; by default the tokenizer's end-of-text",
    ),
    model(
        "eos_token_id",
        Kind::Integer,
        "Token that closes a document; by default the tokenizer's end-of-text",
    ),
    model("n_ctx", Kind::Integer, "Recorded in config.json; changes nothing. By default context_length"),
];

const fn model(name: &'static str, kind: Kind, help: &'static str) -> Setting {
    Setting { name, group: "Model", kind, default: "", help }
}

fn parse<T: Value>(name: &str, raw: &Raw, line: Option<usize>) -> Result<T, Error> {
    T::parse(raw).ok_or_else(|| Error::Setting {
        name: name.into(),
        line,
        expected: T::expected(),
        got: raw.describe(),
    })
}
