//! Elementary functions that vectorize, and sums with a fixed order.

use super::Simd;
use crate::element::Element;
use bytemuck::Zeroable;

/// Lanes of the fixed-order sums: one vector of 512 bits.
pub(crate) const LANES: usize = 16;

/// `[f(0), f(1), ..]`. What `std::array::from_fn` and `map` of an array call may be left out of line by the compiler, and is
/// then not compiled for the instruction set of the kernel that it is called in.
#[inline(always)]
pub(crate) fn lanes<T: Copy + Zeroable, const N: usize>(f: impl Fn(usize) -> T) -> [T; N] {
    let mut out = [T::zeroed(); N];
    for (i, o) in out.iter_mut().enumerate() {
        *o = f(i);
    }
    out
}

/// 2^x, within 1.7e-7 of its value; 0 below -126.5, where the result would be denormal; saturates above 127.
///
/// x = n + r with |r| <= 1/2, then a polynomial of degree 5 for 2^r, of least relative error (Lawson's iteration).
#[inline(always)]
pub(crate) fn exp2<S: Simd>(x: f32) -> f32 {
    exp2_of_sum::<S>(x, 0.0)
}

/// 2^(x + rest), `rest` being too small to change x.
#[inline(always)]
fn exp2_of_sum<S: Simd>(x: f32, rest: f32) -> f32 {
    // Adding 1.5 x 2^23 rounds to an integer and leaves it in the low bits: here with the bias of an exponent.
    const ROUND: f32 = 12_582_912.0 + 127.0;
    // Where an exact ln 2 would leave a larger error elsewhere.
    const NEARLY_LN_2: f32 = f32::from_bits(0x3f31_7215);
    let x = x.clamp(-127.0, 127.0);
    let shifted = x + ROUND;
    let r = x - (shifted - ROUND) + rest;
    let mut p = 1.326_472_7e-3;
    p = S::fma(p, r, 9.671_513e-3);
    p = S::fma(p, r, 5.550_733_6e-2);
    p = S::fma(p, r, 2.402_224_2e-1);
    p = S::fma(p, r, NEARLY_LN_2);
    p = S::fma(p, r, 1.0);
    p * f32::from_bits(shifted.to_bits() << 23)
}

/// e^x, within 2 units in the last place where it is not 0: 2^(x log2 e), with what the product's rounding left out.
#[inline(always)]
pub(crate) fn exp<S: Simd>(x: f32) -> f32 {
    const HIGH: f32 = std::f32::consts::LOG2_E;
    const LOW: f32 = (std::f64::consts::LOG2_E - HIGH as f64) as f32;
    // Beyond these e^x is 0 or saturates, and an infinity would leave no rest.
    let x = x.clamp(-89.0, 89.0);
    let product = x * HIGH;
    exp2_of_sum::<S>(product, S::fma(x, LOW, S::fma(x, HIGH, -product)))
}

/// gelu_new(x) = x sigmoid(2 sqrt(2/pi) (x + 0.044715 x^3)) = x / (1 + 2^-u), u = GELU_LINEAR x + GELU_CUBIC x^3.
const GELU_LINEAR: f32 = 1.595_769_2 * std::f32::consts::LOG2_E;
const GELU_CUBIC: f32 = 0.044_715 * GELU_LINEAR;

/// sigmoid of x's argument.
#[inline(always)]
fn gelu_sigmoid<S: Simd>(x: f32, square: f32) -> f32 {
    1.0 / (1.0 + exp2::<S>(x * S::fma(-GELU_CUBIC, square, -GELU_LINEAR)))
}

/// GPT-2's GELU.
#[inline(always)]
pub(crate) fn gelu<S: Simd>(x: f32) -> f32 {
    x * gelu_sigmoid::<S>(x, x * x)
}

/// Derivative of [`gelu`]: s + s (1 - s) (x u' ln 2), s = sigmoid.
#[inline(always)]
pub(crate) fn gelu_grad<S: Simd>(x: f32) -> f32 {
    const LINEAR: f32 = GELU_LINEAR * std::f32::consts::LN_2;
    const CUBIC: f32 = 3.0 * GELU_CUBIC * std::f32::consts::LN_2;
    let square = x * x;
    let s = gelu_sigmoid::<S>(x, square);
    S::fma(s * (1.0 - s), x * S::fma(CUBIC, square, LINEAR), s)
}

/// The products of two rows of equal length, in lanes that are still to be added.
#[inline(always)]
pub(crate) fn dot_lanes<S: Simd, X: Element, Y: Element>(x: &[X], y: &[Y]) -> [f32; LANES] {
    let mut sums = [0.0; LANES];
    let ((x, x_rest), (y, y_rest)) = (x.as_chunks::<LANES>(), y.as_chunks::<LANES>());
    for (x, y) in x.iter().zip(y) {
        let before = sums;
        sums = lanes(|j| S::fma(x[j].to_f32(), y[j].to_f32(), before[j]));
    }
    if !x_rest.is_empty() {
        // Filled up, so that the sums are added to as a vector: lane by lane they would go through memory, for all lengths.
        let (mut x, mut y, before) = ([0.0; LANES], [0.0; LANES], sums);
        x.iter_mut().zip(x_rest).for_each(|(x, rest)| *x = rest.to_f32());
        y.iter_mut().zip(y_rest).for_each(|(y, rest)| *y = rest.to_f32());
        sums = lanes(|j| S::fma(x[j], y[j], before[j]));
    }
    sums
}

/// The sum of lanes as a balanced tree.
#[inline(always)]
pub(crate) fn sum_lanes(mut lanes: [f32; LANES]) -> f32 {
    let mut width = LANES / 2;
    while width > 0 {
        for i in 0..width {
            lanes[i] += lanes[i + width];
        }
        width /= 2;
    }
    lanes[0]
}

/// The sums of columns, in the order of the rows.
#[inline(always)]
pub(crate) fn sum_columns(rows: &[[f32; LANES]; LANES]) -> [f32; LANES] {
    let mut sums = rows[0];
    for row in &rows[1..] {
        let before = sums;
        sums = lanes(|j| before[j] + row[j]);
    }
    sums
}

/// The largest lane.
#[inline(always)]
pub(crate) fn max_lanes(mut lanes: [f32; LANES]) -> f32 {
    let mut width = LANES / 2;
    while width > 0 {
        for i in 0..width {
            lanes[i] = if lanes[i + width] > lanes[i] { lanes[i + width] } else { lanes[i] };
        }
        width /= 2;
    }
    lanes[0]
}

#[cfg(test)]
mod tests {
    use super::super::isa::Fused;
    use super::*;

    #[test]
    fn powers_are_within_their_errors() {
        let epsilon = f64::from(f32::EPSILON);
        for i in -126_000..127_000 {
            let x = i as f32 / 1000.0;
            let (got, want) = (f64::from(exp2::<Fused>(x)), f64::from(x).exp2());
            assert!((got - want).abs() <= 1.5 * epsilon * want, "2^{x}: {got} {want}");
        }
        for i in -87_000..88_000 {
            let x = i as f32 / 1000.0;
            let (got, want) = (f64::from(exp::<Fused>(x)), f64::from(x).exp());
            assert!((got - want).abs() <= 2.0 * epsilon * want, "e^{x}: {got} {want}");
        }
        assert_eq!(exp::<Fused>(f32::NEG_INFINITY), 0.0);
        assert_eq!(exp2::<Fused>(-127.0), 0.0);
        assert_eq!(exp::<Fused>(0.0), 1.0);
        assert!(exp::<Fused>(f32::NAN).is_nan());
    }

    #[test]
    fn gelu_and_its_derivative() {
        for i in -8000..8000 {
            let x = f64::from(i) / 1000.0;
            let f = |x: f64| {
                0.5 * x * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x * x * x)).tanh())
            };
            let slope = (f(x + 1e-5) - f(x - 1e-5)) / 2e-5;
            assert!((f64::from(gelu::<Fused>(x as f32)) - f(x)).abs() < 1e-6 * (1.0 + x.abs()));
            assert!((f64::from(gelu_grad::<Fused>(x as f32)) - slope).abs() < 2e-6, "{x}");
        }
    }
}
