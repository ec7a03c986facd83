//! Recordings and graphs.

use super::kernels::{Shape, task};
use super::{EXECUTABLES, GRAPHS, STREAMS, card, enter, put, result};
use crate::graph::{self, Executable, Status, submit};
use crate::memory;
use cudarc::driver::sys::{
    CUDA_KERNEL_NODE_PARAMS, CUgraph, CUgraphEdgeData, CUgraphExec, CUgraphNode, CUresult, CUstream,
    CUstreamCaptureMode, CUstreamCaptureStatus,
};
use std::ffi::c_ulonglong;

/// Bytes that must be free for a graph to be uploaded.
const GRAPH_BYTES: usize = 64 << 10;

#[unsafe(no_mangle)]
pub(super) unsafe extern "C" fn cuStreamBeginCapture_v2(
    stream: CUstream,
    mode: CUstreamCaptureMode,
) -> CUresult {
    use CUstreamCaptureMode as Mode;
    let begin = || match mode {
        Mode::CU_STREAM_CAPTURE_MODE_GLOBAL => Err(CUresult::CUDA_ERROR_NOT_SUPPORTED),
        Mode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL => graph::begin(&STREAMS.get(stream)?, false),
        Mode::CU_STREAM_CAPTURE_MODE_RELAXED => graph::begin(&STREAMS.get(stream)?, true),
    };
    result(enter().and_then(|()| begin()))
}

#[unsafe(no_mangle)]
pub(super) unsafe extern "C" fn cuStreamEndCapture(stream: CUstream, graph: *mut CUgraph) -> CUresult {
    let end = || {
        let ended = graph::end(&STREAMS.get(stream)?);
        let handle = ended.map(|ended| GRAPHS.add(ended));
        // SAFETY: the caller's pointer is to a graph.
        unsafe { put(graph, handle.unwrap_or(std::ptr::null_mut())) }?;
        handle.map(|_| ())
    };
    result(enter().and_then(|()| end()))
}

#[unsafe(no_mangle)]
pub(super) unsafe extern "C" fn cuStreamGetCaptureInfo_v3(
    stream: CUstream,
    status: *mut CUstreamCaptureStatus,
    id: *mut u64,
    graph: *mut CUgraph,
    dependencies: *mut *const CUgraphNode,
    edges: *mut *const CUgraphEdgeData,
    num_dependencies: *mut usize,
) -> CUresult {
    use CUstreamCaptureStatus as Of;
    let info = || {
        let stream = STREAMS.get(stream)?;
        let (now, handle, nodes, count) = match graph::status(&stream) {
            Status::None => (Of::CU_STREAM_CAPTURE_STATUS_NONE, 0, std::ptr::null(), 0),
            Status::Invalid => (Of::CU_STREAM_CAPTURE_STATUS_INVALIDATED, 0, std::ptr::null(), 0),
            Status::Active(capture, nodes, count) => {
                (Of::CU_STREAM_CAPTURE_STATUS_ACTIVE, capture.handle, nodes, count)
            }
        };
        // SAFETY: each of the caller's pointers is null or to what its type says. A node is as large as its handle.
        unsafe {
            put(status, now)?;
            let _ = put(id, handle);
            // What is recorded has no handle before its end.
            let _ = put(graph, std::ptr::null_mut());
            let _ = put(dependencies, nodes.cast());
            let _ = put(edges, std::ptr::null());
            let _ = put(num_dependencies, count);
        }
        Ok(())
    };
    result(enter().and_then(|()| info()))
}

#[unsafe(no_mangle)]
pub(super) unsafe extern "C" fn cuGraphInstantiateWithFlags(
    executable: *mut CUgraphExec,
    graph: CUgraph,
    flags: c_ulonglong,
) -> CUresult {
    let instantiate = || {
        if flags != 0 {
            return Err(CUresult::CUDA_ERROR_NOT_SUPPORTED);
        }
        let graph = GRAPHS.get(graph)?;
        // SAFETY: the caller's pointer is to an executable.
        unsafe { put(executable, EXECUTABLES.add(Executable::new(&graph))) }
    };
    result(enter().and_then(|()| instantiate()))
}

/// Uploads nothing, but has no memory for it where next to none is left.
#[unsafe(no_mangle)]
pub(super) unsafe extern "C" fn cuGraphUpload(executable: CUgraphExec, stream: CUstream) -> CUresult {
    let upload = || {
        let _ = (EXECUTABLES.get(executable)?, STREAMS.get(stream)?);
        let (free, _) = memory::info();
        if free < GRAPH_BYTES { Err(CUresult::CUDA_ERROR_OUT_OF_MEMORY) } else { Ok(()) }
    };
    result(enter().and_then(|()| upload()))
}

#[unsafe(no_mangle)]
pub(super) unsafe extern "C" fn cuGraphLaunch(executable: CUgraphExec, stream: CUstream) -> CUresult {
    let launch = || {
        let (executable, stream) = (EXECUTABLES.get(executable)?, STREAMS.get(stream)?);
        graph::must_not_capture(&stream)?;
        submit(&stream, executable.task(card()))
    };
    result(enter().and_then(|()| launch()))
}

#[unsafe(no_mangle)]
pub(super) unsafe extern "C" fn cuGraphExecKernelNodeSetParams_v2(
    executable: CUgraphExec,
    node: CUgraphNode,
    parameters: *const CUDA_KERNEL_NODE_PARAMS,
) -> CUresult {
    let set = || {
        let executable = EXECUTABLES.get(executable)?;
        // SAFETY: the caller's pointer is null or to parameters.
        let of = unsafe { parameters.as_ref() }.ok_or(CUresult::CUDA_ERROR_INVALID_VALUE)?;
        let shape = Shape {
            grid: [of.gridDimX, of.gridDimY, of.gridDimZ],
            block: [of.blockDimX, of.blockDimY, of.blockDimZ],
            shared_bytes: of.sharedMemBytes,
        };
        // SAFETY: the caller's arguments are those of the kernel.
        let task = unsafe { task(of.func, &shape, of.kernelParams, of.extra) }?;
        if executable.set(node.addr() as u64, task) {
            Ok(())
        } else {
            Err(CUresult::CUDA_ERROR_INVALID_VALUE)
        }
    };
    result(enter().and_then(|()| set()))
}

#[unsafe(no_mangle)]
pub(super) unsafe extern "C" fn cuGraphExecDestroy(executable: CUgraphExec) -> CUresult {
    result(enter().and_then(|()| EXECUTABLES.remove(executable)))
}

#[unsafe(no_mangle)]
pub(super) unsafe extern "C" fn cuGraphDestroy(graph: CUgraph) -> CUresult {
    result(enter().and_then(|()| GRAPHS.remove(graph)))
}
