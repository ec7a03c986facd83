//! Micro-kernels for AVX-512: 14 rows x 32 columns.
//!
//! Register plan, 31 of 32:
//!
//! ```text
//!            b0 (16 columns)   b1 (16 columns)
//!   a[0]  ->  acc[0][0]         acc[0][1]          each step of K loads b0 and b1 once, then
//!   ...                                            broadcasts one word of each row into a register
//!   a[13] ->  acc[13][0]        acc[13][1]         and multiplies it with both: 28 sums, 2 + 1 operands
//! ```

use super::{Kernel, PANEL, Strided};
use std::arch::x86_64::*;

/// bf16 pairs by `vdpbf16ps`.
pub(super) const BF16: Kernel = Kernel { height: HEIGHT, tile: bf16::tile, widen: None };
/// f32 by fused multiply-add.
pub(super) const F32: Kernel = Kernel { height: HEIGHT, tile: f32::tile, widen: None };

const HEIGHT: usize = 14;
/// Words of B that a single row asks for ahead. On huge pages, where weights that are only read lie, 4 KiB was as fast as leaving it to the
/// hardware and 16 KiB slower.
const AHEAD: usize = 1024;

/// Defines a module with the kernel for one way to multiply words and the instruction set that has it.
macro_rules! kernel {
    ($name:ident, $features:literal, |$acc:ident, $a:ident, $b:ident| $dot:expr) => {
        mod $name {
            use super::*;

            /// The kernel for any number of rows up to 14: see `Kernel::run`.
            #[target_feature(enable = $features)]
            pub(super) unsafe fn tile(
                rows: usize,
                k: usize,
                a: Strided,
                b: *const u32,
                c: *mut f32,
                add: bool,
            ) {
                // SAFETY: passed on from the caller.
                unsafe {
                    match rows {
                        14 => fixed::<14>(k, a, b, c, add),
                        13 => fixed::<13>(k, a, b, c, add),
                        12 => fixed::<12>(k, a, b, c, add),
                        11 => fixed::<11>(k, a, b, c, add),
                        10 => fixed::<10>(k, a, b, c, add),
                        9 => fixed::<9>(k, a, b, c, add),
                        8 => fixed::<8>(k, a, b, c, add),
                        7 => fixed::<7>(k, a, b, c, add),
                        6 => fixed::<6>(k, a, b, c, add),
                        5 => fixed::<5>(k, a, b, c, add),
                        4 => fixed::<4>(k, a, b, c, add),
                        3 => fixed::<3>(k, a, b, c, add),
                        2 => fixed::<2>(k, a, b, c, add),
                        1 => fixed::<1>(k, a, b, c, add),
                        _ => unreachable!("a tile has 1 to 14 rows, not {rows}"),
                    }
                }
            }

            /// The kernel for exactly `R` rows: the loops over rows unroll and the sums stay in registers.
            #[target_feature(enable = $features)]
            unsafe fn fixed<const R: usize>(k: usize, a: Strided, b: *const u32, c: *mut f32, add: bool) {
                let mut acc = [[_mm512_setzero_ps(); 2]; R];
                if add {
                    for (r, [left, right]) in acc.iter_mut().enumerate() {
                        // SAFETY: the caller promises R rows of 32.
                        unsafe {
                            *left = _mm512_loadu_ps(c.add(r * PANEL));
                            *right = _mm512_loadu_ps(c.add(r * PANEL + 16));
                        }
                    }
                }
                for i in 0..k {
                    // One row waits for memory to give B, many share what is in the cache: then A is what comes from afar.
                    if R == 1 {
                        let ahead = b.wrapping_add(i * PANEL + AHEAD);
                        _mm_prefetch::<_MM_HINT_T1>(ahead.cast());
                        _mm_prefetch::<_MM_HINT_T1>(ahead.wrapping_add(PANEL / 2).cast());
                    } else if R == HEIGHT {
                        _mm_prefetch::<_MM_HINT_T0>(a.next.wrapping_byte_add(i * a.next_step).cast());
                    }
                    // SAFETY: the caller promises k words in each row of A and k x 32 words of B.
                    let (b0, b1, row) = unsafe {
                        let b = b.add(i * PANEL);
                        (
                            _mm512_loadu_si512(b.cast()),
                            _mm512_loadu_si512(b.add(16).cast()),
                            a.words.byte_add(i * a.step),
                        )
                    };
                    for r in 0..R {
                        // SAFETY: as above. Rows of bf16 may start at any even address.
                        let word = unsafe { row.byte_add(r * a.row).read_unaligned() };
                        let $a = _mm512_set1_epi32(word as i32);
                        for (sum, $b) in acc[r].iter_mut().zip([b0, b1]) {
                            let $acc = *sum;
                            *sum = $dot;
                        }
                    }
                }
                for (r, [left, right]) in acc.into_iter().enumerate() {
                    // SAFETY: the caller promises room for R rows of 32.
                    unsafe {
                        _mm512_storeu_ps(c.add(r * PANEL), left);
                        _mm512_storeu_ps(c.add(r * PANEL + 16), right);
                    }
                }
            }
        }
    };
}

kernel!(bf16, "avx512f,avx512bf16", |acc, a, b| {
    // SAFETY: all are 512-bit vectors of plain numbers.
    let (a, b) =
        unsafe { (std::mem::transmute::<__m512i, __m512bh>(a), std::mem::transmute::<__m512i, __m512bh>(b)) };
    _mm512_dpbf16_ps(acc, a, b)
});

kernel!(f32, "avx512f", |acc, a, b| _mm512_fmadd_ps(_mm512_castsi512_ps(a), _mm512_castsi512_ps(b), acc));
