//! A square of 16 x 16 words turned in registers.

use std::arch::x86_64::*;

/// In four rounds: neighbouring words, pairs of them, quarters and halves of rows.
#[inline]
#[target_feature(enable = "avx512f")]
pub(super) fn avx512(block: &[[u32; 16]; 16]) -> [[u32; 16]; 16] {
    // SAFETY: a row of 16 words and a vector of 512 bits are the same bytes.
    let rows: [__m512i; 16] = unsafe { std::mem::transmute_copy(block) };
    let [mut pairs, mut quads, mut halves, mut columns] = [rows; 4];
    for i in 0..16 {
        let (a, b) = (rows[i & !1], rows[i | 1]);
        pairs[i] = if i & 1 == 0 { _mm512_unpacklo_epi32(a, b) } else { _mm512_unpackhi_epi32(a, b) };
    }
    // Lane l of quads[4 g + c] is column 4 l + c of rows 4 g .. 4 g + 4.
    for i in 0..16 {
        let (a, b) = (pairs[(i & !3) + (i >> 1 & 1)], pairs[(i & !3) + (i >> 1 & 1) + 2]);
        quads[i] = if i & 1 == 0 { _mm512_unpacklo_epi64(a, b) } else { _mm512_unpackhi_epi64(a, b) };
    }
    // halves[8 h + 4 o + c]: lanes o and o + 2 of the quads of rows 8 h .. 8 h + 8.
    for i in 0..16 {
        let (a, b) = (quads[(i & 8) + (i & 3)], quads[(i & 8) + (i & 3) + 4]);
        let is_even = i & 4 == 0;
        halves[i] =
            if is_even { _mm512_shuffle_i32x4::<0x88>(a, b) } else { _mm512_shuffle_i32x4::<0xdd>(a, b) };
    }
    for i in 0..16 {
        let (a, b) = (halves[i & 7], halves[(i & 7) + 8]);
        let is_even = i & 8 == 0;
        columns[i] =
            if is_even { _mm512_shuffle_i32x4::<0x88>(a, b) } else { _mm512_shuffle_i32x4::<0xdd>(a, b) };
    }
    // SAFETY: as above.
    unsafe { std::mem::transmute(columns) }
}
