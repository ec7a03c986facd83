//! The driver as a program calls it.

use super::copies::*;
use super::device::*;
use super::errors::cuGetErrorString;
use super::graphs::*;
use super::kernels::*;
use super::streams::*;
use super::*;
use cudarc::driver::sys::{
    CUDA_KERNEL_NODE_PARAMS, CUdevice_attribute, CUfunction, CUfunction_attribute, CUlaunchAttribute,
    CUlaunchAttributeID, CUlaunchAttributeValue, CUlaunchConfig, CUstream, CUstreamCaptureMode,
    CUstreamCaptureStatus,
};
use std::ffi::{CStr, c_void};
use std::ptr::{null, null_mut};

const INVALID_VALUE: CUresult = CUresult::CUDA_ERROR_INVALID_VALUE;
const INVALID_HANDLE: CUresult = CUresult::CUDA_ERROR_INVALID_HANDLE;

/// Stores a word at a pointer.
const STORE: &CStr = c"
    .version 9.0
    .entry store(.param .u64 pointer, .param .u32 value)
    {
        .reg .b32 %r<9>;
        .reg .b64 %rd<9>;
        ld.param.u64 %rd1, [pointer];
        ld.param.u32 %r1, [value];
        st.global.u32 [%rd1], %r1;
        ret;
    }";

fn succeed(result: CUresult) {
    assert_eq!(result, CUresult::CUDA_SUCCESS);
}

/// Calls that write what they make, as functions that return it.
macro_rules! made {
    ($start:expr, |$to:ident| $call:expr) => {{
        let mut made = $start;
        let $to = &raw mut made;
        // SAFETY: the result is written to a live variable, and the other arguments are right.
        succeed(unsafe { $call });
        made
    }};
}

fn start() {
    // SAFETY: it takes no pointers.
    succeed(unsafe { cuInit(0) });
    let context = made!(null_mut(), |to| cuDevicePrimaryCtxRetain(to, 0));
    // SAFETY: as above.
    succeed(unsafe { cuCtxSetCurrent(context) });
}

fn new_stream() -> CUstream {
    made!(null_mut(), |to| cuStreamCreate(to, 1))
}

fn allocate(bytes: usize) -> u64 {
    made!(0, |to| cuMemAlloc_v2(to, bytes))
}

fn read(stream: CUstream, address: u64) -> u32 {
    made!(0u32, |to| cuMemcpyDtoHAsync_v2(to.cast(), address, 4, stream))
}

fn store_kernel() -> CUfunction {
    let module = made!(null_mut(), |to| cuModuleLoadData(to, STORE.as_ptr().cast()));
    made!(null_mut(), |to| cuModuleGetFunction(to, module, c"store".as_ptr()))
}

/// Launches the kernel.
fn store(function: CUfunction, shape: &Shape, stream: CUstream, address: u64, value: u32) -> CUresult {
    let Shape { grid: [x, y, z], block: [a, b, c], shared_bytes } = *shape;
    let mut arguments =
        [(&raw const address).cast_mut().cast(), (&raw const value).cast_mut().cast::<c_void>()];
    // SAFETY: the kernel takes a pointer and a word.
    unsafe {
        let arguments = arguments.as_mut_ptr();
        cuLaunchKernel(function, x, y, z, a, b, c, shared_bytes, stream, arguments, null_mut())
    }
}

const ONE: Shape = Shape { grid: [1; 3], block: [1; 3], shared_bytes: 0 };

#[test]
fn what_was_not_started_or_is_no_handle_is_refused() {
    let thread = std::thread::spawn(|| {
        start();
        // SAFETY: no pointers are followed.
        unsafe { cuCtxSetCurrent(null_mut()) };
        let mut address = 0;
        // SAFETY: the address is written.
        unsafe { cuMemAlloc_v2(&mut address, 16) }
    });
    assert_eq!(thread.join().expect("no panic"), CUresult::CUDA_ERROR_INVALID_CONTEXT);
    start();
    let stream = new_stream();
    // SAFETY: handles are not followed, and there is nothing to write.
    unsafe {
        assert_eq!(cuStreamSynchronize(null_mut()), INVALID_HANDLE);
        assert_eq!(cuEventRecord(stream.cast(), stream), INVALID_HANDLE);
        assert_eq!(cuEventDestroy_v2(null_mut()), INVALID_HANDLE);
        assert_eq!(cuMemFree_v2(12345), INVALID_VALUE);
        assert_eq!(cuMemAlloc_v2(null_mut(), 16), INVALID_VALUE);
        assert_eq!(cuDeviceGet(null_mut(), 1), CUresult::CUDA_ERROR_INVALID_DEVICE);
    }
    let mut address = 0;
    // SAFETY: the address is written.
    assert_eq!(unsafe { cuMemAlloc_v2(&mut address, usize::MAX) }, CUresult::CUDA_ERROR_OUT_OF_MEMORY);
    let text = made!(null(), |to| cuGetErrorString(INVALID_HANDLE, to));
    // SAFETY: the driver's strings end with a NUL.
    assert_eq!(unsafe { CStr::from_ptr(text) }, c"there is no such handle");
    let attribute = CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT;
    assert_eq!(made!(0, |to| cuDeviceGetAttribute(to, attribute, 0)), settings::get().num_processors);
}

#[test]
fn a_kernel_that_may_begin_early_runs_after_the_one_before_it() {
    start();
    let (stream, address, function) = (new_stream(), allocate(4), store_kernel());
    let launch = |id: CUlaunchAttributeID, value: u32| {
        let mut arguments =
            [(&raw const address).cast_mut().cast(), (&raw const value).cast_mut().cast::<c_void>()];
        let value = CUlaunchAttributeValue { programmaticStreamSerializationAllowed: 1 };
        let mut attribute = CUlaunchAttribute { id, pad: [0; 4], value };
        let config = CUlaunchConfig {
            gridDimX: 1,
            gridDimY: 1,
            gridDimZ: 1,
            blockDimX: 1,
            blockDimY: 1,
            blockDimZ: 1,
            sharedMemBytes: 0,
            hStream: stream,
            attrs: &raw mut attribute,
            numAttrs: 1,
        };
        // SAFETY: the kernel takes a pointer and a word.
        unsafe { cuLaunchKernelEx(&config, function, arguments.as_mut_ptr(), null_mut()) }
    };
    succeed(store(function, &ONE, stream, address, 5));
    succeed(launch(CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION, 6));
    assert_eq!(read(stream, address), 6);
    let unknown = launch(CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_COOPERATIVE, 7);
    assert_eq!(unknown, CUresult::CUDA_ERROR_NOT_SUPPORTED);
    assert_eq!(read(stream, address), 6);
}

#[test]
fn launches_are_checked() {
    start();
    let (stream, address, function) = (new_stream(), allocate(4), store_kernel());
    let launch = |shape: Shape| store(function, &shape, stream, address, 5);
    succeed(launch(ONE));
    assert_eq!(read(stream, address), 5);
    for wrong in [
        Shape { grid: [1, 0, 1], ..ONE },
        Shape { grid: [1, 65_536, 1], ..ONE },
        Shape { block: [1025, 1, 1], ..ONE },
        Shape { block: [1, 0, 1], ..ONE },
        Shape { shared_bytes: (48 << 10) + 1, ..ONE },
    ] {
        assert_eq!(launch(wrong), INVALID_VALUE);
    }
    let attribute = CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
    let most = settings::get().max_shared();
    // SAFETY: no pointers are followed.
    unsafe {
        assert_eq!(cuFuncSetAttribute(function, attribute, most + 1), INVALID_VALUE);
        succeed(cuFuncSetAttribute(function, attribute, most));
    }
    succeed(launch(Shape { shared_bytes: most as u32, ..ONE }));
    // SAFETY: as above.
    succeed(unsafe { cuMemFree_v2(address) });
}

#[test]
fn copies_are_checked_and_read_pageable_memory_at_once() {
    start();
    let (stream, address) = (new_stream(), allocate(8));
    let mut word = 7u32;
    // SAFETY: host memory is as large as said; the card's is checked.
    unsafe {
        succeed(cuMemcpyHtoDAsync_v2(address, (&raw const word).cast(), 4, stream));
        word = 8;
        succeed(cuMemsetD8Async(address + 4, 1, 4, stream));
        assert_eq!((read(stream, address), word), (7, 8));
        assert_eq!(read(stream, address + 4), 0x0101_0101);
        succeed(cuMemcpyDtoDAsync_v2(address, address + 4, 4, stream));
        assert_eq!(read(stream, address), 0x0101_0101);
        assert_eq!(cuMemsetD8Async(address, 0, 9, stream), INVALID_VALUE);
        assert_eq!(cuMemcpyDtoDAsync_v2(address, address + 8, 4, stream), INVALID_VALUE);
        assert_eq!(cuMemcpyHtoDAsync_v2(address + 6, (&raw const word).cast(), 4, stream), INVALID_VALUE);
        succeed(cuMemFree_v2(address));
        assert_eq!(cuMemsetD8Async(address, 0, 4, stream), INVALID_VALUE);
    }
}

#[test]
fn a_node_gets_other_arguments_and_the_graph_keeps_its_own() {
    start();
    let (stream, address, function) = (new_stream(), allocate(4), store_kernel());
    let mode = CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
    // SAFETY: handles are right, and what is written has its type.
    let node = unsafe {
        succeed(cuMemsetD8Async(address, 0, 4, stream));
        succeed(cuStreamBeginCapture_v2(stream, mode));
        succeed(store(function, &ONE, stream, address, 1));
        let mut state = CUstreamCaptureStatus::CU_STREAM_CAPTURE_STATUS_NONE;
        let (mut nodes, mut count) = (null(), 0);
        let (id, of_graph, edges) = (null_mut(), null_mut(), null_mut());
        let to = (&raw mut nodes, &raw mut count);
        succeed(cuStreamGetCaptureInfo_v3(stream, &mut state, id, of_graph, to.0, edges, to.1));
        assert!(count == 1 && state == CUstreamCaptureStatus::CU_STREAM_CAPTURE_STATUS_ACTIVE);
        *nodes
    };
    let graph = made!(null_mut(), |to| cuStreamEndCapture(stream, to));
    let executable = || made!(null_mut(), |to| cuGraphInstantiateWithFlags(to, graph, 0));
    let [first, second] = [executable(), executable()];
    let value = 2u32;
    let mut arguments =
        [(&raw const address).cast_mut().cast(), (&raw const value).cast_mut().cast::<c_void>()];
    let mut parameters = CUDA_KERNEL_NODE_PARAMS {
        func: function,
        gridDimX: 1,
        gridDimY: 1,
        gridDimZ: 1,
        blockDimX: 1,
        blockDimY: 1,
        blockDimZ: 1,
        sharedMemBytes: 0,
        kernelParams: arguments.as_mut_ptr(),
        extra: null_mut(),
        kern: null_mut(),
        ctx: null_mut(),
    };
    // SAFETY: the kernel takes a pointer and a word.
    unsafe {
        assert_eq!(read(stream, address), 0);
        succeed(cuGraphExecKernelNodeSetParams_v2(first, node, &parameters));
        parameters.gridDimX = 0;
        assert_eq!(cuGraphExecKernelNodeSetParams_v2(first, node, &parameters), INVALID_VALUE);
        for (executable, want) in [(first, 2), (second, 1), (first, 2)] {
            succeed(cuGraphLaunch(executable, stream));
            assert_eq!(read(stream, address), want);
        }
        succeed(cuGraphExecDestroy(first));
        assert_eq!(cuGraphLaunch(first, stream), INVALID_HANDLE);
        succeed(cuGraphDestroy(graph));
        succeed(cuGraphLaunch(second, stream));
        succeed(cuMemFree_v2(address));
    }
}
