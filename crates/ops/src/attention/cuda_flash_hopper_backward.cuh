// The backward pass of attention on Hopper, in five products.
//
// - A block works on one head at a time and makes all of its key tiles, one after another, each with the tiles of
//   queries that see it. So no other block adds to the dq of that head: its f32 sums lie in a slice of scratch memory
//   that belongs to the block and serves its next head, too, which keeps it in L2, and each thread reads only sums that
//   it wrote itself. Nothing depends on timing: the pass is deterministic without atomics.
// - Key tiles go in order. The first one writes the sums of dq, the later ones add, and the tile of keys that are as
//   old as the queries is the last that these see: it makes dq.
// - A step is 128 keys and 128 queries. Warpgroups own keys and work on transposed scores. dq alone needs the keys of
//   both: gradients of scores go through shared memory, and each warpgroup makes the dq of 64 queries, one step late,
//   while it waits for the scores of the next. So a step has one barrier, which publishes its tiles, too.
// - Copies run one step ahead, over the ends of key tiles and heads.
// - Where documents share rows (MASKED), a key tile ends with the last tile of queries that sees it, and the first sums of
//   dq are those of the first key tile that the queries see.

#if !defined(ELEMENT_F32)

#if defined(HOPPER)
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

// In shared memory: K three times, V, Q, dout and the gradients of scores twice, a tile on its way out, lse and delta twice. If
// IS_MASKED, starts twice, too: it is all that a block may have.
template <bool DROPOUT>
__device__ __forceinline__ void flash_backward_on_hopper(E* dqkv, const E* dout, const float* lse, const float* delta,
                                                         float* sums, const E* qkv, const u32* starts, int T, int NH,
                                                         int heads, u64 key, int threshold, float scale_of_kept) {
    extern __shared__ __align__(1024) char tiles[];
    u32 base = shared_address(tiles);
    auto keys_at = [](int stage) { return stage * TILE_BYTES; };
    auto values_at = [](int stage) { return (3 + stage) * TILE_BYTES; };
    auto queries_at = [](int stage) { return (5 + stage * 2) * TILE_BYTES; };
    auto ds_at = [](int stage) { return (9 + stage * 2) * TILE_BYTES; };
    auto saved_at = [](int stage) { return 14 * TILE_BYTES + stage * (IS_MASKED ? 3 : 2) * TILE * (u32)sizeof(float); };
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
        if (IS_MASKED) {
            int query = queries * TILE + threadIdx.x;
            copy_async_4_if(base + saved_at(stage) + (2 * TILE + threadIdx.x) * (u32)sizeof(float),
                            starts_of(starts, head / NH, T).of_row + query, query < T, is_wanted && threadIdx.x < TILE);
        }
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
    // What the first queries of this tile and of the next one see first.
    Starts next_starts = starts_of(starts, head / NH, T);
    int start = next_starts(0), later_start = next_starts(TILE);
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
        if (IS_MASKED && agreed(later_start >= (keys + 1) * TILE)) is_last = true;
        // Whether these queries have sums of dq from earlier keys, and whether some of them may not see all of these keys.
        bool are_there = IS_MASKED ? agreed(start < keys * TILE) : keys > 0;
        bool is_parted = IS_MASKED && agreed(later_start > keys * TILE);
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
        auto work_on_half = [&](int half, auto has_future, auto has_past, auto is_first_half) {
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
                int first_query = queries * TILE + half * 64 + column * 8 + lane % 4 * 2;
                int first_key = keys * TILE + owned + lane / 4;
#pragma unroll
                for (int i = 0; i < 4; i++) {
                    float x = fmaf(s[column][i], 0.125f * LOG2_E, -(i % 2 ? lse_2.y : lse_2.x));
                    if (has_past.value) {
                        int2 seen_from = *(const int2*)(saved + 2 * TILE + 8 * column);
                        if (first_key + i / 2 * 8 < (i % 2 ? seen_from.y : seen_from.x)) x = minus_infinity();
                    }
                    p[i] = s[column][i] = exp2_approximate(x);
                    if (DROPOUT) {
                        bool is_kept = mask.keeps(first_query + i % 2, first_key + i / 2 * 8);
                        if (!is_kept) p[i] = 0.0f, kept &= ~(1u << (4 * column + i));
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
        if (!is_first && !is_parted) {
            work_on_half(0, Known<false>{}, Known<false>{}, Known<true>{});
            work_on_half(1, Known<false>{}, Known<false>{}, Known<false>{});
            end_step();
        } else if (!is_first) {
            work_on_half(0, Known<false>{}, Known<IS_MASKED>{}, Known<true>{});
            work_on_half(1, Known<false>{}, Known<IS_MASKED>{}, Known<false>{});
            end_step();
        } else if (group == 0) {
            work_on_half(0, Known<true>{}, Known<IS_MASKED>{}, Known<true>{});
            work_on_half(1, Known<false>{}, Known<IS_MASKED>{}, Known<false>{});
            end_step();
        } else {
            // These keys are in the future of the first half.
            u32 nothing[4] = {};
#pragma unroll
            for (int step = 0; step < 4; step++)
                store_matrices(square<64>(corner_down<64>(base + ds_at(stage) + owned * 128), 0, step), nothing);
            work_on_half(1, Known<true>{}, Known<IS_MASKED>{}, Known<true>{});
            end_step();
        }
        // Read now, and not among products, which would lack registers.
        next_starts = starts_of(starts, (is_end ? head : next_head) / NH, T);
        int next_start = next_starts(next_queries * TILE), next_later_start = next_starts((next_queries + 1) * TILE);
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
            Four before = read_sums(dq_sums + i * HOPPER_THREADS, are_there);
#pragma unroll
            for (int j = 0; j < 4; j++) dq[i][j] = before.x[j];
        }
        if (is_end) break;
        save(stage ^ 1, next_saved);
        head = next_head, keys = next_keys, queries = next_queries, keys_stage = next_keys_stage;
        values_stage = next_values_stage, stage ^= 1, start = next_start, later_start = next_later_start;
    }
    __syncthreads();
    group_fence();
    begin_dq(stage);
    group_wait<0>();
    settle(dq);
    end_dq();
}
#endif

// Sets dqkv (B, T, 3C), for `heads` = B NH; starts (B, T). `sums` has TILE ceil(T / TILE) rows of 64 for each block. At
// most as many blocks as heads, HOPPER_THREADS threads.
#if defined(HEAD_SIZE)
extern "C" __global__ void __launch_bounds__(HOPPER_THREADS, 1)
    flash_backward_hopper(E* dqkv, const E* dout, const float* lse, const float* delta, float* sums, const E* qkv,
                          STARTS_PARAMETER int T, int NH, int heads, u64 key, int threshold, float scale_of_kept) {
#if defined(HOPPER) && HEAD_SIZE == 64
    if (threshold == 0)
        flash_backward_on_hopper<false>(dqkv, dout, lse, delta, sums, qkv, STARTS, T, NH, heads, key, threshold,
                                        scale_of_kept);
    else
        flash_backward_on_hopper<true>(dqkv, dout, lse, delta, sums, qkv, STARTS, T, NH, heads, key, threshold,
                                       scale_of_kept);
#endif
}
#endif

#endif
