// GELU in the form that GPT-2 has, x sigmoid(2u) with u = sqrt(2 / pi) (x + 0.044715 x^3), and its derivative.

#if defined(ELEMENT_F32)
__device__ __forceinline__ float gelu_gate(float x) {
    return 1.0f / (1.0f + expf(-1.5957691216057308f * (x + 0.044715f * x * x * x)));
}
#else
// The gates of COUNT elements, step by step: written so that a step of one does not wait for its last step before the other
// elements have been through that.
template <int COUNT>
__device__ __forceinline__ void gelu_gates(float (&gates)[COUNT], const float (&x)[COUNT]) {
    // exp(-2u) = 2^y; infinite where the gate is 0.
#pragma unroll
    for (int i = 0; i < COUNT; i++) gates[i] = x[i] * fmaf(-0.10294324f, x[i] * x[i], -2.3022082f);
#pragma unroll
    for (int i = 0; i < COUNT; i++) asm volatile("ex2.approx.ftz.f32 %0, %1;" : "=f"(gates[i]) : "f"(gates[i]));
#pragma unroll
    for (int i = 0; i < COUNT; i++) asm volatile("rcp.approx.ftz.f32 %0, %1;" : "=f"(gates[i]) : "f"(1.0f + gates[i]));
}
__device__ __forceinline__ float gelu_gate(float x) {
    const float all[1] = {x};
    float gate[1];
    gelu_gates(gate, all);
    return gate[0];
}
#endif
__device__ __forceinline__ float gelu(float x) { return x * gelu_gate(x); }
// The derivative at x, where the gate is known.
__device__ __forceinline__ float gelu_derivative(float x, float gate) {
    // The derivative of 2u. What it is multiplied by is 0 long before it overflows.
    const float slope = fmaf(0.21406445f, x * x, 1.5957691f);
    return fmaf(x * gate * (1.0f - gate), slope, gate);
}
__device__ __forceinline__ float gelu_derivative(float x) { return gelu_derivative(x, gelu_gate(x)); }

// Slopes of GELU, which lie between -0.13 and 1.13, are kept in pairs of f16 whatever E is: bf16 has three bits less for them.
__device__ __forceinline__ u32 pack_slopes(float first, float second) {
    u32 out;
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(out) : "f"(second), "f"(first));
    return out;
}
__device__ __forceinline__ float slope_of(u32 pair, int i) {
    float out;
    asm("cvt.f32.f16 %0, %1;" : "=f"(out) : "h"((u16)(pair >> 16 * i)));
    return out;
}
