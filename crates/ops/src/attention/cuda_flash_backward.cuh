// The backward pass of attention on tensor cores, deterministic: no sum depends on which block comes first.
//
// A block owns either keys, and sums dk and dv over the queries that see them, or queries, and sums dq over the keys
// they see. Both recompute the scores, so seven products are made where five would do; the five need dq summed across
// blocks, by atomics in no fixed order or through memory. Blocks of both kinds share one launch and fill one another's
// gaps. Owners of keys work on the transposes of scores and gradients, so that here too accumulators become left
// fragments where they lie.
//
// A sequence of at most OWNED tokens has a kernel of its own: one block reads everything of a head once, computes delta
// itself and does the work of both kinds. At that length memory is the limit and the recomputation is free.

#if !defined(ELEMENT_F32)

// s = a x^T and dp = b y^T, for 16 rows of tiles x and y, given by their corners across.
template <int HS>
__device__ __forceinline__ void multiply_rows(float (&s)[Layout<HS>::GROUPS][2][4],
                                              float (&dp)[Layout<HS>::GROUPS][2][4],
                                              const u32 (&a)[Layout<HS>::GROUPS][Layout<HS>::STEPS][4],
                                              const u32 (&b)[Layout<HS>::GROUPS][Layout<HS>::STEPS][4], u32 x, u32 y) {
    using L = Layout<HS>;
#pragma unroll
    for (int step = 0; step < L::STEPS; step++) {
        u32 from_x[4], from_y[4];
        load_matrices(from_x, square<HS>(x, 0, step));
        load_matrices(from_y, square<HS>(y, 0, step));
#pragma unroll
        for (int group = 0; group < L::GROUPS; group++) {
            multiply_accumulate(s[group][0], a[group][step], from_x[0], from_x[1]);
            multiply_accumulate(s[group][1], a[group][step], from_x[2], from_x[3]);
            multiply_accumulate(dp[group][0], b[group][step], from_y[0], from_y[1]);
            multiply_accumulate(dp[group][1], b[group][step], from_y[2], from_y[3]);
        }
    }
}

// sum += a x, for 16 rows of tile x, given by its corner down.
template <int HS>
__device__ __forceinline__ void accumulate_rows(float (&sum)[Layout<HS>::GROUPS][HS / 8][4],
                                                const u32 (&a)[Layout<HS>::GROUPS][4], u32 x) {
    using L = Layout<HS>;
#pragma unroll
    for (int columns = 0; columns < L::STEPS; columns++) {
        u32 b[4];
        load_matrices_transposed(b, square<HS>(x, 0, columns));
#pragma unroll
        for (int group = 0; group < L::GROUPS; group++) {
            multiply_accumulate(sum[group][2 * columns], a[group], b[0], b[1]);
            multiply_accumulate(sum[group][2 * columns + 1], a[group], b[2], b[3]);
        }
    }
}

// Hides the scores of keys in the future of queries: rows are from `first_row` on, columns from `first_column` on.
template <int HS, bool ROWS_ARE_KEYS>
__device__ __forceinline__ void hide_future(float (&s)[Layout<HS>::GROUPS][2][4], int first_row, int first_column) {
    int row = first_row + threadIdx.x % 32 / 4, column = first_column + threadIdx.x % 4 * 2;
#pragma unroll
    for (int group = 0; group < Layout<HS>::GROUPS; group++) {
#pragma unroll
        for (int i = 0; i < 8; i++) {
            int ahead = row + group * 16 + i % 4 / 2 * 8 - (column + i / 4 * 8 + i % 2);
            if (ROWS_ARE_KEYS ? ahead > 0 : ahead < 0) s[group][i / 4][i % 4] = minus_infinity();
        }
    }
}

// Adds to dk and dv of this warp's keys, from `warp_first` on, what the queries of a tile give. `lse` and `delta` of
// these queries lie in shared memory. Queries past T are zero throughout, and so is what they give.
template <int HS, bool DROPOUT>
__device__ __forceinline__ void keys_meet_queries(float (&dk)[Layout<HS>::GROUPS][HS / 8][4],
                                                  float (&dv)[Layout<HS>::GROUPS][HS / 8][4],
                                                  const u32 (&k)[Layout<HS>::GROUPS][Layout<HS>::STEPS][4],
                                                  const u32 (&v)[Layout<HS>::GROUPS][Layout<HS>::STEPS][4], u32 q,
                                                  u32 dout, const float* lse, const float* delta, Starts starts,
                                                  int warp_first, int first_query, int T, Mask mask) {
    using L = Layout<HS>;
    int lane = threadIdx.x % 32;
    // Whether a query of the tile does not see the first key.
    bool is_parted = IS_MASKED && starts(first_query + STREAMED - 1) > warp_first;
#pragma unroll 1
    for (int part = 0; part < STREAMED / 16; part++) {
        int first = first_query + 16 * part;
        if (first + 15 < warp_first) continue;
        if (first >= T) break;
        if (is_parted && starts(first) > warp_first + 16 * L::GROUPS - 1) break;
        u32 q_rows = q + part * 16 * L::ROW, dout_rows = dout + part * 16 * L::ROW;
        float s[L::GROUPS][2][4] = {}, dp[L::GROUPS][2][4] = {};
        multiply_rows<HS>(s, dp, k, v, corner_across<HS>(q_rows), corner_across<HS>(dout_rows));
        if (first < warp_first + 16 * L::GROUPS - 1) hide_future<HS, true>(s, warp_first, first);
        if (is_parted) {
#pragma unroll
            for (int group = 0; group < L::GROUPS; group++)
                hide_past<true>(s[group], starts, warp_first + group * 16, first);
        }
        u32 p_fragments[L::GROUPS][4], ds_fragments[L::GROUPS][4];
#pragma unroll
        for (int column = 0; column < 2; column++) {
            int at = 16 * part + 8 * column + lane % 4 * 2;
            float2 lse_pair = *(const float2*)(lse + at), delta_pair = *(const float2*)(delta + at);
            float lse_2[2] = {lse_pair.x * LOG2_E, lse_pair.y * LOG2_E}, deltas[2] = {delta_pair.x, delta_pair.y};
#pragma unroll
            for (int group = 0; group < L::GROUPS; group++) {
#pragma unroll
                for (int half = 0; half < 2; half++) {
                    int key = warp_first + group * 16 + half * 8 + lane / 4;
                    float p[2], ds[2];
#pragma unroll
                    for (int i = 0; i < 2; i++) {
                        int query = first_query + at + i;
                        p[i] = exp2_approximate(fmaf(s[group][column][2 * half + i], L::SCALE * LOG2_E, -lse_2[i]));
                        float gradient = dp[group][column][2 * half + i];
                        if (DROPOUT) {
                            bool is_kept = mask.keeps(query, key);
                            gradient = is_kept ? gradient * mask.scale_of_kept : 0.0f;
                            ds[i] = p[i] * (gradient - deltas[i]);
                            p[i] = is_kept ? p[i] : 0.0f;
                        } else {
                            ds[i] = p[i] * (gradient - deltas[i]);
                        }
                    }
                    p_fragments[group][2 * column + half] = pack2(p[0], p[1]);
                    ds_fragments[group][2 * column + half] = pack2(ds[0], ds[1]);
                }
            }
        }
        accumulate_rows<HS>(dv, p_fragments, corner_down<HS>(dout_rows));
        accumulate_rows<HS>(dk, ds_fragments, corner_down<HS>(q_rows));
    }
}

// Adds to dq of this warp's queries, from `warp_first` on, what the keys of a tile give.
template <int HS, bool DROPOUT>
__device__ __forceinline__ void queries_meet_keys(float (&dq)[Layout<HS>::GROUPS][HS / 8][4],
                                                  const u32 (&q)[Layout<HS>::GROUPS][Layout<HS>::STEPS][4],
                                                  const u32 (&dout)[Layout<HS>::GROUPS][Layout<HS>::STEPS][4], u32 k,
                                                  u32 v, const float (&lse_2)[Layout<HS>::GROUPS][2],
                                                  const float (&delta)[Layout<HS>::GROUPS][2], Starts starts,
                                                  int warp_first, int first_key, Mask mask) {
    using L = Layout<HS>;
    int lane = threadIdx.x % 32;
    int warp_start = starts(warp_first), warp_last_start = starts(warp_first + 16 * L::GROUPS - 1);
#pragma unroll 1
    for (int part = 0; part < STREAMED / 16; part++) {
        int first = first_key + 16 * part;
        if (first > warp_first + 16 * L::GROUPS - 1) break;
        if (IS_MASKED && first + 15 < warp_start) continue;
        u32 k_rows = k + part * 16 * L::ROW, v_rows = v + part * 16 * L::ROW;
        float s[L::GROUPS][2][4] = {}, dp[L::GROUPS][2][4] = {};
        multiply_rows<HS>(s, dp, q, dout, corner_across<HS>(k_rows), corner_across<HS>(v_rows));
        if (first + 15 > warp_first) hide_future<HS, false>(s, warp_first, first);
        if (IS_MASKED && first < warp_last_start) {
#pragma unroll
            for (int group = 0; group < L::GROUPS; group++)
                hide_past<false>(s[group], starts, warp_first + group * 16, first);
        }
        u32 ds_fragments[L::GROUPS][4];
#pragma unroll
        for (int column = 0; column < 2; column++) {
#pragma unroll
            for (int group = 0; group < L::GROUPS; group++) {
#pragma unroll
                for (int half = 0; half < 2; half++) {
                    int query = warp_first + group * 16 + half * 8 + lane / 4;
                    float ds[2];
#pragma unroll
                    for (int i = 0; i < 2; i++) {
                        int key = first + 8 * column + lane % 4 * 2 + i;
                        float p = exp2_approximate(
                            fmaf(s[group][column][2 * half + i], L::SCALE * LOG2_E, -lse_2[group][half]));
                        float gradient = dp[group][column][2 * half + i];
                        if (DROPOUT) gradient = mask.keeps(query, key) ? gradient * mask.scale_of_kept : 0.0f;
                        ds[i] = p * (gradient - delta[group][half]);
                    }
                    ds_fragments[group][2 * column + half] = pack2(ds[0], ds[1]);
                }
            }
        }
        accumulate_rows<HS>(dq, ds_fragments, corner_down<HS>(k_rows));
    }
}

// The fragments of all rows that this warp owns.
template <int HS>
__device__ __forceinline__ void load_owned(u32 (&out)[Layout<HS>::GROUPS][Layout<HS>::STEPS][4], u32 tile) {
    using L = Layout<HS>;
#pragma unroll
    for (int group = 0; group < L::GROUPS; group++)
        load_fragments<HS>(out[group], corner_down<HS>(tile), threadIdx.x / 32 * L::GROUPS + group);
}

// Stores the gradient of the rows that this warp owns, times one factor.
template <int HS>
__device__ __forceinline__ void store_owned(E* matrix, u64 stride, int first, int count,
                                            const float (&x)[Layout<HS>::GROUPS][HS / 8][4], float factor,
                                            char* staging) {
    float factors[Layout<HS>::GROUPS][2];
#pragma unroll
    for (int group = 0; group < Layout<HS>::GROUPS; group++) factors[group][0] = factors[group][1] = factor;
    store_rows<HS>(matrix, stride, first, count, x, factors, staging);
}

// One head of one sequence: matrices of T rows, the first three with rows 3C apart, the others C.
struct Head {
    const E *q, *k, *v, *dout;
    E *dq, *dk, *dv;
    const float *lse, *delta;
    u64 stride, out_stride;
    int T;
};

// dk and dv of OWNED keys from `first` on.
template <int HS, bool DROPOUT>
__device__ __forceinline__ void flash_backward_keys(Head head, Starts starts, int first, Mask mask) {
    using L = Layout<HS>;
    extern __shared__ __align__(1024) char tiles[];
    u32 k_tile = shared_address(tiles), v_tile = k_tile + L::OWNED_BYTES;
    auto q_offset = [&](int tile) { return 2 * L::OWNED_BYTES + tile % 2 * 2 * L::STREAMED_BYTES; };
    auto lse_offset = [&](int tile) {
        return 2 * L::OWNED_BYTES + 4 * L::STREAMED_BYTES + tile % 2 * 2 * STREAMED * (u32)sizeof(float);
    };
    int last_tile = (head.T - 1) / STREAMED;
    auto copy_tile = [&](int tile) {
        u32 q = k_tile + q_offset(tile);
        copy_rows<HS, STREAMED>(q, head.q, head.stride, tile * STREAMED, head.T);
        copy_rows<HS, STREAMED>(q + L::STREAMED_BYTES, head.dout, head.out_stride, tile * STREAMED, head.T);
        if (threadIdx.x < 2 * STREAMED) {
            int row = tile * STREAMED + threadIdx.x % STREAMED;
            const float* from = threadIdx.x < STREAMED ? head.lse : head.delta;
            copy_async_4(k_tile + lse_offset(tile) + threadIdx.x * sizeof(float), from + row, row < head.T);
        }
        copy_async_commit();
    };

    copy_rows<HS, OWNED>(k_tile, head.k, head.stride, first, head.T);
    copy_rows<HS, OWNED>(v_tile, head.v, head.stride, first, head.T);
    copy_tile(first / STREAMED);
    u32 k[L::GROUPS][L::STEPS][4], v[L::GROUPS][L::STEPS][4];
    float dk[L::GROUPS][HS / 8][4] = {}, dv[L::GROUPS][HS / 8][4] = {};
    int warp_first = first + threadIdx.x / 32 * 16 * L::GROUPS;
    for (int tile = first / STREAMED; tile <= last_tile; tile++) {
        copy_async_wait<0>();
        __syncthreads();
        if (tile == first / STREAMED) load_owned<HS>(k, k_tile), load_owned<HS>(v, v_tile);
        // From the next tile on none of these keys is seen.
        if (IS_MASKED && starts((tile + 1) * STREAMED) >= first + OWNED) last_tile = tile;
        if (tile < last_tile) copy_tile(tile + 1);
        u32 q = k_tile + q_offset(tile);
        const float* lse = (const float*)(tiles + lse_offset(tile));
        keys_meet_queries<HS, DROPOUT>(dk, dv, k, v, q, q + L::STREAMED_BYTES, lse, lse + STREAMED, starts,
                                       warp_first, tile * STREAMED, head.T, mask);
    }
    // Only this warp has read its rows of the tiles of keys and values, and they are in registers.
    store_owned<HS>(head.dk, head.stride, first, head.T, dk, L::SCALE, tiles);
    store_owned<HS>(head.dv, head.stride, first, head.T, dv, DROPOUT ? mask.scale_of_kept : 1.0f,
                    tiles + L::OWNED_BYTES);
}

// dq of OWNED queries from `first` on.
template <int HS, bool DROPOUT>
__device__ __forceinline__ void flash_backward_queries(Head head, Starts starts, int first, Mask mask) {
    using L = Layout<HS>;
    extern __shared__ __align__(1024) char tiles[];
    u32 q_tile = shared_address(tiles), dout_tile = q_tile + L::OWNED_BYTES;
    auto k_tile = [&](int tile) { return q_tile + 2 * L::OWNED_BYTES + tile % 2 * 2 * L::STREAMED_BYTES; };
    int first_tile = starts(first) / STREAMED, last_tile = (min(first + OWNED, head.T) - 1) / STREAMED;
    auto copy_tile = [&](int tile) {
        copy_rows<HS, STREAMED>(k_tile(tile), head.k, head.stride, tile * STREAMED, head.T);
        copy_rows<HS, STREAMED>(k_tile(tile) + L::STREAMED_BYTES, head.v, head.stride, tile * STREAMED, head.T);
        copy_async_commit();
    };

    copy_rows<HS, OWNED>(q_tile, head.q, head.stride, first, head.T);
    copy_rows<HS, OWNED>(dout_tile, head.dout, head.out_stride, first, head.T);
    copy_tile(first_tile);
    int lane = threadIdx.x % 32, warp_first = first + threadIdx.x / 32 * 16 * L::GROUPS;
    float lse_2[L::GROUPS][2], delta[L::GROUPS][2];
#pragma unroll
    for (int group = 0; group < L::GROUPS; group++) {
#pragma unroll
        for (int half = 0; half < 2; half++) {
            int row = min(warp_first + group * 16 + half * 8 + lane / 4, head.T - 1);
            lse_2[group][half] = head.lse[row] * LOG2_E;
            delta[group][half] = head.delta[row];
        }
    }
    u32 q[L::GROUPS][L::STEPS][4], dout[L::GROUPS][L::STEPS][4];
    float dq[L::GROUPS][HS / 8][4] = {};
    for (int tile = first_tile; tile <= last_tile; tile++) {
        copy_async_wait<0>();
        __syncthreads();
        if (tile == first_tile) load_owned<HS>(q, q_tile), load_owned<HS>(dout, dout_tile);
        if (tile < last_tile) copy_tile(tile + 1);
        queries_meet_keys<HS, DROPOUT>(dq, q, dout, k_tile(tile), k_tile(tile) + L::STREAMED_BYTES, lse_2, delta,
                                       starts, warp_first, tile * STREAMED, mask);
    }
    store_owned<HS>(head.dq, head.stride, first, head.T, dq, L::SCALE, tiles);
}

// dq, dk and dv of a sequence of at most OWNED tokens. `head.delta` is not read: it comes from `out`.
template <int HS, bool DROPOUT>
__device__ __forceinline__ void flash_backward_short(Head head, Starts starts, const E* out, Mask mask) {
    using L = Layout<HS>;
    extern __shared__ __align__(1024) char tiles[];
    u32 q_tile = shared_address(tiles), k_tile = q_tile + L::OWNED_BYTES, v_tile = k_tile + L::OWNED_BYTES;
    u32 dout_tile = v_tile + L::OWNED_BYTES, out_tile = dout_tile + L::OWNED_BYTES;
    char* staging = tiles + 4 * L::OWNED_BYTES;
    float *lse = (float*)(tiles + 5 * L::OWNED_BYTES), *delta = lse + OWNED;
    copy_rows<HS, OWNED>(out_tile, out, head.out_stride, 0, head.T);
    copy_rows<HS, OWNED>(dout_tile, head.dout, head.out_stride, 0, head.T);
    copy_async_commit();
    copy_rows<HS, OWNED>(q_tile, head.q, head.stride, 0, head.T);
    copy_rows<HS, OWNED>(k_tile, head.k, head.stride, 0, head.T);
    copy_rows<HS, OWNED>(v_tile, head.v, head.stride, 0, head.T);
    copy_async_commit();
    if (threadIdx.x < OWNED) lse[threadIdx.x] = threadIdx.x < head.T ? head.lse[threadIdx.x] : 0.0f;
    copy_async_wait<1>();
    __syncthreads();
    if (threadIdx.x < OWNED) {
        float sum = 0.0f;
#pragma unroll
        for (int piece = 0; piece < L::PIECES; piece++) {
            u32 at = swizzled<HS>(threadIdx.x, piece);
            Vec x = *(const Vec*)(staging + at), dx = *(const Vec*)(staging - L::OWNED_BYTES + at);
#pragma unroll
            for (int i = 0; i < VEC; i++) sum = fmaf(to_f32(x.x[i]), to_f32(dx.x[i]), sum);
        }
        delta[threadIdx.x] = sum;
    }
    copy_async_wait<0>();
    __syncthreads();

    // From here on the tiles are only read and each warp stages in rows of its own: there is no barrier, and a warp
    // whose queries see few keys goes on to its keys, which many queries see.
    int lane = threadIdx.x % 32, warp_first = threadIdx.x / 32 * 16 * L::GROUPS;
    int last_tile = (head.T - 1) / STREAMED;
    {
        u32 q[L::GROUPS][L::STEPS][4], dout[L::GROUPS][L::STEPS][4];
        load_owned<HS>(q, q_tile), load_owned<HS>(dout, dout_tile);
        float lse_2[L::GROUPS][2], deltas[L::GROUPS][2], dq[L::GROUPS][HS / 8][4] = {};
#pragma unroll
        for (int group = 0; group < L::GROUPS; group++) {
#pragma unroll
            for (int half = 0; half < 2; half++) {
                int row = warp_first + group * 16 + half * 8 + lane / 4;
                lse_2[group][half] = lse[row] * LOG2_E;
                deltas[group][half] = delta[row];
            }
        }
#pragma unroll 1
        for (int tile = 0; tile <= last_tile; tile++)
            queries_meet_keys<HS, DROPOUT>(dq, q, dout, k_tile + tile * L::STREAMED_BYTES,
                                           v_tile + tile * L::STREAMED_BYTES, lse_2, deltas, starts, warp_first,
                                           tile * STREAMED, mask);
        store_owned<HS>(head.dq, head.stride, 0, head.T, dq, L::SCALE, staging);
    }
    u32 k[L::GROUPS][L::STEPS][4], v[L::GROUPS][L::STEPS][4];
    load_owned<HS>(k, k_tile), load_owned<HS>(v, v_tile);
    float dk[L::GROUPS][HS / 8][4] = {}, dv[L::GROUPS][HS / 8][4] = {};
#pragma unroll 1
    for (int tile = 0; tile <= last_tile; tile++)
        keys_meet_queries<HS, DROPOUT>(dk, dv, k, v, q_tile + tile * L::STREAMED_BYTES,
                                       dout_tile + tile * L::STREAMED_BYTES, lse + tile * STREAMED,
                                       delta + tile * STREAMED, starts, warp_first, tile * STREAMED, head.T,
                                       mask);
    store_owned<HS>(head.dk, head.stride, 0, head.T, dk, L::SCALE, staging);
    store_owned<HS>(head.dv, head.stride, 0, head.T, dv, DROPOUT ? mask.scale_of_kept : 1.0f, staging);
}

__device__ __forceinline__ Head head_of(E* dqkv, const E* dout, const float* lse, const float* delta, const E* qkv,
                                        int T, int NH, int HS) {
    u64 channels = (u64)NH * HS, row = (u64)(blockIdx.x / NH) * T, column = (u64)(blockIdx.x % NH) * HS;
    const E* q = qkv + row * 3 * channels + column;
    E* dq = dqkv + row * 3 * channels + column;
    u64 saved = (u64)blockIdx.x * T;
    return {q, q + channels, q + 2 * channels, dout + row * channels + column,
            dq, dq + channels, dq + 2 * channels, lse + saved, delta + saved, 3 * channels, channels, T};
}

// Sets dqkv (B, T, 3C); starts (B, T). Grid (B NH, 2 ceil(T / OWNED)), THREADS threads.
template <int HS>
__device__ __forceinline__ void flash_backward_kernel(E* dqkv, const E* dout, const float* lse, const float* delta,
                                                      const E* qkv, const u32* starts, int T, int NH, u64 key,
                                                      int threshold, float scale_of_kept) {
    Head head = head_of(dqkv, dout, lse, delta, qkv, T, NH, HS);
    Starts starts_of_row = starts_of(starts, blockIdx.x / NH, T);
    Mask mask = mask_of(key, threshold, scale_of_kept, T, blockIdx.x);
    // The first keys meet the most queries, and the last queries the most keys: those go first.
    int rank = blockIdx.y / 2, tiles = gridDim.y / 2;
    if (blockIdx.y % 2 == 0) {
        int first = rank * OWNED;
        if (threshold == 0)
            flash_backward_keys<HS, false>(head, starts_of_row, first, mask);
        else
            flash_backward_keys<HS, true>(head, starts_of_row, first, mask);
    } else {
        int first = (tiles - 1 - rank) * OWNED;
        if (threshold == 0)
            flash_backward_queries<HS, false>(head, starts_of_row, first, mask);
        else
            flash_backward_queries<HS, true>(head, starts_of_row, first, mask);
    }
}

// Sets dqkv (B, T, 3C) where T is at most OWNED. Grid B NH, THREADS threads.
template <int HS>
__device__ __forceinline__ void flash_backward_short_kernel(E* dqkv, const E* dout, const E* out, const float* lse,
                                                            const E* qkv, const u32* starts, int T, int NH, u64 key,
                                                            int threshold, float scale_of_kept) {
    Head head = head_of(dqkv, dout, lse, nullptr, qkv, T, NH, HS);
    Starts starts_of_row = starts_of(starts, blockIdx.x / NH, T);
    Mask mask = mask_of(key, threshold, scale_of_kept, T, blockIdx.x);
    out += head.dout - dout;
    if (threshold == 0)
        flash_backward_short<HS, false>(head, starts_of_row, out, mask);
    else
        flash_backward_short<HS, true>(head, starts_of_row, out, mask);
}

#if defined(HEAD_SIZE)
extern "C" __global__ void __launch_bounds__(Layout<HEAD_SIZE>::THREADS, Layout<HEAD_SIZE>::BLOCKS)
    flash_backward(E* dqkv, const E* dout, const float* lse, const float* delta, const E* qkv, STARTS_PARAMETER int T,
                   int NH, u64 key, int threshold, float scale_of_kept) {
    flash_backward_kernel<HEAD_SIZE>(dqkv, dout, lse, delta, qkv, STARTS, T, NH, key, threshold, scale_of_kept);
}
extern "C" __global__ void __launch_bounds__(Layout<HEAD_SIZE>::THREADS, Layout<HEAD_SIZE>::BLOCKS)
    flash_backward_short(E* dqkv, const E* dout, const E* out, const float* lse, const E* qkv, STARTS_PARAMETER int T,
                         int NH, u64 key, int threshold, float scale_of_kept) {
    flash_backward_short_kernel<HEAD_SIZE>(dqkv, dout, out, lse, qkv, STARTS, T, NH, key, threshold, scale_of_kept);
}
#endif

#endif
