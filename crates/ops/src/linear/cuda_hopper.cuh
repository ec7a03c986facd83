// Products with GELU on their way out, on Hopper: the library's own cannot store as fast as they multiply.
//
// - A block makes tiles of 128 x 192, one after another, with its warps in three roles. Two warpgroups multiply, 64 rows
//   each, and leave their sums, rounded, in a staging tile of their own. Six warps take them from there through GELU to
//   memory while the next tile is multiplied: so the tensor cores wait only for the way from registers to shared memory,
//   and the two warpgroups take turns there. One thread has the operands copied to shared memory, four steps ahead.
// - Two blocks of a cluster make neighbouring rows of one column of tiles: each copies half of what both read of the
//   weights into both, which spares a third of the traffic with the second-level cache.
// - GELU sees what is stored, rounded, and so do its derivative and the sum over the rows.

constexpr int PRODUCT_THREADS = 512;

#if defined(HOPPER)
constexpr int CLUSTER = 2;
constexpr int PRODUCT_ROWS = 128, PRODUCT_COLS = 192, PRODUCT_DEPTH = 64;
constexpr int STAGES = 4;
// Threads that take sums through GELU, 16 bytes at a time: so many rows of a tile at once.
constexpr int CHUNKS = PRODUCT_COLS / VEC, TAKEN_ROWS = 8, TAKERS = CHUNKS * TAKEN_ROWS;
// Biases of a tile come with its first step, and the next tiles' may come before they are read.
constexpr int BIASES = STAGES + 2;
// A row of an operand's box, and of the staging tiles.
constexpr u32 BOX_ROW = 128, STAGED_ROW = PRODUCT_COLS * sizeof(E);
constexpr u32 LEFT_BYTES = PRODUCT_ROWS * BOX_ROW, RIGHT_BYTES = PRODUCT_COLS * BOX_ROW;
constexpr u32 STAGE_BYTES = LEFT_BYTES + RIGHT_BYTES;
constexpr u32 STAGED_AT = STAGES * STAGE_BYTES, STAGED_BYTES = PRODUCT_ROWS / 2 * STAGED_ROW;
// Forward, there are biases; backward, sums.
constexpr u32 BIASES_AT = STAGED_AT + 2 * STAGED_BYTES, SUMS_AT = BIASES_AT;
constexpr u32 BARRIERS_AT = SUMS_AT + TAKEN_ROWS * PRODUCT_COLS * sizeof(float);

#define WIDE_PRODUCT "wgmma.mma_async.sync.aligned.m64n192k16." GROUP_TYPES
#define WIDE_SUMS                                                                                                      \
    "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, %21, %22, "       \
    "%23, %24, %25, %26, %27, %28, %29, %30, %31, %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, "        \
    "%44, %45, %46, %47, %48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63, %64, "        \
    "%65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79, %80, %81, %82, %83, %84, %85, "        \
    "%86, %87, %88, %89, %90, %91, %92, %93, %94, %95}, "
#define ALL_WIDE(c)                                                                                                    \
    SIXTEEN_SUMS(c, 0), SIXTEEN_SUMS(c, 4), SIXTEEN_SUMS(c, 8), SIXTEEN_SUMS(c, 12), SIXTEEN_SUMS(c, 16),              \
        SIXTEEN_SUMS(c, 20)

// c (64, 192) = a (64, 16) b (16, 192), plus c if `adds`. b is read across the rows of its tile if ACROSS.
template <int ACROSS>
__device__ __forceinline__ void group_multiply_wide(float (&c)[24][4], u64 a, u64 b, int adds) {
    asm volatile("{.reg .pred adds; setp.ne.b32 adds, %98, 0;" WIDE_PRODUCT WIDE_SUMS
                 "%96, %97, adds, 1, 1, 0, %99;}"
                 : ALL_WIDE(c)
                 : "l"(a), "l"(b), "r"(adds), "n"(ACROSS)
                 : "memory");
}
// Keeps the compiler from moving uses of what products write from after a wait to before it.
__device__ __forceinline__ void settle_wide(float (&c)[24][4]) { asm volatile("" : ALL_WIDE(c)::"memory"); }

// Waits for the warps that take.
__device__ __forceinline__ void takers_sync() { asm volatile("bar.sync 1, %0;" ::"n"(TAKERS) : "memory"); }

struct Operands {
    TensorMap left, right;
};

// out (rows, cols) = left (rows, depth) right. Forward, right is (depth, cols), and a bias is added: `pre` gets the sum,
// `out` its GELU. Backward, right is (cols, depth), and out is the product times GELU's derivative at `pre`; `partial` gets
// the sums over each 128 rows of out, a row of `cols` for each.
template <bool BACKWARD>
__device__ __forceinline__ void product_with_gelu(const Operands& operands, E* out, E* pre, const float* bias,
                                                  float* partial, int rows, int cols, int depth) {
    extern __shared__ __align__(1024) char memory[];
    u32 base = shared_address(memory);
    // The shuffle tells the compiler that the warp agrees.
    int group = __shfl_sync(FULL_WARP, threadIdx.x / 128, 0), warp = threadIdx.x / 32 % 4, lane = threadIdx.x % 32;
    // A stage is full when its bytes are there, and empty when every warp of the cluster that multiplies is done with it.
    auto full = [&](int stage) { return base + BARRIERS_AT + 8 * stage; };
    auto empty = [&](int stage) { return base + BARRIERS_AT + 8 * (STAGES + stage); };
    // The same of the staging tiles of the two warpgroups.
    auto staged = [&](int half) { return base + BARRIERS_AT + 8 * (2 * STAGES + half); };
    auto taken = [&](int half) { return base + BARRIERS_AT + 8 * (2 * STAGES + 2 + half); };
    if (threadIdx.x == 0) {
        for (int stage = 0; stage < STAGES; stage++) barrier_init(full(stage), 1), barrier_init(empty(stage), 8 * CLUSTER);
        for (int half = 0; half < 2; half++) barrier_init(staged(half), 4), barrier_init(taken(half), TAKERS / 32);
        barriers_are_made();
    }
    cluster_sync();

    // A cluster's tiles: columns first, so that clusters at work share rows.
    int block = block_of_cluster(), num_clusters = gridDim.x / CLUSTER;
    int column_tiles = (cols + PRODUCT_COLS - 1) / PRODUCT_COLS;
    int num_tiles = (rows + CLUSTER * PRODUCT_ROWS - 1) / (CLUSTER * PRODUCT_ROWS) * column_tiles;
    int steps = (depth + PRODUCT_DEPTH - 1) / PRODUCT_DEPTH;
    auto row_of = [&](int tile) { return (tile / column_tiles * CLUSTER + block) * PRODUCT_ROWS; };
    auto column_of = [&](int tile) { return tile % column_tiles * PRODUCT_COLS; };

    if (group >= 2) {
        give_registers<112>();
        int taker = threadIdx.x - 2 * 128;
        if (taker == TAKERS) {
            int stage = 0, phase = 0, biases = 0;
            for (int tile = blockIdx.x / CLUSTER; tile < num_tiles; tile += num_clusters) {
                int row = row_of(tile), column = column_of(tile);
                for (int step = 0; step < steps; step++) {
                    u32 left = base + stage * STAGE_BYTES, right = left + LEFT_BYTES;
                    int from = step * PRODUCT_DEPTH;
                    u32 bias_bytes = !BACKWARD && step == 0 ? min(PRODUCT_COLS, cols - column) * sizeof(float) : 0;
                    barrier_wait(empty(stage), phase ^ 1);
                    barrier_expect(full(stage), STAGE_BYTES + bias_bytes);
                    if (bias_bytes) {
                        copy_bytes(base + BIASES_AT + biases * PRODUCT_COLS * sizeof(float), bias + column, bias_bytes,
                                   full(stage));
                        if (++biases == BIASES) biases = 0;
                    }
                    copy_box<false>(left, operands.left, from, row, full(stage), 0);
                    constexpr bool IS_SHARED = CLUSTER > 1;
                    for (int part = block; part < 2; part += CLUSTER) {
                        if (BACKWARD) {
                            int first = part * PRODUCT_COLS / 2;
                            copy_box<IS_SHARED>(right + first * BOX_ROW, operands.right, from, column + first,
                                                full(stage), 3);
                        } else {
                            for (int i = 0; i < PRODUCT_COLS / 64; i++)
                                copy_box<IS_SHARED>(right + (64 * i + 32 * part) * BOX_ROW, operands.right,
                                                    column + 64 * i, from + 32 * part, full(stage), 3);
                        }
                    }
                    if (++stage == STAGES) stage = 0, phase ^= 1;
                }
            }
        } else if (taker < TAKERS) {
            // Rows that this thread takes of each half of a tile, a batch at a time.
            constexpr int BATCH = 4, BATCHES = 64 / TAKEN_ROWS / BATCH;
            int chunk = taker % CHUNKS, of_eight = taker / CHUNKS, phase = 0;
            u64 stride = (u64)TAKEN_ROWS * cols;
            // Rows that are taken at once begin on multiples of eight, so the swizzle is the same for all.
            const char* from = memory + STAGED_AT + of_eight * STAGED_ROW + ((chunk ^ of_eight) << 4);
            // Where this thread's first row of half a tile lies, and how many there are; as many are taken, but none stored.
            struct Place {
                u64 at;
                int count;
            };
            auto place_of = [&](int tile, int half) {
                int first = row_of(tile) + half * 64 + of_eight, column = column_of(tile) + chunk * VEC;
                bool is_there = tile < num_tiles && column < cols;
                return Place{(u64)first * cols + column, is_there ? (rows - first + TAKEN_ROWS - 1) / TAKEN_ROWS : 0};
            };
            // What GELU's derivative is taken at, read half a tile ahead.
            Words ahead[BATCHES][BATCH] = {};
            auto look_ahead = [&](int batch, Place place) {
#pragma unroll
                for (int i = 0; i < BATCH; i++) {
                    int row = batch * BATCH + i;
                    if (row < place.count) ahead[batch][i] = *(const Words*)(pre + place.at + row * stride);
                }
            };
            Place place = place_of(blockIdx.x / CLUSTER, 0);
            if (BACKWARD) {
#pragma unroll
                for (int batch = 0; batch < BATCHES; batch++) look_ahead(batch, place);
            }
            for (int tile = blockIdx.x / CLUSTER; tile < num_tiles; tile += num_clusters) {
                float sums[VEC] = {};
#pragma unroll 1
                for (int half = 0; half < 2; half++) {
                    Place next = place_of(half ? tile + num_clusters : tile, half ^ 1);
                    barrier_wait(staged(half), phase);
#pragma unroll
                    for (int batch = 0; batch < BATCHES; batch++) {
                        Words x[BATCH];
#pragma unroll
                        for (int i = 0; i < BATCH; i++)
                            x[i] = *(const Words*)(from + half * STAGED_BYTES +
                                                   (batch * BATCH + i) * TAKEN_ROWS * STAGED_ROW);
#pragma unroll
                        for (int i = 0; i < BATCH; i++) {
                            int row = batch * BATCH + i;
                            u64 to = place.at + row * stride;
                            if (!BACKWARD && row < place.count) *(Words*)(pre + to) = x[i];
                            // What GELU or its derivative is taken of, and the gates there.
                            float at[VEC], gates[VEC];
                            const Words& of = BACKWARD ? ahead[batch][i] : x[i];
#pragma unroll
                            for (int j = 0; j < VEC; j++) at[j] = element_of(of, j);
                            gelu_gates(gates, at);
#pragma unroll
                            for (int j = 0; j < VEC / 2; j++) {
                                u32& pair = x[i].x[j];
                                if (BACKWARD) {
                                    pair = pack2(first_of(pair) * gelu_derivative(at[2 * j], gates[2 * j]),
                                                 second_of(pair) * gelu_derivative(at[2 * j + 1], gates[2 * j + 1]));
                                    sums[2 * j] += first_of(pair), sums[2 * j + 1] += second_of(pair);
                                } else {
                                    pair = pack2(at[2 * j] * gates[2 * j], at[2 * j + 1] * gates[2 * j + 1]);
                                }
                            }
                            if (row < place.count) *(Words*)(out + to) = x[i];
                        }
                        if (BACKWARD) look_ahead(batch, next);
                    }
                    __syncwarp();
                    if (lane == 0) barrier_arrive(taken(half));
                    place = next;
                }
                phase ^= 1;
                if (BACKWARD) {
                    float* shared = (float*)(memory + SUMS_AT);
#pragma unroll
                    for (int j = 0; j < VEC; j++) shared[of_eight * PRODUCT_COLS + chunk * VEC + j] = sums[j];
                    takers_sync();
                    float total = 0.0f;
                    for (int i = 0; i < TAKEN_ROWS; i++) total += shared[i * PRODUCT_COLS + taker];
                    int c = column_of(tile) + taker;
                    if (row_of(tile) < rows && c < cols) partial[(u64)(row_of(tile) / PRODUCT_ROWS) * cols + c] = total;
                    takers_sync();
                }
            }
        }
        __syncwarp();
    } else {
        take_registers<144>();
        float c[24][4] REPLACED_SUMS;
        int stage = 0, phase = 0, staging_phase = 0, biases = 0;
        auto release = [&](int stage) {
            if (lane < CLUSTER) barrier_arrive_at(empty(stage), lane);
        };
        // Where this lane's rows of eight elements of two neighbouring columns of them go.
        int row = warp * 16 + lane % 16;
        u32 to = base + STAGED_AT + group * STAGED_BYTES + row * STAGED_ROW, swizzle = (lane / 16 ^ (lane & 7)) << 4;
        for (int tile = blockIdx.x / CLUSTER; tile < num_tiles; tile += num_clusters) {
#pragma unroll 1
            for (int step = 0; step < steps; step++) {
                barrier_wait(full(stage), phase);
                u64 left = operand(base + stage * STAGE_BYTES + group * 64 * BOX_ROW);
                u64 right = operand(base + stage * STAGE_BYTES + LEFT_BYTES, BACKWARD ? 1024 : 64 * BOX_ROW);
                group_fence();
#pragma unroll
                for (int i = 0; i < PRODUCT_DEPTH / 16; i++)
                    group_multiply_wide<!BACKWARD>(c, further(left, 32 * i),
                                                   further(right, BACKWARD ? 32 * i : 16 * BOX_ROW * i), step + i > 0);
                group_commit();
                // Meanwhile the other warpgroup's products go on.
                group_wait<0>();
                release(stage);
                if (++stage == STAGES) stage = 0, phase ^= 1;
            }
            settle_wide(c);
            barrier_wait(taken(group), staging_phase ^ 1);
            staging_phase ^= 1;
            const char* my_biases = memory + BIASES_AT + (biases * PRODUCT_COLS + lane % 4 * 2) * sizeof(float);
            if (++biases == BIASES) biases = 0;
#pragma unroll
            for (int j = 0; j < 24; j += 2) {
                float2 b[2] = {};
                if (!BACKWARD) {
                    b[0] = *(const float2*)(my_biases + 32 * j);
                    b[1] = *(const float2*)(my_biases + 32 * j + 32);
                }
                u32 x[4] = {pack2(c[j][0] + b[0].x, c[j][1] + b[0].y), pack2(c[j][2] + b[0].x, c[j][3] + b[0].y),
                            pack2(c[j + 1][0] + b[1].x, c[j + 1][1] + b[1].y),
                            pack2(c[j + 1][2] + b[1].x, c[j + 1][3] + b[1].y)};
                store_matrices(to + (j << 4 ^ swizzle), x);
            }
            __syncwarp();
            if (lane == 0) barrier_arrive(staged(group));
        }
    }
    // Neither block leaves while the other may still write to it.
    cluster_sync();
}
#define OF_CLUSTER __cluster_dims__(CLUSTER, 1, 1)
#else
struct alignas(64) Operands {
    u64 words[32];
};
#define OF_CLUSTER
#endif

// PRODUCT_THREADS threads; blocks for as many processors as there are, a multiple of CLUSTER.
extern "C" __global__ void OF_CLUSTER __launch_bounds__(PRODUCT_THREADS, 1)
    gelu_forward_hopper(const __grid_constant__ Operands operands, E* out, E* pre, const float* bias, int rows, int cols,
                        int depth) {
#if defined(HOPPER)
    product_with_gelu<false>(operands, out, pre, bias, nullptr, rows, cols, depth);
#endif
}

extern "C" __global__ void OF_CLUSTER __launch_bounds__(PRODUCT_THREADS, 1)
    gelu_backward_hopper(const __grid_constant__ Operands operands, E* out, const E* pre, float* partial, int rows,
                         int cols, int depth) {
#if defined(HOPPER)
    product_with_gelu<true>(operands, out, (E*)pre, nullptr, partial, rows, cols, depth);
#endif
}
