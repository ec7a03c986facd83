//! Memory, and copies.
//!
//! A copy from pinned memory reads it when it runs, one from other memory when it is queued. One to memory that is not pinned
//! waits for the stream.

use super::{Outcome, STREAMS, card, check_card, enter, put, result};
use crate::graph::{self, submit};
use crate::memory::{self, Place};
use crate::streams::Task;
use cudarc::driver::sys::{CUdeviceptr, CUresult, CUstream};
use std::ffi::{c_uchar, c_void};

#[unsafe(no_mangle)]
pub(super) unsafe extern "C" fn cuMemAlloc_v2(pointer: *mut CUdeviceptr, bytes: usize) -> CUresult {
    // SAFETY: the caller's pointer is to an address.
    result(enter().and_then(|()| unsafe { put(pointer, allocate(bytes, Place::Card)?) }))
}

#[unsafe(no_mangle)]
pub(super) unsafe extern "C" fn cuMemAllocHost_v2(pointer: *mut *mut c_void, bytes: usize) -> CUresult {
    let allocate = || {
        let address = allocate(bytes, Place::Host)? as usize;
        // SAFETY: the caller's pointer is to a pointer.
        unsafe { put(pointer, std::ptr::with_exposed_provenance_mut(address)) }
    };
    result(enter().and_then(|()| allocate()))
}

#[unsafe(no_mangle)]
pub(super) unsafe extern "C" fn cuMemFree_v2(pointer: CUdeviceptr) -> CUresult {
    result(enter().and_then(|()| free(pointer, Place::Card)))
}

#[unsafe(no_mangle)]
pub(super) unsafe extern "C" fn cuMemFreeHost(pointer: *mut c_void) -> CUresult {
    result(enter().and_then(|()| free(pointer.addr() as u64, Place::Host)))
}

#[unsafe(no_mangle)]
pub(super) unsafe extern "C" fn cuMemGetInfo_v2(free: *mut usize, total: *mut usize) -> CUresult {
    let info = memory::info();
    // SAFETY: the caller's pointers are to sizes.
    let put = || unsafe { put(free, info.0).and_then(|()| put(total, info.1)) };
    result(enter().and_then(|()| put()))
}

#[unsafe(no_mangle)]
pub(super) unsafe extern "C" fn cuMemsetD8Async(
    to: CUdeviceptr,
    value: c_uchar,
    bytes: usize,
    stream: CUstream,
) -> CUresult {
    let set = || {
        let stream = STREAMS.get(stream)?;
        is_live(to, bytes)?;
        let set = move || {
            memory::check("memory to be set", to, bytes)?;
            // SAFETY: all bytes are in one live allocation.
            unsafe { pointer(to).write_bytes(value, bytes) };
            Ok(())
        };
        submit(&stream, Task::new(set))
    };
    result(enter().and_then(|()| set()))
}

#[unsafe(no_mangle)]
pub(super) unsafe extern "C" fn cuMemcpyDtoDAsync_v2(
    to: CUdeviceptr,
    from: CUdeviceptr,
    bytes: usize,
    stream: CUstream,
) -> CUresult {
    let copy = || {
        let stream = STREAMS.get(stream)?;
        is_live(to, bytes)?;
        is_live(from, bytes)?;
        submit(&stream, copy_task(to, from, bytes))
    };
    result(enter().and_then(|()| copy()))
}

#[unsafe(no_mangle)]
pub(super) unsafe extern "C" fn cuMemcpyHtoDAsync_v2(
    to: CUdeviceptr,
    from: *const c_void,
    bytes: usize,
    stream: CUstream,
) -> CUresult {
    // SAFETY: the caller's memory has so many bytes.
    result(enter().and_then(|()| unsafe { copy_in(to, from, bytes, stream) }))
}

#[unsafe(no_mangle)]
pub(super) unsafe extern "C" fn cuMemcpyDtoHAsync_v2(
    to: *mut c_void,
    from: CUdeviceptr,
    bytes: usize,
    stream: CUstream,
) -> CUresult {
    let copy = || {
        let stream = STREAMS.get(stream)?;
        is_live(from, bytes)?;
        let address = to.expose_provenance() as u64;
        if memory::is_pinned(address, bytes) {
            return submit(&stream, copy_task(address, from, bytes));
        }
        graph::must_not_capture(&stream)?;
        graph::may_wait()?;
        stream.synchronize();
        check_card()?;
        // SAFETY: the card's bytes are live, and the caller's memory has as many.
        unsafe { to.cast::<u8>().copy_from(pointer(from), bytes) };
        Ok(())
    };
    result(enter().and_then(|()| copy()))
}

/// # Safety
/// There must be `bytes` at `from`.
unsafe fn copy_in(to: CUdeviceptr, from: *const c_void, bytes: usize, stream: CUstream) -> Outcome {
    let stream = STREAMS.get(stream)?;
    is_live(to, bytes)?;
    let address = from.expose_provenance() as u64;
    if memory::is_pinned(address, bytes) {
        return submit(&stream, copy_task(to, address, bytes));
    }
    // What is recorded would be read at each launch, where nobody knows whether it is still there.
    graph::must_not_capture(&stream)?;
    if from.is_null() && bytes > 0 {
        return Err(CUresult::CUDA_ERROR_INVALID_VALUE);
    }
    let mut aside = vec![0u8; bytes];
    // SAFETY: the caller's promise.
    unsafe { aside.as_mut_ptr().copy_from_nonoverlapping(from.cast(), bytes) };
    let copy = move || {
        memory::check("the destination of a copy", to, bytes)?;
        // SAFETY: all bytes of the destination are in one live allocation.
        unsafe { pointer(to).copy_from_nonoverlapping(aside.as_ptr(), bytes) };
        Ok(())
    };
    submit(&stream, Task::new(copy))
}

fn copy_task(to: u64, from: u64, bytes: usize) -> Task {
    Task::new(move || {
        memory::check("the destination of a copy", to, bytes)?;
        memory::check("the source of a copy", from, bytes)?;
        // SAFETY: both are in live allocations.
        unsafe { pointer(to).copy_from(pointer(from), bytes) };
        Ok(())
    })
}

fn pointer(address: u64) -> *mut u8 {
    std::ptr::with_exposed_provenance_mut(address as usize)
}

fn is_live(address: u64, bytes: usize) -> Outcome {
    memory::check("an argument", address, bytes).map_err(|_| CUresult::CUDA_ERROR_INVALID_VALUE)
}

fn allocate(bytes: usize, place: Place) -> Result<u64, CUresult> {
    graph::may_wait()?;
    if bytes == 0 {
        return Err(CUresult::CUDA_ERROR_INVALID_VALUE);
    }
    memory::allocate(bytes, place).ok_or(CUresult::CUDA_ERROR_OUT_OF_MEMORY)
}

/// Gives memory back when all that is queued is done.
fn free(address: u64, place: Place) -> Outcome {
    graph::may_wait()?;
    if address == 0 {
        return Ok(());
    }
    card().synchronize();
    check_card()?;
    if memory::free(address, place) { Ok(()) } else { Err(CUresult::CUDA_ERROR_INVALID_VALUE) }
}
