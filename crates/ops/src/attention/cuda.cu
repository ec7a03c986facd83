// Causal attention for any head size up to 256 and any element, in f32 arithmetic; what precedes its backward pass; and
// attention over a KV cache. Tensor cores are for cuda_flash.cuh, which this file does not need.
//
// The trick is the shape of a warp's work: it owns eight rows, its lanes are 32 rows of the tile that streams past. For
// scores a lane reads its row four elements at a time and meets eight rows broadcast from shared memory; for the
// products that follow, a lane is a column instead, and the probabilities are what is broadcast. Rows are padded to an
// odd number of float4, so that lanes in different rows meet different banks.

// Rows a block owns, and rows of a streamed tile: a lane for each.
constexpr int GENERIC_ROWS = 32;
constexpr int GENERIC_THREADS = 128;
constexpr int ROWS_OF_WARP = 8;

// Floats from one row of a tile to the next.
__device__ __forceinline__ int padded(int HS) { return 4 * ((HS + 3) / 4 | 1); }

// Loads rows first .. first + GENERIC_ROWS of a matrix with `count` rows; what lies outside is zero.
__device__ __forceinline__ void load_rows(float* tile, const E* matrix, u64 stride, int first, int count, int HS) {
    int pitch = padded(HS);
    for (int row = threadIdx.x / 32; row < GENERIC_ROWS; row += GENERIC_THREADS / 32) {
        const E* from = matrix + (first + row) * stride;
        for (int d = threadIdx.x % 32; d < pitch; d += 32)
            tile[row * pitch + d] = first + row < count && d < HS ? to_f32(from[d]) : 0.0f;
    }
}

// out[r] = rows[r] . lane_row, for the eight rows of a warp.
__device__ __forceinline__ void dot_rows(float (&out)[ROWS_OF_WARP], const float* rows, const float* lane_row, int HS) {
    int pitch = padded(HS);
#pragma unroll
    for (int r = 0; r < ROWS_OF_WARP; r++) out[r] = 0.0f;
    for (int d = 0; d < HS; d += 4) {
        float4 y = *(const float4*)(lane_row + d);
#pragma unroll
        for (int r = 0; r < ROWS_OF_WARP; r++) {
            float4 x = *(const float4*)(rows + r * pitch + d);
            out[r] = fmaf(x.x, y.x, fmaf(x.y, y.y, fmaf(x.z, y.z, fmaf(x.w, y.w, out[r]))));
        }
    }
}

// sum[r][c] += weights[r] . column lane + 32 c of `tile`. Columns past the head hold anything and are never stored;
// every tile is followed by enough shared memory that they can be read.
template <int CHUNKS>
__device__ __forceinline__ void add_weighted(float (&sum)[ROWS_OF_WARP][CHUNKS], const float* weights,
                                             const float* tile, int HS) {
    int pitch = padded(HS);
    const float* column = tile + threadIdx.x % 32;
#pragma unroll 1
    for (int j = 0; j < GENERIC_ROWS; j += 4) {
        float4 w[ROWS_OF_WARP];
#pragma unroll
        for (int r = 0; r < ROWS_OF_WARP; r++) w[r] = *(const float4*)(weights + r * GENERIC_ROWS + j);
#pragma unroll
        for (int c = 0; c < CHUNKS; c++) {
            const float* at = column + j * pitch + 32 * c;
            float x0 = at[0], x1 = at[pitch], x2 = at[2 * pitch], x3 = at[3 * pitch];
#pragma unroll
            for (int r = 0; r < ROWS_OF_WARP; r++)
                sum[r][c] = fmaf(w[r].x, x0, fmaf(w[r].y, x1, fmaf(w[r].z, x2, fmaf(w[r].w, x3, sum[r][c]))));
        }
    }
}

template <int CHUNKS>
__device__ __forceinline__ void store_weighted(E* matrix, u64 stride, int first, int count,
                                               const float (&x)[ROWS_OF_WARP][CHUNKS],
                                               const float (&factor)[ROWS_OF_WARP], int HS) {
#pragma unroll
    for (int r = 0; r < ROWS_OF_WARP; r++) {
#pragma unroll
        for (int c = 0; c < CHUNKS; c++) {
            int d = threadIdx.x % 32 + 32 * c;
            if (first + r < count && d < HS) matrix[(first + r) * stride + d] = from_f32(x[r][c] * factor[r]);
        }
    }
}

// e to the `x` - `top`, where both may be minus infinity: no key was seen.
__device__ __forceinline__ float below_top(float x, float top) {
    return x == __int_as_float(0xff800000) ? 0.0f : expf(x - top);
}

// The first key that query `i` of `count` sees: 0 for all where `starts` is null.
__device__ __forceinline__ int start_of(const u32* starts, int i, int count) {
    return starts && i < count ? (int)starts[i] : 0;
}

// Attention of GENERIC_ROWS queries from `first` on; query i sees keys starts[i] ..= offset + i, from 0 where there are no
// starts. `lse` and `starts` may be null.
template <int CHUNKS>
__device__ __forceinline__ void generic_forward(E* out, float* lse, const E* q, const E* k, const E* v, u64 out_stride,
                                                u64 q_stride, u64 kv_stride, const u32* starts, int queries, int offset,
                                                int first, int HS, u64 key, int threshold, float scale_of_kept) {
    extern __shared__ __align__(1024) char tiles[];
    int pitch = padded(HS), lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    float *q_tile = (float*)tiles, *k_tile = q_tile + GENERIC_ROWS * pitch, *v_tile = k_tile + GENERIC_ROWS * pitch;
    float* p_rows = v_tile + GENERIC_ROWS * pitch + warp * ROWS_OF_WARP * GENERIC_ROWS;
    float scale = 1.0f / sqrtf((float)HS);
    int keys = offset + queries, warp_first = first + warp * ROWS_OF_WARP;
    int last_key = offset + min(first + GENERIC_ROWS, queries) - 1;
    load_rows(q_tile, q, q_stride, first, queries, HS);
    float o[ROWS_OF_WARP][CHUNKS] = {}, row_max[ROWS_OF_WARP], row_sum[ROWS_OF_WARP] = {};
    int start[ROWS_OF_WARP];
#pragma unroll
    for (int r = 0; r < ROWS_OF_WARP; r++) {
        row_max[r] = __int_as_float(0xff800000);
        start[r] = start_of(starts, warp_first + r, queries);
    }

    // Starts do not descend, so no query of the block sees a key before what its first one sees.
    int begin = start_of(starts, first, queries) / GENERIC_ROWS * GENERIC_ROWS;
    for (int first_key = begin; first_key <= last_key; first_key += GENERIC_ROWS) {
        __syncthreads();
        load_rows(k_tile, k, kv_stride, first_key, keys, HS);
        load_rows(v_tile, v, kv_stride, first_key, keys, HS);
        __syncthreads();
        if (first_key > offset + warp_first + ROWS_OF_WARP - 1) continue;
        float s[ROWS_OF_WARP];
        dot_rows(s, q_tile + warp * ROWS_OF_WARP * pitch, k_tile + lane * pitch, HS);
#pragma unroll
        for (int r = 0; r < ROWS_OF_WARP; r++) {
            int row = offset + warp_first + r, key_seen = first_key + lane;
            s[r] = start[r] <= key_seen && key_seen <= row ? s[r] * scale : __int_as_float(0xff800000);
            float top = fmaxf(row_max[r], warp_max(s[r]));
            float shrink = below_top(row_max[r], top), p = below_top(s[r], top);
            row_max[r] = top;
            row_sum[r] = row_sum[r] * shrink + p;
#pragma unroll
            for (int c = 0; c < CHUNKS; c++) o[r][c] *= shrink;
            if (threshold) p *= dropout_factor(key, threshold, scale_of_kept, (u32)row * keys + first_key + lane);
            p_rows[r * GENERIC_ROWS + lane] = p;
        }
        __syncwarp();
        add_weighted(o, p_rows, v_tile, HS);
    }
    float factor[ROWS_OF_WARP];
#pragma unroll
    for (int r = 0; r < ROWS_OF_WARP; r++) {
        float sum = warp_sum(row_sum[r]);
        factor[r] = 1.0f / sum;
        if (lse && lane == 0 && warp_first + r < queries) lse[warp_first + r] = row_max[r] + logf(sum);
    }
    store_weighted(out, out_stride, warp_first, queries, o, factor, HS);
}

// The head size, where it is known: with HEAD_SIZE defined only the code of that one is compiled, here and for tensor
// cores, which takes a quarter of the time.
__device__ __forceinline__ int known(int HS) {
#if defined(HEAD_SIZE)
    return HEAD_SIZE;
#else
    return HS;
#endif
}

// Calls `name`<CHUNKS>(...) with the fewest 32-column chunks that hold a head.
#define FOR_CHUNKS(name, ...)                                                                                          \
    if (HS <= 32)                                                                                                      \
        name<1>(__VA_ARGS__);                                                                                          \
    else if (HS <= 64)                                                                                                 \
        name<2>(__VA_ARGS__);                                                                                          \
    else if (HS <= 128)                                                                                                \
        name<4>(__VA_ARGS__);                                                                                          \
    else                                                                                                               \
        name<8>(__VA_ARGS__)

// Sets out (B, T, C) and lse (B, NH, T); starts (B, T) may be null.
// Grid (B NH, ceil(T / GENERIC_ROWS)), GENERIC_THREADS threads.
extern "C" __global__ void __launch_bounds__(GENERIC_THREADS, 2)
    attention_forward(E* out, float* lse, const E* qkv, const u32* starts, int T, int NH, int HS, u64 key,
                      int threshold, float scale_of_kept) {
    HS = known(HS);
    int first = (gridDim.y - 1 - blockIdx.y) * GENERIC_ROWS;
    u64 channels = (u64)NH * HS, row = (u64)(blockIdx.x / NH) * T, column = (u64)(blockIdx.x % NH) * HS;
    const E* q = qkv + row * 3 * channels + column;
    FOR_CHUNKS(generic_forward, out + row * channels + column, lse + (u64)blockIdx.x * T, q, q + channels,
               q + 2 * channels, channels, 3 * channels, 3 * channels, starts ? starts + row : nullptr, T, 0, first, HS,
               slice_key(key, blockIdx.x), threshold, scale_of_kept);
}

// Sets delta (B, NH, T), the products of out and dout (B, T, C) row by row and head by head. Eight lanes take a row of
// one head: grid ceil(8 B T NH / 256), 256 threads.
extern "C" __global__ void __launch_bounds__(256)
    attention_delta(float* delta, const E* out, const E* dout, int B, int T, int NH, int HS) {
    HS = known(HS);
    u64 thread = (u64)blockIdx.x * blockDim.x + threadIdx.x, row = thread / 8;
    int lane = threadIdx.x % 8;
    bool is_row = row < (u64)B * T * NH;
    float sum = 0.0f;
    if (is_row) {
        const E *x = out + row * HS, *dx = dout + row * HS;
        if (is_vectorizable(HS)) {
            for (int d = lane * VEC; d < HS; d += 8 * VEC) {
                Vec a = *(const Vec*)(x + d), b = *(const Vec*)(dx + d);
#pragma unroll
                for (int i = 0; i < VEC; i++) sum = fmaf(to_f32(a.x[i]), to_f32(b.x[i]), sum);
            }
        } else {
            for (int d = lane; d < HS; d += 8) sum = fmaf(to_f32(x[d]), to_f32(dx[d]), sum);
        }
    }
#pragma unroll
    for (int other = 4; other > 0; other >>= 1) sum += __shfl_xor_sync(FULL_WARP, sum, other);
    if (is_row && lane == 0) {
        u64 h = row % NH, t = row / NH % T, b = row / NH / T;
        delta[(b * NH + h) * T + t] = sum;
    }
}

// The gradients of GENERIC_ROWS rows from `first` on: dk and dv of keys, which queries stream past, or dq of queries,
// which keys stream past.
template <int CHUNKS, bool OWNS_KEYS>
__device__ __forceinline__ void generic_backward(E* dqkv, const E* dout, const float* lse, const float* delta,
                                                 const E* qkv, const u32* starts, u64 channels, int T, int HS,
                                                 int first, u64 dropout_key, int threshold, float scale_of_kept) {
    extern __shared__ __align__(1024) char tiles[];
    int pitch = padded(HS), lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    // Owners of keys have k, v in `own`, and q, dout stream; owners of queries the other way around.
    float *own[2] = {(float*)tiles, (float*)tiles + GENERIC_ROWS * pitch};
    float *streamed[2] = {(float*)tiles + 2 * GENERIC_ROWS * pitch, (float*)tiles + 3 * GENERIC_ROWS * pitch};
    float* p_rows = (float*)tiles + 4 * GENERIC_ROWS * pitch + warp * ROWS_OF_WARP * GENERIC_ROWS;
    float* ds_rows = p_rows + GENERIC_ROWS * GENERIC_ROWS;
    float scale = 1.0f / sqrtf((float)HS);
    int warp_first = first + warp * ROWS_OF_WARP;
    const E *q = qkv, *k = qkv + channels, *v = qkv + 2 * channels;
    load_rows(own[0], OWNS_KEYS ? k : q, 3 * channels, first, T, HS);
    load_rows(own[1], OWNS_KEYS ? v : dout, OWNS_KEYS ? 3 * channels : channels, first, T, HS);
    float dk_or_dq[ROWS_OF_WARP][CHUNKS] = {}, dv[ROWS_OF_WARP][OWNS_KEYS ? CHUNKS : 1] = {};

    // Starts do not descend: no owned query sees a key before what the first of them sees, and after a query that sees no
    // owned key none does.
    int begin = OWNS_KEYS ? first : start_of(starts, first, T) / GENERIC_ROWS * GENERIC_ROWS;
    int end = OWNS_KEYS ? T : min(first + GENERIC_ROWS, T);
    for (int other = begin; other < end; other += GENERIC_ROWS) {
        if (OWNS_KEYS && start_of(starts, other, T) >= first + GENERIC_ROWS) break;
        __syncthreads();
        load_rows(streamed[0], OWNS_KEYS ? q : k, 3 * channels, other, T, HS);
        load_rows(streamed[1], OWNS_KEYS ? dout : v, OWNS_KEYS ? channels : 3 * channels, other, T, HS);
        __syncthreads();
        float s[ROWS_OF_WARP], dp[ROWS_OF_WARP];
        dot_rows(s, own[0] + warp * ROWS_OF_WARP * pitch, streamed[0] + lane * pitch, HS);
        dot_rows(dp, own[1] + warp * ROWS_OF_WARP * pitch, streamed[1] + lane * pitch, HS);
#pragma unroll
        for (int r = 0; r < ROWS_OF_WARP; r++) {
            int query = OWNS_KEYS ? other + lane : warp_first + r;
            int key = OWNS_KEYS ? warp_first + r : other + lane;
            float p = 0.0f, ds = 0.0f;
            if (start_of(starts, query, T) <= key && key <= query && query < T) {
                p = expf(s[r] * scale - lse[query]);
                float factor =
                    threshold ? dropout_factor(dropout_key, threshold, scale_of_kept, (u32)query * T + key) : 1.0f;
                ds = p * (dp[r] * factor - delta[query]);
                p *= factor;
            }
            if (OWNS_KEYS) p_rows[r * GENERIC_ROWS + lane] = p;
            ds_rows[r * GENERIC_ROWS + lane] = ds;
        }
        __syncwarp();
        add_weighted(dk_or_dq, ds_rows, streamed[0], HS);
        if constexpr (OWNS_KEYS) add_weighted(dv, p_rows, streamed[1], HS);
    }
    float ones[ROWS_OF_WARP], scales[ROWS_OF_WARP];
#pragma unroll
    for (int r = 0; r < ROWS_OF_WARP; r++) ones[r] = 1.0f, scales[r] = scale;
    store_weighted(dqkv + (OWNS_KEYS ? channels : 0), 3 * channels, warp_first, T, dk_or_dq, scales, HS);
    if constexpr (OWNS_KEYS) store_weighted(dqkv + 2 * channels, 3 * channels, warp_first, T, dv, ones, HS);
}

template <int CHUNKS>
__device__ __forceinline__ void generic_backward_either(E* dqkv, const E* dout, const float* lse, const float* delta,
                                                        const E* qkv, const u32* starts, u64 channels, int T, int HS,
                                                        u64 key, int threshold, float scale_of_kept) {
    // The first keys meet the most queries, and the last queries the most keys: those go first.
    int rank = blockIdx.y / 2, tiles = gridDim.y / 2;
    if (blockIdx.y % 2 == 0)
        generic_backward<CHUNKS, true>(dqkv, dout, lse, delta, qkv, starts, channels, T, HS, rank * GENERIC_ROWS, key,
                                       threshold, scale_of_kept);
    else
        generic_backward<CHUNKS, false>(dqkv, dout, lse, delta, qkv, starts, channels, T, HS,
                                        (tiles - 1 - rank) * GENERIC_ROWS, key, threshold, scale_of_kept);
}

// Sets dqkv (B, T, 3C); starts (B, T) may be null. Grid (B NH, 2 ceil(T / GENERIC_ROWS)), GENERIC_THREADS threads.
extern "C" __global__ void __launch_bounds__(GENERIC_THREADS, 2)
    attention_backward(E* dqkv, const E* dout, const float* lse, const float* delta, const E* qkv, const u32* starts,
                       int T, int NH, int HS, u64 key, int threshold, float scale_of_kept) {
    HS = known(HS);
    u64 channels = (u64)NH * HS, row = (u64)(blockIdx.x / NH) * T, column = (u64)(blockIdx.x % NH) * HS;
    u64 saved = (u64)blockIdx.x * T;
    FOR_CHUNKS(generic_backward_either, dqkv + row * 3 * channels + column, dout + row * channels + column, lse + saved,
               delta + saved, qkv + row * 3 * channels + column, starts ? starts + row : nullptr, channels, T, HS,
               slice_key(key, blockIdx.x), threshold, scale_of_kept);
}

// Copies the keys and values of qkv (B, fresh, 3C) to positions cached .. cached + fresh of the caches
// (B, NH, capacity, HS). Grid ceil(B fresh C / 256), 256 threads.
extern "C" __global__ void __launch_bounds__(256)
    attention_append(E* keys, E* values, const E* qkv, int B, int fresh, int cached, int capacity, int NH, int HS) {
    HS = known(HS);
    u64 i = (u64)blockIdx.x * blockDim.x + threadIdx.x, channels = (u64)NH * HS;
    u64 row = i / channels, channel = i % channels;
    if (row >= (u64)B * fresh) return;
    u64 b = row / fresh, h = channel / HS;
    u64 to = ((b * NH + h) * capacity + cached + row % fresh) * HS + channel % HS;
    keys[to] = qkv[row * 3 * channels + channels + channel];
    values[to] = qkv[row * 3 * channels + 2 * channels + channel];
}

// Sets out (B, fresh, C) from the queries of qkv (B, fresh, 3C) and caches that already hold the fresh keys and values.
// Grid (B NH, ceil(fresh / GENERIC_ROWS)), GENERIC_THREADS threads.
extern "C" __global__ void __launch_bounds__(GENERIC_THREADS, 2)
    attention_cached(E* out, const E* keys, const E* values, const E* qkv, int fresh, int cached, int capacity, int NH,
                     int HS) {
    HS = known(HS);
    int first = (gridDim.y - 1 - blockIdx.y) * GENERIC_ROWS;
    u64 channels = (u64)NH * HS, row = (u64)(blockIdx.x / NH) * fresh, column = (u64)(blockIdx.x % NH) * HS;
    u64 cache = (u64)blockIdx.x * capacity * HS;
    FOR_CHUNKS(generic_forward, out + row * channels + column, nullptr, qkv + row * 3 * channels + column, keys + cache,
               values + cache, channels, 3 * channels, (u64)HS, nullptr, fresh, cached, first, HS, 0, 0, 1.0f);
}

// ---- one token at a time -------------------------------------------------------------------------------------------

constexpr int DECODE_THREADS = 512;
constexpr int DECODE_WARPS = DECODE_THREADS / 32;
constexpr int MAX_HEAD_SIZE = 256;

template <int WIDTH>
struct alignas(WIDTH * sizeof(E)) Piece {
    E x[WIDTH];
};

// What each warp leaves for the last step.
struct DecodeShared {
    float top[DECODE_WARPS], sum[DECODE_WARPS], o[DECODE_WARPS][MAX_HEAD_SIZE];
};

// The softmax of some of the keys: their maximum score, the sum of exponentials below it, and as much of the output.
template <int N>
struct Partial {
    float top, sum, o[N];
};

// LANES lanes share a key, each with PIECES pieces of WIDTH elements of a row; the groups of lanes of a block share out
// the keys. Keys of the fresh tokens come from qkv, so that appending them needs no launch of its own.
template <int WIDTH, int LANES, int PIECES>
__device__ __forceinline__ void decode(DecodeShared& shared, E* out, E* keys, E* values, const E* q, u64 channels,
                                       int fresh_index, int cached, int HS) {
    constexpr int GROUPS = DECODE_THREADS / LANES;
    // Keys loaded before any is used: enough bytes under way to cover the latency of memory.
    constexpr int AHEAD = PIECES >= 4 ? 1 : 4 / PIECES;
    int group = threadIdx.x / LANES, lane = threadIdx.x % LANES, warp = threadIdx.x / 32;
    int count = cached + fresh_index + 1;
    u64 stride = 3 * channels;
    // Row `j` of the sequence is row j - cached of the fresh ones.
    const E *fresh_k = q + channels, *fresh_v = q + 2 * channels;
    q += fresh_index * stride;
    auto load = [&](Piece<WIDTH>(&to)[PIECES], const E* row) {
#pragma unroll
        for (int n = 0; n < PIECES; n++) {
            int d = (n * LANES + lane) * WIDTH;
            if (d < HS) to[n] = *(const Piece<WIDTH>*)(row + d);
        }
    };
    for (int d = threadIdx.x; d < HS; d += DECODE_THREADS) {
        keys[(u64)(count - 1) * HS + d] = fresh_k[fresh_index * stride + d];
        values[(u64)(count - 1) * HS + d] = fresh_v[fresh_index * stride + d];
    }

    float scale = 1.0f / sqrtf((float)HS);
    Piece<WIDTH> q_pieces[PIECES] = {};
    load(q_pieces, q);
    Partial<PIECES * WIDTH> mine = {__int_as_float(0xff800000), 0.0f, {}};
    for (int base = 0; base < count; base += GROUPS * AHEAD) {
        Piece<WIDTH> k[AHEAD][PIECES] = {}, v[AHEAD][PIECES] = {};
#pragma unroll
        for (int a = 0; a < AHEAD; a++) {
            int j = base + a * GROUPS + group;
            if (j < count) {
                load(k[a], j < cached ? keys + (u64)j * HS : fresh_k + (j - cached) * stride);
                load(v[a], j < cached ? values + (u64)j * HS : fresh_v + (j - cached) * stride);
            }
        }
        float s[AHEAD], top = mine.top;
#pragma unroll
        for (int a = 0; a < AHEAD; a++) {
            float dot = 0.0f;
#pragma unroll
            for (int n = 0; n < PIECES; n++) {
#pragma unroll
                for (int i = 0; i < WIDTH; i++) dot = fmaf(to_f32(q_pieces[n].x[i]), to_f32(k[a][n].x[i]), dot);
            }
#pragma unroll
            for (int other = LANES / 2; other > 0; other >>= 1) dot += __shfl_xor_sync(FULL_WARP, dot, other);
            s[a] = base + a * GROUPS + group < count ? dot * scale : __int_as_float(0xff800000);
            top = fmaxf(top, s[a]);
        }
        float shrink = below_top(mine.top, top);
        mine.top = top;
        mine.sum *= shrink;
#pragma unroll
        for (int i = 0; i < PIECES * WIDTH; i++) mine.o[i] *= shrink;
#pragma unroll
        for (int a = 0; a < AHEAD; a++) {
            float p = below_top(s[a], top);
            mine.sum += p;
#pragma unroll
            for (int i = 0; i < PIECES * WIDTH; i++)
                mine.o[i] = fmaf(p, to_f32(v[a][i / WIDTH].x[i % WIDTH]), mine.o[i]);
        }
    }

    // The groups of a warp, then the warps.
#pragma unroll
    for (int other = LANES; other < 32; other <<= 1) {
        float other_top = __shfl_xor_sync(FULL_WARP, mine.top, other), top = fmaxf(mine.top, other_top);
        float mine_weight = below_top(mine.top, top), other_weight = below_top(other_top, top);
        mine.top = top;
        mine.sum = mine.sum * mine_weight + __shfl_xor_sync(FULL_WARP, mine.sum, other) * other_weight;
#pragma unroll
        for (int i = 0; i < PIECES * WIDTH; i++)
            mine.o[i] = mine.o[i] * mine_weight + __shfl_xor_sync(FULL_WARP, mine.o[i], other) * other_weight;
    }
    if (threadIdx.x % 32 < LANES) {
        if (lane == 0) shared.top[warp] = mine.top, shared.sum[warp] = mine.sum;
#pragma unroll
        for (int i = 0; i < PIECES * WIDTH; i++) {
            int d = (i / WIDTH * LANES + lane) * WIDTH + i % WIDTH;
            if (d < HS) shared.o[warp][d] = mine.o[i];
        }
    }
    __syncthreads();
    for (int d = threadIdx.x; d < HS; d += DECODE_THREADS) {
        float top = shared.top[0], sum = 0.0f, o = 0.0f;
        for (int w = 1; w < DECODE_WARPS; w++) top = fmaxf(top, shared.top[w]);
        for (int w = 0; w < DECODE_WARPS; w++) {
            float weight = below_top(shared.top[w], top);
            sum = fmaf(shared.sum[w], weight, sum);
            o = fmaf(shared.o[w][d], weight, o);
        }
        out[d] = from_f32(o / sum);
    }
}

// Appends the keys and values of qkv (B, fresh, 3C) to the caches (B, NH, capacity, HS) at position `cached` and sets
// out (B, fresh, C). Each query reads all keys, so this is for few fresh tokens, above all for one.
// Grid (B NH, fresh), DECODE_THREADS threads.
extern "C" __global__ void __launch_bounds__(DECODE_THREADS)
    attention_decode(E* out, E* keys, E* values, const E* qkv, int fresh, int cached, int capacity, int NH, int HS) {
    let_next_begin();
    wait_for_earlier();
    HS = known(HS);
    u64 channels = (u64)NH * HS, row = (u64)(blockIdx.x / NH) * fresh, column = (u64)(blockIdx.x % NH) * HS;
    u64 cache = (u64)blockIdx.x * capacity * HS;
    int i = blockIdx.y;
    out += (row + i) * channels + column;
    const E* q = qkv + row * 3 * channels + column;
    keys += cache, values += cache;
    __shared__ DecodeShared shared;
    if (!is_vectorizable(HS))
        decode<1, 32, MAX_HEAD_SIZE / 32>(shared, out, keys, values, q, channels, i, cached, HS);
    else if (HS <= 8 * VEC)
        decode<VEC, 8, 1>(shared, out, keys, values, q, channels, i, cached, HS);
    else if (HS <= 16 * VEC)
        decode<VEC, 8, 2>(shared, out, keys, values, q, channels, i, cached, HS);
    else if (HS <= 32 * VEC)
        decode<VEC, 8, 4>(shared, out, keys, values, q, channels, i, cached, HS);
    else
        decode<VEC, 8, MAX_HEAD_SIZE / (8 * VEC)>(shared, out, keys, values, q, channels, i, cached, HS);
}
