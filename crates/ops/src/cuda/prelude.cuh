// What every kernel shares: the element type of activations, conversions, reductions, dropout. No CUDA header is needed.
//
// A file is compiled once for each element type, with one of ELEMENT_F32, ELEMENT_BF16, ELEMENT_F16 defined. Arithmetic
// is f32 whatever the element type; E is only how activations lie in memory.

typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;

#if defined(ELEMENT_BF16)
struct alignas(2) E {
    u16 bits;
};
__device__ __forceinline__ float to_f32(E x) { return __uint_as_float((u32)x.bits << 16); }
__device__ __forceinline__ E from_f32(float x) {
    E out;
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(out.bits) : "f"(x));
    return out;
}
// Two elements in a word, the first in its low half.
__device__ __forceinline__ u32 pack2(float first, float second) {
    u32 out;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(out) : "f"(second), "f"(first));
    return out;
}
__device__ __forceinline__ float first_of(u32 pair) { return __uint_as_float(pair << 16); }
__device__ __forceinline__ float second_of(u32 pair) { return __uint_as_float(pair & 0xffff0000u); }
#elif defined(ELEMENT_F16)
struct alignas(2) E {
    u16 bits;
};
__device__ __forceinline__ float to_f32(E x) {
    float out;
    asm("cvt.f32.f16 %0, %1;" : "=f"(out) : "h"(x.bits));
    return out;
}
__device__ __forceinline__ E from_f32(float x) {
    E out;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(out.bits) : "f"(x));
    return out;
}
__device__ __forceinline__ u32 pack2(float first, float second) {
    u32 out;
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(out) : "f"(second), "f"(first));
    return out;
}
__device__ __forceinline__ float first_of(u32 pair) { return to_f32(E{(u16)pair}); }
__device__ __forceinline__ float second_of(u32 pair) { return to_f32(E{(u16)(pair >> 16)}); }
#else
typedef float E;
__device__ __forceinline__ float to_f32(E x) { return x; }
__device__ __forceinline__ E from_f32(float x) { return x; }
#endif

// Elements of a 16-byte access.
constexpr int VEC = 16 / sizeof(E);
struct alignas(16) Vec {
    E x[VEC];
};

// The same as words, which take fewer registers and steps where elements have 16 bits.
struct alignas(16) Words {
    u32 x[4];
};

// One of the VEC elements in words, and words of VEC elements.
__device__ __forceinline__ float element_of(const Words& words, int i) {
#if defined(ELEMENT_F32)
    return __uint_as_float(words.x[i]);
#else
    return i % 2 ? second_of(words.x[i / 2]) : first_of(words.x[i / 2]);
#endif
}
__device__ __forceinline__ Words words_of(const float (&x)[VEC]) {
    Words out;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
#if defined(ELEMENT_F32)
        out.x[i] = __float_as_uint(x[i]);
#else
        out.x[i] = pack2(x[2 * i], x[2 * i + 1]);
#endif
    }
    return out;
}

struct alignas(16) Four {
    float x[4];
};

// VEC floats that begin on a boundary of 16 bytes, 16 bytes at a time.
__device__ __forceinline__ void load_floats(float (&out)[VEC], const float* from) {
#pragma unroll
    for (int i = 0; i < VEC / 4; ++i) {
        const Four part = *(const Four*)(from + 4 * i);
#pragma unroll
        for (int j = 0; j < 4; ++j) out[4 * i + j] = part.x[j];
    }
}

// Where something lies in shared memory, as instructions count there.
__device__ __forceinline__ u32 shared_address(const void* pointer) { return (u32)__cvta_generic_to_shared(pointer); }

// Copies 16 bytes to shared memory, or sets them to zero and reads nothing unless `is_valid`.
__device__ __forceinline__ void copy_async_16(u32 to, const void* from, bool is_valid) {
    int bytes = is_valid ? 16 : 0;
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from), "r"(bytes) : "memory");
}
__device__ __forceinline__ void copy_async_4(u32 to, const void* from, bool is_valid) {
    int bytes = is_valid ? 4 : 0;
    asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;" ::"r"(to), "l"(from), "r"(bytes) : "memory");
}
__device__ __forceinline__ void copy_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int PENDING>
__device__ __forceinline__ void copy_async_wait() {
    asm volatile("cp.async.wait_group %0;" ::"n"(PENDING) : "memory");
}

// Whether rows of `n` elements can be read 16 bytes at a time; the buffers themselves begin on 256-byte boundaries.
__device__ __forceinline__ bool is_vectorizable(int n) { return n % VEC == 0; }

constexpr u32 FULL_WARP = 0xffffffffu;

__device__ __forceinline__ float warp_sum(float x) {
#pragma unroll
    for (int lane = 16; lane > 0; lane >>= 1) x += __shfl_xor_sync(FULL_WARP, x, lane);
    return x;
}

__device__ __forceinline__ float warp_max(float x) {
#pragma unroll
    for (int lane = 16; lane > 0; lane >>= 1) x = fmaxf(x, __shfl_xor_sync(FULL_WARP, x, lane));
    return x;
}

// The hash of ops::random: 32 uniform bits of `index` under `key`.
__device__ __forceinline__ u32 mix(u64 key, u32 index) {
    u32 x = index * 0x9e3779b1u ^ (u32)key;
    x ^= x >> 16;
    x *= 0x7feb352du;
    x ^= x >> 15;
    x = x * 0x846ca68bu ^ (u32)(key >> 32);
    x ^= x >> 16;
    x *= 0x7feb352du;
    x ^= x >> 15;
    return x;
}

// SplitMix64's finalizer.
__device__ __forceinline__ u64 finalize(u64 x) {
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ull;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebull;
    return x ^ (x >> 31);
}

// The key of a slice of a dropout site, such as one head: Dropout::slice.
__device__ __forceinline__ u64 slice_key(u64 key, u64 slice) { return finalize(key ^ finalize(slice + 1)); }

// The factor of element `index`: 0 if it is dropped, else `scale`. Nothing is dropped where `threshold` is 0.
__device__ __forceinline__ float dropout_factor(u64 key, int threshold, float scale, u32 index) {
    return (int)(mix(key, index) >> 8) < threshold ? 0.0f : scale;
}
