//! The registers of a warp, 32 lanes each, and arithmetic on all lanes at once.

use super::functions::{
    Compare, Double1, Double2, Double3, Logic, Narrow, Number, Shift, Widen, Word1, Word2, Word3,
};
use super::op::Slot;
use crate::numbers::{bf16_of, bf16_value, f16_of, f16_value};

/// Threads of a warp.
pub(super) const LANES: usize = 32;
/// All of them.
pub(super) const FULL: u32 = u32::MAX;

/// Registers by slot. Of a predicate, bit i is lane i's.
#[derive(Default)]
pub(super) struct Lanes {
    pub(super) words: Vec<[u32; LANES]>,
    pub(super) doubles: Vec<[u64; LANES]>,
    pub(super) predicates: Vec<u32>,
}

/// Sets the lanes of `mask`. All are computed, so that the loop has no branches.
macro_rules! set_lanes {
    ($d:expr, $mask:expr, $lane:ident, $value:expr) => {{
        let (d, mask): (_, u32) = ($d, $mask);
        if mask == FULL {
            for $lane in 0..LANES {
                d[$lane] = $value;
            }
        } else {
            for $lane in 0..LANES {
                d[$lane] = if mask >> $lane & 1 != 0 { $value } else { d[$lane] };
            }
        }
    }};
}

impl Lanes {
    /// Sets the lanes of `mask` in a predicate to their bits.
    pub(super) fn set_predicate(&mut self, d: Slot, mask: u32, bits: u32) {
        let d = &mut self.predicates[d as usize];
        *d = *d & !mask | bits & mask;
    }

    #[inline(always)]
    fn words_of_word(&mut self, mask: u32, d: Slot, a: Slot, f: impl Fn(u32) -> u32) {
        let a = self.words[a as usize];
        set_lanes!(&mut self.words[d as usize], mask, lane, f(a[lane]));
    }

    #[inline(always)]
    fn words_of_words(&mut self, mask: u32, d: Slot, a: Slot, b: Slot, f: impl Fn(u32, u32) -> u32) {
        let (a, b) = (self.words[a as usize], self.words[b as usize]);
        set_lanes!(&mut self.words[d as usize], mask, lane, f(a[lane], b[lane]));
    }

    #[inline(always)]
    fn floats_of_floats(&mut self, mask: u32, d: Slot, a: Slot, b: Slot, f: impl Fn(f32, f32) -> f32) {
        self.words_of_words(mask, d, a, b, |a, b| f(f32::from_bits(a), f32::from_bits(b)).to_bits());
    }

    #[inline(always)]
    fn doubles_of_double(&mut self, mask: u32, d: Slot, a: Slot, f: impl Fn(u64) -> u64) {
        let a = self.doubles[a as usize];
        set_lanes!(&mut self.doubles[d as usize], mask, lane, f(a[lane]));
    }

    #[inline(always)]
    fn doubles_of_doubles(&mut self, mask: u32, d: Slot, a: Slot, b: Slot, f: impl Fn(u64, u64) -> u64) {
        let (a, b) = (self.doubles[a as usize], self.doubles[b as usize]);
        set_lanes!(&mut self.doubles[d as usize], mask, lane, f(a[lane], b[lane]));
    }

    #[cfg_attr(target_arch = "x86_64", target_feature(enable = "avx2,fma,f16c,popcnt,lzcnt"))]
    pub(super) fn word1(&mut self, mask: u32, f: Word1, d: Slot, a: Slot) {
        let float = f32::from_bits;
        macro_rules! floats {
            ($f:expr) => {
                self.words_of_word(mask, d, a, |a| f32::to_bits($f(f32::from_bits(a))))
            };
        }
        match f {
            Word1::Move => self.words_of_word(mask, d, a, |a| a),
            Word1::Not => self.words_of_word(mask, d, a, |a| !a),
            Word1::Negate => self.words_of_word(mask, d, a, u32::wrapping_neg),
            Word1::CountOnes => self.words_of_word(mask, d, a, u32::count_ones),
            Word1::LeadingZeros => self.words_of_word(mask, d, a, u32::leading_zeros),
            Word1::Reverse => self.words_of_word(mask, d, a, u32::reverse_bits),
            Word1::Low16 => self.words_of_word(mask, d, a, |a| a & 0xffff),
            Word1::SignOf16 => self.words_of_word(mask, d, a, |a| i32::from(a as i16) as u32),
            Word1::NegateFloat => self.words_of_word(mask, d, a, |a| a ^ 0x8000_0000),
            Word1::Absolute => self.words_of_word(mask, d, a, |a| a & 0x7fff_ffff),
            Word1::SquareRoot => floats!(f32::sqrt),
            Word1::ReciprocalSquareRoot => floats!(|a: f32| 1.0 / a.sqrt()),
            Word1::Reciprocal => floats!(|a: f32| 1.0 / a),
            Word1::Power => floats!(f32::exp2),
            Word1::Logarithm => floats!(f32::log2),
            // What is no number becomes 0.
            Word1::Saturate => floats!(|a: f32| if a > 0.0 { a.min(1.0) } else { 0.0 }),
            Word1::FloatOfSigned => self.words_of_word(mask, d, a, |a| (a as i32 as f32).to_bits()),
            Word1::FloatOfUnsigned => self.words_of_word(mask, d, a, |a| (a as f32).to_bits()),
            Word1::SignedOfFloat => self.words_of_word(mask, d, a, |a| float(a) as i32 as u32),
            Word1::NearestOfFloat => floats!(f32::round_ties_even),
            Word1::FloatOfHalf => self.words_of_word(mask, d, a, |a| f16_value(a as u16).to_bits()),
            Word1::HalfOfFloat => self.words_of_word(mask, d, a, |a| u32::from(f16_of(float(a)))),
            Word1::BfloatOfFloat => self.words_of_word(mask, d, a, |a| u32::from(bf16_of(float(a)))),
        }
    }

    #[cfg_attr(target_arch = "x86_64", target_feature(enable = "avx2,fma,f16c,popcnt,lzcnt"))]
    pub(super) fn word2(&mut self, mask: u32, f: Word2, d: Slot, a: Slot, b: Slot) {
        macro_rules! words {
            ($f:expr) => {
                self.words_of_words(mask, d, a, b, $f)
            };
        }
        macro_rules! floats {
            ($f:expr) => {
                self.floats_of_floats(mask, d, a, b, $f)
            };
        }
        let signed = |f: fn(i32, i32) -> i32| move |a: u32, b: u32| f(a as i32, b as i32) as u32;
        match f {
            Word2::Add => words!(u32::wrapping_add),
            Word2::Subtract => words!(u32::wrapping_sub),
            Word2::Multiply => words!(u32::wrapping_mul),
            Word2::MultiplyHighSigned => {
                words!(|a, b| ((i64::from(a as i32) * i64::from(b as i32)) >> 32) as u32);
            }
            Word2::MultiplyHigh => words!(|a, b| ((u64::from(a) * u64::from(b)) >> 32) as u32),
            Word2::Add16 => words!(|a: u32, b| a.wrapping_add(b) & 0xffff),
            Word2::Subtract16 => words!(|a: u32, b| a.wrapping_sub(b) & 0xffff),
            Word2::Multiply16 => words!(|a: u32, b| a.wrapping_mul(b) & 0xffff),
            Word2::MultiplyHigh16 => words!(|a: u32, b| a.wrapping_mul(b) >> 16),
            // What a card makes of a division by zero is not said; these are not to be relied on.
            Word2::DivideSigned => words!(signed(|a, b| if b == 0 { -1 } else { a.wrapping_div(b) })),
            Word2::Divide => words!(|a, b| a.checked_div(b).unwrap_or(u32::MAX)),
            Word2::RemainderSigned => words!(signed(|a, b| if b == 0 { a } else { a.wrapping_rem(b) })),
            Word2::Remainder => words!(|a, b| a.checked_rem(b).unwrap_or(a)),
            Word2::MinSigned => words!(|a, b| (a as i32).min(b as i32) as u32),
            Word2::Min => words!(|a: u32, b| a.min(b)),
            Word2::MaxSigned => words!(|a, b| (a as i32).max(b as i32) as u32),
            Word2::Max => words!(|a: u32, b| a.max(b)),
            Word2::And => words!(|a, b| a & b),
            Word2::Or => words!(|a, b| a | b),
            Word2::Xor => words!(|a, b| a ^ b),
            Word2::ShiftLeft => words!(|a, b| if b < 32 { a << (b & 31) } else { 0 }),
            Word2::ShiftRight => words!(|a, b| if b < 32 { a >> (b & 31) } else { 0 }),
            Word2::ShiftRightSigned => words!(|a, b| ((a as i32) >> b.min(31)) as u32),
            Word2::AddFloat => floats!(|a, b| a + b),
            Word2::SubtractFloat => floats!(|a, b| a - b),
            Word2::MultiplyFloat => floats!(|a, b| a * b),
            Word2::DivideFloat => floats!(|a, b| a / b),
            Word2::MinFloat => floats!(f32::min),
            Word2::MaxFloat => floats!(f32::max),
            Word2::PairOfHalves => {
                words!(|a, b| pair(f16_of(f32::from_bits(b)), f16_of(f32::from_bits(a))));
            }
            Word2::PairOfBfloats => {
                words!(|a, b| pair(bf16_of(f32::from_bits(b)), bf16_of(f32::from_bits(a))));
            }
            Word2::MaxHalves => words!(|a, b| max_pair(a, b, f16_value)),
            Word2::MaxBfloats => words!(|a, b| max_pair(a, b, bf16_value)),
        }
    }

    #[cfg_attr(target_arch = "x86_64", target_feature(enable = "avx2,fma,f16c,popcnt,lzcnt"))]
    pub(super) fn word3(&mut self, mask: u32, f: Word3, [d, a, b, c]: [Slot; 4]) {
        let [a, b, c] = [a, b, c].map(|slot| self.words[slot as usize]);
        let d = &mut self.words[d as usize];
        let float = f32::from_bits;
        match f {
            Word3::IntegerMultiplyAdd => {
                set_lanes!(d, mask, lane, a[lane].wrapping_mul(b[lane]).wrapping_add(c[lane]));
            }
            Word3::FusedFloat => {
                set_lanes!(d, mask, lane, float(a[lane]).mul_add(float(b[lane]), float(c[lane])).to_bits());
            }
            Word3::FusedFloatDown => {
                set_lanes!(
                    d,
                    mask,
                    lane,
                    multiply_add_down(float(a[lane]), float(b[lane]), float(c[lane])).to_bits()
                );
            }
        }
    }

    pub(super) fn insert_word(&mut self, mask: u32, d: Slot, [a, b, position, length]: [Slot; 4]) {
        let [a, b, position, length] = [a, b, position, length].map(|slot| self.words[slot as usize]);
        let value = |lane: usize| {
            let bits = field(position[lane], length[lane]) as u32;
            b[lane] & !bits | u64::from(a[lane]).checked_shl(position[lane]).unwrap_or(0) as u32 & bits
        };
        set_lanes!(&mut self.words[d as usize], mask, lane, value(lane));
    }

    pub(super) fn insert_double(&mut self, mask: u32, d: Slot, [a, b, position, length]: [Slot; 4]) {
        let [a, b] = [a, b].map(|slot| self.doubles[slot as usize]);
        let [position, length] = [position, length].map(|slot| self.words[slot as usize]);
        let value = |lane: usize| {
            let bits = field(position[lane], length[lane]);
            b[lane] & !bits | a[lane].checked_shl(position[lane]).unwrap_or(0) & bits
        };
        set_lanes!(&mut self.doubles[d as usize], mask, lane, value(lane));
    }

    #[cfg_attr(target_arch = "x86_64", target_feature(enable = "avx2,fma,f16c,popcnt,lzcnt"))]
    pub(super) fn double1(&mut self, mask: u32, f: Double1, d: Slot, a: Slot) {
        let float = f64::from_bits;
        match f {
            Double1::Move => self.doubles_of_double(mask, d, a, |a| a),
            Double1::Not => self.doubles_of_double(mask, d, a, |a| !a),
            Double1::Negate => self.doubles_of_double(mask, d, a, u64::wrapping_neg),
            Double1::NegateFloat => self.doubles_of_double(mask, d, a, |a| (-float(a)).to_bits()),
            Double1::SquareRoot => self.doubles_of_double(mask, d, a, |a| float(a).sqrt().to_bits()),
            Double1::Reciprocal => self.doubles_of_double(mask, d, a, |a| (1.0 / float(a)).to_bits()),
        }
    }

    #[cfg_attr(target_arch = "x86_64", target_feature(enable = "avx2,fma,f16c,popcnt,lzcnt"))]
    pub(super) fn double2(&mut self, mask: u32, f: Double2, d: Slot, a: Slot, b: Slot) {
        macro_rules! doubles {
            ($f:expr) => {
                self.doubles_of_doubles(mask, d, a, b, $f)
            };
        }
        let signed = |f: fn(i64, i64) -> i64| move |a: u64, b: u64| f(a as i64, b as i64) as u64;
        let float =
            |f: fn(f64, f64) -> f64| move |a: u64, b: u64| f(f64::from_bits(a), f64::from_bits(b)).to_bits();
        match f {
            Double2::Add => doubles!(u64::wrapping_add),
            Double2::Subtract => doubles!(u64::wrapping_sub),
            Double2::Multiply => doubles!(u64::wrapping_mul),
            Double2::DivideSigned => doubles!(signed(|a, b| if b == 0 { -1 } else { a.wrapping_div(b) })),
            Double2::Divide => doubles!(|a, b| a.checked_div(b).unwrap_or(u64::MAX)),
            Double2::RemainderSigned => doubles!(signed(|a, b| if b == 0 { a } else { a.wrapping_rem(b) })),
            Double2::Remainder => doubles!(|a, b| a.checked_rem(b).unwrap_or(a)),
            Double2::MinSigned => doubles!(signed(i64::min)),
            Double2::Min => doubles!(|a: u64, b| a.min(b)),
            Double2::MaxSigned => doubles!(signed(i64::max)),
            Double2::Max => doubles!(|a: u64, b| a.max(b)),
            Double2::And => doubles!(|a, b| a & b),
            Double2::Or => doubles!(|a, b| a | b),
            Double2::Xor => doubles!(|a, b| a ^ b),
            Double2::AddFloat => doubles!(float(|a, b| a + b)),
            Double2::SubtractFloat => doubles!(float(|a, b| a - b)),
            Double2::MultiplyFloat => doubles!(float(|a, b| a * b)),
            Double2::DivideFloat => doubles!(float(|a, b| a / b)),
        }
    }

    #[cfg_attr(target_arch = "x86_64", target_feature(enable = "avx2,fma,f16c,popcnt,lzcnt"))]
    pub(super) fn double3(&mut self, mask: u32, f: Double3, [d, a, b, c]: [Slot; 4]) {
        let [a, b, c] = [a, b, c].map(|slot| self.doubles[slot as usize]);
        let d = &mut self.doubles[d as usize];
        let float = f64::from_bits;
        match f {
            Double3::MultiplyAdd => {
                set_lanes!(d, mask, lane, a[lane].wrapping_mul(b[lane]).wrapping_add(c[lane]));
            }
            Double3::MultiplyAddFloat => {
                set_lanes!(d, mask, lane, float(a[lane]).mul_add(float(b[lane]), float(c[lane])).to_bits());
            }
        }
    }

    #[cfg_attr(target_arch = "x86_64", target_feature(enable = "avx2,fma,f16c,popcnt,lzcnt"))]
    pub(super) fn shift_double(&mut self, mask: u32, f: Shift, d: Slot, a: Slot, b: Slot) {
        let (a, b) = (self.doubles[a as usize], self.words[b as usize]);
        let d = &mut self.doubles[d as usize];
        match f {
            Shift::Left => {
                set_lanes!(d, mask, lane, if b[lane] < 64 { a[lane] << (b[lane] & 63) } else { 0 });
            }
            Shift::Right => {
                set_lanes!(d, mask, lane, if b[lane] < 64 { a[lane] >> (b[lane] & 63) } else { 0 });
            }
            Shift::RightSigned => set_lanes!(d, mask, lane, ((a[lane] as i64) >> b[lane].min(63)) as u64),
        }
    }

    #[cfg_attr(target_arch = "x86_64", target_feature(enable = "avx2,fma,f16c,popcnt,lzcnt"))]
    pub(super) fn widen(&mut self, mask: u32, f: Widen, d: Slot, a: Slot) {
        let a = self.words[a as usize];
        let d = &mut self.doubles[d as usize];
        match f {
            Widen::Unsigned => set_lanes!(d, mask, lane, u64::from(a[lane])),
            Widen::Signed => set_lanes!(d, mask, lane, i64::from(a[lane] as i32) as u64),
            Widen::Float => set_lanes!(d, mask, lane, f64::from(f32::from_bits(a[lane])).to_bits()),
            Widen::FloatOfSigned => set_lanes!(d, mask, lane, f64::from(a[lane] as i32).to_bits()),
            Widen::FloatOfUnsigned => set_lanes!(d, mask, lane, f64::from(a[lane]).to_bits()),
        }
    }

    #[cfg_attr(target_arch = "x86_64", target_feature(enable = "avx2,fma,f16c,popcnt,lzcnt"))]
    pub(super) fn narrow(&mut self, mask: u32, f: Narrow, d: Slot, a: Slot) {
        let a = self.doubles[a as usize];
        let d = &mut self.words[d as usize];
        match f {
            Narrow::Low => set_lanes!(d, mask, lane, a[lane] as u32),
            Narrow::Low16 => set_lanes!(d, mask, lane, u32::from(a[lane] as u16)),
            Narrow::Float => set_lanes!(d, mask, lane, (f64::from_bits(a[lane]) as f32).to_bits()),
            Narrow::FloatOfSigned => set_lanes!(d, mask, lane, (a[lane] as i64 as f32).to_bits()),
            Narrow::FloatOfUnsigned => set_lanes!(d, mask, lane, (a[lane] as f32).to_bits()),
        }
    }

    #[cfg_attr(target_arch = "x86_64", target_feature(enable = "avx2,fma,f16c,popcnt,lzcnt"))]
    pub(super) fn multiply_wide(
        &mut self,
        mask: u32,
        is_signed: bool,
        [d, a, b]: [Slot; 3],
        c: Option<Slot>,
    ) {
        let [a, b] = [a, b].map(|slot| self.words[slot as usize]);
        let c = c.map_or([0; LANES], |c| self.doubles[c as usize]);
        let product = |a: u32, b: u32| match is_signed {
            true => (i64::from(a as i32) * i64::from(b as i32)) as u64,
            false => u64::from(a) * u64::from(b),
        };
        let d = &mut self.doubles[d as usize];
        set_lanes!(d, mask, lane, product(a[lane], b[lane]).wrapping_add(c[lane]));
    }

    pub(super) fn join(&mut self, mask: u32, d: Slot, low: Slot, high: Slot) {
        let [low, high] = [low, high].map(|slot| self.words[slot as usize]);
        let d = &mut self.doubles[d as usize];
        set_lanes!(d, mask, lane, u64::from(high[lane]) << 32 | u64::from(low[lane]));
    }

    pub(super) fn split(&mut self, mask: u32, low: Slot, high: Slot, a: Slot) {
        let a = self.doubles[a as usize];
        set_lanes!(&mut self.words[low as usize], mask, lane, a[lane] as u32);
        set_lanes!(&mut self.words[high as usize], mask, lane, (a[lane] >> 32) as u32);
    }

    pub(super) fn join_halves(&mut self, mask: u32, d: Slot, low: Slot, high: Slot) {
        self.words_of_words(mask, d, low, high, |low, high| high << 16 | low & 0xffff);
    }

    pub(super) fn split_halves(&mut self, mask: u32, low: Slot, high: Slot, a: Slot) {
        let a = self.words[a as usize];
        set_lanes!(&mut self.words[low as usize], mask, lane, a[lane] & 0xffff);
        set_lanes!(&mut self.words[high as usize], mask, lane, a[lane] >> 16);
    }

    #[cfg_attr(target_arch = "x86_64", target_feature(enable = "avx2,fma,f16c,popcnt,lzcnt"))]
    pub(super) fn compare_words(&mut self, mask: u32, f: Compare, number: Number, [d, a, b]: [Slot; 3]) {
        let [a, b] = [a, b].map(|slot| &self.words[slot as usize]);
        let bits = match number {
            Number::Unsigned => compare(f, a, b, |a| a),
            Number::Signed => compare(f, a, b, |a| a as i32),
            Number::Signed16 => compare(f, a, b, |a| a as i16),
            Number::Ordered => compare_floats(f, false, a, b, f32::from_bits),
            Number::Unordered => compare_floats(f, true, a, b, f32::from_bits),
        };
        self.set_predicate(d, mask, bits);
    }

    #[cfg_attr(target_arch = "x86_64", target_feature(enable = "avx2,fma,f16c,popcnt,lzcnt"))]
    pub(super) fn compare_doubles(&mut self, mask: u32, f: Compare, number: Number, [d, a, b]: [Slot; 3]) {
        let [a, b] = [a, b].map(|slot| &self.doubles[slot as usize]);
        let bits = match number {
            Number::Unsigned => compare(f, a, b, |a| a),
            Number::Signed | Number::Signed16 => compare(f, a, b, |a| a as i64),
            Number::Ordered => compare_floats(f, false, a, b, f64::from_bits),
            Number::Unordered => compare_floats(f, true, a, b, f64::from_bits),
        };
        self.set_predicate(d, mask, bits);
    }

    pub(super) fn select_word(&mut self, mask: u32, [d, a, b]: [Slot; 3], predicate: Slot) {
        let [a, b] = [a, b].map(|slot| self.words[slot as usize]);
        let taken = self.predicates[predicate as usize];
        let d = &mut self.words[d as usize];
        set_lanes!(d, mask, lane, if taken >> lane & 1 != 0 { a[lane] } else { b[lane] });
    }

    pub(super) fn select_double(&mut self, mask: u32, [d, a, b]: [Slot; 3], predicate: Slot) {
        let [a, b] = [a, b].map(|slot| self.doubles[slot as usize]);
        let taken = self.predicates[predicate as usize];
        let d = &mut self.doubles[d as usize];
        set_lanes!(d, mask, lane, if taken >> lane & 1 != 0 { a[lane] } else { b[lane] });
    }

    pub(super) fn logic(&mut self, mask: u32, f: Logic, [d, a, b]: [Slot; 3]) {
        let [a, b] = [a, b].map(|slot| self.predicates[slot as usize]);
        let bits = match f {
            Logic::And => a & b,
            Logic::Or => a | b,
            Logic::Xor => a ^ b,
        };
        self.set_predicate(d, mask, bits);
    }
}

fn pair(low: u16, high: u16) -> u32 {
    u32::from(high) << 16 | u32::from(low)
}

/// The larger of each half; of one that is no number, the other.
#[inline(always)]
fn max_pair(a: u32, b: u32, value: fn(u16) -> f32) -> u32 {
    let max = |a: u16, b: u16| match value(a) >= value(b) || value(b).is_nan() {
        true => a,
        false => b,
    };
    pair(max(a as u16, b as u16), max((a >> 16) as u16, (b >> 16) as u16))
}

/// The bits of a field.
fn field(position: u32, length: u32) -> u64 {
    let ones = 1u64.checked_shl(length).map_or(u64::MAX, |bit| bit - 1);
    ones.checked_shl(position).unwrap_or(0)
}

/// a b + c, rounded towards minus infinity. The product is exact in f64; where the sum is not, it may be the next number.
#[inline(always)]
fn multiply_add_down(a: f32, b: f32, c: f32) -> f32 {
    let exact = f64::from(a) * f64::from(b) + f64::from(c);
    let nearest = exact as f32;
    if f64::from(nearest) > exact { nearest.next_down() } else { nearest }
}

#[inline(always)]
fn compare<T: Copy, U: PartialOrd>(
    f: Compare,
    a: &[T; LANES],
    b: &[T; LANES],
    as_number: impl Fn(T) -> U,
) -> u32 {
    macro_rules! bits {
        ($op:tt) => {
            (0..LANES).fold(0, |bits, lane| bits | u32::from(as_number(a[lane]) $op as_number(b[lane])) << lane)
        };
    }
    match f {
        Compare::Equal => bits!(==),
        Compare::NotEqual => bits!(!=),
        Compare::Less => bits!(<),
        Compare::LessEqual => bits!(<=),
        Compare::Greater => bits!(>),
        Compare::GreaterEqual => bits!(>=),
    }
}

/// Comparisons of what may be no number: then `is_unordered`.
#[inline(always)]
fn compare_floats<T: Copy, U: PartialOrd>(
    f: Compare,
    is_unordered: bool,
    a: &[T; LANES],
    b: &[T; LANES],
    as_number: impl Fn(T) -> U,
) -> u32 {
    let bits = compare(f, a, b, &as_number);
    let unordered = (0..LANES).fold(0, |bits, lane| {
        bits | u32::from(as_number(a[lane]).partial_cmp(&as_number(b[lane])).is_none()) << lane
    });
    if is_unordered { bits | unordered } else { bits & !unordered }
}
