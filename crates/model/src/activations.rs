//! The buffers of a training step or an evaluation: what forward saves, and the gradients that backward passes down.
//!
//! All of them are allocated once, for the largest batch; a smaller batch uses the start of each. For training every block
//! has buffers of its own, because backward reads them again (but for what the device can make again); otherwise the
//! blocks take turns with one set. With gradient checkpointing (Chen et al., 2016, "Training deep nets with sublinear memory
//! cost") they take turns in training too: only the residual stream between them is kept, from which backward makes a block's again. The gradients of activations are
//! shared by all blocks: only one block is in backward at a time.

use crate::config::Config;
use crate::model::Gpt;
use crate::parameters::Parameters;
use eyas_ops::{
    Act, AttentionDims, Backend, Buf, Device, EmbeddingDims, LayerNormDims, LinearDims, LossDims, Use,
};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Every shape of a step on B rows of T tokens.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Dims {
    pub(crate) embedding: EmbeddingDims,
    pub(crate) norm: LayerNormDims,
    pub(crate) c_attn: LinearDims,
    pub(crate) attention: AttentionDims,
    pub(crate) attn_proj: LinearDims,
    pub(crate) c_fc: LinearDims,
    pub(crate) mlp_proj: LinearDims,
    pub(crate) head: LossDims,
}

impl Dims {
    pub(crate) fn new(config: &Config, batch: usize, time: usize) -> Self {
        let (rows, channels, inner) = (batch * time, config.n_embd, config.inner());
        let (heads, head_size, vocab_size) = (config.n_head, config.head_size(), config.vocab_size);
        let linear = |inputs, outputs| LinearDims { rows, inputs, outputs };
        Dims {
            embedding: EmbeddingDims { batch, time, channels, vocab_size, start: 0 },
            norm: LayerNormDims { rows, channels, epsilon: config.layer_norm_epsilon },
            c_attn: linear(channels, 3 * channels),
            attention: AttentionDims { batch, time, heads, head_size },
            attn_proj: linear(channels, channels),
            c_fc: linear(channels, inner),
            mlp_proj: linear(inner, channels),
            head: LossDims { rows, channels, vocab_size },
        }
    }

    pub(crate) fn rows(&self) -> usize {
        self.norm.rows
    }
}

/// What a forward pass leaves for a backward pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Keep {
    /// There is no backward pass.
    Nothing,
    /// The residual stream below and above every block.
    Streams,
    /// That, and what is inside the blocks.
    Everything,
}

impl Keep {
    pub(crate) fn new(purpose: Use, gradient_checkpointing: bool) -> Self {
        match purpose {
            Use::Training if gradient_checkpointing => Keep::Streams,
            Use::Training => Keep::Everything,
            Use::Inference | Use::Quantized(_) => Keep::Nothing,
        }
    }
}

/// The output of a LayerNorm and what it saves.
pub(crate) struct Normed<D: Device> {
    pub(crate) out: Act<D>,       // (B, T, C)
    pub(crate) mean: Buf<D, f32>, // (B, T)
    pub(crate) rstd: Buf<D, f32>, // (B, T)
}

/// What forward saves of one block.
pub(crate) struct BlockActivations<D: Device> {
    pub(crate) ln_1: Normed<D>,
    pub(crate) qkv: Act<D>,      // (B, T, 3C)
    pub(crate) atty: Act<D>,     // (B, T, C)
    pub(crate) lse: Buf<D, f32>, // (B, NH, T)
    pub(crate) middle: Act<D>,   // (B, T, C), the residual stream between attention and MLP
    pub(crate) ln_2: Normed<D>,
    pub(crate) kept: Act<D>, // (B, T, inner), what the GELU's backward pass wants to know
}

/// What a block reads, what it writes, what it saves, and the starts of its attention.
pub(crate) struct Around<'a, D: Device> {
    pub(crate) x: &'a Act<D>,       // (B, T, C)
    pub(crate) out: &'a mut Act<D>, // (B, T, C)
    pub(crate) saved: &'a mut BlockActivations<D>,
    pub(crate) act: &'a mut Act<D>,             // (B, T, inner)
    pub(crate) starts: Option<&'a Buf<D, u32>>, // (B, T)
}

/// Gradients of activations, shared by all blocks.
pub(crate) struct ActivationGradients<D: Device> {
    pub(crate) dstream: Act<D>, // (B, T, C), of the residual stream
    pub(crate) dbranch: Act<D>, // (B, T, C), of what a branch adds to the stream
    pub(crate) dnorm: Act<D>,   // (B, T, C), of a LayerNorm's output, or attention's
    pub(crate) dwide: Act<D>,   // (B, T, max(3C, inner)), of qkv, or of the MLP before its GELU
}

/// The buffers of a step on up to B rows of up to T tokens.
pub struct Activations<D: Device> {
    /// Rows that fit, B T.
    capacity: usize,
    /// The shapes of the last forward pass, and the key of its dropout.
    pub(crate) step: Option<(Dims, Option<u64>)>,
    /// Whether no backward pass has followed: if blocks share a set, it is still the last block's.
    pub(crate) is_fresh: bool,
    pub(crate) tokens: Buf<D, u32>, // (B, T)
    /// The first token that each sees, where the last forward pass kept documents apart.
    pub(crate) starts: Buf<D, u32>, // (B, T)
    pub(crate) has_starts: bool,
    /// The residual stream below the first block and after each; two that take turns when nothing is saved.
    pub(crate) stream: Vec<Act<D>>, // each (B, T, C)
    /// One set for each block, or one that they take turns with.
    pub(crate) blocks: Vec<BlockActivations<D>>,
    /// After the GELU: one for each block where backward reads it, else one that they take turns with.
    pub(crate) act: Vec<Act<D>>, // each (B, T, inner)
    pub(crate) ln_f: Normed<D>,
    pub(crate) targets: Buf<D, u32>,      // (B, T)
    pub(crate) loss_weights: Buf<D, f32>, // (B, T)
    pub(crate) losses: Buf<D, f32>,       // (B, T)
    pub(crate) predictions: Buf<D, u32>,  // (B, T)
    pub(crate) gradients: Option<ActivationGradients<D>>,
    /// Forward without dropout, forward with it, and backward, where the device records them. They are of these buffers
    /// alone, so that their signatures need not say whether blocks share a set.
    pub(crate) recordings: [D::Recording; 3],
    pub(crate) host_starts: Vec<u32>,      // (B, T)
    pub(crate) host_losses: Vec<f32>,      // (B, T)
    pub(crate) host_predictions: Vec<u32>, // (B, T)
}

impl<D: Backend> Activations<D> {
    /// Allocates for `batch` rows of `time` tokens; for training if the network is, with gradient checkpointing if it was
    /// told so.
    pub fn new(gpt: &Gpt<D>, batch: usize, time: usize) -> Self {
        Self::allocate(&**gpt.device(), gpt.config(), batch, time, gpt.keep(), D::KEEPS_GELU)
    }
}

impl<D: Device> Activations<D> {
    /// `keeps_gelu` as the device's constant.
    pub(crate) fn allocate(
        device: &D,
        config: &Config,
        batch: usize,
        time: usize,
        keep: Keep,
        keeps_gelu: bool,
    ) -> Self {
        let (rows, channels, inner) = (batch * time, config.n_embd, config.inner());
        let act = |width: usize| device.zeros::<D::Element>(rows * width);
        let normed = || Normed { out: act(channels), mean: device.zeros(rows), rstd: device.zeros(rows) };
        let block = || BlockActivations {
            ln_1: normed(),
            qkv: act(3 * channels),
            atty: act(channels),
            lse: device.zeros(rows * config.n_head),
            middle: act(channels),
            ln_2: normed(),
            kept: act(inner),
        };
        let gradients = || ActivationGradients {
            dstream: act(channels),
            dbranch: act(channels),
            dnorm: act(channels),
            dwide: act(inner.max(3 * channels)),
        };
        let (num_streams, num_blocks) = match keep {
            Keep::Nothing => (2, 1),
            Keep::Streams => (config.n_layer + 1, 1),
            Keep::Everything => (config.n_layer + 1, config.n_layer),
        };
        let num_acts = if keeps_gelu { num_blocks } else { 1 };
        Activations {
            capacity: rows,
            step: None,
            is_fresh: false,
            tokens: device.zeros(rows),
            starts: device.zeros(rows),
            has_starts: false,
            stream: (0..num_streams).map(|_| act(channels)).collect(),
            blocks: (0..num_blocks).map(|_| block()).collect(),
            act: (0..num_acts).map(|_| act(inner)).collect(),
            ln_f: normed(),
            targets: device.zeros(rows),
            loss_weights: device.zeros(rows),
            losses: device.zeros(rows),
            predictions: device.zeros(rows),
            gradients: (keep != Keep::Nothing).then(gradients),
            recordings: Default::default(),
            host_starts: vec![0; rows],
            host_losses: vec![0.0; rows],
            host_predictions: vec![0; rows],
        }
    }

    /// Tokens that fit, B T.
    pub fn capacity(&self) -> usize {
        self.capacity
    }
}

/// The losses of a micro-batch, left on the device until they are wanted: reading them waits for all work before.
pub struct KeptLosses<D: Device> {
    pub(crate) losses: Buf<D, f32>, // (B, T)
}

impl<D: Device> KeptLosses<D> {
    /// Room for the losses of `acts`.
    pub fn new(device: &D, acts: &Activations<D>) -> Self {
        KeptLosses { losses: device.zeros(acts.capacity) }
    }

    /// Takes a copy of the losses that the last backward pass left.
    pub fn keep(&mut self, device: &D, acts: &Activations<D>) {
        device.copy(&mut self.losses, &acts.losses);
    }

    /// Copies the first `out.len()` losses, in nats.
    pub fn read(&self, device: &D, out: &mut [f32]) {
        device.read(out, &self.losses);
    }
}

/// A number that no other network or set of gradients of this process has: what a recording knows them by.
pub(crate) fn new_identity() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// The gradient of every parameter, f32. Backward passes add to it, so that several micro-batches add up.
pub struct Gradients<D: Device> {
    device: Arc<D>,
    /// By parameter.
    pub table: Parameters<Buf<D, f32>>,
    /// What the loss was multiplied by before it was differentiated: 1, but for fp16.
    pub loss_scale: f64,
    pub(crate) identity: u64,
}

impl<D: Backend> Gradients<D> {
    /// Zeros, one for each parameter of `gpt`.
    pub fn new(gpt: &Gpt<D>) -> Self {
        let device = gpt.device().clone();
        let table = gpt.declarations().map(|declared| device.zeros(declared.len()));
        Gradients { device, table, loss_scale: 1.0, identity: new_identity() }
    }

    /// Sets all to zero: what the first micro-batch of an update begins with.
    pub fn clear(&mut self) {
        self.device.clear_all(&mut self.table.iter_mut().collect::<Vec<_>>());
    }

    /// The Euclidean norm over all parameters, without the loss scale; not finite if any element is not.
    pub fn norm(&self) -> f64 {
        self.device.sum_of_squares(&self.table.iter().collect::<Vec<_>>()).sqrt() / self.loss_scale
    }
}
