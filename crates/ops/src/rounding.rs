//! How compute copies are rounded: to the nearest number, or up or down by chance, so that they are right on average.
//!
//! An update may move a weight by less than half the distance of two bf16. Rounded to nearest, the copy that the network
//! computes with then stays where it was for many updates; rounded by chance, it moves in as many of them as it should. Gupta et
//! al., "Deep Learning with Limited Numerical Precision" (2015).
//!
//! ```text
//! x between its neighbours a < b in bf16:   b with probability (x - a) / (b - a), else a
//! ```
//!
//! The trick: bf16 is the upper half of an f32, so 16 random bits are added to the f32's bits, and the lower half is cut off.

use crate::cpu::{Simd, Task};
use crate::element::Bf16;
use crate::random::{mix, slice_key};

/// How compute copies are rounded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Rounding {
    /// To the nearest number, ties to even.
    #[default]
    Nearest,
    /// To bf16 by chance. Element i of tensor t takes the bits that a hash makes of (`key`, t, i), which are the same on every
    /// device.
    Stochastic {
        /// Names the run and the update.
        key: u64,
    },
}

impl Rounding {
    /// The key of one of many tensors; `None` for rounding to nearest.
    pub(crate) fn key_of(self, tensor: usize) -> Option<u64> {
        match self {
            Rounding::Nearest => None,
            Rounding::Stochastic { key } => Some(slice_key(key, tensor as u64)),
        }
    }
}

/// `value` rounded to a neighbour in bf16, as element `index` under `key`.
///
/// What bf16 holds stays as it is. Numbers beyond the largest of bf16 become that one: rounding makes no infinity, as rounding
/// to nearest does. Infinities stay, and a NaN stays one.
#[inline(always)]
fn stochastic(value: f32, key: u64, index: u32) -> u32 {
    const LARGEST: u32 = 0x7f7f_0000;
    let (bits, random) = (value.to_bits(), mix(key, index) >> 16);
    let magnitude = bits & 0x7fff_ffff;
    // From the largest on a carry would leave the finite numbers.
    let rounded = if magnitude < LARGEST { bits + random } else { bits };
    // A NaN whose payload sits in the low half would be cut to an infinity: force a quiet NaN.
    (if magnitude > 0x7f80_0000 { rounded | 0x0040_0000 } else { rounded }) >> 16
}

/// Sets `out` to `values` rounded by chance, elements `start ..` of their tensor.
pub(crate) struct RoundStochastically<'a> {
    pub(crate) out: &'a mut [Bf16],
    pub(crate) values: &'a [f32],
    pub(crate) key: u64,
    pub(crate) start: usize,
}

impl Task for RoundStochastically<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self) {
        let RoundStochastically { out, values, key, start } = self;
        for (i, (out, value)) in out.iter_mut().zip(values).enumerate() {
            *out = Bf16::from_bits(stochastic(*value, key, (start + i) as u32) as u16);
        }
    }
}

/// The rule as it is said, in numbers instead of bits: for finite values up to the largest of bf16.
#[cfg(test)]
pub(crate) fn reference(value: f32, key: u64, index: u32) -> f32 {
    let below = f32::from_bits(value.to_bits() & 0xffff_0000);
    let above = f32::from_bits((value.to_bits() & 0xffff_0000) + 0x1_0000);
    // Both away from zero, and exact in f64.
    let share = f64::from(value - below) / (f64::from(above) - f64::from(below));
    let draw = f64::from(mix(key, index) >> 16) / 65_536.0;
    if draw + share >= 1.0 { above } else { below }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::element::Element;
    use crate::{Isa, Rng};

    fn round(isa: Isa, values: &[f32], key: u64, start: usize) -> Vec<f32> {
        let mut out = vec![Bf16::ZERO; values.len()];
        isa.run(RoundStochastically { out: &mut out, values, key, start });
        out.into_iter().map(Element::to_f32).collect()
    }

    fn isas() -> impl Iterator<Item = Isa> {
        Isa::ALL.into_iter().filter(|isa| isa.is_available())
    }

    #[test]
    fn every_instruction_set_follows_the_rule() {
        let mut rng = Rng::new(5);
        // Of all sizes, denormal numbers included.
        let values = (0..10_007).map(|i| (rng.normal() * 2f64.powi(i % 270 - 140)) as f32);
        let values: Vec<f32> = values.filter(|x| x.abs() < 1e38).collect();
        for isa in isas() {
            for (i, got) in round(isa, &values, 9, 31).into_iter().enumerate() {
                let want = reference(values[i], 9, 31 + i as u32);
                assert!(got == want, "{isa}: {:e} becomes {got:e}, not {want:e}", values[i]);
            }
        }
    }

    #[test]
    fn what_is_not_between_two_numbers_stays() {
        let largest = Bf16::MAX.to_f32();
        let held = [0.0, -0.0, 1.0, -1.5, largest, -largest, f32::INFINITY, f32::NEG_INFINITY, 1e-40, -3.0];
        let held: Vec<f32> = held.iter().map(|x| <Bf16 as Element>::from_f32(*x).to_f32()).collect();
        let bits = |x: &[f32]| x.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
        for isa in isas() {
            for key in 0..1000 {
                assert_eq!(bits(&round(isa, &held, key, 0)), bits(&held), "{isa}");
                assert_eq!(round(isa, &[f32::MAX, -f32::MAX], key, 0), [largest, -largest], "{isa}");
                let nans = [f32::NAN, -f32::NAN, f32::from_bits(0x7f80_0001), f32::from_bits(0xffff_ffff)];
                assert!(round(isa, &nans, key, 0).iter().all(|x| x.is_nan()), "{isa}");
            }
        }
    }
}
