//! The memory plan: what training will allocate, known before it does.
//!
//! The trick: the very code that allocates runs on a device whose buffers have a length and no memory, as PyTorch's meta
//! device, so that the plan cannot differ from what happens.

use crate::activations::{Activations, Dims, Keep};
use crate::cache::PIECE;
use crate::config::Config;
use crate::error::Error;
use crate::model::Gpt;
use crate::parameters::num_parameters;
use eyas_ops::{Backend, Buffer, Device, Element, LinearDims, Scalar, Use};
use std::marker::PhantomData;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Bytes by kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemoryPlan {
    /// What it is for, and its bytes.
    pub items: Vec<(&'static str, usize)>,
}

impl MemoryPlan {
    /// The sum.
    pub fn total_bytes(&self) -> usize {
        self.items.iter().map(|(_, bytes)| bytes).sum()
    }
}

/// What a network takes on `device`, with activations for `batch` rows of `time` tokens, in training with or without
/// [gradient checkpointing](crate::Gpt::set_gradient_checkpointing). The optimizer's state is counted as AdamW's: two f32 for
/// each parameter.
pub fn memory_plan<D: Backend>(
    device: &D,
    config: &Config,
    batch: usize,
    time: usize,
    purpose: Use,
    gradient_checkpointing: bool,
) -> MemoryPlan {
    let parameters = 4 * num_parameters(config);
    let meter = Meter::<D::Element> { bytes: AtomicUsize::new(0), element: PhantomData };
    Activations::allocate(
        &meter,
        config,
        batch,
        time,
        Keep::new(purpose, gradient_checkpointing),
        D::KEEPS_GELU,
    );
    let dims = Dims::new(config, batch, time);
    let mut items = vec![
        ("parameters", parameters),
        ("compute copies", compute_copies_bytes(device, config, purpose)),
        ("activations", meter.bytes.into_inner()),
    ];
    let linear = [dims.c_attn, dims.attn_proj, dims.c_fc, dims.mlp_proj];
    if purpose == Use::Training {
        let scratch = linear.iter().map(|&layer| device.linear_scratch_bytes(layer));
        let scratch = scratch.chain([device.loss_scratch_bytes(dims.head)]).max().unwrap_or(0);
        items.extend([("gradients", parameters), ("optimizer state", 2 * parameters), ("scratch", scratch)]);
    }
    if let Use::Quantized(_) = purpose {
        let head = LinearDims { rows: batch * time, inputs: config.n_embd, outputs: config.vocab_size };
        let scratch = linear.into_iter().chain([head]);
        let scratch = scratch.map(|layer| device.linear_forward_scratch_bytes(layer, purpose)).max();
        items.push(("scratch", scratch.unwrap_or(0)));
    }
    MemoryPlan { items }
}

/// Bytes of the compute copies of all matrices, head included: what reading a token in inference reads of weights.
pub fn compute_copies_bytes<D: Backend>(device: &D, config: &Config, purpose: Use) -> usize {
    let dims = Dims::new(config, 1, 1);
    let copies = |inputs, outputs| device.weights_bytes(inputs, outputs, purpose);
    let linear = [dims.c_attn, dims.attn_proj, dims.c_fc, dims.mlp_proj];
    let block: usize = linear.iter().map(|layer| copies(layer.inputs, layer.outputs)).sum();
    config.n_layer * block + copies(config.n_embd, config.vocab_size)
}

/// Bytes beside those that are counted: allocations begin on boundaries, and scratch memory has whole MiB.
const UNEVENNESS_BYTES: usize = 4 << 20;

/// Refuses what a device has no memory for, before it is allocated.
///
/// # Errors
/// [`Error::Memory`]; never where memory is not the device's to say.
pub(crate) fn require_memory<D: Backend>(
    device: &D,
    needed_bytes: usize,
    what: impl FnOnce() -> String,
    hint: &'static str,
) -> Result<(), Error> {
    match device.free_bytes() {
        Some(free_bytes) if needed_bytes > free_bytes => {
            Err(Error::Memory { what: what(), hint, needed_bytes, free_bytes })
        }
        _ => Ok(()),
    }
}

/// Refuses more than the device can count the elements of, of tensors whose rows are `channels` wide: `batch` times `time` rows.
fn require_elements<D: Backend>(
    device: &D,
    channels: usize,
    batch: usize,
    time: usize,
    what: &str,
) -> Result<(), Error> {
    let most = device.max_elements() / channels.saturating_mul(time).max(1);
    match batch > most {
        true => Err(Error::Batch { what: format!("{what} of {time} tokens"), most, got: batch }),
        false => Ok(()),
    }
}

/// Refuses training that the device has no memory for, beside the network, which is there.
///
/// # Errors
/// [`Error::Memory`]; [`Error::Batch`] if a tensor would have more elements than the device counts.
pub fn check_training<D: Backend>(
    gpt: &Gpt<D>,
    batch: usize,
    time: usize,
    gradient_checkpointing: bool,
) -> Result<(), Error> {
    let (device, config) = (&**gpt.device(), gpt.config());
    require_elements(device, config.inner().max(3 * config.n_embd), batch, time, "samples")?;
    let plan = memory_plan(device, config, batch, time, Use::Training, gradient_checkpointing);
    let is_there = |kind: &str| matches!(kind, "parameters" | "compute copies");
    let rest = plan.items.iter().filter(|(kind, _)| !is_there(kind)).map(|(_, bytes)| bytes).sum::<usize>();
    let what = || format!("training on {batch} samples of {time} tokens at once");
    require_memory(device, rest + UNEVENNESS_BYTES, what, "take a smaller batch, ")
}

/// Refuses batches of `batch` windows of `time` tokens that an evaluation of `gpt` has no memory for.
///
/// # Errors
/// [`Error::Memory`]; [`Error::Batch`] if a tensor would have more elements than the device counts.
pub fn check_evaluation<D: Backend>(gpt: &Gpt<D>, batch: usize, time: usize) -> Result<(), Error> {
    let (device, config) = (&**gpt.device(), gpt.config());
    require_elements(device, config.inner().max(3 * config.n_embd), batch, time, "windows")?;
    let scratch_bytes = device.loss_scratch_bytes(Dims::new(config, batch, time).head) + UNEVENNESS_BYTES;
    let needed_bytes = inference_bytes(device, config, batch, time) + scratch_bytes;
    let what = || format!("batches of {batch} windows of {time} tokens");
    require_memory(device, needed_bytes, what, "take fewer at once, ")
}

/// Refuses a cache in which `num_sequences` sequences grow to `capacity` tokens, and that of their prompt before it.
///
/// # Errors
/// [`Error::Memory`]; [`Error::Batch`] if a tensor would have more elements than the device counts.
pub(crate) fn check_generation<D: Backend>(
    gpt: &Gpt<D>,
    num_sequences: usize,
    capacity: usize,
) -> Result<(), Error> {
    let (device, config) = (&**gpt.device(), gpt.config());
    require_elements(device, config.n_embd, num_sequences, capacity, "sequences")?;
    let needed_bytes = generation_bytes(device, config, num_sequences, capacity) + UNEVENNESS_BYTES;
    let what = || format!("sequences of up to {capacity} tokens, {num_sequences} at once");
    require_memory(device, needed_bytes, what, "take fewer or shorter ones, ")
}

/// Bytes that generation takes beside the network: the cache of the prompt, and that of `num_sequences` sequences, if there are
/// several, each of up to `capacity` tokens.
pub fn generation_bytes<D: Backend>(
    device: &D,
    config: &Config,
    num_sequences: usize,
    capacity: usize,
) -> usize {
    let cache_bytes = |num_sequences: usize, piece: usize| {
        let elements = 2 * config.n_layer * num_sequences * capacity * config.n_embd;
        elements * size_of::<D::Element>()
            + 4 * num_sequences * config.vocab_size
            + inference_bytes(device, config, num_sequences, piece)
    };
    let of_all = if num_sequences > 1 { cache_bytes(num_sequences, 1) } else { 0 };
    cache_bytes(1, PIECE.min(capacity)) + of_all
}

/// Bytes of the activations of `batch` rows of `time` tokens where nothing is trained.
fn inference_bytes<D: Backend>(device: &D, config: &Config, batch: usize, time: usize) -> usize {
    let plan = memory_plan(device, config, batch, time, Use::Inference, false);
    plan.items.iter().filter(|(kind, _)| *kind == "activations").map(|(_, bytes)| bytes).sum()
}

/// A device that only counts.
struct Meter<E> {
    bytes: AtomicUsize,
    element: PhantomData<E>,
}

/// A buffer without memory.
struct Length(usize);

impl Buffer for Length {
    fn len(&self) -> usize {
        self.0
    }
}

impl<E: Element> Device for Meter<E> {
    type Element = E;
    type Buffer<T: Scalar> = Length;
    type Recording = ();

    fn zeros<T: Scalar>(&self, len: usize) -> Length {
        self.bytes.fetch_add(len * size_of::<T>(), Ordering::Relaxed);
        Length(len)
    }

    // There is nothing to copy.
    fn write<T: Scalar>(&self, _: &mut Length, _: &[T]) {}
    fn read<T: Scalar>(&self, _: &mut [T], _: &Length) {}
    fn clear<T: Scalar>(&self, _: &mut Length) {}
    fn copy<T: Scalar>(&self, _: &mut Length, _: &Length) {}

    fn num_threads(&self) -> usize {
        1
    }

    fn describe(&self) -> String {
        "no memory".into()
    }

    fn peak_flops(&self) -> f64 {
        0.0
    }

    fn peak_bytes(&self) -> f64 {
        0.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Gpt;
    use eyas_ops::{Act, Buf, Cpu, Isa};
    use std::sync::Arc;

    /// Bytes of the buffers of `acts`, counted one by one.
    fn bytes<D: Backend>(acts: &Activations<D>) -> usize {
        let wide = |acts: &[&Act<D>]| acts.iter().map(|x| x.len() * size_of::<D::Element>()).sum::<usize>();
        let words = |bufs: &[&Buf<D, f32>]| bufs.iter().map(|x| 4 * x.len()).sum::<usize>();
        let blocks = acts.blocks.iter().map(|s| {
            wide(&[&s.ln_1.out, &s.qkv, &s.atty, &s.middle, &s.ln_2.out, &s.kept])
                + words(&[&s.ln_1.mean, &s.ln_1.rstd, &s.lse, &s.ln_2.mean, &s.ln_2.rstd])
        });
        let gradients = acts.gradients.iter().map(|d| wide(&[&d.dstream, &d.dbranch, &d.dnorm, &d.dwide]));
        let ids = [&acts.tokens, &acts.starts, &acts.targets, &acts.predictions].map(|ids| 4 * ids.len());
        wide(&acts.stream.iter().collect::<Vec<_>>())
            + blocks.chain(gradients).chain(ids).sum::<usize>()
            + wide(&acts.act.iter().collect::<Vec<_>>())
            + wide(&[&acts.ln_f.out])
            + words(&[&acts.ln_f.mean, &acts.ln_f.rstd, &acts.loss_weights, &acts.losses])
    }

    #[test]
    fn the_plan_is_what_is_allocated() {
        let config = Config {
            vocab_size: 37,
            n_positions: 24,
            n_embd: 24,
            n_layer: 3,
            n_head: 3,
            ..Config::default()
        };
        let device = Arc::new(Cpu::<eyas_ops::Bf16>::with(Isa::detect(), 1));
        let mut seen = Vec::new();
        for (purpose, checkpointing) in
            [(Use::Training, false), (Use::Training, true), (Use::Inference, true)]
        {
            let mut gpt = Gpt::new(device.clone(), config.clone(), purpose).unwrap();
            gpt.set_gradient_checkpointing(checkpointing);
            let plan = memory_plan(&*device, &config, 5, 7, purpose, checkpointing);
            let planned = plan.items.iter().find(|(kind, _)| *kind == "activations").map(|(_, bytes)| *bytes);
            assert_eq!(planned, Some(bytes(&Activations::new(&gpt, 5, 7))), "{purpose:?} {checkpointing}");
            seen.extend(planned);
        }
        assert!(seen[0] > seen[1] && seen[1] > seen[2], "{seen:?}");
    }
}
