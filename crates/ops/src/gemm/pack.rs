//! Packing: the layouts that the kernels read, made from row-major matrices.
//!
//! With K along the rows of the source, a word is two elements of one column in neighbouring rows; with K along its
//! columns, a word is two neighbouring elements of a row. Missing columns and the missing half of a last word are zero.

mod both;

pub(crate) use both::{pack_rhs_both, pack_rhs_both_by_chance};

use super::{MAX_HEIGHT, PANEL, Word};
use crate::cpu::math::lanes;
use crate::cpu::{Cpu, SharedMut, Simd, Task, Work};
use crate::device::Device;
use std::marker::PhantomData;
use std::ops::Range;

/// A packed right operand of `columns` columns: `words[panel][k_words][32]`.
#[derive(Clone, Copy)]
pub(crate) struct Packed<'a> {
    /// The panels.
    pub(crate) words: &'a [u32],
    /// Words along K.
    pub(crate) k_words: usize,
    /// N.
    pub(crate) columns: usize,
}

impl Packed<'_> {
    /// Words that the packed form of a (k, columns) matrix takes.
    pub(crate) fn num_words<E: Word>(k: usize, columns: usize) -> usize {
        columns.div_ceil(PANEL) * PANEL * k.div_ceil(E::PER_WORD)
    }
}

/// A packed left operand: `words[panel][k_words][height]`, `height` that of the kernel.
#[derive(Clone, Copy)]
pub(crate) struct LhsPanels<'a> {
    /// The panels.
    pub(crate) words: &'a [u32],
    /// Words along K.
    pub(crate) k_words: usize,
}

impl LhsPanels<'_> {
    /// Words that panels for `rows` rows of A with `k` elements of K take, whatever the kernel.
    pub(crate) fn num_words<E: Word>(rows: usize, k: usize) -> usize {
        (rows + MAX_HEIGHT) * k.div_ceil(E::PER_WORD)
    }
}

/// Packs B = `source` (k, columns), row-major. With `column_sums`, adds the sum of each column to it, summed in f32 in
/// the order of the rows: a bias gradient for free.
pub(crate) fn pack_rhs_rows<'a, E: Word, T: Word>(
    cpu: &Cpu<E>,
    words: &'a mut [u32],
    source: &[T],
    k: usize,
    columns: usize,
    column_sums: Option<&mut [f32]>,
) -> Packed<'a> {
    let words = &mut words[..Packed::num_words::<E>(k, columns)];
    cpu.run(&[rhs_rows(cpu, words, source, k, columns, column_sums)]);
    Packed { words, k_words: k.div_ceil(E::PER_WORD), columns }
}

/// Packs A = transpose of `source` (k, rows), whose rows are `stride` apart, for the kernel of `cpu`.
pub(crate) fn pack_lhs_transposed<'a, E: Word, T: Word>(
    cpu: &Cpu<E>,
    words: &'a mut [u32],
    source: &[T],
    k: usize,
    rows: usize,
    stride: usize,
) -> LhsPanels<'a> {
    let words = &mut words[..LhsPanels::num_words::<E>(rows, k)];
    cpu.run(&[lhs_transposed(cpu, words, source, k, rows, stride, Unchanged)]);
    LhsPanels { words, k_words: k.div_ceil(E::PER_WORD) }
}

/// Packs both operands of a linear layer's dW = x^T dout, x (rows, inputs) and dout (rows, outputs): x, each element changed on
/// the way, as [`pack_lhs_transposed`] does, and dout as [`pack_rhs_rows`] does.
pub(crate) fn pack_for_gradient<'a, E: Word>(
    cpu: &Cpu<E>,
    (lhs, rhs): (&'a mut [u32], &'a mut [u32]),
    (x, change): (&[E], impl Change),
    dout: &[E],
    column_sums: Option<&mut [f32]>,
    [rows, inputs, outputs]: [usize; 3],
) -> (LhsPanels<'a>, Packed<'a>) {
    cpu.run(&[
        rhs_rows(cpu, rhs, dout, rows, outputs, column_sums),
        lhs_transposed(cpu, lhs, x, rows, inputs, inputs, change),
    ]);
    let k_words = rows.div_ceil(E::PER_WORD);
    (LhsPanels { words: lhs, k_words }, Packed { words: rhs, k_words, columns: outputs })
}

/// The work of [`pack_rhs_rows`].
fn rhs_rows<'a, E: Word, T: Word>(
    cpu: &'a Cpu<E>,
    words: &'a mut [u32],
    source: &'a [T],
    k: usize,
    columns: usize,
    column_sums: Option<&'a mut [f32]>,
) -> Work<'a> {
    /// Panels of a task at most: four cache lines of a row of bf16.
    const GROUP: usize = 4;
    let (k_words, num_panels) = (k.div_ceil(E::PER_WORD), columns.div_ceil(PANEL));
    let group = num_panels.div_ceil(4 * cpu.num_threads()).clamp(1, GROUP);
    let source = Source { elements: source, k, columns, stride: columns };
    source.check();
    let (out, sums) = (SharedMut::new(words), column_sums.map(SharedMut::new));
    Work {
        tasks: num_panels.div_ceil(group),
        small: 0,
        task: Box::new(move |task| {
            let panels = task * group..num_panels.min((task + 1) * group);
            let mut added = [[0.0; PANEL]; GROUP];
            let into = sums.is_some().then_some(&mut added[..]);
            let (first, steps) = (panels.start * PANEL, 0..k_words);
            cpu.isa().run(Interleave::<E, T, _, PANEL, PANEL, false> {
                out,
                source,
                k_words,
                offset: 0,
                panels,
                steps,
                sums: into,
                change: Unchanged,
                word: PhantomData,
            });
            if let Some(sums) = sums {
                // SAFETY: each task has its own columns of the sums.
                let sums = unsafe { sums.slice(first, (group * PANEL).min(columns - first)) };
                sums.iter_mut().zip(added.as_flattened()).for_each(|(sum, x)| *sum += x);
            }
        }),
    }
}

/// The work of [`pack_lhs_transposed`], each element changed on the way.
fn lhs_transposed<'a, E: Word, T: Word>(
    cpu: &'a Cpu<E>,
    words: &'a mut [u32],
    source: &'a [T],
    k: usize,
    rows: usize,
    stride: usize,
    change: impl Change + 'a,
) -> Work<'a> {
    /// Panels and words along K of a task: reads stretches of rows, writes stretches of panels, of kilobytes both.
    const GROUP: usize = 64;
    const STEPS: usize = 64;
    let (k_words, height) = (k.div_ceil(E::PER_WORD), E::kernel(cpu.isa()).height);
    let num_panels = rows.div_ceil(height);
    let source = Source { elements: source, k, columns: rows, stride };
    source.check();
    let out = SharedMut::new(words);
    let groups = num_panels.div_ceil(GROUP);
    Work {
        tasks: groups * k_words.div_ceil(STEPS),
        small: 0,
        task: Box::new(move |task| {
            let (panel, step) = (task % groups * GROUP, task / groups * STEPS);
            let (panels, steps) = (panel..num_panels.min(panel + GROUP), step..k_words.min(step + STEPS));
            match height {
                14 => panels_of::<E, T, 14, 16>(cpu, out, source, panels, steps, change),
                6 => panels_of::<E, T, 6, 8>(cpu, out, source, panels, steps, change),
                4 => panels_of::<E, T, 4, 4>(cpu, out, source, panels, steps, change),
                _ => unreachable!("no kernel has height {height}"),
            }
        }),
    }
}

/// A part of the panels of a left operand, for a kernel of height `W`.
fn panels_of<E: Word, T: Word, const W: usize, const V: usize>(
    cpu: &Cpu<E>,
    out: SharedMut<'_, u32>,
    source: Source<'_, T>,
    panels: Range<usize>,
    steps: Range<usize>,
    change: impl Change,
) {
    let word = PhantomData;
    cpu.isa().run(Interleave::<E, T, _, W, V, false> {
        out,
        source,
        k_words: source.k.div_ceil(E::PER_WORD),
        offset: 0,
        panels,
        steps,
        sums: None,
        change,
        word,
    });
}

/// Packs B = transpose of `source` (columns, k), row-major.
pub(crate) fn pack_rhs_columns<'a, E: Word, T: Word>(
    cpu: &Cpu<E>,
    words: &'a mut [u32],
    source: &[T],
    k: usize,
    columns: usize,
) -> Packed<'a> {
    assert!(source.len() >= k * columns, "source holds {} of {columns} x {k}", source.len());
    let k_words = k.div_ceil(E::PER_WORD);
    let size = k_words * PANEL;
    let words = &mut words[..Packed::num_words::<E>(k, columns)];
    let panels = SharedMut::new(words);
    cpu.parallel(columns.div_ceil(PANEL), |panel| {
        let first = panel * PANEL;
        // SAFETY: each task has its own panel.
        let out = unsafe { panels.slice(panel * size, size) };
        let rows = &source[first * k..(first + PANEL).min(columns) * k];
        cpu.isa().run(Transpose::<E, T, false> { out, rows, k, word: PhantomData });
    });
    Packed { words, k_words, columns }
}

/// A row-major (k, columns) matrix, whose rows are `stride` apart.
#[derive(Clone, Copy)]
struct Source<'a, T> {
    elements: &'a [T],
    k: usize,
    columns: usize,
    stride: usize,
}

impl<T: Word> Source<'_, T> {
    fn check(&self) {
        let Source { elements, k, columns, stride } = self;
        assert!(columns <= stride, "rows of {columns} elements, {stride} apart");
        let end = k.saturating_sub(1) * stride + columns;
        assert!(elements.len() >= end, "source holds {} of {k} x {columns}, {stride} apart", elements.len());
    }

    /// `V` elements of row `i` from column `first` on, zeros beyond the edges.
    #[inline(always)]
    fn padded<const V: usize>(&self, i: usize, first: usize) -> [T; V] {
        let mut out = [T::zeroed(); V];
        if i < self.k {
            let row = &self.elements[i * self.stride..][..self.columns];
            out.iter_mut().zip(&row[first.min(self.columns)..]).for_each(|(o, x)| *o = *x);
        }
        out
    }
}

/// Adds to the sums of columns the rows of a word, in their order.
#[inline(always)]
fn add_rows<E: Word, T: Word, const W: usize>(sums: &mut [f32; W], first: &[T], second: &[T]) {
    for (j, sum) in sums.iter_mut().enumerate() {
        *sum += first[j].to_f32();
        if E::PER_WORD == 2 {
            *sum += second[j].to_f32();
        }
    }
}

/// What becomes of elements while they are packed. Zero stays zero.
pub(crate) trait Change: Copy + Sync + Send {
    /// Of one element, before it is rounded.
    fn apply<S: Simd, T: Word>(self, x: T) -> f32;

    /// Of some.
    #[inline(always)]
    fn all<S: Simd, T: Word, const N: usize>(self, x: [T; N]) -> [T; N] {
        T::round::<S, N>(&lanes(|j| self.apply::<S, T>(x[j])))
    }
}

/// Nothing.
#[derive(Clone, Copy)]
pub(crate) struct Unchanged;

impl Change for Unchanged {
    #[inline(always)]
    fn apply<S: Simd, T: Word>(self, x: T) -> f32 {
        x.to_f32()
    }

    #[inline(always)]
    fn all<S: Simd, T: Word, const N: usize>(self, x: [T; N]) -> [T; N] {
        x
    }
}

/// Makes words `steps` of `panels`, `out[panel][k_words][W]`, by interleaving rows, and sums the columns.
///
/// `V` >= W is a number of lanes that the machine has: V words are written at once, and those too many are then
/// overwritten by the next step's. Some steps of one panel after another keep both sides in the first-level cache. `STREAMED`
/// writes whole lines past the caches.
struct Interleave<'a, E, T, C, const W: usize, const V: usize, const STREAMED: bool> {
    out: SharedMut<'a, u32>,
    source: Source<'a, T>,
    /// Words along K of a panel, and which of them is the source's first.
    k_words: usize,
    offset: usize,
    panels: Range<usize>,
    /// Words along K of the source.
    steps: Range<usize>,
    /// One row for each of the panels.
    sums: Option<&'a mut [[f32; W]]>,
    change: C,
    word: PhantomData<E>,
}

impl<E: Word, T: Word, C: Change, const W: usize, const V: usize, const STREAMED: bool> Task
    for Interleave<'_, E, T, C, W, V, STREAMED>
{
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self) {
        /// Words along K of one panel, then of the next: 16 rows of bf16.
        const STEPS: usize = 8;
        let Interleave { out, source, k_words, offset, panels, steps, mut sums, change, .. } = self;
        for start in steps.clone().step_by(STEPS) {
            let end = steps.end.min(start + STEPS);
            for (panel, place) in panels.clone().zip(0..) {
                let column = panel * W;
                let mut added = sums.as_ref().map_or([0.0; W], |sums| sums[place]);
                // Where V elements exist in every row, and V words may be written.
                let is_inside = column + V <= source.columns && end * E::PER_WORD <= source.k;
                let inner = match is_inside {
                    true => start..if V > W && end == steps.end { end - 1 } else { end },
                    false => start..start,
                };
                let at = |step: usize| (panel * k_words + offset + step) * W;
                if !inner.is_empty() {
                    let pair = E::PER_WORD * source.stride;
                    let rows = source.elements[start * pair + column..].chunks(pair);
                    // SAFETY: each task has its own steps of its own panels; what is too much is of the next step.
                    let out = unsafe { out.slice(at(start), (inner.len() - 1) * W + V) };
                    for (i, rows) in (0..inner.len()).zip(rows) {
                        let first: &[T; V] = rows.first_chunk().expect("a row is inside");
                        let second = &rows[(E::PER_WORD - 1) * source.stride..];
                        let second: &[T; V] = second.first_chunk().expect("a row is inside");
                        // As values, so that the compiler need not think of what else `out` may be.
                        let (first, second) = (change.all::<S, T, V>(*first), change.all::<S, T, V>(*second));
                        let words: &mut [u32; V] = out[i * W..].first_chunk_mut().expect("there is room");
                        let joined: [u32; V] = lanes(|j| E::join(first[j], second[j]));
                        match STREAMED {
                            true => {
                                let lines = words.as_chunks_mut().0.iter_mut().zip(joined.as_chunks().0);
                                lines.for_each(|(words, joined)| S::stream(words, joined));
                            }
                            false => *words = joined,
                        }
                        if sums.is_some() {
                            add_rows::<E, T, W>(&mut added, &first, &second);
                        }
                    }
                }
                for step in inner.end..end {
                    let row = step * E::PER_WORD;
                    let first: [T; W] = change.all::<S, T, W>(source.padded(row, column));
                    let second: [T; W] = change.all::<S, T, W>(source.padded(row + E::PER_WORD - 1, column));
                    // SAFETY: as above.
                    let out = unsafe { out.slice(at(step), W) };
                    out.iter_mut().enumerate().for_each(|(j, word)| *word = E::join(first[j], second[j]));
                    if sums.is_some() {
                        add_rows::<E, T, W>(&mut added, &first, &second);
                    }
                }
                if let Some(sums) = &mut sums {
                    sums[place] = added;
                }
            }
        }
    }
}

/// Makes one panel `out[k_words][32]` of up to 32 rows of `k` elements, a square of words at a time, `STREAMED` past the caches.
struct Transpose<'a, E, T, const STREAMED: bool> {
    out: &'a mut [u32],
    rows: &'a [T],
    k: usize,
    word: PhantomData<E>,
}

impl<E: Word, T: Word, const STREAMED: bool> Task for Transpose<'_, E, T, STREAMED> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self) {
        let num_rows = self.rows.len() / self.k.max(1);
        for word in (0..self.k.div_ceil(E::PER_WORD)).step_by(SIDE) {
            for first in (0..PANEL).step_by(SIDE) {
                let mut block = [[0; SIDE]; SIDE];
                for (i, words) in block.iter_mut().enumerate().take(num_rows.saturating_sub(first)) {
                    *words = words_of::<E, T>(&self.rows[(first + i) * self.k..][..self.k], word);
                }
                let columns = S::transpose(&block);
                for (column, out) in columns.iter().zip(self.out[word * PANEL..].chunks_exact_mut(PANEL)) {
                    let out = out[first..].first_chunk_mut().expect("a square is inside a panel");
                    match STREAMED {
                        true => S::stream(out, column),
                        false => *out = *column,
                    }
                }
            }
        }
    }
}

/// Words and rows of the squares that [`Simd::transpose`] turns.
pub(crate) const SIDE: usize = 16;

/// Words of a row from word `first` on, zeros beyond its end.
#[inline(always)]
pub(crate) fn words_of<E: Word, T: Word>(row: &[T], first: usize) -> [u32; SIDE] {
    let row = &row[first * E::PER_WORD..];
    if row.len() >= SIDE * E::PER_WORD {
        let row = &row[..SIDE * E::PER_WORD];
        return lanes(|i| E::join(row[i * E::PER_WORD], row[i * E::PER_WORD + E::PER_WORD - 1]));
    }
    let at = |i: usize| row.get(i).copied().unwrap_or(T::zeroed());
    lanes(|i| E::join(at(i * E::PER_WORD), at(i * E::PER_WORD + E::PER_WORD - 1)))
}
