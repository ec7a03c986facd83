//! What this machine can do at most, measured: multiply-adds in registers, and reading of memory. Shares of peak that
//! eyas prints are shares of these.

use super::{AlignedBuf, Cpu, Isa};
use crate::device::Device;
use crate::element::{Bf16, Element};
use crate::gemm::Word;
use std::hint::black_box;
use std::time::{Duration, Instant};

/// Independent sums, enough to hide the latency of a multiply-add.
const SUMS: usize = 12;
/// Time of one trial; the best of several counts, since machines are shared.
const TRIAL: Duration = Duration::from_millis(40);
const TRIALS: usize = 5;

impl<E: Word> Cpu<E> {
    /// Floating-point operations a second of the best instruction for multiplying `E`, in registers, on all threads.
    pub(super) fn measure_peak_flops(&self) -> f64 {
        let (isa, bf16) = (self.isa(), E::NAME == Bf16::NAME);
        self.best_rate(|| {
            let (start, mut flops) = (Instant::now(), 0.0);
            while start.elapsed() < TRIAL {
                flops += multiply_add(isa, bf16, 20_000);
            }
            flops / start.elapsed().as_secs_f64()
        })
    }

    /// Bytes a second read from memory, on all threads.
    pub(super) fn measure_read_bytes(&self) -> f64 {
        const WORDS: usize = 32 << 20;
        let mut buffer = AlignedBuf::<u32>::zeros(WORDS * self.num_threads());
        buffer.fill(1);
        self.measure_reading(&[&buffer])
    }

    /// Bytes a second of reading `slices`, one after the other, each shared among all threads.
    pub(crate) fn measure_reading(&self, slices: &[&[u32]]) -> f64 {
        let threads = self.num_threads();
        self.best_rate(|| {
            let thread = rayon::current_thread_index().unwrap_or(0);
            let (start, mut words) = (Instant::now(), 0);
            for slice in slices {
                let at = |thread: usize| slice.len() * thread / threads;
                let share = &slice[at(thread)..at(thread + 1)];
                black_box(self.isa().run(Sum(share)));
                words += share.len();
            }
            (words * 4) as f64 / start.elapsed().as_secs_f64()
        })
    }

    /// The best, over trials, of the threads' summed rates.
    fn best_rate(&self, rate: impl Fn() -> f64 + Sync) -> f64 {
        (0..TRIALS).map(|_| self.broadcast(&rate).into_iter().sum()).fold(0.0, f64::max)
    }
}

/// The sum of all words, which takes reading them.
struct Sum<'a>(&'a [u32]);

impl super::Task for Sum<'_> {
    type Output = u32;
    #[inline(always)]
    fn run<S: super::Simd>(self) -> u32 {
        self.0.iter().fold(0, |sum, x| sum.wrapping_add(*x))
    }
}

/// Runs `steps` rounds of multiply-adds and returns the number of floating-point operations done.
fn multiply_add(isa: Isa, bf16: bool, steps: usize) -> f64 {
    // SAFETY (all blocks): the instruction set of a `Cpu` is available.
    #[cfg(target_arch = "x86_64")]
    match isa {
        Isa::Avx512Bf16 if bf16 => {
            // SAFETY: as above.
            unsafe { pairs_avx512(steps) };
            return (steps * SUMS * 64) as f64;
        }
        Isa::Avx512 | Isa::Avx512Bf16 if !bf16 => {
            // SAFETY: as above.
            unsafe { floats_avx512(steps) };
            return (steps * SUMS * 32) as f64;
        }
        Isa::Avx2 | Isa::Avx512 => {
            // SAFETY: as above.
            unsafe { floats_avx2(steps) };
            return (steps * SUMS * 16) as f64;
        }
        _ => {}
    }
    floats_portable(steps);
    (steps * SUMS * 8) as f64
}

#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::*;

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bf16")]
fn pairs_avx512(steps: usize) {
    // SAFETY: 512-bit vectors of plain numbers.
    let one: __m512bh = unsafe { std::mem::transmute(_mm512_set1_epi32(black_box(0x3f80_3f80))) };
    let mut sums = [_mm512_setzero_ps(); SUMS];
    for _ in 0..steps {
        for sum in &mut sums {
            *sum = _mm512_dpbf16_ps(*sum, one, one);
        }
    }
    black_box(sums);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
fn floats_avx512(steps: usize) {
    let one = _mm512_set1_ps(black_box(1.0));
    let mut sums = [_mm512_setzero_ps(); SUMS];
    for _ in 0..steps {
        for sum in &mut sums {
            *sum = _mm512_fmadd_ps(one, one, *sum);
        }
    }
    black_box(sums);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn floats_avx2(steps: usize) {
    let one = _mm256_set1_ps(black_box(1.0));
    let mut sums = [_mm256_setzero_ps(); SUMS];
    for _ in 0..steps {
        for sum in &mut sums {
            *sum = _mm256_fmadd_ps(one, one, *sum);
        }
    }
    black_box(sums);
}

fn floats_portable(steps: usize) {
    let one = black_box([1.0f32; 4]);
    let mut sums = [[0.0f32; 4]; SUMS];
    for _ in 0..steps {
        for sum in &mut sums {
            for (s, x) in sum.iter_mut().zip(one) {
                *s += x * x;
            }
        }
        // Keeps the compiler from summing at compile time.
        black_box(&one);
    }
    black_box(sums);
}
