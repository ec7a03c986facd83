//! Micro-kernels in plain Rust: 4 rows x 8 columns at a time, which the compiler's baseline (SSE2 or NEON) keeps in
//! registers as 4 x 2 vectors of four.

use super::{Kernel, PANEL, Strided};

/// bf16 pairs, widened.
pub(super) const BF16: Kernel = Kernel { height: 4, tile: tile::<Pairs>, widen: None };
/// f32.
pub(super) const F32: Kernel = Kernel { height: 4, tile: tile::<Floats>, widen: None };

const COLUMNS: usize = 8;

/// One step of a sum over a word of each operand.
trait Dot {
    fn dot(acc: f32, a: u32, b: u32) -> f32;
}

struct Pairs;
impl Dot for Pairs {
    #[inline(always)]
    fn dot(acc: f32, a: u32, b: u32) -> f32 {
        let low = |x: u32| f32::from_bits(x << 16);
        let high = |x: u32| f32::from_bits(x & 0xffff_0000);
        high(a) * high(b) + (low(a) * low(b) + acc)
    }
}

struct Floats;
impl Dot for Floats {
    #[inline(always)]
    fn dot(acc: f32, a: u32, b: u32) -> f32 {
        f32::from_bits(a) * f32::from_bits(b) + acc
    }
}

unsafe fn tile<D: Dot>(rows: usize, k: usize, a: Strided, b: *const u32, c: *mut f32, add: bool) {
    for column in (0..PANEL).step_by(COLUMNS) {
        // SAFETY: passed on from the caller; the columns lie within the panel.
        unsafe {
            let (b, c) = (b.add(column), c.add(column));
            match rows {
                4 => fixed::<D, 4>(k, a, b, c, add),
                3 => fixed::<D, 3>(k, a, b, c, add),
                2 => fixed::<D, 2>(k, a, b, c, add),
                1 => fixed::<D, 1>(k, a, b, c, add),
                _ => unreachable!("a tile has 1 to 4 rows, not {rows}"),
            }
        }
    }
}

unsafe fn fixed<D: Dot, const R: usize>(k: usize, a: Strided, b: *const u32, c: *mut f32, add: bool) {
    let mut acc = [[0.0f32; COLUMNS]; R];
    if add {
        for (r, sums) in acc.iter_mut().enumerate() {
            // SAFETY: the caller promises R rows of 32.
            *sums = unsafe { c.add(r * PANEL).cast::<[f32; COLUMNS]>().read() };
        }
    }
    for i in 0..k {
        // SAFETY: the caller promises k words in each row of A and k x 32 words of B.
        let b = unsafe { b.add(i * PANEL).cast::<[u32; COLUMNS]>().read() };
        for (r, sums) in acc.iter_mut().enumerate() {
            // SAFETY: as above. Rows of bf16 may start at any even address.
            let word = unsafe { a.words.byte_add(i * a.step + r * a.row).read_unaligned() };
            for (sum, b) in sums.iter_mut().zip(b) {
                *sum = D::dot(*sum, word, b);
            }
        }
    }
    for (r, sums) in acc.into_iter().enumerate() {
        // SAFETY: the caller promises room for R rows of 32.
        unsafe { c.add(r * PANEL).cast::<[f32; COLUMNS]>().write(sums) };
    }
}
