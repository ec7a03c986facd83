//! The machine: executes kernels, block by block, with 32 lanes at a time.
//!
//! Clusters run one after another in each of a few threads. In a cluster every warp runs until all of its threads wait for
//! somebody; in every second cluster warps go in the opposite order, and asynchronous copies are made as late as possible
//! instead of at once, so that what is not waited for shows.

mod access;
mod cluster;
mod copies;
mod functions;
mod lanes;
mod op;
mod reads;
mod shared;
mod tensor;
mod warp;

pub(crate) use functions::{
    Compare, Double1, Double2, Double3, Logic, Narrow, Number, Shift, Widen, Word1, Word2, Word3,
};
pub(crate) use op::{
    Access, Address, Base, BoxCopy, GroupLeft, GroupProduct, Guard, Half, Initial, Instruction, Op, Shuffle,
    Space, Special,
};

use crate::ptx::Kernel;
use cluster::Cluster;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

/// A launch's shape and arguments.
#[derive(Clone, Debug)]
pub(crate) struct Launch {
    pub(crate) grid: [u32; 3],
    pub(crate) block: [u32; 3],
    /// Bytes of dynamic shared memory.
    pub(crate) shared_bytes: u32,
    pub(crate) parameters: Vec<u8>,
}

/// Executes a whole grid.
///
/// # Errors
/// What a kernel did wrong: where, and which instruction.
pub(crate) fn run(kernel: &Kernel, launch: &Launch) -> Result<(), String> {
    #[cfg(target_arch = "x86_64")]
    if !(is_x86_feature_detected!("avx2")
        && is_x86_feature_detected!("fma")
        && is_x86_feature_detected!("f16c"))
    {
        return Err("the emulator needs a processor with AVX2".into());
    }
    let num_threads = launch.block.iter().product::<u32>();
    if kernel.max_threads != 0 && num_threads > kernel.max_threads {
        return Err(format!("{num_threads} threads, where the kernel takes {}", kernel.max_threads));
    }
    if !launch.grid[0].is_multiple_of(kernel.cluster) {
        return Err(format!("{} blocks in clusters of {}", launch.grid[0], kernel.cluster));
    }
    let num_clusters = launch.grid.iter().map(|&n| n as usize).product::<usize>() / kernel.cluster as usize;
    let (next, fault) = (AtomicUsize::new(0), Mutex::new(None));
    let work = || {
        let mut cluster = Cluster::new(kernel, launch);
        loop {
            let index = next.fetch_add(1, Ordering::Relaxed);
            if index >= num_clusters {
                return;
            }
            if let Err(error) = cluster.run(index) {
                next.store(num_clusters, Ordering::Relaxed);
                fault.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).get_or_insert(error);
                return;
            }
        }
    };
    let available = std::thread::available_parallelism().map_or(1, usize::from).min(num_clusters);
    std::thread::scope(|scope| {
        (1..available).for_each(|_| _ = scope.spawn(work));
        work();
    });
    fault.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner()).map_or(Ok(()), Err)
}

#[cfg(test)]
mod tests;
