//! What follows a matrix product on the CPU, on tiles that are still in the first-level cache.

use crate::cpu::{SharedMut, Simd, math};
use crate::gemm::{Epilogue, PANEL, Tile, Word, narrow, padded, store};
use crate::random::Dropout;
use std::ops::Range;

/// A row-major matrix that tiles are written to.
#[derive(Clone, Copy)]
pub(crate) struct Matrix<'a, T> {
    elements: SharedMut<'a, T>,
    columns: usize,
}

impl<'a, T> Matrix<'a, T> {
    /// The first rows x columns elements of `elements`.
    pub(crate) fn new(elements: &'a mut [T], rows: usize, columns: usize) -> Self {
        assert!(elements.len() >= rows * columns, "a buffer of {} for {rows} x {columns}", elements.len());
        Matrix { elements: SharedMut::new(&mut elements[..rows * columns]), columns }
    }

    /// Asks for the memory of a tile's rows.
    #[inline(always)]
    pub(crate) fn prefetch(&self, rows: Range<usize>, col: usize) {
        rows.for_each(|row| self.elements.prefetch(row * self.columns + col, PANEL));
    }

    /// Element index of the start of row `i` of `tile`.
    #[inline(always)]
    pub(crate) fn index(&self, tile: &Tile<'_>, i: usize) -> usize {
        (tile.row + i) * self.columns + tile.col
    }

    /// Row `i` of `tile`.
    #[expect(clippy::mut_from_ref, reason = "tiles do not overlap, so neither do their rows")]
    #[inline(always)]
    pub(crate) fn row(&self, tile: &Tile<'_>, i: usize) -> &mut [T] {
        // SAFETY: tiles do not overlap, and one task handles a tile.
        unsafe { self.elements.slice(self.index(tile, i), tile.cols) }
    }
}

/// out = C.
pub(crate) struct Store<'a, T> {
    pub(crate) out: Matrix<'a, T>,
}

impl<T: Word> Epilogue for Store<'_, T> {
    #[inline(always)]
    fn prefetch(&self, rows: Range<usize>, col: usize) {
        self.out.prefetch(rows, col);
    }

    #[inline(always)]
    fn tile<S: Simd>(&self, tile: &Tile<'_>) {
        for (i, values) in tile.values.iter().enumerate() {
            store(self.out.row(tile, i), &narrow::<S, T, PANEL>(|j| values[j]));
        }
    }
}

/// out += C.
pub(crate) struct AddTo<'a> {
    pub(crate) out: Matrix<'a, f32>,
}

impl Epilogue for AddTo<'_> {
    #[inline(always)]
    fn prefetch(&self, rows: Range<usize>, col: usize) {
        self.out.prefetch(rows, col);
    }

    #[inline(always)]
    fn tile<S: Simd>(&self, tile: &Tile<'_>) {
        for (i, values) in tile.values.iter().enumerate() {
            for (o, x) in self.out.row(tile, i).iter_mut().zip(values) {
                *o += x;
            }
        }
    }
}

/// out = C + bias.
pub(super) struct StoreBias<'a, E> {
    pub(super) out: Matrix<'a, E>,
    pub(super) bias: &'a [f32],
}

impl<E: Word> Epilogue for StoreBias<'_, E> {
    #[inline(always)]
    fn prefetch(&self, rows: Range<usize>, col: usize) {
        self.out.prefetch(rows, col);
    }

    #[inline(always)]
    fn tile<S: Simd>(&self, tile: &Tile<'_>) {
        let bias: [f32; PANEL] = padded(&self.bias[tile.col..]);
        for (i, values) in tile.values.iter().enumerate() {
            store(self.out.row(tile, i), &narrow::<S, E, PANEL>(|j| values[j] + bias[j]));
        }
    }
}

/// pre = C + bias; out = gelu(pre).
pub(super) struct StoreGelu<'a, E> {
    pub(super) pre: Matrix<'a, E>,
    pub(super) out: Matrix<'a, E>,
    pub(super) bias: &'a [f32],
}

impl<E: Word> Epilogue for StoreGelu<'_, E> {
    #[inline(always)]
    fn tile<S: Simd>(&self, tile: &Tile<'_>) {
        let bias: [f32; PANEL] = padded(&self.bias[tile.col..]);
        for (i, values) in tile.values.iter().enumerate() {
            // The activation of what is stored, so that backward sees the same point.
            let pre = narrow::<S, E, PANEL>(|j| values[j] + bias[j]);
            store(self.pre.row(tile, i), &pre);
            store(self.out.row(tile, i), &narrow::<S, E, PANEL>(|j| math::gelu::<S>(pre[j].to_f32())));
        }
    }
}

/// out = residual + dropout(C + bias).
pub(super) struct StoreResidual<'a, E> {
    pub(super) out: Matrix<'a, E>,
    pub(super) residual: &'a [E],
    pub(super) bias: &'a [f32],
    pub(super) dropout: Dropout,
}

impl<E: Word> Epilogue for StoreResidual<'_, E> {
    #[inline(always)]
    fn prefetch(&self, rows: Range<usize>, col: usize) {
        self.out.prefetch(rows, col);
    }

    #[inline(always)]
    fn tile<S: Simd>(&self, tile: &Tile<'_>) {
        let bias: [f32; PANEL] = padded(&self.bias[tile.col..]);
        for (i, values) in tile.values.iter().enumerate() {
            let start = self.out.index(tile, i);
            let residual: [E; PANEL] = padded(&self.residual[start..][..tile.cols]);
            let out = if self.dropout.is_active() {
                narrow::<S, E, PANEL>(|j| {
                    residual[j].to_f32() + self.dropout.factor((start + j) as u32) * (values[j] + bias[j])
                })
            } else {
                narrow::<S, E, PANEL>(|j| residual[j].to_f32() + (values[j] + bias[j]))
            };
            store(self.out.row(tile, i), &out);
        }
    }
}

/// out = C gelu'(pre).
pub(super) struct StoreGeluGrad<'a, E> {
    pub(super) out: Matrix<'a, E>,
    pub(super) pre: &'a [E],
}

impl<E: Word> Epilogue for StoreGeluGrad<'_, E> {
    #[inline(always)]
    fn prefetch(&self, rows: Range<usize>, col: usize) {
        self.out.prefetch(rows, col);
    }

    #[inline(always)]
    fn tile<S: Simd>(&self, tile: &Tile<'_>) {
        for (i, values) in tile.values.iter().enumerate() {
            let pre: [E; PANEL] = padded(&self.pre[self.out.index(tile, i)..][..tile.cols]);
            let out = narrow::<S, E, PANEL>(|j| values[j] * math::gelu_grad::<S>(pre[j].to_f32()));
            store(self.out.row(tile, i), &out);
        }
    }
}
