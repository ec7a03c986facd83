//! Host memory aligned to a cache line, and the one way tasks share a mutable slice.
//!
//! The trick: a large buffer is a mapping of its own, on huge pages where the system has them, so that walking over rows
//! which are kilobytes apart takes fewer translations, and reading weights is limited by memory alone; and memory
//! that nobody has touched goes to the thread, and the socket, that works on it first.

use crate::device::Scalar;
use memmap2::MmapMut;
use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;
use std::sync::{Arc, Mutex};

/// Alignment of every buffer: two cache lines, which is also two vectors of 512 bits.
const ALIGNMENT: usize = 128;
/// Size of a huge page (x86-64, and aarch64 with pages of 4 KiB); buffers from this size on are mappings.
const HUGE_PAGE: usize = 2 << 20;

/// A zero-initialized slice aligned to 128 bytes. The operating system gives the pages when they are first touched.
pub struct AlignedBuf<T> {
    ptr: NonNull<T>,
    len: usize,
    /// What `ptr` points into, if it is not the heap.
    mapping: Option<Arc<MmapMut>>,
}

// SAFETY: AlignedBuf owns its memory as Vec does; of a mapping that others share, its own part.
unsafe impl<T: Send> Send for AlignedBuf<T> {}
// SAFETY: as above; shared access is read-only.
unsafe impl<T: Sync> Sync for AlignedBuf<T> {}

impl<T: Scalar> AlignedBuf<T> {
    /// Allocates `len` zeros.
    pub fn zeros(len: usize) -> Self {
        let layout = Self::layout(len);
        match layout.size() {
            0 => AlignedBuf { ptr: NonNull::dangling(), len, mapping: None },
            HUGE_PAGE.. => {
                let (ptr, mapping) = map(layout);
                AlignedBuf { ptr: ptr.cast(), len, mapping: Some(Arc::new(mapping)) }
            }
            _ => {
                // SAFETY: the layout's size is not zero; all-zero bytes are a valid T, which is Pod.
                let ptr = NonNull::new(unsafe { alloc_zeroed(layout) }.cast::<T>());
                AlignedBuf { ptr: ptr.unwrap_or_else(|| handle_alloc_error(layout)), len, mapping: None }
            }
        }
    }
}

/// A mapping for `layout` that starts on a huge page: one more is reserved for that, but never touched.
fn map(layout: Layout) -> (NonNull<u8>, MmapMut) {
    let bytes = layout.size();
    let mapping = MmapMut::map_anon(bytes + HUGE_PAGE);
    let mut mapping = mapping.unwrap_or_else(|_| handle_alloc_error(layout));
    let skipped = mapping.as_ptr().align_offset(HUGE_PAGE);
    // A wish: without huge pages everything works, only slower. Not for the end, which would take a whole one.
    #[cfg(target_os = "linux")]
    let _ = mapping.advise_range(memmap2::Advice::HugePage, skipped, bytes / HUGE_PAGE * HUGE_PAGE);
    (NonNull::from(&mut mapping[skipped..][..bytes]).cast(), mapping)
}

/// Buffers that lie one after the other on huge pages, also those that are smaller than one. A block of them is given back when all of its
/// buffers have gone, and the arena has begun another or gone too; room is not used twice. So it is for what lives as long as a network.
pub(crate) struct Arena(Mutex<Option<ArenaBlock>>);

/// A mapping with room left.
struct ArenaBlock {
    mapping: Arc<MmapMut>,
    /// Where the room begins, and its bytes.
    next: NonNull<u8>,
    left: usize,
}

// SAFETY: a block owns the room that nobody has got yet.
unsafe impl Send for ArenaBlock {}

impl Arena {
    /// Bytes of a block; half as much is the most that shares one.
    const BLOCK: usize = 16 << 20;

    pub(crate) fn new() -> Self {
        Arena(Mutex::new(None))
    }

    /// Allocates `len` zeros.
    pub(crate) fn zeros<T: Scalar>(&self, len: usize) -> AlignedBuf<T> {
        let size = AlignedBuf::<T>::layout(len).pad_to_align().size();
        if size == 0 || size > Self::BLOCK / 2 {
            return AlignedBuf::zeros(len);
        }
        let mut current = self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let mut block = current.take().filter(|block| block.left >= size).unwrap_or_else(|| {
            let (next, mapping) = map(AlignedBuf::<u8>::layout(Self::BLOCK));
            ArenaBlock { mapping: Arc::new(mapping), next, left: Self::BLOCK }
        });
        let (ptr, mapping) = (block.next.cast(), Some(block.mapping.clone()));
        // SAFETY: at least `size` bytes are left, so this stays in the block or is its end.
        block.next = unsafe { block.next.add(size) };
        block.left -= size;
        *current = Some(block);
        AlignedBuf { ptr, len, mapping }
    }
}

impl<T> AlignedBuf<T> {
    fn layout(len: usize) -> Layout {
        Layout::array::<T>(len)
            .and_then(|layout| layout.align_to(ALIGNMENT))
            .unwrap_or_else(|_| panic!("a buffer of {len} elements is larger than the address space"))
    }
}

impl<T> Drop for AlignedBuf<T> {
    fn drop(&mut self) {
        let layout = Self::layout(self.len);
        if self.mapping.is_none() && layout.size() != 0 {
            // SAFETY: allocated in `zeros` with this layout.
            unsafe { dealloc(self.ptr.as_ptr().cast(), layout) };
        }
    }
}

impl<T> AsRef<[T]> for AlignedBuf<T> {
    fn as_ref(&self) -> &[T] {
        self
    }
}

impl<T> Deref for AlignedBuf<T> {
    type Target = [T];
    fn deref(&self) -> &[T] {
        // SAFETY: ptr is valid for len elements (or dangling and len or the size of T is 0), all initialized.
        unsafe { std::slice::from_raw_parts(self.ptr.as_ptr(), self.len) }
    }
}

impl<T> DerefMut for AlignedBuf<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        // SAFETY: as in deref; the borrow is unique.
        unsafe { std::slice::from_raw_parts_mut(self.ptr.as_ptr(), self.len) }
    }
}

/// Bytes of a cache line, almost everywhere.
const LINE: usize = 64;

/// Orders what this thread has written past the caches (`Simd::stream`) before what it writes from now on.
#[inline(always)]
pub(crate) fn fence() {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: every x86-64 has the instruction.
    unsafe {
        std::arch::x86_64::_mm_sfence();
    }
}

/// Asks for the cache lines of `slice`, which will be read from the second-level cache.
#[inline(always)]
pub(crate) fn prefetch<T>(slice: &[T]) {
    ask::<false>(slice.as_ptr().cast(), size_of_val(slice));
}

/// Asks for the cache lines of `bytes` from `first`: of the second-level cache, or to be written in the first. A wish: it changes nothing,
/// wherever it points. A length that is known when this is compiled leaves no loop.
#[inline(always)]
fn ask<const TO_WRITE: bool>(first: *const i8, bytes: usize) {
    (0..bytes).step_by(LINE).for_each(|byte| {
        let line = first.wrapping_add(byte);
        #[cfg(target_arch = "x86_64")]
        // SAFETY: a prefetch changes nothing, whatever the address.
        unsafe {
            use std::arch::x86_64::{_MM_HINT_ET0, _MM_HINT_T1, _mm_prefetch};
            match TO_WRITE {
                true => _mm_prefetch::<_MM_HINT_ET0>(line),
                false => _mm_prefetch::<_MM_HINT_T1>(line),
            }
        }
        #[cfg(not(target_arch = "x86_64"))]
        let _ = line;
    });
}

/// A mutable slice that parallel tasks cut disjoint pieces from.
#[derive(Clone, Copy)]
pub(crate) struct SharedMut<'a, T> {
    ptr: *mut T,
    len: usize,
    lifetime: std::marker::PhantomData<&'a mut [T]>,
}

// SAFETY: pieces are only handed out by the unsafe `slice`, whose callers promise that they do not overlap.
unsafe impl<T: Send> Send for SharedMut<'_, T> {}
// SAFETY: as above.
unsafe impl<T: Send> Sync for SharedMut<'_, T> {}

impl<'a, T> SharedMut<'a, T> {
    pub(crate) fn new(slice: &'a mut [T]) -> Self {
        SharedMut { ptr: slice.as_mut_ptr(), len: slice.len(), lifetime: std::marker::PhantomData }
    }

    /// Asks for the cache lines of the piece of `len` elements from `start`, which will be written. A wish: it changes
    /// nothing, wherever it points.
    #[inline(always)]
    pub(crate) fn prefetch(&self, start: usize, len: usize) {
        ask::<true>(self.ptr.wrapping_add(start).cast(), len * size_of::<T>());
    }

    /// The same, for what will be read from the second-level cache.
    #[inline(always)]
    pub(crate) fn prefetch_to_read(&self, start: usize, len: usize) {
        ask::<false>(self.ptr.wrapping_add(start).cast(), len * size_of::<T>());
    }

    /// The piece of `len` elements from `start`, which must lie within the slice (checked).
    ///
    /// # Safety
    /// No two pieces that live at the same time overlap.
    #[expect(clippy::mut_from_ref, reason = "this is the point of the type")]
    #[inline(always)]
    pub(crate) unsafe fn slice(&self, start: usize, len: usize) -> &mut [T] {
        assert!(start <= self.len && len <= self.len - start, "piece {start}+{len} of {}", self.len);
        // SAFETY: within bounds (just checked), disjoint from the others (the caller's promise).
        unsafe { std::slice::from_raw_parts_mut(self.ptr.add(start), len) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_of_an_arena_are_zero_apart_and_outlive_it() {
        let arena = Arena::new();
        // Small, odd, a block filled to the last byte, more than one has left, more than one shares, none.
        let lens = [1, 1000, 2 << 20, 2_096_096, 1, 2_000_003, 2_000_003, 2_000_003, 5 << 20, 0];
        let mut buffers: Vec<AlignedBuf<u32>> = lens.iter().map(|&len| arena.zeros(len)).collect();
        assert_eq!(buffers[0].as_ptr().addr() + ALIGNMENT, buffers[1].as_ptr().addr(), "one after the other");
        drop(arena);
        for (i, buffer) in buffers.iter_mut().enumerate() {
            assert_eq!(buffer.len, lens[i]);
            assert!(buffer.is_empty() || buffer.as_ptr().addr().is_multiple_of(ALIGNMENT), "buffer {i}");
            assert!(buffer.iter().all(|x| *x == 0), "buffer {i}: nobody has written to it");
            buffer.fill(1 + i as u32);
        }
        assert!((0..).zip(&buffers).all(|(i, buffer)| buffer.iter().all(|x| *x == 1 + i)));
    }
}
