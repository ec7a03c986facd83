// What surrounds the products of a linear layer: conversions, bias, GELU, residual, dropout, and sums over rows.

// Applies `f(element, index)` to every element of out, VEC at a time. One thread a vector; the last takes the rest.
template <typename F> __device__ __forceinline__ void each(int n, F f) {
    const int start = (blockIdx.x * blockDim.x + threadIdx.x) * VEC;
    if (start + VEC <= n) f(start, true);
    else
        for (int i = start; i < n; ++i) f(i, false);
}

// out = in, narrowed: the first compute copy of a bias.
extern "C" __global__ void convert(E* out, const float* in, int n) {
    each(n, [&](int i, bool whole) {
        if (!whole) {
            out[i] = from_f32(in[i]);
            return;
        }
        Vec v;
#pragma unroll
        for (int j = 0; j < VEC; ++j) v.x[j] = from_f32(in[i + j]);
        *(Vec*)(out + i) = v;
    });
}

// Copies vectors of 16 bytes: what memory can do.
extern "C" __global__ void copy(Vec* out, const Vec* in, int n) {
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) out[i] = in[i];
}

// Uniform in [-1, 1).
extern "C" __global__ void fill_random(E* out, int n, u32 seed) {
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) out[i] = from_f32((float)(int)mix(seed, i) * 4.656612873077393e-10f);
}

// x (rows, OC) += bias.
extern "C" __global__ void add_bias(E* x, const float* bias, int n, int outputs) {
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) x[i] = from_f32(to_f32(x[i]) + bias[i % outputs]);
}

// pre (rows, OC) += bias; out = gelu(pre).
extern "C" __global__ void add_bias_gelu(E* out, E* pre, const float* bias, int n, int outputs) {
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n) return;
    const float x = to_f32(pre[i]) + bias[i % outputs];
    pre[i] = from_f32(x);
    out[i] = from_f32(gelu(x));
}

// out = residual + dropout(out).
extern "C" __global__ void residual_dropout(E* out, const E* residual, int n, u64 key, int threshold, float scale) {
    each(n, [&](int i, bool whole) {
        if (!whole) {
            const float factor = dropout_factor(key, threshold, scale, i);
            out[i] = from_f32(to_f32(residual[i]) + factor * to_f32(out[i]));
            return;
        }
        Vec v = *(const Vec*)(out + i);
        const Vec r = *(const Vec*)(residual + i);
#pragma unroll
        for (int j = 0; j < VEC; ++j) {
            const float factor = dropout_factor(key, threshold, scale, i + j);
            v.x[j] = from_f32(to_f32(r.x[j]) + factor * to_f32(v.x[j]));
        }
        *(Vec*)(out + i) = v;
    });
}

// out = dropout's factors times dout.
extern "C" __global__ void dropout_backward(E* out, const E* dout, int n, u64 key, int threshold, float scale) {
    each(n, [&](int i, bool whole) {
        if (!whole) {
            out[i] = from_f32(dropout_factor(key, threshold, scale, i) * to_f32(dout[i]));
            return;
        }
        Vec v = *(const Vec*)(dout + i);
#pragma unroll
        for (int j = 0; j < VEC; ++j)
            v.x[j] = from_f32(dropout_factor(key, threshold, scale, i + j) * to_f32(v.x[j]));
        *(Vec*)(out + i) = v;
    });
}

// dpre *= gelu'(pre).
extern "C" __global__ void gelu_backward(E* dpre, const E* pre, int n) {
    each(n, [&](int i, bool whole) {
        if (!whole) {
            dpre[i] = from_f32(to_f32(dpre[i]) * gelu_derivative(to_f32(pre[i])));
            return;
        }
        Vec d = *(const Vec*)(dpre + i);
        const Vec p = *(const Vec*)(pre + i);
#pragma unroll
        for (int j = 0; j < VEC; ++j) d.x[j] = from_f32(to_f32(d.x[j]) * gelu_derivative(to_f32(p.x[j])));
        *(Vec*)(dpre + i) = d;
    });
}

// Sums over rows, in two steps so that their order is fixed. First: partial (chunks, cols), each the sum of `chunk_rows`
// rows of x (rows, cols). A block of 32 x 8 threads takes WIDTH columns a thread and every eighth row of its chunk.
template <int WIDTH>
__device__ __forceinline__ void column_partials(float* partial, const E* x, int rows, int cols, int chunk_rows) {
    __shared__ float shared[8][32 * WIDTH + 1];
    const int lane = threadIdx.x % 32, part = threadIdx.x / 32;
    const int col = (blockIdx.x * 32 + lane) * WIDTH;
    const int begin = blockIdx.y * chunk_rows, end = min(rows, begin + chunk_rows);
    float sum[WIDTH] = {};
    if (col < cols) {
#pragma unroll 4
        for (int row = begin + part; row < end; row += 8) {
            if constexpr (WIDTH == VEC) {
                const Vec v = *(const Vec*)(x + (u64)row * cols + col);
#pragma unroll
                for (int j = 0; j < WIDTH; ++j) sum[j] += to_f32(v.x[j]);
            } else {
                sum[0] += to_f32(x[(u64)row * cols + col]);
            }
        }
    }
#pragma unroll
    for (int j = 0; j < WIDTH; ++j) shared[part][lane * WIDTH + j] = sum[j];
    __syncthreads();
    for (int i = threadIdx.x; i < 32 * WIDTH; i += 256) {
        const int c = blockIdx.x * 32 * WIDTH + i;
        float total = 0.0f;
#pragma unroll
        for (int p = 0; p < 8; ++p) total += shared[p][i];
        if (c < cols) partial[(u64)blockIdx.y * cols + c] = total;
    }
}

extern "C" __global__ void __launch_bounds__(256)
    column_sums(float* partial, const E* x, int rows, int cols, int chunk_rows) {
    column_partials<VEC>(partial, x, rows, cols, chunk_rows);
}
extern "C" __global__ void __launch_bounds__(256)
    column_sums_scalar(float* partial, const E* x, int rows, int cols, int chunk_rows) {
    column_partials<1>(partial, x, rows, cols, chunk_rows);
}

// Second: the sum of partial, whose `count` rows lie `stride` apart, is added to up to three outputs of `cols` columns that
// follow each other in a row. Blocks of 32 x 16 threads; blockIdx.y is the output.
extern "C" __global__ void __launch_bounds__(512)
    sum_partials(float* first, float* second, float* third, const float* partial, int count, int stride, int cols) {
    __shared__ float shared[16][33];
    const int lane = threadIdx.x % 32, part = threadIdx.x / 32, col = blockIdx.x * 32 + lane;
    partial += blockIdx.y * cols;
    float sum = 0.0f;
    if (col < cols)
        for (int i = part; i < count; i += 16) sum += partial[(u64)i * stride + col];
    shared[part][lane] = sum;
    __syncthreads();
    if (part == 0 && col < cols) {
        float total = 0.0f;
#pragma unroll
        for (int p = 0; p < 16; ++p) total += shared[p][lane];
        (blockIdx.y == 0 ? first : blockIdx.y == 1 ? second : third)[col] += total;
    }
}
