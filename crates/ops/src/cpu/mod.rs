//! The CPU as a device: aligned memory, a thread pool, scratch memory that is allocated once, and the instruction set
//! found at run time.
//!
//! However work is cut into tasks, each output element is computed by one of them, in an order that shapes alone decide: that is
//! why results have the same bits for any number of threads.

mod buffer;
mod cache;
mod isa;
pub(crate) mod math;
mod peak;
mod queue;
#[cfg(target_arch = "x86_64")]
mod transpose;

pub use buffer::AlignedBuf;
pub(crate) use buffer::{Arena, SharedMut, fence, prefetch};
pub use isa::Isa;
pub(crate) use isa::{Simd, Task};
pub(crate) use queue::Work;

use crate::device::{Buffer, Device, Scalar};
use crate::gemm::Word;
use queue::Queue;
use rayon::prelude::*;
use std::marker::PhantomData;
use std::sync::Mutex;

/// The CPU, with activations of element type `E`.
pub struct Cpu<E> {
    isa: Isa,
    pool: rayon::ThreadPool,
    /// Bytes of a core's second-level cache.
    level2_bytes: usize,
    /// Where weights lie that are only read.
    weights: Arena,
    /// Scratch buffers that no operation is using now.
    scratch: Mutex<Vec<AlignedBuf<u32>>>,
    element: PhantomData<E>,
}

/// The cores that this process may use.
pub fn available_threads() -> usize {
    std::thread::available_parallelism().map_or(1, |n| n.get())
}

impl<E: Word> Cpu<E> {
    /// All cores and the best instruction set of this machine.
    pub fn new() -> Self {
        Self::with(Isa::detect(), available_threads())
    }

    /// A given instruction set, which this machine must have, and a given number of threads.
    pub fn with(isa: Isa, num_threads: usize) -> Self {
        assert!(isa.is_available(), "this machine does not have {isa}");
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(num_threads.max(1))
            .thread_name(|i| format!("eyas-{i}"))
            .build()
            .expect("the operating system starts threads");
        Cpu {
            isa,
            pool,
            level2_bytes: cache::level2_bytes(),
            weights: Arena::new(),
            scratch: Mutex::new(Vec::new()),
            element: PhantomData,
        }
    }

    /// The instruction set in use.
    pub fn isa(&self) -> Isa {
        self.isa
    }

    /// Memory for weights that are only read.
    pub(crate) fn weights_memory(&self) -> &Arena {
        &self.weights
    }

    /// Bytes of a core's second-level cache.
    pub(crate) fn level2_bytes(&self) -> usize {
        self.level2_bytes
    }

    /// Calls `task(0)` to `task(tasks - 1)`, spread over the threads.
    pub(crate) fn parallel(&self, tasks: usize, task: impl Fn(usize) + Sync + Send) {
        self.spread(tasks, 0, task);
    }

    /// Does all of these as [`parallel`](Self::parallel) does the tasks of one: what need not wait for each other should not.
    pub(crate) fn run(&self, works: &[Work<'_>]) {
        let total = |of: fn(&Work<'_>) -> usize| works.iter().map(of).sum::<usize>();
        let (tasks, small) = (total(|work| work.tasks), total(|work| work.small));
        // The small tasks of all follow after the others of all.
        self.spread(tasks, small, |task| {
            let (is_small, mut i) = match task.checked_sub(tasks - small) {
                Some(i) => (true, i),
                None => (false, task),
            };
            for work in works {
                let whole = work.tasks - work.small;
                let (first, count) = if is_small { (whole, work.small) } else { (0, whole) };
                if i < count {
                    return (work.task)(first + i);
                }
                i -= count;
            }
        });
    }

    fn spread(&self, tasks: usize, small: usize, task: impl Fn(usize) + Sync + Send) {
        let threads = self.pool.current_num_threads().min(tasks);
        if threads <= 1 {
            return (0..tasks).for_each(task);
        }
        let queue = Queue::new(tasks, small, threads);
        let all = |thread| std::iter::from_fn(|| queue.take(thread)).for_each(&task);
        self.pool.install(|| (0..threads).into_par_iter().with_max_len(1).for_each(all));
    }

    /// Calls `f` once on every thread at the same time.
    pub(crate) fn broadcast<R: Send>(&self, f: impl Fn() -> R + Sync) -> Vec<R> {
        self.pool.broadcast(|_| f())
    }

    /// Lends `len` words of scratch memory, with any content, to `f`. Nested calls get different memory. The
    /// smallest free buffer that fits is lent, so that a steady sequence of calls allocates nothing.
    pub(crate) fn with_scratch<R>(&self, len: usize, f: impl FnOnce(&mut [u32]) -> R) -> R {
        if len == 0 {
            return f(&mut []);
        }
        let mut buffer = {
            let mut free = self.scratch.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
            let best = (0..free.len()).filter(|&i| free[i].len() >= len).min_by_key(|&i| free[i].len());
            best.map(|i| free.swap_remove(i))
        }
        .unwrap_or_else(|| AlignedBuf::zeros(len));
        let result = f(&mut buffer[..len]);
        self.scratch.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).push(buffer);
        result
    }
}

impl<E: Word> Default for Cpu<E> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T: Scalar> Buffer for AlignedBuf<T> {
    fn len(&self) -> usize {
        self.as_ref().len()
    }
}

impl<E: Word> Device for Cpu<E> {
    type Element = E;
    type Buffer<T: Scalar> = AlignedBuf<T>;
    type Recording = ();

    fn zeros<T: Scalar>(&self, len: usize) -> AlignedBuf<T> {
        AlignedBuf::zeros(len)
    }

    fn zeros_together<T: Scalar>(&self, count: usize, len: usize) -> Vec<AlignedBuf<T>> {
        let arena = Arena::new();
        (0..count).map(|_| arena.zeros(len)).collect()
    }

    fn write<T: Scalar>(&self, dst: &mut AlignedBuf<T>, src: &[T]) {
        dst[..src.len()].copy_from_slice(src);
    }

    fn read<T: Scalar>(&self, dst: &mut [T], src: &AlignedBuf<T>) {
        dst.copy_from_slice(&src[..dst.len()]);
    }

    fn copy<T: Scalar>(&self, dst: &mut AlignedBuf<T>, src: &AlignedBuf<T>) {
        dst[..src.as_ref().len()].copy_from_slice(src);
    }

    fn clear<T: Scalar>(&self, dst: &mut AlignedBuf<T>) {
        const BLOCK: usize = 1 << 18;
        let (len, out) = (dst.as_ref().len(), SharedMut::new(dst));
        self.parallel(len.div_ceil(BLOCK), |block| {
            let (start, end) = (block * BLOCK, len.min((block + 1) * BLOCK));
            // SAFETY: blocks do not overlap.
            unsafe { out.slice(start, end - start) }.fill(T::zeroed());
        });
    }

    fn num_threads(&self) -> usize {
        self.pool.current_num_threads()
    }

    fn describe(&self) -> String {
        format!("CPU, {} threads, {}, {}", self.num_threads(), self.isa, E::NAME)
    }

    fn peak_flops(&self) -> f64 {
        self.measure_peak_flops()
    }

    fn peak_bytes(&self) -> f64 {
        self.measure_read_bytes()
    }

    /// On the pool's threads, so that the operations inside start without waking a thread.
    fn install<R: Send>(&self, f: impl FnOnce() -> R + Send) -> R {
        self.pool.install(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scratch_is_reused() {
        let cpu = Cpu::<f32>::with(Isa::Portable, 1);
        for _ in 0..3 {
            cpu.with_scratch(100, |outer| {
                outer.fill(1);
                cpu.with_scratch(50, |inner| inner.fill(2));
                assert!(outer.iter().all(|&x| x == 1));
            });
        }
        assert_eq!(cpu.scratch.lock().map(|free| free.len()).unwrap_or(0), 2);
    }
}
