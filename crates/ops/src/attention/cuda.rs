//! Attention on a GPU: which kernel a shape goes to.
//!
//! Heads of 32, 64 or 128 channels in 16 bits have kernels on tensor cores (FlashAttention-2), and those of 64 channels
//! others that need Hopper; everything else goes to kernels that take any head size and element type. All are compiled for
//! the head size when it is first met. Rows that several documents share (`starts`) have kernels of their own on tensor
//! cores, compiled from the same files, so that the others carry nothing for them.

use super::{Attention, AttentionDims, CachedAttentionDims};
use crate::cuda::{CudaBuf, CudaElement, Shape, Source, arguments};
use crate::{Cuda, Dropout};

/// Kernels for any head, then those on tensor cores. They are compiled at the same time.
pub(crate) const SOURCES: &[Source] = &[
    Source {
        name: "attention",
        files: &[include_str!("../cuda/early.cuh"), include_str!("cuda.cu")],
        kernels: &[
            "attention_forward",
            "attention_delta",
            "attention_backward",
            "attention_append",
            "attention_cached",
            "attention_decode",
        ],
    },
    Source {
        name: "flash",
        files: &[include_str!("cuda_flash.cuh")],
        kernels: &["flash_forward", "flash_cached"],
    },
    Source {
        name: "flash_backward",
        files: &[
            "#define FLASH_BACKWARD_ONLY",
            include_str!("cuda_flash.cuh"),
            include_str!("cuda_flash_backward.cuh"),
        ],
        kernels: &["flash_backward", "flash_backward_short"],
    },
    Source {
        name: "flash_hopper",
        files: &[
            "#define FLASH_BACKWARD_ONLY",
            include_str!("cuda_flash.cuh"),
            include_str!("../cuda/hopper.cuh"),
            include_str!("cuda_flash_hopper.cuh"),
            include_str!("cuda_flash_hopper_backward.cuh"),
        ],
        kernels: &["flash_forward_hopper", "flash_backward_hopper"],
    },
];

/// Those on tensor cores that mask by `starts`.
const MASKED_SOURCES: &[Source] =
    &[Source { kernels: &["flash_forward"], ..SOURCES[1] }, SOURCES[2], SOURCES[3]];

/// What the number of a variant that masks by `starts` has above its head size.
pub(crate) const MASKED: usize = 1024;
/// Rows of queries, or keys, that a block of the kernels on tensor cores owns.
const OWNED: usize = 128;
/// The same of the kernels for any head.
const GENERIC_ROWS: usize = 32;
/// New tokens up to which each reads the cache alone: an estimate.
const DECODE_TOKENS: usize = 16;

/// The kernels of a variant: those of a head size, where 0 stands for any, or those that mask, [`MASKED`] above it.
pub(crate) fn sources(variant: usize, is_f32: bool) -> &'static [Source] {
    match is_flash(variant % MASKED, is_f32) {
        true if variant >= MASKED => MASKED_SOURCES,
        true => SOURCES,
        false => &SOURCES[..1],
    }
}

/// What the compiler is told of a variant: no head size, where the kernels are to take any.
pub(crate) fn head_defines(element: &str, variant: usize) -> Vec<String> {
    let head_size = variant % MASKED;
    let head = (head_size > 0).then(|| format!("-DHEAD_SIZE={head_size}"));
    let masked = (variant >= MASKED).then(|| "-DMASKED".to_string());
    std::iter::once(element.to_string()).chain(head).chain(masked).collect()
}

fn is_flash(head_size: usize, is_f32: bool) -> bool {
    !is_f32 && matches!(head_size, 32 | 64 | 128)
}

/// What a shape's kernels are compiled and launched with.
#[derive(Clone, Copy)]
struct Head {
    /// HS.
    size: usize,
    /// The head size that the kernels are compiled for: its own where GPT-2 has it, else 0, for any.
    variant: usize,
    /// Whether it goes to tensor cores.
    is_flash: bool,
}

impl Head {
    /// On a card whose blocks may ask for `shared_bytes` of shared memory.
    fn new<E: CudaElement>(size: usize, shared_bytes: usize) -> Self {
        assert!((1..=256).contains(&size), "heads of {size} channels: a GPU's kernels take 1 to 256");
        let variant = if matches!(size, 32 | 64 | 128) { size } else { 0 };
        // The kernel that asks for most; cards of computers at home have too little for heads of 128.
        let fits = 640 * 2 * size + 1024 <= shared_bytes;
        Head { size, variant, is_flash: is_flash(size, E::IS_F32) && fits }
    }

    /// The variant of its kernels on tensor cores, for rows that are masked by `starts`, or not.
    fn flash_variant(self, is_masked: bool) -> usize {
        self.variant + if is_masked { MASKED } else { 0 }
    }

    /// A launch on tensor cores: `tiles` blocks a head, with `rows` rows of tiles in shared memory.
    fn flash(self, heads: usize, tiles: usize, rows: usize, extra_bytes: usize) -> Shape {
        let block = if self.size == 128 { 256 } else { 128 };
        Shape::new(heads, block).by(tiles, 1).shared(rows * 2 * self.size + extra_bytes)
    }

    /// A launch of the kernels for any head: tiles of f32, whose rows are padded to an odd number of 16 bytes.
    fn generic(self, heads: usize, tiles: usize, tile_rows: usize, more_floats: usize) -> Shape {
        let padded = 4 * (self.size.div_ceil(4) | 1);
        Shape::new(heads, 128).by(tiles, 1).shared(4 * (tile_rows * padded + more_floats))
    }
}

impl<E: CudaElement> Cuda<E> {
    /// Whether a head has kernels on warpgroup instructions, which Hopper alone has.
    fn has_hopper_kernels(&self, head: Head) -> bool {
        head.is_flash && head.size == 64 && self.context.capability == (9, 0)
    }
}

impl<E: CudaElement> Attention for Cuda<E> {
    fn max_head_size(&self) -> usize {
        // The backward pass for any head asks for most shared memory.
        let fits = |size: &usize| {
            let head = Head { size: *size, variant: 0, is_flash: false };
            head.generic(1, 1, 128, 2048).shared_bytes <= self.context.max_shared_bytes()
        };
        (1..=256).rev().find(fits).unwrap_or(1)
    }

    fn attention_forward(
        &self,
        out: &mut CudaBuf<E>,
        lse: &mut CudaBuf<f32>,
        qkv: &CudaBuf<E>,
        starts: Option<&CudaBuf<u32>>,
        dropout: Dropout,
        dims: AttentionDims,
    ) {
        let AttentionDims { batch, time, heads, head_size } = dims;
        let head = Head::new::<E>(head_size, self.context.max_shared_bytes());
        let [key, threshold, scale] = self.dropout_arguments(dropout);
        let starts = starts.map(|starts| starts.pointer());
        if head.is_flash {
            let (kernel, shape) = if self.has_hopper_kernels(head) {
                let shape = Shape::new(batch * heads * time.div_ceil(OWNED), 256);
                ("flash_forward_hopper", shape.shared(5 * 128 * OWNED))
            } else {
                ("flash_forward", head.flash(batch * heads, time.div_ceil(OWNED), 384, 0))
            };
            let rest = arguments![time, heads, key, threshold, scale];
            let arguments = [arguments![out, lse, qkv], starts.as_slice(), rest].concat();
            self.launch_for_head(kernel, head.flash_variant(starts.is_some()), shape, &arguments);
        } else {
            let shape = head.generic(batch * heads, time.div_ceil(GENERIC_ROWS), 96, 1024);
            let starts = starts.unwrap_or(0);
            let arguments = arguments![out, lse, qkv, starts, time, heads, head_size, key, threshold, scale];
            self.launch_for_head("attention_forward", head.variant, shape, arguments);
        }
    }

    fn attention_backward(
        &self,
        dqkv: &mut CudaBuf<E>,
        dout: &CudaBuf<E>,
        out: &CudaBuf<E>,
        lse: &CudaBuf<f32>,
        qkv: &CudaBuf<E>,
        starts: Option<&CudaBuf<u32>>,
        dropout: Dropout,
        dims: AttentionDims,
    ) {
        let AttentionDims { batch, time, heads, head_size } = dims;
        let head = Head::new::<E>(head_size, self.context.max_shared_bytes());
        let [key, threshold, scale] = self.dropout_arguments(dropout);
        let starts = starts.map(|starts| starts.pointer());
        let flash_variant = head.flash_variant(starts.is_some());
        if head.is_flash && time <= OWNED {
            let shape = head.flash(batch * heads, 1, 640, 1024);
            let rest = arguments![time, heads, key, threshold, scale];
            let arguments = [arguments![dqkv, dout, out, lse, qkv], starts.as_slice(), rest].concat();
            return self.launch_for_head("flash_backward_short", flash_variant, shape, &arguments);
        }
        let rows = batch * heads * time;
        // Hopper's kernel gives each block whole heads: too few of them would leave processors idle.
        let blocks = (batch * heads).min(self.context.num_processors);
        let is_hopper = self.has_hopper_kernels(head) && 2 * blocks >= self.context.num_processors;
        let delta_bytes = (4 * rows).next_multiple_of(256);
        let sums_bytes = if is_hopper { 4 * blocks * time.next_multiple_of(OWNED) * head_size } else { 0 };
        let scratch = self.context.scratch(delta_bytes + sums_bytes);
        let (delta, sums) = (scratch.at(0), scratch.at(delta_bytes));
        let arguments = arguments![delta, out, dout, batch, time, heads, head_size];
        self.launch_for_head("attention_delta", head.variant, Shape::each(8 * rows), arguments);
        if is_hopper {
            let saved = if starts.is_some() { 3 } else { 2 };
            let shape = Shape::new(blocks, 256).shared(14 * 128 * OWNED + 2 * saved * 4 * OWNED);
            let rest = arguments![time, heads, batch * heads, key, threshold, scale];
            let arguments = [arguments![dqkv, dout, lse, delta, sums, qkv], starts.as_slice(), rest].concat();
            return self.launch_for_head("flash_backward_hopper", flash_variant, shape, &arguments);
        }
        // Blocks of keys and blocks of queries take turns.
        if head.is_flash {
            let shape = head.flash(batch * heads, 2 * time.div_ceil(OWNED), 512, 1024);
            let rest = arguments![time, heads, key, threshold, scale];
            let arguments = [arguments![dqkv, dout, lse, delta, qkv], starts.as_slice(), rest].concat();
            self.launch_for_head("flash_backward", flash_variant, shape, &arguments);
        } else {
            let shape = head.generic(batch * heads, 2 * time.div_ceil(GENERIC_ROWS), 128, 2048);
            let starts = starts.unwrap_or(0);
            let arguments = arguments![
                dqkv, dout, lse, delta, qkv, starts, time, heads, head_size, key, threshold, scale
            ];
            self.launch_for_head("attention_backward", head.variant, shape, arguments);
        }
    }

    fn attention_cached(
        &self,
        out: &mut CudaBuf<E>,
        keys: &mut CudaBuf<E>,
        values: &mut CudaBuf<E>,
        qkv: &CudaBuf<E>,
        dims: CachedAttentionDims,
    ) {
        let CachedAttentionDims { batch, time, cached, capacity, heads, head_size } = dims;
        let head = Head::new::<E>(head_size, self.context.max_shared_bytes());
        if time <= DECODE_TOKENS {
            // Appends by itself.
            let shape = Shape::new(batch * heads, 512).by(time, 1);
            let arguments = arguments![out, keys, values, qkv, time, cached, capacity, heads, head_size];
            self.context.note_position(5, cached);
            return self.launch_early_for_head("attention_decode", head.variant, shape, arguments);
        }
        let appended = Shape::each(batch * time * heads * head_size);
        let arguments = arguments![keys, values, qkv, batch, time, cached, capacity, heads, head_size];
        self.launch_for_head("attention_append", head.variant, appended, arguments);
        if head.is_flash {
            let shape = head.flash(batch * heads, time.div_ceil(OWNED), 384, 0);
            let arguments = arguments![out, keys, values, qkv, time, cached, capacity, heads];
            self.launch_for_head("flash_cached", head.variant, shape, arguments);
        } else {
            let shape = head.generic(batch * heads, time.div_ceil(GENERIC_ROWS), 96, 1024);
            let arguments = arguments![out, keys, values, qkv, time, cached, capacity, heads, head_size];
            self.launch_for_head("attention_cached", head.variant, shape, arguments);
        }
    }
}
