//! The element types of activations: f32, bf16, and f16 on GPUs. Statistics, losses, gradients and master weights are always f32.

use crate::device::Scalar;

/// bfloat16: the upper half of an f32.
pub type Bf16 = half::bf16;

/// IEEE half precision: more digits than bf16, and a range that training leaves unless its loss is scaled.
pub type F16 = half::f16;

/// A floating-point type that activations and compute copies of weights may have.
pub trait Element: Scalar + PartialEq + std::fmt::Debug {
    /// The name used in files and messages: `float32`, `bfloat16` or `float16`.
    const NAME: &'static str;
    /// Widens to f32; exact.
    fn to_f32(self) -> f32;
    /// Narrows from f32, rounding to nearest even.
    fn from_f32(value: f32) -> Self;
    /// Its bits, in the low part of a word.
    fn bits(self) -> u32;
}

impl Element for f32 {
    const NAME: &'static str = "float32";
    #[inline(always)]
    fn to_f32(self) -> f32 {
        self
    }
    #[inline(always)]
    fn from_f32(value: f32) -> Self {
        value
    }
    #[inline(always)]
    fn bits(self) -> u32 {
        self.to_bits()
    }
}

impl Element for Bf16 {
    const NAME: &'static str = "bfloat16";
    #[inline(always)]
    fn to_f32(self) -> f32 {
        f32::from_bits(u32::from(self.to_bits()) << 16)
    }
    /// Rounds to nearest even without a branch on NaN payloads, so that loops over it vectorize.
    #[inline(always)]
    fn from_f32(value: f32) -> Self {
        let bits = value.to_bits();
        let rounded = bits.wrapping_add(0x7fff + ((bits >> 16) & 1)) >> 16;
        // A NaN whose payload sits in the low half would round to infinity: force a quiet NaN.
        let nan = (bits >> 16) | 0x40;
        let is_nan = (bits & 0x7fff_ffff) > 0x7f80_0000;
        Bf16::from_bits(if is_nan { nan } else { rounded } as u16)
    }
    #[inline(always)]
    fn bits(self) -> u32 {
        u32::from(self.to_bits())
    }
}

impl Element for F16 {
    const NAME: &'static str = "float16";
    #[inline(always)]
    fn to_f32(self) -> f32 {
        F16::to_f32(self)
    }
    #[inline(always)]
    fn from_f32(value: f32) -> Self {
        F16::from_f32(value)
    }
    #[inline(always)]
    fn bits(self) -> u32 {
        u32::from(self.to_bits())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bf16_rounds_as_half_does() {
        for i in 0..1_000_000u32 {
            let x = f32::from_bits(i.wrapping_mul(4_294_967_291).rotate_left(7) ^ i);
            let (ours, theirs) = (<Bf16 as Element>::from_f32(x), half::bf16::from_f32(x));
            assert!(ours == theirs || (ours.is_nan() && theirs.is_nan()), "{x:e}: {ours} {theirs}");
        }
    }
}
