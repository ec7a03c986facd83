// Products with what follows them on their way out, on Hopper: the library's own cannot store as fast as they multiply, or
// leave it to another kernel.
//
// - A block makes tiles of 128 x 192, one after another, with its warps in three roles. Two warpgroups multiply, 64 rows
//   each, and leave their sums, rounded, in a staging tile of their own. Six warps take them from there to memory, through
//   GELU or to a residual, while the next tile is multiplied: so the tensor cores wait only for the way from registers to
//   shared memory, and the two warpgroups take turns there. One thread has the operands copied to shared memory, four steps
//   ahead.
// - Two blocks of a cluster make neighbouring rows of one column of tiles: each copies half of what both read of the
//   weights into both, which spares a third of the traffic with the second-level cache.
// - GELU and its slope are those of what would be stored, rounded. The trick: forward, where the gate is at hand, the slope is a
//   few steps more, and it is what is kept for the backward pass, which then only multiplies by it.

constexpr int PRODUCT_THREADS = 512;

#if defined(HOPPER)
constexpr int CLUSTER = 2;
constexpr int PRODUCT_ROWS = 128, PRODUCT_COLS = 192, PRODUCT_DEPTH = 64;
constexpr int STAGES = 4;
// Threads that take sums to memory, 16 bytes at a time: so many rows of a tile at once.
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

// What products go through on their way out.
//   GELU: out = gelu(x), kept = gelu'(x), x = left right + bias, with right (depth, cols)
//   SLOPE: out = left right^T times kept, GELU's slopes, with right (cols, depth); partial gets the sums over each 128 rows of
//          out, a row of `cols` for each
//   RESIDUAL: out = kept, the residual, + dropout(left right + bias), with right (depth, cols)
enum Way { GELU, SLOPE, RESIDUAL };

// Where results go and what they meet there; left is (rows, depth), out and kept (rows, cols).
struct Results {
    E* out;
    u16* kept;
    const float* bias;
    float* partial;
    int rows, cols, depth;
    u64 key;
    int threshold;
    float scale;
};

// A cluster's tiles, columns first, so that clusters at work share rows.
struct Tiles {
    int block, num_clusters, column_tiles, count, steps;

    __device__ __forceinline__ Tiles(const Results& results)
        : block(block_of_cluster()), num_clusters(gridDim.x / CLUSTER),
          column_tiles((results.cols + PRODUCT_COLS - 1) / PRODUCT_COLS),
          count((results.rows + CLUSTER * PRODUCT_ROWS - 1) / (CLUSTER * PRODUCT_ROWS) * column_tiles),
          steps((results.depth + PRODUCT_DEPTH - 1) / PRODUCT_DEPTH) {}
    __device__ __forceinline__ int first() const { return blockIdx.x / CLUSTER; }
    __device__ __forceinline__ int row_of(int tile) const { return (tile / column_tiles * CLUSTER + block) * PRODUCT_ROWS; }
    __device__ __forceinline__ int column_of(int tile) const { return tile % column_tiles * PRODUCT_COLS; }
};

// A stage is full when its bytes are there, and empty when every warp of the cluster that multiplies is done with it.
__device__ __forceinline__ u32 full(u32 base, int stage) { return base + BARRIERS_AT + 8 * stage; }
__device__ __forceinline__ u32 empty(u32 base, int stage) { return base + BARRIERS_AT + 8 * (STAGES + stage); }
// The same of the staging tiles of the two warpgroups.
__device__ __forceinline__ u32 staged(u32 base, int half) { return base + BARRIERS_AT + 8 * (2 * STAGES + half); }
__device__ __forceinline__ u32 taken(u32 base, int half) { return base + BARRIERS_AT + 8 * (2 * STAGES + 2 + half); }

// One thread: has operands and biases copied.
template <Way WAY>
__device__ __forceinline__ void feed(u32 base, const Operands& operands, const Results& results, const Tiles& tiles) {
    int stage = 0, phase = 0, biases = 0;
    for (int tile = tiles.first(); tile < tiles.count; tile += tiles.num_clusters) {
        int row = tiles.row_of(tile), column = tiles.column_of(tile);
        for (int step = 0; step < tiles.steps; step++) {
            u32 left = base + stage * STAGE_BYTES, right = left + LEFT_BYTES;
            int from = step * PRODUCT_DEPTH;
            u32 bias_bytes = WAY != SLOPE && step == 0 ? min(PRODUCT_COLS, results.cols - column) * sizeof(float) : 0;
            barrier_wait(empty(base, stage), phase ^ 1);
            barrier_expect(full(base, stage), STAGE_BYTES + bias_bytes);
            if (bias_bytes) {
                copy_bytes(base + BIASES_AT + biases * PRODUCT_COLS * sizeof(float), results.bias + column, bias_bytes,
                           full(base, stage));
                if (++biases == BIASES) biases = 0;
            }
            copy_box<false>(left, operands.left, from, row, full(base, stage), 0);
            constexpr bool IS_SHARED = CLUSTER > 1;
            for (int part = tiles.block; part < 2; part += CLUSTER) {
                if (WAY == SLOPE) {
                    int first = part * PRODUCT_COLS / 2;
                    copy_box<IS_SHARED>(right + first * BOX_ROW, operands.right, from, column + first, full(base, stage),
                                        3);
                } else {
                    for (int i = 0; i < PRODUCT_COLS / 64; i++)
                        copy_box<IS_SHARED>(right + (64 * i + 32 * part) * BOX_ROW, operands.right, column + 64 * i,
                                            from + 32 * part, full(base, stage), 3);
                }
            }
            if (++stage == STAGES) stage = 0, phase ^= 1;
        }
    }
}

// VEC sums on their way out; `kept` is what was kept of their places, or what is to be kept.
template <Way WAY>
__device__ __forceinline__ void pass(Words& x, Words& kept, float (&sums)[VEC], const Results& results, u64 at) {
    if constexpr (WAY == GELU) {
        float value[VEC], gates[VEC];
#pragma unroll
        for (int j = 0; j < VEC; j++) value[j] = element_of(x, j);
        gelu_gates(gates, value);
#pragma unroll
        for (int j = 0; j < VEC; j += 2) {
            kept.x[j / 2] = pack_slopes(gelu_derivative(value[j], gates[j]), gelu_derivative(value[j + 1], gates[j + 1]));
            x.x[j / 2] = pack2(value[j] * gates[j], value[j + 1] * gates[j + 1]);
        }
    } else if constexpr (WAY == SLOPE) {
#pragma unroll
        for (int j = 0; j < VEC / 2; j++) {
            u32& pair = x.x[j];
            pair = pack2(first_of(pair) * slope_of(kept.x[j], 0), second_of(pair) * slope_of(kept.x[j], 1));
            sums[2 * j] += first_of(pair), sums[2 * j + 1] += second_of(pair);
        }
    } else {
        float factors[VEC];
#pragma unroll
        for (int j = 0; j < VEC; j++) factors[j] = results.scale;
        if (results.threshold > 0) {
#pragma unroll
            for (int j = 0; j < VEC; j++)
                factors[j] = dropout_factor(results.key, results.threshold, results.scale, (u32)at + j);
        }
#pragma unroll
        for (int j = 0; j < VEC / 2; j++) {
            u32& pair = x.x[j];
            pair = pack2(fmaf(factors[2 * j], first_of(pair), first_of(kept.x[j])),
                         fmaf(factors[2 * j + 1], second_of(pair), second_of(kept.x[j])));
        }
    }
}

// TAKERS threads: take what was staged to memory.
template <Way WAY>
__device__ __forceinline__ void take(char* memory, int taker, const Results& results, const Tiles& tiles) {
    // Rows that this thread takes of each half of a tile, a batch at a time.
    constexpr int BATCH = 4, BATCHES = 64 / TAKEN_ROWS / BATCH;
    u32 base = shared_address(memory);
    int chunk = taker % CHUNKS, of_eight = taker / CHUNKS, phase = 0, rows = results.rows, cols = results.cols;
    u64 stride = (u64)TAKEN_ROWS * cols;
    // Rows that are taken at once begin on multiples of eight, so the swizzle is the same for all.
    const char* from = memory + STAGED_AT + of_eight * STAGED_ROW + ((chunk ^ of_eight) << 4);
    // Where this thread's first row of half a tile lies, and how many of its rows there are from there to the matrix's end. What is
    // staged beyond that is taken like the rest, and not stored.
    struct Place {
        u64 at;
        int count;
    };
    auto place_of = [&](int tile, int half) {
        int first = tiles.row_of(tile) + half * 64 + of_eight, column = tiles.column_of(tile) + chunk * VEC;
        bool is_there = tile < tiles.count && column < cols;
        return Place{(u64)first * cols + column, is_there ? (rows - first + TAKEN_ROWS - 1) / TAKEN_ROWS : 0};
    };
    // What sums meet on their way, read half a tile ahead.
    Words ahead[BATCHES][BATCH] = {};
    auto look_ahead = [&](int batch, Place place) {
#pragma unroll
        for (int i = 0; i < BATCH; i++) {
            int row = batch * BATCH + i;
            if (row < place.count) ahead[batch][i] = *(const Words*)(results.kept + place.at + row * stride);
        }
    };
    Place place = place_of(tiles.first(), 0);
    if (WAY != GELU) {
#pragma unroll
        for (int batch = 0; batch < BATCHES; batch++) look_ahead(batch, place);
    }
    for (int tile = tiles.first(); tile < tiles.count; tile += tiles.num_clusters) {
        float sums[VEC] = {};
#pragma unroll 1
        for (int half = 0; half < 2; half++) {
            Place next = place_of(half ? tile + tiles.num_clusters : tile, half ^ 1);
            barrier_wait(staged(base, half), phase);
#pragma unroll
            for (int batch = 0; batch < BATCHES; batch++) {
                Words x[BATCH];
#pragma unroll
                for (int i = 0; i < BATCH; i++)
                    x[i] = *(const Words*)(from + half * STAGED_BYTES + (batch * BATCH + i) * TAKEN_ROWS * STAGED_ROW);
#pragma unroll
                for (int i = 0; i < BATCH; i++) {
                    int row = batch * BATCH + i;
                    u64 to = place.at + row * stride;
                    pass<WAY>(x[i], ahead[batch][i], sums, results, to);
                    if (row < place.count) {
                        if (WAY == GELU) *(Words*)(results.kept + to) = ahead[batch][i];
                        *(Words*)(results.out + to) = x[i];
                    }
                }
                if (WAY != GELU) look_ahead(batch, next);
            }
            __syncwarp();
            if (threadIdx.x % 32 == 0) barrier_arrive(taken(base, half));
            place = next;
        }
        phase ^= 1;
        if (WAY == SLOPE) {
            float* shared = (float*)(memory + SUMS_AT);
#pragma unroll
            for (int j = 0; j < VEC; j++) shared[of_eight * PRODUCT_COLS + chunk * VEC + j] = sums[j];
            takers_sync();
            float total = 0.0f;
            for (int i = 0; i < TAKEN_ROWS; i++) total += shared[i * PRODUCT_COLS + taker];
            int row = tiles.row_of(tile), c = tiles.column_of(tile) + taker;
            if (row < rows && c < cols) results.partial[(u64)(row / PRODUCT_ROWS) * cols + c] = total;
            takers_sync();
        }
    }
}

// Two warpgroups: multiply, and stage what comes out.
template <Way WAY>
__device__ __forceinline__ void multiply(char* memory, int group, const Tiles& tiles) {
    constexpr bool ACROSS = WAY != SLOPE;
    int warp = threadIdx.x / 32 % 4, lane = threadIdx.x % 32;
    u32 base = shared_address(memory);
    float c[24][4] REPLACED_SUMS;
    int stage = 0, phase = 0, staging_phase = 0, biases = 0;
    auto release = [&](int stage) {
        if (lane < CLUSTER) barrier_arrive_at(empty(base, stage), lane);
    };
    // Where this lane's rows of eight elements of two neighbouring columns of them go.
    int row = warp * 16 + lane % 16;
    u32 to = base + STAGED_AT + group * STAGED_BYTES + row * STAGED_ROW, swizzle = (lane / 16 ^ (lane & 7)) << 4;
    for (int tile = tiles.first(); tile < tiles.count; tile += tiles.num_clusters) {
#pragma unroll 1
        for (int step = 0; step < tiles.steps; step++) {
            barrier_wait(full(base, stage), phase);
            u64 left = operand(base + stage * STAGE_BYTES + group * 64 * BOX_ROW);
            u64 right = operand(base + stage * STAGE_BYTES + LEFT_BYTES, ACROSS ? 64 * BOX_ROW : 1024);
            group_fence();
#pragma unroll
            for (int i = 0; i < PRODUCT_DEPTH / 16; i++)
                group_multiply_wide<ACROSS>(c, further(left, 32 * i), further(right, ACROSS ? 16 * BOX_ROW * i : 32 * i),
                                            step + i > 0);
            group_commit();
            // Meanwhile the other warpgroup's products go on.
            group_wait<0>();
            release(stage);
            if (++stage == STAGES) stage = 0, phase ^= 1;
        }
        settle_wide(c);
        barrier_wait(taken(base, group), staging_phase ^ 1);
        staging_phase ^= 1;
        const char* my_biases = memory + BIASES_AT + (biases * PRODUCT_COLS + lane % 4 * 2) * sizeof(float);
        if (++biases == BIASES) biases = 0;
#pragma unroll
        for (int j = 0; j < 24; j += 2) {
            float2 b[2] = {};
            if (WAY != SLOPE) {
                b[0] = *(const float2*)(my_biases + 32 * j);
                b[1] = *(const float2*)(my_biases + 32 * j + 32);
            }
            u32 x[4] = {pack2(c[j][0] + b[0].x, c[j][1] + b[0].y), pack2(c[j][2] + b[0].x, c[j][3] + b[0].y),
                        pack2(c[j + 1][0] + b[1].x, c[j + 1][1] + b[1].y),
                        pack2(c[j + 1][2] + b[1].x, c[j + 1][3] + b[1].y)};
            store_matrices(to + (j << 4 ^ swizzle), x);
        }
        __syncwarp();
        if (lane == 0) barrier_arrive(staged(base, group));
    }
}

template <Way WAY>
__device__ __forceinline__ void product(const Operands& operands, const Results& results) {
    extern __shared__ __align__(1024) char memory[];
    u32 base = shared_address(memory);
    // The shuffle tells the compiler that the warp agrees.
    int group = __shfl_sync(FULL_WARP, threadIdx.x / 128, 0);
    if (threadIdx.x == 0) {
        for (int stage = 0; stage < STAGES; stage++)
            barrier_init(full(base, stage), 1), barrier_init(empty(base, stage), 8 * CLUSTER);
        for (int half = 0; half < 2; half++)
            barrier_init(staged(base, half), 4), barrier_init(taken(base, half), TAKERS / 32);
        barriers_are_made();
    }
    cluster_sync();
    Tiles tiles(results);
    if (group >= 2) {
        give_registers<112>();
        int taker = threadIdx.x - 2 * 128;
        if (taker == TAKERS) feed<WAY>(base, operands, results, tiles);
        else if (taker < TAKERS) take<WAY>(memory, taker, results, tiles);
        __syncwarp();
    } else {
        take_registers<144>();
        multiply<WAY>(memory, group, tiles);
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
    gelu_forward_hopper(const __grid_constant__ Operands operands, E* out, u16* slopes, const float* bias, int rows,
                        int cols, int depth) {
#if defined(HOPPER)
    product<GELU>(operands, {out, slopes, bias, nullptr, rows, cols, depth});
#endif
}

extern "C" __global__ void OF_CLUSTER __launch_bounds__(PRODUCT_THREADS, 1)
    gelu_backward_hopper(const __grid_constant__ Operands operands, E* out, u16* slopes, float* partial, int rows,
                         int cols, int depth) {
#if defined(HOPPER)
    product<SLOPE>(operands, {out, slopes, nullptr, partial, rows, cols, depth});
#endif
}

extern "C" __global__ void OF_CLUSTER __launch_bounds__(PRODUCT_THREADS, 1)
    residual_forward_hopper(const __grid_constant__ Operands operands, E* out, u16* residual, const float* bias, int rows,
                            int cols, int depth, u64 key, int threshold, float scale) {
#if defined(HOPPER)
    product<RESIDUAL>(operands, {out, residual, bias, nullptr, rows, cols, depth, key, threshold, scale});
#endif
}
