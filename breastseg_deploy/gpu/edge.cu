// edge_tensor: frames to the network's normalised 4-channel tensor, in one launch.
//
//   frames  (N, H, W, CHANNELS) FRAME, contiguous; R, G, B, or one grey channel that stands for all three. H, W >= 32.
//   bank    (groups, 16, 16) Tap by x, then y: the kernels folded to one quadrant, see bank.py.
//   tensor  (N, 4, H, W) float: the colours, v * scale - shift, and the edge channel.
//   white   for 16-bit frames, the value that becomes 255, rounded as contract.py does; over_range then takes the
//           largest value over white (it stays as it is where there is none). Both are unused for 8-bit frames.
//   grid (ceil(W / COLUMNS), ceil(H / ROWS), N), block (COLUMNS, ROWS / PIXELS).
//   -DFRAME=unsigned char | unsigned short, -DCHANNELS=1 | 3, -DCOLOUR_SCALE=a,b,c, -DCOLOUR_SHIFT=a,b,c; of a block's
//   tile -DCOLUMNS, -DROWS; of a thread's column of pixels -DPIXELS; of a kernel -DRADIUS; of a Tap -DPAIRED, -DALONE.
//
// The edge channel is the largest of K correlations of the luma with even kernels of 31 x 31 (gabor.py). Where a kernel
// is even, k(x, y) = k(-x, -y), its response is a sum over one quadrant, x and y >= 0, of E e + O o, where
//     e = f(x, y) + f(-x, y) + f(x, -y) + f(-x, -y),  E = (k(x, y) + k(-x, y)) / 2,
//     o = f(x, y) - f(-x, y) - f(x, -y) + f(-x, -y),  O = (k(x, y) - k(-x, y)) / 2.
// The kernel turned to 180 degrees - theta has the same E and the opposite O: one pair of sums serves both, and the
// larger response is sum(E e) + |sum(O o)|. At 0 and 90 degrees a kernel stands alone, and O is 0.

#define SEEN_ROWS (ROWS + 2 * RADIUS)
#define SEEN_COLUMNS (COLUMNS + 2 * RADIUS)

struct alignas(16) Tap {  // one (x, y) of every kernel of a group
    float even[PAIRED + ALONE], odd[PAIRED];
};
static_assert(sizeof(Tap) == (2 * PAIRED + ALONE) * sizeof(float), "bank.py packs taps without gaps");

__device__ __forceinline__ int reflected(int at, int side) {
    at = at < 0 ? -at : at;
    at = at >= side ? 2 * (side - 1) - at : at;
    return max(at, 0);  // beyond a partial tile: any pixel will do, nothing is kept of it
}

__device__ __forceinline__ unsigned eight_bit(FRAME value, unsigned white) {
    return sizeof(FRAME) == 1 ? value : min((value * 255u + white / 2) / white, 255u);
}

// 255,000 times the luma: an integer below 2^18, so that the sums of four in e and o are exact.
__device__ __forceinline__ float whole_luma(const FRAME* pixel, unsigned white) {
    if (CHANNELS == 1) return 1000 * eight_bit(pixel[0], white);
    return 299 * eight_bit(pixel[0], white) + 587 * eight_bit(pixel[1], white) + 114 * eight_bit(pixel[2], white);
}

extern "C" __global__ void __launch_bounds__(COLUMNS * ROWS / PIXELS, 2)
edge_tensor(const FRAME* __restrict__ frames, const Tap* __restrict__ bank, float* __restrict__ tensor, int height,
            int width, int groups, unsigned white, unsigned* over_range) {
    __shared__ float tile[SEEN_ROWS][SEEN_COLUMNS];
    const size_t plane = (size_t)height * width;
    const FRAME* frame = frames + blockIdx.z * plane * CHANNELS;
    const int row0 = blockIdx.y * ROWS, column0 = blockIdx.x * COLUMNS;

    for (int i = threadIdx.y; i < SEEN_ROWS; i += ROWS / PIXELS)
        for (int j = threadIdx.x; j < SEEN_COLUMNS; j += COLUMNS) {
            const int row = reflected(row0 - RADIUS + i, height), column = reflected(column0 - RADIUS + j, width);
            tile[i][j] = whole_luma(frame + ((size_t)row * width + column) * CHANNELS, white);
        }
    __syncthreads();  // the tile is whole

    // This thread's pixels lie one below another: the rows that one of them folds at y, its neighbour folds at y + 1. The
    // loops are unrolled for the compiler to see that, and to keep the sums in registers.
    const int first = threadIdx.y * PIXELS;
    float largest[PIXELS];
#pragma unroll
    for (int i = 0; i < PIXELS; ++i) largest[i] = -2;  // below every response
#pragma unroll 1
    for (int group = 0; group < groups; ++group) {
        float even[PIXELS][PAIRED + ALONE] = {}, odd[PIXELS][PAIRED] = {};
#pragma unroll 1
        for (int x = 0; x <= RADIUS; ++x) {
            const float* right = &tile[first + RADIUS][threadIdx.x + RADIUS + x];
            const float* left = &tile[first + RADIUS][threadIdx.x + RADIUS - x];
#pragma unroll 8
            for (int y = 0; y <= RADIUS; ++y) {
                const Tap tap = *bank++;
#pragma unroll
                for (int i = 0; i < PIXELS; ++i) {
                    const int below = (i + y) * SEEN_COLUMNS, above = (i - y) * SEEN_COLUMNS;
                    const float e = (right[below] + left[below]) + (right[above] + left[above]);
                    const float o = (right[below] - left[below]) - (right[above] - left[above]);
#pragma unroll
                    for (int k = 0; k < PAIRED + ALONE; ++k) even[i][k] += tap.even[k] * e;
#pragma unroll
                    for (int k = 0; k < PAIRED; ++k) odd[i][k] += tap.odd[k] * o;
                }
            }
        }
#pragma unroll
        for (int i = 0; i < PIXELS; ++i)
#pragma unroll
            for (int k = 0; k < PAIRED + ALONE; ++k)
                largest[i] = fmaxf(largest[i], even[i][k] + (k < PAIRED ? fabsf(odd[i][k]) : 0));
    }

    const float scale[3] = {COLOUR_SCALE}, shift[3] = {COLOUR_SHIFT};
    const int column = column0 + threadIdx.x;
#pragma unroll
    for (int i = 0; i < PIXELS; ++i) {
        const int row = row0 + first + i;
        if (row >= height || column >= width) continue;
        const size_t at = (size_t)row * width + column;
        float* pixel = tensor + blockIdx.z * plane * 4 + at;
#pragma unroll
        for (int channel = 0; channel < 3; ++channel) {
            const FRAME value = frame[at * CHANNELS + channel % CHANNELS];
            if (sizeof(FRAME) == 2 && value > white) atomicMax(over_range, (unsigned)value);
            pixel[channel * plane] = eight_bit(value, white) * scale[channel] - shift[channel];
        }
        pixel[3 * plane] = largest[i];
    }
}
