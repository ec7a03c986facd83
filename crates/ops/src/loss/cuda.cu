// Cross-entropy over rows of logits: a block a row. The exponentials of a row are computed twice instead of stored. Rows lie
// `stride` elements apart, so that each begins on a boundary of 16 bytes whatever the vocabulary.

constexpr u32 IGNORE = 0xffffffffu;

// The maximum of a row so far, and the sum of exp(logit - maximum).
struct Running {
    float max, sum;
};

__device__ __forceinline__ float exponential(float x) {
#if defined(ELEMENT_F32)
    return expf(x);
#else
    return exp2f(x * 1.4426950408889634f); // log2(e)
#endif
}

__device__ __forceinline__ void join(Running& a, float max, float sum) {
    const float top = fmaxf(a.max, max);
    // A lane that has seen nothing has a maximum of -infinity and a sum of 0: no difference of infinities is taken.
    a.sum = (a.sum == 0.0f ? 0.0f : a.sum * expf(a.max - top)) + (sum == 0.0f ? 0.0f : sum * expf(max - top));
    a.max = top;
}

// Joins all threads of a block; every thread gets the result. `shared` has 64 floats.
__device__ __forceinline__ Running join_block(Running r, float* shared) {
#pragma unroll
    for (int lane = 16; lane > 0; lane >>= 1) {
        const float max = __shfl_xor_sync(FULL_WARP, r.max, lane), sum = __shfl_xor_sync(FULL_WARP, r.sum, lane);
        join(r, max, sum);
    }
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, warps = blockDim.x / 32;
    __syncthreads();
    if (lane == 0) {
        shared[warp] = r.max;
        shared[32 + warp] = r.sum;
    }
    __syncthreads();
    r.max = lane < warps ? shared[lane] : -__int_as_float(0x7f800000);
    r.sum = lane < warps ? shared[32 + lane] : 0.0f;
#pragma unroll
    for (int other = 16; other > 0; other >>= 1) {
        const float max = __shfl_xor_sync(FULL_WARP, r.max, other), sum = __shfl_xor_sync(FULL_WARP, r.sum, other);
        join(r, max, sum);
    }
    return r;
}

// Turns a row of logits (V) into its gradient, in place, and sets its loss.
template <int WIDTH>
__device__ __forceinline__ void backward(E* logits, float* losses, const u32* targets, const float* weights, int vocab,
                                         int stride, float* shared) {
    const u64 row = blockIdx.x;
    logits += row * stride;
    const u32 target = targets[row];
    const int start = threadIdx.x * WIDTH, step = blockDim.x * WIDTH;
    if (target == IGNORE) {
        for (int v = start; v < vocab; v += step)
#pragma unroll
            for (int j = 0; j < WIDTH; ++j) logits[v + j] = from_f32(0.0f);
        if (threadIdx.x == 0) losses[row] = 0.0f;
        return;
    }
    Running r = {-__int_as_float(0x7f800000), 0.0f};
    for (int v = start; v < vocab; v += step) {
        if constexpr (WIDTH == VEC) {
            const Vec x = *(const Vec*)(logits + v);
            float top = to_f32(x.x[0]);
#pragma unroll
            for (int j = 1; j < VEC; ++j) top = fmaxf(top, to_f32(x.x[j]));
            // The sum is rescaled only when the maximum rises.
            if (top > r.max) {
                r.sum *= expf(r.max - top);
                r.max = top;
            }
#pragma unroll
            for (int j = 0; j < VEC; ++j) r.sum += exponential(to_f32(x.x[j]) - r.max);
        } else {
            join(r, to_f32(logits[v]), 1.0f);
        }
    }
    r = join_block(r, shared);
    const float logsumexp = r.max + logf(r.sum), weight = weights[row];
    if (threadIdx.x == 0) losses[row] = logsumexp - to_f32(logits[target]);
    // The target's logit is read before any thread replaces it.
    __syncthreads();
    for (int v = start; v < vocab; v += step) {
        if constexpr (WIDTH == VEC) {
            Vec x = *(const Vec*)(logits + v);
#pragma unroll
            for (int j = 0; j < VEC; ++j) {
                const float p = exponential(to_f32(x.x[j]) - logsumexp);
                x.x[j] = from_f32(weight * (p - (v + j == (int)target ? 1.0f : 0.0f)));
            }
            *(Vec*)(logits + v) = x;
        } else {
            const float p = exponential(to_f32(logits[v]) - logsumexp);
            logits[v] = from_f32(weight * (p - (v == (int)target ? 1.0f : 0.0f)));
        }
    }
}

extern "C" __global__ void __launch_bounds__(1024)
    loss_backward(E* logits, float* losses, const u32* targets, const float* weights, int vocab, int stride) {
    __shared__ float shared[64];
    if (is_vectorizable(stride) && is_vectorizable(vocab))
        backward<VEC>(logits, losses, targets, weights, vocab, stride, shared);
    else backward<1>(logits, losses, targets, weights, vocab, stride, shared);
}

#if !defined(ELEMENT_F32)
// 2 to the x, where what is below the smallest normal number may be zero.
__device__ __forceinline__ float power_of_2(float x) {
    float out;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(out) : "f"(x));
    return out;
}

// The larger of each half.
__device__ __forceinline__ u32 larger_pair(u32 a, u32 b) {
    u32 out;
#if defined(ELEMENT_BF16)
    asm("max.bf16x2 %0, %1, %2;" : "=r"(out) : "r"(a), "r"(b));
#else
    asm("max.f16x2 %0, %1, %2;" : "=r"(out) : "r"(a), "r"(b));
#endif
    return out;
}

// The same in 16 bits for rows that fit shared memory twice: a row is read once, and while one block waits for memory another
// computes. Powers are of 2, with the logarithm's factor in the multiplication that is there anyway. 512 threads; dynamic
// shared memory: the row, in whole vectors. `stride` is a multiple of VEC.
extern "C" __global__ void __launch_bounds__(512)
    loss_backward_shared(E* logits, float* losses, const u32* targets, const float* weights, int vocab, int stride) {
    constexpr float LOG2E = 1.4426950408889634f;
    constexpr int GROUPS = 4;
    extern __shared__ __align__(16) char memory[];
    __shared__ float shared[64];
    Words* row = (Words*)memory;
    logits += (u64)blockIdx.x * stride;
    const u32 target = targets[blockIdx.x];
    const float weight = target == IGNORE ? 0.0f : weights[blockIdx.x];
    const float target_logit = target == IGNORE ? 0.0f : to_f32(logits[target]);
    const int count = (vocab + VEC - 1) / VEC;
    Running r = {-__int_as_float(0x7f800000), 0.0f};
    // The whole row is on its way at once; each thread waits for what it has asked for itself, in four groups.
    const int of_group = (count + 512 * GROUPS - 1) / (512 * GROUPS) * 512;
#pragma unroll
    for (int group = 0; group < GROUPS; ++group) {
        for (int i = group * of_group + threadIdx.x; i < min(count, (group + 1) * of_group); i += 512)
            copy_async_16(shared_address(row + i), logits + i * VEC, true);
        copy_async_commit();
    }
    auto take = [&](int group) {
        for (int i = group * of_group + threadIdx.x; i < min(count, (group + 1) * of_group); i += 512) {
            Words x = row[i];
            // What lies behind the row was never written: it gets a probability of zero.
            if ((i + 1) * VEC > vocab) {
                const float least = -__int_as_float(0x7f800000);
#pragma unroll
                for (int j = 0; j < VEC / 2; ++j) {
                    const int at = i * VEC + 2 * j;
                    x.x[j] = pack2(at < vocab ? first_of(x.x[j]) : least, at + 1 < vocab ? second_of(x.x[j]) : least);
                }
                row[i] = x;
            }
            const u32 pair = larger_pair(larger_pair(x.x[0], x.x[1]), larger_pair(x.x[2], x.x[3]));
            const float top = fmaxf(first_of(pair), second_of(pair));
            // The sum is rescaled only when the maximum rises.
            if (top > r.max) {
                r.sum *= power_of_2((r.max - top) * LOG2E);
                r.max = top;
            }
            const float shift = r.max * LOG2E;
#pragma unroll
            for (int j = 0; j < VEC / 2; ++j)
                r.sum += power_of_2(fmaf(first_of(x.x[j]), LOG2E, -shift)) +
                         power_of_2(fmaf(second_of(x.x[j]), LOG2E, -shift));
        }
    };
    copy_async_wait<3>();
    take(0);
    copy_async_wait<2>();
    take(1);
    copy_async_wait<1>();
    take(2);
    copy_async_wait<0>();
    take(3);
    // Its barriers also keep the target's logit from being replaced before all have read it.
    r = join_block(r, shared);
    const float logsumexp = r.max + logf(r.sum), shift = r.max * LOG2E + log2f(r.sum);
    if (threadIdx.x == 0) losses[blockIdx.x] = target == IGNORE ? 0.0f : logsumexp - target_logit;
    const int of_target = target == IGNORE ? -1 : (int)(target / VEC);
#pragma unroll 2
    for (int i = threadIdx.x; i < count; i += 512) {
        Words x = row[i];
        const bool has_target = i == of_target;
#pragma unroll
        for (int j = 0; j < VEC / 2; ++j) {
            float first = weight * power_of_2(fmaf(first_of(x.x[j]), LOG2E, -shift));
            float second = weight * power_of_2(fmaf(second_of(x.x[j]), LOG2E, -shift));
            if (has_target) {
                if (target % VEC == 2 * j) first -= weight;
                if (target % VEC == 2 * j + 1) second -= weight;
            }
            x.x[j] = pack2(first, second);
        }
        ((Words*)logits)[i] = x;
    }
}
#else
extern "C" __global__ void loss_backward_shared(E*, float*, const u32*, const float*, int, int) {}
#endif

// Loss and most likely token, the lowest on ties, of each row of f32 logits.
extern "C" __global__ void __launch_bounds__(1024)
    loss_forward(float* losses, u32* predictions, const float* logits, const u32* targets, int vocab, int stride) {
    __shared__ float shared[64];
    __shared__ u32 best[32];
    const u64 row = blockIdx.x;
    logits += row * stride;
    Running r = {-__int_as_float(0x7f800000), 0.0f};
    u32 index = 0xffffffffu;
    for (int v = threadIdx.x; v < vocab; v += blockDim.x) {
        const float x = logits[v];
        if (x > r.max || index == 0xffffffffu) index = v;
        if (x > r.max) {
            r.sum = (r.sum == 0.0f ? 0.0f : r.sum * expf(r.max - x)) + 1.0f;
            r.max = x;
        } else {
            r.sum += expf(x - r.max);
        }
    }
    const float own = r.max;
    r = join_block(r, shared);
    // The lowest index among the threads that have the maximum.
    if (own != r.max) index = 0xffffffffu;
#pragma unroll
    for (int lane = 16; lane > 0; lane >>= 1) index = min(index, __shfl_xor_sync(FULL_WARP, index, lane));
    if (threadIdx.x % 32 == 0) best[threadIdx.x / 32] = index;
    __syncthreads();
    if (threadIdx.x == 0) {
        for (int warp = 1; warp < blockDim.x / 32; ++warp) index = min(index, best[warp]);
        predictions[row] = index == 0xffffffffu ? 0 : index;
        const u32 target = targets[row];
        losses[row] = target == IGNORE ? 0.0f : r.max + logf(r.sum) - logits[target];
    }
}
