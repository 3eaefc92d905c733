// logits_to_mask: logits to a mask, and on request to probabilities.
//
//   logits       (count) float.
//   mask         (count) unsigned char: 1 where sigmoid(logit) >= threshold in float32, else 0.
//   probability  (count) float sigmoid(logit), or null.
//   not_finite   one int, set to 1 where a logit is NaN or infinite (its pixel would look like any other in the mask);
//                the caller clears it before.
//   grid (ceil(count / 256)), block 256.

extern "C" __global__ void __launch_bounds__(256)
logits_to_mask(const float* __restrict__ logits, unsigned char* __restrict__ mask, float* __restrict__ probability,
               int* not_finite, long long count, float threshold) {
    const long long i = blockIdx.x * (long long)blockDim.x + threadIdx.x;
    if (i >= count) return;
    const float logit = logits[i];
    if (!isfinite(logit)) atomicOr(not_finite, 1);
    const float found = 1.f / (1.f + expf(-logit));
    mask[i] = found >= threshold;
    if (probability) probability[i] = found;
}
