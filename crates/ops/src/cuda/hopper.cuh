// What kernels on Hopper's own instructions share: warpgroup products (wgmma), copies of whole tiles by the tensor memory
// accelerator, the barriers that both report to, and clusters of blocks.
//
// Tiles have rows of 128 bytes under the 128-byte swizzle. A product reads an operand from them as it lies, along its rows
// or across.

#if !defined(ELEMENT_F32)

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
#define HOPPER

// Compilers of CUDA 12 want some help, which the later ones, for which these kernels were measured, do without.
#define COMPILER_VERSION (100 * __CUDACC_VER_MAJOR__ + __CUDACC_VER_MINOR__)

// How sums are declared that the first product replaces. Unless they are set, compilers before 12.9 let no product run beside
// anything else (their remark C7515).
#if COMPILER_VERSION < 1209
#define REPLACED_SUMS = {}
#else
#define REPLACED_SUMS
#endif

// What a warp's threads agree on, though it depends on memory. 12.9 ends in a segmentation fault of its own over a loop of products
// that takes such turns, unless it sees that they are the warp's.
__device__ __forceinline__ bool agreed(bool x) {
#if COMPILER_VERSION == 1209
    return __any_sync(FULL_WARP, x);
#else
    return x;
#endif
}

// The types of a product's sums and operands, and four or sixteen of its sums as assembly takes them.
#if defined(ELEMENT_BF16)
#define GROUP_TYPES "f32.bf16.bf16 "
#else
#define GROUP_TYPES "f32.f16.f16 "
#endif
#define FOUR_SUMS(c) "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
#define SIXTEEN_SUMS(c, i) FOUR_SUMS(c[i]), FOUR_SUMS(c[i + 1]), FOUR_SUMS(c[i + 2]), FOUR_SUMS(c[i + 3])

// Orders what registers held before against the products that follow, which read and write them.
__device__ __forceinline__ void group_fence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ __forceinline__ void group_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
// Waits until at most PENDING committed groups of products are under way.
template <int PENDING>
__device__ __forceinline__ void group_wait() {
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(PENDING) : "memory");
}
// Makes this thread's writes to shared memory visible to products.
__device__ __forceinline__ void publish_to_products() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }

// Four 8x8 matrices, the inverse of load_matrices.
__device__ __forceinline__ void store_matrices(u32 address, const u32 (&x)[4]) {
    asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(address),
                 "r"(x[0]), "r"(x[1]), "r"(x[2]), "r"(x[3])
                 : "memory");
}

// A barrier in shared memory: a phase ends when `count` threads have arrived and all bytes that were announced are there.
__device__ __forceinline__ void barrier_init(u32 barrier, int count) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(barrier), "r"(count) : "memory");
}
// Makes barriers known to copies and to the other block of a cluster.
__device__ __forceinline__ void barriers_are_made() {
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}
__device__ __forceinline__ void barrier_arrive(u32 barrier) {
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(barrier) : "memory");
}
// Arrives at the same barrier of another block of the cluster, or of this one.
__device__ __forceinline__ void barrier_arrive_at(u32 barrier, u32 block) {
    asm volatile("{.reg .b32 remote; mapa.shared::cluster.u32 remote, %0, %1;"
                 "mbarrier.arrive.shared::cluster.b64 _, [remote];}" ::"r"(barrier),
                 "r"(block)
                 : "memory");
}
// Arrives, and announces bytes that copies will bring.
__device__ __forceinline__ void barrier_expect(u32 barrier, u32 bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes) : "memory");
}
// Waits for the end of a phase of this parity; phases count from 0, and the one before the first has ended.
__device__ __forceinline__ void barrier_wait(u32 barrier, int parity) {
    asm volatile("{.reg .pred done; again: mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;"
                 "@done bra over; bra again; over:}" ::"r"(barrier),
                 "r"(parity)
                 : "memory");
}

__device__ __forceinline__ u32 block_of_cluster() {
    u32 out;
    asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(out));
    return out;
}
__device__ __forceinline__ void cluster_sync() {
    asm volatile("barrier.cluster.arrive.release.aligned; barrier.cluster.wait.acquire.aligned;" ::: "memory");
}

// Lets a warpgroup have this many registers: more, waiting until others have given theirs, or fewer.
template <int COUNT>
__device__ __forceinline__ void take_registers() {
    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(COUNT));
}
template <int COUNT>
__device__ __forceinline__ void give_registers() {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(COUNT));
}

// A matrix in memory and the box that a copy takes out of it: what cuTensorMapEncodeTiled makes.
struct alignas(64) TensorMap {
    u64 words[16];
};

// The descriptor of an operand that begins at `address`: 8 rows, 1024 bytes, from one group of rows to the next, and
// `column_bytes` from one column of 128 bytes to the next, where it is read across the rows and has several.
__device__ __forceinline__ u64 operand(u32 address, u32 column_bytes = 1024) {
    return (u64)1 << 62 | (u64)(1024 >> 4) << 32 | (u64)(column_bytes >> 4) << 16 | (address & 0x3ffff) >> 4;
}
// The same `bytes` further on.
__device__ __forceinline__ u64 further(u64 operand, u32 bytes) { return operand + (bytes >> 4); }

// Begins to copy the box at column x, row y of a matrix to shared memory, zeros for what lies outside, and reports its bytes to
// `barrier`; into every block of the cluster that `blocks` has a bit for, at the same addresses there, if IS_SHARED.
template <bool IS_SHARED>
__device__ __forceinline__ void copy_box(u32 to, const TensorMap& map, int x, int y, u32 barrier, int blocks) {
    if (IS_SHARED)
        asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster "
                     "[%0], [%1, {%2, %3}], [%4], %5;" ::"r"(to),
                     "l"(&map), "r"(x), "r"(y), "r"(barrier), "h"((u16)blocks)
                     : "memory");
    else
        asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes "
                     "[%0], [%1, {%2, %3}], [%4];" ::"r"(to),
                     "l"(&map), "r"(x), "r"(y), "r"(barrier)
                     : "memory");
}
// The same for `bytes`, a multiple of 16, that follow each other.
__device__ __forceinline__ void copy_bytes(u32 to, const void* from, u32 bytes, u32 barrier) {
    asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(to),
                 "l"(from), "r"(bytes), "r"(barrier)
                 : "memory");
}
#endif

#endif
