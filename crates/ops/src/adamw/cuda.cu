// AdamW, the sum of squares, zeroing and compute copies, over many tensors in one launch: most tensors of a network are so
// small that a launch for each would take longer than its work. One pass over memory each.

constexpr int BLOCK = 1 << 15;

// A tensor: the block at which it begins, its elements, up to four addresses, and a constant of its own.
struct Tensor {
    u32 begin, len;
    u64 a, b, c, d;
    float constant;
    u32 unused;
};

// The tensor of this block, and where in it the block begins.
__device__ __forceinline__ const Tensor& tensor_of_block(const Tensor* tensors, int count, int& start) {
    int low = 0;
    for (int high = count; high - low > 1;) {
        const int middle = (low + high) / 2;
        if (tensors[middle].begin <= blockIdx.x) low = middle;
        else high = middle;
    }
    start = (blockIdx.x - tensors[low].begin) * BLOCK;
    return tensors[low];
}

// The constants are those of the CPU's: a tensor's is keep = 1 - lr weight_decay; step_size = lr / (1 - beta1^step),
// root_correction2 = sqrt(1 - beta2^step), complements are 1 - beta in f32. Blocks of 1,024 threads.
extern "C" __global__ void __launch_bounds__(1024)
    adamw(const Tensor* tensors, int count, float beta1, float beta2, float complement1, float complement2,
          float step_size, float root_correction2, float epsilon, float grad_scale) {
    int start;
    const Tensor& tensor = tensor_of_block(tensors, count, start);
    float *values = (float*)tensor.a, *ms = (float*)tensor.b, *vs = (float*)tensor.c;
    const float* grads = (const float*)tensor.d;
    const float keep = tensor.constant;
    const int n = min((int)tensor.len, start + BLOCK);
    auto update = [&](float& value, float& m, float& v, float grad) {
        const float g = grad_scale * grad;
        m = beta1 * m + complement1 * g;
        v = beta2 * v + complement2 * g * g;
        value = keep * value - step_size * (m / (sqrtf(v) / root_correction2 + epsilon));
    };
    for (int i = start + threadIdx.x * 4; i < n; i += 4096) {
        if (i + 4 <= n) {
            Four a = *(Four*)(values + i), b = *(Four*)(ms + i), c = *(Four*)(vs + i);
            const Four d = *(const Four*)(grads + i);
#pragma unroll
            for (int j = 0; j < 4; ++j) update(a.x[j], b.x[j], c.x[j], d.x[j]);
            *(Four*)(values + i) = a;
            *(Four*)(ms + i) = b;
            *(Four*)(vs + i) = c;
        } else {
            for (int j = i; j < n; ++j) update(values[j], ms[j], vs[j], grads[j]);
        }
    }
}

extern "C" __global__ void __launch_bounds__(1024) clear(const Tensor* tensors, int count) {
    int start;
    const Tensor& tensor = tensor_of_block(tensors, count, start);
    float* x = (float*)tensor.a;
    const int n = min((int)tensor.len, start + BLOCK);
    for (int i = start + threadIdx.x * 4; i < n; i += 4096) {
        if (i + 4 <= n) *(Four*)(x + i) = Four{};
        else
            for (int j = i; j < n; ++j) x[j] = 0.0f;
    }
}

// `x` rounded up or down by chance to what bf16 holds, as element `index` under `key`: `stochastic` of ops::rounding.
__device__ __forceinline__ float round_stochastically(float x, u64 key, u32 index) {
    u32 bits = __float_as_uint(x);
    const u32 magnitude = bits & 0x7fffffffu;
    if (magnitude < 0x7f7f0000u) bits += mix(key, index) >> 16;
    if (magnitude > 0x7f800000u) bits |= 0x00400000u;
    return __uint_as_float(bits & 0xffff0000u);
}

// Compute copies, in the element type, of f32 masters: a = b, narrowed; where d is not 0, rounded by chance before, under key c.
extern "C" __global__ void __launch_bounds__(1024) pack(const Tensor* tensors, int count) {
    int start;
    const Tensor& tensor = tensor_of_block(tensors, count, start);
    E* copy = (E*)tensor.a;
    const float* master = (const float*)tensor.b;
    const int n = min((int)tensor.len, start + BLOCK);
    for (int i = start + threadIdx.x * VEC; i < n; i += 1024 * VEC) {
        if (i + VEC <= n) {
            float wide[VEC];
            load_floats(wide, master + i);
            if (tensor.d) {
#pragma unroll
                for (int j = 0; j < VEC; ++j) wide[j] = round_stochastically(wide[j], tensor.c, i + j);
            }
            *(Words*)(copy + i) = words_of(wide);
        } else {
            for (int j = i; j < n; ++j) {
                copy[j] = from_f32(tensor.d ? round_stochastically(master[j], tensor.c, j) : master[j]);
            }
        }
    }
}

__device__ __forceinline__ double warp_sum_f64(double x) {
#pragma unroll
    for (int lane = 16; lane > 0; lane >>= 1) x += __shfl_xor_sync(FULL_WARP, x, lane);
    return x;
}

// partial[block]: the sum of squares of a block's elements, in f64, in an order that the shape alone decides.
extern "C" __global__ void __launch_bounds__(1024)
    sum_of_squares(const Tensor* tensors, int count, double* partial) {
    __shared__ double shared[32];
    int start;
    const Tensor& tensor = tensor_of_block(tensors, count, start);
    const float* x = (const float*)tensor.a;
    const int n = min((int)tensor.len, start + BLOCK);
    double sum = 0.0;
    for (int i = start + threadIdx.x; i < n; i += 1024) sum += (double)x[i] * (double)x[i];
    sum = warp_sum_f64(sum);
    if (threadIdx.x % 32 == 0) shared[threadIdx.x / 32] = sum;
    __syncthreads();
    if (threadIdx.x < 32) {
        sum = warp_sum_f64(shared[threadIdx.x]);
        if (threadIdx.x == 0) partial[blockIdx.x] = sum;
    }
}
