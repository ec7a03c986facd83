// GELU in the form that GPT-2 has, and its derivative.

// gelu_new: x sigmoid(2u).
__device__ __forceinline__ float gelu_gate(float x) {
    const float u2 = 1.5957691216057308f * (x + 0.044715f * x * x * x);
#if defined(ELEMENT_F32)
    return 1.0f / (1.0f + expf(-u2));
#else
    return __fdividef(1.0f, 1.0f + __expf(-u2));
#endif
}
__device__ __forceinline__ float gelu(float x) { return x * gelu_gate(x); }
__device__ __forceinline__ float gelu_derivative(float x) {
    const float gate = gelu_gate(x);
    const float du2 = 1.5957691216057308f * (1.0f + 3.0f * 0.044715f * x * x);
    return gate + x * gate * (1.0f - gate) * du2;
}
