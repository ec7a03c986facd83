//! A row times a panel in plain Rust: the kernel where there is no other, and what the others are compared with.

use super::rows::{FixedRow, pair_elements, row_group_words};
use super::{Format, SCALE_WORDS, integer, scales};
use crate::gemm::PANEL;

pub(super) fn dot(format: Format, x: FixedRow<'_>, panel: &[u32]) -> [f32; PANEL] {
    let mut out = [0.0f32; PANEL];
    let groups = x.words.chunks_exact(row_group_words(format));
    for (x, group) in groups.zip(panel.chunks_exact(format.group_words())) {
        let (pairs, rest) = x.split_at(format.group() / 2);
        let x_scale = f32::from_bits(rest[1]);
        let mut sums = [0i32; PANEL];
        let words = group[SCALE_WORDS..].as_chunks::<PANEL>().0;
        for (pairs, words) in pairs.chunks_exact(format.per_word() / 2).zip(words) {
            for (i, pair) in pairs.iter().enumerate() {
                let [first, second] = pair_elements(format, i);
                let (low, high) = (i32::from(*pair as u16 as i16), *pair as i32 >> 16);
                for (sum, word) in sums.iter_mut().zip(words) {
                    *sum += low * integer(format, *word, first) + high * integer(format, *word, second);
                }
            }
        }
        for ((out, sum), scale) in out.iter_mut().zip(sums).zip(scales(group)) {
            *out += x_scale * scale * sum as f32;
        }
    }
    out
}
