//! The driver: one card, one stream, its memory, and kernel launches.
//!
//! Work goes to one stream in order, so operations need no events between them, and scratch memory that one has used is
//! free for the next. Beside it there is a second lane, for the gradients of weights, which nothing waits for before the
//! optimizer: while small products leave processors idle, they fill them. What it reads and writes is remembered, and the
//! first lane waits for it before it touches any of that. The host runs ahead of the card; it waits only where it reads.
//! What the driver refuses after the start is a bug or a broken card, and panics with the driver's words.

use super::compile::{Image, Source, compile};
use super::graph::DropoutNode;
use super::{CudaError, CudaOptions, library};
use crate::Dropout;
use cudarc::driver::sys as driver;
use std::collections::HashMap;
use std::ffi::{CStr, CString, c_void};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, RwLock};

/// Bytes of a staging slot: what a copy to the card may have to go through pinned memory, without waiting for the card.
const SLOT_BYTES: usize = 1 << 20;
/// Staging slots: copies that may be under way.
const NUM_SLOTS: usize = 16;

/// Elements that a kernel counts in an int, with room for the threads of the last block, which count past the end.
pub(crate) const MAX_ELEMENTS: usize = i32::MAX as usize - (1 << 16);
/// Tensors that one kernel may take: GPT-2 XL has 580.
pub(crate) const TABLE_ROWS: usize = 16_384;
/// Bytes of a row of a table.
const TABLE_ROW_BYTES: usize = 48;

/// Loaded kernels by name.
pub(crate) type Functions = HashMap<&'static str, driver::CUfunction>;

/// A card in use.
pub(crate) struct Context {
    context: driver::CUcontext,
    streams: [driver::CUstream; 2],
    /// What the second lane has been given since the first last waited for it.
    beside: Mutex<Beside>,
    functions: Functions,
    /// Kernels that were compiled for one head size.
    variants: RwLock<HashMap<usize, Functions>>,
    staging: Mutex<Staging>,
    /// Where tables of tensors are written before the kernel that reads them.
    table: u64,
    scratch: [Mutex<Scratch>; 2],
    /// How often scratch memory has moved: what a recording must have been made after.
    scratch_generation: AtomicU64,
    /// What is noted while work is recorded instead of run.
    recorder: Mutex<Option<Recorder>>,
    pub(crate) name: String,
    pub(crate) capability: (i32, i32),
    /// Streaming multiprocessors.
    pub(crate) num_processors: usize,
    /// Bytes of shared memory that a block may ask for.
    max_shared: i32,
    pub(crate) cache: Option<PathBuf>,
}

// SAFETY: the driver's handles may be used from any thread whose current context is this one, which `bind` sees to.
unsafe impl Send for Context {}
// SAFETY: as above; everything that changes is behind a lock.
unsafe impl Sync for Context {}

/// Where work is queued.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lane {
    First,
    Second,
}

/// What is noted while work is recorded.
#[derive(Default)]
struct Recorder {
    /// The dropouts that were asked for.
    keys: Vec<Dropout>,
    nodes: Vec<DropoutNode>,
}

/// The state of the second lane.
struct Beside {
    /// Marks the place in the first lane that the second goes on from.
    forked: driver::CUevent,
    /// Marks the end of the second lane's work.
    done: driver::CUevent,
    /// Buffers that its work reads or writes; empty if the first lane has waited for all of it.
    buffers: Vec<u64>,
}

struct Staging {
    memory: *mut u8,
    events: Vec<driver::CUevent>,
    next: usize,
}

pub(crate) struct Scratch {
    pointer: u64,
    bytes: usize,
}

type ElapsedTime = unsafe extern "C" fn(*mut f32, driver::CUevent, driver::CUevent) -> driver::CUresult;

/// Scratch memory while an operation has it: no other can get it before this is dropped.
pub(crate) struct ScratchMemory<'a>(MutexGuard<'a, Scratch>);

impl ScratchMemory<'_> {
    /// The address of byte `offset`, which must be a multiple of 256 where kernels read vectors.
    pub(crate) fn at(&self, offset: usize) -> u64 {
        self.0.pointer + offset as u64
    }
}

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
            library::open_nvrtc(&options.libraries)?;
            library::open_cublaslt(&options.libraries)?;
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
            table: 0,
            scratch: [(); 2].map(|()| Mutex::new(Scratch { pointer: 0, bytes: 0 })),
            scratch_generation: AtomicU64::new(0),
            recorder: Mutex::new(None),
            name,
            capability,
            num_processors,
            max_shared,
            cache: options.cache_dir.clone(),
        };
        opened.table = opened.open_memory(TABLE_ROWS * TABLE_ROW_BYTES)?;
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

    /// Bytes of dynamic shared memory that a block may ask for, beside a little that is fixed.
    pub(crate) fn max_shared_bytes(&self) -> usize {
        self.max_shared as usize - (1 << 10)
    }

    /// Makes this card the calling thread's.
    pub(crate) fn bind(&self) {
        // SAFETY: the context exists as long as the process.
        require("cuCtxSetCurrent", unsafe { driver::cuCtxSetCurrent(self.context) });
    }

    /// A lane's stream, for libraries.
    pub(crate) fn stream(&self, lane: Lane) -> driver::CUstream {
        self.streams[lane as usize]
    }

    /// Lets the second lane go on from here: what it is given next may read what was queued so far. Once that is queued,
    /// [`beside`](Self::beside) must say what it touches.
    pub(crate) fn fork(&self) {
        let beside = self.beside.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        self.bind();
        // SAFETY: events and streams exist.
        unsafe {
            require("cuEventRecord", driver::cuEventRecord(beside.forked, self.streams[0]));
            require("cuStreamWaitEvent", driver::cuStreamWaitEvent(self.streams[1], beside.forked, 0));
        }
    }

    /// Notes the buffers that work in the second lane reads or writes: after it was queued, because queueing it may have
    /// waited for both lanes, as for larger scratch memory, and forgotten what was noted before.
    pub(crate) fn beside(&self, buffers: &[u64]) {
        let mut beside = self.beside.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        beside.buffers.extend_from_slice(buffers);
    }

    /// Makes the first lane wait for the second if that reads or writes any of `buffers`.
    pub(crate) fn join_for(&self, buffers: &[u64]) {
        let mut beside = self.beside.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if buffers.iter().any(|buffer| beside.buffers.contains(buffer)) {
            self.wait_for(&mut beside);
        }
    }

    /// Makes the first lane wait for the second, if it has been given anything.
    pub(crate) fn join(&self) {
        let mut beside = self.beside.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if !beside.buffers.is_empty() {
            self.wait_for(&mut beside);
        }
    }

    fn wait_for(&self, beside: &mut Beside) {
        self.bind();
        // SAFETY: events and streams exist.
        unsafe {
            require("cuEventRecord", driver::cuEventRecord(beside.done, self.streams[1]));
            require("cuStreamWaitEvent", driver::cuStreamWaitEvent(self.streams[0], beside.done, 0));
        }
        beside.buffers.clear();
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
        let (x, y, z) = shape.grid;
        if x * y * z == 0 {
            return;
        }
        let mut pointers: [*mut c_void; 32] = [std::ptr::null_mut(); 32];
        for (pointer, argument) in pointers[..arguments.len()].iter_mut().zip(arguments) {
            *pointer = std::ptr::from_ref(argument).cast_mut().cast();
        }
        self.bind();
        // SAFETY: the arguments are those of the kernel's declaration, each in a word of its own that outlives the call.
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
        self.note_kernel(lane, function, shape, arguments);
    }

    /// Notes that the next launches may take this dropout's key, which another step has another of.
    pub(crate) fn note_dropout(&self, dropout: Dropout) {
        let mut recorder = self.recorder.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if let Some(recorder) = recorder.as_mut().filter(|_| dropout.is_active()) {
            recorder.keys.push(dropout);
        }
    }

    /// Notes a kernel that was just recorded, if it takes the key of a dropout.
    fn note_kernel(&self, lane: Lane, function: driver::CUfunction, shape: Shape, arguments: &[u64]) {
        let mut recorder = self.recorder.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let Some(recorder) = recorder.as_mut() else { return };
        // A key is 64 hashed bits: no address or size equals one.
        let key_of =
            |argument: &u64| recorder.keys.iter().find(|dropout| dropout.parts().0 == *argument).copied();
        let found =
            arguments.iter().enumerate().find_map(|(index, argument)| Some((index, key_of(argument)?)));
        if let Some((index, dropout)) = found {
            let node = self.last_node(lane);
            recorder.nodes.push(DropoutNode {
                node,
                function,
                shape,
                arguments: arguments.to_vec(),
                index,
                dropout,
            });
        }
    }

    /// The node that was recorded last in a lane: the one that its next would depend on.
    fn last_node(&self, lane: Lane) -> driver::CUgraphNode {
        let mut status = driver::CUstreamCaptureStatus::CU_STREAM_CAPTURE_STATUS_NONE;
        let (mut id, mut graph, mut nodes, mut count) = (0, std::ptr::null_mut(), std::ptr::null(), 0);
        // SAFETY: all are written; the nodes are read before the stream is used again.
        unsafe {
            let known = driver::cuStreamGetCaptureInfo_v3(
                self.streams[lane as usize],
                &mut status,
                &mut id,
                &mut graph,
                &mut nodes,
                std::ptr::null_mut(),
                &mut count,
            );
            require("cuStreamGetCaptureInfo", known);
            assert!(count == 1, "a kernel leaves one node to depend on, got {count}");
            *nodes
        }
    }

    /// How often scratch memory has moved.
    pub(crate) fn scratch_generation(&self) -> u64 {
        self.scratch_generation.load(Ordering::Relaxed)
    }

    /// Whether the driver is new enough to record: 12.3.
    pub(crate) fn can_record(&self) -> bool {
        // SAFETY: the driver was opened.
        unsafe { driver::culib().get::<*const c_void>(b"cuStreamGetCaptureInfo_v3").is_ok() }
    }

    /// Records what `queue` queues, without running it.
    pub(crate) fn record(
        &self,
        mut queue: impl FnMut(),
    ) -> (driver::CUgraph, driver::CUgraphExec, Vec<DropoutNode>) {
        self.join();
        self.bind();
        let recorder = || self.recorder.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        *recorder() = Some(Recorder::default());
        let mode = driver::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        // SAFETY: the stream exists, and what is queued allocates nothing and waits for nothing.
        require("cuStreamBeginCapture", unsafe { driver::cuStreamBeginCapture_v2(self.streams[0], mode) });
        queue();
        // The second lane's work must end in the first's.
        self.join();
        let (mut graph, mut executable) = (std::ptr::null_mut(), std::ptr::null_mut());
        // SAFETY: both are written.
        unsafe {
            require("cuStreamEndCapture", driver::cuStreamEndCapture(self.streams[0], &mut graph));
            require("cuGraphInstantiate", driver::cuGraphInstantiateWithFlags(&mut executable, graph, 0));
        }
        let noted = recorder().take().unwrap_or_default();
        (graph, executable, noted.nodes)
    }

    /// The first lane's stream.
    pub(crate) fn first_stream(&self) -> driver::CUstream {
        self.streams[0]
    }

    /// As [`require`].
    pub(crate) fn require(call: &str, result: driver::CUresult) {
        require(call, result);
    }

    /// Waits until all work is done.
    pub(crate) fn synchronize(&self) {
        self.join();
        self.bind();
        for stream in self.streams {
            // SAFETY: the stream exists.
            require("cuStreamSynchronize", unsafe { driver::cuStreamSynchronize(stream) });
        }
    }

    /// Memory; its content is whatever was there. `None` if there is not so much.
    pub(crate) fn try_allocate(&self, bytes: usize) -> Option<u64> {
        self.bind();
        let mut pointer = 0;
        // SAFETY: pointer is written.
        let result = unsafe { driver::cuMemAlloc_v2(&mut pointer, bytes.max(1)) };
        match result {
            driver::CUresult::CUDA_SUCCESS => Some(pointer),
            driver::CUresult::CUDA_ERROR_OUT_OF_MEMORY => None,
            other => panic!("cuMemAlloc of {bytes} bytes: {}", describe(other)),
        }
    }

    /// Memory. Panics if there is not so much: the plan is checked before, so another program took it.
    pub(crate) fn allocate(&self, bytes: usize) -> u64 {
        self.try_allocate(bytes).unwrap_or_else(|| {
            let (free, total) = self.memory();
            panic!("{} has no {bytes} bytes left: {free} of {total} are free", self.name)
        })
    }

    /// Memory that a card needs to be used at all.
    ///
    /// # Errors
    /// There is not so much.
    pub(crate) fn open_memory(&self, bytes: usize) -> Result<u64, CudaError> {
        self.try_allocate(bytes).ok_or_else(|| {
            let message = format!("{} has no {bytes} bytes left; is another program using it?", self.name);
            CudaError::Driver { call: "cuMemAlloc", message }
        })
    }

    /// Gives memory back; waits for the work that may use it.
    pub(crate) fn free(&self, pointer: u64) {
        self.bind();
        // SAFETY: the pointer is from `allocate` and not used again. At the end of the process the driver may be gone
        // already; then there is nothing to free.
        let _ = unsafe { driver::cuMemFree_v2(pointer) };
    }

    /// Bytes that are free, and all there are.
    pub(crate) fn memory(&self) -> (usize, usize) {
        self.bind();
        let (mut free, mut total) = (0, 0);
        // SAFETY: both are written.
        require("cuMemGetInfo", unsafe { driver::cuMemGetInfo_v2(&mut free, &mut total) });
        (free, total)
    }

    /// Sets bytes to zero.
    pub(crate) fn clear(&self, pointer: u64, bytes: usize) {
        if bytes == 0 {
            return;
        }
        self.join();
        self.bind();
        // SAFETY: the caller's buffer has so many bytes.
        require("cuMemsetD8Async", unsafe { driver::cuMemsetD8Async(pointer, 0, bytes, self.streams[0]) });
    }

    /// Copies to the card. Small copies go through pinned memory and return at once.
    pub(crate) fn write(&self, pointer: u64, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        self.join();
        self.bind();
        let mut staging = self.staging.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        // SAFETY: source and destination have so many bytes; the source lives until the copy is done: a slot is waited for
        // before it is filled again, and other memory until the stream is idle.
        unsafe {
            if bytes.len() <= SLOT_BYTES {
                let slot = staging.next;
                staging.next = (slot + 1) % NUM_SLOTS;
                require("cuEventSynchronize", driver::cuEventSynchronize(staging.events[slot]));
                let source = staging.memory.add(slot * SLOT_BYTES);
                std::ptr::copy_nonoverlapping(bytes.as_ptr(), source, bytes.len());
                let copied =
                    driver::cuMemcpyHtoDAsync_v2(pointer, source.cast(), bytes.len(), self.streams[0]);
                require("cuMemcpyHtoDAsync", copied);
                require("cuEventRecord", driver::cuEventRecord(staging.events[slot], self.streams[0]));
            } else {
                let copied = driver::cuMemcpyHtoDAsync_v2(
                    pointer,
                    bytes.as_ptr().cast(),
                    bytes.len(),
                    self.streams[0],
                );
                require("cuMemcpyHtoDAsync", copied);
                require("cuStreamSynchronize", driver::cuStreamSynchronize(self.streams[0]));
            }
        }
    }

    /// Copies within the card.
    pub(crate) fn copy(&self, to: u64, from: u64, bytes: usize) {
        if bytes == 0 {
            return;
        }
        self.join();
        self.bind();
        // SAFETY: both buffers have so many bytes.
        let copied = unsafe { driver::cuMemcpyDtoDAsync_v2(to, from, bytes, self.streams[0]) };
        require("cuMemcpyDtoDAsync", copied);
    }

    /// Writes a table for the next kernel, and returns its address. The stream keeps it from being overwritten too early.
    pub(crate) fn table(&self, bytes: &[u8]) -> u64 {
        assert!(bytes.len() <= TABLE_ROWS * TABLE_ROW_BYTES, "a table of {} bytes", bytes.len());
        self.write(self.table, bytes);
        self.table
    }

    /// Copies from the card; waits for all work before.
    pub(crate) fn read(&self, bytes: &mut [u8], pointer: u64) {
        if bytes.is_empty() {
            return;
        }
        self.join();
        self.bind();
        // SAFETY: both have so many bytes; the stream is waited for before anyone looks.
        unsafe {
            let copied = driver::cuMemcpyDtoHAsync_v2(
                bytes.as_mut_ptr().cast(),
                pointer,
                bytes.len(),
                self.streams[0],
            );
            require("cuMemcpyDtoHAsync", copied);
            require("cuStreamSynchronize", driver::cuStreamSynchronize(self.streams[0]));
        }
    }

    /// Scratch memory of at least `bytes`, with any content, for as long as an operation queues its work. The next operation
    /// of the lane gets the same memory, which is right because a stream runs them in order.
    pub(crate) fn scratch_on(&self, lane: Lane, bytes: usize) -> ScratchMemory<'_> {
        let mut scratch = self.scratch[lane as usize].lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if scratch.bytes < bytes {
            if scratch.bytes > 0 {
                self.synchronize();
                self.free(scratch.pointer);
                *scratch = Scratch { pointer: 0, bytes: 0 };
            }
            self.scratch_generation.fetch_add(1, Ordering::Relaxed);
            let bytes = bytes.next_multiple_of(1 << 20);
            *scratch = Scratch { pointer: self.allocate(bytes), bytes };
        }
        ScratchMemory(scratch)
    }

    /// Scratch memory of the first lane.
    pub(crate) fn scratch(&self, bytes: usize) -> ScratchMemory<'_> {
        self.scratch_on(Lane::First, bytes)
    }

    /// Seconds that the card takes for what `queue` queues in the first lane.
    pub(crate) fn time(&self, queue: impl FnOnce()) -> f64 {
        self.join();
        self.bind();
        let (mut start, mut end, mut milliseconds) = (std::ptr::null_mut(), std::ptr::null_mut(), 0.0);
        // SAFETY: events are created before use and destroyed after it.
        unsafe {
            require("cuEventCreate", driver::cuEventCreate(&mut start, 0));
            require("cuEventCreate", driver::cuEventCreate(&mut end, 0));
            require("cuEventRecord", driver::cuEventRecord(start, self.streams[0]));
            queue();
            require("cuEventRecord", driver::cuEventRecord(end, self.streams[0]));
            require("cuEventSynchronize", driver::cuEventSynchronize(end));
            // The bindings know the name of driver 12.8 and later only; this one is in all.
            let elapsed =
                driver::culib().get::<ElapsedTime>(b"cuEventElapsedTime").expect("every driver has it");
            require("cuEventElapsedTime", elapsed(&mut milliseconds, start, end));
            let _ = (driver::cuEventDestroy_v2(start), driver::cuEventDestroy_v2(end));
        }
        f64::from(milliseconds) / 1e3
    }
}

impl Drop for Context {
    /// Gives back what is large. Streams, events and modules stay until the process ends.
    fn drop(&mut self) {
        let scratches = self.scratch.each_mut().map(|scratch| {
            let scratch = scratch.get_mut().unwrap_or_else(|poisoned| poisoned.into_inner());
            (scratch.bytes > 0).then_some(scratch.pointer)
        });
        scratches.into_iter().flatten().chain([self.table]).for_each(|pointer| self.free(pointer));
        let staging = self.staging.get_mut().unwrap_or_else(|poisoned| poisoned.into_inner());
        // SAFETY: all copies from it are done: freeing memory waited for them.
        let _ = unsafe { driver::cuMemFreeHost(staging.memory.cast()) };
    }
}

impl Staging {
    fn new() -> Result<Self, CudaError> {
        let mut memory = std::ptr::null_mut();
        let mut events = Vec::with_capacity(NUM_SLOTS);
        // SAFETY: results are written to live variables; the memory stays for the life of the process.
        unsafe {
            check("cuMemAllocHost", driver::cuMemAllocHost_v2(&mut memory, NUM_SLOTS * SLOT_BYTES))?;
            for _ in 0..NUM_SLOTS {
                events.push(new_event()?);
            }
        }
        Ok(Staging { memory: memory.cast(), events, next: 0 })
    }
}

/// An event without a time.
fn new_event() -> Result<driver::CUevent, CudaError> {
    let mut event = std::ptr::null_mut();
    let flags = driver::CUevent_flags::CU_EVENT_DISABLE_TIMING as u32;
    // SAFETY: event is written.
    check("cuEventCreate", unsafe { driver::cuEventCreate(&mut event, flags) })?;
    Ok(event)
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

fn check(call: &'static str, result: driver::CUresult) -> Result<(), CudaError> {
    match result {
        driver::CUresult::CUDA_SUCCESS => Ok(()),
        other => Err(CudaError::Driver { call, message: describe(other) }),
    }
}

/// Panics unless a call succeeded. An error may be that of an earlier kernel, which the driver reports late.
fn require(call: &str, result: driver::CUresult) {
    assert!(result == driver::CUresult::CUDA_SUCCESS, "{call}: {}", describe(result));
}

fn describe(result: driver::CUresult) -> String {
    let mut text = std::ptr::null();
    // SAFETY: the driver's strings are static.
    unsafe {
        if driver::cuGetErrorString(result, &mut text) != driver::CUresult::CUDA_SUCCESS || text.is_null() {
            return format!("{result:?}");
        }
        format!("{} ({result:?})", CStr::from_ptr(text).to_string_lossy())
    }
}
