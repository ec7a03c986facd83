//! Muon on a GPU: Newton-Schulz as products of cuBLASLt.

use super::{COEFFICIENTS, Muon, MuonDims, MuonStep, NORM_EPSILON, STEPS};
use crate::cuda::{CudaBuf, CudaElement, Kind, Operands, Product, ScratchMemory, Shape, Source, arguments};
use crate::{Buffer, Cuda};

pub(crate) const SOURCE: Source = Source {
    name: "muon",
    files: &[include_str!("cuda.cu")],
    kernels: &["muon_momentum", "muon_piece", "muon_start", "muon_mix", "muon_step", "muon_apply"],
};

/// The parts of the scratch memory.
struct Scratch<'a> {
    /// Holds the memory.
    _memory: ScratchMemory<'a>,
    update: u64,  // f32 (rows, cols)
    piece: u64,   // f32 (m, n)
    partial: u64, // f64
    x: u64,       // E (m, n)
    square: u64,  // E (m, m)
    fourth: u64,  // E (m, m)
}

impl<E: CudaElement> Cuda<E> {
    fn muon_scratch(&self, dims: MuonDims) -> Scratch<'_> {
        let (rows, width) = (dims.rows, dims.cols / dims.pieces);
        let (element, m) = (size_of::<E>(), rows.min(width));
        let sizes = [
            4 * rows * dims.cols,
            4 * rows * width,
            8 * (rows * width).div_ceil(1 << 15),
            element * rows * width,
            element * m * m,
            element * m * m,
        ];
        let mut offsets = [0; 6];
        let mut total = 0;
        for (offset, size) in offsets.iter_mut().zip(sizes) {
            *offset = total;
            total += size.next_multiple_of(256);
        }
        let memory = self.context.scratch(total);
        let [update, piece, partial, x, square, fourth] = offsets.map(|offset| memory.at(offset));
        Scratch { _memory: memory, update, piece, partial, x, square, fourth }
    }

    /// X = a X + (b A + c A A) X, A = X X^T, with X (m, n).
    fn newton_schulz(&self, s: &Scratch<'_>, m: usize, n: usize) {
        let [a, b, c] = COEFFICIENTS;
        // Row-major X (m, n) is cuBLASLt's (n, m), so A = X X^T is op(X) X of it; A is its own transpose.
        let square = Product::new(Self::KIND, m, m, m);
        let run = |product, d, a, b| self.product(product, Operands { d, c: 0, a, b, bias: 0, aux: 0 });
        run(Product { k: n, transpose_a: true, ..square }, s.square, s.x, s.x);
        run(square, s.fourth, s.square, s.square);
        self.launch("muon_mix", Shape::each(m * m), arguments![s.square, s.fourth, m * m, b, c]);
        // (B X)^T = X^T B^T, and B is its own transpose. The piece's place is free for the f32 result.
        let push = Product { output: Kind::F32, ..Product::new(Self::KIND, n, m, m) };
        run(push, s.piece, s.x, s.square);
        self.launch("muon_step", Shape::each(m * n), arguments![s.x, s.piece, m * n, a]);
    }
}

impl<E: CudaElement> Muon for Cuda<E> {
    fn muon(
        &self,
        value: &mut CudaBuf<f32>,
        momentum: &mut CudaBuf<f32>,
        grad: &CudaBuf<f32>,
        step: MuonStep,
        dims: MuonDims,
    ) {
        let MuonDims { rows, cols, pieces } = dims;
        assert!(pieces > 0 && cols.is_multiple_of(pieces), "{cols} columns are not {pieces} equal pieces");
        assert!(
            [value.len(), momentum.len(), grad.len()] == [rows * cols; 3],
            "value, momentum and gradient must hold {rows} x {cols}"
        );
        let width = cols / pieces;
        let (m, n, transpose) = (rows.min(width), rows.max(width), i32::from(rows > width));
        let scale = step.learning_rate * 0.2 * (rows.max(width) as f32).sqrt();
        let keep = 1.0 - step.learning_rate * step.weight_decay;
        let s = self.muon_scratch(dims);
        let len = rows * cols;
        let arguments = arguments![s.update, momentum, grad, len, step.momentum, step.grad_scale];
        self.launch("muon_momentum", Shape::each(len), arguments);
        for piece in 0..pieces {
            let (offset, len) = (piece * width, rows * width);
            let arguments = arguments![s.piece, s.update, rows, cols, offset, width];
            self.launch("muon_piece", Shape::each(len), arguments);
            let count = self.square_partials(s.partial, s.piece, len);
            let epsilon = NORM_EPSILON.to_bits();
            let arguments = arguments![s.x, s.piece, s.partial, count, rows, width, transpose, epsilon];
            self.launch("muon_start", Shape::each(len), arguments);
            for _ in 0..STEPS {
                self.newton_schulz(&s, m, n);
            }
            let arguments = arguments![value, s.x, rows, cols, offset, width, transpose, keep, scale];
            self.launch("muon_apply", Shape::each(len), arguments);
        }
    }
}
