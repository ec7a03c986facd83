//! An NVIDIA GPU as a device.
//!
//! eyas is built without CUDA: driver, NVRTC and cuBLASLt are found at run time (`library.rs`), kernels are compiled for
//! the card (`compile.rs`) and queued on a stream and one beside it (`context/`), matrix products go to cuBLASLt (`matmul.rs`). The
//! kernels themselves lie beside their operation, in `cuda.cu`, and are launched from `cuda.rs` there.
//!
//! Results have the same bits from run to run on one card: no kernel adds floating-point numbers in an order that is left
//! to chance.

mod bindings;
mod choices;
mod compile;
mod context;
mod error;
mod graph;
mod kept;
mod library;
mod matmul;
mod product;
mod tensor_map;

pub(crate) use choices::Place;
pub(crate) use compile::Source;
pub(crate) use context::{Argument, Lane, ScratchMemory, Shape, TABLE_ROWS, arguments};
pub use error::{CudaError, Version};
pub use graph::Recording;
pub use library::LibraryPaths;
pub(crate) use product::{Epilogue, Kind, Operands, Product};
pub(crate) use tensor_map::{Boxes, TensorMap};

use crate::device::{Buffer, Changing, Device, Scalar};
use crate::element::{Bf16, Element, F16};
use context::Context;
use cudarc::driver::sys as driver;
use matmul::Matmul;
use std::marker::PhantomData;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, OnceLock};

/// The kernels that every network needs. Those of attention are compiled for a head size when it is first met.
pub(crate) const SOURCES: &[Source] = &[
    Source { name: "matmul", files: &[include_str!("matmul.cu")], kernels: &["matmul", "matmul_wide"] },
    crate::embedding::cuda::SOURCE,
    crate::layernorm::cuda::SOURCE,
    crate::linear::cuda::SOURCE,
    crate::linear::cuda_hopper::SOURCE,
    crate::linear::cuda_row::SOURCE,
    crate::loss::cuda::SOURCE,
    crate::adamw::cuda::SOURCE,
    crate::muon::cuda::SOURCE,
];

/// How a card is opened.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CudaOptions {
    /// The card's number, from 0.
    pub ordinal: usize,
    /// Where NVIDIA's libraries are looked for.
    pub libraries: LibraryPaths,
    /// Where compiled kernels and chosen algorithms are kept; `None`: nowhere.
    pub cache_dir: Option<PathBuf>,
    /// Whether f32 products may round their operands to TF32, which has f32's range and 10 bits after the point.
    pub tf32: bool,
}

/// An element type that kernels are compiled for.
pub trait CudaElement: Element {
    /// The compiler's option that names it.
    #[doc(hidden)]
    const DEFINE: &'static str;
    /// Whether it is f32.
    #[doc(hidden)]
    const IS_F32: bool = size_of::<Self>() == 4;
}
impl CudaElement for f32 {
    const DEFINE: &'static str = "-DELEMENT_F32";
}
impl CudaElement for Bf16 {
    const DEFINE: &'static str = "-DELEMENT_BF16";
}
impl CudaElement for F16 {
    const DEFINE: &'static str = "-DELEMENT_F16";
}

/// An NVIDIA GPU, with activations of element type `E`. Several threads may use one, but not while a pass is being recorded, see
/// [`Device::replay`]; what they do in [`Device::install`], they do one after the other; new tokens are made there while others change weights.
pub struct Cuda<E> {
    pub(crate) context: Arc<Context>,
    matmul: Matmul,
    peak_flops: OnceLock<f64>,
    /// Held by the thread that has it for itself.
    turn: Mutex<()>,
    element: PhantomData<E>,
}

/// Memory of a GPU. It begins on a boundary of 256 bytes.
pub struct CudaBuf<T> {
    pointer: u64,
    len: usize,
    context: Arc<Context>,
    element: PhantomData<T>,
}

impl<E: CudaElement> Cuda<E> {
    /// Opens a card.
    ///
    /// # Errors
    /// [`CudaError`], where libraries or a card are missing or too old.
    pub fn open(options: &CudaOptions) -> Result<Self, CudaError> {
        let context = Arc::new(Context::open(options, SOURCES, &[E::DEFINE.into()])?);
        let matmul = Matmul::new(&context, options.tf32)?;
        matmul.check(&context, Self::KIND)?;
        Ok(Cuda { context, matmul, peak_flops: OnceLock::new(), turn: Mutex::new(()), element: PhantomData })
    }

    /// The card's name.
    pub fn name(&self) -> &str {
        &self.context.name
    }

    /// Bytes a second that a copy inside the card's memory reads and writes together, measured.
    fn measure_copy_bytes(&self) -> f64 {
        // Many times the second-level cache, where there is so much.
        let bytes = (1 << 30).min(self.context.memory().0 / 4).next_multiple_of(16);
        let (from, to) = (self.zeros::<u32>(bytes / 4), self.zeros::<u32>(bytes / 4));
        let copy = || self.launch("copy", Shape::each(bytes / 16), arguments![to, from, bytes / 16]);
        copy();
        let seconds = (0..5).map(|_| self.context.time(copy)).fold(f64::INFINITY, f64::min);
        2.0 * bytes as f64 / seconds
    }

    /// The element type of matrices.
    pub(crate) const KIND: Kind = match (E::IS_F32, E::NAME.as_bytes()[0]) {
        (true, _) => Kind::F32,
        (false, b'b') => Kind::Bf16,
        (false, _) => Kind::F16,
    };

    /// Starts a kernel, after everything that was queued before.
    pub(crate) fn launch(&self, kernel: &str, shape: Shape, arguments: &[u64]) {
        self.context.join();
        self.launch_on(Lane::First, kernel, shape, arguments);
    }

    /// Starts a kernel that waits by itself for everything that was queued before: see `context/early.rs`.
    pub(crate) fn launch_early(&self, kernel: &str, shape: Shape, arguments: &[u64]) {
        self.context.join();
        self.context.start_early(self.context.function(kernel), kernel, shape, arguments);
    }

    /// Starts a kernel after what was queued in its lane before. In the first lane the caller sees to it that the second
    /// touches nothing that the kernel does: see [`Context::join_for`].
    pub(crate) fn launch_on(&self, lane: Lane, kernel: &str, shape: Shape, arguments: &[u64]) {
        self.context.start(lane, self.context.function(kernel), kernel, shape, arguments);
    }

    /// As [`launch`](Self::launch), with a kernel of attention that was compiled for a variant: see `attention/cuda.rs`.
    pub(crate) fn launch_for_head(&self, kernel: &str, variant: usize, shape: Shape, arguments: &[u64]) {
        self.context.join();
        let function = self.function_for_head(kernel, variant);
        self.context.start(Lane::First, function, kernel, shape, arguments);
    }

    /// As [`launch_early`](Self::launch_early), with such a kernel.
    pub(crate) fn launch_early_for_head(
        &self,
        kernel: &str,
        variant: usize,
        shape: Shape,
        arguments: &[u64],
    ) {
        self.context.join();
        self.context.start_early(self.function_for_head(kernel, variant), kernel, shape, arguments);
    }

    fn function_for_head(&self, kernel: &str, variant: usize) -> driver::CUfunction {
        let load = || {
            let sources = crate::attention::cuda::sources(variant, E::IS_F32);
            self.context.load(sources, &crate::attention::cuda::head_defines(E::DEFINE, variant))
        };
        self.context.function_of_variant(kernel, variant, load)
    }

    /// Runs a product, after everything that was queued before; false where cuBLASLt has no algorithm for it.
    #[must_use]
    pub(crate) fn try_product(&self, product: Product, operands: Operands) -> bool {
        self.context.join();
        self.matmul.run(&self.context, Lane::First, product, operands)
    }

    /// Runs a product without an epilogue, after everything that was queued before.
    pub(crate) fn product(&self, product: Product, operands: Operands) {
        self.context.join();
        self.product_on(Lane::First, product, operands);
    }

    /// Runs a product after what was queued in its lane before; false where cuBLASLt has no algorithm for it.
    #[must_use]
    pub(crate) fn try_product_on(&self, lane: Lane, product: Product, operands: Operands) -> bool {
        self.matmul.run(&self.context, lane, product, operands)
    }

    /// Runs a product without an epilogue after what was queued in its lane before.
    pub(crate) fn product_on(&self, lane: Lane, product: Product, operands: Operands) {
        self.matmul.plain(&self.context, lane, product, operands);
    }

    /// Which form is fastest in a place, of several that do the same: see `choices.rs`. All are run a few
    /// times where that is not known. A form returns false, with nothing done, if it is not to be had; the first always is.
    pub(crate) fn fastest_form(&self, place: Place, forms: &[&dyn Fn() -> bool]) -> usize {
        self.matmul.fastest_form(Self::KIND, place, forms.len(), |form| {
            self.synchronize();
            forms[form]().then(|| {
                self.synchronize();
                let run = || (0..3).for_each(|_| _ = forms[form]());
                (0..3).map(|_| self.context.time(run)).fold(f64::INFINITY, f64::min)
            })
        })
    }

    /// Whether `other` is faster in a place than `first`, which does the same; both are always to be had.
    pub(crate) fn is_faster(&self, place: Place, other: &dyn Fn(), first: &dyn Fn()) -> bool {
        let always = |form: &dyn Fn()| {
            form();
            true
        };
        self.fastest_form(place, &[&|| always(first), &|| always(other)]) == 1
    }

    fn measure_peak_flops(&self) -> f64 {
        // Large enough for every processor, small enough for what is left of the memory.
        let n = match (self.context.memory().0 > 1 << 30, E::IS_F32) {
            (false, _) => 2048,
            (true, true) => 4096,
            (true, false) => 8192,
        };
        let random = |seed: u32| {
            let buffer = self.zeros::<E>(n * n);
            self.launch("fill_random", Shape::each(n * n), arguments![buffer, n * n, seed]);
            buffer
        };
        let (a, b, d) = (random(1), random(2), self.zeros::<E>(n * n));
        let product = Product { transpose_a: true, ..Product::new(Self::KIND, n, n, n) };
        let operands = Operands { d: d.pointer(), c: 0, a: a.pointer(), b: b.pointer(), bias: 0, aux: 0 };
        let run = || self.product(product, operands);
        run();
        let mut seconds: Vec<f64> = (0..10).map(|_| self.context.time(run)).collect();
        seconds.sort_by(f64::total_cmp);
        2.0 * (n as f64).powi(3) / seconds[seconds.len() / 2]
    }
}

impl<E> Drop for Cuda<E> {
    fn drop(&mut self) {
        self.matmul.close(&self.context);
    }
}

impl<T> CudaBuf<T> {
    /// Its address on the card.
    pub(crate) fn pointer(&self) -> u64 {
        self.pointer
    }
}

impl<T> Argument for CudaBuf<T> {
    fn word(&self) -> u64 {
        self.pointer
    }
}
impl<T> Argument for &CudaBuf<T> {
    fn word(&self) -> u64 {
        self.pointer
    }
}
impl<T> Argument for &mut CudaBuf<T> {
    fn word(&self) -> u64 {
        self.pointer
    }
}

impl<T: Scalar> Buffer for CudaBuf<T> {
    fn len(&self) -> usize {
        self.len
    }
}

impl<T> Drop for CudaBuf<T> {
    fn drop(&mut self) {
        self.context.free(self.pointer);
    }
}

impl<E: CudaElement> Device for Cuda<E> {
    type Element = E;
    type Buffer<T: Scalar> = CudaBuf<T>;
    type Recording = Recording;

    fn zeros<T: Scalar>(&self, len: usize) -> CudaBuf<T> {
        let bytes = len * size_of::<T>();
        let pointer = self.context.allocate(bytes);
        self.context.clear(pointer, bytes);
        CudaBuf { pointer, len, context: self.context.clone(), element: PhantomData }
    }

    fn write<T: Scalar>(&self, dst: &mut CudaBuf<T>, src: &[T]) {
        assert!(src.len() <= dst.len, "{} elements into a buffer of {}", src.len(), dst.len);
        self.context.write(dst.pointer, bytemuck::cast_slice(src));
    }

    fn read<T: Scalar>(&self, dst: &mut [T], src: &CudaBuf<T>) {
        assert!(dst.len() <= src.len, "{} elements from a buffer of {}", dst.len(), src.len);
        self.context.read(bytemuck::cast_slice_mut(dst), src.pointer);
    }

    fn clear<T: Scalar>(&self, dst: &mut CudaBuf<T>) {
        self.context.clear(dst.pointer, dst.len * size_of::<T>());
    }

    fn clear_all(&self, dsts: &mut [&mut CudaBuf<f32>]) {
        self.clear_table(dsts.iter().map(|dst| (dst.pointer, dst.len)));
    }

    fn num_threads(&self) -> usize {
        self.context.num_processors
    }

    fn describe(&self) -> String {
        let (major, minor) = self.context.capability;
        let gibibytes = self.context.memory().1 as f64 / f64::from(1 << 30);
        let decimals = usize::from(gibibytes < 10.0);
        format!(
            "CUDA {}, {}, {gibibytes:.decimals$} GiB, compute capability {major}.{minor}, {}",
            self.context.driver_version,
            self.context.name,
            E::NAME
        )
    }

    fn replay(&self, recording: &mut Recording, signature: u64, changing: Changing, queue: impl FnMut()) {
        recording.replay(&self.context, signature, changing, queue);
    }

    fn copy<T: Scalar>(&self, dst: &mut CudaBuf<T>, src: &CudaBuf<T>) {
        assert!(src.len <= dst.len, "{} elements into a buffer of {}", src.len, dst.len);
        self.context.copy(dst.pointer, src.pointer, src.len * size_of::<T>());
    }

    fn peak_flops(&self) -> f64 {
        *self.peak_flops.get_or_init(|| self.measure_peak_flops())
    }

    fn peak_bytes(&self) -> f64 {
        self.measure_copy_bytes()
    }

    fn synchronize(&self) {
        self.context.synchronize();
    }

    fn free_bytes(&self) -> Option<usize> {
        Some(self.context.memory().0)
    }

    fn total_bytes(&self) -> Option<usize> {
        Some(self.context.memory().1)
    }

    fn max_elements(&self) -> usize {
        context::MAX_ELEMENTS
    }

    fn install<R: Send>(&self, f: impl FnOnce() -> R + Send) -> R {
        let _turn = self.turn.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        f()
    }
}

/// Where tests look for libraries: the usual places, and EYAS_CUDA_PATH.
#[cfg(test)]
pub(crate) fn test_paths() -> LibraryPaths {
    let given = std::env::var_os("EYAS_CUDA_PATH").map(|path| std::env::split_paths(&path).collect());
    LibraryPaths::usual(given.unwrap_or_default(), std::env::var_os("PATH").as_deref())
}

/// The first card, for tests; the reason where there is none.
#[cfg(test)]
pub(crate) fn test_device<E: CudaElement>() -> Result<Cuda<E>, CudaError> {
    // Kernels are kept between tests, each of which opens the card for itself.
    Cuda::open(&CudaOptions {
        libraries: test_paths(),
        cache_dir: Some(test_cache()),
        ..CudaOptions::default()
    })
}

#[cfg(test)]
pub(crate) fn test_cache() -> PathBuf {
    std::env::temp_dir().join("eyas-test-kernels")
}

#[cfg(test)]
mod tests;
