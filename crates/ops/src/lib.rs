//! Maths on buffers: every operation a GPT is made of, forward and backward.
//!
//! This crate owns the operations and the devices that run them. It knows nothing of GPT, files or text.
//! An operation is one folder: `mod.rs` has the maths, the shape contract, the trait (forward, then backward), a
//! naive reference and the tests; `cpu.rs` and `cuda.rs` (with its `cuda.cu`) have the fast versions, in the same order.
//!
//! Legend used throughout: B batch, T time, C channels, NH heads, HS head size, L layers, V vocabulary,
//! OC output channels. A gradient is `d` + the name of what it is the gradient of.

pub mod adamw;
pub mod attention;
pub mod cpu;
pub mod cuda;
mod device;
mod element;
pub mod embedding;
pub mod gemm;
pub mod layernorm;
pub mod linear;
pub mod loss;
mod metered;
pub mod muon;
mod quant;
mod random;
mod rounding;
#[cfg(test)]
mod testing;

pub use adamw::{AdamW, AdamWStep, AdamWTensor};
pub use attention::{Attention, AttentionDims, CachedAttentionDims};
pub use cpu::{Cpu, Isa, available_threads};
pub use cuda::{Cuda, CudaElement, CudaError, CudaOptions, LibraryPaths, Recording, Version as CudaVersion};
pub use device::{Act, Buf, Buffer, Changing, Device, Scalar};
pub use element::{Bf16, Element, F16};
pub use embedding::{Embedding, EmbeddingDims};
pub use layernorm::{LayerNorm, LayerNormDims};
pub use linear::{Linear, LinearDims, Storage, Use};
pub use loss::{Loss, LossDims};
pub use metered::{Metered, Record};
pub use muon::{Muon, MuonDims, MuonStep};
pub use quant::Format;
pub use random::{Dropout, Rng, mix};
pub use rounding::Rounding;

/// A target that is not scored: its loss and its gradient are zero.
pub const IGNORE: u32 = u32::MAX;

/// All operations of a device: the sum of the operations' traits, and nothing else.
pub trait Backend: Embedding + LayerNorm + Linear + Attention + Loss + AdamW + Muon {}
impl<D: Embedding + LayerNorm + Linear + Attention + Loss + AdamW + Muon> Backend for D {}
