//! A network on a device: its configuration, its weights, and the compute copies that matrices are multiplied from.
//!
//! Owns the one rule that keeps them right: weights change only inside [`Gpt::update`], [`Gpt::init`] and loading, each of
//! which makes the compute copies again before it returns, so that a stale copy cannot be used. Copies are of the nearest
//! numbers, but for those that an update asks to be rounded by chance.

use crate::activations::{Keep, new_identity};
use crate::config::Config;
use crate::error::Error;
use crate::files::{WeightFiles, config_files, save_model};
use crate::memory::{compute_copies_bytes, require_memory};
use crate::parameters::{Declaration, Init, Parameters, num_parameters};
use crate::safetensors::TensorOut;
use eyas_ops::{Backend, Buf, Buffer, Rng, Rounding, Storage, Use};
use rayon::prelude::*;
use std::path::Path;
use std::sync::Arc;

/// A GPT-2 on device `D`.
pub struct Gpt<D: Backend> {
    device: Arc<D>,
    config: Config,
    purpose: Use,
    gradient_checkpointing: bool,
    pub(crate) document_end: Option<u32>,
    pub(crate) identity: u64,
    declarations: Parameters<Declaration>,
    pub(crate) weights: Parameters<Buf<D, f32>>,
    pub(crate) matrices: Matrices<D::Weights>,
}

/// Compute copies of the matrices.
pub(crate) struct Matrices<W> {
    pub(crate) blocks: Vec<BlockMatrices<W>>,
    /// wte as a head: C inputs, V outputs.
    pub(crate) head: W,
}

/// Compute copies of the matrices of a block.
pub(crate) struct BlockMatrices<W> {
    pub(crate) c_attn: W,
    pub(crate) attn_proj: W,
    pub(crate) c_fc: W,
    pub(crate) mlp_proj: W,
}

impl<D: Backend> Gpt<D> {
    /// A network whose weights are all zero. `purpose` says whether it will be trained.
    pub fn new(device: Arc<D>, config: Config, purpose: Use) -> Result<Self, Error> {
        config.validate()?;
        check_device(&*device, &config, purpose)?;
        let declarations = config.parameters();
        let weights = declarations.map(|declared| device.zeros(declared.len()));
        let conv1d = |weight: &Declaration| {
            device.weights(weight.shape[0], weight.shape[1], Storage::InputsOutputs, purpose)
        };
        let blocks = declarations.blocks.iter().map(|block| BlockMatrices {
            c_attn: conv1d(&block.attn.c_attn.weight),
            attn_proj: conv1d(&block.attn.c_proj.weight),
            c_fc: conv1d(&block.mlp.c_fc.weight),
            mlp_proj: conv1d(&block.mlp.c_proj.weight),
        });
        let head = device.weights(config.n_embd, config.vocab_size, Storage::OutputsInputs, purpose);
        let matrices = Matrices { blocks: blocks.collect(), head };
        let mut gpt = Gpt {
            device,
            config,
            purpose,
            gradient_checkpointing: false,
            document_end: None,
            identity: new_identity(),
            declarations,
            weights,
            matrices,
        };
        gpt.pack(Rounding::Nearest);
        Ok(gpt)
    }

    /// Bytes a second at which the compute copies can be read, measured: what limits the choice of one token after the other.
    pub fn read_rate(&self) -> f64 {
        let Matrices { blocks, head } = &self.matrices;
        let blocks =
            blocks.iter().flat_map(|block| [&block.c_attn, &block.attn_proj, &block.c_fc, &block.mlp_proj]);
        self.device.read_rate(&blocks.chain([head]).collect::<Vec<_>>())
    }

    /// Draws GPT-2's initial values. Each tensor has its own streams, named by `seed` and the tensor's name, so that
    /// networks of different depth begin alike where they are alike.
    pub fn init(&mut self, seed: u64) {
        for (declared, weight) in self.declarations.iter().zip(self.weights.iter_mut()) {
            self.device.write(weight, &initial_values(declared, seed));
        }
        self.pack(Rounding::Nearest);
    }

    /// Reads a model folder of any layout that GPT-2 checkpoints come in. Every tensor must be there, of the declared
    /// shape, and finite.
    pub fn load(device: Arc<D>, dir: &Path, purpose: Use) -> Result<Self, Error> {
        let config = Config::load(dir)?;
        // The tensors are found before memory is allocated for them: a configuration alone cannot claim it.
        let mut files = WeightFiles::open(dir, &config.parameters())?;
        let mut gpt = Self::new(device, config, purpose)?;
        for (declared, weight) in gpt.declarations.iter().zip(gpt.weights.iter_mut()) {
            gpt.device.write(weight, &files.read(declared)?);
        }
        files.check_head(&gpt.declarations.wte, &gpt.host(&gpt.weights.wte))?;
        gpt.pack(Rounding::Nearest);
        Ok(gpt)
    }

    /// Writes config.json, generation_config.json and model.safetensors to folder `dir`, each whole or not at all.
    pub fn save(&self, dir: &Path) -> Result<(), Error> {
        save_model(dir, &self.config, self.tensors())
    }

    /// Whether every weight is finite.
    pub fn is_finite(&self) -> bool {
        self.device.sum_of_squares(&self.weights.iter().collect::<Vec<_>>()).is_finite()
    }

    /// The weights as model.safetensors has them.
    pub fn tensors(&self) -> Vec<TensorOut<'_>> {
        let tensors = self.declarations.iter().zip(self.weights.iter());
        let out = |(declared, weight): (&Declaration, _)| TensorOut {
            name: declared.name.clone(),
            shape: declared.shape.clone(),
            read: Box::new(move |values| self.device.read(values, weight)),
        };
        tensors.map(out).collect()
    }

    /// The files of a model folder beside model.safetensors: name and text.
    pub fn config_files(&self) -> [(&'static str, String); 2] {
        config_files(&self.config)
    }

    /// Reads the weights of a folder that has the same network as this one; on an error they mean nothing.
    ///
    /// # Errors
    /// A folder that is damaged, or of another shape.
    pub fn reload(&mut self, dir: &Path) -> Result<(), Error> {
        let mut files = WeightFiles::open(dir, &self.declarations)?;
        for (declared, weight) in self.declarations.iter().zip(self.weights.iter_mut()) {
            self.device.write(weight, &files.read(declared)?);
        }
        self.pack(Rounding::Nearest);
        Ok(())
    }

    /// Changes the weights with `change`, then makes the compute copies again.
    pub fn update<R>(&mut self, change: impl FnOnce(&D, &mut Parameters<Buf<D, f32>>) -> R) -> R {
        self.update_rounded(Rounding::Nearest, change)
    }

    /// The same with compute copies of matrices that are rounded as `rounding` says, until the weights change again or are
    /// loaded. Weights themselves are never rounded.
    pub fn update_rounded<R>(
        &mut self,
        rounding: Rounding,
        change: impl FnOnce(&D, &mut Parameters<Buf<D, f32>>) -> R,
    ) -> R {
        let result = change(&self.device, &mut self.weights);
        self.pack(rounding);
        result
    }

    /// The weights, f32.
    pub fn weights(&self) -> &Parameters<Buf<D, f32>> {
        &self.weights
    }

    /// The declaration of each weight.
    pub fn declarations(&self) -> &Parameters<Declaration> {
        &self.declarations
    }

    /// Its configuration.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Its configuration, for what does not change the weights' shapes: dropouts and special tokens. A changed shape is
    /// a bug of the caller, which the next operation's assertions find.
    pub fn config_mut(&mut self) -> &mut Config {
        &mut self.config
    }

    /// The device it lives on.
    pub fn device(&self) -> &Arc<D> {
        &self.device
    }

    /// What it was made for.
    pub fn purpose(&self) -> Use {
        self.purpose
    }

    /// Whether [`Activations`](crate::Activations) that are made from now on keep only what is between blocks, so that
    /// backward computes what is inside them again: less memory, up to a quarter more arithmetic, the same bits. Without it,
    /// as at first, they keep everything.
    pub fn set_gradient_checkpointing(&mut self, gradient_checkpointing: bool) {
        self.gradient_checkpointing = gradient_checkpointing;
    }

    /// With the token `id` that ends a document, attention in training and evaluation stays within documents: what stands
    /// before the last such token before it, that one included, a token does not see. Positions stay those of the row. `None`,
    /// as at first: a row is one document, as what is read through a [`KvCache`](crate::KvCache) always is.
    pub fn set_document_end(&mut self, id: Option<u32>) {
        self.document_end = id;
    }

    pub(crate) fn keep(&self) -> Keep {
        Keep::new(self.purpose, self.gradient_checkpointing)
    }

    /// Makes the compute copies from the weights.
    fn pack(&mut self, rounding: Rounding) {
        let Matrices { blocks, head } = &mut self.matrices;
        let blocks = blocks.iter_mut().zip(&self.weights.blocks).flat_map(|(copy, master)| {
            [
                (&mut copy.c_attn, &master.attn.c_attn.weight),
                (&mut copy.attn_proj, &master.attn.c_proj.weight),
                (&mut copy.c_fc, &master.mlp.c_fc.weight),
                (&mut copy.mlp_proj, &master.mlp.c_proj.weight),
            ]
        });
        let mut copies: Vec<_> = blocks.chain([(head, &self.weights.wte)]).collect();
        self.device.pack(&mut copies, rounding);
    }

    /// Copies a tensor from the device.
    fn host(&self, tensor: &Buf<D, f32>) -> Vec<f32> {
        let mut values = vec![0.0; tensor.len()];
        self.device.read(&mut values, tensor);
        values
    }
}

/// Refuses a network that the device has no kernels or no memory for, before anything is allocated.
fn check_device<D: Backend>(device: &D, config: &Config, purpose: Use) -> Result<(), Error> {
    if config.head_size() > device.max_head_size() {
        return Err(Error::Config {
            key: "n_head".into(),
            expected: format!(
                "heads of at most {} channels on {}",
                device.max_head_size(),
                device.describe()
            ),
            got: format!("{} heads of {}", config.n_head, config.head_size()),
        });
    }
    let needed_bytes = 4 * num_parameters(config) + compute_copies_bytes(device, config, purpose);
    require_memory(device, needed_bytes, || "the network".into(), "")
}

/// The initial values of a tensor. Normal values come from one stream for each block of elements, so that they are the
/// same for any number of threads.
fn initial_values(declared: &Declaration, seed: u64) -> Vec<f32> {
    const BLOCK: usize = 1 << 16;
    match declared.init {
        Init::Zeros => vec![0.0; declared.len()],
        Init::Ones => vec![1.0; declared.len()],
        Init::Normal { std } => {
            let mut values = vec![0.0; declared.len()];
            values.par_chunks_mut(BLOCK).enumerate().for_each(|(block, values)| {
                let mut rng = Rng::new(stream_key(seed, &declared.name, block as u64));
                values.iter_mut().for_each(|value| *value = (f64::from(std) * rng.normal()) as f32);
            });
            values
        }
    }
}

/// A key for a stream: FNV-1a over the parts that name it. `Rng` mixes it further.
fn stream_key(seed: u64, name: &str, block: u64) -> u64 {
    let parts = seed.to_le_bytes().into_iter().chain(name.bytes()).chain(block.to_le_bytes());
    parts.fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}
