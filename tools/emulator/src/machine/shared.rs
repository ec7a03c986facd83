//! What the blocks of a cluster share: their shared memory, barriers in it, and copies under way.
//!
//! A shared address has the block's rank in the cluster in its upper 8 bits, so that one of this block is also one of the
//! cluster. In the generic space it has the highest bits that no pointer has.

use super::reads::Reads;
use crate::memory;

/// What a generic address of shared memory begins with.
pub(super) const WINDOW: u64 = 0x7f00_0000_0000_0000;
const RANK_SHIFT: u32 = 24;
const OFFSET: u32 = (1 << RANK_SHIFT) - 1;

/// A copy that was begun by the tensor memory accelerator.
pub(super) struct BulkCopy {
    /// Blocks that get it.
    pub(super) blocks: Vec<u32>,
    /// Where each piece goes in a block's shared memory, and where it comes from; zeros from nowhere.
    pub(super) pieces: Vec<Piece>,
    /// The barrier's offset in each of the blocks.
    pub(super) barrier: u32,
    pub(super) bytes: u32,
    /// The instruction that began it.
    pub(super) at: usize,
}

pub(super) struct Piece {
    pub(super) to: u32,
    pub(super) from: Option<u64>,
    pub(super) bytes: u32,
}

/// The shared memory of a cluster.
pub(super) struct Shared {
    pub(super) blocks: Vec<Vec<u8>>,
    /// What products read of them.
    pub(super) reads: Reads,
    /// Copies that have been begun; they are made as late as possible.
    pub(super) pending: Vec<BulkCopy>,
    /// Whether copies are made as late as possible, or at once.
    pub(super) is_late: bool,
    /// Counts what may let somebody go on.
    pub(super) changes: u64,
}

/// A barrier, as its 64 bits lie in shared memory: the phase's parity, arrivals in all and to come, bytes to come.
#[derive(Clone, Copy)]
struct Barrier {
    parity: u64,
    expected: u64,
    missing: u64,
    bytes: i64,
}

const COUNT_BITS: u32 = 20;
const COUNT: u64 = (1 << COUNT_BITS) - 1;
/// In the upper bits of a barrier, so that what is none shows.
const BYTES_SHIFT: u32 = 1 + 2 * COUNT_BITS;

impl Barrier {
    fn of_bits(bits: u64) -> Self {
        Barrier {
            parity: bits & 1,
            expected: bits >> 1 & COUNT,
            missing: bits >> (1 + COUNT_BITS) & COUNT,
            bytes: bits as i64 >> BYTES_SHIFT,
        }
    }

    fn bits(self) -> u64 {
        self.parity
            | self.expected << 1
            | self.missing << (1 + COUNT_BITS)
            | (self.bytes << BYTES_SHIFT) as u64
    }

    /// Begins the next phase if this one has ended.
    fn turn(&mut self) {
        if self.missing == 0 && self.bytes == 0 {
            self.parity ^= 1;
            self.missing = self.expected;
        }
    }
}

impl Shared {
    /// The first address of a block's.
    pub(super) fn address(rank: u32, offset: u32) -> u32 {
        rank << RANK_SHIFT | offset
    }

    /// Rank and offset of an address, after a look at its bounds and alignment.
    #[inline(always)]
    pub(super) fn place(&self, address: u64, bytes: usize) -> Result<(usize, usize), String> {
        let outside =
            || format!("shared address {address:#x} of {bytes} bytes is outside of the block's memory");
        let address = u32::try_from(address).map_err(|_| outside())?;
        let (rank, offset) = ((address >> RANK_SHIFT) as usize, (address & OFFSET) as usize);
        let block = self.blocks.get(rank).ok_or_else(outside)?;
        if offset + bytes > block.len() {
            return Err(outside());
        }
        if !offset.is_multiple_of(bytes) {
            return Err(format!("shared address {address:#x} is not a multiple of {bytes}"));
        }
        Ok((rank, offset))
    }

    /// N bytes, aligned to as many.
    #[inline(always)]
    pub(super) fn read<const N: usize>(&self, address: u64) -> Result<[u8; N], String> {
        let (rank, offset) = self.place(address, N)?;
        let mut bytes = [0; N];
        bytes.copy_from_slice(&self.blocks[rank][offset..offset + N]);
        Ok(bytes)
    }

    #[inline(always)]
    pub(super) fn write<const N: usize>(&mut self, address: u64, bytes: [u8; N]) -> Result<(), String> {
        let (rank, offset) = self.place(address, N)?;
        self.reads.check(rank, offset, N)?;
        self.blocks[rank][offset..offset + N].copy_from_slice(&bytes);
        Ok(())
    }

    fn barrier(&self, address: u64) -> Result<Barrier, String> {
        Ok(Barrier::of_bits(u64::from_le_bytes(self.read(address)?)))
    }

    pub(super) fn init_barrier(&mut self, address: u64, count: u32) -> Result<(), String> {
        let count = u64::from(count);
        if count == 0 || count > COUNT {
            return Err(format!("a barrier for {count} arrivals"));
        }
        let barrier = Barrier { parity: 0, expected: count, missing: count, bytes: 0 };
        self.write(address, barrier.bits().to_le_bytes())
    }

    /// An arrival, with bytes that are to come.
    pub(super) fn arrive(&mut self, address: u64, bytes: u32) -> Result<(), String> {
        let mut barrier = self.barrier(address)?;
        if barrier.missing == 0 || barrier.missing > barrier.expected {
            return Err(format!("more arrivals at the barrier at {address:#x} than it was made for"));
        }
        barrier.bytes += i64::from(bytes);
        barrier.missing -= 1;
        barrier.turn();
        self.changes += 1;
        self.write(address, barrier.bits().to_le_bytes())
    }

    /// Bytes have come.
    pub(super) fn complete(&mut self, address: u64, bytes: u32) -> Result<(), String> {
        let mut barrier = self.barrier(address)?;
        barrier.bytes -= i64::from(bytes);
        barrier.turn();
        self.changes += 1;
        self.write(address, barrier.bits().to_le_bytes())
    }

    /// Whether the phase of this parity has ended.
    pub(super) fn has_ended(&self, address: u64, parity: u32) -> Result<bool, String> {
        Ok(self.barrier(address)?.parity != u64::from(parity & 1))
    }

    /// Begins a copy: makes it at once, or keeps it for when nobody can go on without it.
    pub(super) fn begin(&mut self, copy: BulkCopy) -> Result<(), String> {
        if self.is_late {
            self.pending.push(copy);
            return Ok(());
        }
        self.make(&copy)
    }

    pub(super) fn make(&mut self, copy: &BulkCopy) -> Result<(), String> {
        for &rank in &copy.blocks {
            for piece in &copy.pieces {
                let len = piece.bytes as usize;
                let to = u64::from(Self::address(rank, piece.to));
                // 16 bytes at a time, as they are swizzled.
                let (rank, offset) = self.place(to, 16)?;
                self.reads.check(rank, offset, len)?;
                let block = self.blocks.get_mut(rank).ok_or("a copy to a block that is not there")?;
                let target =
                    block.get_mut(offset..offset + len).ok_or("a copy past the end of shared memory")?;
                match piece.from {
                    Some(from) => read_global(from, target)?,
                    None => target.fill(0),
                }
            }
            self.complete(u64::from(Self::address(rank, copy.barrier)), copy.bytes)?;
        }
        Ok(())
    }
}

/// Copies from the card's memory, after a look at its bounds.
pub(super) fn read_global(from: u64, to: &mut [u8]) -> Result<(), String> {
    if memory::span_of(from, to.len()).is_none() {
        return Err(format!("{} bytes at {from:#x} are in no allocation", to.len()));
    }
    // SAFETY: the bytes lie in a live allocation, which nobody frees before the kernel has ended.
    unsafe { std::ptr::copy_nonoverlapping(from as *const u8, to.as_mut_ptr(), to.len()) };
    Ok(())
}
