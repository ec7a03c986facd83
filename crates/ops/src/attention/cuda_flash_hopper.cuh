// Attention on Hopper, for heads of 64 channels, on warpgroup instructions (wgmma): both passes, the backward one in
// five products.
//
// - A warpgroup owns 64 rows, whose left operands lie in its registers where there is room, and the other side lies in
//   shared memory. As with mma, accumulators are, as they lie, the left operands of the next product.
// - All tiles have rows of 128 bytes under the 128-byte swizzle, and every operand is read from them as it lies, along
//   its rows or across. With 64 channels an operand is one swizzled column, so that a descriptor needs one stride.
// - wgmma is asynchronous: while the tensor cores make one product, a warpgroup works on the elements of another. The
//   compiler allows this in straight code only, so copies and stores there are predicated and cases are whole blocks.
// - In the backward pass a block works on one head at a time and makes all of its key tiles, one after another, each
//   with the tiles of queries that see it. So no other block adds to the dq of that head: its f32 sums lie in a slice
//   of scratch memory that belongs to the block and serves its next head, too, which keeps it in L2, and each thread
//   reads only sums that it wrote itself. Nothing depends on timing: the pass is deterministic without atomics.
// - Key tiles go in order. The first one writes the sums of dq, the later ones add, and the tile of keys that are as
//   old as the queries is the last that these see: it makes dq.
// - A step is 128 keys and 128 queries. Warpgroups own keys and work on transposed scores. dq alone needs the keys of
//   both: gradients of scores go through shared memory, and each warpgroup makes the dq of 64 queries, one step late,
//   while it waits for the scores of the next. So a step has one barrier, which publishes its tiles, too.
// - Copies run one step ahead, over the ends of key tiles and heads.

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
// As copy_async_16, if `is_wanted`: a branch would end the stretch of code in which products run beside other work.
__device__ __forceinline__ void copy_async_16_if(u32 to, const void* from, bool is_valid, bool is_wanted) {
    asm volatile("{.reg .pred wanted; setp.ne.b32 wanted, %3, 0;"
                 "@wanted cp.async.cg.shared.global [%0], [%1], 16, %2;}" ::"r"(to),
                 "l"(from), "r"(is_valid ? 16 : 0), "r"((int)is_wanted)
                 : "memory");
}

// Four sums in scratch memory, past L1, which has no use for them. Zeros unless they are there, without a branch.
__device__ __forceinline__ Four read_sums(const Four* from, bool are_there) {
    Four out = {};
    asm volatile("{.reg .pred there; setp.ne.b32 there, %5, 0; @there ld.global.cg.v4.f32 {%0, %1, %2, %3}, [%4];}"
                 : "+f"(out.x[0]), "+f"(out.x[1]), "+f"(out.x[2]), "+f"(out.x[3])
                 : "l"(from), "r"((int)are_there)
                 : "memory");
    return out;
}
__device__ __forceinline__ void write_sums(Four* to, Four x, bool is_wanted) {
    asm volatile("{.reg .pred wanted; setp.ne.b32 wanted, %5, 0;"
                 "@wanted st.global.cg.v4.f32 [%0], {%1, %2, %3, %4};}" ::"l"(to),
                 "f"(x.x[0]), "f"(x.x[1]), "f"(x.x[2]), "f"(x.x[3]), "r"((int)is_wanted)
                 : "memory");
}
// Two elements, if `are_wanted`.
__device__ __forceinline__ void write_pair(E* to, u32 pair, bool are_wanted) {
    asm volatile("{.reg .pred wanted; setp.ne.b32 wanted, %2, 0; @wanted st.global.b32 [%0], %1;}" ::"l"(to), "r"(pair),
                 "r"((int)are_wanted)
                 : "memory");
}

// Rows of a tile, and its bytes.
constexpr int TILE = 128;
constexpr u32 TILE_BYTES = TILE * 128;
// Tiles of keys and values of the forward pass: two are on their way, one is in use, and one may still be.
constexpr int FORWARD_STAGES = 4;
// Q, and K and V of 64 keys for each stage.
constexpr u32 HOPPER_FORWARD_BYTES = (1 + FORWARD_STAGES) * TILE_BYTES;
// K three times, V, Q, dout and the gradients of scores twice, a tile on its way out, lse and delta twice.
constexpr u32 HOPPER_BACKWARD_BYTES = 14 * TILE_BYTES + 4 * TILE * sizeof(float);

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

template <bool DROPOUT>
__device__ __forceinline__ void flash_backward_on_hopper(E* dqkv, const E* dout, const float* lse, const float* delta,
                                                         float* sums, const E* qkv, int T, int NH, int heads, u64 key,
                                                         int threshold, float scale_of_kept) {
    extern __shared__ __align__(1024) char tiles[];
    u32 base = shared_address(tiles);
    auto keys_at = [](int stage) { return stage * TILE_BYTES; };
    auto values_at = [](int stage) { return (3 + stage) * TILE_BYTES; };
    auto queries_at = [](int stage) { return (5 + stage * 2) * TILE_BYTES; };
    auto ds_at = [](int stage) { return (9 + stage * 2) * TILE_BYTES; };
    auto saved_at = [](int stage) { return 14 * TILE_BYTES + stage * 2 * TILE * (u32)sizeof(float); };
    // The shuffle tells the compiler that the warp agrees.
    int lane = threadIdx.x % 32, group = __shfl_sync(FULL_WARP, threadIdx.x / 128, 0);
    // The first key of this warp in its tile, and the first query whose dq it has.
    int owned = threadIdx.x / 32 * 16;
    int count = (T + TILE - 1) / TILE;
    u64 channels = (u64)NH * 64;
    Four* my_sums = (Four*)sums + (u64)blockIdx.x * count * (TILE * 64 / 4) + threadIdx.x;

    // Gives the element of lse or delta that this thread is to save.
    auto begin_copies = [&](int head, int keys, int queries, int stage, int keys_stage, int values_stage,
                            bool is_wanted) {
        HopperHead at = hopper_head(head, T, NH);
        const E* q = qkv + at.in;
        bool are_keys_wanted = is_wanted && keys == queries;
        u32 k_tile = base + keys_at(keys_stage), v_tile = base + values_at(values_stage);
        u32 q_tile = base + queries_at(stage);
        copy_tile<TILE>(k_tile, q + channels, 3 * channels, keys * TILE, T, are_keys_wanted);
        copy_tile<TILE>(v_tile, q + 2 * channels, 3 * channels, keys * TILE, T, are_keys_wanted);
        copy_tile<TILE>(q_tile, q, 3 * channels, queries * TILE, T, is_wanted);
        copy_tile<TILE>(q_tile + TILE_BYTES, dout + at.out, channels, queries * TILE, T, is_wanted);
        copy_async_commit();
        int row = queries * TILE + threadIdx.x % TILE;
        bool is_there = row < T && is_wanted;
        float x = (threadIdx.x < TILE ? lse : delta)[is_there ? at.saved + row : 0];
        return is_there ? x : 0.0f;
    };
    // Half of the threads have an lse, which is kept in base 2, the others a delta.
    auto save = [&](int stage, float x) {
        ((float*)(tiles + saved_at(stage)))[threadIdx.x] = threadIdx.x < TILE ? x * LOG2_E : x;
    };

    int head = blockIdx.x, keys = 0, queries = 0, stage = 0, keys_stage = 0, values_stage = 0;
    save(0, begin_copies(head, 0, 0, 0, 0, 0, true));
    u32 k[4][4], p_fragments[4][4] = {}, ds_fragments[4][4] = {};
    float dk[8][4], dv[8][4], dq[8][4] = {};
    Mask mask;
    // The step whose dq is still to be made: its tile of keys, its sums, and where its dq goes if it is the last.
    u32 dq_keys = 0;
    Four* dq_sums = nullptr;
    E* dq_out = nullptr;
    int dq_first = 0;
    bool is_dq_last = false;
    auto begin_dq = [&](int ds_stage) {
        u64 ds_tile = operand(base + ds_at(ds_stage) + group * TILE_BYTES), k_rows = operand(base + dq_keys);
#pragma unroll
        for (int step = 0; step < 8; step++)
            group_multiply_tiles<1>(dq, further(ds_tile, step * 16 * 128), further(k_rows, step * 16 * 128), 1);
        group_commit();
    };
    auto end_dq = [&]() {
#pragma unroll
        for (int i = 0; i < 8; i++)
            write_sums(dq_sums + i * HOPPER_THREADS, {dq[i][0], dq[i][1], dq[i][2], dq[i][3]}, dq_sums && !is_dq_last);
#pragma unroll
        for (int half = 0; half < 2; half++) {
            int row = dq_first + owned + half * 8 + lane / 4;
            E* to = dq_out + (u64)row * 3 * channels + lane % 4 * 2;
#pragma unroll
            for (int i = 0; i < 8; i++)
                write_pair(to + 8 * i, pack2(dq[i][2 * half] * 0.125f, dq[i][2 * half + 1] * 0.125f),
                           is_dq_last && row < T);
        }
    };
    copy_async_wait<0>();
    publish_to_products();
    while (true) {
        // No one reads the tiles of the step before.
        __syncthreads();
        bool is_first = queries == keys, is_last = queries == count - 1;
        int next_head = head, next_keys = keys, next_queries = queries + 1;
        int next_keys_stage = keys_stage, next_values_stage = values_stage;
        if (is_last) {
            next_keys = keys + 1;
            next_keys_stage = keys_stage == 2 ? 0 : keys_stage + 1, next_values_stage ^= 1;
            if (next_keys == count) next_keys = 0, next_head += gridDim.x;
            next_queries = next_keys;
        }
        bool is_end = next_head >= heads;
        float next_saved;

        u32 q_tile = base + queries_at(stage), k_tile = base + keys_at(keys_stage);
        if (is_first) {
            if (keys == 0) mask = mask_of(key, threshold, scale_of_kept, T, head);
#pragma unroll
            for (int step = 0; step < 4; step++)
                load_matrices(k[step], square<64>(corner_down<64>(k_tile + owned * 128), 0, step));
#pragma unroll
            for (int i = 0; i < 32; i++) dk[i / 4][i % 4] = dv[i / 4][i % 4] = 0.0f;
        }

        u64 v_rows = operand(base + values_at(values_stage) + group * 64 * 128);
        auto work_on_half = [&](int half, auto has_future, auto is_first_half) {
            u32 ds_rows = base + ds_at(stage) + half * TILE_BYTES + owned * 128;
            u64 q_rows = operand(q_tile + half * 64 * 128), dout_rows = operand(q_tile + TILE_BYTES + half * 64 * 128);
            float s[8][4], dp[8][4];
            group_fence();
#pragma unroll
            for (int step = 0; step < 4; step++)
                group_multiply<0>(s, k[step], further(q_rows, step * 32), step > 0);
            group_commit();
#pragma unroll
            for (int step = 0; step < 4; step++)
                group_multiply_tiles<0>(dp, further(v_rows, step * 32), further(dout_rows, step * 32), step > 0);
            group_commit();
            if (is_first_half.value) {
                begin_dq(stage ^ 1);
                next_saved = begin_copies(next_head, next_keys, next_queries, stage ^ 1, next_keys_stage,
                                          next_values_stage, !is_end);
                group_wait<2>();
            } else {
                group_wait<1>();
            }
            // Products go in order: those of the half before are done, too.
            settle(s), settle(dk), settle(dv), settle(p_fragments), settle(ds_fragments);
            if (has_future.value) {
                int ahead = threadIdx.x % 128 / 32 * 16 + lane / 4 - lane % 4 * 2;
#pragma unroll
                for (int i = 0; i < 32; i++)
                    if (ahead + i % 4 / 2 * 8 > i / 4 * 8 + i % 2) s[i / 4][i % 4] = minus_infinity();
            }
            const float* saved = (const float*)(tiles + saved_at(stage)) + half * 64 + lane % 4 * 2;
            u32 kept = 0xffffffffu;
#pragma unroll
            for (int column = 0; column < 8; column++) {
                float2 lse_2 = *(const float2*)(saved + 8 * column);
                float p[4];
#pragma unroll
                for (int i = 0; i < 4; i++) {
                    float x = fmaf(s[column][i], 0.125f * LOG2_E, -(i % 2 ? lse_2.y : lse_2.x));
                    p[i] = s[column][i] = exp2_approximate(x);
                    if (DROPOUT) {
                        int query = queries * TILE + half * 64 + column * 8 + lane % 4 * 2 + i % 2;
                        int at = keys * TILE + owned + i / 2 * 8 + lane / 4;
                        if (!mask.keeps(query, at)) p[i] = 0.0f, kept &= ~(1u << (4 * column + i));
                    }
                }
                p_fragments[column / 2][column % 2 * 2] = pack2(p[0], p[1]);
                p_fragments[column / 2][column % 2 * 2 + 1] = pack2(p[2], p[3]);
            }
            group_fence();
#pragma unroll
            for (int step = 0; step < 4; step++)
                group_multiply<1>(dv, p_fragments[step], further(dout_rows, step * 16 * 128), 1);
            group_commit();
            group_wait<1>();
            settle(dp);
            if (is_first_half.value) settle(dq);
#pragma unroll
            for (int column = 0; column < 8; column++) {
                float2 deltas = *(const float2*)(saved + TILE + 8 * column);
                float ds[4];
#pragma unroll
                for (int i = 0; i < 4; i++) {
                    float gradient = dp[column][i];
                    if (DROPOUT) gradient = kept >> (4 * column + i) & 1 ? gradient * scale_of_kept : 0.0f;
                    ds[i] = s[column][i] * (gradient - (i % 2 ? deltas.y : deltas.x));
                }
                ds_fragments[column / 2][column % 2 * 2] = pack2(ds[0], ds[1]);
                ds_fragments[column / 2][column % 2 * 2 + 1] = pack2(ds[2], ds[3]);
            }
            group_fence();
#pragma unroll
            for (int step = 0; step < 4; step++)
                group_multiply<1>(dk, ds_fragments[step], further(q_rows, step * 16 * 128), 1);
            group_commit();
#pragma unroll
            for (int step = 0; step < 4; step++)
                store_matrices(square<64>(corner_down<64>(ds_rows), 0, step), ds_fragments[step]);
            if (is_first_half.value) end_dq();
        };
        auto end_step = [&]() {
            // The tiles of the next step are there, and so are the gradients of this one's scores.
            copy_async_wait<0>();
            publish_to_products();
            group_wait<0>();
            settle(dk), settle(dv), settle(p_fragments), settle(ds_fragments);
        };
        // Each case is straight code, or the compiler would not let products run beside anything.
        if (!is_first) {
            work_on_half(0, Known<false>{}, Known<true>{});
            work_on_half(1, Known<false>{}, Known<false>{});
            end_step();
        } else if (group == 0) {
            work_on_half(0, Known<true>{}, Known<true>{});
            work_on_half(1, Known<false>{}, Known<false>{});
            end_step();
        } else {
            // These keys are in the future of the first half.
            u32 nothing[4] = {};
#pragma unroll
            for (int step = 0; step < 4; step++)
                store_matrices(square<64>(corner_down<64>(base + ds_at(stage) + owned * 128), 0, step), nothing);
            work_on_half(1, Known<true>{}, Known<true>{});
            end_step();
        }
        if (is_last) {
            E* to = dqkv + hopper_head(head, T, NH).in + channels;
            char* staging = tiles + 13 * TILE_BYTES;
            store_tile(to, 3 * channels, keys * TILE, T, dk, 0.125f, 0.125f, staging);
            float kept = DROPOUT ? scale_of_kept : 1.0f;
            store_tile(to + channels, 3 * channels, keys * TILE, T, dv, kept, kept, staging);
        }
        dq_keys = keys_at(keys_stage), dq_sums = my_sums + queries * (TILE * 64 / 4);
        dq_out = dqkv + hopper_head(head, T, NH).in, dq_first = queries * TILE, is_dq_last = is_first;
        // Not before the fence, which may wait for what is being read, nor among products, which would lack registers.
#pragma unroll
        for (int i = 0; i < 8; i++) {
            Four before = read_sums(dq_sums + i * HOPPER_THREADS, keys > 0);
#pragma unroll
            for (int j = 0; j < 4; j++) dq[i][j] = before.x[j];
        }
        if (is_end) break;
        save(stage ^ 1, next_saved);
        head = next_head, keys = next_keys, queries = next_queries, keys_stage = next_keys_stage;
        values_stage = next_values_stage, stage ^= 1;
    }
    __syncthreads();
    group_fence();
    begin_dq(stage);
    group_wait<0>();
    settle(dq);
    end_dq();
}

// Attention of TILE queries from `first` on: each warpgroup owns 64 of them, and tiles of 64 keys stream past. Two
// blocks share a processor: while some warpgroups multiply, others take exponentials, which cost as much here.
template <bool DROPOUT>
__device__ __forceinline__ void flash_forward_on_hopper(E* out, float* lse, const E* q, u64 channels, int T,
                                                        int first, Mask mask) {
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
    auto begin_copies = [&](int tile) {
        if (tile < key_tiles) {
            copy_tile<KEYS>(k_tile(tile), q + channels, 3 * channels, tile * KEYS, T);
            copy_tile<KEYS>(k_tile(tile) + KEY_BYTES, q + 2 * channels, 3 * channels, tile * KEYS, T);
        }
        copy_async_commit();
    };
    copy_tile<TILE>(q_tile, q, 3 * channels, first, T);
    begin_copies(0);
    begin_copies(1);

    u32 q_fragments[4][4], p_fragments[4][4] = {};
    float o[8][4] = {};
    float row_max[2] = {minus_infinity(), minus_infinity()}, row_sum[2] = {};
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
        // Key 0 is in the past of every query, so the maximum is finite from the first tile on.
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
#pragma unroll 1
    for (int tile = 0; tile < last; tile++) {
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

// Sets out (B, T, C) and lse (B, NH, T). Grid B NH ceil(T / TILE), HOPPER_THREADS threads: neighbours share a head, so
// that its keys and values come from memory once.
#if defined(HEAD_SIZE)
extern "C" __global__ void __launch_bounds__(HOPPER_THREADS, 2)
    flash_forward_hopper(E* out, float* lse, const E* qkv, int T, int NH, u64 key, int threshold,
                         float scale_of_kept) {
#if defined(HOPPER) && HEAD_SIZE == 64
    int count = (T + TILE - 1) / TILE, head = blockIdx.x / count;
    // The last queries see the most keys: they go first.
    int first = (count - 1 - blockIdx.x % count) * TILE;
    HopperHead at = hopper_head(head, T, NH);
    u64 channels = (u64)NH * 64;
    Mask mask = mask_of(key, threshold, scale_of_kept, T, head);
    if (threshold == 0)
        flash_forward_on_hopper<false>(out + at.out, lse + at.saved, qkv + at.in, channels, T, first, mask);
    else
        flash_forward_on_hopper<true>(out + at.out, lse + at.saved, qkv + at.in, channels, T, first, mask);
#endif
}
#endif

// Sets dqkv (B, T, 3C), for `heads` = B NH. `sums` has TILE ceil(T / TILE) rows of 64 for each block. At most as many
// blocks as heads, HOPPER_THREADS threads.
#if defined(HEAD_SIZE)
extern "C" __global__ void __launch_bounds__(HOPPER_THREADS, 1)
    flash_backward_hopper(E* dqkv, const E* dout, const float* lse, const float* delta, float* sums, const E* qkv,
                          int T, int NH, int heads, u64 key, int threshold, float scale_of_kept) {
#if defined(HOPPER) && HEAD_SIZE == 64
    if (threshold == 0)
        flash_backward_on_hopper<false>(dqkv, dout, lse, delta, sums, qkv, T, NH, heads, key, threshold, scale_of_kept);
    else
        flash_backward_on_hopper<true>(dqkv, dout, lse, delta, sums, qkv, T, NH, heads, key, threshold, scale_of_kept);
#endif
}
#endif

#endif
