//! Kernels that begin before the one queued before them has ended: programmatic dependent launch.
//!
//! A kernel of a token that is generated takes little longer than its first loads and the pause before it. One
//! that is started here may begin as soon as the one before lets it or has ended, and waits by itself for what that wrote: see
//! `early.cuh`. What it reads without waiting are weights. Hence chains: only kernels that are started here, so that write no
//! weights, may have others begin early after them, and the first of a chain begins when everything before it has ended.
//! Whether a chain goes on is known of what one thread queues at a time, as in [`Device::install`](crate::Device::install).

use super::{Context, Lane, Shape, require};
use cudarc::driver::sys as driver;
use std::ffi::c_void;
use std::sync::atomic::Ordering;

impl Context {
    /// Starts a kernel that includes `early.cuh` in the first lane.
    pub(crate) fn start_early(
        &self,
        function: driver::CUfunction,
        kernel: &str,
        shape: Shape,
        arguments: &[u64],
    ) {
        let (x, y, z) = shape.grid;
        if x * y * z == 0 {
            return;
        }
        let is_chain = self.is_chain.load(Ordering::Relaxed);
        // As with recordings, drivers before 12.3 do not know such a kernel in a graph.
        if !(is_chain && self.capability >= (9, 0) && self.can_record()) {
            self.start(Lane::First, function, kernel, shape, arguments);
        } else {
            let mut pointers: Vec<*mut c_void> =
                arguments.iter().map(|argument| std::ptr::from_ref(argument).cast_mut().cast()).collect();
            let mut attribute = driver::CUlaunchAttribute {
                id: driver::CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION,
                pad: [0; 4],
                value: driver::CUlaunchAttributeValue { programmaticStreamSerializationAllowed: 1 },
            };
            let config = driver::CUlaunchConfig {
                gridDimX: x as u32,
                gridDimY: y as u32,
                gridDimZ: z as u32,
                blockDimX: shape.block as u32,
                blockDimY: 1,
                blockDimZ: 1,
                sharedMemBytes: shape.shared_bytes as u32,
                hStream: self.streams[0],
                attrs: &raw mut attribute,
                numAttrs: 1,
            };
            self.bind();
            // SAFETY: the arguments are those of the kernel's declaration, each in words of its own that outlive the call.
            let launched = unsafe {
                driver::cuLaunchKernelEx(&config, function, pointers.as_mut_ptr(), std::ptr::null_mut())
            };
            require(kernel, launched);
            self.note_kernel(Lane::First, function, shape, &[], arguments);
        }
        self.is_chain.store(true, Ordering::Relaxed);
    }

    /// Ends a chain: something else is queued.
    pub(super) fn end_chain(&self) {
        self.is_chain.store(false, Ordering::Relaxed);
    }
}
