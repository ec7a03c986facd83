//! Numbers of 16 bits.

use half::f16;
use std::sync::LazyLock;

/// Every f16's value: a look is faster than a conversion.
static F16_VALUES: LazyLock<Vec<f32>> =
    LazyLock::new(|| (0..=u16::MAX).map(|bits| f16::from_bits(bits).to_f32()).collect());

/// The value of an f16's bits.
pub(crate) fn f16_value(bits: u16) -> f32 {
    F16_VALUES[usize::from(bits)]
}

/// The value of a bf16's bits.
#[inline(always)]
pub(crate) fn bf16_value(bits: u16) -> f32 {
    f32::from_bits(u32::from(bits) << 16)
}

/// The bits of the nearest f16.
pub(crate) fn f16_of(x: f32) -> u16 {
    if x.is_nan() { 0x7fff } else { f16::from_f32(x).to_bits() }
}

/// The bits of the nearest bf16.
#[inline(always)]
pub(crate) fn bf16_of(x: f32) -> u16 {
    let bits = x.to_bits();
    let rounded = (bits.wrapping_add(0x7fff + (bits >> 16 & 1)) >> 16) as u16;
    if x.is_nan() { 0x7fff } else { rounded }
}
