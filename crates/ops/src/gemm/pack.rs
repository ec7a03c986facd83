//! Packing: the layouts that the kernels read, made from row-major matrices.
//!
//! With K along the rows of the source, a word is two elements of one column in neighbouring rows; with K along its
//! columns, a word is two neighbouring elements of a row. Missing columns and the missing half of a last word are zero.

use super::{MAX_HEIGHT, PANEL, Word};
use crate::cpu::{Cpu, SharedMut, Simd, Task};
use crate::element::Element;
use std::marker::PhantomData;

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
pub(crate) fn pack_rhs_rows<'a, E: Word, T: Element>(
    cpu: &Cpu<E>,
    words: &'a mut [u32],
    source: &[T],
    k: usize,
    columns: usize,
    column_sums: Option<&mut [f32]>,
) -> Packed<'a> {
    assert!(source.len() >= k * columns, "source holds {} of {k} x {columns}", source.len());
    let k_words = k.div_ceil(E::PER_WORD);
    let words = &mut words[..Packed::num_words::<E>(k, columns)];
    let mut no_sums = [];
    let with_sums = column_sums.is_some();
    let sums = SharedMut::new(column_sums.unwrap_or(&mut no_sums));
    let panels = SharedMut::new(words);
    cpu.parallel(columns.div_ceil(PANEL), |panel| {
        let (first, size) = (panel * PANEL, k_words * PANEL);
        let cols = PANEL.min(columns - first);
        // SAFETY: each task has its own panel, and its own columns of the sums.
        let out = unsafe { panels.slice(panel * size, size) };
        let mut added = [0.0; PANEL];
        let sums_of = with_sums.then_some(&mut added);
        let piece = Piece { source, k, columns, first, cols };
        cpu.isa().run(Interleave::<E, T, PANEL> { out, piece, sums: sums_of, word: PhantomData });
        if with_sums {
            // SAFETY: as above.
            let sums = unsafe { sums.slice(first, cols) };
            sums.iter_mut().zip(added).for_each(|(sum, x)| *sum += x);
        }
    });
    Packed { words, k_words, columns }
}

/// Packs A = transpose of `source` (k, rows), row-major, for the kernel of `cpu`.
pub(crate) fn pack_lhs_transposed<'a, E: Word, T: Element>(
    cpu: &Cpu<E>,
    words: &'a mut [u32],
    source: &[T],
    k: usize,
    rows: usize,
) -> LhsPanels<'a> {
    assert!(source.len() >= k * rows, "source holds {} of {k} x {rows}", source.len());
    let (k_words, height) = (k.div_ceil(E::PER_WORD), E::kernel(cpu.isa()).height);
    let (size, num_panels) = (k_words * height, rows.div_ceil(height));
    let words = &mut words[..num_panels * size];
    let panels = SharedMut::new(words);
    cpu.parallel(num_panels, |panel| {
        let first = panel * height;
        // SAFETY: each task has its own panel.
        let out = unsafe { panels.slice(panel * size, size) };
        let piece = Piece { source, k, columns: rows, first, cols: height.min(rows - first) };
        match height {
            14 => {
                cpu.isa().run(Interleave::<E, T, 14> { out, piece, sums: None, word: PhantomData });
            }
            6 => cpu.isa().run(Interleave::<E, T, 6> { out, piece, sums: None, word: PhantomData }),
            4 => cpu.isa().run(Interleave::<E, T, 4> { out, piece, sums: None, word: PhantomData }),
            _ => unreachable!("no kernel has height {height}"),
        }
    });
    LhsPanels { words, k_words }
}

/// Packs B = transpose of `source` (columns, k), row-major.
pub(crate) fn pack_rhs_columns<'a, E: Word, T: Element>(
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
        cpu.isa().run(Transpose::<E, T> { out, rows, k, word: PhantomData });
    });
    Packed { words, k_words, columns }
}

/// Columns `first .. first + cols` of a row-major (k, columns) matrix.
struct Piece<'a, T> {
    source: &'a [T],
    k: usize,
    columns: usize,
    first: usize,
    cols: usize,
}

impl<T: Element> Piece<'_, T> {
    /// Row `i`, zeros beyond the edges.
    #[inline(always)]
    fn row<const W: usize>(&self, i: usize) -> [T; W] {
        let mut out = [T::zeroed(); W];
        if i < self.k {
            let row = &self.source[i * self.columns + self.first..][..self.cols];
            if let Ok(full) = <&[T; W]>::try_from(row) {
                out = *full;
            } else {
                out[..row.len()].copy_from_slice(row);
            }
        }
        out
    }
}

/// Makes one panel `out[k_words][W]` by interleaving rows, and sums the columns.
struct Interleave<'a, E, T, const W: usize> {
    out: &'a mut [u32],
    piece: Piece<'a, T>,
    sums: Option<&'a mut [f32; W]>,
    word: PhantomData<E>,
}

impl<E: Word, T: Element, const W: usize> Task for Interleave<'_, E, T, W> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self) {
        let mut sums = [0.0; W];
        for (i, words) in self.out.as_chunks_mut::<W>().0.iter_mut().enumerate() {
            let first: [T; W] = self.piece.row(i * E::PER_WORD);
            let second: [T; W] = if E::PER_WORD == 2 { self.piece.row(2 * i + 1) } else { [T::zeroed(); W] };
            for j in 0..W {
                words[j] = E::join(first[j], second[j]);
            }
            if self.sums.is_some() {
                for j in 0..W {
                    sums[j] += first[j].to_f32();
                    sums[j] += second[j].to_f32();
                }
            }
        }
        if let Some(out) = self.sums {
            *out = sums;
        }
    }
}

/// Makes one panel `out[k_words][32]` of up to 32 rows of `k` elements, sixteen words of K at a time.
struct Transpose<'a, E, T> {
    out: &'a mut [u32],
    rows: &'a [T],
    k: usize,
    word: PhantomData<E>,
}

impl<E: Word, T: Element> Task for Transpose<'_, E, T> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self) {
        const STEP: usize = 16;
        let k_words = self.k.div_ceil(E::PER_WORD);
        for start in (0..k_words).step_by(STEP) {
            let steps = STEP.min(k_words - start);
            // Words of 16 steps for each row, then written transposed; both sides stay in the first-level cache.
            let mut block = [[0u32; STEP]; PANEL];
            for (words, row) in block.iter_mut().zip(self.rows.chunks_exact(self.k)) {
                let elements = &row[start * E::PER_WORD..self.k.min((start + steps) * E::PER_WORD)];
                let mut padded = [T::zeroed(); 2 * STEP];
                padded[..elements.len()].copy_from_slice(elements);
                for (i, word) in words.iter_mut().enumerate() {
                    let at = i * E::PER_WORD;
                    *word = E::join(padded[at], padded[at + E::PER_WORD - 1]);
                }
            }
            for (i, out) in self.out[start * PANEL..].chunks_exact_mut(PANEL).take(steps).enumerate() {
                for (o, words) in out.iter_mut().zip(&block) {
                    *o = words[i];
                }
            }
        }
    }
}
