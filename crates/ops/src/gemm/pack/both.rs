//! Weights, packed in both directions at once, and rounded by chance on the way where that is asked for.

use super::{Interleave, Packed, Source, Transpose, Unchanged};
use crate::cpu::{Cpu, SharedMut, fence};
use crate::element::Bf16;
use crate::gemm::{PANEL, Word};
use crate::rounding::RoundStochastically;
use std::marker::PhantomData;
use std::ops::Range;

/// Packs `source` (rows, columns), row-major, in both directions: as [`pack_rhs_rows`](super::pack_rhs_rows) into `by_rows`,
/// and as [`pack_rhs_columns`](super::pack_rhs_columns) into `by_columns`. A task reads 32 rows from memory once, and writes past
/// the caches: this is for weights, of which there are more than caches hold.
pub(crate) fn pack_rhs_both<E: Word, T: Word>(
    cpu: &Cpu<E>,
    by_rows: &mut [u32],
    by_columns: &mut [u32],
    source: &[T],
    rows: usize,
    columns: usize,
) {
    let both = Both::new::<E, T>(by_rows, by_columns, source, rows, columns);
    cpu.parallel(rows.div_ceil(PANEL), |task| both.pack(cpu, task, &source[both.elements(task)]));
}

/// The same of `source` rounded to bf16 by chance under `key`, 32 rows at a time, which a core's cache keeps meanwhile.
pub(crate) fn pack_rhs_both_by_chance<E: Word>(
    cpu: &Cpu<E>,
    by_rows: &mut [u32],
    by_columns: &mut [u32],
    source: &[f32],
    rows: usize,
    columns: usize,
    key: u64,
) {
    let both = Both::new::<E, f32>(by_rows, by_columns, source, rows, columns);
    cpu.parallel(rows.div_ceil(PANEL), |task| {
        let elements = both.elements(task);
        cpu.with_scratch(elements.len().div_ceil(2), |words| {
            let out: &mut [Bf16] = &mut bytemuck::cast_slice_mut(words)[..elements.len()];
            let (values, start) = (&source[elements.clone()], elements.start);
            cpu.isa().run(RoundStochastically { out: &mut *out, values, key, start });
            both.pack(cpu, task, out);
        });
    });
}

/// Where a matrix (rows, columns) is packed in both directions, 32 rows a task.
struct Both<'a> {
    by_rows: SharedMut<'a, u32>,
    by_columns: SharedMut<'a, u32>,
    rows: usize,
    columns: usize,
}

impl<'a> Both<'a> {
    fn new<E: Word, T: Word>(
        by_rows: &'a mut [u32],
        by_columns: &'a mut [u32],
        source: &[T],
        rows: usize,
        columns: usize,
    ) -> Self {
        Source { elements: source, k: rows, columns, stride: columns }.check();
        let by_rows = SharedMut::new(&mut by_rows[..Packed::num_words::<E>(rows, columns)]);
        let by_columns = SharedMut::new(&mut by_columns[..Packed::num_words::<E>(columns, rows)]);
        Both { by_rows, by_columns, rows, columns }
    }

    /// Where the rows of a task are in the matrix.
    fn elements(&self, task: usize) -> Range<usize> {
        task * PANEL * self.columns..self.rows.min((task + 1) * PANEL) * self.columns
    }

    /// Packs the rows of a task.
    fn pack<E: Word, T: Word>(&self, cpu: &Cpu<E>, task: usize, rows: &[T]) {
        let columns = self.columns;
        let k = self.rows.min((task + 1) * PANEL) - task * PANEL;
        cpu.isa().run(Interleave::<E, T, _, PANEL, PANEL, true> {
            out: self.by_rows,
            source: Source { elements: rows, k, columns, stride: columns },
            k_words: self.rows.div_ceil(E::PER_WORD),
            offset: task * PANEL / E::PER_WORD,
            panels: 0..columns.div_ceil(PANEL),
            steps: 0..k.div_ceil(E::PER_WORD),
            sums: None,
            change: Unchanged,
            word: PhantomData,
        });
        let size = columns.div_ceil(E::PER_WORD) * PANEL;
        // SAFETY: each task has its own panel.
        let out = unsafe { self.by_columns.slice(task * size, size) };
        cpu.isa().run(Transpose::<E, T, true> { out, rows, k: columns, word: PhantomData });
        fence();
    }
}
