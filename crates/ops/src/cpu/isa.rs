//! The instruction sets, and the one place where code is compiled for each of them.
//!
//! The trick: a kernel is a [`Task`], a generic inlined function; `Isa::run` calls it inside a function that enables an
//! instruction set, so that the compiler vectorizes the same source once for each. Kernels that need particular
//! instructions (matrix multiplication) are written with intrinsics instead, in `gemm`.

use super::math::lanes;
use crate::element::{Bf16, Element};
use std::fmt;
#[cfg(target_arch = "x86_64")]
use std::mem::transmute_copy;

/// An instruction set that kernels are compiled for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Isa {
    /// What the compiler's baseline has (SSE2 or NEON).
    Portable,
    /// x86-64 with AVX2 and FMA.
    Avx2,
    /// x86-64 with AVX-512 F, BW, DQ and VL.
    Avx512,
    /// AVX-512 with BF16 dot products (`vdpbf16ps`).
    Avx512Bf16,
}

impl Isa {
    /// Every instruction set, worst first.
    pub const ALL: [Isa; 4] = [Isa::Portable, Isa::Avx2, Isa::Avx512, Isa::Avx512Bf16];

    /// The best that this machine has.
    pub fn detect() -> Isa {
        Self::ALL.into_iter().rev().find(|isa| isa.is_available()).unwrap_or(Isa::Portable)
    }

    /// Whether this machine has it.
    pub fn is_available(self) -> bool {
        #[cfg(target_arch = "x86_64")]
        {
            use std::arch::is_x86_feature_detected as has;
            let avx2 = has!("avx2") && has!("fma") && has!("bmi2");
            let avx512 = avx2 && has!("avx512f") && has!("avx512bw") && has!("avx512dq") && has!("avx512vl");
            match self {
                Isa::Portable => true,
                Isa::Avx2 => avx2,
                Isa::Avx512 => avx512,
                Isa::Avx512Bf16 => avx512 && has!("avx512bf16"),
            }
        }
        #[cfg(not(target_arch = "x86_64"))]
        {
            self == Isa::Portable
        }
    }

    /// Runs `task` compiled for this instruction set.
    #[inline]
    pub(crate) fn run<T: Task>(self, task: T) -> T::Output {
        match self {
            #[cfg(target_arch = "x86_64")]
            // SAFETY: kernels run with the instruction set of a `Cpu`, whose constructor checked that it is available.
            Isa::Avx512Bf16 => unsafe { run_avx512bf16(task) },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: as above.
            Isa::Avx512 => unsafe { run_avx512(task) },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: as above.
            Isa::Avx2 => unsafe { run_avx2(task) },
            _ => task.run::<Baseline>(),
        }
    }
}

impl fmt::Display for Isa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Isa::Portable => "portable",
            Isa::Avx2 => "avx2",
            Isa::Avx512 => "avx512",
            Isa::Avx512Bf16 => "avx512bf16",
        })
    }
}

impl std::str::FromStr for Isa {
    type Err = String;
    fn from_str(name: &str) -> Result<Self, String> {
        Self::ALL.into_iter().find(|isa| isa.to_string() == name).ok_or_else(|| {
            format!(
                "unknown instruction set `{name}`: expected one of {}",
                Self::ALL.map(|i| i.to_string()).join(", ")
            )
        })
    }
}

/// A kernel that `Isa::run` compiles for each instruction set. `run` must be `#[inline(always)]`, and so must all that
/// it calls.
pub(crate) trait Task {
    type Output;
    fn run<S: Simd>(self) -> Self::Output;
}

/// What source compiled for several instruction sets must ask of them.
pub(crate) trait Simd: Copy + Send + Sync + 'static {
    /// a b + c, rounded once where the machine can do that in one instruction, else twice.
    fn fma(a: f32, b: f32, c: f32) -> f32;

    /// Rounds to nearest even.
    #[inline(always)]
    fn round<const N: usize>(values: &[f32; N]) -> [Bf16; N] {
        lanes(|j| <Bf16 as Element>::from_f32(values[j]))
    }

    /// Exchanges rows and columns. The compiler makes scalar moves of such loops, so each instruction set says how.
    #[inline(always)]
    fn transpose(block: &[[u32; 16]; 16]) -> [[u32; 16]; 16] {
        std::array::from_fn(|i| std::array::from_fn(|j| block[j][i]))
    }

    /// Writes a cache line that nobody reads soon, past the caches where the machine can: then it need not be read from memory
    /// first. Who does must call `fence` before others read it.
    #[inline(always)]
    fn stream(out: &mut [u32; 16], values: &[u32; 16]) {
        *out = *values;
    }
}

/// No instruction set beyond the compiler's baseline.
#[derive(Clone, Copy)]
pub(crate) struct Baseline;

impl Simd for Baseline {
    #[inline(always)]
    fn fma(a: f32, b: f32, c: f32) -> f32 {
        if cfg!(target_arch = "aarch64") { a.mul_add(b, c) } else { a * b + c }
    }
}

/// A machine with fused multiply-add.
#[derive(Clone, Copy)]
pub(crate) struct Fused;

impl Simd for Fused {
    #[inline(always)]
    fn fma(a: f32, b: f32, c: f32) -> f32 {
        a.mul_add(b, c)
    }

    /// In halves of a line, which the machine puts together.
    #[inline(always)]
    fn stream(out: &mut [u32; 16], values: &[u32; 16]) {
        use std::arch::x86_64::{_mm256_loadu_si256, _mm256_stream_si256};
        if !out.as_ptr().addr().is_multiple_of(32) {
            *out = *values;
            return;
        }
        for (out, values) in out.as_chunks_mut::<8>().0.iter_mut().zip(values.as_chunks::<8>().0) {
            // SAFETY: `Isa::run` gives this type to tasks only where AVX is available; both are 32 bytes, `out` on a multiple of
            // that.
            unsafe {
                _mm256_stream_si256(out.as_mut_ptr().cast(), _mm256_loadu_si256(values.as_ptr().cast()));
            }
        }
    }
}

/// A machine with AVX-512.
#[cfg(target_arch = "x86_64")]
#[derive(Clone, Copy)]
pub(crate) struct Wide;

#[cfg(target_arch = "x86_64")]
impl Simd for Wide {
    #[inline(always)]
    fn fma(a: f32, b: f32, c: f32) -> f32 {
        a.mul_add(b, c)
    }

    #[inline(always)]
    fn transpose(block: &[[u32; 16]; 16]) -> [[u32; 16]; 16] {
        // SAFETY: `Isa::run` gives this type to tasks only where AVX-512 is available.
        unsafe { super::transpose::avx512(block) }
    }

    #[inline(always)]
    fn stream(out: &mut [u32; 16], values: &[u32; 16]) {
        use std::arch::x86_64::{_mm512_loadu_si512, _mm512_stream_si512};
        if !out.as_ptr().addr().is_multiple_of(64) {
            *out = *values;
            return;
        }
        // SAFETY: `Isa::run` gives this type to tasks only where AVX-512 is available; both are 64 bytes, `out` on a multiple
        // of that.
        unsafe {
            _mm512_stream_si512(out.as_mut_ptr().cast(), _mm512_loadu_si512(values.as_ptr().cast()));
        }
    }
}

/// A machine with AVX-512 and its instructions for bf16, which take denormal numbers for zeros.
#[cfg(target_arch = "x86_64")]
#[derive(Clone, Copy)]
pub(crate) struct WideBf16;

#[cfg(target_arch = "x86_64")]
impl Simd for WideBf16 {
    #[inline(always)]
    fn fma(a: f32, b: f32, c: f32) -> f32 {
        a.mul_add(b, c)
    }

    /// Whole vectors in one instruction: what is made in two halves is put together in memory, where a load that follows has
    /// to wait until both are written.
    #[inline(always)]
    fn round<const N: usize>(values: &[f32; N]) -> [Bf16; N] {
        use std::arch::x86_64::{_mm512_cvtne2ps_pbh, _mm512_cvtneps_pbh, _mm512_loadu_ps};
        let values = values.as_ptr();
        // SAFETY: `Isa::run` gives this type to tasks only where the instructions are available; N numbers are read, and as
        // many bf16 fill 512 or 256 bits.
        unsafe {
            match N {
                32 => transmute_copy(&_mm512_cvtne2ps_pbh(
                    _mm512_loadu_ps(values.add(16)),
                    _mm512_loadu_ps(values),
                )),
                16 => transmute_copy(&_mm512_cvtneps_pbh(_mm512_loadu_ps(values))),
                _ => lanes(|j| <Bf16 as Element>::from_f32(*values.add(j))),
            }
        }
    }

    #[inline(always)]
    fn transpose(block: &[[u32; 16]; 16]) -> [[u32; 16]; 16] {
        Wide::transpose(block)
    }

    #[inline(always)]
    fn stream(out: &mut [u32; 16], values: &[u32; 16]) {
        Wide::stream(out, values);
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,bmi2,bmi1,lzcnt,popcnt")]
unsafe fn run_avx512<T: Task>(task: T) -> T::Output {
    task.run::<Wide>()
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx2,fma,bmi2,bmi1,lzcnt,popcnt")]
unsafe fn run_avx512bf16<T: Task>(task: T) -> T::Output {
    task.run::<WideBf16>()
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,bmi2,bmi1,lzcnt,popcnt")]
unsafe fn run_avx2<T: Task>(task: T) -> T::Output {
    task.run::<Fused>()
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Transpose([[u32; 16]; 16]);

    impl Task for Transpose {
        type Output = [[u32; 16]; 16];
        #[inline(always)]
        fn run<S: Simd>(self) -> [[u32; 16]; 16] {
            S::transpose(&self.0)
        }
    }

    #[test]
    fn transposes_alike() {
        let block = std::array::from_fn(|i| std::array::from_fn(|j| (16 * i + j) as u32));
        for isa in Isa::ALL.into_iter().filter(|isa| isa.is_available()) {
            let columns = isa.run(Transpose(block));
            assert!((0..256).all(|i| columns[i % 16][i / 16] == i as u32), "{isa}: {columns:?}");
        }
    }
}
