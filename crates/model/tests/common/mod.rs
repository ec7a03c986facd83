//! What the tests share: small networks, batches, and distances between tensors.

#![allow(
    dead_code,
    clippy::allow_attributes,
    reason = "each test file is compiled with all of it, and uses a part"
)]

use eyas_model::{Config, Gpt, Use};
use eyas_ops::{Backend, Buf, Buffer, Cpu, Cuda, CudaElement, CudaOptions, Isa, LibraryPaths, Rng};
use std::sync::Arc;

/// A network that trains in milliseconds.
pub(crate) fn tiny() -> Config {
    Config {
        vocab_size: 37,
        n_positions: 24,
        n_embd: 24,
        n_layer: 2,
        n_head: 3,
        bos_token_id: Some(0),
        eos_token_id: Some(0),
        ..Config::default()
    }
}

pub(crate) fn cpu(threads: usize) -> Arc<Cpu<f32>> {
    Arc::new(Cpu::with(Isa::detect(), threads))
}

/// The first GPU; `None`, having said why, where there is none. NVIDIA's libraries are looked for in the usual places and in
/// EYAS_CUDA_PATH.
#[expect(clippy::print_stdout, reason = "a test that skips says so")]
pub(crate) fn gpu<E: CudaElement>() -> Option<Arc<Cuda<E>>> {
    let first = std::env::var_os("EYAS_CUDA_PATH").map(|path| std::env::split_paths(&path).collect());
    let libraries = LibraryPaths::usual(first.unwrap_or_default(), std::env::var_os("PATH").as_deref());
    // Kernels are kept between tests, each of which opens the card for itself.
    let cache_dir = Some(std::env::temp_dir().join("eyas-test-kernels"));
    match Cuda::open(&CudaOptions { libraries, cache_dir, ..CudaOptions::default() }) {
        Ok(device) => Some(Arc::new(device)),
        Err(error) => {
            println!("skipped on a GPU: {error}");
            None
        }
    }
}

/// A tiny network with initial values that are large enough to tell right from wrong.
pub(crate) fn network(config: Config, threads: usize, purpose: Use) -> Gpt<Cpu<f32>> {
    let mut gpt = Gpt::new(cpu(threads), Config { initializer_range: 0.2, ..config }, purpose).unwrap();
    gpt.init(42);
    gpt
}

/// `n` token ids below `vocab_size`.
pub(crate) fn tokens(n: usize, vocab_size: usize, seed: u64) -> Vec<u32> {
    let mut rng = Rng::new(seed);
    (0..n).map(|_| (rng.next_u64() % vocab_size as u64) as u32).collect()
}

pub(crate) fn host<D: Backend>(device: &D, tensor: &Buf<D, f32>) -> Vec<f32> {
    let mut values = vec![0.0; tensor.len()];
    device.read(&mut values, tensor);
    values
}

/// |ours - theirs| / |theirs|, Euclidean.
pub(crate) fn relative_error(ours: &[f32], theirs: &[f32]) -> f64 {
    assert_eq!(ours.len(), theirs.len());
    let square = |x: f64| x * x;
    let difference: f64 = ours.iter().zip(theirs).map(|(&a, &b)| square(f64::from(a) - f64::from(b))).sum();
    let norm: f64 = theirs.iter().map(|&b| square(f64::from(b))).sum();
    if difference == 0.0 { 0.0 } else { (difference / norm).sqrt() }
}
