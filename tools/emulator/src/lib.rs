//! A CUDA card in software, so that all of the code for GPUs runs and is tested on a machine without one.
//!
//! One library plays three: the driver (`driver/`, with `memory.rs`, `streams.rs` and `graph.rs` below it), which runs kernels
//! from their PTX (`ptx/`, `machine/`); cuBLASLt (`cublaslt/`), which multiplies on the host; and NVRTC (`nvrtc.rs`), which is the
//! real one, as that needs no card. It has what eyas uses and no more. `emulate` (`main.rs`) runs a program on it.
//!
//! It checks more than a card does: each access to memory, each argument, and, by running what is queued late or in another order
//! (`streams.rs`), whether a program waits for what it must.

mod cublaslt;
mod driver;
mod graph;
mod machine;
mod memory;
mod numbers;
mod nvrtc;
mod ptx;
mod streams;
