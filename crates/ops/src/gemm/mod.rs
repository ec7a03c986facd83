//! Matrix multiplication: C (M, N) = A (M, K) B (K, N), f32 sums, with the result handed to an epilogue tile by tile.
//!
//! Both operands are streams of 32-bit words along K: one f32, or a pair of neighbouring bf16 (what `vdpbf16ps` eats).
//! That makes one layout serve both element types and every instruction set:
//!
//! - B is packed once into panels of 32 columns: `words[panel][k][32]` (`Packed`).
//! - A is either rows of a row-major matrix as they are, or packed into panels of the kernel's height:
//!   `words[panel][k][height]`. Only the two strides differ, so one kernel reads both (`Lhs`).
//!
//! A task owns a block of rows and a group of panels (`block`); the kernel (`Kernel`) makes one tile of `height` x 32 sums in
//! registers, over the whole of K or, where K is long, over a part of it after the other, and an epilogue sees final values.
//! Each element of C is summed by one task in the order of K: the bits do not depend on the threads.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx2_row;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod block;
mod pack;
mod portable;
mod word;

pub(crate) use block::{Block, gemm, product, scratch_words, task_rows};
pub(crate) use pack::{Change, LhsPanels, Packed, SIDE, Unchanged, words_of};
pub(crate) use pack::{
    pack_for_gradient, pack_lhs_transposed, pack_rhs_both, pack_rhs_both_by_chance, pack_rhs_columns,
    pack_rhs_rows,
};
pub use word::Word;
pub(crate) use word::{narrow, padded, store};

use crate::cpu::{Cpu, Simd, Task};
use std::ops::Range;

/// Columns of a panel of B.
pub(crate) const PANEL: usize = 32;
/// The tallest kernel.
pub(crate) const MAX_HEIGHT: usize = 14;

/// One tile of C in registers: see [`Kernel::run`].
type TileFn = unsafe fn(rows: usize, k: usize, a: Strided, b: *const u32, c: *mut f32, add: bool);
/// Makes rows of A wider in other memory: see [`Kernel::widen`].
type WidenFn = unsafe fn(rows: usize, k: usize, a: Strided, wide: *mut f32) -> Strided;

/// A micro-kernel and its height.
#[derive(Clone, Copy)]
pub(crate) struct Kernel {
    /// Rows of a full tile.
    pub(crate) height: usize,
    tile: TileFn,
    /// What must be done to rows before, if anything.
    widen: Option<WidenFn>,
}

/// Some rows of A, as a kernel reads them.
#[derive(Clone, Copy)]
pub(crate) struct Strided {
    /// Word 0 of row 0.
    pub(crate) words: *const u32,
    /// From a row to the next, in bytes.
    pub(crate) row: usize,
    /// From a word along K to the next, in bytes.
    pub(crate) step: usize,
    /// Where the words of the next rows begin: tall kernels ask for them while they sum. The hardware would only see the first
    /// of them coming, and stops at the end of each page. Any address will do.
    pub(crate) next: *const u32,
    /// From what a word along K asks for to what the next one does, in bytes: a cache line where the next rows lie one after
    /// the other, 0 where they do not.
    pub(crate) next_step: usize,
}

impl Strided {
    /// The same rows from word `k` on.
    #[inline(always)]
    pub(crate) fn from(self, k: usize) -> Self {
        let next = self.next.wrapping_byte_add(k * self.next_step);
        Strided { words: self.words.wrapping_byte_add(k * self.step), next, ..self }
    }
}

impl Kernel {
    /// One tile: sets `c[row][32]` for `rows` <= height rows, from `k` words of each row of A and a panel of B; with `add`
    /// adds to it.
    ///
    /// # Safety
    /// The machine has the kernel's instruction set, A, as [`widen`](Self::widen) returned it, holds `k` words in each of `rows` <=
    /// `height` rows, B a panel of `k` x 32 words, and `c` room for the rows, which hold numbers if they are added to.
    #[inline(always)]
    pub(crate) unsafe fn run(
        &self,
        rows: usize,
        k: usize,
        a: Strided,
        b: *const u32,
        c: *mut f32,
        add: bool,
    ) {
        // SAFETY: the caller's promise.
        unsafe { (self.tile)(rows, k, a, b, c, add) }
    }

    /// Words that [`widen`](Self::widen) takes for `k` words of A.
    pub(crate) fn wide_words(&self, k: usize) -> usize {
        if self.widen.is_some() { 2 * k * self.height } else { 0 }
    }

    /// Rows of A as the kernel multiplies them: as they are, or as f32 in `wide`, if the machine cannot multiply words of them.
    ///
    /// # Safety
    /// As for [`run`](Self::run); what is returned points to `wide`.
    #[inline(always)]
    pub(crate) unsafe fn widen(&self, rows: usize, k: usize, a: Strided, wide: &mut [u32]) -> Strided {
        let Some(widen) = self.widen else { return a };
        assert!(wide.len() >= 2 * k * rows, "room for {} of 2 x {k} x {rows} numbers", wide.len());
        // SAFETY: the caller's promise, and there is room.
        unsafe { widen(rows, k, a, wide.as_mut_ptr().cast()) }
    }
}

/// The left operand.
#[derive(Clone, Copy)]
pub(crate) enum Lhs<'a, E> {
    /// Rows of a row-major matrix: row `i` starts at element `i * stride`. K must fill whole words.
    Rows { elements: &'a [E], stride: usize },
    /// Panels made by [`pack_lhs_transposed`] or [`LhsPanels`].
    Panels(LhsPanels<'a>),
}

/// A tile of C as the epilogue gets it.
pub(crate) struct Tile<'a> {
    /// First row.
    pub(crate) row: usize,
    /// First column.
    pub(crate) col: usize,
    /// Columns that exist, at most 32.
    pub(crate) cols: usize,
    /// The rows that exist.
    pub(crate) values: &'a [[f32; PANEL]],
}

/// What becomes of a tile of C. Tiles do not overlap and come in any order.
pub(crate) trait Epilogue: Sync {
    /// Takes one tile; must be `#[inline(always)]`.
    fn tile<S: Simd>(&self, tile: &Tile<'_>);

    /// Asks for the memory that the tile at `rows` and column `col` will be written to, before it is summed: the caches
    /// fetch it meanwhile.
    #[inline(always)]
    fn prefetch(&self, rows: Range<usize>, col: usize) {
        let _ = (rows, col);
    }

    /// Takes one tile in code compiled for the instruction set of `cpu`.
    fn run<E: Word>(&self, cpu: &Cpu<E>, tile: Tile<'_>)
    where
        Self: Sized,
    {
        cpu.isa().run(RunEpilogue(self, tile));
    }
}

struct RunEpilogue<'a, P>(&'a P, Tile<'a>);

impl<P: Epilogue> Task for RunEpilogue<'_, P> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self) {
        self.0.tile::<S>(&self.1);
    }
}

#[cfg(test)]
mod tests;
