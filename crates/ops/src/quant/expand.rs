//! A panel written out as words of the element type, `words[k_words][32]`, as the kernels of `gemm` read them.

use super::{Format, SCALE_WORDS, integer, scales};
use crate::cpu::math::{LANES, lanes};
use crate::cpu::{Cpu, Simd, Task};
use crate::gemm::{PANEL, Word};
use std::marker::PhantomData;

/// Sets all of `out`. What lies beyond K in the last of its words is zero, as it is in the panel.
pub(super) fn expand<E: Word>(cpu: &Cpu<E>, out: &mut [u32], format: Format, panel: &[u32]) {
    match format {
        Format::Int8 => cpu.isa().run(Expand::<E, 4> { out, panel, element: PhantomData }),
        Format::Int4 => cpu.isa().run(Expand::<E, 8> { out, panel, element: PhantomData }),
    }
}

/// `N` elements in a word.
struct Expand<'a, E, const N: usize> {
    out: &'a mut [u32],
    panel: &'a [u32],
    element: PhantomData<E>,
}

impl<E: Word, const N: usize> Task for Expand<'_, E, N> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self) {
        let format = if N == 4 { Format::Int8 } else { Format::Int4 };
        let mut out = self.out.as_chunks_mut::<PANEL>().0.iter_mut();
        for group in self.panel.chunks_exact(format.group_words()) {
            let scales = scales(group);
            for words in group[SCALE_WORDS..].as_chunks::<PANEL>().0 {
                for i in (0..N).step_by(E::PER_WORD) {
                    let Some(out) = out.next() else { return };
                    for (chunk, out) in out.as_chunks_mut::<LANES>().0.iter_mut().enumerate() {
                        let (words, scales) =
                            (&words[chunk * LANES..][..LANES], &scales[chunk * LANES..][..LANES]);
                        let first = lanes(|j| scales[j] * integer(format, words[j], i) as f32);
                        let i = i + E::PER_WORD - 1;
                        let second = lanes(|j| scales[j] * integer(format, words[j], i) as f32);
                        *out = E::words::<S>(&first, &second);
                    }
                }
            }
        }
    }
}
