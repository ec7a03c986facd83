//! The multiplication itself: factors are packed into f32, a block at a time, and multiplied in tiles that stay in registers.

use super::product::Kind;
use half::{bf16, f16};

/// A tile's rows and columns: 12 registers of 8 sums, which leaves 4 of AVX2's 16.
const ROWS: usize = 16;
const COLS: usize = 6;

/// Elements of k, and rows, that are packed at a time.
const DEPTH: usize = 256;
const BLOCK: usize = 128;

/// One of the two factors, as it lies in live memory.
#[derive(Clone, Copy)]
pub(super) struct Factor {
    pub(super) address: u64,
    pub(super) kind: Kind,
    /// Elements from one column to the next.
    pub(super) stride: usize,
    pub(super) is_transposed: bool,
    pub(super) rounds_to_tf32: bool,
}

impl Factor {
    /// Element (row, col) of what is multiplied.
    pub(super) fn at(&self, row: usize, col: usize) -> f32 {
        match self.kind {
            Kind::F32 if self.rounds_to_tf32 => to_tf32(self.load::<f32>(row, col)),
            Kind::F32 => self.load::<f32>(row, col),
            Kind::Bf16 => self.load::<bf16>(row, col).to_f32(),
            Kind::F16 => self.load::<f16>(row, col).to_f32(),
        }
    }

    fn load<T: Copy>(&self, row: usize, col: usize) -> T {
        let (row, col) = if self.is_transposed { (col, row) } else { (row, col) };
        let address = self.address as usize + (col * self.stride + row) * size_of::<T>();
        // SAFETY: the product checked that all of the matrix is in a live allocation.
        unsafe { std::ptr::with_exposed_provenance::<T>(address).read_unaligned() }
    }

    /// Packs into `packed`, for each group of `W` of the `count` from `start`, the `W` elements of each of `depths`. `is_left`
    /// tells rows of the left factor from columns of the right one. What is past the end becomes 0.
    fn pack<const W: usize>(
        &self,
        packed: &mut Vec<f32>,
        is_left: bool,
        (start, count): (usize, usize),
        depths: &[usize],
    ) {
        match self.kind {
            Kind::F32 if self.rounds_to_tf32 => {
                self.pack_as::<f32, W>(packed, is_left, (start, count), depths, to_tf32);
            }
            Kind::F32 => self.pack_as::<f32, W>(packed, is_left, (start, count), depths, |x| x),
            Kind::Bf16 => self.pack_as::<bf16, W>(packed, is_left, (start, count), depths, bf16::to_f32),
            Kind::F16 => self.pack_as::<f16, W>(packed, is_left, (start, count), depths, f16::to_f32),
        }
    }

    fn pack_as<T: Copy, const W: usize>(
        &self,
        packed: &mut Vec<f32>,
        is_left: bool,
        (start, count): (usize, usize),
        depths: &[usize],
        convert: impl Fn(T) -> f32,
    ) {
        packed.clear();
        packed.resize(count.next_multiple_of(W) * depths.len(), 0.0);
        for (group, panel) in packed.chunks_exact_mut(W * depths.len()).enumerate() {
            let first = start + group * W;
            let width = W.min(start + count - first);
            for (&depth, line) in depths.iter().zip(panel.as_chunks_mut::<W>().0) {
                for (number, to) in line[..width].iter_mut().enumerate() {
                    let other = first + number;
                    *to = convert(match is_left {
                        true => self.load(other, depth),
                        false => self.load(depth, other),
                    });
                }
            }
        }
    }
}

/// Rounds to 10 bits after the point, ties away from zero.
fn to_tf32(x: f32) -> f32 {
    if x.is_finite() { f32::from_bits((x.to_bits() + 0x1000) & !0x1fff) } else { x }
}

/// The product of all rows of the left factor with `n` columns of the right one from `first` on, as columns of f32, and the
/// number of elements from one to the next. `is_reversed` takes sums from the last element to the first.
pub(super) fn multiply(
    [left, right]: &[Factor; 2],
    [m, n, k]: [usize; 3],
    first: usize,
    is_reversed: bool,
) -> (Vec<f32>, usize) {
    let stride = m.next_multiple_of(ROWS);
    let mut sums = vec![0f32; stride * n.next_multiple_of(COLS)];
    let (mut of_left, mut of_right) = (Vec::new(), Vec::new());
    let order: Vec<usize> = if is_reversed { (0..k).rev().collect() } else { (0..k).collect() };
    let tile = fastest();
    for depths in order.chunks(DEPTH) {
        right.pack::<COLS>(&mut of_right, false, (first, n), depths);
        for start in (0..m).step_by(BLOCK) {
            left.pack::<ROWS>(&mut of_left, true, (start, BLOCK.min(m - start)), depths);
            for (col, of_right) in of_right.chunks_exact(COLS * depths.len()).enumerate() {
                for (row, of_left) in of_left.chunks_exact(ROWS * depths.len()).enumerate() {
                    let place = col * COLS * stride + start + row * ROWS;
                    // SAFETY: `fastest` chose what this processor has.
                    unsafe { tile(&mut sums[place..], stride, of_left, of_right) };
                }
            }
        }
    }
    (sums, stride)
}

type Tile = unsafe fn(&mut [f32], usize, &[f32], &[f32]);

fn fastest() -> Tile {
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
        return tile_avx2;
    }
    |sums, stride, left, right| tile(sums, stride, left, right, |a, b, sum| a * b + sum)
}

/// # Safety
/// The processor must have AVX2 and FMA.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
unsafe fn tile_avx2(sums: &mut [f32], stride: usize, left: &[f32], right: &[f32]) {
    tile(sums, stride, left, right, f32::mul_add);
}

/// Adds a tile's products to its sums.
#[inline(always)]
fn tile(
    sums: &mut [f32],
    stride: usize,
    left: &[f32],
    right: &[f32],
    multiply_add: impl Fn(f32, f32, f32) -> f32,
) {
    let mut tile = [[0f32; ROWS]; COLS];
    for (left, right) in left.as_chunks::<ROWS>().0.iter().zip(right.as_chunks::<COLS>().0) {
        for col in 0..COLS {
            for row in 0..ROWS {
                tile[col][row] = multiply_add(left[row], right[col], tile[col][row]);
            }
        }
    }
    for (col, tile) in tile.iter().enumerate() {
        for (sum, x) in sums[col * stride..][..ROWS].iter_mut().zip(tile) {
            *sum += x;
        }
    }
}
