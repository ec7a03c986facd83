// Attention on Hopper, for heads of 64 channels, on warpgroup instructions (wgmma): what its two passes share, and the
// forward pass.
//
// - A warpgroup owns 64 rows, whose left operands lie in its registers where there is room, and the other side lies in
//   shared memory. As with mma, accumulators are, as they lie, the left operands of the next product.
// - All tiles have rows of 128 bytes under the 128-byte swizzle, and every operand is read from them as it lies, along
//   its rows or across. With 64 channels an operand is one swizzled column, so that a descriptor needs one stride.
// - wgmma is asynchronous: while the tensor cores make one product, a warpgroup works on the elements of another. The
//   compiler allows this in straight code only, so copies and stores there are predicated and cases are whole blocks.

#if !defined(ELEMENT_F32)

constexpr int HOPPER_THREADS = 256;

#if defined(HOPPER)
#define GROUP_PRODUCT "wgmma.mma_async.sync.aligned.m64n64k16." GROUP_TYPES
#define GROUP_SUMS                                                                                                     \
    "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, %21, "            \
    "%22, %23, %24, %25, %26, %27, %28, %29, %30, %31}, "
#define ALL_SUMS(c) SIXTEEN_SUMS(c, 0), SIXTEEN_SUMS(c, 4)

// c (64, 64) = a (64, 16) b (16, 64), plus c if `adds`. b is read across the rows of its tile if ACROSS.
template <int ACROSS>
__device__ __forceinline__ void group_multiply(float (&c)[8][4], const u32 (&a)[4], u64 b, int adds) {
    asm volatile("{.reg .pred adds; setp.ne.b32 adds, %37, 0;" GROUP_PRODUCT GROUP_SUMS
                 "{%32, %33, %34, %35}, %36, adds, 1, 1, %38;}"
                 : ALL_SUMS(c)
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(adds), "n"(ACROSS)
                 : "memory");
}
// The same with both operands in shared memory, both read across the rows of their tiles or along them.
template <int ACROSS>
__device__ __forceinline__ void group_multiply_tiles(float (&c)[8][4], u64 a, u64 b, int adds) {
    asm volatile("{.reg .pred adds; setp.ne.b32 adds, %34, 0;" GROUP_PRODUCT GROUP_SUMS
                 "%32, %33, adds, 1, 1, %35, %35;}"
                 : ALL_SUMS(c)
                 : "l"(a), "l"(b), "r"(adds), "n"(ACROSS)
                 : "memory");
}
// Keeps the compiler from moving uses of what products read or write from after a wait to before it.
__device__ __forceinline__ void settle(float (&c)[8][4]) { asm volatile("" : ALL_SUMS(c)::"memory"); }
__device__ __forceinline__ void settle(u32 (&a)[4][4]) {
#pragma unroll
    for (int step = 0; step < 4; step++)
        asm volatile("" : "+r"(a[step][0]), "+r"(a[step][1]), "+r"(a[step][2]), "+r"(a[step][3])::"memory");
}
#endif

#if defined(HOPPER)
// As copy_async_4 and copy_async_16, if `is_wanted`: a branch would end the stretch of code in which products run beside
// other work.
__device__ __forceinline__ void copy_async_4_if(u32 to, const void* from, bool is_valid, bool is_wanted) {
    asm volatile("{.reg .pred wanted; setp.ne.b32 wanted, %3, 0;"
                 "@wanted cp.async.ca.shared.global [%0], [%1], 4, %2;}" ::"r"(to),
                 "l"(from), "r"(is_valid ? 4 : 0), "r"((int)is_wanted)
                 : "memory");
}
__device__ __forceinline__ void copy_async_16_if(u32 to, const void* from, bool is_valid, bool is_wanted) {
    asm volatile("{.reg .pred wanted; setp.ne.b32 wanted, %3, 0;"
                 "@wanted cp.async.cg.shared.global [%0], [%1], 16, %2;}" ::"r"(to),
                 "l"(from), "r"(is_valid ? 16 : 0), "r"((int)is_wanted)
                 : "memory");
}

// Rows of a tile, and its bytes.
constexpr int TILE = 128;
constexpr u32 TILE_BYTES = TILE * 128;
// Tiles of keys and values of the forward pass: two are on their way, one is in use, and one may still be.
constexpr int FORWARD_STAGES = 4;
// In shared memory: Q, and K and V of 64 keys for each stage.

// Begins to copy rows first .. first + ROWS of a matrix of `count` rows, those past its end as zeros, if
// `is_wanted`.
template <int ROWS>
__device__ __forceinline__ void copy_tile(u32 tile, const E* matrix, u64 stride, int first, int count,
                                          bool is_wanted = true) {
    int row = threadIdx.x / 8, piece = threadIdx.x % 8;
    const E* from = matrix + (u64)(first + row) * stride + piece * VEC;
    u32 to = tile + swizzled<64>(row, piece);
#pragma unroll
    for (int i = 0; i < ROWS / 32; i++)
        copy_async_16_if(to + i * 32 * 128, from + i * 32 * stride, first + row + i * 32 < count, is_wanted);
}

// Writes 16 rows a warp, the upper and lower eight times their factors, by way of rows of `staging` that no other warp
// uses.
__device__ __forceinline__ void store_tile(E* matrix, u64 stride, int first, int count, const float (&x)[8][4],
                                           float upper, float lower, char* staging) {
    int lane = threadIdx.x % 32, owned = threadIdx.x / 32 * 16;
    __syncwarp();
#pragma unroll
    for (int half = 0; half < 2; half++) {
        int row = owned + half * 8 + lane / 4;
        float factor = half ? lower : upper;
#pragma unroll
        for (int column = 0; column < 8; column++)
            *(u32*)(staging + swizzled<64>(row, column) + lane % 4 * 4) =
                pack2(x[column][2 * half] * factor, x[column][2 * half + 1] * factor);
    }
    __syncwarp();
#pragma unroll
    for (int i = 0; i < 4; i++) {
        int row = owned + i * 4 + lane / 8;
        Vec value = *(const Vec*)(staging + swizzled<64>(row, lane % 8));
        if (first + row < count) *(Vec*)(matrix + (u64)(first + row) * stride + lane % 8 * VEC) = value;
    }
}

// A bool that is a type.
template <bool VALUE>
struct Known {
    static constexpr bool value = VALUE;
};

// Where a head begins, in elements: in qkv and dqkv, whose rows are 3C apart; in out and dout, whose rows are C apart;
// in lse and delta.
struct HopperHead {
    u64 in, out, saved;
};
__device__ __forceinline__ HopperHead hopper_head(int head, int T, int NH) {
    u64 row = (u64)(head / NH) * T, column = (u64)(head % NH) * 64, channels = (u64)NH * 64;
    return {row * 3 * channels + column, row * channels + column, (u64)head * T};
}

// Attention of TILE queries from `first` on: each warpgroup owns 64 of them, and tiles of 64 keys stream past. Two
// blocks share a processor: while some warpgroups multiply, others take exponentials, which cost as much here.
template <bool DROPOUT>
__device__ __forceinline__ void flash_forward_on_hopper(E* out, float* lse, const E* q, Starts starts, u64 channels,
                                                        int T, int first, Mask mask) {
    extern __shared__ __align__(1024) char tiles[];
    constexpr int KEYS = 64;
    constexpr u32 KEY_BYTES = KEYS * 128;
    u32 q_tile = shared_address(tiles);
    auto k_tile = [&](int tile) { return q_tile + TILE_BYTES + tile % FORWARD_STAGES * 2 * KEY_BYTES; };
    int lane = threadIdx.x % 32, owned = threadIdx.x / 32 * 16;
    // The shuffle tells the compiler that the warp agrees.
    int group = __shfl_sync(FULL_WARP, threadIdx.x / 128, 0);
    int key_tiles = (min(first + TILE, T) + KEYS - 1) / KEYS;
    // The last tile that a warpgroup sees is the one as old as its queries.
    int last = min(first / KEYS + group, key_tiles - 1);
    // Both begin with what the first query sees, since they share copies and barriers.
    int first_tile = starts(first) / KEYS, warp_last_start = starts(first + owned + 15);
    auto begin_copies = [&](int tile) {
        if (tile < key_tiles) {
            copy_tile<KEYS>(k_tile(tile), q + channels, 3 * channels, tile * KEYS, T);
            copy_tile<KEYS>(k_tile(tile) + KEY_BYTES, q + 2 * channels, 3 * channels, tile * KEYS, T);
        }
        copy_async_commit();
    };
    copy_tile<TILE>(q_tile, q, 3 * channels, first, T);
    begin_copies(first_tile);
    begin_copies(first_tile + 1);

    u32 q_fragments[4][4], p_fragments[4][4] = {};
    float o[8][4] = {};
    float row_max[2] = {lowest_maximum(), lowest_maximum()}, row_sum[2] = {};
    auto wait_for_tile = [&]() {
        copy_async_wait<1>();
        publish_to_products();
        __syncthreads();
    };
    auto meet = [&](int tile, auto has_future) {
        u64 k_rows = operand(k_tile(tile)), v_rows = operand(k_tile(tile) + KEY_BYTES);
        float s[8][4];
        group_fence();
#pragma unroll
        for (int step = 0; step < 4; step++)
            group_multiply<0>(s, q_fragments[step], further(k_rows, step * 32), step > 0);
        group_commit();
        // This also ends the products with the values of the tile before, whose room the next copies may take.
        group_wait<0>();
        settle(s), settle(o), settle(p_fragments);
        if (has_future.value) {
            int ahead = lane % 4 * 2 - (owned % 64 + lane / 4) + (tile - last) * KEYS;
#pragma unroll
            for (int i = 0; i < 32; i++)
                if (ahead + i / 4 * 8 + i % 2 > i % 4 / 2 * 8) s[i / 4][i % 4] = minus_infinity();
        }
        if (IS_MASKED && tile * KEYS < warp_last_start) hide_past<false>(s, starts, first + owned, tile * KEYS);
        // Unless IS_MASKED, every query sees key 0, so the maximum is finite from the first tile on.
        constexpr float SCALE = 0.125f * LOG2_E;
#pragma unroll
        for (int half = 0; half < 2; half++) {
            float top = minus_infinity();
#pragma unroll
            for (int column = 0; column < 8; column++)
                top = fmaxf(top, fmaxf(s[column][2 * half], s[column][2 * half + 1]));
            top = fmaxf(top, __shfl_xor_sync(FULL_WARP, top, 1));
            top = fmaxf(top, __shfl_xor_sync(FULL_WARP, top, 2));
            top = fmaxf(row_max[half], top * SCALE);
            float shrink = exp2_approximate(row_max[half] - top), sum = 0.0f;
            row_max[half] = top;
#pragma unroll
            for (int column = 0; column < 8; column++) {
                float p[2];
#pragma unroll
                for (int i = 0; i < 2; i++) {
                    p[i] = exp2_approximate(fmaf(s[column][2 * half + i], SCALE, -top));
                    sum += p[i];
                    if (DROPOUT) {
                        int row = first + owned + half * 8 + lane / 4;
                        int key = tile * KEYS + column * 8 + lane % 4 * 2 + i;
                        p[i] = mask.keeps(row, key) ? p[i] : 0.0f;
                    }
                }
                p_fragments[column / 2][column % 2 * 2 + half] = pack2(p[0], p[1]);
                o[column][2 * half] *= shrink;
                o[column][2 * half + 1] *= shrink;
            }
            row_sum[half] = row_sum[half] * shrink + sum;
        }
        group_fence();
#pragma unroll
        for (int step = 0; step < 4; step++)
            group_multiply<1>(o, p_fragments[step], further(v_rows, step * 16 * 128), 1);
        group_commit();
    };
    wait_for_tile();
#pragma unroll
    for (int step = 0; step < 4; step++)
        load_matrices(q_fragments[step], square<64>(corner_down<64>(q_tile + owned * 128), 0, step));
    if (IS_MASKED) {
        // Tiles that the first warpgroup alone sees pass the second one by.
        int group_start = starts(first + group * 64) / KEYS;
#pragma unroll 1
        for (; first_tile < group_start; first_tile++) {
            begin_copies(first_tile + 2);
            wait_for_tile();
        }
    }
#pragma unroll 1
    for (int tile = first_tile; tile < last; tile++) {
        begin_copies(tile + 2);
        meet(tile, Known<false>{});
        wait_for_tile();
    }
    begin_copies(last + 2);
    meet(last, Known<true>{});
    group_wait<0>();
    settle(o), settle(p_fragments);
    // The other warpgroup has one more tile, of which this one has copied half.
    if (last < key_tiles - 1) {
        copy_async_wait<0>();
        publish_to_products();
        __syncthreads();
    }

    float factor[2];
#pragma unroll
    for (int half = 0; half < 2; half++) {
        float sum = row_sum[half];
        sum += __shfl_xor_sync(FULL_WARP, sum, 1);
        sum += __shfl_xor_sync(FULL_WARP, sum, 2);
        factor[half] = (DROPOUT ? mask.scale_of_kept : 1.0f) / sum;
        int row = first + owned + half * 8 + lane / 4;
        if (lane % 4 == 0 && row < T) lse[row] = row_max[half] * LN_2 + logf(sum);
    }
    // A warp's rows of queries are in its registers.
    store_tile(out, channels, first, T, o, factor[0], factor[1], tiles);
}
#endif

// Sets out (B, T, C) and lse (B, NH, T); starts (B, T). Grid B NH ceil(T / TILE), HOPPER_THREADS threads: neighbours share
// a head, so that its keys and values come from memory once.
#if defined(HEAD_SIZE)
extern "C" __global__ void __launch_bounds__(HOPPER_THREADS, 2)
    flash_forward_hopper(E* out, float* lse, const E* qkv, STARTS_PARAMETER int T, int NH, u64 key, int threshold,
                         float scale_of_kept) {
#if defined(HOPPER) && HEAD_SIZE == 64
    int count = (T + TILE - 1) / TILE, head = blockIdx.x / count;
    // The last queries see the most keys: they go first.
    int first = (count - 1 - blockIdx.x % count) * TILE;
    HopperHead at = hopper_head(head, T, NH);
    u64 channels = (u64)NH * 64;
    Starts starts_of_row = starts_of(STARTS, head / NH, T);
    Mask mask = mask_of(key, threshold, scale_of_kept, T, head);
    if (threshold == 0)
        flash_forward_on_hopper<false>(out + at.out, lse + at.saved, qkv + at.in, starts_of_row, channels, T, first,
                                       mask);
    else
        flash_forward_on_hopper<true>(out + at.out, lse + at.saved, qkv + at.in, starts_of_row, channels, T, first,
                                      mask);
#endif
}
#endif

#endif
