// Muon: what is done around the products of Newton-Schulz. A matrix piece is columns offset to offset + width of
// (rows, cols); X (m, n) is it, or its transpose where it is tall.

// m = mu m + g;  update = g + mu m.
extern "C" __global__ void muon_momentum(float* update, float* momentum, const float* grad, int n, float mu, float scale) {
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n) return;
    const float g = scale * grad[i], m = mu * momentum[i] + g;
    momentum[i] = m;
    update[i] = g + mu * m;
}

// piece (rows, width) = those columns of update (rows, cols).
extern "C" __global__ void muon_piece(float* piece, const float* update, int rows, int cols, int offset, int width) {
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < rows * width) piece[i] = update[i / width * cols + offset + i % width];
}

// X = piece / |piece|, transposed if `transpose`. partial has the `count` sums of squares of the piece.
extern "C" __global__ void muon_start(E* x, const float* piece, const double* partial, int count, int rows, int width,
                                      int transpose, double epsilon) {
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= rows * width) return;
    double squares = 0.0;
    for (int p = 0; p < count; ++p) squares += partial[p];
    const float factor = (float)(1.0 / (sqrt(squares) + epsilon));
    const int to = transpose ? i % width * rows + i / width : i;
    x[to] = from_f32(factor * piece[i]);
}

// a = b a + c square, element by element.
extern "C" __global__ void muon_mix(E* a, const E* square, int n, float b, float c) {
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) a[i] = from_f32(b * to_f32(a[i]) + c * to_f32(square[i]));
}

// X = a X + pushed.
extern "C" __global__ void muon_step(E* x, const float* pushed, int n, float a) {
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) x[i] = from_f32(a * to_f32(x[i]) + pushed[i]);
}

// value = keep value - scale X, in the piece's columns.
extern "C" __global__ void muon_apply(float* value, const E* x, int rows, int cols, int offset, int width, int transpose,
                                      float keep, float scale) {
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= rows * width) return;
    const int at = i / width * cols + offset + i % width, from = transpose ? i % width * rows + i / width : i;
    value[at] = keep * value[at] - scale * to_f32(x[from]);
}
