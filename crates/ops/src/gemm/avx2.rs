//! Micro-kernels for AVX2 with FMA: 6 rows x 16 columns, twice for a panel of 32.
//!
//! Register plan, 15 of 16:
//!
//! ```text
//!            b0 (8 columns)    b1 (8 columns)
//!   a[0]  ->  acc[0][0]         acc[0][1]          each step of K loads b0 and b1 once, then
//!   ...                                            broadcasts one number of each row into a register
//!   a[5]  ->  acc[5][0]         acc[5][1]          and multiplies it with both: 12 sums, 2 + 1 operands
//! ```
//!
//! A word of bf16 is two such steps: its low half, widened by a shift, then its high half, by a mask. B is widened in
//! registers, four instructions for 24 multiply-adds. To widen A there too would take another 12, so that its rows are
//! widened before, once for all panels that they are multiplied with.

use super::{Kernel, PANEL, Strided, avx2_row};
use std::arch::asm;
use std::arch::x86_64::*;

/// bf16 pairs, widened.
pub(super) const BF16: Kernel = Kernel { height: HEIGHT, tile: tile_bf16, widen: Some(widen_bf16) };
/// f32.
pub(super) const F32: Kernel = Kernel { height: HEIGHT, tile: tile_f32, widen: None };

const HEIGHT: usize = 6;

/// Calls `fixed::<rows>`, so that the loops over rows unroll and the sums stay in registers.
macro_rules! for_rows {
    ($rows:expr, $fixed:ident($($argument:expr),*)) => {
        match $rows {
            6 => $fixed::<6>($($argument),*),
            5 => $fixed::<5>($($argument),*),
            4 => $fixed::<4>($($argument),*),
            3 => $fixed::<3>($($argument),*),
            2 => $fixed::<2>($($argument),*),
            rows => unreachable!("a tile has 2 to 6 rows here, not {rows}"),
        }
    };
}

/// The f32 kernel: see `Kernel::run`.
#[target_feature(enable = "avx2,fma")]
unsafe fn tile_f32(rows: usize, k: usize, a: Strided, b: *const u32, c: *mut f32, add: bool) {
    if rows == 1 {
        // SAFETY: passed on from the caller.
        return unsafe { avx2_row::f32(k, a, b, c, add) };
    }
    for half in [0, PANEL / 2] {
        // SAFETY: passed on from the caller; both halves lie within the panel.
        unsafe { for_rows!(rows, fixed_f32(k, a, b.add(half).cast(), c.add(half), add)) }
    }
}

/// `R` rows and 16 columns of f32.
#[target_feature(enable = "avx2,fma")]
unsafe fn fixed_f32<const R: usize>(k: usize, a: Strided, b: *const f32, c: *mut f32, add: bool) {
    let mut acc = [[_mm256_setzero_ps(); 2]; R];
    if add {
        // SAFETY: the caller promises R rows of 32.
        unsafe { load(&mut acc, c) };
    }
    for i in 0..k {
        // SAFETY: the caller promises k words in each row of A and k x 32 words of B.
        unsafe {
            let b = b.add(i * PANEL);
            step(
                &mut acc,
                a.words.byte_add(i * a.step).cast(),
                a.row,
                [_mm256_loadu_ps(b), _mm256_loadu_ps(b.add(8))],
            );
        }
    }
    // SAFETY: the caller promises room for R rows of 32.
    unsafe { store(&acc, c) };
}

/// One step of K: adds to the sums the product of a column of A, whose rows are `a_row` bytes apart, and a row of B.
///
/// # Safety
/// A has R rows.
#[inline]
#[target_feature(enable = "avx2,fma")]
unsafe fn step<const R: usize>(acc: &mut [[__m256; 2]; R], a: *const f32, a_row: usize, b: [__m256; 2]) {
    for (r, [left, right]) in acc.iter_mut().enumerate() {
        // SAFETY: the caller's promise. Rows may start at any even address.
        let a = _mm256_set1_ps(unsafe { a.byte_add(r * a_row).read_unaligned() });
        *left = _mm256_fmadd_ps(a, b[0], *left);
        *right = _mm256_fmadd_ps(a, b[1], *right);
    }
}

/// A load that is not merged with an earlier one of the same address. Between the two halves of a word all 16 registers
/// are in use: kept in one, the words would push sums out to memory, at about 60 % of the speed.
///
/// # Safety
/// As for a read of `b`, which may be unaligned.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn load_again(b: *const __m256i) -> __m256i {
    let words: __m256i;
    // SAFETY: reads 32 bytes at `b`, as the caller promises, and nothing else.
    unsafe {
        asm!("vmovdqu {words}, ymmword ptr [{b}]", words = lateout(ymm_reg) words, b = in(reg) b, options(nostack, preserves_flags, readonly));
    }
    words
}

/// Reads the sums from rows of `c`, 32 apart.
///
/// # Safety
/// They are there.
#[inline]
#[target_feature(enable = "avx2,fma")]
unsafe fn load<const R: usize>(acc: &mut [[__m256; 2]; R], c: *const f32) {
    for (r, [left, right]) in acc.iter_mut().enumerate() {
        // SAFETY: the caller's promise.
        unsafe {
            *left = _mm256_loadu_ps(c.add(r * PANEL));
            *right = _mm256_loadu_ps(c.add(r * PANEL + 8));
        }
    }
}

/// Writes the sums to rows of `c`, 32 apart.
///
/// # Safety
/// There is room for them.
#[inline]
#[target_feature(enable = "avx2,fma")]
unsafe fn store<const R: usize>(acc: &[[__m256; 2]; R], c: *mut f32) {
    for (r, [left, right]) in acc.iter().enumerate() {
        // SAFETY: the caller's promise.
        unsafe {
            _mm256_storeu_ps(c.add(r * PANEL), *left);
            _mm256_storeu_ps(c.add(r * PANEL + 8), *right);
        }
    }
}

/// The bf16 kernel: see `Kernel::run`. More rows than one are those that `widen_bf16` has made.
#[target_feature(enable = "avx2,fma")]
unsafe fn tile_bf16(rows: usize, k: usize, a: Strided, b: *const u32, c: *mut f32, add: bool) {
    if rows == 1 {
        // SAFETY: passed on from the caller.
        return unsafe { avx2_row::bf16(k, a, b, c, add) };
    }
    for half in [0, PANEL / 2] {
        // SAFETY: passed on from the caller; both halves lie within the panel.
        unsafe { for_rows!(rows, fixed_bf16(k, a, b.add(half), c.add(half), add)) }
    }
}

/// `R` rows and 16 columns of bf16 pairs.
#[target_feature(enable = "avx2,fma")]
unsafe fn fixed_bf16<const R: usize>(k: usize, a: Strided, b: *const u32, c: *mut f32, add: bool) {
    let mut acc = [[_mm256_setzero_ps(); 2]; R];
    if add {
        // SAFETY: the caller promises R rows of 32.
        unsafe { load(&mut acc, c) };
    }
    let high = _mm256_set1_epi32(0xffff_0000_u32 as i32);
    for i in 0..k {
        // SAFETY: the caller promises k widened words of each row of A, two columns each, and k x 32 words of B.
        unsafe {
            let (a, b) = (a.words.byte_add(i * a.step).cast::<f32>(), b.add(i * PANEL).cast::<__m256i>());
            let low = |b| _mm256_castsi256_ps(_mm256_slli_epi32::<16>(load_again(b)));
            let high = |b| _mm256_castsi256_ps(_mm256_and_si256(load_again(b), high));
            step(&mut acc, a, 4, [low(b), low(b.add(1))]);
            step(&mut acc, a.add(R), 4, [high(b), high(b.add(1))]);
        }
    }
    // SAFETY: the caller promises room for R rows of 32.
    unsafe { store(&acc, c) };
}

/// Makes `wide[k][2][rows]` f32 of `k` words of A: the low halves of a word of each row, then the high halves. See `Kernel::widen`.
#[target_feature(enable = "avx2,fma")]
unsafe fn widen_bf16(rows: usize, k: usize, a: Strided, wide: *mut f32) -> Strided {
    if rows == 1 {
        return a;
    }
    // SAFETY: passed on from the caller.
    unsafe { for_rows!(rows, widen(k, a, wide.cast())) }
    Strided { words: wide.cast(), row: 4, step: 8 * rows, next: wide.cast(), next_step: 0 }
}

/// `widen_bf16` for `R` rows.
#[target_feature(enable = "avx2,fma")]
unsafe fn widen<const R: usize>(k: usize, a: Strided, wide: *mut [[f32; R]; 2]) {
    for i in 0..k {
        let (mut low, mut high) = ([0.0; R], [0.0; R]);
        for r in 0..R {
            // SAFETY: the caller promises that A has R rows of k words. They may start at any even address.
            let word = unsafe { a.words.byte_add(i * a.step + r * a.row).read_unaligned() };
            low[r] = f32::from_bits(word << 16);
            high[r] = f32::from_bits(word & 0xffff_0000);
        }
        // SAFETY: the caller promises room for 2 k columns.
        unsafe { wide.add(i).write([low, high]) };
    }
}
