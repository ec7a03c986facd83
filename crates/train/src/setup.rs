//! The start of a run: everything that can be refused is refused here, before anything is computed.
//!
//! Order matters: what is cheap and what only reads comes first; the output folder is locked before anything is written;
//! memory is allocated after the plan has been told.

use crate::checkpoint::{self, Checkpoint};
use crate::corpus::{Corpus, prepared};
use crate::error::Error;
use crate::evaluate::EvalData;
use crate::event::{Event, OnEvent};
use crate::output::OutputDir;
use crate::passes::Passes;
use crate::plan::{Epochs, Plan};
use crate::settings::{OptimizerKind, SaveStrategy, TrainConfig, refuse_hub};
use crate::storage::Disk;
use eyas_data::{Loader, Mode, Shards};
use eyas_model::{Config, Gpt, Parameters, generation_bytes, memory_plan};
use eyas_ops::{Backend, Use};
use eyas_token::Tokenizer;
use std::path::Path;
use std::sync::Arc;

/// What a run is made of, opened and checked.
pub(crate) struct Setup {
    pub(crate) output: OutputDir,
    pub(crate) tokenizer: Tokenizer,
    pub(crate) model: Config,
    pub(crate) loader: Loader,
    pub(crate) eval_data: Option<EvalData>,
    /// The token that ends a document, where those of a sample are kept apart.
    pub(crate) document_end: Option<u32>,
    pub(crate) checkpoint: Option<Checkpoint>,
    pub(crate) plan: Plan,
}

impl Setup {
    pub(crate) fn new<D: Backend>(
        device: &D,
        config: &mut TrainConfig,
        on_event: &mut OnEvent<'_>,
    ) -> Result<Self, Error> {
        let tokenizer = open_tokenizer(config)?;
        let ready = prepared("train_data", &config.train_data)?;
        prepared("eval_data", &config.eval_data)?;
        let document_end = document_end(config, &tokenizer, ready.as_deref())?;
        let given = config.context_length.or(ready.as_ref().map(|shards| shards.context_length()));
        let model = model_config(config, &tokenizer, given)?;
        let context_length = given.unwrap_or(model.n_positions);

        let output = OutputDir::open(&config.output_dir)?;
        let checkpoint = find_checkpoint(config, on_event)?;
        if let Some(checkpoint) = &checkpoint {
            same_shapes(&checkpoint.path, &Config::load(&checkpoint.path)?, &model, CONTINUE_HINT)?;
        }
        let corpus = Corpus {
            config: &*config,
            tokenizer: &tokenizer,
            context_length,
            resuming: checkpoint.is_some(),
        };
        let loader = corpus.train(ready, on_event)?;
        let eval_data = if config.evaluates() { corpus.eval(on_event)? } else { None };

        let asked = config.per_device_train_batch_size;
        let passes = Passes { device, model: &model, loader: &loader, context_length };
        let split = passes.split(config, checkpoint.as_ref())?;
        let (merged, changed) = passes.merge(config, checkpoint.as_ref());
        let mut plan = plan(device, config, &model, &loader, context_length, merged);
        if config.dataloader_drop_last {
            // An epoch is cut as it was asked for, however its batches are split.
            plan.epochs.num_samples = loader.num_samples() - loader.num_samples() % asked as u64;
            plan.budget = plan.epochs.budget(config);
        }
        plan.asked_batch_size = asked;
        plan.peak_flops = device.peak_flops();
        plan.num_eval_targets = eval_data.as_ref().map(|data| data.num_targets(context_length));
        plan.first_step = checkpoint.as_ref().map_or(Ok(0), Checkpoint::step)?;
        plan.warnings = split.into_iter().chain(changed).collect();
        plan.warnings.extend(warnings(config, &plan, context_length, model.n_positions));
        if config.save_in_background {
            plan.memory.push(("copy for saving", plan.checkpoint_bytes));
        }
        plan.num_checkpoints = num_checkpoints(config, &plan);
        let there = checkpoint::list(output.path())?.len() as u64;
        // Those that are there are counted in the plan, and need no more room; without a number, a new one is written
        // before an old one is removed.
        let to_come = plan.num_checkpoints.map_or(1, |many| many.saturating_sub(there).max(1));
        let to_come = if config.save_strategy == SaveStrategy::No { 0 } else { to_come };
        let needed =
            to_come.saturating_mul(plan.checkpoint_bytes).saturating_add(4 * plan.num_parameters as u64);
        output.require_free(needed, to_come)?;
        for warning in &plan.warnings {
            on_event(Event::Warning(warning));
        }
        on_event(Event::Plan(&plan));
        Ok(Setup { output, tokenizer, model, loader, eval_data, document_end, checkpoint, plan })
    }

    /// The network: the checkpoint's, that of `model_name_or_path`, or a new one.
    pub(crate) fn gpt<D: Backend>(&self, device: &Arc<D>, config: &TrainConfig) -> Result<Gpt<D>, Error> {
        let from = self.checkpoint.as_ref().map(|checkpoint| checkpoint.path.as_path());
        let mut gpt = match from.or(config.model_name_or_path.as_deref()) {
            Some(path) => Gpt::load(device.clone(), path, Use::Training)?,
            None => {
                let mut gpt = Gpt::new(device.clone(), self.model.clone(), Use::Training)?;
                gpt.init(config.seed);
                gpt
            }
        };
        // Dropouts and special tokens are the settings'; shapes are known to be the same.
        *gpt.config_mut() = self.model.clone();
        gpt.set_gradient_checkpointing(config.gradient_checkpointing);
        gpt.set_document_end(self.document_end);
        Ok(gpt)
    }
}

fn open_tokenizer(config: &TrainConfig) -> Result<Tokenizer, Error> {
    if let Some(path) = &config.model_name_or_path {
        refuse_hub("model_name_or_path", path)?;
    }
    if let Some(path) = &config.tokenizer {
        refuse_hub("tokenizer", path)?;
    }
    let path = config.tokenizer.as_ref().or(config.model_name_or_path.as_ref());
    let missing = Error::MissingSetting { name: "tokenizer", hint: "a tokenizer folder" };
    Ok(Tokenizer::load(path.ok_or(missing)?)?)
}

/// The token that ends a document, where mask_documents keeps those of a sample apart.
///
/// # Errors
/// Data in chunks: each is of one document, so that who asks for it means other data.
fn document_end(
    config: &TrainConfig,
    tokenizer: &Tokenizer,
    ready: Option<&Shards>,
) -> Result<Option<u32>, Error> {
    if !config.mask_documents {
        return Ok(None);
    }
    match (ready.map_or(config.mode, Shards::mode), ready) {
        (Mode::Pack, _) => Ok(Some(tokenizer.end_of_text().ok_or(eyas_data::Error::NoEndOfText)?)),
        (Mode::Chunk, Some(shards)) => Err(Error::Data {
            name: "train_data",
            path: shards.dir().into(),
            expected: "data of mode pack, since mask_documents is true".into(),
            got: "chunks, each of one document; prepare the data with `--mode pack`, or leave mask_documents out"
                .into(),
        }),
        (Mode::Chunk, None) => Err(Error::Setting {
            name: "mask_documents".into(),
            line: None,
            expected: "false, since a sample of mode chunk is of one document, or mode = \"pack\"".into(),
            got: "true".into(),
        }),
    }
}

/// The network's configuration: a built-in shape or a file, then the tokenizer's ids, then the settings.
fn model_config(
    config: &TrainConfig,
    tokenizer: &Tokenizer,
    context_length: Option<usize>,
) -> Result<Config, Error> {
    let existing = config.model_name_or_path.as_deref().map(Config::load).transpose()?;
    let mut model = match &existing {
        Some(existing) => existing.clone(),
        None => {
            let mut model = base_shape(&config.config)?;
            model.vocab_size = tokenizer.vocab_size();
            (model.bos_token_id, model.eos_token_id) = (tokenizer.end_of_text(), tokenizer.end_of_text());
            model.n_ctx = Some(context_length.unwrap_or(model.n_positions));
            model
        }
    };
    for (key, value) in &config.model {
        model.set(key, value).map_err(as_setting)?;
    }
    model.validate().map_err(as_setting)?;
    if let (Some(existing), Some(path)) = (&existing, &config.model_name_or_path) {
        same_shapes(path, existing, &model, "the shape of a trained model cannot be changed")?;
    }
    model.validate_context(context_length.unwrap_or(model.n_positions)).map_err(as_setting)?;
    if tokenizer.vocab_size() > model.vocab_size {
        let path =
            config.tokenizer.as_ref().or(config.model_name_or_path.as_ref()).cloned().unwrap_or_default();
        return Err(Error::Vocabulary { path, tokenizer: tokenizer.vocab_size(), model: model.vocab_size });
    }
    Ok(model)
}

fn base_shape(name: &str) -> Result<Config, Error> {
    if let Some(model) = Config::builtin(name) {
        return Ok(model);
    }
    refuse_hub("config", Path::new(name))?;
    if !Path::new(name).exists() {
        return Err(Error::Setting {
            name: "config".into(),
            line: None,
            expected: format!("{}, or a config.json or a folder with one", Config::BUILTIN.join(", ")),
            got: format!("`{name}`"),
        });
    }
    Ok(Config::load(Path::new(name))?)
}

/// A wrong value that came from the settings, as such.
fn as_setting(error: eyas_model::Error) -> Error {
    match error {
        eyas_model::Error::Config { key, expected, got } => {
            Error::Setting { name: key, line: None, expected, got }
        }
        other => other.into(),
    }
}

const CONTINUE_HINT: &str =
    "to train another shape choose another output_dir, or start again with overwrite_output_dir = true";

/// Refuses weights of other shapes, and names the key that differs.
fn same_shapes(path: &Path, got: &Config, expected: &Config, hint: &'static str) -> Result<(), Error> {
    let sizes = |config: &Config| {
        [
            ("n_layer", config.n_layer),
            ("n_embd", config.n_embd),
            ("n_head", config.n_head),
            ("n_inner", config.inner()),
            ("vocab_size", config.vocab_size),
            ("n_positions", config.n_positions),
        ]
    };
    for ((key, got), (_, expected)) in sizes(got).into_iter().zip(sizes(expected)) {
        if got != expected {
            let (expected, got) = (expected.to_string(), got.to_string());
            return Err(Error::Shape { path: path.into(), key, expected, got, hint });
        }
    }
    Ok(())
}

/// The checkpoint to go on from, if there is one.
fn find_checkpoint(config: &TrainConfig, on_event: &mut OnEvent<'_>) -> Result<Option<Checkpoint>, Error> {
    let found = checkpoint::list(&config.output_dir)?;
    if let Some(path) = &config.resume_from_checkpoint {
        let checkpoint = Checkpoint::open(path)?;
        let step = checkpoint.step()?;
        // A later run would take the newest for its own, and the best of another run for this one's.
        let is_ours = checkpoint::is_same(path, &checkpoint::path(&config.output_dir, step));
        return match found.iter().find(|(other, _)| !is_ours || *other > step) {
            None => Ok(Some(checkpoint)),
            Some((_, other)) => {
                let how = if is_ours { "newer than" } else { "of another run than" };
                let hint = "move it away, or choose another output_dir";
                Err(Error::checkpoint(other, format!("it is {how} {}; {hint}", path.display())))
            }
        };
    }
    if config.overwrite_output_dir {
        return Ok(None);
    }
    checkpoint::newest_whole(&Disk, &config.output_dir, &mut |error| {
        on_event(Event::Warning(&format!("passed over: {error}")));
    })
}

/// What the run is to do; `merged` micro-batches run as one pass.
pub(crate) fn plan<D: Backend>(
    device: &D,
    config: &TrainConfig,
    model: &Config,
    loader: &Loader,
    context_length: usize,
    merged: Option<u64>,
) -> Plan {
    let batch = config.per_device_train_batch_size.saturating_mul(merged.unwrap_or(1) as usize);
    let batch = batch.min(loader.num_samples() as usize);
    let epochs = Epochs::new(config, loader.num_samples());
    let num_parameters = eyas_model::num_parameters(model);
    let checkpointing = config.gradient_checkpointing;
    let memory = memory_plan(device, model, batch, context_length, Use::Training, checkpointing);
    let mut memory: Vec<_> = memory.items.into_iter().map(|(kind, bytes)| (kind, bytes as u64)).collect();
    // Muon keeps one number for each element of the blocks' matrices, AdamW two.
    let saved = match config.optim {
        OptimizerKind::AdamW => 0,
        OptimizerKind::Muon => {
            let blocks = Parameters::declare(model).blocks;
            let of_block = |block: &eyas_model::Block<eyas_model::Declaration>| {
                let weights = [&block.attn.c_attn, &block.attn.c_proj, &block.mlp.c_fc, &block.mlp.c_proj]
                    .map(|m| m.weight.len());
                4 * weights.iter().sum::<usize>() as u64
            };
            blocks.iter().map(of_block).sum()
        }
    };
    let state_bytes = 8 * num_parameters as u64 - saved;
    memory
        .iter_mut()
        .filter(|(kind, _)| *kind == "optimizer state")
        .for_each(|(_, bytes)| *bytes = state_bytes);
    if config.evaluates() && !config.sample_prompts.is_empty() {
        memory.push(("samples", generation_bytes(device, model, 1, model.n_positions) as u64));
    }
    Plan {
        device: device.describe(),
        peak_flops: 0.0,
        num_parameters,
        num_decayed: eyas_model::num_decayed(model),
        context_length,
        num_train_tokens: loader.shards().num_tokens(),
        epochs,
        asked_batch_size: config.per_device_train_batch_size,
        merged,
        budget: epochs.budget(config),
        first_step: 0,
        flops_per_token: eyas_model::flops_per_token(model, context_length),
        memory,
        checkpoint_bytes: 4 * num_parameters as u64 + state_bytes,
        num_checkpoints: None,
        num_eval_targets: None,
        warnings: Vec::new(),
    }
}

/// Checkpoints that are on the disk at once, at most, at the end of the run or just before an old one goes.
fn num_checkpoints(config: &TrainConfig, plan: &Plan) -> Option<u64> {
    if config.save_strategy == SaveStrategy::No {
        return Some(0);
    }
    let made =
        plan.num_steps().zip(config.save_every(&plan.epochs)).map(|(steps, every)| steps.div_ceil(every));
    // The best stays beside the newest, and a new one comes before an old one goes.
    let kept = config.save_total_limit.map(|limit| limit as u64 + if config.evaluates() { 2 } else { 1 });
    match (made, kept) {
        (Some(made), Some(kept)) => Some(made.min(kept)),
        (made, kept) => made.or(kept),
    }
}

fn warnings(config: &TrainConfig, plan: &Plan, context_length: usize, num_positions: usize) -> Vec<String> {
    let mut warnings = Vec::new();
    if config.push_to_hub {
        warnings.push(format!(
            "push_to_hub: eyas cannot push yet; when the run is done, upload with `huggingface-cli upload NAME {}`",
            config.output_dir.display()
        ));
    }
    if plan.first_step == 0 && config.output_dir.join("model.safetensors").exists() {
        warnings.push(format!("{} holds a model, which this run will replace", config.output_dir.display()));
    }
    if !config.evaluates() && !config.eval_data.is_empty() {
        warnings.push("eval_data is given, but eval_strategy is `no`: nothing will be evaluated".into());
    }
    if let Some(steps) = plan.num_steps() {
        let warmup = if config.warmup_steps >= 1.0 { config.warmup_steps } else { 0.0 };
        if warmup >= steps as f64 {
            warnings.push(format!(
                "warmup_steps is {warmup}, and the run has {steps} updates: it ends before the learning rate is up"
            ));
        }
    }
    if plan.epochs.num_samples < plan.epochs.samples_per_update() {
        warnings.push(format!(
            "the data have {} samples, fewer than the {} of one update",
            plan.epochs.num_samples,
            plan.epochs.samples_per_update()
        ));
    }
    if num_positions > 2 * context_length && config.model_name_or_path.is_none() {
        warnings.push(format!(
            "positions {context_length} to {num_positions} of n_positions are never trained; n_positions = {context_length} would do"
        ));
    }
    warnings
}
