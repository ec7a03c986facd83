// Kernels that may begin before the one that was queued before them has ended, on Hopper and later: see `context/early.rs`.
//
// Each calls `wait_for_earlier` in every block, so that it has not ended before what it follows has, and before it reads or writes what any other kernel writes or reads, weights that
// only the optimizer writes excepted. Elsewhere these do nothing, and kernels begin one after the other.

// Returns when all that was queued before has ended, and what it wrote can be read.
__device__ __forceinline__ void wait_for_earlier() {
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}
// Lets the next kernel begin, once all blocks of this one have come here.
__device__ __forceinline__ void let_next_begin() {
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}
