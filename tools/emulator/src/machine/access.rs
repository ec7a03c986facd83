//! Loads and stores. Each is checked: an access outside of live memory, or off its boundary, is a fault as on a card.

use super::lanes::{FULL, LANES};
use super::op::{Access, Address, Base, Slot, Space};
use super::shared::{Shared, WINDOW};
use super::warp::{Surroundings, Warp};
use crate::memory;

/// The lanes of a mask.
pub(super) fn lanes_of(mask: u32) -> impl Iterator<Item = usize> {
    (0..LANES).filter(move |lane| mask >> lane & 1 != 0)
}

#[cold]
fn locate_shared(address: u64, bytes: usize, shared: &Shared) -> Result<Location, String> {
    shared.place(address, bytes).map(|(rank, offset)| Location::Shared(rank, offset))
}

/// A place in memory.
#[derive(Clone, Copy)]
enum Location {
    Global(*mut u8),
    Shared(usize, usize),
}

impl Warp {
    pub(super) fn load_parameter(
        &mut self,
        mask: u32,
        d: Slot,
        is_double: bool,
        bytes: std::ops::Range<usize>,
        around: &Surroundings<'_>,
    ) -> Result<(), String> {
        let found = around.parameters.get(bytes).ok_or("a parameter past the last")?;
        let mut word = [0; 8];
        word[..found.len()].copy_from_slice(found);
        let value = u64::from_le_bytes(word);
        for lane in lanes_of(mask) {
            self.set(d, is_double, lane, value);
        }
        Ok(())
    }

    #[inline(always)]
    fn set(&mut self, d: Slot, is_double: bool, lane: usize, value: u64) {
        if is_double {
            self.lanes.doubles[d as usize][lane] = value;
        } else {
            self.lanes.words[d as usize][lane] = value as u32;
        }
    }

    /// A pointer to the card's memory, after a look at bounds and alignment.
    #[cold]
    fn global(&mut self, address: u64, bytes: usize) -> Result<*mut u8, String> {
        let (begin, end) = self.spans[self.pc];
        if address < begin || address.checked_add(bytes as u64).is_none_or(|past| past > end) {
            let found = memory::span_of(address, bytes);
            let found = found.ok_or_else(|| format!("{bytes} bytes at {address:#x} are in no allocation"))?;
            self.spans[self.pc] = found;
        }
        if !address.is_multiple_of(bytes as u64) {
            return Err(format!("address {address:#x} is not a multiple of {bytes}"));
        }
        Ok(address as *mut u8)
    }

    /// Where an access begins, after a look at bounds and alignment.
    #[inline(always)]
    fn locate(
        &mut self,
        space: Space,
        address: u64,
        bytes: usize,
        shared: &Shared,
    ) -> Result<Location, String> {
        let is_aligned = address & (bytes as u64 - 1) == 0;
        let is_shared = match space {
            Space::Shared => true,
            Space::Generic => address & WINDOW == WINDOW,
            Space::Global => false,
        };
        // What is usual is looked at here, what is not, or wrong, in functions of its own.
        if !is_shared {
            let (begin, end) = self.spans[self.pc];
            if is_aligned && address >= begin && address < end && end - address >= bytes as u64 {
                return Ok(Location::Global(address as *mut u8));
            }
            return self.global(address, bytes).map(Location::Global);
        }
        let offset = (address & !WINDOW).wrapping_sub(u64::from(Shared::address(self.rank, 0))) as usize;
        let len = shared.blocks[self.rank as usize].len();
        if is_aligned && offset < len && len - offset >= bytes {
            return Ok(Location::Shared(self.rank as usize, offset));
        }
        locate_shared(address & !WINDOW, bytes, shared)
    }

    /// The lanes' addresses.
    #[inline(always)]
    fn addresses(&self, address: Address) -> [u64; LANES] {
        match address.base {
            Base::Word(slot) => {
                let words = &self.lanes.words[slot as usize];
                std::array::from_fn(|lane| u64::from(words[lane]).wrapping_add_signed(address.offset))
            }
            Base::Double(slot) => {
                let doubles = &self.lanes.doubles[slot as usize];
                std::array::from_fn(|lane| doubles[lane].wrapping_add_signed(address.offset))
            }
        }
    }

    #[cfg_attr(target_arch = "x86_64", target_feature(enable = "avx2,fma,f16c,popcnt,lzcnt"))]
    pub(super) fn load(&mut self, mask: u32, access: &Access, shared: &Shared) -> Result<(), String> {
        match access.bytes * access.count {
            1 => self.load_whole::<1>(mask, access, shared),
            2 => self.load_whole::<2>(mask, access, shared),
            4 => self.load_whole::<4>(mask, access, shared),
            8 => self.load_whole::<8>(mask, access, shared),
            16 => self.load_whole::<16>(mask, access, shared),
            _ => Err("an access of more than 16 bytes".into()),
        }
    }

    #[inline(always)]
    fn load_whole<const N: usize>(
        &mut self,
        mask: u32,
        access: &Access,
        shared: &Shared,
    ) -> Result<(), String> {
        let &Access { space, bytes, is_signed, is_double, address, .. } = access;
        let bytes = usize::from(bytes);
        let slots = &access.slots[..usize::from(access.count)];
        let addresses = self.addresses(address);
        // Often all lanes read the same.
        let is_one =
            mask == FULL && bytes == 4 && !is_double && addresses.iter().all(|&at| at == addresses[0]);
        for lane in lanes_of(if is_one { 1 } else { mask }) {
            let all: [u8; N] = match self.locate(space, addresses[lane], N, shared)? {
                // SAFETY: `locate` has checked the bounds.
                Location::Global(from) => unsafe { from.cast::<[u8; N]>().read() },
                Location::Shared(rank, offset) => {
                    let mut all = [0; N];
                    all.copy_from_slice(&shared.blocks[rank][offset..offset + N]);
                    all
                }
            };
            if bytes == 4 && !is_double {
                for i in 0..N / 4 {
                    let word =
                        u32::from_le_bytes([all[4 * i], all[4 * i + 1], all[4 * i + 2], all[4 * i + 3]]);
                    let words = &mut self.lanes.words[access.slots[i] as usize];
                    if is_one {
                        *words = [word; LANES];
                    } else {
                        words[lane] = word;
                    }
                }
                continue;
            }
            for (part, &slot) in all.chunks_exact(bytes).zip(slots) {
                let mut word = [0; 8];
                word[..bytes].copy_from_slice(part);
                let mut value = u64::from_le_bytes(word);
                if is_signed {
                    let unused = 64 - 8 * bytes as u32;
                    value = ((value << unused) as i64 >> unused) as u64;
                }
                self.set(slot, is_double, lane, value);
            }
        }
        Ok(())
    }

    #[cfg_attr(target_arch = "x86_64", target_feature(enable = "avx2,fma,f16c,popcnt,lzcnt"))]
    pub(super) fn store(&mut self, mask: u32, access: &Access, shared: &mut Shared) -> Result<(), String> {
        match access.bytes * access.count {
            1 => self.store_whole::<1>(mask, access, shared),
            2 => self.store_whole::<2>(mask, access, shared),
            4 => self.store_whole::<4>(mask, access, shared),
            8 => self.store_whole::<8>(mask, access, shared),
            16 => self.store_whole::<16>(mask, access, shared),
            _ => Err("an access of more than 16 bytes".into()),
        }
    }

    #[inline(always)]
    fn store_whole<const N: usize>(
        &mut self,
        mask: u32,
        access: &Access,
        shared: &mut Shared,
    ) -> Result<(), String> {
        let &Access { space, bytes, is_double, address, .. } = access;
        let bytes = usize::from(bytes);
        let slots = &access.slots[..usize::from(access.count)];
        let addresses = self.addresses(address);
        for lane in lanes_of(mask) {
            let mut all = [0u8; N];
            if bytes == 4 && !is_double {
                for i in 0..N / 4 {
                    let word = self.lanes.words[access.slots[i] as usize][lane].to_le_bytes();
                    all[4 * i..4 * i + 4].copy_from_slice(&word);
                }
            } else {
                for (part, &slot) in all.chunks_exact_mut(bytes).zip(slots) {
                    let value = match is_double {
                        true => self.lanes.doubles[slot as usize][lane],
                        false => u64::from(self.lanes.words[slot as usize][lane]),
                    };
                    part.copy_from_slice(&value.to_le_bytes()[..bytes]);
                }
            }
            match self.locate(space, addresses[lane], N, shared)? {
                // SAFETY: `locate` has checked the bounds.
                Location::Global(to) => unsafe { to.cast::<[u8; N]>().write(all) },
                Location::Shared(rank, offset) => {
                    shared.reads.check(rank, offset, N)?;
                    shared.blocks[rank][offset..offset + N].copy_from_slice(&all);
                }
            }
        }
        Ok(())
    }

    /// Lanes one after another: any order is right.
    pub(super) fn atomic_add(
        &mut self,
        mask: u32,
        space: Space,
        d: Slot,
        address: Address,
        a: Slot,
        shared: &mut Shared,
    ) -> Result<(), String> {
        for lane in lanes_of(mask) {
            let added = self.lanes.words[a as usize][lane];
            let old = match self.locate(space, self.address(address, lane), 4, shared)? {
                Location::Global(at) => {
                    // SAFETY: `locate` has checked bounds and alignment; blocks in other threads use atomics too.
                    let atomic = unsafe { std::sync::atomic::AtomicU32::from_ptr(at.cast()) };
                    atomic.fetch_add(added, std::sync::atomic::Ordering::Relaxed)
                }
                Location::Shared(rank, offset) => {
                    shared.reads.check(rank, offset, 4)?;
                    let bytes = &mut shared.blocks[rank][offset..offset + 4];
                    let old = u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
                    bytes.copy_from_slice(&old.wrapping_add(added).to_le_bytes());
                    old
                }
            };
            self.lanes.words[d as usize][lane] = old;
        }
        Ok(())
    }
}
