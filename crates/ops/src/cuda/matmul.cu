// The matrix product as plainly as it can be tiled: for sizes that cuBLASLt has no algorithm for, and to test against.

template <typename O> __device__ __forceinline__ O narrow(float x);
template <> __device__ __forceinline__ float narrow<float>(float x) { return x; }
#if !defined(ELEMENT_F32)
template <> __device__ __forceinline__ E narrow<E>(float x) { return from_f32(x); }
__device__ __forceinline__ float widen(E x) { return to_f32(x); }
#endif
__device__ __forceinline__ float widen(float x) { return x; }

constexpr int TILE = 16;

// d (m, n) = op(a) op(b) + beta c, column-major; columns of b and of d lie as far apart as their strides say. A block of 16 x 16 threads makes a tile of 16 x 16.
template <typename O>
__device__ __forceinline__ void product(O* d, const O* c, const E* a, const E* b, int m, int n, int k, int transpose_a,
                                        int transpose_b, int accumulate, int stride_b, int stride_d) {
    __shared__ float tile_a[TILE][TILE + 1], tile_b[TILE][TILE + 1];
    const int i = threadIdx.x % TILE, j = threadIdx.x / TILE;
    const int row = blockIdx.y * TILE + i, col = blockIdx.x * TILE + j;
    float sum = 0.0f;
    for (int start = 0; start < k; start += TILE) {
        const int ka = start + j, kb = start + i;
        const u64 index_a = transpose_a ? (u64)row * k + ka : (u64)ka * m + row;
        const u64 index_b = transpose_b ? (u64)kb * stride_b + col : (u64)col * stride_b + kb;
        tile_a[j][i] = row < m && ka < k ? to_f32(a[index_a]) : 0.0f;
        tile_b[j][i] = col < n && kb < k ? to_f32(b[index_b]) : 0.0f;
        __syncthreads();
        for (int x = 0; x < TILE; ++x) sum += tile_a[x][i] * tile_b[j][x];
        __syncthreads();
    }
    if (row < m && col < n) {
        const u64 index = (u64)col * stride_d + row;
        d[index] = narrow<O>(accumulate ? sum + widen(c[index]) : sum);
    }
}

extern "C" __global__ void matmul(E* d, const E* c, const E* a, const E* b, int m, int n, int k, int transpose_a,
                                  int transpose_b, int accumulate, int stride_b, int stride_d) {
    product<E>(d, c, a, b, m, n, k, transpose_a, transpose_b, accumulate, stride_b, stride_d);
}

extern "C" __global__ void matmul_wide(float* d, const float* c, const E* a, const E* b, int m, int n, int k,
                                       int transpose_a, int transpose_b, int accumulate, int stride_b, int stride_d) {
    product<float>(d, c, a, b, m, n, k, transpose_a, transpose_b, accumulate, stride_b, stride_d);
}
