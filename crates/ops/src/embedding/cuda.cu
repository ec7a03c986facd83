// Embedding. The backward pass adds rows that may share a token: positions are sorted by token first (a stable radix
// sort), so that the rows of a token lie together and are added in order, and no float is added atomically.

// out (rows, C) = dropout(wte[token] + wpe[position]); a thread for each 4 channels, or each one where C is odd.
template <int WIDTH>
__device__ __forceinline__ void forward(E* out, const u32* tokens, const float* wte, const float* wpe, int rows, int time,
                                        int channels, int start, u64 key, int threshold, float scale) {
    // Elements are counted in 32 bits without a sign, as dropout counts them.
    const u32 i = (blockIdx.x * blockDim.x + threadIdx.x) * WIDTH;
    if (i >= (u32)rows * channels) return;
    const u32 row = i / channels, c = i % channels;
    const float* token = wte + (u64)tokens[row] * channels + c;
    const float* position = wpe + (u64)(start + row % time) * channels + c;
#pragma unroll
    for (int j = 0; j < WIDTH; ++j) {
        const float factor = threshold > 0 ? dropout_factor(key, threshold, scale, i + j) : 1.0f;
        out[i + j] = from_f32(factor * (token[j] + position[j]));
    }
}

extern "C" __global__ void embedding_forward(E* out, const u32* tokens, const float* wte, const float* wpe, int rows,
                                             int time, int channels, int start, u64 key, int threshold, float scale) {
    if (channels % 4 == 0) forward<4>(out, tokens, wte, wpe, rows, time, channels, start, key, threshold, scale);
    else forward<1>(out, tokens, wte, wpe, rows, time, channels, start, key, threshold, scale);
}

// The sort: eight bits at a time, low bits first. A block of 8 warps sorts a tile of 1,024 keys, a warp 128 of them.
constexpr int TILE = 1024, WARP_KEYS = 128, DIGITS = 256;

// counts (digit, tile): how often each digit occurs in each tile.
extern "C" __global__ void __launch_bounds__(256)
    sort_count(u32* counts, const u32* keys, int n, int tiles, int shift) {
    __shared__ u32 histogram[DIGITS];
    histogram[threadIdx.x] = 0;
    __syncthreads();
    for (int i = blockIdx.x * TILE + threadIdx.x; i < min(n, (int)(blockIdx.x + 1) * TILE); i += 256)
        atomicAdd(&histogram[keys[i] >> shift & 255], 1u);
    __syncthreads();
    counts[threadIdx.x * tiles + blockIdx.x] = histogram[threadIdx.x];
}

// Replaces counts by the sums of all before them. One block of 1,024 threads.
extern "C" __global__ void __launch_bounds__(1024) sort_scan(u32* counts, int n) {
    __shared__ u32 sums[1024];
    const int each = (n + 1023) / 1024, begin = threadIdx.x * each, end = min(n, begin + each);
    u32 sum = 0;
    for (int i = begin; i < end; ++i) sum += counts[i];
    sums[threadIdx.x] = sum;
    __syncthreads();
    for (int step = 1; step < 1024; step *= 2) {
        const u32 before = (int)threadIdx.x >= step ? sums[threadIdx.x - step] : 0;
        __syncthreads();
        sums[threadIdx.x] += before;
        __syncthreads();
    }
    u32 offset = sums[threadIdx.x] - sum;
    for (int i = begin; i < end; ++i) {
        const u32 count = counts[i];
        counts[i] = offset;
        offset += count;
    }
}

// Moves keys and positions to their places of this pass. Positions are the indices themselves where there are none yet.
extern "C" __global__ void __launch_bounds__(256)
    sort_scatter(u32* keys_out, u32* positions_out, const u32* keys, const u32* positions, const u32* offsets, int n,
                 int tiles, int shift) {
    __shared__ u32 places[8][DIGITS];
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    for (int w = 0; w < 8; ++w) places[w][threadIdx.x] = 0;
    __syncthreads();
    const int first = blockIdx.x * TILE + warp * WARP_KEYS;
    for (int i = first + lane; i < min(n, first + WARP_KEYS); i += 32)
        atomicAdd(&places[warp][keys[i] >> shift & 255], 1u);
    __syncthreads();
    // Where each warp's keys of this thread's digit begin.
    u32 place = offsets[threadIdx.x * tiles + blockIdx.x];
    for (int w = 0; w < 8; ++w) {
        const u32 count = places[w][threadIdx.x];
        places[w][threadIdx.x] = place;
        place += count;
    }
    __syncthreads();
    for (int round = 0; round < WARP_KEYS / 32; ++round) {
        const int i = first + round * 32 + lane;
        const bool valid = i < n;
        const u32 key = valid ? keys[i] : 0, digit = valid ? key >> shift & 255 : DIGITS;
        const u32 same = __match_any_sync(FULL_WARP, digit);
        const u32 before = __popc(same & ((1u << lane) - 1));
        if (valid) {
            const u32 to = places[warp][digit] + before;
            keys_out[to] = key;
            positions_out[to] = positions ? positions[i] : (u32)i;
        }
        __syncwarp();
        if (valid && before == 0) places[warp][digit] += __popc(same);
        __syncwarp();
    }
}

// Sorted rows are added up in chunks. A token whose rows lie in one chunk is done there; what crosses the chunk's start is
// left in slot 0, what begins in it and crosses its end in slot 1 of carry (chunks, 2, C).
constexpr int CHUNK = 64;

template <int WIDTH>
__device__ __forceinline__ void token_sums(float* dwte, float* carry, const u32* keys, const u32* positions,
                                           const E* dout, int n, int channels, u64 key, int threshold, float scale) {
    const int c = (blockIdx.y * blockDim.x + threadIdx.x) * WIDTH;
    if (c >= channels) return;
    const int begin = blockIdx.x * CHUNK, end = min(n, begin + CHUNK);
    bool is_carried = begin > 0 && keys[begin - 1] == keys[begin];
    float sum[WIDTH] = {};
    for (int i = begin; i < end; ++i) {
        const u32 token = keys[i], at = positions[i] * (u32)channels + c;
        float x[WIDTH];
        if constexpr (WIDTH == VEC) {
            const Vec v = *(const Vec*)(dout + at);
#pragma unroll
            for (int j = 0; j < WIDTH; ++j) x[j] = to_f32(v.x[j]);
        } else {
            x[0] = to_f32(dout[at]);
        }
#pragma unroll
        for (int j = 0; j < WIDTH; ++j)
            sum[j] += threshold > 0 ? dropout_factor(key, threshold, scale, at + j) * x[j] : x[j];
        const bool goes_on = i + 1 < n && keys[i + 1] == token;
        if (goes_on && i + 1 < end) continue;
        float* to = is_carried ? carry + (u64)blockIdx.x * 2 * channels + c
                  : goes_on    ? carry + ((u64)blockIdx.x * 2 + 1) * channels + c
                               : dwte + (u64)token * channels + c;
        const bool is_last = !is_carried && !goes_on;
#pragma unroll
        for (int j = 0; j < WIDTH; ++j) {
            to[j] = is_last ? to[j] + sum[j] : sum[j];
            sum[j] = 0.0f;
        }
        is_carried = false;
    }
}

extern "C" __global__ void embedding_tokens(float* dwte, float* carry, const u32* keys, const u32* positions,
                                            const E* dout, int n, int channels, u64 key, int threshold, float scale) {
    if (is_vectorizable(channels))
        token_sums<VEC>(dwte, carry, keys, positions, dout, n, channels, key, threshold, scale);
    else token_sums<1>(dwte, carry, keys, positions, dout, n, channels, key, threshold, scale);
}

// Adds what was carried, for each token that begins in a chunk and crosses its end. A thread a channel.
extern "C" __global__ void embedding_carry(float* dwte, const float* carry, const u32* keys, int n, int channels) {
    const int c = blockIdx.y * blockDim.x + threadIdx.x;
    const int end = (blockIdx.x + 1) * CHUNK;
    if (c >= channels || end >= n) return;
    const u32 token = keys[end - 1];
    const int begin = end - CHUNK;
    const bool begins_here = keys[begin] != token || begin == 0 || keys[begin - 1] != token;
    if (keys[end] != token || !begins_here) return;
    float sum = carry[((u64)blockIdx.x * 2 + 1) * channels + c];
    for (int chunk = blockIdx.x + 1; chunk * CHUNK < n && keys[chunk * CHUNK] == token; ++chunk)
        sum += carry[(u64)chunk * 2 * channels + c];
    dwte[(u64)token * channels + c] += sum;
}

// dwpe (P, C) += the sum over the rows of the batch, from row `start` on. A thread a channel of a position.
extern "C" __global__ void embedding_positions(float* dwpe, const E* dout, int batch, int time, int channels, int start,
                                               u64 key, int threshold, float scale) {
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= time * channels) return;
    float sum = 0.0f;
#pragma unroll 4
    for (int b = 0; b < batch; ++b) {
        const u32 at = b * (u32)(time * channels) + i;
        const float x = to_f32(dout[at]);
        sum += threshold > 0 ? dropout_factor(key, threshold, scale, at) * x : x;
    }
    dwpe[(u64)start * channels + i] += sum;
}
