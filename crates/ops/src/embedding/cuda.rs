//! Embedding on a GPU: launches. The backward pass sorts the rows by token first; see `cuda.cu`.

use super::{Embedding, EmbeddingDims};
use crate::cuda::{CudaBuf, CudaElement, ScratchMemory, Shape, Source, arguments};
use crate::{Cuda, Dropout};

pub(crate) const SOURCE: Source = Source {
    name: "embedding",
    files: &[include_str!("cuda.cu")],
    kernels: &[
        "embedding_forward",
        "sort_count",
        "sort_scan",
        "sort_scatter",
        "embedding_tokens",
        "embedding_carry",
        "embedding_positions",
    ],
};

/// Keys that a block sorts, and digits of a pass: those of the kernels.
const TILE: usize = 1024;
const DIGITS: usize = 256;
/// Sorted rows that a block adds up: the kernels'.
const CHUNK: usize = 64;

/// The parts of the scratch memory of a backward pass.
struct Scratch<'a> {
    /// Holds the memory.
    _memory: ScratchMemory<'a>,
    keys: [u64; 2],
    positions: [u64; 2],
    counts: u64,
    carry: u64,
}

impl<E: CudaElement> Cuda<E> {
    fn embedding_scratch(&self, rows: usize, channels: usize) -> Scratch<'_> {
        let list = (4 * rows).next_multiple_of(256);
        let counts = (4 * DIGITS * rows.div_ceil(TILE)).next_multiple_of(256);
        let carry = 8 * rows.div_ceil(CHUNK) * channels;
        let memory = self.context.scratch(4 * list + counts + carry);
        Scratch {
            keys: [memory.at(0), memory.at(list)],
            positions: [memory.at(2 * list), memory.at(3 * list)],
            counts: memory.at(4 * list),
            carry: memory.at(4 * list + counts),
            _memory: memory,
        }
    }

    /// Sorts positions by token; returns where the sorted tokens and their positions are.
    fn sort(&self, tokens: u64, scratch: &Scratch<'_>, rows: usize, vocab_size: usize) -> (u64, u64) {
        let tiles = rows.div_ceil(TILE);
        let mut from = (tokens, 0);
        let bits = usize::BITS - vocab_size.saturating_sub(1).leading_zeros();
        for pass in 0..bits.div_ceil(8).max(1) {
            let (shift, to) =
                (8 * pass, (scratch.keys[pass as usize % 2], scratch.positions[pass as usize % 2]));
            let counts = scratch.counts;
            self.launch("sort_count", Shape::new(tiles, 256), arguments![counts, from.0, rows, tiles, shift]);
            self.launch("sort_scan", Shape::new(1, 1024), arguments![counts, DIGITS * tiles]);
            let arguments = arguments![to.0, to.1, from.0, from.1, counts, rows, tiles, shift];
            self.launch("sort_scatter", Shape::new(tiles, 256), arguments);
            from = to;
        }
        from
    }
}

impl<E: CudaElement> Embedding for Cuda<E> {
    fn embedding_forward(
        &self,
        out: &mut CudaBuf<E>,
        tokens: &CudaBuf<u32>,
        wte: &CudaBuf<f32>,
        wpe: &CudaBuf<f32>,
        dropout: Dropout,
        dims: EmbeddingDims,
    ) {
        let EmbeddingDims { batch, time, channels, start, .. } = dims;
        let width = if channels.is_multiple_of(4) { 4 } else { 1 };
        let [key, threshold, scale] = self.dropout_arguments(dropout);
        let arguments =
            arguments![out, tokens, wte, wpe, batch * time, time, channels, start, key, threshold, scale];
        self.context.note_position(7, start);
        self.launch("embedding_forward", Shape::each(batch * time * channels / width), arguments);
    }

    fn embedding_backward(
        &self,
        dwte: &mut CudaBuf<f32>,
        dwpe: &mut CudaBuf<f32>,
        dout: &CudaBuf<E>,
        tokens: &CudaBuf<u32>,
        dropout: Dropout,
        dims: EmbeddingDims,
    ) {
        let EmbeddingDims { batch, time, channels, vocab_size, start } = dims;
        let rows = batch * time;
        let [key, threshold, scale] = self.dropout_arguments(dropout);
        let scratch = self.embedding_scratch(rows, channels);
        let (keys, positions) = self.sort(tokens.pointer(), &scratch, rows, vocab_size);
        let width = 16 / size_of::<E>();
        let lanes = if channels.is_multiple_of(width) { channels / width } else { channels };
        let chunks = rows.div_ceil(CHUNK);
        let shape = Shape::new(chunks, 128).by(lanes.div_ceil(128), 1);
        let carry = scratch.carry;
        let arguments = arguments![dwte, carry, keys, positions, dout, rows, channels, key, threshold, scale];
        self.launch("embedding_tokens", shape, arguments);
        let shape = Shape::new(chunks, 256).by(channels.div_ceil(256), 1);
        self.launch("embedding_carry", shape, arguments![dwte, carry, keys, rows, channels]);
        let arguments = arguments![dwpe, dout, batch, time, channels, start, key, threshold, scale];
        self.launch("embedding_positions", Shape::each(time * channels), arguments);
    }
}
