//! Micro-kernels for AVX2 with FMA: 6 rows x 16 columns, twice for a panel of 32.
//!
//! Register plan, 15 of 16: 6 x 2 sums of 8 columns, 2 vectors of B, 1 broadcast word of A. A pair of bf16 is widened in
//! registers, the low half by a shift and the high half by a mask, and takes two fused multiply-adds.

use super::{Kernel, PANEL};
use std::arch::x86_64::*;

/// bf16 pairs, widened.
pub(super) const BF16: Kernel = Kernel { height: 6, tile: bf16::tile };
/// f32.
pub(super) const F32: Kernel = Kernel { height: 6, tile: f32::tile };

/// Defines a module with the kernel for one way to multiply words.
macro_rules! kernel {
    ($name:ident, |$acc:ident, $a:ident, $b:ident| $dot:expr) => {
        mod $name {
            use super::*;

            /// The kernel for any number of rows up to 6: see `Kernel::tile`.
            #[target_feature(enable = "avx2,fma")]
            pub(super) unsafe fn tile(
                rows: usize,
                k: usize,
                a: *const u32,
                a_row: usize,
                a_step: usize,
                b: *const u32,
                c: *mut f32,
            ) {
                for half in [0, PANEL / 2] {
                    // SAFETY: passed on from the caller; both halves lie within the panel.
                    unsafe {
                        let (b, c) = (b.add(half), c.add(half));
                        match rows {
                            6 => fixed::<6>(k, a, a_row, a_step, b, c),
                            5 => fixed::<5>(k, a, a_row, a_step, b, c),
                            4 => fixed::<4>(k, a, a_row, a_step, b, c),
                            3 => fixed::<3>(k, a, a_row, a_step, b, c),
                            2 => fixed::<2>(k, a, a_row, a_step, b, c),
                            1 => fixed::<1>(k, a, a_row, a_step, b, c),
                            _ => unreachable!("a tile has 1 to 6 rows, not {rows}"),
                        }
                    }
                }
            }

            /// The kernel for exactly `R` rows and 16 columns.
            #[target_feature(enable = "avx2,fma")]
            unsafe fn fixed<const R: usize>(
                k: usize,
                a: *const u32,
                a_row: usize,
                a_step: usize,
                b: *const u32,
                c: *mut f32,
            ) {
                let mut acc = [[_mm256_setzero_ps(); 2]; R];
                for i in 0..k {
                    // SAFETY: the caller promises k words in each row of A and k x 32 words of B.
                    let (b0, b1, row) = unsafe {
                        let b = b.add(i * PANEL);
                        (
                            _mm256_loadu_si256(b.cast()),
                            _mm256_loadu_si256(b.add(8).cast()),
                            a.byte_add(i * a_step),
                        )
                    };
                    for r in 0..R {
                        // SAFETY: as above. Rows of bf16 may start at any even address.
                        let word = unsafe { row.byte_add(r * a_row).read_unaligned() };
                        let $a = _mm256_set1_epi32(word as i32);
                        for (sum, $b) in acc[r].iter_mut().zip([b0, b1]) {
                            let $acc = *sum;
                            *sum = $dot;
                        }
                    }
                }
                for (r, [left, right]) in acc.into_iter().enumerate() {
                    // SAFETY: the caller promises room for R rows of 32.
                    unsafe {
                        _mm256_storeu_ps(c.add(r * PANEL), left);
                        _mm256_storeu_ps(c.add(r * PANEL + 8), right);
                    }
                }
            }
        }
    };
}

kernel!(bf16, |acc, a, b| {
    let low = |x| _mm256_castsi256_ps(_mm256_slli_epi32::<16>(x));
    let high = |x| _mm256_castsi256_ps(_mm256_and_si256(x, _mm256_set1_epi32(0xffff_0000_u32 as i32)));
    _mm256_fmadd_ps(high(a), high(b), _mm256_fmadd_ps(low(a), low(b), acc))
});

kernel!(f32, |acc, a, b| _mm256_fmadd_ps(_mm256_castsi256_ps(a), _mm256_castsi256_ps(b), acc));
