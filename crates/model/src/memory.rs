//! The memory plan: what training will allocate, known before it does.
//!
//! The trick: the very code that allocates runs on a device whose buffers have a length and no memory, as PyTorch's meta
//! device, so that the plan cannot differ from what happens.

use crate::activations::{Activations, Dims};
use crate::config::Config;
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

/// What a network takes on `device`, with activations for `batch` rows of `time` tokens. The optimizer's state is counted as
/// AdamW's: two f32 for each parameter.
pub fn memory_plan<D: Backend>(
    device: &D,
    config: &Config,
    batch: usize,
    time: usize,
    purpose: Use,
) -> MemoryPlan {
    let parameters = 4 * num_parameters(config);
    let meter = Meter::<D::Element> { bytes: AtomicUsize::new(0), element: PhantomData };
    Activations::allocate(&meter, config, batch, time, purpose);
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
