//! A small corpus, its tokenizer, and runs on them.

use eyas_ops::{Backend, Cpu, Isa};
use eyas_token::{TrainOptions, WordCounts, train};
use eyas_train::{Error, Event, Outcome, Requests, TrainConfig, Trainer};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// A temporary folder with `code/`, `valid/` and `tokenizer/`.
pub(crate) struct World {
    dir: tempfile::TempDir,
}

impl World {
    pub(crate) fn new() -> Self {
        let world = World { dir: tempfile::tempdir().expect("a temporary folder") };
        let mut counts = WordCounts::new();
        for (folder, num_files) in [("code", 12), ("valid", 3)] {
            fs::create_dir_all(world.path(folder)).expect("made");
            for i in 0..num_files {
                let text = source(folder, i);
                counts.add(&text);
                fs::write(world.path(folder).join(format!("file_{i}.py")), text).expect("written");
            }
        }
        let options = TrainOptions { vocab_size: 300, ..TrainOptions::default() };
        let tokenizer = train(counts, &options, &mut |_, _| {}).expect("a tokenizer");
        tokenizer.save(&world.path("tokenizer")).expect("saved");
        world
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A tiny run of 12 updates of two micro-batches into `output`, changed by `settings`.
    pub(crate) fn config(&self, output: &str, settings: &[(&str, &str)]) -> Result<TrainConfig, Error> {
        let own = |name: &str| self.path(name).to_string_lossy().into_owned();
        let toml = format!(
            "output_dir = '{}'\ntrain_data = '{}'\ntokenizer = '{}'\n{TINY}",
            own(output),
            own("code"),
            own("tokenizer")
        );
        let settings: Vec<_> =
            settings.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
        TrainConfig::parse(&toml, &settings)
    }
}

const TINY: &str = "
    n_layer = 2
    n_embd = 32
    n_head = 2
    n_positions = 16
    context_length = 16
    per_device_train_batch_size = 3
    gradient_accumulation_steps = 2
    max_steps = 12
    learning_rate = 1e-2
    weight_decay = 0.1
    warmup_steps = 3
    lr_scheduler_type = 'cosine'
    logging_steps = 4
";

fn source(folder: &str, i: usize) -> String {
    let mut text = format!("import numpy as np\n\n# {folder} {i}\n");
    for j in 0..6 {
        text += &format!(
            "def function_{i}_{j}(value, other):\n    result = value * {j} + other\n    return result\n\n"
        );
    }
    text
}

/// Runs `config` in f32 on `threads` threads; `watch` sees every event and may set the flag that stops the run.
pub(crate) fn run(
    config: TrainConfig,
    threads: usize,
    watch: &mut dyn FnMut(&Event<'_>, &AtomicBool),
) -> Result<Outcome, Error> {
    run_on(Cpu::<f32>::with(Isa::detect(), threads), config, watch)
}

/// The same on a given device.
pub(crate) fn run_on<D: Backend>(
    device: D,
    config: TrainConfig,
    watch: &mut dyn FnMut(&Event<'_>, &AtomicBool),
) -> Result<Outcome, Error> {
    let requests = Requests::default();
    let mut on_event = |event: Event<'_>| watch(&event, &requests.stop);
    let mut trainer = Trainer::new(Arc::new(device), config, &mut on_event)?;
    trainer.run(&requests, &mut on_event)
}

/// Runs `config` to its end and returns what it logged of each update's loss.
pub(crate) fn run_to_end(config: TrainConfig) -> Vec<f64> {
    let mut losses = Vec::new();
    let outcome = run(config, 2, &mut |event, _| {
        if let Event::Step(metrics) = event {
            losses.push(metrics.loss);
        }
    });
    assert!(!outcome.expect("a run").stopped);
    losses
}

/// Runs `config` and asks it to stop after micro-batch `number`, counted from 1.
pub(crate) fn run_until(config: TrainConfig, number: usize) -> Outcome {
    let mut seen = 0;
    run(config, 2, &mut |event, stop| {
        if let Event::MicroBatch { .. } = event {
            seen += 1;
            if seen == number {
                stop.store(true, Ordering::Relaxed);
            }
        }
    })
    .expect("a run")
}

/// The bytes of a model's weights.
pub(crate) fn weights(dir: &Path) -> Vec<u8> {
    fs::read(dir.join("model.safetensors")).expect("weights")
}
