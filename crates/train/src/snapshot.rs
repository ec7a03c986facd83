//! What a checkpoint is written from: the run as it is now, or a copy of it in memory that stays while training goes on.
//!
//! The copy's room is made once and filled at every save, which is all that training waits for. Without room for it
//! (`save_in_background = false`) the same files are written from the run itself.

use crate::error::Error;
use crate::optimizer::Optimizer;
use eyas_model::{Gpt, TensorImage, write_tensors_to};
use eyas_ops::Backend;
use eyas_token::Tokenizer;
use serde_json::{Map, Value};
use std::io::{self, Write};

pub(crate) const MODEL: &str = "model.safetensors";
pub(crate) const OPTIMIZER: &str = "optimizer.safetensors";
pub(crate) const CARD: &str = "README.md";

/// Writes the content of a file.
type WriteTo<'a> = Box<dyn Fn(&mut dyn Write) -> io::Result<()> + 'a>;

/// A file of a checkpoint: its name, and how its content is written.
pub struct FileOut<'a> {
    pub(crate) name: String,
    pub(crate) write_to: WriteTo<'a>,
}

impl<'a> FileOut<'a> {
    /// A file whose content is made while it is written.
    pub fn new(name: &str, write_to: impl Fn(&mut dyn Write) -> io::Result<()> + 'a) -> Self {
        FileOut { name: name.into(), write_to: Box::new(write_to) }
    }

    fn bytes(name: &str, bytes: &'a [u8]) -> Self {
        Self::new(name, |out| out.write_all(bytes))
    }
}

/// What a checkpoint holds.
pub struct Contents<'a> {
    /// Updates done.
    pub step: u64,
    /// Every file but trainer_state.json.
    pub files: Vec<FileOut<'a>>,
    /// The content of trainer_state.json, without the hashes.
    pub state: Map<String, Value>,
}

/// The small files of a checkpoint: name and content.
pub(crate) type SmallFiles = Vec<(String, Vec<u8>)>;

/// The tokenizer's.
pub(crate) fn tokenizer_files(tokenizer: &Tokenizer) -> Result<SmallFiles, Error> {
    Ok(tokenizer.files()?.into_iter().map(|(name, bytes)| (name.into(), bytes)).collect())
}

/// Configuration, tokenizer and model card.
pub(crate) fn small_files<D: Backend>(gpt: &Gpt<D>, tokenizer: &SmallFiles, card: String) -> SmallFiles {
    let mut files: SmallFiles =
        gpt.config_files().into_iter().map(|(name, text)| (name.into(), text.into_bytes())).collect();
    files.extend(tokenizer.iter().cloned());
    files.push((CARD.into(), card.into_bytes()));
    files
}

/// The files of a checkpoint of the run itself.
pub(crate) fn live_files<'a, D: Backend>(
    gpt: &'a Gpt<D>,
    optimizer: &'a Optimizer<D>,
    small: &'a SmallFiles,
) -> Vec<FileOut<'a>> {
    let mut files = vec![
        FileOut::new(MODEL, |out| write_tensors_to(out, &[("format", "pt".into())], gpt.tensors())),
        FileOut::new(OPTIMIZER, |out| write_tensors_to(out, &optimizer.metadata(), optimizer.tensors())),
    ];
    files.extend(small.iter().map(|(name, bytes)| FileOut::bytes(name, bytes)));
    files
}

/// A copy of a run in memory.
pub(crate) struct Snapshot {
    model: TensorImage,
    optimizer: TensorImage,
    small: SmallFiles,
    step: u64,
    state: Map<String, Value>,
}

impl Snapshot {
    /// Room for a copy. Its pages are first touched by the first save.
    pub(crate) fn new<D: Backend>(gpt: &Gpt<D>, optimizer: &Optimizer<D>) -> Self {
        Snapshot {
            model: TensorImage::new(gpt.tensors()),
            optimizer: TensorImage::new(optimizer.tensors()),
            small: Vec::new(),
            step: 0,
            state: Map::new(),
        }
    }

    /// Copies the run.
    pub(crate) fn take<D: Backend>(
        &mut self,
        gpt: &Gpt<D>,
        optimizer: &Optimizer<D>,
        small: SmallFiles,
        step: u64,
        state: Map<String, Value>,
    ) {
        self.model.fill(&[("format", "pt".into())], gpt.tensors());
        self.optimizer.fill(&optimizer.metadata(), optimizer.tensors());
        (self.small, self.step, self.state) = (small, step, state);
    }

    /// What a checkpoint of it holds.
    pub(crate) fn contents(&self) -> Contents<'_> {
        let mut files = vec![
            FileOut::new(MODEL, |out| self.model.write_to(out)),
            FileOut::new(OPTIMIZER, |out| self.optimizer.write_to(out)),
        ];
        files.extend(self.small.iter().map(|(name, bytes)| FileOut::bytes(name, bytes)));
        Contents { step: self.step, files, state: self.state.clone() }
    }
}
