//! Matrix multiplication: C (M, N) = A (M, K) B (K, N), f32 sums, with the result handed to an epilogue tile by tile.
//!
//! Both operands are streams of 32-bit words along K: one f32, or a pair of neighbouring bf16 (what `vdpbf16ps` eats).
//! That makes one layout serve both element types and every instruction set:
//!
//! - B is packed once into panels of 32 columns: `words[panel][k][32]` (`Packed`).
//! - A is either rows of a row-major matrix as they are, or packed into panels of the kernel's height:
//!   `words[panel][k][height]`. Only the two strides differ, so one kernel reads both (`Lhs`).
//!
//! A task owns a block of rows and a group of panels that fits the second-level cache; the kernel (`Kernel`) makes one
//! tile of `height` x 32 sums in registers over the whole of K, so there is no partial sum to store and an epilogue sees
//! final values. Each element of C is summed by one task in the order of K: the bits do not depend on the threads.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx2_row;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod pack;
mod portable;
mod word;

pub(crate) use pack::{Change, LhsPanels, Packed, SIDE, Unchanged, words_of};
pub(crate) use pack::{pack_lhs_transposed, pack_rhs_both, pack_rhs_columns, pack_rhs_rows};
pub use word::Word;
pub(crate) use word::{narrow, padded, store};

use crate::cpu::{Cpu, Simd, Task};
use crate::device::Device;
use std::ops::Range;

/// Columns of a panel of B.
pub(crate) const PANEL: usize = 32;
/// The tallest kernel.
pub(crate) const MAX_HEIGHT: usize = 14;
/// The part of the second-level cache that a task keeps panels of B in; A's rows and C's tiles pass through the rest.
const GROUP_SHARE: usize = 2;
/// Rows of A in a task, at most.
const TASK_ROWS: usize = 224;
/// Tasks for each thread, at least: the last ones to end keep the others waiting.
const LEAST_TASKS: usize = 8;

/// One tile of C in registers: see [`Kernel::run`].
type TileFn = unsafe fn(rows: usize, k: usize, a: Strided, b: *const u32, c: *mut f32, add: bool);

/// A micro-kernel and its height.
#[derive(Clone, Copy)]
pub(crate) struct Kernel {
    /// Rows of a full tile.
    pub(crate) height: usize,
    tile: TileFn,
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

impl Kernel {
    /// One tile: sets `c[row][32]` for `rows` <= height rows, from `k` words of each row of A and a panel of B; with `add`
    /// adds to it.
    ///
    /// # Safety
    /// The machine has the kernel's instruction set, A holds `k` words in each of `rows` <= `height` rows, B a panel of
    /// `k` x 32 words, and `c` room for the rows, which hold numbers if they are added to.
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

/// C = A B over the words `k` of K, for `rows` rows of A, each tile of C handed to `epilogue`.
pub(crate) fn gemm<E: Word, P: Epilogue>(
    cpu: &Cpu<E>,
    rows: usize,
    lhs: Lhs<'_, E>,
    rhs: Packed<'_>,
    k: Range<usize>,
    epilogue: &P,
) {
    let num_panels = rhs.columns.div_ceil(PANEL);
    let (group, task_rows) = task_shape(cpu, rows, num_panels, k.len());
    let (row_tasks, groups) = (rows.div_ceil(task_rows), num_panels.div_ceil(group));
    cpu.parallel(row_tasks * groups, |task| {
        let (panel, row) = (task / row_tasks * group, task % row_tasks * task_rows);
        let (rows, panels) = (row..rows.min(row + task_rows), panel..num_panels.min(panel + group));
        Block { rows, panels, k: k.clone() }.run(cpu, lhs, rhs, epilogue);
    });
}

/// A part of a product that one task makes: rows of A from a multiple of the kernel's height on, panels of B, words of K.
pub(crate) struct Block {
    /// Rows of A.
    pub(crate) rows: Range<usize>,
    /// Panels of B.
    pub(crate) panels: Range<usize>,
    /// Words of K.
    pub(crate) k: Range<usize>,
}

impl Block {
    /// Hands the block's tiles to `epilogue`.
    pub(crate) fn run<E: Word, P: Epilogue>(
        &self,
        cpu: &Cpu<E>,
        lhs: Lhs<'_, E>,
        rhs: Packed<'_>,
        epilogue: &P,
    ) {
        let Block { rows, panels, k } = self;
        let kernel = E::kernel(cpu.isa());
        check_operands(&kernel, rows.end, &lhs, &rhs, k);
        assert!(rows.start.is_multiple_of(kernel.height), "rows {rows:?} for a kernel of {}", kernel.height);
        assert!(panels.end <= rhs.columns.div_ceil(PANEL), "panels {panels:?} of {} columns", rhs.columns);
        let mut tile = [[0.0f32; PANEL]; MAX_HEIGHT];
        for row in rows.clone().step_by(kernel.height) {
            let height = kernel.height.min(rows.end - row);
            let a = strided(&kernel, &lhs, row, k);
            for panel in panels.clone() {
                epilogue.prefetch(row..row + height, panel * PANEL);
                let b = &rhs.words[(panel * rhs.k_words + k.start) * PANEL..];
                // SAFETY: `check_operands` showed that rows and panels hold the words that the strides reach; the
                // instruction set is there because `cpu` was made with it; the tile has room for `height` rows.
                unsafe { kernel.run(height, k.len(), a, b.as_ptr(), tile.as_mut_ptr().cast(), false) };
                let col = panel * PANEL;
                let cols = PANEL.min(rhs.columns - col);
                epilogue.run(cpu, Tile { row, col, cols, values: &tile[..height] });
            }
        }
    }
}

/// Rows of A in a task: whole tiles, and about as many in each.
pub(crate) fn task_rows<E: Word>(cpu: &Cpu<E>, rows: usize) -> usize {
    let height = E::kernel(cpu.isa()).height;
    rows.div_ceil(rows.div_ceil(TASK_ROWS / height * height).max(1)).next_multiple_of(height).max(1)
}

/// Panels in a group and rows in a task. Groups are about equal, and smaller where there would be too few tasks for the
/// threads to end together; the cut never changes a result, since a tile is always summed whole.
fn task_shape<E: Word>(cpu: &Cpu<E>, rows: usize, num_panels: usize, k: usize) -> (usize, usize) {
    let task_rows = task_rows(cpu, rows);
    let largest = (cpu.level2_bytes() / GROUP_SHARE / (k.max(1) * PANEL * 4)).max(1);
    let groups = num_panels
        .div_ceil(largest)
        .max((LEAST_TASKS * cpu.num_threads()).div_ceil(rows.div_ceil(task_rows).max(1)));
    (num_panels.div_ceil(groups.max(1)).max(1), task_rows)
}

/// The words `k` of the rows from `row` (a multiple of the kernel's height) on.
fn strided<E: Word>(kernel: &Kernel, lhs: &Lhs<'_, E>, row: usize, k: &Range<usize>) -> Strided {
    /// A little more than the 14 words that a step of the tallest kernel uses.
    const LINE: usize = 64;
    match *lhs {
        Lhs::Rows { elements, stride } => {
            let words: *const u32 = elements[row * stride + k.start * E::PER_WORD..].as_ptr().cast();
            let row = stride * size_of::<E>();
            let next_step = if row == 4 * k.len() { LINE } else { 0 };
            Strided { words, row, step: 4, next: words.wrapping_byte_add(kernel.height * row), next_step }
        }
        Lhs::Panels(panels) => {
            let size = panels.k_words * kernel.height;
            let words = panels.words[row / kernel.height * size + k.start * kernel.height..].as_ptr();
            let next = words.wrapping_add(size);
            Strided { words, row: 4, step: kernel.height * 4, next, next_step: LINE }
        }
    }
}

/// Shows that every word which the kernel will read lies inside the operands.
fn check_operands<E: Word>(
    kernel: &Kernel,
    rows: usize,
    lhs: &Lhs<'_, E>,
    rhs: &Packed<'_>,
    k: &Range<usize>,
) {
    assert!(k.start <= k.end && k.end <= rhs.k_words, "words {k:?} of {}", rhs.k_words);
    assert!(rhs.words.len() >= rhs.columns.div_ceil(PANEL) * rhs.k_words * PANEL, "B is too short");
    match *lhs {
        Lhs::Rows { elements, stride } => {
            let end = (rows.max(1) - 1) * stride + k.end * E::PER_WORD;
            assert!(elements.len() >= end, "A holds {} elements, {end} are read", elements.len());
        }
        Lhs::Panels(panels) => {
            assert!(k.end <= panels.k_words, "words {k:?} of {}", panels.k_words);
            let end = rows.div_ceil(kernel.height) * panels.k_words * kernel.height;
            assert!(panels.words.len() >= end, "A holds {} words, {end} are read", panels.words.len());
        }
    }
}

#[cfg(test)]
mod tests;
