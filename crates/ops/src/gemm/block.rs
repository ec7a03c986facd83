//! How a product is cut into tasks, and what a task does: which operand it keeps in which cache.
//!
//! A task has some rows of A and a group of panels of B. Of both it takes a block of K at a time, so that the group fits the
//! second-level cache, whatever K: all rows pass by it, a kernel's height after the other, and each of these stays in the
//! first-level cache for all panels. Where K takes several blocks, sums wait for the next one in scratch memory.

use super::{Epilogue, Kernel, Lhs, MAX_HEIGHT, PANEL, Packed, Strided, Tile, Word};
use crate::cpu::{Cpu, Simd, Task, Work};
use crate::device::Device;
use std::ops::Range;

/// Words of K that are summed in registers at a time, at most. The sums of blocks are added, which keeps the rounding errors of long
/// sums small.
const K_BLOCK: usize = 1024;
/// Blocks of K that rows pass by at a time. One, if rows of A are copied: they serve more panels then, and have to.
const PASS_BLOCKS: usize = 2;
/// The part of the second-level cache that a task keeps panels of B in; A's rows and C's tiles pass through the rest.
const GROUP_SHARE: usize = 2;
/// Rows of A in a task, at most.
const TASK_ROWS: usize = 224;
/// Tasks for each thread, at least.
const LEAST_TASKS: usize = 8;

/// C = A B for `rows` rows of A, each tile of C handed to `epilogue`.
pub(crate) fn gemm<E: Word, P: Epilogue>(
    cpu: &Cpu<E>,
    rows: usize,
    lhs: Lhs<'_, E>,
    rhs: Packed<'_>,
    epilogue: &P,
) {
    cpu.run(&[product(cpu, rows, lhs, rhs, epilogue)]);
}

/// What [`gemm`] does, to be done together with something else.
pub(crate) fn product<'a, E: Word, P: Epilogue>(
    cpu: &'a Cpu<E>,
    rows: usize,
    lhs: Lhs<'a, E>,
    rhs: Packed<'a>,
    epilogue: &'a P,
) -> Work<'a> {
    let pass = pass_words(rhs.k_words, is_copied(&E::kernel(cpu.isa()), &lhs));
    let cut = Cut::new(cpu, rows, rhs.columns, pass);
    let tasks = cut.num_tasks();
    let small = tasks - cut.num_whole;
    let task = move |task| cut.task(task).run(cpu, lhs, rhs, epilogue);
    Work { tasks, small, task: Box::new(task) }
}

/// Words of scratch memory that [`gemm`] takes on all threads together, at most.
pub(crate) fn scratch_words<E: Word>(cpu: &Cpu<E>, rows: usize, columns: usize, k: usize) -> usize {
    let words = |is_copied: bool| {
        let pass = pass_words(k, is_copied);
        let (block, kernel) = (Cut::new(cpu, rows, columns, pass).block(0), E::kernel(cpu.isa()));
        block.scratch_words(&kernel, k, pass, is_copied).iter().sum::<usize>() * cpu.num_threads()
    };
    words(false).max(words(true))
}

/// Rows of A in a task: whole tiles, and about as many in each.
pub(crate) fn task_rows<E: Word>(cpu: &Cpu<E>, rows: usize) -> usize {
    let height = E::kernel(cpu.isa()).height;
    rows.div_ceil(rows.div_ceil(TASK_ROWS / height * height).max(1)).next_multiple_of(height).max(1)
}

/// How a product is cut into tasks. That never changes a result, since a tile is summed whole by one of them.
struct Cut {
    rows: usize,
    num_panels: usize,
    /// Rows of a task.
    task_rows: usize,
    /// Panels of a task.
    group: usize,
    /// Tasks that are done whole. The others are cut once more, so that threads end together.
    num_whole: usize,
    /// The kernel's.
    height: usize,
}

impl Cut {
    /// Tasks that are cut once more, for each thread, and into how many.
    const LAST: usize = 1;
    const PIECES: usize = 4;

    /// Groups of panels are about equal, and smaller where there would be too few tasks for the threads.
    fn new<E: Word>(cpu: &Cpu<E>, rows: usize, columns: usize, pass: usize) -> Self {
        let (num_panels, task_rows) = (columns.div_ceil(PANEL), task_rows(cpu, rows));
        let largest = cpu.level2_bytes() / GROUP_SHARE / (pass.max(1) * PANEL * 4);
        let enough = (LEAST_TASKS * cpu.num_threads()).div_ceil(rows.div_ceil(task_rows).max(1));
        let group = num_panels.div_ceil(num_panels.div_ceil(largest.max(1)).max(enough)).max(1);
        let height = E::kernel(cpu.isa()).height;
        let mut cut = Cut { rows, num_panels, task_rows, group, num_whole: 0, height };
        cut.num_whole = cut.num_blocks().saturating_sub(Self::LAST * cpu.num_threads());
        cut
    }

    fn num_blocks(&self) -> usize {
        self.rows.div_ceil(self.task_rows) * self.num_panels.div_ceil(self.group)
    }

    fn num_tasks(&self) -> usize {
        self.num_whole + (self.num_blocks() - self.num_whole) * Self::PIECES
    }

    /// Block `i`: those with the same panels follow each other.
    fn block(&self, i: usize) -> Block {
        let row_blocks = self.rows.div_ceil(self.task_rows).max(1);
        let (panel, row) = (i / row_blocks * self.group, i % row_blocks * self.task_rows);
        let (end_row, end_panel) = (row + self.task_rows, panel + self.group);
        Block { rows: row..self.rows.min(end_row), panels: panel..self.num_panels.min(end_panel) }
    }

    /// What a task does: a block, or a piece of one, which may be empty.
    fn task(&self, task: usize) -> Block {
        let Some(last) = task.checked_sub(self.num_whole) else { return self.block(task) };
        let Block { rows, panels } = self.block(self.num_whole + last / Self::PIECES);
        match rows.len() > self.height {
            true => Block { rows: Self::piece(rows, self.height, last % Self::PIECES), panels },
            false => Block { panels: Self::piece(panels, 1, last % Self::PIECES), rows },
        }
    }

    /// A piece of `range`, of whole units.
    fn piece(range: Range<usize>, unit: usize, piece: usize) -> Range<usize> {
        let units = range.len().div_ceil(unit);
        let at = |piece: usize| range.end.min(range.start + units * piece / Self::PIECES * unit);
        at(piece)..at(piece + 1)
    }
}

/// Words of a block of K: all are about equal. It depends on K alone, so that one row has the bits that it has among many.
fn block_words(k: usize) -> usize {
    k.div_ceil(k.div_ceil(K_BLOCK).max(1))
}

/// Words of K that the rows of a task pass by at a time.
fn pass_words(k: usize, is_copied: bool) -> usize {
    k.min(block_words(k) * if is_copied { 1 } else { PASS_BLOCKS })
}

/// Whether rows of A are copied before they are multiplied: because the kernel wants them wider, or because all of them begin at
/// the same place of a first-level cache, and are too many for it.
fn is_copied<E: Word>(kernel: &Kernel, lhs: &Lhs<'_, E>) -> bool {
    /// First-level caches have at least eight ways, of 4 KiB where pages have that size.
    const WAYS: usize = 8;
    const WAY: usize = 4096;
    let is_crowded = |stride: usize| kernel.height > WAYS && (stride * size_of::<E>()).is_multiple_of(WAY);
    kernel.widen.is_some() || matches!(*lhs, Lhs::Rows { stride, .. } if is_crowded(stride))
}

/// The blocks of the words `k`, which begins with one.
fn blocks(k: Range<usize>, size: usize) -> impl Iterator<Item = Range<usize>> {
    k.clone().step_by(size.max(1)).map(move |start| start..k.end.min(start + size))
}

/// A part of a product that one task makes: rows of A from a multiple of the kernel's height on, and panels of B.
pub(crate) struct Block {
    /// Rows of A.
    pub(crate) rows: Range<usize>,
    /// Panels of B.
    pub(crate) panels: Range<usize>,
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
        let Block { rows, panels } = self;
        let (kernel, k) = (E::kernel(cpu.isa()), rhs.k_words);
        check_operands(&kernel, rows.end, &lhs, &rhs);
        assert!(rows.start.is_multiple_of(kernel.height), "rows {rows:?} for a kernel of {}", kernel.height);
        assert!(panels.end <= rhs.columns.div_ceil(PANEL), "panels {panels:?} of {}", rhs.columns);
        // Where rows are few, no panel is used twice.
        let (is_tall, is_copied) = (rows.len() > kernel.height, is_copied(&kernel, &lhs));
        let pass = if is_tall { pass_words(k, is_copied) } else { k };
        let [sums_words, left_words] = self.scratch_words(&kernel, k, pass, is_copied);
        cpu.with_scratch(sums_words + left_words, |scratch| {
            let (sums, left) = scratch.split_at_mut(sums_words);
            let sums: &mut [[f32; PANEL]] = bytemuck::cast_slice_mut(sums);
            let mut tile = Sums([[0.0; PANEL]; MAX_HEIGHT]);
            for pass in blocks(0..k, pass) {
                for (i, row) in rows.clone().step_by(kernel.height).enumerate() {
                    let height = kernel.height.min(rows.end - row);
                    let mut a = left_rows(&kernel, &lhs, row..row + height, &pass, left);
                    for (j, panel) in panels.clone().enumerate() {
                        let (is_last, col) = (pass.end == k, panel * PANEL);
                        if is_last {
                            epilogue.prefetch(row..row + height, col);
                        }
                        let values = match sums.is_empty() {
                            true => &mut tile.0[..height],
                            false => &mut sums[(i * panels.len() + j) * kernel.height..][..height],
                        };
                        for k in blocks(pass.clone(), block_words(k)) {
                            let b = &rhs.words[(panel * rhs.k_words + k.start) * PANEL..];
                            sum_tile(cpu, &kernel, values, a.from(k.start - pass.start), b, k);
                        }
                        if is_last {
                            let cols = PANEL.min(rhs.columns - col);
                            epilogue.run(cpu, Tile { row, col, cols, values });
                        }
                        // The next rows have been asked for.
                        a.next_step = 0;
                    }
                }
            }
        });
    }

    /// Words of scratch memory: sums that wait, rows of A that are copied.
    fn scratch_words(&self, kernel: &Kernel, k: usize, pass: usize, is_copied: bool) -> [usize; 2] {
        let tiles = self.rows.len().div_ceil(kernel.height) * self.panels.len();
        let sums = if pass < k { tiles * kernel.height * PANEL } else { 0 };
        let copies = kernel.wide_words(pass).max(kernel.height * spread(pass));
        [sums, if is_copied { copies } else { 0 }]
    }
}

/// Sets, or from the second block of K on adds to, the sums of a tile: those of the words `k`, where `a` and `b` begin.
#[inline(always)]
fn sum_tile<E: Word>(
    cpu: &Cpu<E>,
    kernel: &Kernel,
    values: &mut [[f32; PANEL]],
    a: Strided,
    b: &[u32],
    k: Range<usize>,
) {
    let rows = values.len();
    // SAFETY: `check_operands` showed that rows and panels hold the words that the strides reach, and `left_rows` made of them
    // what the kernel reads; the instruction set is there because `cpu` was made with it; there is room for the rows.
    let run = |c: *mut f32| unsafe { kernel.run(rows, k.len(), a, b.as_ptr(), c, false) };
    if k.start == 0 {
        return run(values.as_mut_ptr().cast());
    }
    let mut block = Sums([[0.0; PANEL]; MAX_HEIGHT]);
    run(block.0.as_mut_ptr().cast());
    cpu.isa().run(Add { sums: values.as_flattened_mut(), values: block.0.as_flattened() });
}

/// A tile on whole cache lines: vectors that lie on two of them take twice as long to read and write.
#[repr(C, align(64))]
struct Sums([[f32; PANEL]; MAX_HEIGHT]);

/// sums += values.
struct Add<'a> {
    sums: &'a mut [f32],
    values: &'a [f32],
}

impl Task for Add<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self) {
        self.sums.iter_mut().zip(self.values).for_each(|(sum, x)| *sum += x);
    }
}

/// Bytes of a cache line.
const LINE: usize = 64;

/// Words from a copied row of `k` words to the next: whole lines, and an odd number of them.
fn spread(k: usize) -> usize {
    (k.div_ceil(LINE / 4) | 1) * (LINE / 4)
}

/// The words `k` of `rows`, which begin with a multiple of the kernel's height, as the kernel reads them; `scratch` holds those that
/// must be copied for it.
fn left_rows<E: Word>(
    kernel: &Kernel,
    lhs: &Lhs<'_, E>,
    rows: Range<usize>,
    k: &Range<usize>,
    scratch: &mut [u32],
) -> Strided {
    let (row, height) = (rows.start, rows.len());
    let a = match *lhs {
        Lhs::Rows { elements, stride } if kernel.widen.is_none() && is_copied(kernel, lhs) => {
            let spread = spread(k.len());
            for (row, copy) in rows.zip(scratch.chunks_exact_mut(spread)) {
                let copy: &mut [E] = bytemuck::cast_slice_mut(&mut copy[..k.len()]);
                copy.copy_from_slice(&elements[row * stride + k.start * E::PER_WORD..][..copy.len()]);
            }
            let words = scratch.as_ptr();
            Strided { words, row: 4 * spread, step: 4, next: words, next_step: 0 }
        }
        Lhs::Rows { elements, stride } => {
            let words: *const u32 = elements[row * stride + k.start * E::PER_WORD..].as_ptr().cast();
            let row = stride * size_of::<E>();
            // A little more than the 14 words that a step of the tallest kernel uses.
            let next_step = if row == 4 * k.len() { LINE } else { 0 };
            Strided { words, row, step: 4, next: words.wrapping_byte_add(kernel.height * row), next_step }
        }
        Lhs::Panels(panels) => {
            let size = panels.k_words * kernel.height;
            let words = panels.words[row / kernel.height * size + k.start * kernel.height..].as_ptr();
            let next = words.wrapping_add(size);
            Strided { words, row: 4, step: kernel.height * 4, next, next_step: LINE }
        }
    };
    // SAFETY: `check_operands` showed that the words are there, and the kernel's instruction set is that of the device.
    unsafe { kernel.widen(height, k.len(), a, scratch) }
}

/// Shows that every word which the kernel will read lies inside the operands.
fn check_operands<E: Word>(kernel: &Kernel, rows: usize, lhs: &Lhs<'_, E>, rhs: &Packed<'_>) {
    let k = rhs.k_words;
    assert!(k > 0, "a product over nothing");
    assert!(rhs.words.len() >= rhs.columns.div_ceil(PANEL) * k * PANEL, "B is too short");
    match *lhs {
        Lhs::Rows { elements, stride } => {
            let end = (rows.max(1) - 1) * stride + k * E::PER_WORD;
            assert!(elements.len() >= end, "A holds {} elements, {end} are read", elements.len());
        }
        Lhs::Panels(panels) => {
            assert!(k == panels.k_words, "{k} words of B and {} of A", panels.k_words);
            let end = rows.div_ceil(kernel.height) * k * kernel.height;
            assert!(panels.words.len() >= end, "A holds {} words, {end} are read", panels.words.len());
        }
    }
}
