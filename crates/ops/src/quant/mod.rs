//! Matrices of small integers: what the weights of a network that is only read become, to be read faster.
//!
//! A column of K is cut into groups; a group has one scale and small integers, and is worth scale x integer:
//!
//! ```text
//! Int8:  64 elements a group, integers -127 .. 127      8.25 bits an element
//! Int4:  32 elements a group, integers -8 .. 7          4.5 bits an element
//! ```
//!
//! The layout is that of `gemm`, panels of 32 columns of 32-bit words along K, with the scales of a group of each column
//! before its words, so that a panel is one stream: `panel[group][16 words of scales, then words of integers [..][32]]`.
//! Scales are bf16, two in a word: column j in the low half of word j, column 16 + j in its high half. An integer is
//! chosen after its scale was rounded, so that the rounding of scales costs nothing. Within a word, elements lie as
//! `rows.rs` and the kernels want them:
//!
//! ```text
//! Int8:  bytes k0 k1 k2 k3, two's complement
//! Int4:  the low nibbles of bytes k0 k1 k2 k3, the high ones k4 k5 k6 k7, plus 8
//! ```
//!
//! Few rows are multiplied in integers (`rows.rs`), each word read once. For many rows a task writes a panel out as words
//! of the element type (`expand.rs`) and goes on as every matrix product does. Which of the two depends on the number of
//! rows alone.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod expand;
mod pack;
mod portable;
mod rows;
#[cfg(test)]
mod tests;

use crate::cpu::{AlignedBuf, Arena, Cpu, Simd};
use crate::device::Device;
use crate::gemm::{self, Block, Epilogue, PANEL, Packed, Tile, Word, task_rows};
use crate::linear::Storage;
use crate::linear::cpu::with_rows;
use rows::{FixedRows, Kernel};

/// What the integers of a matrix are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// 8 bits an element and a scale for 64: 8.25 bits.
    Int8,
    /// 4 bits an element and a scale for 32: 4.5 bits.
    Int4,
}

impl std::fmt::Display for Format {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Format::Int8 => "int8",
            Format::Int4 => "int4",
        })
    }
}

/// Words of scales at the start of a group.
const SCALE_WORDS: usize = PANEL / 2;
/// Rows that are multiplied in integers. At this many, writing a panel out once takes as long as reading it for each row in Int4 with
/// AVX-512 (768 x 3072, two threads; LOG.md, 2026-11-27); in Int8, and with AVX2, it takes a few rows more.
const FEW_ROWS: usize = 16;

impl Format {
    /// Elements of K in a group.
    const fn group(self) -> usize {
        match self {
            Format::Int8 => 64,
            Format::Int4 => 32,
        }
    }

    /// Elements in a word.
    const fn per_word(self) -> usize {
        match self {
            Format::Int8 => 4,
            Format::Int4 => 8,
        }
    }

    /// Words of a group of a panel.
    const fn group_words(self) -> usize {
        SCALE_WORDS + self.group() / self.per_word() * PANEL
    }

    /// Words of a panel of `k` elements of K.
    const fn panel_words(self, k: usize) -> usize {
        k.div_ceil(self.group()) * self.group_words()
    }

    /// Words that a (k, columns) matrix takes.
    pub(crate) const fn num_words(self, k: usize, columns: usize) -> usize {
        columns.div_ceil(PANEL) * self.panel_words(k)
    }
}

/// A matrix of `k` x `columns`.
pub(crate) struct Quantized {
    format: Format,
    words: AlignedBuf<u32>,
    k: usize,
    columns: usize,
}

impl Quantized {
    /// All zero.
    pub(crate) fn zeros(memory: &Arena, format: Format, k: usize, columns: usize) -> Self {
        Quantized { format, words: memory.zeros(format.num_words(k, columns)), k, columns }
    }

    /// All that is read for a product.
    pub(crate) fn words(&self) -> &[u32] {
        &self.words
    }

    /// Words of scratch that multiplying `rows` rows of `k` elements takes: x in fixed point, or for each thread a panel and what
    /// a product takes.
    pub(crate) fn scratch_words<E: Word>(cpu: &Cpu<E>, format: Format, k: usize, rows: usize) -> usize {
        match rows <= FEW_ROWS {
            true => FixedRows::num_words(format, k, rows),
            false => {
                let k_words = k.div_ceil(E::PER_WORD);
                cpu.num_threads() * k_words * PANEL + gemm::scratch_words(cpu, rows, PANEL, k_words)
            }
        }
    }

    /// Takes the values of `master`, (k, columns) or (columns, k) as `storage` says.
    pub(crate) fn pack<E: Word>(&mut self, cpu: &Cpu<E>, master: &[f32], storage: Storage) {
        pack::pack(cpu, self, master, storage);
    }

    /// Hands the tiles of x times this to `epilogue`, for `rows` rows of x, (rows, k).
    pub(crate) fn multiply<E: Word, P: Epilogue>(&self, cpu: &Cpu<E>, x: &[E], rows: usize, epilogue: &P) {
        if rows <= FEW_ROWS {
            self.multiply_few(cpu, &x[..rows * self.k], rows, epilogue);
        } else {
            self.multiply_many(cpu, x, rows, epilogue);
        }
    }

    /// In integers: tasks own panels, whose words are read from memory once and from the cache for further rows.
    fn multiply_few<E: Word, P: Epilogue>(&self, cpu: &Cpu<E>, x: &[E], rows: usize, epilogue: &P) {
        /// Of each thread: few enough that a task is a stretch of memory, enough that threads end together.
        const TASKS: usize = 16;
        let kernel = Kernel::of(self.format, cpu.isa());
        let num_panels = self.columns.div_ceil(PANEL);
        let per_task = num_panels.div_ceil(TASKS * cpu.num_threads()).max(1);
        cpu.with_scratch(FixedRows::num_words(self.format, self.k, rows), |words| {
            let fixed = FixedRows::new(cpu, kernel, words, x, rows);
            cpu.parallel(num_panels.div_ceil(per_task), |task| {
                let mut values = [[0.0; PANEL]; FEW_ROWS];
                for panel in task * per_task..num_panels.min((task + 1) * per_task) {
                    for (row, values) in values.iter_mut().enumerate().take(rows) {
                        *values = fixed.times(row, self.panel(panel));
                    }
                    let col = panel * PANEL;
                    let cols = PANEL.min(self.columns - col);
                    epilogue.run(cpu, Tile { row: 0, col, cols, values: &values[..rows] });
                }
            });
        });
    }

    /// In the element type: tasks own a panel and a block of rows.
    fn multiply_many<E: Word, P: Epilogue>(&self, cpu: &Cpu<E>, x: &[E], rows: usize, epilogue: &P) {
        let (num_panels, task_rows) = (self.columns.div_ceil(PANEL), task_rows(cpu, rows));
        let row_tasks = rows.div_ceil(task_rows);
        let k_words = self.k.div_ceil(E::PER_WORD);
        with_rows(cpu, x, rows, self.k, |lhs| {
            cpu.parallel(row_tasks * num_panels, |task| {
                let (panel, first) = (task / row_tasks, task % row_tasks * task_rows);
                cpu.with_scratch(k_words * PANEL, |words| {
                    expand::expand(cpu, words, self.format, self.panel(panel));
                    let col = panel * PANEL;
                    let columns = PANEL.min(self.columns - col);
                    let rhs = Packed { words, k_words, columns };
                    let block = Block { rows: first..rows.min(first + task_rows), panels: 0..1 };
                    block.run(cpu, lhs, rhs, &From { col, epilogue });
                });
            });
        });
    }

    fn panel(&self, panel: usize) -> &[u32] {
        let size = self.format.panel_words(self.k);
        &self.words[panel * size..][..size]
    }
}

/// Gives another epilogue tiles whose columns begin at `col`.
struct From<'a, P> {
    col: usize,
    epilogue: &'a P,
}

impl<P: Epilogue> Epilogue for From<'_, P> {
    #[inline(always)]
    fn tile<S: Simd>(&self, tile: &Tile<'_>) {
        self.epilogue.tile::<S>(&Tile { col: self.col + tile.col, ..*tile });
    }
}

/// The scales of a group of a panel.
#[inline(always)]
fn scales(group: &[u32]) -> [f32; PANEL] {
    let mut scales = [0.0; PANEL];
    for (j, word) in group[..SCALE_WORDS].iter().enumerate() {
        scales[j] = f32::from_bits(word << 16);
        scales[SCALE_WORDS + j] = f32::from_bits(word & 0xffff_0000);
    }
    scales
}

/// Where element `i` begins in a word: the lowest of its bits.
#[inline(always)]
const fn shift(format: Format, i: usize) -> usize {
    match format {
        Format::Int8 => 8 * i,
        Format::Int4 => 8 * (i % 4) + 4 * (i / 4),
    }
}

/// Element `i` of a word, as the integer that is scaled.
#[inline(always)]
fn integer(format: Format, word: u32, i: usize) -> i32 {
    match format {
        Format::Int8 => (word << (24 - shift(format, i))) as i32 >> 24,
        Format::Int4 => (word >> shift(format, i) & 15) as i32 - 8,
    }
}
