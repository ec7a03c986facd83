//! Tiles of attention: how rows of a head are packed for the micro-kernels, and how tiles are multiplied and stored.

use crate::cpu::math::lanes;
use crate::cpu::{Cpu, SharedMut, Simd, prefetch};
use crate::gemm::{Kernel, PANEL, SIDE, Strided, Word, narrow, padded, store, words_of};
use std::marker::PhantomData;
use std::ops::Range;

/// Keys of a tile: two panels.
pub(super) const KEYS: usize = 64;
/// Kernel heights in a tile of queries.
pub(super) const HEIGHTS: usize = 4;

/// Rows of one head, `stride` elements apart.
#[derive(Clone, Copy)]
pub(super) struct Rows<'a, E> {
    pub(super) elements: &'a [E],
    pub(super) stride: usize,
    pub(super) head_size: usize,
}

impl<'a, E: Word> Rows<'a, E> {
    #[inline(always)]
    pub(super) fn row(&self, i: usize) -> &'a [E] {
        &self.elements[i * self.stride..][..self.head_size]
    }

    /// Asks for row `i`, if there is one.
    #[inline(always)]
    fn prefetch(&self, i: usize) {
        if let Some(row) = self.elements.get(i * self.stride..) {
            prefetch(&row[..row.len().min(self.head_size)]);
        }
    }
}

/// What the next task will read. Rows of a head are kilobytes apart, which the hardware cannot foresee, so that a task asks for
/// a row of the next one with each of its own.
#[derive(Clone, Copy)]
pub(super) struct Ahead<'a, E, const N: usize>(pub(super) Option<[Rows<'a, E>; N]>);

impl<E: Word, const N: usize> Ahead<'_, E, N> {
    #[inline(always)]
    pub(super) fn prefetch(&self, i: usize) {
        if let Some(all) = &self.0 {
            all.iter().for_each(|rows| rows.prefetch(i));
        }
    }
}

/// Rows of one head of an output that tasks share.
#[derive(Clone, Copy)]
pub(super) struct RowsMut<'a, E> {
    pub(super) elements: SharedMut<'a, E>,
    pub(super) start: usize,
    pub(super) stride: usize,
}

/// The first key that each query sees, which does not descend along a row; 0 for all where there are none.
#[derive(Clone, Copy)]
pub(super) struct Starts<'a>(Option<&'a [u32]>);

impl<'a> Starts<'a> {
    pub(super) const NONE: Self = Starts(None);

    /// Those of rows of `time` queries. Panics if a query would see nothing, or something before what the last one sees.
    pub(super) fn new(starts: Option<&'a [u32]>, time: usize) -> Self {
        for (b, row) in starts.iter().flat_map(|starts| starts.chunks_exact(time)).enumerate() {
            let is_past = |(i, &start): (usize, &u32)| start as usize > i;
            assert!(row.is_sorted(), "starts of row {b} descend");
            assert!(!row.iter().enumerate().any(is_past), "a start of row {b} is past its query");
        }
        Starts(starts)
    }

    /// Those of row `b`.
    pub(super) fn row(&self, b: usize, time: usize) -> Self {
        Starts(self.0.map(|starts| &starts[b * time..][..time]))
    }

    /// The first key that query `i` sees.
    #[inline(always)]
    pub(super) fn of(&self, i: usize) -> usize {
        self.0.map_or(0, |starts| starts[i] as usize)
    }

    /// How many of a row's `time` queries may see a key before `key`: those that follow start there or later.
    #[inline(always)]
    pub(super) fn num_before(&self, key: usize, time: usize) -> usize {
        self.0.map_or(time, |starts| starts.partition_point(|&start| (start as usize) < key))
    }

    /// The keys that query `i`, at `position`, sees of the tile that begins at `key`.
    #[inline(always)]
    pub(super) fn seen(&self, i: usize, position: usize, key: usize) -> Range<usize> {
        let end = (position + 1).saturating_sub(key).min(KEYS);
        self.of(i).saturating_sub(key).min(end)..end
    }
}

/// The sizes of tiles, and the kernel that multiplies them.
#[derive(Clone, Copy)]
pub(super) struct Tiles<E> {
    pub(super) kernel: Kernel,
    /// Queries of a tile.
    pub(super) queries: usize,
    pub(super) head_size: usize,
    /// Words of a row of a head.
    pub(super) words: usize,
    /// Panels that hold a row of a head.
    pub(super) panels: usize,
    pub(super) element: PhantomData<E>,
}

impl<E: Word> Tiles<E> {
    pub(super) fn new(cpu: &Cpu<E>, head_size: usize) -> Self {
        let kernel = E::kernel(cpu.isa());
        Tiles {
            kernel,
            queries: HEIGHTS * kernel.height,
            head_size,
            words: head_size.div_ceil(E::PER_WORD),
            panels: head_size.div_ceil(PANEL),
            element: PhantomData,
        }
    }

    /// Words of scratch that [`multiply`](Self::multiply) takes.
    pub(super) fn wide_words(&self) -> usize {
        self.kernel.wide_words(self.words.max(KEYS.max(self.queries) / E::PER_WORD))
    }

    /// Words of scratch: k^T of all keys, v of all keys; q, p; scores, out; rows that are multiplied.
    pub(super) fn forward_scratch(&self, num_keys: usize) -> usize {
        let key_tiles = num_keys.div_ceil(KEYS);
        key_tiles * (self.transposed() + self.interleaved(KEYS))
            + self.queries * (self.words + KEYS / E::PER_WORD + KEYS + self.wide())
            + self.wide_words()
    }

    /// Words of scratch: dq of all queries, delta; k^T, v^T, k; dk, dv; rows and panels of q and dout; p and ds as
    /// scores, transposed, and ds as rows; rows that are multiplied.
    pub(super) fn backward_scratch(&self, time: usize) -> usize {
        let padded = time.next_multiple_of(self.queries);
        padded * self.wide()
            + time
            + 2 * self.transposed()
            + self.interleaved(KEYS)
            + 2 * KEYS * self.wide()
            + padded / self.queries * 2 * (self.queries * self.words + self.interleaved(self.queries))
            + 2 * self.queries * KEYS
            + 3 * self.queries * KEYS / E::PER_WORD
            + self.wide_words()
    }

    /// Words of a tile of keys packed with the head size along K.
    pub(super) fn transposed(&self) -> usize {
        KEYS * self.words
    }

    /// Words of `rows` rows of a head packed with the rows along K.
    pub(super) fn interleaved(&self, rows: usize) -> usize {
        rows / E::PER_WORD * self.wide()
    }

    /// Columns of a row of a head in panels.
    pub(super) fn wide(&self) -> usize {
        self.panels * PANEL
    }

    /// Packs rows `first .. first + count` as words along the head size: `out[row][words]`, zeros in rows beyond.
    #[inline(always)]
    pub(super) fn pack_rows(&self, out: &mut [u32], rows: Rows<'_, E>, first: usize, count: usize) {
        for (i, out) in out.chunks_exact_mut(self.words).enumerate() {
            if i >= count {
                out.fill(0);
                continue;
            }
            let elements: &mut [E] = bytemuck::cast_slice_mut(out);
            let (filled, padding) = elements.split_at_mut(self.head_size);
            filled.copy_from_slice(rows.row(first + i));
            padding.fill(E::zeroed());
        }
    }

    /// Packs rows `first .. first + count` as panels with the head size along K: `out[panel][word][32 rows]`.
    #[inline(always)]
    pub(super) fn pack_transposed<S: Simd>(
        &self,
        out: &mut [u32],
        rows: Rows<'_, E>,
        first: usize,
        count: usize,
    ) {
        for at in (0..KEYS).step_by(SIDE) {
            let panel = &mut out[at / PANEL * self.words * PANEL..][..self.words * PANEL];
            for word in (0..self.words).step_by(SIDE) {
                let mut block = [[0; SIDE]; SIDE];
                for (i, line) in block.iter_mut().enumerate().take(count.saturating_sub(at)) {
                    *line = words_of::<E, E>(rows.row(first + at + i), word);
                }
                let columns = S::transpose(&block);
                for (column, out) in columns.iter().zip(panel[word * PANEL..].chunks_exact_mut(PANEL)) {
                    out[at % PANEL..][..SIDE].copy_from_slice(column);
                }
            }
        }
    }

    /// Packs rows `first .. first + count` of a tile of `size` as panels with the rows along K:
    /// `out[panel][word][32 columns]`.
    #[inline(always)]
    pub(super) fn pack_interleaved(
        &self,
        out: &mut [u32],
        rows: Rows<'_, E>,
        first: usize,
        count: usize,
        size: usize,
    ) {
        let steps = size / E::PER_WORD;
        for (panel, out) in out.chunks_exact_mut(steps * PANEL).enumerate() {
            for (step, words) in out.as_chunks_mut::<PANEL>().0.iter_mut().enumerate() {
                let row = |i: usize| match i < count {
                    true => padded(&rows.row(first + i)[panel * PANEL..]),
                    false => [E::zeroed(); PANEL],
                };
                let at = step * E::PER_WORD;
                let (one, two): ([E; PANEL], [E; PANEL]) = (row(at), row(at + E::PER_WORD - 1));
                *words = lanes(|j| E::join(one[j], two[j]));
            }
        }
    }

    /// `c[panel][row][32]` = a b for `rows` rows of A and every panel of B, which has `k` words along K. With `add`, adds
    /// to c. Of the words, `span(strip, column)` are multiplied for rows `strip` and the columns from `column` on: where it
    /// is empty, c is left as it is. `wide` is memory of [`Tiles::wide_words`].
    #[inline(always)]
    pub(super) fn multiply(
        &self,
        wide: &mut [u32],
        c: &mut [f32],
        c_rows: usize,
        a: Left<'_>,
        b: &[u32],
        rows: usize,
        k: usize,
        add: bool,
        span: impl Fn(Range<usize>, usize) -> Range<usize>,
    ) {
        let Left { words, row_step, k_step } = a;
        assert!(words.len() > (rows - 1) * row_step + (k - 1) * k_step, "A is too short");
        for row in (0..rows).step_by(self.kernel.height) {
            let height = self.kernel.height.min(rows - row);
            let words = words[row * row_step..].as_ptr();
            let a = Strided { words, row: 4 * row_step, step: 4 * k_step, next: words, next_step: 0 };
            // SAFETY: A reaches its last word (asserted above); the instruction set is that of the device that made the kernel.
            let a = unsafe { self.kernel.widen(height, k, a, wide) };
            let panels = c.chunks_exact_mut(c_rows * PANEL).zip(b.chunks_exact(k * PANEL));
            for (panel, (c, b)) in panels.enumerate() {
                let span = span(row..row + height, panel * PANEL);
                if span.is_empty() {
                    continue;
                }
                let c = &mut c[row * PANEL..][..height * PANEL];
                let b = &b[span.start * PANEL..span.end * PANEL];
                // SAFETY: as above; a panel of B has a span's words x 32 (just cut), c room for `height` rows.
                unsafe {
                    let a = a.from(span.start);
                    self.kernel.run(height, span.len(), a, b.as_ptr(), c.as_mut_ptr(), add);
                }
            }
        }
    }

    /// Writes rows of `c[panel][row][32]` to rows `first ..` of an output, `factor(row)` times.
    #[inline(always)]
    pub(super) fn store<S: Simd>(
        &self,
        out: RowsMut<'_, E>,
        c: &[f32],
        c_rows: usize,
        first: usize,
        count: usize,
        factor: impl Fn(usize) -> f32,
    ) {
        for (panel, c) in c.chunks_exact(c_rows * PANEL).enumerate() {
            let column = panel * PANEL;
            let columns = PANEL.min(self.head_size - column);
            for (i, c) in c.as_chunks::<PANEL>().0.iter().take(count).enumerate() {
                // SAFETY: a head's columns of its rows belong to one task.
                let row =
                    unsafe { out.elements.slice(out.start + (first + i) * out.stride + column, columns) };
                let factor = factor(i);
                store(row, &narrow::<S, E, PANEL>(|j| factor * c[j]));
            }
        }
    }
}

/// A left operand: words, and the steps between rows and along K, in words.
#[derive(Clone, Copy)]
pub(super) struct Left<'a> {
    pub(super) words: &'a [u32],
    pub(super) row_step: usize,
    pub(super) k_step: usize,
}

/// Cuts the next `len` words off `scratch`.
#[inline(always)]
pub(super) fn cut<'a>(scratch: &mut &'a mut [u32], len: usize) -> &'a mut [u32] {
    let (piece, rest) = std::mem::take(scratch).split_at_mut(len);
    *scratch = rest;
    piece
}

/// Cuts the next `len` floats off `scratch`.
#[inline(always)]
pub(super) fn cut_floats<'a>(scratch: &mut &'a mut [u32], len: usize) -> &'a mut [f32] {
    bytemuck::cast_slice_mut(cut(scratch, len))
}

/// Lanes in which a row of scores is worked on.
pub(super) const CHUNK: usize = 16;

/// Lanes `chunk * 16 ..` of row `i` of `scores[panel][row][32]`.
#[inline(always)]
pub(super) fn scores_of(scores: &[f32], rows: usize, i: usize, chunk: usize) -> [f32; CHUNK] {
    let at = (chunk * CHUNK / PANEL * rows + i) * PANEL + chunk * CHUNK % PANEL;
    *scores[at..].first_chunk().expect("a tile of scores is whole")
}

/// Sets the lanes of a chunk that are not among the keys `seen` of a tile.
#[inline(always)]
pub(super) fn mask(values: &mut [f32; CHUNK], seen: &Range<usize>, chunk: usize, to: f32) {
    let (start, len) = (seen.start as u32, seen.len() as u32);
    if seen.start <= chunk * CHUNK && (chunk + 1) * CHUNK <= seen.end {
        return;
    }
    for (j, value) in values.iter_mut().enumerate() {
        let is_seen = ((chunk * CHUNK + j) as u32).wrapping_sub(start) < len;
        *value = if is_seen { *value } else { to };
    }
}

/// Writes lanes `chunk * 16 ..` of a row as words, which lie in memory as the elements do.
#[inline(always)]
pub(super) fn store_chunk<S: Simd, E: Word>(out: &mut [u32], chunk: usize, values: &[f32; CHUNK]) {
    let words = CHUNK / E::PER_WORD;
    let elements: &mut [E] = bytemuck::cast_slice_mut(&mut out[chunk * words..][..words]);
    let out: &mut [E; CHUNK] = elements.first_chunk_mut().expect("a chunk is whole");
    *out = E::round::<S, CHUNK>(values);
}
