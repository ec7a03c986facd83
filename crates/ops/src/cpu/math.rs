//! Elementary functions that vectorize, and sums with a fixed order.

use super::Simd;

/// Lanes of the fixed-order sums: one vector of 512 bits.
pub(crate) const LANES: usize = 16;

/// e^x, within 2 units in the last place; 0 below -87.3, where the result would be denormal; saturates above 88.
///
/// Range reduction to |r| <= ln 2 / 2 with ln 2 in two parts, then a polynomial of degree 6 (Cephes `expf`).
#[inline(always)]
#[expect(clippy::excessive_precision, reason = "the constants are exact in f32")]
pub(crate) fn exp<S: Simd>(x: f32) -> f32 {
    // Adding 1.5 x 2^23 rounds to an integer and leaves it in the low bits.
    const ROUND: f32 = 12_582_912.0;
    let clamped = x.clamp(-87.3, 88.0);
    let shifted = S::fma(clamped, std::f32::consts::LOG2_E, ROUND);
    let n = shifted - ROUND;
    let r = S::fma(n, -0.693_359_375, clamped);
    let r = S::fma(n, 2.121_944_4e-4, r);
    let mut p = 1.987_569_15e-4;
    p = S::fma(p, r, 1.398_199_95e-3);
    p = S::fma(p, r, 8.333_451_9e-3);
    p = S::fma(p, r, 4.166_579_6e-2);
    p = S::fma(p, r, 1.666_666_55e-1);
    p = S::fma(p, r, 5.000_000_1e-1);
    let y = S::fma(p * r, r, r) + 1.0;
    let scale = f32::from_bits(shifted.to_bits().wrapping_sub(ROUND.to_bits()).wrapping_add(127) << 23);
    if x < -87.3 { 0.0 } else { y * scale }
}

/// 2 sqrt(2/pi): gelu_new(x) = x sigmoid(GELU_SCALE (x + 0.044715 x^3)).
const GELU_SCALE: f32 = 1.595_769;
const GELU_CUBIC: f32 = 0.044_715;

/// GPT-2's GELU.
#[inline(always)]
pub(crate) fn gelu<S: Simd>(x: f32) -> f32 {
    let u = GELU_SCALE * S::fma(GELU_CUBIC * x * x, x, x);
    x / (1.0 + exp::<S>(-u))
}

/// Derivative of [`gelu`]: s + x s (1 - s) u', s = sigmoid(u), u' = GELU_SCALE (1 + 3 x 0.044715 x^2).
#[inline(always)]
pub(crate) fn gelu_grad<S: Simd>(x: f32) -> f32 {
    let square = x * x;
    let u = GELU_SCALE * S::fma(GELU_CUBIC * square, x, x);
    let du = GELU_SCALE * S::fma(3.0 * GELU_CUBIC, square, 1.0);
    let s = 1.0 / (1.0 + exp::<S>(-u));
    S::fma(x * s * (1.0 - s), du, s)
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
    fn exp_is_within_two_ulp() {
        for i in -87_000..88_000 {
            let x = i as f32 / 1000.0;
            let (got, want) = (f64::from(exp::<Fused>(x)), f64::from(x).exp());
            assert!((got - want).abs() <= 2.0 * f64::from(f32::EPSILON) * want, "{x}: {got} {want}");
        }
        assert_eq!(exp::<Fused>(f32::NEG_INFINITY), 0.0);
        assert_eq!(exp::<Fused>(0.0), 1.0);
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
