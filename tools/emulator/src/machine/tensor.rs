//! Tensor cores: products of fragments and of tiles in shared memory. Layouts are those of the PTX manual: "Warp-level matrix
//! instructions" and "Asynchronous warpgroup-level matrix instructions".

use super::copies::swizzle;
use super::lanes::FULL;
use super::op::{Address, GroupLeft, GroupProduct, Half, Slot};
use super::reads::CHUNK;
use super::shared::Shared;
use super::warp::Warp;
use crate::numbers::{bf16_value, f16_value};

/// Rows and depth of a product; a warp of a warpgroup has as many rows of its own.
const ROWS: usize = 16;
const DEPTH: usize = 16;
/// The widest product.
const MAX_COLS: usize = 256;

/// Where register `i` of four, lane by lane, holds a pair of elements of a 16 x 16 left operand: row and first column.
fn left_place(lane: usize, i: usize) -> (usize, usize) {
    (lane / 4 + 8 * (i % 2), lane % 4 * 2 + 8 * (i / 2))
}

/// The same for sums, of which register `i` holds one, 8 columns wide.
fn sum_place(lane: usize, i: usize) -> (usize, usize) {
    (lane / 4 + 8 * (i / 2), lane % 4 * 2 + i % 2)
}

fn value_of(half: Half) -> fn(u16) -> f32 {
    match half {
        Half::F16 => f16_value,
        Half::Bf16 => bf16_value,
    }
}

impl Warp {
    /// ldmatrix.x4: lane 8i + j has the address of row j of matrix i.
    pub(super) fn load_matrices(
        &mut self,
        d: [Slot; 4],
        address: Address,
        is_transposed: bool,
        shared: &Shared,
    ) -> Result<(), String> {
        for (i, d) in d.into_iter().enumerate() {
            let mut rows = [[0u16; 8]; 8];
            for (j, row) in rows.iter_mut().enumerate() {
                let bytes: [u8; 16] = shared.read(self.address(address, 8 * i + j))?;
                *row = std::array::from_fn(|col| u16::from_le_bytes([bytes[2 * col], bytes[2 * col + 1]]));
            }
            let at = |row: usize, col: usize| if is_transposed { rows[col][row] } else { rows[row][col] };
            self.lanes.words[d as usize] = std::array::from_fn(|lane| {
                let (row, col) = (lane / 4, lane % 4 * 2);
                u32::from(at(row, col)) | u32::from(at(row, col + 1)) << 16
            });
        }
        Ok(())
    }

    /// stmatrix.x4, its inverse.
    pub(super) fn store_matrices(
        &mut self,
        a: [Slot; 4],
        address: Address,
        shared: &mut Shared,
    ) -> Result<(), String> {
        for (i, a) in a.into_iter().enumerate() {
            let pairs = self.lanes.words[a as usize];
            for row in 0..8 {
                let bytes: [u8; 16] =
                    std::array::from_fn(|byte| pairs[4 * row + byte / 4].to_le_bytes()[byte % 4]);
                shared.write(self.address(address, 8 * i + row), bytes)?;
            }
        }
        Ok(())
    }

    /// The 16 x 16 left operand that four registers hold.
    fn left(&self, half: Half, a: [Slot; 4]) -> [[f32; DEPTH]; ROWS] {
        let value = value_of(half);
        let mut left = [[0.0; DEPTH]; ROWS];
        for (i, a) in a.into_iter().enumerate() {
            let pairs = self.lanes.words[a as usize];
            for (lane, pair) in pairs.into_iter().enumerate() {
                let (row, col) = left_place(lane, i);
                left[row][col] = value(pair as u16);
                left[row][col + 1] = value((pair >> 16) as u16);
            }
        }
        left
    }

    /// mma.m16n8k16: d = a b + c.
    #[cfg_attr(target_arch = "x86_64", target_feature(enable = "avx2,fma,f16c,popcnt,lzcnt"))]
    pub(super) fn product(&mut self, half: Half, d: [Slot; 4], a: [Slot; 4], b: [Slot; 2], c: [Slot; 4]) {
        const COLS: usize = 8;
        let value = value_of(half);
        let left = self.left(half, a);
        let mut right = [[0.0; COLS]; DEPTH];
        for (i, b) in b.into_iter().enumerate() {
            let pairs = self.lanes.words[b as usize];
            for (lane, pair) in pairs.into_iter().enumerate() {
                let (k, col) = (lane % 4 * 2 + 8 * i, lane / 4);
                right[k][col] = value(pair as u16);
                right[k + 1][col] = value((pair >> 16) as u16);
            }
        }
        let mut sums = [[0.0; COLS]; ROWS];
        for (i, c) in c.into_iter().enumerate() {
            let c = self.lanes.words[c as usize];
            for (lane, c) in c.into_iter().enumerate() {
                let (row, col) = sum_place(lane, i);
                sums[row][col] = f32::from_bits(c);
            }
        }
        for (left, sums) in left.iter().zip(&mut sums) {
            multiply(left, &right, sums);
        }
        for (i, d) in d.into_iter().enumerate() {
            self.lanes.words[d as usize] = std::array::from_fn(|lane| {
                let (row, col) = sum_place(lane, i);
                sums[row][col].to_bits()
            });
        }
    }

    /// wgmma: the 16 rows of the warpgroup's 64 that are this warp's.
    #[cfg_attr(target_arch = "x86_64", target_feature(enable = "avx2,fma,f16c,popcnt,lzcnt"))]
    pub(super) fn group_product(
        &mut self,
        product: &GroupProduct,
        shared: &mut Shared,
    ) -> Result<(), String> {
        let cols = 2 * product.d.len();
        let memory = &shared.blocks[self.rank as usize];
        let value = value_of(product.half);
        let mut chunks = Vec::new();
        let descriptor = |slot: Slot| Tile::of_descriptor(self.lanes.doubles[slot as usize][0]);
        let left = match product.left {
            GroupLeft::Registers(a) => self.left(product.half, a),
            GroupLeft::Shared { descriptor: slot, is_across } => {
                let (tile, first) = (descriptor(slot)?, self.number as usize % 4 * ROWS);
                let mut left = [[0.0; DEPTH]; ROWS];
                for (row, left) in left.iter_mut().enumerate() {
                    for (k, left) in left.iter_mut().enumerate() {
                        *left = value(tile.element(memory, first + row, k, is_across, &mut chunks)?);
                    }
                }
                left
            }
        };
        let tile = descriptor(product.right)?;
        let mut right = [[0.0; MAX_COLS]; DEPTH];
        for (k, right) in right.iter_mut().enumerate() {
            for (col, right) in right[..cols].iter_mut().enumerate() {
                *right = value(tile.element(memory, col, k, product.is_right_across, &mut chunks)?);
            }
        }
        self.begin_product(chunks, shared);
        let adds = self.lanes.predicates[product.adds as usize];
        if adds != 0 && adds != FULL {
            return Err("a product that only some threads add to".into());
        }
        for (row, left) in left.iter().enumerate() {
            let mut sums = [0.0; MAX_COLS];
            // The registers that hold this row's sums, and the lanes they are in.
            let place = |col: usize| (col / 8 * 4 + row / 8 * 2 + col % 2, row % 8 * 4 + col % 8 / 2);
            if adds == FULL {
                for (col, sum) in sums[..cols].iter_mut().enumerate() {
                    let (i, lane) = place(col);
                    *sum = f32::from_bits(self.lanes.words[product.d[i] as usize][lane]);
                }
            }
            multiply(left, &right, &mut sums);
            for (col, sum) in sums[..cols].iter().enumerate() {
                let (i, lane) = place(col);
                self.lanes.words[product.d[i] as usize][lane] = sum.to_bits();
            }
        }
        Ok(())
    }
}

/// sums += left right, in f32, one depth after another.
#[inline(always)]
fn multiply<const COLS: usize>(left: &[f32; DEPTH], right: &[[f32; COLS]; DEPTH], sums: &mut [f32; COLS]) {
    for (x, right) in left.iter().zip(right) {
        for (sum, y) in sums.iter_mut().zip(right) {
            *sum = x.mul_add(*y, *sum);
        }
    }
}

/// An operand in shared memory under the 128-byte swizzle, as a descriptor says.
struct Tile {
    begin: u32,
    /// Bytes from 8 rows to the next 8, and, read across, from 64 columns to the next 64.
    rows_apart: u32,
    columns_apart: u32,
}

impl Tile {
    fn of_descriptor(bits: u64) -> Result<Self, String> {
        if bits >> 62 != 1 {
            return Err(format!("a descriptor that is not of the 128-byte swizzle: {bits:#x}"));
        }
        let field = |shift: u32| ((bits >> shift & 0x3fff) << 4) as u32;
        Ok(Tile { begin: field(0), rows_apart: field(32), columns_apart: field(16) })
    }

    /// The element of a row (of the operand's 64 or N) at depth k. Along the rows, each has its depth in 128 bytes; across, it is
    /// depth that has rows of 64 elements. The chunk of memory that it begins, if it does, is added to `chunks`.
    fn element(
        &self,
        memory: &[u8],
        row: usize,
        k: usize,
        is_across: bool,
        chunks: &mut Vec<u32>,
    ) -> Result<u16, String> {
        let (row, k) = (row as u32, k as u32);
        let offset = if is_across {
            row / 64 * self.columns_apart + k / 8 * self.rows_apart + k % 8 * 128 + row % 64 * 2
        } else {
            row / 8 * self.rows_apart + row % 8 * 128 + k * 2
        };
        let at = swizzle(self.begin + offset) as usize;
        let bytes = memory.get(at..at + 2).ok_or("an operand past the end of shared memory")?;
        if at.is_multiple_of(CHUNK) {
            chunks.push((at / CHUNK) as u32);
        }
        Ok(u16::from_le_bytes([bytes[0], bytes[1]]))
    }
}
