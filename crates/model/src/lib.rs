//! GPT-2: configuration, parameters, forward and backward, KV-cache decoding, Hugging Face files.
//!
//! This crate maps token ids to token ids and never sees text. It is written over [`eyas_ops::Backend`] and names no
//! device. To learn how a GPT is trained, read `network.rs`, with `parameters.rs` beside it.
//!
//! The freer way to train: take each batch, run the network, weigh the loss of each token, go backward, accumulate, step.
//!
//! ```
//! use eyas_model::{Activations, Config, Gpt, Gradients, Use};
//! use eyas_ops::Cpu;
//! use std::sync::Arc;
//!
//! let config = Config { vocab_size: 17, n_positions: 8, n_embd: 8, n_layer: 1, n_head: 2, ..Config::default() };
//! let mut gpt = Gpt::new(Arc::new(Cpu::<f32>::new()), config, Use::Training)?;
//! gpt.init(42);
//! let (mut acts, mut grads) = (Activations::new(&gpt, 1, 4), Gradients::new(&gpt));
//! let (inputs, targets) = ([1, 2, 3, 4], [2, 3, 4, 5]);
//!
//! grads.clear();
//! gpt.forward(&mut acts, &inputs, 4, Some(7));
//! gpt.backward(&mut acts, &mut grads, &targets, &[0.5, 0.25, 0.125, 0.125]);
//! let losses = gpt.losses(&mut acts);
//! assert!(losses.iter().all(|loss| *loss > 0.0) && grads.norm() > 0.0);
//! gpt.update(|_device, weights| {
//!     for (weight, grad) in weights.iter_mut().zip(grads.table.iter()) {
//!         weight.iter_mut().zip(grad.iter()).for_each(|(w, g)| *w -= 0.1 * g);
//!     }
//! });
//! # Ok::<(), eyas_model::Error>(())
//! ```

mod activations;
mod cache;
mod config;
mod documents;
mod error;
mod files;
mod generate;
mod memory;
mod model;
// Laid out by hand: what an operation writes on one line, what it reads on the next.
#[rustfmt::skip]
mod network;
mod parameters;
mod safetensors;
mod sampling;
mod tree;

pub use activations::{Activations, Gradients, KeptLosses};
pub use cache::KvCache;
pub use config::Config;
pub use error::{Error, nearest};
pub use eyas_ops::{Format, IGNORE, Use};
pub use files::write_atomically;
pub use generate::{FinishReason, Generated, generate};
pub use memory::{
    MemoryPlan, check_evaluation, check_training, compute_copies_bytes, generation_bytes, memory_plan,
};
pub use model::Gpt;
pub use network::Scores;
pub use parameters::{
    Affine, Attention, Block, Declaration, Init, Mlp, Parameters, flops_per_token, num_decayed,
    num_parameters,
};
pub use safetensors::{
    ReadValues, TensorFile, TensorImage, TensorInfo, TensorOut, write_tensors, write_tensors_to,
};
pub use sampling::Sampling;
pub use tree::module_tree;
