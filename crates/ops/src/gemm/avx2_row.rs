//! Micro-kernels for AVX2 with FMA and a single row: 1 x 32 columns, for the one token of generation.
//!
//! Register plan, 10 of 16: 4 sums of 8 columns, 4 vectors of B, 2 broadcast numbers of A. There is nothing to keep from
//! one column to the next, so B is read once, in the order in which it lies. Each sum has the order of the taller kernels, and their bits.

use super::{PANEL, Strided};
use std::arch::x86_64::*;

const WIDTH: usize = 8;
const VECTORS: usize = PANEL / WIDTH;
/// Words of B that are asked for ahead: the hardware stops at the end of a page, and has to begin again. The distance is an
/// estimate; trials on a noisy machine did not settle it.
const AHEAD: usize = 512;

/// Defines the kernel for one way to multiply words; strides and lengths as `Kernel::run` has them.
macro_rules! kernel {
    ($name:ident, |$acc:ident, $a:ident, $b:ident| $dot:expr) => {
        #[target_feature(enable = "avx2,fma")]
        pub(super) unsafe fn $name(k: usize, a: Strided, b: *const u32, c: *mut f32, add: bool) {
            let mut acc = [_mm256_setzero_ps(); VECTORS];
            if add {
                for (j, sum) in acc.iter_mut().enumerate() {
                    // SAFETY: the caller promises a row of 32.
                    *sum = unsafe { _mm256_loadu_ps(c.add(j * WIDTH)) };
                }
            }
            for i in 0..k {
                // SAFETY: the caller promises k words of A. Rows of bf16 may start at any even address.
                let $a = _mm256_set1_epi32(unsafe { a.words.byte_add(i * a.step).read_unaligned() } as i32);
                let row = b.wrapping_add(i * PANEL);
                #[expect(unused_unsafe, reason = "it is unsafe in older versions of Rust")]
                // SAFETY: a wish, which any address may be given to.
                unsafe {
                    _mm_prefetch::<_MM_HINT_T0>(row.wrapping_add(AHEAD).cast());
                    _mm_prefetch::<_MM_HINT_T0>(row.wrapping_add(AHEAD + PANEL / 2).cast());
                }
                for (j, sum) in acc.iter_mut().enumerate() {
                    // SAFETY: the caller promises k x 32 words of B.
                    let $b = unsafe { _mm256_loadu_si256(row.add(j * WIDTH).cast()) };
                    let $acc = *sum;
                    *sum = $dot;
                }
            }
            for (j, sum) in acc.into_iter().enumerate() {
                // SAFETY: the caller promises room for a row of 32.
                unsafe { _mm256_storeu_ps(c.add(j * WIDTH), sum) };
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
