//! The card's memory: buffers, copies to and from it, and scratch memory.
//!
//! The trick: small copies to the card go through pinned memory, a slot each, so that the host need not wait for them; a slot is
//! filled again only when its last copy is done. Small copies from the card take the same way, which is the shortest.

use super::{Context, CudaError, Lane, check, describe, new_event, require};
use cudarc::driver::sys as driver;
use std::sync::MutexGuard;
use std::sync::atomic::Ordering;

/// Bytes of a staging slot: what a copy to the card may have to go through pinned memory, without waiting for the card.
const SLOT_BYTES: usize = 1 << 20;

/// Staging slots: copies that may be under way.
const NUM_SLOTS: usize = 16;

/// Tensors that one kernel may take: GPT-2 XL has 580.
pub(crate) const TABLE_ROWS: usize = 16_384;

/// Bytes of a row of a table.
pub(super) const TABLE_ROW_BYTES: usize = 48;

/// Pinned memory, and for each slot the event that says that its last copy is done.
pub(super) struct Staging {
    memory: *mut u8,
    events: Vec<driver::CUevent>,
    next: usize,
}

/// Scratch memory of a lane; none yet where `bytes` is 0.
pub(crate) struct Scratch {
    pub(super) pointer: u64,
    pub(super) bytes: usize,
}

/// Scratch memory while an operation has it: no other can get it before this is dropped.
pub(crate) struct ScratchMemory<'a>(MutexGuard<'a, Scratch>);

impl ScratchMemory<'_> {
    /// The address of byte `offset`, which must be a multiple of 256 where kernels read vectors.
    pub(crate) fn at(&self, offset: usize) -> u64 {
        self.0.pointer + offset as u64
    }
}

impl Staging {
    pub(super) fn new() -> Result<Self, CudaError> {
        let mut memory = std::ptr::null_mut();
        let mut events = Vec::with_capacity(NUM_SLOTS);
        // SAFETY: results are written to live variables; the memory stays until the context is dropped.
        unsafe {
            check("cuMemAllocHost", driver::cuMemAllocHost_v2(&mut memory, NUM_SLOTS * SLOT_BYTES))?;
            for _ in 0..NUM_SLOTS {
                events.push(new_event()?);
            }
        }
        Ok(Staging { memory: memory.cast(), events, next: 0 })
    }

    /// The slot whose turn it is.
    fn take(&mut self) -> usize {
        let slot = self.next;
        self.next = (slot + 1) % NUM_SLOTS;
        slot
    }
}

impl Context {
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
            let ((free, total), mib) = (self.memory(), |bytes: usize| bytes >> 20);
            let message = format!(
                "{} has {} of {} MiB free, and {} are wanted to begin with",
                self.name,
                mib(free),
                mib(total),
                mib(bytes)
            );
            CudaError::Driver { call: "cuMemAlloc", message }
        })
    }

    /// Gives memory back; waits for the work that may use it. Never panics: at the end of the process the driver may be gone
    /// already, and after a fault it refuses everything; then there is nothing to free.
    pub(crate) fn free(&self, pointer: u64) {
        self.try_bind();
        // SAFETY: the pointer is from `allocate` and not used again.
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
        self.end_chain();
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
        self.end_chain();
        let mut staging = self.staging.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        // SAFETY: source and destination have so many bytes; the source lives until the copy is done: a slot is waited for
        // before it is filled again, and other memory until the stream is idle.
        unsafe {
            if bytes.len() <= SLOT_BYTES {
                let slot = staging.take();
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
        self.end_chain();
        // SAFETY: both buffers have so many bytes.
        let copied = unsafe { driver::cuMemcpyDtoDAsync_v2(to, from, bytes, self.streams[0]) };
        require("cuMemcpyDtoDAsync", copied);
    }

    /// Writes a table for the next kernel, and returns its address, to be kept until that kernel is queued: no other thread
    /// writes one before. The stream, in which the next table is copied after the kernel, does the rest.
    pub(crate) fn table(&self, bytes: &[u8]) -> MutexGuard<'_, u64> {
        assert!(bytes.len() <= TABLE_ROWS * TABLE_ROW_BYTES, "a table of {} bytes", bytes.len());
        let table = self.table.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        self.write(*table, bytes);
        table
    }

    /// Copies from the card; waits for all work before. What fits a slot goes through pinned memory: the driver's own way to other
    /// memory takes longer, which a token that is generated would feel.
    pub(crate) fn read(&self, bytes: &mut [u8], pointer: u64) {
        if bytes.is_empty() {
            return;
        }
        self.join();
        self.bind();
        self.end_chain();
        let lock = || self.staging.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let mut staging = (bytes.len() <= SLOT_BYTES).then(lock);
        // SAFETY: both have so many bytes; the stream is waited for before anyone looks, or uses the slot again, whose last copy
        // was before this one in the stream.
        unsafe {
            let slot = staging.as_mut().map(|staging| staging.memory.add(staging.take() * SLOT_BYTES));
            let to = slot.unwrap_or(bytes.as_mut_ptr());
            let copied = driver::cuMemcpyDtoHAsync_v2(to.cast(), pointer, bytes.len(), self.streams[0]);
            require("cuMemcpyDtoHAsync", copied);
            require("cuStreamSynchronize", driver::cuStreamSynchronize(self.streams[0]));
            if slot.is_some() {
                std::ptr::copy_nonoverlapping(to, bytes.as_mut_ptr(), bytes.len());
            }
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

    /// How often scratch memory has moved.
    pub(crate) fn scratch_generation(&self) -> u64 {
        self.scratch_generation.load(Ordering::Relaxed)
    }
}

impl Drop for Context {
    /// Gives back what is large. Streams, events and modules stay until the process ends.
    fn drop(&mut self) {
        let scratches = self.scratch.each_mut().map(|scratch| {
            let scratch = scratch.get_mut().unwrap_or_else(|poisoned| poisoned.into_inner());
            (scratch.bytes > 0).then_some(scratch.pointer)
        });
        let table = *self.table.get_mut().unwrap_or_else(|poisoned| poisoned.into_inner());
        scratches.into_iter().flatten().chain([table]).for_each(|pointer| self.free(pointer));
        let staging = self.staging.get_mut().unwrap_or_else(|poisoned| poisoned.into_inner());
        // SAFETY: all copies from it are done: freeing memory waited for them.
        let _ = unsafe { driver::cuMemFreeHost(staging.memory.cast()) };
    }
}
