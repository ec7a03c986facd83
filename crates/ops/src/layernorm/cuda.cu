// Layer normalization. Forward, a warp has a row, which is read from memory once and from the cache after that.

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

// The same by a block a row, for rows that are too few to fill a card: all that is read is on its way from the start, and a
// thread has one vector, C = 1024 VEC at most.
extern "C" __global__ void __launch_bounds__(1024)
    layernorm_forward_row(E* out, float* mean, float* rstd, const E* x, const float* weight, const float* bias, int rows,
                          int channels, float epsilon) {
    __shared__ float shared[2][32];
    let_next_begin();
    const int c = threadIdx.x * VEC, warp = threadIdx.x / 32, num_warps = blockDim.x / 32;
    const u64 at = (u64)blockIdx.x * channels + c;
    float v[VEC] = {}, w[VEC] = {}, b[VEC] = {};
    if (c < channels) {
        load_floats(w, weight + c);
        load_floats(b, bias + c);
    }
    wait_for_earlier();
    if (c < channels) {
        const Vec read = *(const Vec*)(x + at);
#pragma unroll
        for (int j = 0; j < VEC; ++j) v[j] = to_f32(read.x[j]);
    }
    // The sum over the block of what a thread has, in one order.
    const auto block_sum = [&](float sum, float* sums) {
        sum = warp_sum(sum);
        if (threadIdx.x % 32 == 0) sums[warp] = sum;
        __syncthreads();
        float total = 0.0f;
        for (int i = 0; i < num_warps; ++i) total += sums[i];
        return total;
    };
    float sum = 0.0f, squares = 0.0f;
#pragma unroll
    for (int j = 0; j < VEC; ++j) sum += v[j];
    const float m = block_sum(sum, shared[0]) / channels;
    if (c < channels)
#pragma unroll
        for (int j = 0; j < VEC; ++j) squares += (v[j] - m) * (v[j] - m);
    const float r = 1.0f / sqrtf(block_sum(squares, shared[1]) / channels + epsilon);
    if (c < channels) {
        Vec made;
#pragma unroll
        for (int j = 0; j < VEC; ++j) made.x[j] = from_f32((v[j] - m) * r * w[j] + b[j]);
        *(Vec*)(out + at) = made;
    }
    if (threadIdx.x == 0) {
        mean[blockIdx.x] = m;
        rstd[blockIdx.x] = r;
    }
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

// ---- C = 32 VEC COUNT at most --------------------------------------------------------------------------------------
//
// Backward, a group of COUNT warps has a row, VEC channels a lane: so what belongs to a channel stays in registers over all
// rows of the group.

constexpr int groups_of(int count) { return count == 1 ? 8 : 12 / count; }
constexpr int threads_of(int count) { return 32 * count * groups_of(count); }
// Rows that a group has at once.
constexpr int BACKWARD_ROWS = 2;

// Where this thread is: its group in the block, its warp in the group, its first channel.
template <int COUNT> struct Seat {
    int group, warp, c;
    bool is_taken;

    __device__ __forceinline__ Seat(int channels)
        : group(threadIdx.x / 32 / COUNT), warp(threadIdx.x / 32 % COUNT), c((warp * 32 + threadIdx.x % 32) * VEC),
          is_taken(c < channels) {}
};

// Sums over a group, in the same order for each of its threads. Calls in turn take another `shared`, so that one barrier each
// is enough.
template <int COUNT, int N>
__device__ __forceinline__ void group_sums(float (&x)[N], float (&shared)[N][COUNT], const Seat<COUNT>& seat) {
#pragma unroll
    for (int i = 0; i < N; ++i) x[i] = warp_sum(x[i]);
    if (COUNT == 1) return;
    if (threadIdx.x % 32 == 0)
#pragma unroll
        for (int i = 0; i < N; ++i) shared[i][seat.warp] = x[i];
    asm volatile("bar.sync %0, %1;" ::"r"(seat.group + 1), "n"(32 * COUNT) : "memory");
#pragma unroll
    for (int i = 0; i < N; ++i) {
        x[i] = shared[i][0];
#pragma unroll
        for (int warp = 1; warp < COUNT; ++warp) x[i] += shared[i][warp];
    }
}

// Has the compiler unpack words again from here on: it would keep what it unpacked, in registers that are not there.
__device__ __forceinline__ void unpack_again(Words& words) {
#pragma unroll
    for (int i = 0; i < 4; ++i) asm volatile("" : "+r"(words.x[i]));
}

// Everything in one reading: a lane keeps the sums over the rows of its group of its channels' parts of the parameters'
// gradients, and of dx as it leaves it; a block adds up its groups in order. Dynamic shared memory: groups_of(COUNT) C floats.
template <int COUNT>
__device__ __forceinline__ void backward_of_groups(E* dx, float* partial, const E* dout, const float* mean,
                                                   const float* rstd, const E* x, const float* weight, int rows,
                                                   int channels, int outputs) {
    constexpr int ROWS = BACKWARD_ROWS, GROUPS = groups_of(COUNT);
    extern __shared__ float of_groups[];
    __shared__ float shared[GROUPS][2][2 * ROWS][COUNT];
    const Seat<COUNT> seat(channels);
    float w[VEC] = {}, gradients[3][VEC] = {};
    if (seat.is_taken) load_floats(w, weight + seat.c);
    int turn = 0;
    for (int first = (blockIdx.x * GROUPS + seat.group) * ROWS; first < rows; first += gridDim.x * GROUPS * ROWS) {
        Words d[ROWS] = {}, n[ROWS] = {}, old[ROWS] = {};
        float m[ROWS] = {}, r[ROWS] = {}, sums[2 * ROWS] = {};
        const u64 at = (u64)first * channels + seat.c;
        const int count = min(ROWS, rows - first);
#pragma unroll
        for (int i = 0; i < ROWS; ++i) {
            if (i >= count) continue;
            m[i] = mean[first + i], r[i] = rstd[first + i];
            if (!seat.is_taken) continue;
            d[i] = *(const Words*)(dout + at + (u64)i * channels);
            n[i] = *(const Words*)(x + at + (u64)i * channels);
            old[i] = *(const Words*)(dx + at + (u64)i * channels);
        }
#pragma unroll
        for (int i = 0; i < ROWS; ++i) {
#pragma unroll
            for (int j = 0; j < VEC; ++j) {
                const float grad = element_of(d[i], j), normed = (element_of(n[i], j) - m[i]) * r[i];
                gradients[0][j] += grad * normed;
                gradients[1][j] += grad;
                const float g = __fmul_rn(grad, w[j]);
                sums[2 * i] += g;
                sums[2 * i + 1] += g * normed;
            }
        }
        group_sums(sums, shared[seat.group][turn], seat);
        turn ^= 1;
#pragma unroll
        for (int i = 0; i < ROWS; ++i) {
            if (i >= count || !seat.is_taken) continue;
            const float sum = sums[2 * i] / channels, inner = sums[2 * i + 1] / channels;
            unpack_again(d[i]), unpack_again(n[i]);
            float after[VEC];
#pragma unroll
            for (int j = 0; j < VEC; ++j) {
                const float g = __fmul_rn(element_of(d[i], j), w[j]), normed = (element_of(n[i], j) - m[i]) * r[i];
                after[j] = element_of(old[i], j) + r[i] * (g - sum - normed * inner);
            }
            old[i] = words_of(after);
#pragma unroll
            for (int j = 0; j < VEC; ++j) gradients[2][j] += element_of(old[i], j);
            *(Words*)(dx + at + (u64)i * channels) = old[i];
        }
    }
    // Each through the same shared memory.
#pragma unroll
    for (int which = 0; which < 3; ++which) {
        if (which >= outputs) break;
        __syncthreads();
        if (seat.is_taken)
#pragma unroll
            for (int j = 0; j < VEC; ++j) of_groups[seat.group * channels + seat.c + j] = gradients[which][j];
        __syncthreads();
        for (int c = threadIdx.x; c < channels; c += threads_of(COUNT)) {
            float total = 0.0f;
#pragma unroll
            for (int group = 0; group < GROUPS; ++group) total += of_groups[group * channels + c];
            partial[((u64)blockIdx.x * outputs + which) * channels + c] = total;
        }
    }
}

// Blocks of threads_of(COUNT), any number of them; partial (blocks, outputs, C): dweight, dbias and, as the third of the
// outputs, the sums of dx.
#define LAYERNORM_BACKWARD(COUNT)                                                                                      \
    extern "C" __global__ void __launch_bounds__(threads_of(COUNT), 2)                                                 \
        layernorm_backward_##COUNT(E* dx, float* partial, const E* dout, const float* mean, const float* rstd,            \
                                   const E* x, const float* weight, int rows, int channels, int outputs) {             \
        backward_of_groups<COUNT>(dx, partial, dout, mean, rstd, x, weight, rows, channels, outputs);                  \
    }
LAYERNORM_BACKWARD(1)
LAYERNORM_BACKWARD(2)
LAYERNORM_BACKWARD(3)
LAYERNORM_BACKWARD(4)
LAYERNORM_BACKWARD(5)
LAYERNORM_BACKWARD(6)
LAYERNORM_BACKWARD(7)
LAYERNORM_BACKWARD(8)
