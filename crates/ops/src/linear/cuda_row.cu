// Products with few rows, as new tokens make them: every weight is read once, and that is what takes the time.
//
// Weights (C, OC): a strip of 64 bytes of each row of W, whose depth C is shared among four parts, each with 256 threads: four
// side by side, 64 of them down the depth, all of a batch of loads on their way before the first is needed. The parts are
// the blocks of a cluster where there are clusters, else they lie in one block; the order of sums is the same. Weights
// (OC, C): a warp takes four outputs at a time. In neither does a row's result depend on how many rows there are.

// Threads of a part, how many of them lie side by side, and the parts.
constexpr int PART = 256, LANES = 4, PARTS = 4;
constexpr int WARPS = PART / 32;
constexpr int STRIP = LANES * VEC;
// Rows of W that all parts take at once.
constexpr int STEP = PARTS * PART / LANES;

// The sums of COUNT values over lanes, which are told apart by the bits from BIT down to LAST: each lane gets one, that of
// the value whose number these bits begin with.
template <int LAST, int BIT, int COUNT> __device__ __forceinline__ float lane_sums(const float (&x)[COUNT]) {
    if constexpr (BIT < LAST) {
        return x[0];
    } else if constexpr (COUNT == 1) {
        const float sum[1] = {x[0] + __shfl_xor_sync(FULL_WARP, x[0], BIT)};
        return lane_sums<LAST, BIT / 2>(sum);
    } else {
        const bool is_upper = threadIdx.x & BIT;
        float half[COUNT / 2];
#pragma unroll
        for (int i = 0; i < COUNT / 2; ++i) {
            const float given = is_upper ? x[i] : x[i + COUNT / 2], kept = is_upper ? x[i + COUNT / 2] : x[i];
            half[i] = kept + __shfl_xor_sync(FULL_WARP, given, BIT);
        }
        return lane_sums<LAST, BIT / 2>(half);
    }
}

// Adds the products of each row of x with VEC columns of W, of up to BATCH elements of the depth, STEP apart. For the threads
// at work together `rest` elements of the depth are left, for this one `depth`.
template <int ROWS, int BATCH>
__device__ __forceinline__ void add_products(float (&sums)[ROWS][VEC], const E* x, const E* weights, int rest, int depth,
                                             int rows, int inputs, int outputs) {
    Words words[BATCH];
    E values[ROWS][BATCH];
#pragma unroll
    for (int i = 0; i < BATCH; ++i) {
        const bool is_in = i * STEP < depth;
        words[i] = is_in ? *(const Words*)weights : Words{};
        weights += (u64)STEP * outputs;
    }
    wait_for_earlier();
#pragma unroll
    for (int i = 0; i < BATCH; ++i)
#pragma unroll
        for (int r = 0; r < ROWS; ++r)
            values[r][i] =
                i * STEP < depth && (ROWS == 1 || r < rows) ? x[(u64)r * inputs + i * STEP] : E{};
    // Compilers put loads off until the sums before them are done, but not over a branch that they know nothing of.
    asm volatile("" : "+r"(rest));
#pragma unroll
    for (int i = 0; i < BATCH; ++i) {
        if (i * STEP >= rest) break;
#pragma unroll
        for (int r = 0; r < ROWS; ++r)
#pragma unroll
            for (int j = 0; j < VEC; ++j)
                sums[r][j] = fmaf(to_f32(values[r][i]), element_of(words[i], j), sums[r][j]);
    }
}

#if __CUDA_ARCH__ >= 900
__device__ __forceinline__ int part_of_cluster() {
    int out;
    asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(out));
    return out;
}
// Compilers before 12.1 know no stores that report to a barrier.
#define HAS_REPORTS (100 * __CUDACC_VER_MAJOR__ + __CUDACC_VER_MINOR__ >= 1201)

// Makes a barrier of the cluster's first block, which waits at it for `count` floats from all of them, before any block passes
// `cluster_wait`.
__device__ __forceinline__ void cluster_begin(u64* barrier, int count) {
    if (part_of_cluster() == 0 && threadIdx.x == 0) {
        const u32 at = shared_address(barrier);
        const int arrivals = HAS_REPORTS ? 1 : count;
        asm volatile("mbarrier.init.shared::cta.b64 [%0], %1; fence.mbarrier_init.release.cluster;" ::"r"(at),
                     "r"(arrivals)
                     : "memory");
        if (HAS_REPORTS)
            asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(at), "r"(4 * count) : "memory");
    }
    __syncwarp();
    asm volatile("barrier.cluster.arrive.relaxed.aligned;" ::: "memory");
}
__device__ __forceinline__ void cluster_wait() { asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory"); }
// Writes to the same place in the shared memory of the cluster's first block, and tells the barrier there.
__device__ __forceinline__ void send_to_first(float* to, float x, u64* barrier) {
    u32 remote, remote_barrier;
    asm volatile("mapa.shared::cluster.u32 %0, %1, 0;" : "=r"(remote) : "r"(shared_address(to)));
    asm volatile("mapa.shared::cluster.u32 %0, %1, 0;" : "=r"(remote_barrier) : "r"(shared_address(barrier)));
#if HAS_REPORTS
    asm volatile("st.async.shared::cluster.mbarrier::complete_tx::bytes.f32 [%0], %1, [%2];" ::"r"(remote), "f"(x),
                 "r"(remote_barrier)
                 : "memory");
#else
    asm volatile("st.shared::cluster.f32 [%0], %1; mbarrier.arrive.release.cluster.shared::cluster.b64 _, [%2];" ::"r"(
                     remote),
                 "f"(x), "r"(remote_barrier)
                 : "memory");
#endif
}
// Waits for all that was sent.
__device__ __forceinline__ void wait_for_sent(u64* barrier) {
    asm volatile("{.reg .pred done; again: mbarrier.try_wait.parity.acquire.cluster.shared::cta.b64 done, [%0], 0;"
                 "@done bra over; bra again; over:}" ::"r"(shared_address(barrier))
                 : "memory");
}
#else
__device__ __forceinline__ int part_of_cluster() { return 0; }
__device__ __forceinline__ void cluster_begin(u64*, int) {}
__device__ __forceinline__ void cluster_wait() {}
__device__ __forceinline__ void send_to_first(float*, float, u64*) {}
__device__ __forceinline__ void wait_for_sent(u64*) {}
#endif

// out = x W + bias, then + residual where there is one; where there is `pre`, that is set instead, and out = gelu(pre).
template <int ROWS, int BATCH, bool IS_CLUSTER>
__device__ __forceinline__ void row_product(E* out, E* pre, const E* residual, const E* x, const E* weights,
                                            const float* bias, int rows, int inputs, int outputs) {
    // Those of warps, and of parts.
    __shared__ float partials[ROWS][IS_CLUSTER ? 1 : PARTS][WARPS][STRIP], parts[ROWS][PARTS][STRIP];
    __shared__ u64 barrier;
    let_next_begin();
    if (IS_CLUSTER) cluster_begin(&barrier, rows * PARTS * STRIP);
    const int thread = threadIdx.x % PART, lane = thread % 32, warp = thread / 32;
    const int part = IS_CLUSTER ? part_of_cluster() : threadIdx.x / PART;
    const int first = blockIdx.x / (IS_CLUSTER ? PARTS : 1) * STRIP;
    // Lanes beyond the last column do what is not looked at.
    const int col = min(first + thread % LANES * VEC, outputs - VEC), k = part * (PART / LANES) + thread / LANES;
    // In the end a warp has a row, a lane a column; first in each part, then in the first.
    const bool has_sum = warp < rows && lane < STRIP;
    const bool is_last = has_sum && part == 0 && first + lane < outputs;
    const u64 at = (u64)warp * outputs + first + lane;
    const float added = is_last ? bias[first + lane] : 0.0f;
    float sums[ROWS][VEC] = {};
    x += k;
    weights += (u64)k * outputs + col;
    // A short rest is not worth a whole batch.
    constexpr int SHORT = BATCH > 4 ? 4 : BATCH;
    for (int begin = 0; begin < inputs;) {
        const int rest = inputs - begin, taken = (rest <= SHORT * STEP ? SHORT : BATCH) * STEP;
        if (rest <= SHORT * STEP) add_products<ROWS, SHORT>(sums, x, weights, rest, rest - k, rows, inputs, outputs);
        else add_products<ROWS, BATCH>(sums, x, weights, rest, rest - k, rows, inputs, outputs);
        begin += taken;
        x += taken;
        weights += (u64)taken * outputs;
    }
    const E of_residual = is_last && residual ? residual[at] : E{};
    const int here = IS_CLUSTER ? 0 : part, row = ROWS == 1 ? 0 : warp;
#pragma unroll
    for (int r = 0; r < ROWS; ++r) {
        if (r >= rows) break;
        const float sum = lane_sums<LANES, 16>(sums[r]);
        // Of f32, two lanes have the same sum.
        if (lane / LANES % (8 / VEC) == 0)
            partials[r][here][warp][lane % LANES * VEC + lane / (32 / VEC)] = sum;
    }
    __syncthreads();
    // Nothing is sent to a block that has not begun.
    if (IS_CLUSTER) cluster_wait();
    if (has_sum) {
        float sum = 0.0f;
#pragma unroll
        for (int w = 0; w < WARPS; ++w) sum += partials[row][here][w][lane];
        if (IS_CLUSTER) send_to_first(&parts[row][part][lane], sum, &barrier);
        else parts[row][part][lane] = sum;
    }
    if (!IS_CLUSTER) __syncthreads();
    if (!is_last) return;
    if (IS_CLUSTER) wait_for_sent(&barrier);
    float total = 0.0f;
#pragma unroll
    for (int p = 0; p < PARTS; ++p) total += parts[row][p][lane];
    total += added;
    if (residual) total += to_f32(of_residual);
    if (pre) {
        pre[at] = from_f32(total);
        total = gelu(total);
    }
    out[at] = from_f32(total);
}

#define ROW_PRODUCT(NAME, ROWS, BATCH)                                                                                 \
    extern "C" __global__ void __launch_bounds__(PARTS* PART)                                                          \
        NAME(E* out, E* pre, const E* residual, const E* x, const E* weights, const float* bias, int rows, int inputs, \
             int outputs) {                                                                                            \
        row_product<ROWS, BATCH, false>(out, pre, residual, x, weights, bias, rows, inputs, outputs);                  \
    }
ROW_PRODUCT(row_product, 1, 6)
ROW_PRODUCT(row_product_4, 4, 2)

#if __CUDA_ARCH__ >= 900
#define OF_CLUSTER __cluster_dims__(PARTS, 1, 1)
#define ROW_PRODUCT_BODY(ROWS, BATCH)                                                                                  \
    row_product<ROWS, BATCH, true>(out, pre, residual, x, weights, bias, rows, inputs, outputs)
#else
// There are no clusters, and nobody calls these.
#define OF_CLUSTER
#define ROW_PRODUCT_BODY(ROWS, BATCH)
#endif
// BLOCKS: how many of them a processor is to have room for.
#define ROW_PRODUCT_OF_CLUSTER(NAME, ROWS, BATCH, BLOCKS)                                                              \
    extern "C" __global__ void OF_CLUSTER __launch_bounds__(PART, BLOCKS)                                              \
        NAME(E* out, E* pre, const E* residual, const E* x, const E* weights, const float* bias, int rows, int inputs, \
             int outputs) {                                                                                            \
        ROW_PRODUCT_BODY(ROWS, BATCH);                                                                                 \
    }
ROW_PRODUCT_OF_CLUSTER(row_product_cluster, 1, 4, 4)
ROW_PRODUCT_OF_CLUSTER(row_product_cluster_deep, 1, 12, 2)
ROW_PRODUCT_OF_CLUSTER(row_product_cluster_4, 4, 3, 3)

// logits (rows, OC) = x W^T, W (OC, C). Blocks of eight warps, each with four rows of W.
template <int ROWS, int BATCH>
__device__ __forceinline__ void row_logits_of(float* logits, const E* x, const E* weights, int rows, int inputs,
                                              int outputs) {
    constexpr int COUNT = 4, CHUNK = 32 * VEC;
    const int lane = threadIdx.x % 32, first = (blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32) * COUNT;
    let_next_begin();
    if (first >= outputs) return;
    const E* right_at[COUNT];
    // What lies beyond the last output is not looked at.
#pragma unroll
    for (int o = 0; o < COUNT; ++o) right_at[o] = weights + (u64)min(first + o, outputs - 1) * inputs;
    float sums[ROWS][COUNT] = {};
    for (int begin = 0; begin < inputs; begin += BATCH * CHUNK) {
        Words left[BATCH][ROWS], right[BATCH][COUNT];
#pragma unroll
        for (int i = 0; i < BATCH; ++i) {
            const int at = begin + i * CHUNK + lane * VEC;
#pragma unroll
            for (int o = 0; o < COUNT; ++o) right[i][o] = at < inputs ? *(const Words*)(right_at[o] + at) : Words{};
        }
        wait_for_earlier();
#pragma unroll
        for (int i = 0; i < BATCH; ++i) {
            const int at = begin + i * CHUNK + lane * VEC;
#pragma unroll
            for (int r = 0; r < ROWS; ++r)
                left[i][r] = at < inputs && (ROWS == 1 || r < rows) ? *(const Words*)(x + (u64)r * inputs + at) : Words{};
        }
#pragma unroll
        for (int i = 0; i < BATCH; ++i) {
            // As above.
            if (begin + i * CHUNK >= inputs) break;
#pragma unroll
            for (int o = 0; o < COUNT; ++o)
#pragma unroll
                for (int r = 0; r < ROWS; ++r)
#pragma unroll
                    for (int j = 0; j < VEC; ++j)
                        sums[r][o] = fmaf(element_of(left[i][r], j), element_of(right[i][o], j), sums[r][o]);
        }
    }
    const int o = lane / (32 / COUNT);
#pragma unroll
    for (int r = 0; r < ROWS; ++r) {
        const float sum = lane_sums<1, 16>(sums[r]);
        if (lane % (32 / COUNT) == 0 && r < rows && first + o < outputs) logits[(u64)r * outputs + first + o] = sum;
    }
}

extern "C" __global__ void __launch_bounds__(PART)
    row_logits(float* logits, const E* x, const E* weights, int rows, int inputs, int outputs) {
    row_logits_of<1, 3>(logits, x, weights, rows, inputs, outputs);
}
extern "C" __global__ void __launch_bounds__(PART)
    row_logits_4(float* logits, const E* x, const E* weights, int rows, int inputs, int outputs) {
    row_logits_of<4, 2>(logits, x, weights, rows, inputs, outputs);
}
