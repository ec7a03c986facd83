// Causal attention on tensor cores, for 16-bit elements and head sizes 32, 64, 128: what its two passes share, and the
// forward pass (FlashAttention-2, Dao 2023).
//
// - Products are mma.m16n8k16 with f32 accumulators. A warp keeps the fragments of its own rows in registers and
//   streams the other side through shared memory, so that one ldmatrix feeds several products: at 16 rows a warp,
//   shared memory, not the tensor cores, would be the limit; at 32 it is not.
// - The accumulators of one product are, as they lie, the left fragments of the next: probabilities and their
//   gradients never leave the registers.
// - Tiles lie in shared memory in rows of the head size, with the 16-byte pieces of a row permuted by xor with the row,
//   so that neither copies nor ldmatrix meet a bank twice. Since a step along the row only changes bits that the xor
//   leaves alone, it is one xor with a constant on a lane's address.
// - Copies are asynchronous, one tile ahead; each iteration has one barrier, which both publishes the tile that has
//   arrived and frees the one before it.
// - Softmax is in base 2, with the scale of the scores folded into its one multiplication.
// - Where documents share rows, each query sees keys from its `starts` on. That takes kernels of their own, compiled with
//   MASKED: the others, which need no starts, lose nothing to them. Starts do not descend along a row, so tiles that no
//   query of a tile sees lie before the first or after the last that is visited.

#if !defined(ELEMENT_F32)

// Four 8x8 matrices; lane l names row l % 8 of matrix l / 8, and receives elements 2 (l % 4) and the next of row l / 4.
__device__ __forceinline__ void load_matrices(u32 (&out)[4], u32 address) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3])
                 : "r"(address)
                 : "memory");
}
__device__ __forceinline__ void load_matrices_transposed(u32 (&out)[4], u32 address) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3])
                 : "r"(address)
                 : "memory");
}

// c (16, 8) += a (16, 16) b (16, 8).
__device__ __forceinline__ void multiply_accumulate(float (&c)[4], const u32 (&a)[4], u32 b0, u32 b1) {
#if defined(ELEMENT_BF16)
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};"
#else
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};"
#endif
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// 2^x to two units in the last place; 0 at minus infinity.
__device__ __forceinline__ float exp2_approximate(float x) {
    float out;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(out) : "f"(x));
    return out;
}

constexpr float LOG2_E = 1.4426950408889634f;
constexpr float LN_2 = 0.6931471805599453f;
__device__ __forceinline__ float minus_infinity() { return __int_as_float(0xff800000); }

// An enumerator is no variable on the card, which the code would carry.
#if defined(MASKED)
enum : bool { IS_MASKED = true };
#define STARTS_PARAMETER const u32 *starts,
#define STARTS starts
#else
enum : bool { IS_MASKED = false };
#define STARTS_PARAMETER
#define STARTS nullptr
#endif

// The first key that each of the T queries of a row sees, 0 unless IS_MASKED. Queries past T see what the last one does.
struct Starts {
    const u32* of_row;
    int T;
    __device__ __forceinline__ int operator()(int query) const { return IS_MASKED ? (int)of_row[min(query, T - 1)] : 0; }
};
// Those of row `b` of (B, T).
__device__ __forceinline__ Starts starts_of(const u32* starts, int b, int T) { return {starts + (u64)b * T, T}; }

// What maxima of scores begin at. It is finite if IS_MASKED: a query may see no key of the first tile that its warp visits,
// whose scores, all minus infinity, must still lie below the maximum.
__device__ __forceinline__ float lowest_maximum() { return IS_MASKED ? -3.402823466e38f : minus_infinity(); }

// Hides the scores of keys before the starts of queries: rows are from `first_row` on, columns from `first_column` on.
template <bool ROWS_ARE_KEYS, int COLUMNS>
__device__ __forceinline__ void hide_past(float (&s)[COLUMNS][4], Starts starts, int first_row, int first_column) {
    int row = first_row + threadIdx.x % 32 / 4, column = first_column + threadIdx.x % 4 * 2;
#pragma unroll
    for (int i = 0; i < 4 * COLUMNS; i++) {
        int at_row = row + i % 4 / 2 * 8, at_column = column + i / 4 * 8 + i % 2;
        if (ROWS_ARE_KEYS ? at_row < starts(at_column) : at_column < starts(at_row)) s[i / 4][i % 4] = minus_infinity();
    }
}

// Rows a block owns, and rows of the tiles streamed past them.
constexpr int OWNED = 128;
constexpr int STREAMED = 64;

// How a head size is laid out.
template <int HS>
struct Layout {
    static_assert(HS == 32 || HS == 64 || HS == 128, "other head sizes take the generic path");
    // Groups of 16 rows a warp owns: two, unless the accumulators of a wide head would not fit the registers.
    static constexpr int GROUPS = HS <= 64 ? 2 : 1;
    static constexpr int WARPS = OWNED / (16 * GROUPS);
    static constexpr int THREADS = 32 * WARPS;
    static constexpr int BLOCKS = HS <= 64 ? 2 : 1;
    static constexpr int STEPS = HS / 16;
    static constexpr int PIECES = HS / VEC;
    static constexpr u32 ROW = HS * sizeof(E);
    static constexpr u32 OWNED_BYTES = OWNED * ROW;
    static constexpr u32 STREAMED_BYTES = STREAMED * ROW;
    static constexpr float SCALE = HS == 32 ? 0.17677669529663687f : HS == 64 ? 0.125f : 0.08838834764831845f;
};

// Where 16-byte piece `piece` of row `row` lies in a tile. Eight rows span all banks; two 64-byte rows share a line.
template <int HS>
__device__ __forceinline__ u32 swizzled(int row, int piece) {
    return row * Layout<HS>::ROW + ((piece ^ (HS == 32 ? row >> 1 & 3 : row & 7)) << 4);
}

// This lane's address for the 16 rows and 16 columns in the corner of a tile, as four matrices: down first, which suits
// left operands and, transposed, right ones; or across first, which suits right operands whose rows are their columns.
// A product wants the two registers of its right operand side by side.
template <int HS>
__device__ __forceinline__ u32 corner_down(u32 tile) {
    int lane = threadIdx.x % 32;
    return tile + swizzled<HS>(lane % 16, lane / 16);
}
template <int HS>
__device__ __forceinline__ u32 corner_across(u32 tile) {
    int lane = threadIdx.x % 32;
    return tile + swizzled<HS>(lane / 16 * 8 + lane % 8, lane / 8 % 2);
}

// The same for the square `rows` x 16 rows down and `columns` x 16 columns to the right of `corner`.
template <int HS>
__device__ __forceinline__ u32 square(u32 corner, int rows, int columns) {
    return (corner ^ (columns << 5)) + rows * 16 * Layout<HS>::ROW;
}

// Begins to copy rows first .. first + ROWS of a matrix of `count` rows, those past its end as zeros.
template <int HS, int ROWS>
__device__ __forceinline__ void copy_rows(u32 tile, const E* matrix, u64 stride, int first, int count) {
    using L = Layout<HS>;
    constexpr int ROWS_AT_ONCE = L::THREADS / L::PIECES;
    int row = threadIdx.x / L::PIECES, piece = threadIdx.x % L::PIECES;
    const E* from = matrix + (first + row) * stride + piece * VEC;
#pragma unroll
    for (int i = 0; i < ROWS / ROWS_AT_ONCE; i++) {
        int at = row + i * ROWS_AT_ONCE;
        copy_async_16(tile + swizzled<HS>(at, piece), from + i * ROWS_AT_ONCE * stride, first + at < count);
    }
}

// The left fragments of the 16 rows at `corner`, for every step along the head.
template <int HS>
__device__ __forceinline__ void load_fragments(u32 (&out)[Layout<HS>::STEPS][4], u32 corner, int rows) {
#pragma unroll
    for (int step = 0; step < Layout<HS>::STEPS; step++) load_matrices(out[step], square<HS>(corner, rows, step));
}

// Writes the rows that this warp owns, times `factor`, to matrix rows first .. count, by way of `staging`, a tile whose
// rows of this warp no one else uses.
template <int HS>
__device__ __forceinline__ void store_rows(E* matrix, u64 stride, int first, int count,
                                           const float (&x)[Layout<HS>::GROUPS][HS / 8][4],
                                           const float (&factor)[Layout<HS>::GROUPS][2], char* staging) {
    using L = Layout<HS>;
    int lane = threadIdx.x % 32, owned = threadIdx.x / 32 * 16 * L::GROUPS;
#pragma unroll
    for (int group = 0; group < L::GROUPS; group++) {
#pragma unroll
        for (int half = 0; half < 2; half++) {
            int row = owned + group * 16 + half * 8 + lane / 4;
#pragma unroll
            for (int column = 0; column < HS / 8; column++) {
                const float* pair = x[group][column] + 2 * half;
                *(u32*)(staging + swizzled<HS>(row, column) + lane % 4 * 4) =
                    pack2(pair[0] * factor[group][half], pair[1] * factor[group][half]);
            }
        }
    }
    __syncwarp();
    constexpr int ROWS_AT_ONCE = 32 / L::PIECES;
    int piece = lane % L::PIECES;
#pragma unroll
    for (int i = 0; i < 16 * L::GROUPS / ROWS_AT_ONCE; i++) {
        int row = owned + i * ROWS_AT_ONCE + lane / L::PIECES;
        Vec value = *(const Vec*)(staging + swizzled<HS>(row, piece));
        if (first + row < count) *(Vec*)(matrix + (first + row) * stride + piece * VEC) = value;
    }
    __syncwarp();
}

// Dropout of one head: element (i, j) of its mask has index i T + j. The draws are those of `mix` in fewer steps, since
// integers, not products, are the limit where there is dropout: the first multiplication is distributed over i T + j,
// and x ^= x >> 16 is linear in xor, so that what it does to the key is done once.
struct Mask {
    static constexpr u32 SPREAD = 0x9e3779b1u;
    u32 low, high, threshold, row;
    float scale_of_kept;
    __device__ __forceinline__ bool keeps(int i, int j) const {
        u32 x = (u32)i * row + (u32)j * SPREAD;
        x = x ^ x >> 16 ^ low;
        x *= 0x7feb352du;
        x ^= x >> 15;
        x *= 0x846ca68bu;
        x = x ^ x >> 16 ^ high;
        x *= 0x7feb352du;
        x ^= x >> 15;
        return x >= threshold;
    }
};

__device__ __forceinline__ Mask mask_of(u64 key, int threshold, float scale_of_kept, int T, int slice) {
    u64 head = slice_key(key, slice);
    u32 low = (u32)head, high = (u32)(head >> 32);
    // `mix` compares 24 bits: shifted up, the threshold compares with all 32.
    return {low ^ low >> 16, high ^ high >> 16, (u32)threshold << 8, (u32)T * Mask::SPREAD, scale_of_kept};
}

// Attention of OWNED queries from `first` on. Query i sees keys starts(i) ..= offset + i; `offset` is 0 if IS_MASKED. `lse`
// may be null.
template <int HS, bool DROPOUT>
__device__ __forceinline__ void flash_forward(E* out, float* lse, const E* q, const E* k, const E* v, u64 out_stride,
                                              u64 q_stride, u64 kv_stride, Starts starts, int queries, int offset,
                                              int first, Mask mask) {
    using L = Layout<HS>;
    extern __shared__ __align__(1024) char tiles[];
    u32 q_tile = shared_address(tiles);
    auto k_tile = [&](int tile) { return q_tile + L::OWNED_BYTES + tile % 2 * 2 * L::STREAMED_BYTES; };
    int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    int keys = offset + queries;
    int warp_first = first + warp * 16 * L::GROUPS;
    int first_tile = starts(first) / STREAMED;
    int key_tiles = (offset + min(first + OWNED, queries) + STREAMED - 1) / STREAMED;
    int warp_start = starts(warp_first), warp_last_start = starts(warp_first + 16 * L::GROUPS - 1);

    copy_rows<HS, OWNED>(q_tile, q, q_stride, first, queries);
    copy_rows<HS, STREAMED>(k_tile(first_tile), k, kv_stride, first_tile * STREAMED, keys);
    copy_rows<HS, STREAMED>(k_tile(first_tile) + L::STREAMED_BYTES, v, kv_stride, first_tile * STREAMED, keys);
    copy_async_commit();

    u32 q_fragments[L::GROUPS][L::STEPS][4];
    float o[L::GROUPS][HS / 8][4] = {};
    float row_max[L::GROUPS][2], row_sum[L::GROUPS][2];
#pragma unroll
    for (int group = 0; group < L::GROUPS; group++) {
        row_max[group][0] = row_max[group][1] = lowest_maximum();
        row_sum[group][0] = row_sum[group][1] = 0.0f;
    }

    for (int tile = first_tile; tile < key_tiles; tile++) {
        copy_async_wait<0>();
        __syncthreads();
        if (tile == first_tile) {
#pragma unroll
            for (int group = 0; group < L::GROUPS; group++)
                load_fragments<HS>(q_fragments[group], corner_down<HS>(q_tile), warp * L::GROUPS + group);
        }
        if (tile + 1 < key_tiles) {
            int next = (tile + 1) * STREAMED;
            copy_rows<HS, STREAMED>(k_tile(tile + 1), k, kv_stride, next, keys);
            copy_rows<HS, STREAMED>(k_tile(tile + 1) + L::STREAMED_BYTES, v, kv_stride, next, keys);
            copy_async_commit();
        }
        int first_key = tile * STREAMED;
        // The whole tile is in the future of this warp's queries.
        if (first_key > offset + warp_first + 16 * L::GROUPS - 1) continue;
        // Or before what any of them sees.
        if (IS_MASKED && first_key + STREAMED <= warp_start) continue;

        u32 k_corner = corner_across<HS>(k_tile(tile));
        u32 v_corner = corner_down<HS>(k_tile(tile) + L::STREAMED_BYTES);
        float s[L::GROUPS][STREAMED / 8][4] = {};
#pragma unroll
        for (int step = 0; step < L::STEPS; step++) {
#pragma unroll
            for (int square_of_keys = 0; square_of_keys < STREAMED / 16; square_of_keys++) {
                u32 b[4];
                load_matrices(b, square<HS>(k_corner, square_of_keys, step));
#pragma unroll
                for (int group = 0; group < L::GROUPS; group++) {
                    multiply_accumulate(s[group][2 * square_of_keys], q_fragments[group][step], b[0], b[1]);
                    multiply_accumulate(s[group][2 * square_of_keys + 1], q_fragments[group][step], b[2], b[3]);
                }
            }
        }
        if (first_key + STREAMED - 1 > offset + warp_first) {
#pragma unroll
            for (int group = 0; group < L::GROUPS; group++) {
#pragma unroll
                for (int column = 0; column < STREAMED / 8; column++) {
#pragma unroll
                    for (int i = 0; i < 4; i++) {
                        int row = offset + warp_first + group * 16 + i / 2 * 8 + lane / 4;
                        int key = first_key + column * 8 + lane % 4 * 2 + i % 2;
                        if (key > row) s[group][column][i] = minus_infinity();
                    }
                }
            }
        }

        if (IS_MASKED && first_key < warp_last_start) {
#pragma unroll
            for (int group = 0; group < L::GROUPS; group++)
                hide_past<false>(s[group], starts, warp_first + group * 16, first_key);
        }

        // Unless IS_MASKED, every query sees key 0, so the maximum is finite from the first tile on.
        constexpr float SCALE = L::SCALE * LOG2_E;
#pragma unroll
        for (int group = 0; group < L::GROUPS; group++) {
#pragma unroll
            for (int half = 0; half < 2; half++) {
                float top = minus_infinity();
#pragma unroll
                for (int column = 0; column < STREAMED / 8; column++)
                    top = fmaxf(top, fmaxf(s[group][column][2 * half], s[group][column][2 * half + 1]));
                top = fmaxf(top, __shfl_xor_sync(FULL_WARP, top, 1));
                top = fmaxf(top, __shfl_xor_sync(FULL_WARP, top, 2));
                top = fmaxf(row_max[group][half], top * SCALE);
                float shrink = exp2_approximate(row_max[group][half] - top);
                row_max[group][half] = top;
                float sum = 0.0f;
#pragma unroll
                for (int column = 0; column < STREAMED / 8; column++) {
#pragma unroll
                    for (int i = 2 * half; i < 2 * half + 2; i++) {
                        float p = exp2_approximate(fmaf(s[group][column][i], SCALE, -top));
                        sum += p;
                        if (DROPOUT) {
                            int row = offset + warp_first + group * 16 + half * 8 + lane / 4;
                            int key = first_key + column * 8 + lane % 4 * 2 + i % 2;
                            p = mask.keeps(row, key) ? p : 0.0f;
                        }
                        s[group][column][i] = p;
                    }
                }
                row_sum[group][half] = row_sum[group][half] * shrink + sum;
#pragma unroll
                for (int column = 0; column < HS / 8; column++) {
                    o[group][column][2 * half] *= shrink;
                    o[group][column][2 * half + 1] *= shrink;
                }
            }
        }

#pragma unroll
        for (int step = 0; step < STREAMED / 16; step++) {
            u32 p[L::GROUPS][4];
#pragma unroll
            for (int group = 0; group < L::GROUPS; group++) {
#pragma unroll
                for (int i = 0; i < 4; i++) {
                    const float* pair = s[group][2 * step + i / 2] + i % 2 * 2;
                    p[group][i] = pack2(pair[0], pair[1]);
                }
            }
#pragma unroll
            for (int columns = 0; columns < L::STEPS; columns++) {
                u32 b[4];
                load_matrices_transposed(b, square<HS>(v_corner, step, columns));
#pragma unroll
                for (int group = 0; group < L::GROUPS; group++) {
                    multiply_accumulate(o[group][2 * columns], p[group], b[0], b[1]);
                    multiply_accumulate(o[group][2 * columns + 1], p[group], b[2], b[3]);
                }
            }
        }
    }

    float factor[L::GROUPS][2];
#pragma unroll
    for (int group = 0; group < L::GROUPS; group++) {
#pragma unroll
        for (int half = 0; half < 2; half++) {
            float sum = row_sum[group][half];
            sum += __shfl_xor_sync(FULL_WARP, sum, 1);
            sum += __shfl_xor_sync(FULL_WARP, sum, 2);
            factor[group][half] = (DROPOUT ? mask.scale_of_kept : 1.0f) / sum;
            int row = warp_first + group * 16 + half * 8 + lane / 4;
            if (lse && lane % 4 == 0 && row < queries) lse[row] = row_max[group][half] * LN_2 + logf(sum);
        }
    }
    // Only this warp has read its rows of the tile of queries, and they are in registers.
    store_rows<HS>(out, out_stride, first, queries, o, factor, tiles);
}

// Sets out (B, T, C) and lse (B, NH, T); starts (B, T). Grid (B NH, ceil(T / OWNED)), THREADS threads.
template <int HS>
__device__ __forceinline__ void flash_forward_kernel(E* out, float* lse, const E* qkv, const u32* starts, int T, int NH,
                                                     u64 key, int threshold, float scale_of_kept) {
    // The last queries see the most keys: they go first.
    int first = (gridDim.y - 1 - blockIdx.y) * OWNED;
    int b = blockIdx.x / NH, h = blockIdx.x % NH;
    u64 channels = (u64)NH * HS;
    const E* q = qkv + (u64)b * T * 3 * channels + h * HS;
    out += (u64)b * T * channels + h * HS;
    lse += (u64)blockIdx.x * T;
    Starts starts_of_row = starts_of(starts, b, T);
    Mask mask = mask_of(key, threshold, scale_of_kept, T, blockIdx.x);
    if (threshold == 0)
        flash_forward<HS, false>(out, lse, q, q + channels, q + 2 * channels, channels, 3 * channels, 3 * channels,
                                 starts_of_row, T, 0, first, mask);
    else
        flash_forward<HS, true>(out, lse, q, q + channels, q + 2 * channels, channels, 3 * channels, 3 * channels,
                                starts_of_row, T, 0, first, mask);
}

// Sets out (B, new, C) from the queries of qkv (B, new, 3C) and caches that already hold the new keys and values.
// Grid (B NH, ceil(new / OWNED)), THREADS threads.
template <int HS>
__device__ __forceinline__ void flash_cached_kernel(E* out, const E* keys, const E* values, const E* qkv, int fresh,
                                                    int cached, int capacity, int NH) {
    int first = (gridDim.y - 1 - blockIdx.y) * OWNED;
    int b = blockIdx.x / NH, h = blockIdx.x % NH;
    u64 channels = (u64)NH * HS, cache = (u64)blockIdx.x * capacity * HS;
    const E* q = qkv + (u64)b * fresh * 3 * channels + h * HS;
    out += (u64)b * fresh * channels + h * HS;
    flash_forward<HS, false>(out, nullptr, q, keys + cache, values + cache, channels, 3 * channels, HS, Starts{},
                             fresh, cached, first, Mask{});
}

// The head size is known when these are compiled. The backward pass is compiled beside this file and needs neither again.
#if defined(HEAD_SIZE) && !defined(FLASH_BACKWARD_ONLY)
extern "C" __global__ void __launch_bounds__(Layout<HEAD_SIZE>::THREADS, Layout<HEAD_SIZE>::BLOCKS)
    flash_forward(E* out, float* lse, const E* qkv, STARTS_PARAMETER int T, int NH, u64 key, int threshold,
                  float scale_of_kept) {
    flash_forward_kernel<HEAD_SIZE>(out, lse, qkv, STARTS, T, NH, key, threshold, scale_of_kept);
}
// A cache belongs to one document.
#if !defined(MASKED)
extern "C" __global__ void __launch_bounds__(Layout<HEAD_SIZE>::THREADS, Layout<HEAD_SIZE>::BLOCKS)
    flash_cached(E* out, const E* keys, const E* values, const E* qkv, int fresh, int cached, int capacity, int NH) {
    flash_cached_kernel<HEAD_SIZE>(out, keys, values, qkv, fresh, cached, capacity, NH);
}
#endif
#endif

#endif
