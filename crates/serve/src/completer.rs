//! A model folder, opened once, that continues text.

use crate::engine::{Engine, open_engine};
use crate::error::Error;
use eyas_model::{Config, FinishReason, Format, Generated, Sampling, Use};
use eyas_ops::{CudaOptions, Isa};
use eyas_token::{StreamDecoder, Tokenizer};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

/// What weights are read as, and the element type that the network computes in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Precision {
    /// f32: what the weights are stored in.
    #[default]
    F32,
    /// bf16: half the memory to read for each token, rounded to 8 bits.
    Bf16,
    /// fp16: as much memory, rounded to 11 bits; on GPUs.
    F16,
    /// Weights in 8 bits with scales; computes in the element type that the machine multiplies fastest. On the CPU.
    Int8,
    /// Weights in 4 bits with scales; computes as with 8.
    Int4,
}

impl Precision {
    /// What a network's compute copies are for.
    pub fn purpose(self) -> Use {
        match self {
            Precision::F32 | Precision::Bf16 | Precision::F16 => Use::Inference,
            Precision::Int8 => Use::Quantized(Format::Int8),
            Precision::Int4 => Use::Quantized(Format::Int4),
        }
    }

    /// Whether the element type is bf16, on a CPU of instruction set `isa`; else it is f32, or fp16 where that was asked for.
    pub fn is_bf16(self, isa: Isa) -> bool {
        match self {
            Precision::F32 | Precision::F16 => false,
            Precision::Bf16 => true,
            Precision::Int8 | Precision::Int4 => isa == Isa::Avx512Bf16,
        }
    }
}

/// Where text goes as it becomes complete: with the number of its sequence. `Break` ends that sequence. It is called on one
/// of the device's threads.
pub type OnText<'a> = dyn FnMut(usize, &str) -> ControlFlow<()> + Send + 'a;

/// Where a network runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// On the CPU.
    Cpu {
        /// Threads; `None`: one a core. Results do not depend on it.
        num_threads: Option<usize>,
    },
    /// On an NVIDIA GPU.
    Cuda(CudaOptions),
}

impl Default for Place {
    /// The CPU, with all its cores.
    fn default() -> Self {
        Place::Cpu { num_threads: None }
    }
}

/// How a model folder is opened.
#[derive(Clone, Debug, Default)]
pub struct OpenOptions {
    /// What weights are read as.
    pub precision: Precision,
    /// Where it runs.
    pub device: Place,
    /// A tokenizer other than the model folder's own.
    pub tokenizer: Option<PathBuf>,
}

/// One continuation of a prompt.
#[derive(Clone, Debug, PartialEq)]
pub struct Completion {
    /// The new ids only, the end token included.
    pub ids: Vec<u32>,
    /// Their text, special tokens left out.
    pub text: String,
    /// Why it ended.
    pub finish_reason: FinishReason,
}

/// A network and its tokenizer.
pub struct Completer {
    engine: Box<dyn Engine>,
    tokenizer: Tokenizer,
}

impl Completer {
    /// Opens a model folder: config.json, model.safetensors and, unless another is given, its tokenizer.
    ///
    /// # Errors
    /// Those of the model and of the tokenizer; [`Error::Vocabulary`] if the tokenizer has more ids than the network;
    /// [`Error::Cuda`] if there is no such GPU; [`Error::Precision`] if the device does not have the precision.
    pub fn open(dir: &Path, options: &OpenOptions) -> Result<Self, Error> {
        let (_, tokenizer) = open_tokenizer(dir, options.tokenizer.as_deref())?;
        let engine = open_engine(dir, &options.device, options.precision)?;
        Ok(Completer { engine, tokenizer })
    }

    /// The tokenizer.
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    /// The network's configuration.
    pub fn config(&self) -> &Config {
        self.engine.config()
    }

    /// The device in words, and the format of the weights if it is not the device's own.
    pub fn describe(&self) -> String {
        let device = self.engine.describe();
        match self.engine.purpose() {
            Use::Quantized(format) => format!("{device}, weights in {format}"),
            _ => device,
        }
    }

    /// The ids of a prompt, as Hugging Face tokenizers give them: special tokens in the text become their ids. An empty
    /// prompt is an end-of-text, after which a document begins.
    ///
    /// # Errors
    /// [`Error::EmptyPrompt`] if there is no end-of-text either, and those of the tokenizer.
    pub fn prompt_ids(&self, prompt: &str) -> Result<Vec<u32>, Error> {
        let mut ids = Vec::new();
        self.tokenizer.encode(prompt, &mut ids)?;
        if ids.is_empty() {
            ids.push(self.tokenizer.end_of_text().or(self.config().bos_token_id).ok_or(Error::EmptyPrompt)?);
        }
        Ok(ids)
    }

    /// The end of `ids` that leaves room for new tokens: all of them if any room is left, else the last ones, so many that
    /// `max_new_tokens` fit, or half of the network's positions if that is less.
    pub fn fit<'a>(&self, ids: &'a [u32], max_new_tokens: usize) -> &'a [u32] {
        let positions = self.config().n_positions;
        match ids.len() < positions {
            true => ids,
            false => {
                let kept = positions - max_new_tokens.min(positions.div_ceil(2)).max(1);
                &ids[ids.len() - kept.clamp(1, ids.len())..]
            }
        }
    }

    /// Tokens that end a sequence: the model's end token and the tokenizer's end-of-text.
    pub fn end_tokens(&self) -> Vec<u32> {
        let mut ends: Vec<u32> = self.tokenizer.end_of_text().into_iter().collect();
        ends.extend(self.config().eos_token_id.filter(|id| !ends.contains(id)));
        ends
    }

    /// Continues the prompt `ids` in `num_sequences` ways. `on_text` gets text as it becomes complete, with the number of
    /// its sequence; `Break` ends that sequence. Where `sampling` names no end tokens, [`end_tokens`](Self::end_tokens)
    /// are used.
    ///
    /// # Errors
    /// Those of [`eyas_model::generate`]: a prompt without ids or without room, a parameter out of its range, broken
    /// weights.
    pub fn complete(
        &self,
        ids: &[u32],
        sampling: &Sampling,
        num_sequences: usize,
        on_text: &mut OnText<'_>,
    ) -> Result<Vec<Completion>, Error> {
        let mut sampling = sampling.clone();
        if sampling.eos_token_ids.is_empty() {
            sampling.eos_token_ids = self.end_tokens();
        }
        let mut streams: Vec<Stream> = Vec::new();
        let mut on_token = |sequence: usize, id| {
            if streams.len() <= sequence {
                streams.resize_with(sequence + 1, Stream::new);
            }
            let text = streams[sequence].decoder.push(&self.tokenizer, id);
            streams[sequence].push(sequence, &text, on_text)
        };
        let generated = self.engine.generate(ids, &sampling, num_sequences, &mut on_token)?;
        streams.resize_with(generated.len(), Stream::new);
        let completions = generated.into_iter().zip(streams).enumerate();
        Ok(completions.map(|(i, (generated, stream))| stream.finish(i, generated, on_text)).collect())
    }
}

/// A model folder's configuration and its tokenizer, or that of another folder. These are small files: a folder that is
/// refused here is refused before its weights are read.
///
/// # Errors
/// Those of the configuration and of the tokenizer, and [`Error::Vocabulary`] if the tokenizer has more ids than the
/// network.
pub fn open_tokenizer(dir: &Path, tokenizer: Option<&Path>) -> Result<(Config, Tokenizer), Error> {
    let tokenizer_path = tokenizer.unwrap_or(dir);
    let config = Config::load(dir)?;
    let tokenizer = Tokenizer::load(tokenizer_path)?;
    match tokenizer.vocab_size() <= config.vocab_size {
        true => Ok((config, tokenizer)),
        false => Err(Error::Vocabulary {
            tokenizer_path: tokenizer_path.into(),
            tokenizer: tokenizer.vocab_size(),
            model_path: dir.into(),
            model: config.vocab_size,
        }),
    }
}

/// The text of one sequence as it comes.
struct Stream {
    decoder: StreamDecoder,
    text: String,
}

impl Stream {
    fn new() -> Self {
        Stream { decoder: StreamDecoder::new().skip_special(true), text: String::new() }
    }

    fn push(&mut self, sequence: usize, text: &str, on_text: &mut OnText<'_>) -> ControlFlow<()> {
        self.text.push_str(text);
        if text.is_empty() { ControlFlow::Continue(()) } else { on_text(sequence, text) }
    }

    fn finish(mut self, sequence: usize, generated: Generated, on_text: &mut OnText<'_>) -> Completion {
        let rest = self.decoder.finish();
        // It has ended: whether the caller wants more changes nothing.
        let _ = self.push(sequence, &rest, on_text);
        Completion { ids: generated.ids, text: self.text, finish_reason: generated.finish_reason }
    }
}
