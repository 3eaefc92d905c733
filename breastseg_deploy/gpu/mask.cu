// logits_to_mask: logits to a mask, and on request to probabilities.
//
//   logits       (count) float, or half as its bits with -DHALF_LOGITS.
//   mask         (count) unsigned char: 1 where sigmoid(logit) >= threshold in float32, else 0.
//   probability  (count) float sigmoid(logit), or null.
//   not_finite   one int, set to 1 where a logit is NaN or infinite (its pixel would look like any other in the mask);
//                the caller clears it before.
//   grid (ceil(count / 256)), block 256.

#ifdef HALF_LOGITS
typedef unsigned short Logit;
#ifndef CUDA_CPU  // The CPU test harness brings its own twin of this instruction.
__device__ __forceinline__ float float_of(unsigned short half) {
    float value;
    asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(half));
    return value;
}
#endif
#else
typedef float Logit;
__device__ __forceinline__ float float_of(float value) { return value; }
#endif

extern "C" __global__ void __launch_bounds__(256)
logits_to_mask(const Logit* __restrict__ logits, unsigned char* __restrict__ mask, float* __restrict__ probability,
               int* not_finite, long long count, float threshold) {
    const long long i = blockIdx.x * (long long)blockDim.x + threadIdx.x;
    if (i >= count) return;
    const float logit = float_of(logits[i]);
    if (!isfinite(logit)) atomicOr(not_finite, 1);
    const float found = 1.f / (1.f + expf(-logit));
    mask[i] = found >= threshold;
    if (probability) probability[i] = found;
}
