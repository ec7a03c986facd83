// Layer normalization: a warp a row. A row is read from memory once and from the cache after that.

// Calls f(element index in the row, value) on this lane's elements.
template <int WIDTH, typename F> __device__ __forceinline__ void each_of_row(const E* row, int channels, F f) {
    for (int c = (threadIdx.x % 32) * WIDTH; c < channels; c += 32 * WIDTH) {
        if constexpr (WIDTH == VEC) {
            const Vec v = *(const Vec*)(row + c);
#pragma unroll
            for (int j = 0; j < WIDTH; ++j) f(c + j, to_f32(v.x[j]));
        } else {
            f(c, to_f32(row[c]));
        }
    }
}

template <int WIDTH>
__device__ __forceinline__ void forward(E* out, float* mean, float* rstd, const E* x, const float* weight,
                                        const float* bias, int rows, int channels, float epsilon) {
    const int row = blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32;
    if (row >= rows) return;
    x += (u64)row * channels;
    out += (u64)row * channels;
    float sum = 0.0f;
    each_of_row<WIDTH>(x, channels, [&](int, float v) { sum += v; });
    const float m = warp_sum(sum) / channels;
    float squares = 0.0f;
    each_of_row<WIDTH>(x, channels, [&](int, float v) { squares += (v - m) * (v - m); });
    const float r = 1.0f / sqrtf(warp_sum(squares) / channels + epsilon);
    for (int c = (threadIdx.x % 32) * WIDTH; c < channels; c += 32 * WIDTH) {
        if constexpr (WIDTH == VEC) {
            Vec v = *(const Vec*)(x + c);
            float w[VEC], b[VEC];
            load_floats(w, weight + c);
            load_floats(b, bias + c);
#pragma unroll
            for (int j = 0; j < WIDTH; ++j) v.x[j] = from_f32((to_f32(v.x[j]) - m) * r * w[j] + b[j]);
            *(Vec*)(out + c) = v;
        } else {
            out[c] = from_f32((to_f32(x[c]) - m) * r * weight[c] + bias[c]);
        }
    }
    if (threadIdx.x % 32 == 0) {
        mean[row] = m;
        rstd[row] = r;
    }
}

// The same for C = 32 VEC COUNT at most: the row stays in registers between its three readings.
template <int COUNT>
__device__ __forceinline__ void forward_in_registers(E* out, float* mean, float* rstd, const E* x, const float* weight,
                                                     const float* bias, int rows, int channels, float epsilon) {
    const int lane = threadIdx.x % 32, row = blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32;
    if (row >= rows) return;
    x += (u64)row * channels;
    out += (u64)row * channels;
    Vec v[COUNT];
    float sum = 0.0f, squares = 0.0f;
#pragma unroll
    for (int i = 0; i < COUNT; ++i)
        if ((i * 32 + lane) * VEC < channels) v[i] = *(const Vec*)(x + (i * 32 + lane) * VEC);
#pragma unroll
    for (int i = 0; i < COUNT; ++i)
        if ((i * 32 + lane) * VEC < channels)
#pragma unroll
            for (int j = 0; j < VEC; ++j) sum += to_f32(v[i].x[j]);
    const float m = warp_sum(sum) / channels;
#pragma unroll
    for (int i = 0; i < COUNT; ++i)
        if ((i * 32 + lane) * VEC < channels)
#pragma unroll
            for (int j = 0; j < VEC; ++j) squares += (to_f32(v[i].x[j]) - m) * (to_f32(v[i].x[j]) - m);
    const float r = 1.0f / sqrtf(warp_sum(squares) / channels + epsilon);
#pragma unroll
    for (int i = 0; i < COUNT; ++i) {
        const int c = (i * 32 + lane) * VEC;
        if (c >= channels) continue;
        float w[VEC], b[VEC];
        load_floats(w, weight + c);
        load_floats(b, bias + c);
#pragma unroll
        for (int j = 0; j < VEC; ++j) v[i].x[j] = from_f32((to_f32(v[i].x[j]) - m) * r * w[j] + b[j]);
        *(Vec*)(out + c) = v[i];
    }
    if (lane == 0) {
        mean[row] = m;
        rstd[row] = r;
    }
}

extern "C" __global__ void __launch_bounds__(256)
    layernorm_forward(E* out, float* mean, float* rstd, const E* x, const float* weight, const float* bias, int rows,
                      int channels, float epsilon) {
    const int count = (channels + 32 * VEC - 1) / (32 * VEC);
    if (!is_vectorizable(channels)) forward<1>(out, mean, rstd, x, weight, bias, rows, channels, epsilon);
    else if (count == 1) forward_in_registers<1>(out, mean, rstd, x, weight, bias, rows, channels, epsilon);
    else if (count == 2) forward_in_registers<2>(out, mean, rstd, x, weight, bias, rows, channels, epsilon);
    else if (count == 3) forward_in_registers<3>(out, mean, rstd, x, weight, bias, rows, channels, epsilon);
    else if (count == 4) forward_in_registers<4>(out, mean, rstd, x, weight, bias, rows, channels, epsilon);
    else forward<VEC>(out, mean, rstd, x, weight, bias, rows, channels, epsilon);
}

// dx of one row: dx += rstd (g - mean(g) - n mean(g n)), g = dout weight. g is rounded the same way wherever it is used: where
// it cancels, as in a row of one channel, rstd is as large as 316 and would show the difference.
template <int WIDTH>
__device__ __forceinline__ void backward_of_row(E* dx, const E* dout, const E* x, const float* weight, float m, float r,
                                                int channels) {
    float sum = 0.0f, inner = 0.0f;
    for (int c = (threadIdx.x % 32) * WIDTH; c < channels; c += 32 * WIDTH) {
#pragma unroll
        for (int j = 0; j < WIDTH; ++j) {
            const float g = __fmul_rn(to_f32(dout[c + j]), weight[c + j]);
            sum += g;
            inner += g * (to_f32(x[c + j]) - m) * r;
        }
    }
    sum = warp_sum(sum) / channels;
    inner = warp_sum(inner) / channels;
    for (int c = (threadIdx.x % 32) * WIDTH; c < channels; c += 32 * WIDTH) {
#pragma unroll
        for (int j = 0; j < WIDTH; ++j) {
            const float g = __fmul_rn(to_f32(dout[c + j]), weight[c + j]), n = (to_f32(x[c + j]) - m) * r;
            dx[c + j] = from_f32(to_f32(dx[c + j]) + r * (g - sum - n * inner));
        }
    }
}

// Any number of channels: dx alone. The parameters' gradients follow in `layernorm_parameters`, from another reading.
extern "C" __global__ void __launch_bounds__(256)
    layernorm_backward_any(E* dx, const E* dout, const float* mean, const float* rstd, const E* x, const float* weight,
                           int rows, int channels) {
    const int row = blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32;
    if (row >= rows) return;
    const u64 at = (u64)row * channels;
    backward_of_row<1>(dx + at, dout + at, x + at, weight, mean[row], rstd[row], channels);
}

// partial (chunks, 2, C): sums of dout n and of dout over the `chunk_rows` rows of a chunk, a thread a channel.
extern "C" __global__ void layernorm_parameters(float* partial, const E* dout, const float* mean, const float* rstd,
                                                const E* x, int rows, int channels, int chunk_rows) {
    const int c = blockIdx.x * blockDim.x + threadIdx.x;
    if (c >= channels) return;
    float dweight = 0.0f, dbias = 0.0f;
    for (int row = blockIdx.y * chunk_rows; row < min(rows, (int)(blockIdx.y + 1) * chunk_rows); ++row) {
        const u64 at = (u64)row * channels + c;
        const float d = to_f32(dout[at]);
        dweight += d * (to_f32(x[at]) - mean[row]) * rstd[row];
        dbias += d;
    }
    partial[(u64)blockIdx.y * 2 * channels + c] = dweight;
    partial[((u64)blockIdx.y * 2 + 1) * channels + c] = dbias;
}

// Everything in one reading, for C = 32 VEC COUNT at most: a lane keeps the parameters' gradients of its channels in
// registers over all rows of its warp; a block adds up its eight warps in order. With HAS_SUMS it does the same with the sums
// over the rows of dx as it leaves it. Dynamic shared memory: 8 C floats.
template <int COUNT, bool HAS_SUMS>
__device__ __forceinline__ void backward(E* dx, float* partial, const E* dout, const float* mean, const float* rstd,
                                         const E* x, const float* weight, int rows, int channels, float* shared) {
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    constexpr int OUTPUTS = HAS_SUMS ? 3 : 2;
    float dweight[COUNT][VEC] = {}, dbias[COUNT][VEC] = {}, sums[HAS_SUMS ? COUNT : 1][VEC] = {};
    for (int row = blockIdx.x * 8 + warp; row < rows; row += gridDim.x * 8) {
        const u64 at = (u64)row * channels;
        const float m = mean[row], r = rstd[row];
        Words d[COUNT], n[COUNT], old[COUNT];
        float sum = 0.0f, inner = 0.0f;
#pragma unroll
        for (int i = 0; i < COUNT; ++i) {
            const int c = (i * 32 + lane) * VEC;
            if (c >= channels) continue;
            d[i] = *(const Words*)(dout + at + c);
            n[i] = *(const Words*)(x + at + c);
            old[i] = *(const Words*)(dx + at + c);
        }
#pragma unroll
        for (int i = 0; i < COUNT; ++i) {
            const int c = (i * 32 + lane) * VEC;
            if (c >= channels) continue;
            float w[VEC];
            load_floats(w, weight + c);
#pragma unroll
            for (int j = 0; j < VEC; ++j) {
                const float grad = element_of(d[i], j), normed = (element_of(n[i], j) - m) * r;
                dweight[i][j] += grad * normed;
                dbias[i][j] += grad;
                const float g = __fmul_rn(grad, w[j]);
                sum += g;
                inner += g * normed;
            }
        }
        sum = warp_sum(sum) / channels;
        inner = warp_sum(inner) / channels;
#pragma unroll
        for (int i = 0; i < COUNT; ++i) {
            const int c = (i * 32 + lane) * VEC;
            if (c >= channels) continue;
            float w[VEC], after[VEC];
            load_floats(w, weight + c);
#pragma unroll
            for (int j = 0; j < VEC; ++j) {
                const float g = __fmul_rn(element_of(d[i], j), w[j]), normed = (element_of(n[i], j) - m) * r;
                after[j] = element_of(old[i], j) + r * (g - sum - normed * inner);
            }
            old[i] = words_of(after);
            if constexpr (HAS_SUMS)
#pragma unroll
                for (int j = 0; j < VEC; ++j) sums[i][j] += element_of(old[i], j);
            *(Words*)(dx + at + c) = old[i];
        }
    }
    // First dweight, then dbias, then the sums, through the same shared memory.
#pragma unroll
    for (int which = 0; which < OUTPUTS; ++which) {
        __syncthreads();
#pragma unroll
        for (int i = 0; i < COUNT; ++i) {
            const int c = (i * 32 + lane) * VEC;
            if (c >= channels) continue;
#pragma unroll
            for (int j = 0; j < VEC; ++j)
                shared[warp * channels + c + j] =
                    which == 0 ? dweight[i][j] : which == 1 ? dbias[i][j] : sums[HAS_SUMS ? i : 0][j];
        }
        __syncthreads();
        for (int c = threadIdx.x; c < channels; c += 256) {
            float total = 0.0f;
#pragma unroll
            for (int w = 0; w < 8; ++w) total += shared[w * channels + c];
            partial[((u64)blockIdx.x * OUTPUTS + which) * channels + c] = total;
        }
    }
}

// Blocks of 256 threads, any number of them; partial (blocks, 2, C), or (blocks, 3, C) with sums.
#define LAYERNORM_BACKWARD(NAME, COUNT, HAS_SUMS, BLOCKS)                                                              \
    extern "C" __global__ void __launch_bounds__(256, BLOCKS)                                                          \
        NAME##_##COUNT(E* dx, float* partial, const E* dout, const float* mean, const float* rstd, const E* x,         \
                       const float* weight, int rows, int channels) {                                                  \
        extern __shared__ float shared[];                                                                              \
        backward<COUNT, HAS_SUMS>(dx, partial, dout, mean, rstd, x, weight, rows, channels, shared);                   \
    }
LAYERNORM_BACKWARD(layernorm_backward, 1, false, 2)
LAYERNORM_BACKWARD(layernorm_backward, 2, false, 2)
LAYERNORM_BACKWARD(layernorm_backward, 3, false, 2)
LAYERNORM_BACKWARD(layernorm_backward, 4, false, 1)
LAYERNORM_BACKWARD(layernorm_backward_sums, 1, true, 2)
LAYERNORM_BACKWARD(layernorm_backward_sums, 2, true, 2)
LAYERNORM_BACKWARD(layernorm_backward_sums, 3, true, 2)
