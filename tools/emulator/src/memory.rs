//! The card's memory, which is the host's: what is allocated, and where it ends.
//!
//! An address of the card is one of the process, so nothing is translated; what is read or written is looked up here first. The
//! trick: no allocation touches another, and each begins as bytes 0xff, not a number in every format of floats, so that a step
//! past the end faults and what was never written shows in the results.

use crate::driver::settings;
use std::alloc::{Layout, alloc, dealloc};
use std::collections::BTreeMap;
use std::sync::RwLock;

/// What allocations begin on, and the gap on either side of one.
const ALIGNMENT: usize = 256;

/// What an allocation is made of until it is written.
const UNWRITTEN: u8 = 0xff;

/// Whose memory it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// The card's, which is counted.
    Card,
    /// The host's, pinned.
    Host,
}

struct Allocation {
    bytes: usize,
    place: Place,
}

/// Live allocations by their first address.
static ALLOCATIONS: RwLock<BTreeMap<u64, Allocation>> = RwLock::new(BTreeMap::new());

/// Memory of `bytes`, not 0; `None` if there is not so much.
pub(crate) fn allocate(bytes: usize, place: Place) -> Option<u64> {
    let layout = layout(bytes)?;
    let fits = |live: &BTreeMap<u64, Allocation>| {
        place == Place::Host
            || used_of(live).checked_add(bytes).is_some_and(|used| used <= settings::get().memory)
    };
    if !fits(&ALLOCATIONS.read().unwrap_or_else(|poisoned| poisoned.into_inner())) {
        return None;
    }
    // SAFETY: the layout has a size, that of the gaps at least.
    let block = unsafe { alloc(layout) };
    if block.is_null() {
        return None;
    }
    // SAFETY: the block is as large as the layout says.
    unsafe { block.write_bytes(UNWRITTEN, layout.size()) };
    let address = (block.expose_provenance() + ALIGNMENT) as u64;
    let mut live = ALLOCATIONS.write().unwrap_or_else(|poisoned| poisoned.into_inner());
    // Another thread may have taken what was left in the meantime.
    if !fits(&live) {
        // SAFETY: the block was allocated with this layout and nobody knows of it.
        unsafe { dealloc(block, layout) };
        return None;
    }
    live.insert(address, Allocation { bytes, place });
    Some(address)
}

/// Gives an allocation back; false if none begins there.
#[must_use]
pub(crate) fn free(address: u64, place: Place) -> bool {
    let mut live = ALLOCATIONS.write().unwrap_or_else(|poisoned| poisoned.into_inner());
    if live.get(&address).is_none_or(|allocation| allocation.place != place) {
        return false;
    }
    let Some(Allocation { bytes, .. }) = live.remove(&address) else { return false };
    drop(live);
    let block = std::ptr::with_exposed_provenance_mut::<u8>(address as usize - ALIGNMENT);
    if let Some(layout) = layout(bytes) {
        // SAFETY: `allocate` made the block with the same layout, and it is no longer listed.
        unsafe { dealloc(block, layout) };
    }
    true
}

/// Bytes that are free, and all there are.
pub(crate) fn info() -> (usize, usize) {
    let total = settings::get().memory;
    let live = ALLOCATIONS.read().unwrap_or_else(|poisoned| poisoned.into_inner());
    (total - used_of(&live), total)
}

/// The live allocation that the `bytes` from `address` lie in, as its first address and the one past its end.
pub(crate) fn span_of(address: u64, bytes: usize) -> Option<(u64, u64)> {
    find(address, bytes).map(|(start, end, _)| (start, end))
}

/// Whether the `bytes` from `address` are the host's and pinned.
pub(crate) fn is_pinned(address: u64, bytes: usize) -> bool {
    find(address, bytes).is_some_and(|(_, _, place)| place == Place::Host)
}

/// What is wrong with `what` being the `bytes` from `address`, if they are not all in one live allocation.
pub(crate) fn check(what: &str, address: u64, bytes: usize) -> Result<(), String> {
    if bytes == 0 || span_of(address, bytes).is_some() {
        return Ok(());
    }
    let near = match find(address, 1) {
        Some((start, end, _)) => format!("its allocation has {} bytes from {start:#x}", end - start),
        None => "there is no allocation".to_string(),
    };
    Err(format!("{what}: {bytes} bytes at {address:#x}: {near}"))
}

fn find(address: u64, bytes: usize) -> Option<(u64, u64, Place)> {
    let live = ALLOCATIONS.read().unwrap_or_else(|poisoned| poisoned.into_inner());
    let (&start, allocation) = live.range(..=address).next_back()?;
    let end = start + allocation.bytes as u64;
    let is_inside = address.checked_add(bytes as u64).is_some_and(|last| address < end && last <= end);
    is_inside.then_some((start, end, allocation.place))
}

fn used_of(live: &BTreeMap<u64, Allocation>) -> usize {
    live.values()
        .filter(|allocation| allocation.place == Place::Card)
        .map(|allocation| allocation.bytes)
        .sum()
}

/// An allocation with its gaps; `None` if no machine has so much.
fn layout(bytes: usize) -> Option<Layout> {
    let size = bytes.checked_next_multiple_of(ALIGNMENT)?.checked_add(2 * ALIGNMENT)?;
    Layout::from_size_align(size, ALIGNMENT).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_allocation_ends_where_it_should() {
        let first = allocate(1000, Place::Card).expect("memory");
        let second = allocate(1, Place::Host).expect("memory");
        assert!(first.is_multiple_of(256) && second.is_multiple_of(256));
        let end = first + 1000;
        assert_eq!(span_of(first, 1000), Some((first, end)));
        assert_eq!(span_of(first + 999, 1), Some((first, end)));
        for (address, bytes) in [(first, 1001), (end, 1), (first - 1, 1), (first - 1, 2), (first, usize::MAX)]
        {
            assert_eq!(span_of(address, bytes), None, "{bytes} bytes from {address:#x}");
        }
        assert!(is_pinned(second, 1) && !is_pinned(first, 1));
        // SAFETY: the memory is live.
        assert_eq!(unsafe { *(first as *const u32) }, u32::MAX);
        assert!(!free(first + 256, Place::Card) && !free(first, Place::Host) && free(first, Place::Card));
        assert!(span_of(first, 1).is_none());
        assert!(!free(first, Place::Card) && free(second, Place::Host));
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let (_, total) = info();
        assert_eq!(allocate(total + 1, Place::Card), None);
        assert_eq!(allocate(usize::MAX, Place::Card), None);
        let address = allocate(1 << 20, Place::Card).expect("memory");
        assert!(info().0 <= total - (1 << 20));
        let error = check("a copy", address, (1 << 20) + 1).expect_err("too long");
        assert!(error.contains("1048577 bytes") && error.contains("has 1048576 bytes"), "{error}");
        assert!(free(address, Place::Card));
    }
}
