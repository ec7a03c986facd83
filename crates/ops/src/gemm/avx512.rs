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

use super::{Kernel, PANEL};
use std::arch::x86_64::*;

/// bf16 pairs by `vdpbf16ps`.
pub(super) const BF16: Kernel = Kernel { height: 14, tile: bf16::tile };
/// f32 by fused multiply-add.
pub(super) const F32: Kernel = Kernel { height: 14, tile: f32::tile };

/// Defines a module with the kernel for one way to multiply words and the instruction set that has it.
macro_rules! kernel {
    ($name:ident, $features:literal, |$acc:ident, $a:ident, $b:ident| $dot:expr) => {
        mod $name {
            use super::*;

            /// The kernel for any number of rows up to 14: see `Kernel::tile`.
            #[target_feature(enable = $features)]
            pub(super) unsafe fn tile(
                rows: usize,
                k: usize,
                a: *const u32,
                a_row: usize,
                a_step: usize,
                b: *const u32,
                c: *mut f32,
            ) {
                // SAFETY: passed on from the caller.
                unsafe {
                    match rows {
                        14 => fixed::<14>(k, a, a_row, a_step, b, c),
                        13 => fixed::<13>(k, a, a_row, a_step, b, c),
                        12 => fixed::<12>(k, a, a_row, a_step, b, c),
                        11 => fixed::<11>(k, a, a_row, a_step, b, c),
                        10 => fixed::<10>(k, a, a_row, a_step, b, c),
                        9 => fixed::<9>(k, a, a_row, a_step, b, c),
                        8 => fixed::<8>(k, a, a_row, a_step, b, c),
                        7 => fixed::<7>(k, a, a_row, a_step, b, c),
                        6 => fixed::<6>(k, a, a_row, a_step, b, c),
                        5 => fixed::<5>(k, a, a_row, a_step, b, c),
                        4 => fixed::<4>(k, a, a_row, a_step, b, c),
                        3 => fixed::<3>(k, a, a_row, a_step, b, c),
                        2 => fixed::<2>(k, a, a_row, a_step, b, c),
                        1 => fixed::<1>(k, a, a_row, a_step, b, c),
                        _ => unreachable!("a tile has 1 to 14 rows, not {rows}"),
                    }
                }
            }

            /// The kernel for exactly `R` rows: the loops over rows unroll and the sums stay in registers.
            #[target_feature(enable = $features)]
            unsafe fn fixed<const R: usize>(
                k: usize,
                a: *const u32,
                a_row: usize,
                a_step: usize,
                b: *const u32,
                c: *mut f32,
            ) {
                let mut acc = [[_mm512_setzero_ps(); 2]; R];
                for i in 0..k {
                    // SAFETY: the caller promises k words in each row of A and k x 32 words of B.
                    let (b0, b1, row) = unsafe {
                        let b = b.add(i * PANEL);
                        (
                            _mm512_loadu_si512(b.cast()),
                            _mm512_loadu_si512(b.add(16).cast()),
                            a.byte_add(i * a_step),
                        )
                    };
                    for r in 0..R {
                        // SAFETY: as above. Rows of bf16 may start at any even address.
                        let word = unsafe { row.byte_add(r * a_row).read_unaligned() };
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
