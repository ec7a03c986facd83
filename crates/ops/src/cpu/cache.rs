//! The size of a core's second-level cache, which the blocks of the matrix product are cut for.

/// What is assumed where the machine does not say: Zen 2 and 3, and most of Intel's before 2017, have this or half.
const ASSUMED_BYTES: usize = 512 << 10;

/// Bytes of a core's second-level cache. Blocks are cut by it, never sums, so that results do not depend on it.
pub(super) fn level2_bytes() -> usize {
    #[cfg(target_arch = "x86_64")]
    {
        // AMD's leaf is like Intel's, but has its own number; each says nothing on the other's machines.
        [0x8000_001d, 4].into_iter().find_map(level2_of_leaf).unwrap_or(ASSUMED_BYTES)
    }
    #[cfg(not(target_arch = "x86_64"))]
    {
        ASSUMED_BYTES
    }
}

/// From a CPUID leaf that lists caches: AMD64 Architecture Programmer's Manual, volume 3, E.4.15.
#[cfg(target_arch = "x86_64")]
fn level2_of_leaf(leaf: u32) -> Option<usize> {
    use std::arch::x86_64::{__cpuid, __cpuid_count};
    if __cpuid(leaf & 0x8000_0000).eax < leaf {
        return None;
    }
    (0..8).map(|i| __cpuid_count(leaf, i)).take_while(|cache| cache.eax & 0x1f != 0).find_map(|cache| {
        let field = |bits: u32, shift: u32, width: u32| (bits >> shift & ((1 << width) - 1)) as usize + 1;
        let [line, partitions, ways] =
            [(0, 12), (12, 10), (22, 10)].map(|(at, width)| field(cache.ebx, at, width));
        (cache.eax >> 5 & 7 == 2).then(|| line * partitions * ways * (cache.ecx as usize + 1))
    })
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_second_level_is_of_a_plausible_size() {
        assert!((64 << 10..=64 << 20).contains(&super::level2_bytes()), "{}", super::level2_bytes());
    }
}
