// AdamW and the sum of squares: one pass over memory each.

// The constants are those of the CPU's: keep = 1 - lr weight_decay, step_size = lr / (1 - beta1^step),
// root_correction2 = sqrt(1 - beta2^step), complements are 1 - beta in f32.
extern "C" __global__ void adamw(float* value, float* m, float* v, const float* grad, int n, float keep, float beta1,
                                 float beta2, float complement1, float complement2, float step_size,
                                 float root_correction2, float epsilon, float grad_scale) {
    const int start = (blockIdx.x * blockDim.x + threadIdx.x) * 4;
    auto update = [&](float& value, float& m, float& v, float grad) {
        const float g = grad_scale * grad;
        m = beta1 * m + complement1 * g;
        v = beta2 * v + complement2 * g * g;
        value = keep * value - step_size * (m / (sqrtf(v) / root_correction2 + epsilon));
    };
    if (start + 4 <= n) {
        Four a = *(Four*)(value + start), b = *(Four*)(m + start), c = *(Four*)(v + start);
        const Four d = *(const Four*)(grad + start);
#pragma unroll
        for (int j = 0; j < 4; ++j) update(a.x[j], b.x[j], c.x[j], d.x[j]);
        *(Four*)(value + start) = a;
        *(Four*)(m + start) = b;
        *(Four*)(v + start) = c;
    } else {
        for (int i = start; i < n; ++i) update(value[i], m[i], v[i], grad[i]);
    }
}

__device__ __forceinline__ double warp_sum_f64(double x) {
#pragma unroll
    for (int lane = 16; lane > 0; lane >>= 1) x += __shfl_xor_sync(FULL_WARP, x, lane);
    return x;
}

// partial[block]: the sum of squares of BLOCK elements of x, in f64, in an order that the shape alone decides.
constexpr int BLOCK = 1 << 15;
extern "C" __global__ void __launch_bounds__(1024) sum_of_squares(double* partial, const float* x, int n) {
    __shared__ double shared[32];
    const int begin = blockIdx.x * BLOCK, end = min(n, begin + BLOCK);
    double sum = 0.0;
    for (int i = begin + threadIdx.x; i < end; i += 1024) sum += (double)x[i] * (double)x[i];
    sum = warp_sum_f64(sum);
    if (threadIdx.x % 32 == 0) shared[threadIdx.x / 32] = sum;
    __syncthreads();
    if (threadIdx.x < 32) {
        sum = warp_sum_f64(shared[threadIdx.x]);
        if (threadIdx.x == 0) partial[blockIdx.x] = sum;
    }
}
