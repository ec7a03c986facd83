//! Asynchronous copies, and the barriers that they and threads report to.

use super::access::lanes_of;
use super::op::{Address, BoxCopy, Slot};
use super::shared::{BulkCopy, Piece, Shared, read_global};
use super::warp::{LaneCopy, Next, State, Surroundings, Warp};

/// Bytes of a row of a box, and of what is moved as a whole by the swizzle.
const ROW: u32 = 128;
const CHUNK: u32 = 16;

/// The 128-byte swizzle: where a byte of a tile lies.
pub(super) fn swizzle(offset: u32) -> u32 {
    offset ^ (offset >> 7 & 7) << 4
}

/// What cuTensorMapEncodeTiled of this card leaves in a map.
struct Map {
    address: u64,
    cols: u64,
    rows: u64,
    stride: u64,
    box_cols: u32,
    box_rows: u32,
}

impl Map {
    fn of_words(words: [u64; 16]) -> Result<Self, String> {
        // CU_TENSOR_MAP_SWIZZLE_128B
        if words[2] != 2 || words[12] != 3 {
            return Err("a map that is not of two dimensions under the 128-byte swizzle".into());
        }
        let (box_cols, box_rows) = (words[11] as u32, (words[11] >> 32) as u32);
        if 2 * box_cols != ROW {
            return Err(format!("a box with rows of {box_cols} elements"));
        }
        Ok(Map { address: words[0], cols: words[3], rows: words[4], stride: words[8], box_cols, box_rows })
    }

    /// The pieces of the box whose corner is at column x, row y, from byte `to` of shared memory on.
    fn pieces(&self, to: u32, x: i32, y: i32) -> Result<Vec<Piece>, String> {
        let per_chunk = CHUNK / 2;
        if x % per_chunk as i32 != 0 || !to.is_multiple_of(ROW) {
            return Err(format!("a box at column {x} to byte {to}: neither may be off its boundary"));
        }
        let mut pieces = Vec::with_capacity((self.box_rows * ROW / CHUNK) as usize);
        for row in 0..self.box_rows {
            for chunk in 0..self.box_cols / per_chunk {
                let (col, row_at) =
                    (i64::from(x) + i64::from(chunk * per_chunk), i64::from(y) + i64::from(row));
                let is_inside =
                    (0..self.cols as i64).contains(&col) && (0..self.rows as i64).contains(&row_at);
                let from = is_inside.then(|| self.address + row_at as u64 * self.stride + 2 * col as u64);
                pieces.push(Piece { to: swizzle(to + row * ROW + chunk * CHUNK), from, bytes: CHUNK });
            }
        }
        Ok(pieces)
    }
}

impl Warp {
    pub(super) fn map_address(&mut self, mask: u32, d: Slot, a: Slot, block: Slot) {
        for lane in lanes_of(mask) {
            let offset = self.lanes.words[a as usize][lane] & 0x00ff_ffff;
            let rank = self.lanes.words[block as usize][lane];
            self.lanes.words[d as usize][lane] = Shared::address(rank, offset);
        }
    }

    /// cp.async: `given` of `bytes` bytes, then zeros.
    pub(super) fn copy_async(
        &mut self,
        mask: u32,
        to: Address,
        from: Address,
        [bytes, given]: [u32; 2],
        shared: &mut Shared,
    ) -> Result<(), String> {
        for lane in lanes_of(mask) {
            let given = self.lanes.words[given as usize][lane].min(bytes);
            let copy = LaneCopy { to: self.address(to, lane), from: self.address(from, lane), bytes, given };
            if shared.is_late {
                self.copies[lane].open.push(copy);
            } else {
                self.make_copy(&copy, shared)?;
            }
        }
        Ok(())
    }

    fn make_copy(&mut self, copy: &LaneCopy, shared: &mut Shared) -> Result<(), String> {
        let bytes = copy.bytes as usize;
        let (rank, offset) = shared.place(copy.to, bytes)?;
        shared.reads.check(rank, offset, bytes)?;
        let (given, zeros) = shared.blocks[rank][offset..offset + bytes].split_at_mut(copy.given as usize);
        if !copy.from.is_multiple_of(u64::from(copy.bytes)) {
            return Err(format!("cp.async from {:#x}, which is not a multiple of {bytes}", copy.from));
        }
        if !given.is_empty() {
            read_global(copy.from, given)?;
        }
        zeros.fill(0);
        Ok(())
    }

    pub(super) fn commit_copies(&mut self, mask: u32) {
        for lane in lanes_of(mask) {
            let copies = &mut self.copies[lane];
            let group = std::mem::take(&mut copies.open);
            copies.groups.push_back(group);
        }
    }

    /// Makes all copies but those of the last groups.
    pub(super) fn wait_for_copies(
        &mut self,
        mask: u32,
        pending: Slot,
        shared: &mut Shared,
    ) -> Result<(), String> {
        for lane in lanes_of(mask) {
            let pending = self.lanes.words[pending as usize][lane] as usize;
            while self.copies[lane].groups.len() > pending {
                let group = self.copies[lane].groups.pop_front().unwrap_or_default();
                for copy in &group {
                    self.make_copy(copy, shared)?;
                }
            }
        }
        Ok(())
    }

    /// What was not waited for is copied all the same.
    pub(super) fn finish_copies(&mut self, mask: u32, shared: &mut Shared) -> Result<(), String> {
        for lane in lanes_of(mask) {
            let copies = std::mem::take(&mut self.copies[lane]);
            for copy in copies.groups.iter().flatten().chain(&copies.open) {
                self.make_copy(copy, shared)?;
            }
        }
        Ok(())
    }

    pub(super) fn init_barrier(
        &mut self,
        mask: u32,
        barrier: Address,
        count: Slot,
        shared: &mut Shared,
    ) -> Result<(), String> {
        lanes_of(mask).try_for_each(|lane| {
            shared.init_barrier(self.address(barrier, lane), self.lanes.words[count as usize][lane])
        })
    }

    pub(super) fn arrive(
        &mut self,
        mask: u32,
        barrier: Address,
        bytes: Option<Slot>,
        shared: &mut Shared,
    ) -> Result<(), String> {
        lanes_of(mask).try_for_each(|lane| {
            let bytes = bytes.map_or(0, |bytes| self.lanes.words[bytes as usize][lane]);
            shared.arrive(self.address(barrier, lane), bytes)
        })
    }

    pub(super) fn store_async(
        &mut self,
        mask: u32,
        to: Address,
        a: Slot,
        barrier: Address,
        shared: &mut Shared,
    ) -> Result<(), String> {
        lanes_of(mask).try_for_each(|lane| {
            let (to, barrier) = (self.address(to, lane), self.address(barrier, lane));
            shared.write(to, self.lanes.words[a as usize][lane].to_le_bytes())?;
            shared.complete(barrier, 4)
        })
    }

    /// Lanes in which the phase has not ended are told so, and are passed over for a while.
    pub(super) fn try_wait(
        &mut self,
        mask: u32,
        d: Slot,
        barrier: Address,
        parity: Slot,
        shared: &mut Shared,
    ) -> Result<Next, String> {
        let mut ended = 0;
        for lane in lanes_of(mask) {
            let has_ended =
                shared.has_ended(self.address(barrier, lane), self.lanes.words[parity as usize][lane])?;
            ended |= u32::from(has_ended) << lane;
        }
        self.lanes.set_predicate(d, mask, ended);
        Ok(if ended == 0 { Next::Wait(State::Spinning) } else { Next::On })
    }

    pub(super) fn copy_box(
        &mut self,
        mask: u32,
        copy: &BoxCopy,
        around: &mut Surroundings<'_>,
    ) -> Result<(), String> {
        for lane in lanes_of(mask) {
            let map = self.lanes.doubles[copy.map as usize][lane];
            let words = map_words(map, around.parameters)?;
            let [x, y] = [copy.x, copy.y].map(|slot| self.lanes.words[slot as usize][lane] as i32);
            let (_, to) = around.shared.place(self.address(copy.to, lane), 16)?;
            let (_, barrier) = around.shared.place(self.address(copy.barrier, lane), 8)?;
            let map = Map::of_words(words)?;
            let blocks = match copy.blocks {
                None => vec![self.rank],
                Some(blocks) => {
                    let bits = self.lanes.words[blocks as usize][lane];
                    (0..16).filter(|rank| bits >> rank & 1 != 0).collect()
                }
            };
            let pieces = map.pieces(to as u32, x, y)?;
            let bytes = map.box_rows * ROW;
            around.shared.begin(BulkCopy { blocks, pieces, barrier: barrier as u32, bytes, at: self.pc })?;
        }
        Ok(())
    }

    pub(super) fn copy_bytes(
        &mut self,
        mask: u32,
        [to, from, barrier]: [Address; 3],
        bytes: Slot,
        shared: &mut Shared,
    ) -> Result<(), String> {
        for lane in lanes_of(mask) {
            let bytes = self.lanes.words[bytes as usize][lane];
            let from = self.address(from, lane);
            if !bytes.is_multiple_of(CHUNK) || !from.is_multiple_of(u64::from(CHUNK)) {
                return Err(format!("a copy of {bytes} bytes from {from:#x}: both must be multiples of 16"));
            }
            let (_, to) = shared.place(self.address(to, lane), 16)?;
            let (_, barrier) = shared.place(self.address(barrier, lane), 8)?;
            let pieces = vec![Piece { to: to as u32, from: Some(from), bytes }];
            let copy =
                BulkCopy { blocks: vec![self.rank], pieces, barrier: barrier as u32, bytes, at: self.pc };
            shared.begin(copy)?;
        }
        Ok(())
    }
}

/// A map, which lies among the kernel's parameters.
fn map_words(address: u64, parameters: &[u8]) -> Result<[u64; 16], String> {
    let offset = address.wrapping_sub(parameters.as_ptr() as u64) as usize;
    let bytes = offset.checked_add(128).and_then(|end| parameters.get(offset..end));
    let bytes = bytes.ok_or_else(|| format!("a map at {address:#x}, which is no parameter"))?;
    let mut words = [0; 16];
    for (word, bytes) in words.iter_mut().zip(bytes.chunks_exact(8)) {
        *word = u64::from_le_bytes(std::array::from_fn(|i| bytes[i]));
    }
    Ok(words)
}
