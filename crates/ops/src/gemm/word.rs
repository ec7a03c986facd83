//! The element types that matrices can be multiplied in: how they make words, and how rows of them are read and written in
//! pieces of which the compiler knows the length.

use super::{Kernel, PANEL};
use crate::cpu::math::{LANES, lanes};
use crate::cpu::{Isa, Simd};
use crate::element::{Bf16, Element};
use std::any::TypeId;

/// An element type that matrices can be multiplied in.
pub trait Word: Element {
    /// Elements in one 32-bit word.
    #[doc(hidden)]
    const PER_WORD: usize;
    /// Makes a word of its elements; an f32 word takes only the first.
    #[doc(hidden)]
    fn word(first: f32, second: f32) -> u32;
    /// The same from elements of any type: their bits as they are where the type is the same.
    #[doc(hidden)]
    #[inline(always)]
    fn join<T: Element>(first: T, second: T) -> u32 {
        if TypeId::of::<T>() != TypeId::of::<Self>() {
            Self::word(first.to_f32(), second.to_f32())
        } else if Self::PER_WORD == 2 {
            first.bits() | second.bits() << 16
        } else {
            first.bits()
        }
    }
    /// Rounds to nearest even, whole vectors by the machine's instruction where it has one.
    #[doc(hidden)]
    #[expect(private_bounds, reason = "the trait is public only as a bound")]
    fn round<S: Simd, const N: usize>(values: &[f32; N]) -> [Self; N];
    /// Sixteen words, each of a number of `first` and the one of `second` at the same place.
    #[doc(hidden)]
    #[inline(always)]
    #[expect(private_bounds, reason = "the trait is public only as a bound")]
    fn words<S: Simd>(first: &[f32; LANES], second: &[f32; LANES]) -> [u32; LANES] {
        let (first, second) = (Self::round::<S, _>(first), Self::round::<S, _>(second));
        lanes(|j| Self::join(first[j], second[j]))
    }
    #[doc(hidden)]
    #[expect(private_interfaces, reason = "the trait is public only as a bound")]
    fn kernel(isa: Isa) -> Kernel;
}

impl Word for f32 {
    const PER_WORD: usize = 1;
    #[inline(always)]
    fn word(first: f32, _: f32) -> u32 {
        first.to_bits()
    }
    #[inline(always)]
    #[expect(private_bounds, reason = "the trait is public only as a bound")]
    fn round<S: Simd, const N: usize>(values: &[f32; N]) -> [f32; N] {
        *values
    }
    #[expect(private_interfaces, reason = "the trait is public only as a bound")]
    fn kernel(isa: Isa) -> Kernel {
        match isa {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 | Isa::Avx512Bf16 => super::avx512::F32,
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => super::avx2::F32,
            _ => super::portable::F32,
        }
    }
}

impl Word for Bf16 {
    const PER_WORD: usize = 2;
    #[inline(always)]
    fn word(first: f32, second: f32) -> u32 {
        let bits = |x| u32::from(<Bf16 as Element>::from_f32(x).to_bits());
        bits(first) | bits(second) << 16
    }
    #[inline(always)]
    #[expect(private_bounds, reason = "the trait is public only as a bound")]
    fn round<S: Simd, const N: usize>(values: &[f32; N]) -> [Bf16; N] {
        S::round(values)
    }
    #[expect(private_interfaces, reason = "the trait is public only as a bound")]
    fn kernel(isa: Isa) -> Kernel {
        match isa {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512Bf16 => super::avx512::BF16,
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 | Isa::Avx2 => super::avx2::BF16,
            _ => super::portable::BF16,
        }
    }
}

/// The first elements of a row, zeros beyond its end.
#[inline(always)]
pub(crate) fn padded<T: Element, const N: usize>(row: &[T]) -> [T; N] {
    match row.first_chunk() {
        Some(whole) => *whole,
        None => {
            let mut out = [T::zeroed(); N];
            copy_part(&mut out[..row.len()], row);
            out
        }
    }
}

/// `f(0), f(1), ..`, rounded.
#[inline(always)]
pub(crate) fn narrow<S: Simd, E: Word, const N: usize>(f: impl Fn(usize) -> f32) -> [E; N] {
    E::round::<S, N>(&lanes(f))
}

/// Writes as much of `values` as there are columns in a row of a tile.
#[inline(always)]
pub(crate) fn store<E: Word>(row: &mut [E], values: &[E; PANEL]) {
    match row.first_chunk_mut() {
        Some(whole) => *whole = *values,
        None => copy_part(row, values),
    }
}

/// Copies the first elements: a call of its own, because the compiler would make one copy of this and the whole row's, of a
/// length that it does not know.
#[cold]
#[inline(never)]
fn copy_part<T: Copy>(to: &mut [T], from: &[T]) {
    let len = to.len();
    to.copy_from_slice(&from[..len]);
}
