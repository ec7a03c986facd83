//! The driver: one card, one stream, its memory, and kernel launches.
//!
//! Work goes to one stream in order, so operations need no events between them, and scratch memory that one has used is
//! free for the next. Beside it there is a second lane, for the gradients of weights, which nothing waits for before the
//! optimizer: while small products leave processors idle, they fill them. What it reads and writes is remembered, and the
//! first lane waits for it before it touches any of that. The host runs ahead of the card; it waits only where it reads.
//! What the driver refuses after the start is a bug or a broken card, and panics with the driver's words.

mod early;
mod lanes;
mod memory;
mod record;

pub(crate) use lanes::Lane;
use lanes::{Beside, new_event};
use memory::{Scratch, Staging, TABLE_ROW_BYTES};
pub(crate) use memory::{ScratchMemory, TABLE_ROWS};
use record::Recorder;

use super::compile::{Image, Source, compile};
use super::{CudaError, CudaOptions, Version, library};
use cudarc::driver::sys as driver;
use std::collections::HashMap;
use std::ffi::{CStr, CString, c_void};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Mutex, RwLock};

/// Elements that a kernel counts in an int, with room for the threads of the last block, which count past the end.
pub(crate) const MAX_ELEMENTS: usize = i32::MAX as usize - (1 << 16);

/// The oldest driver whose functions suffice, and whose libraries are looked for.
const LEAST_DRIVER: Version = Version { major: 12, minor: 0 };

/// Bytes of shared memory that a kernel has of its own at most, of those that ask for more. With GPT-2's 50,257 logits, in 16
/// bits, it is all that a block may have of most cards: 99 KiB.
const OWN_SHARED_BYTES: usize = 512;

/// Loaded kernels by name.
pub(crate) type Functions = HashMap<&'static str, driver::CUfunction>;

/// A card in use.
pub(crate) struct Context {
    context: driver::CUcontext,
    streams: [driver::CUstream; 2],
    /// What the second lane has been given since the first last waited for it.
    beside: Mutex<Beside>,
    functions: Functions,
    /// Kernels that were compiled for one head size, masked or not.
    variants: RwLock<HashMap<usize, Functions>>,
    staging: Mutex<Staging>,
    /// Where tables of tensors are written before the kernel that reads them.
    table: Mutex<u64>,
    scratch: [Mutex<Scratch>; 2],
    /// How often scratch memory has moved: what a recording must have been made after.
    scratch_generation: AtomicU64,
    /// Whether what was queued last lets others begin early.
    is_chain: AtomicBool,
    /// What is noted while work is recorded instead of run.
    recorder: Mutex<Option<Recorder>>,
    pub(crate) name: String,
    /// The driver's version of CUDA.
    pub(crate) driver_version: Version,
    pub(crate) capability: (i32, i32),
    /// Streaming multiprocessors.
    pub(crate) num_processors: usize,
    /// Bytes of shared memory that a block may ask for.
    max_shared: i32,
    pub(crate) cache: Option<PathBuf>,
}

// SAFETY: the driver's handles may be used from any thread whose current context is this one, which `bind` sees to.
unsafe impl Send for Context {}
// SAFETY: as above; everything that changes is behind a lock, or one word.
unsafe impl Sync for Context {}

/// A launch's shape.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    pub(crate) grid: (usize, usize, usize),
    /// Threads of a block.
    pub(crate) block: usize,
    /// Bytes of dynamic shared memory.
    pub(crate) shared_bytes: usize,
}

impl Shape {
    /// Blocks in one dimension.
    pub(crate) fn new(blocks: usize, block: usize) -> Self {
        Shape { grid: (blocks, 1, 1), block, shared_bytes: 0 }
    }

    /// One thread for each of `count` elements.
    pub(crate) fn each(count: usize) -> Self {
        Self::new(count.div_ceil(256), 256)
    }

    /// With dynamic shared memory.
    pub(crate) fn shared(self, shared_bytes: usize) -> Self {
        Shape { shared_bytes, ..self }
    }

    /// With a second and third dimension of blocks.
    pub(crate) fn by(self, y: usize, z: usize) -> Self {
        Shape { grid: (self.grid.0, y, z), ..self }
    }
}

/// What a kernel's parameter is made from. The driver reads as many low bytes of the word as the parameter has.
pub(crate) trait Argument {
    fn word(&self) -> u64;
}
impl Argument for u64 {
    fn word(&self) -> u64 {
        *self
    }
}
impl Argument for u32 {
    fn word(&self) -> u64 {
        u64::from(*self)
    }
}
impl Argument for f32 {
    fn word(&self) -> u64 {
        u64::from(self.to_bits())
    }
}
/// An int. Sizes of tensors that a kernel counts in int are checked here, at the entrance: they leave room for the last
/// block, whose threads count past the end.
impl Argument for usize {
    fn word(&self) -> u64 {
        assert!(*self <= MAX_ELEMENTS, "a tensor of {self} elements: kernels count to {MAX_ELEMENTS}");
        *self as u64
    }
}
impl Argument for i32 {
    fn word(&self) -> u64 {
        u64::from(*self as u32)
    }
}

/// The arguments of a launch, in the kernel's order.
macro_rules! arguments {
    ($($argument:expr),* $(,)?) => {
        &[$(crate::cuda::Argument::word(&$argument)),*]
    };
}
pub(crate) use arguments;

impl Context {
    /// Opens a card and loads `sources`, compiled with `defines`.
    pub(crate) fn open(
        options: &CudaOptions,
        sources: &'static [Source],
        defines: &[String],
    ) -> Result<Self, CudaError> {
        library::open_driver(&options.libraries)?;
        let driver_version = library::driver_version()?;
        let (mut count, mut device) = (0, 0);
        // SAFETY: results are written to live variables; the context stays for the life of the process, as the driver's
        // primary contexts are meant to.
        let (context, streams, beside) = unsafe {
            check("cuInit", driver::cuInit(0))?;
            check("cuDeviceGetCount", driver::cuDeviceGetCount(&mut count))?;
            let ordinal = options.ordinal;
            if ordinal >= count as usize {
                return Err(CudaError::NoDevice { ordinal, count: count as usize });
            }
            // A machine without a card needs no other library.
            if driver_version < LEAST_DRIVER {
                return Err(CudaError::OldDriver { version: driver_version });
            }
            library::open_nvrtc(&options.libraries, driver_version)?;
            library::open_cublaslt(&options.libraries, driver_version)?;
            check("cuDeviceGet", driver::cuDeviceGet(&mut device, ordinal as i32))?;
            let mut context = std::ptr::null_mut();
            check("cuDevicePrimaryCtxRetain", driver::cuDevicePrimaryCtxRetain(&mut context, device))?;
            check("cuCtxSetCurrent", driver::cuCtxSetCurrent(context))?;
            let mut streams = [std::ptr::null_mut(); 2];
            for stream in &mut streams {
                let flags = driver::CUstream_flags::CU_STREAM_NON_BLOCKING as u32;
                check("cuStreamCreate", driver::cuStreamCreate(stream, flags))?;
            }
            let [forked, done] = [new_event()?, new_event()?];
            (context, streams, Beside { forked, done, buffers: Vec::new() })
        };
        use driver::CUdevice_attribute_enum as Attribute;
        let attribute = |which| {
            let mut value = 0;
            // SAFETY: value is written.
            check("cuDeviceGetAttribute", unsafe {
                driver::cuDeviceGetAttribute(&mut value, which, device)
            })?;
            Ok::<i32, CudaError>(value)
        };
        let capability = (
            attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?,
            attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?,
        );
        let name = device_name(device)?;
        if capability < (8, 0) {
            return Err(CudaError::TooOld { name, capability });
        }
        let num_processors = attribute(Attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)? as usize;
        let max_shared = attribute(Attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN)?;
        let mut opened = Context {
            context,
            streams,
            beside: Mutex::new(beside),
            functions: Functions::new(),
            variants: RwLock::default(),
            staging: Mutex::new(Staging::new()?),
            table: Mutex::new(0),
            scratch: [(); 2].map(|()| Mutex::new(Scratch { pointer: 0, bytes: 0 })),
            scratch_generation: AtomicU64::new(0),
            is_chain: AtomicBool::new(false),
            recorder: Mutex::new(None),
            name,
            driver_version,
            capability,
            num_processors,
            max_shared,
            cache: options.cache_dir.clone(),
        };
        opened.table = Mutex::new(opened.open_memory(TABLE_ROWS * TABLE_ROW_BYTES)?);
        opened.functions = opened.load(sources, defines)?;
        Ok(opened)
    }

    /// Compiles and loads kernels. Sources compile at the same time: the first start takes as long as the largest.
    pub(crate) fn load(
        &self,
        sources: &'static [Source],
        defines: &[String],
    ) -> Result<Functions, CudaError> {
        let compile =
            |source, is_fresh| compile(source, defines, self.capability, self.cache.as_deref(), is_fresh);
        let images: Vec<Result<Image, CudaError>> = std::thread::scope(|scope| {
            let threads: Vec<_> =
                sources.iter().map(|source| scope.spawn(move || compile(source, false))).collect();
            threads.into_iter().map(|thread| thread.join().expect("the compiler does not panic")).collect()
        });
        self.bind();
        let mut functions = Functions::new();
        for (source, image) in sources.iter().zip(images) {
            if load(source, &image?, self.max_shared, &mut functions).is_err() {
                // What was kept on disk may be damaged; what is wrong with a fresh one is an error.
                load(source, &compile(source, true)?, self.max_shared, &mut functions)?;
            }
        }
        Ok(functions)
    }

    /// Bytes of dynamic shared memory that a block may ask for, beside what a kernel has of its own.
    pub(crate) fn max_shared_bytes(&self) -> usize {
        self.max_shared as usize - OWN_SHARED_BYTES
    }

    /// Makes this card the calling thread's.
    pub(crate) fn bind(&self) {
        // SAFETY: the context exists as long as the process.
        require("cuCtxSetCurrent", unsafe { driver::cuCtxSetCurrent(self.context) });
    }

    /// As [`bind`](Self::bind) where something is given back, perhaps while a panic unwinds: without one of its own.
    pub(super) fn try_bind(&self) {
        // SAFETY: as in `bind`.
        let _ = unsafe { driver::cuCtxSetCurrent(self.context) };
    }

    /// A kernel.
    pub(crate) fn function(&self, kernel: &str) -> driver::CUfunction {
        *self.functions.get(kernel).unwrap_or_else(|| panic!("there is no kernel {kernel}"))
    }

    /// A kernel of a variant, which is loaded the first time. Panics with the compiler's words if it does not compile, which
    /// the tests rule out.
    pub(crate) fn function_of_variant(
        &self,
        kernel: &str,
        variant: usize,
        load: impl FnOnce() -> Result<Functions, CudaError>,
    ) -> driver::CUfunction {
        let find = || {
            let variants = self.variants.read().unwrap_or_else(|poisoned| poisoned.into_inner());
            variants
                .get(&variant)
                .map(|functions| *functions.get(kernel).unwrap_or_else(|| panic!("no kernel {kernel}")))
        };
        find().unwrap_or_else(|| {
            let functions = load().unwrap_or_else(|error| panic!("{error}"));
            let mut variants = self.variants.write().unwrap_or_else(|poisoned| poisoned.into_inner());
            variants.insert(variant, functions);
            drop(variants);
            find().unwrap_or_else(|| panic!("no kernel {kernel}"))
        })
    }

    /// Starts a kernel. Whether the lanes must wait for each other is the caller's to say.
    pub(crate) fn start(
        &self,
        lane: Lane,
        function: driver::CUfunction,
        kernel: &str,
        shape: Shape,
        arguments: &[u64],
    ) {
        self.start_with(lane, function, kernel, shape, &[], arguments);
    }

    /// As [`start`](Self::start), for a kernel whose first parameter, unless it is empty, is a structure of these words.
    pub(crate) fn start_with(
        &self,
        lane: Lane,
        function: driver::CUfunction,
        kernel: &str,
        shape: Shape,
        structure: &[u64],
        arguments: &[u64],
    ) {
        let (x, y, z) = shape.grid;
        if x * y * z == 0 {
            return;
        }
        let mut pointers: [*mut c_void; 32] = [std::ptr::null_mut(); 32];
        let structure_pointer = (!structure.is_empty()).then_some(structure.as_ptr());
        let all = structure_pointer.into_iter().chain(arguments.iter().map(std::ptr::from_ref));
        assert!(arguments.len() < pointers.len(), "{kernel}: {} arguments", arguments.len());
        for (pointer, argument) in pointers.iter_mut().zip(all) {
            *pointer = argument.cast_mut().cast();
        }
        self.bind();
        self.end_chain();
        // SAFETY: the arguments are those of the kernel's declaration, each in words of its own that outlive the call.
        let result = unsafe {
            driver::cuLaunchKernel(
                function,
                x as u32,
                y as u32,
                z as u32,
                shape.block as u32,
                1,
                1,
                shape.shared_bytes as u32,
                self.streams[lane as usize],
                pointers.as_mut_ptr(),
                std::ptr::null_mut(),
            )
        };
        require(kernel, result);
        self.note_kernel(lane, function, shape, structure, arguments);
    }
}

fn load(source: &Source, image: &[u8], max_shared: i32, functions: &mut Functions) -> Result<(), CudaError> {
    let mut module = std::ptr::null_mut();
    // PTX is text, which must end with a NUL; machine code does not mind one.
    let mut image = image.to_vec();
    image.push(0);
    // SAFETY: the image is whole, and copied by the driver.
    check("cuModuleLoadData", unsafe { driver::cuModuleLoadData(&mut module, image.as_ptr().cast()) })?;
    for kernel in source.kernels {
        let name = CString::new(*kernel)
            .map_err(|_| CudaError::Compile { name: source.name, log: "a NUL".into() })?;
        let mut function = std::ptr::null_mut();
        // SAFETY: the module was loaded; the attribute only raises what a launch may ask for.
        unsafe {
            check("cuModuleGetFunction", driver::cuModuleGetFunction(&mut function, module, name.as_ptr()))?;
            let attribute =
                driver::CUfunction_attribute_enum::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
            let mut fixed = 0;
            let which = driver::CUfunction_attribute_enum::CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES;
            check("cuFuncGetAttribute", driver::cuFuncGetAttribute(&mut fixed, which, function))?;
            check("cuFuncSetAttribute", driver::cuFuncSetAttribute(function, attribute, max_shared - fixed))?;
        }
        functions.insert(kernel, function);
    }
    Ok(())
}

fn device_name(device: driver::CUdevice) -> Result<String, CudaError> {
    let mut name = [0u8; 256];
    // SAFETY: the buffer has the length that is given.
    check("cuDeviceGetName", unsafe { driver::cuDeviceGetName(name.as_mut_ptr().cast(), 256, device) })?;
    Ok(CStr::from_bytes_until_nul(&name)
        .map_or_else(|_| String::new(), |name| name.to_string_lossy().into_owned()))
}

pub(super) fn check(call: &'static str, result: driver::CUresult) -> Result<(), CudaError> {
    match result {
        driver::CUresult::CUDA_SUCCESS => Ok(()),
        other => Err(CudaError::Driver { call, message: describe(other) }),
    }
}

/// Panics unless a call succeeded. An error may be that of an earlier kernel, which the driver reports late.
pub(super) fn require(call: &str, result: driver::CUresult) {
    assert!(result == driver::CUresult::CUDA_SUCCESS, "{call}: {}", describe(result));
}

fn describe(result: driver::CUresult) -> String {
    if result == driver::CUresult::CUDA_ERROR_STUB_LIBRARY {
        let hint = "take its folder, lib64/stubs, off LD_LIBRARY_PATH";
        return format!(
            "the toolkit's libcuda.so, good for linking only, hides the driver's: {hint} ({result:?})"
        );
    }
    let mut text = std::ptr::null();
    // SAFETY: the driver's strings are static.
    unsafe {
        if driver::cuGetErrorString(result, &mut text) != driver::CUresult::CUDA_SUCCESS || text.is_null() {
            return format!("{result:?}");
        }
        format!("{} ({result:?})", CStr::from_ptr(text).to_string_lossy())
    }
}
