// edge_tensor: frames to the network's normalised 4-channel tensor, in one launch.
//
//   frames  (N, H, W, CHANNELS) FRAME, contiguous; R, G, B, or one grey channel that stands for all three. H, W >= 32.
//   bank    (groups, 2, 8, 4, 32) uint4: the folded kernels as operands of the matrix unit, see bank.py.
//   tensor  (N, 4, H, W) float, or half as its bits with -DHALF_OUTPUT: the colours, v * scale - shift, and the edge
//           channel.
//   white   for 16-bit frames, the value that becomes 255, rounded as contract.py does; over_range then takes the
//           largest value over white (it stays as it is where there is none). Both are unused for 8-bit frames.
//   grid (ceil(W / 32), ceil(H / 16), N), block 128.
//   -DFRAME=unsigned char | unsigned short, -DCHANNELS=1 | 3, -DCOLOUR_SCALE=a,b,c -DCOLOUR_SHIFT=a,b,c [-DHALF_OUTPUT]
//
// The edge channel is the largest of K correlations of the luma with even kernels of 31 x 31 (gabor.py).
//   Folding. Where a kernel is even, k(x, y) = k(-x, -y), its response is a sum over one quadrant of
//     E(x, y) e + O(x, y) o,  e, o = v(x) +- v(-x) with v(x) = f(x, y) +- f(x, -y),  E, O = (k(x, y) +- k(-x, y)) / 2.
//   The kernel turned to 180 degrees - theta has the same E and the opposite O. So one slot (E, O) stands for two
//   filters, and the larger of the two is E e + |O o|. The paper's bank has 15 slots over 256 taps, for 24 filters
//   over 961.
//   Matrix unit. Rows are 16 pixels of an image column, columns are 8 slots, k is 8 values of y for each of two x. The
//   operands are halves, exactly: 1000 * luma = 299 R + 587 G + 114 B is an integer below 2^18, split into high = bits
//   9 and up, low = the bits below / 512. Sums of four of either need 11 bits, which is what a half has. Coefficients
//   are split into two halves, and high * K + high * remainder + low * K is summed in float32. Without the remainder,
//   the error is 3e-5.
//   A lane holds 2 rows and 2 neighbouring y for each of 2 x. It slides two windows of 5 columns outwards from the
//   middle, so that each column is read and folded once for 4 pixels.

#ifndef CUDA_CPU  // The CPU test harness brings its own twins of these instructions.
__device__ __forceinline__ unsigned short half_of(float value) {
    unsigned short bits;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(value));
    return bits;
}
__device__ __forceinline__ unsigned pack_halves(float low, float high) {
    unsigned pair;
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
    return pair;
}
__device__ __forceinline__ unsigned add_halves(unsigned a, unsigned b) {
    unsigned sum;
    asm("add.rn.f16x2 %0, %1, %2;" : "=r"(sum) : "r"(a), "r"(b));
    return sum;
}
__device__ __forceinline__ unsigned subtract_halves(unsigned a, unsigned b) {
    unsigned difference;
    asm("sub.rn.f16x2 %0, %1, %2;" : "=r"(difference) : "r"(a), "r"(b));
    return difference;
}
__device__ __forceinline__ void mma_m16n8k16(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 "
        "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
#endif

#ifdef HALF_OUTPUT
typedef unsigned short Output;
__device__ __forceinline__ Output to_output(float value) { return half_of(value); }
#else
typedef float Output;
__device__ __forceinline__ Output to_output(float value) { return value; }
#endif

#define RADIUS 15
#define ROWS 16     // of a block's tile: the rows of a matrix operand
#define COLUMNS 32  // of a block's tile
#define WARPS 4
#define WIDE 4  // neighbouring pixels of a warp
#define SEEN_ROWS (ROWS + 2 * RADIUS)
#define SEEN_COLUMNS (COLUMNS + 2 * RADIUS)
#define PAIRS (ROWS + RADIUS - 1)  // rows of pairs below, and as many above
#define STRIDE (SEEN_COLUMNS + 1)  // odd: rows of 8-byte pairs fall into different banks

// Pairs of vertical neighbours, going away from the tile's pixels: (f(r), f(r + 1)) below, (f(r), f(r - 1)) above.
struct Tile {
    uint2 below[PAIRS][STRIDE];  // x: two high parts, y: two low parts; row 0 is the tile's row 0
    uint2 above[PAIRS][STRIDE];  // row RADIUS - 1 is the tile's row 0
};

// v of one column, for this lane's two rows.
struct Folded {
    unsigned even_high[2], even_low[2], odd_high[2], odd_low[2];
};

__device__ __forceinline__ int reflected(int at, int side) {
    at = at < 0 ? -at : at;
    at = at >= side ? 2 * (side - 1) - at : at;
    return max(at, 0);  // beyond a partial tile: any pixel will do, nothing is kept of it
}

__device__ __forceinline__ unsigned eight_bit(FRAME value, unsigned white) {
    return sizeof(FRAME) == 1 ? value : min((value * 255u + white / 2) / white, 255u);
}

__device__ __forceinline__ unsigned thousand_luma(const FRAME* pixel, unsigned white) {
    if (CHANNELS == 1) return 1000 * eight_bit(__ldg(pixel), white);
    return 299 * eight_bit(__ldg(pixel), white) + 587 * eight_bit(__ldg(pixel + 1), white) +
           114 * eight_bit(__ldg(pixel + 2), white);
}

// Two threads to a column: each walks down its half and stores every pair of neighbours once for each direction.
__device__ __forceinline__ void fill(Tile& tile, const FRAME* frame, int row0, int column0, int height, int width,
                                     unsigned white) {
    const int column = threadIdx.x % 64, half = threadIdx.x / 64;
    if (column >= SEEN_COLUMNS) return;
    const FRAME* pixels = frame + reflected(column0 - RADIUS + column, width) * CHANNELS;
    const int first = half ? SEEN_ROWS / 2 - 1 : 0, last = half ? SEEN_ROWS - 1 : SEEN_ROWS / 2 - 1;
    float high_before = 0, low_before = 0;
#pragma unroll 8
    for (int k = first; k <= last; ++k) {
        const int row = reflected(row0 - RADIUS + k, height);
        const unsigned luma = thousand_luma(pixels + (size_t)row * width * CHANNELS, white);
        const float high = (float)(luma >> 9), low = (float)(luma & 511) * (1.f / 512);
        if (k > first && k >= RADIUS + 1)
            tile.below[k - RADIUS - 1][column] =
                make_uint2(pack_halves(high_before, high), pack_halves(low_before, low));
        if (k > first && k <= PAIRS)
            tile.above[k - 1][column] = make_uint2(pack_halves(high, high_before), pack_halves(low, low_before));
        high_before = high;
        low_before = low;
    }
}

__device__ __forceinline__ Folded fold(const uint2* below, const uint2* above, int column) {
    Folded v;
#pragma unroll
    for (int i = 0; i < 2; ++i) {
        const uint2 b = below[i * 8 * STRIDE + column], a = above[i * 8 * STRIDE + column];
        v.even_high[i] = add_halves(b.x, a.x);
        v.even_low[i] = add_halves(b.y, a.y);
        v.odd_high[i] = subtract_halves(b.x, a.x);
        v.odd_low[i] = subtract_halves(b.y, a.y);
    }
    return v;
}

// d += a k, for the two tiles of 8 slots that lie in one uint4.
__device__ __forceinline__ void multiply(float (&d)[2][4], const unsigned (&a)[4], const uint4& k) {
    const unsigned first[2] = {k.x, k.y}, second[2] = {k.z, k.w};
    mma_m16n8k16(d[0], a, first);
    mma_m16n8k16(d[1], a, second);
}

// Responses of one group of 16 slots for 16 rows x WIDE columns; `largest` keeps the largest of this lane's slots.
__device__ __forceinline__ void correlate(float (&largest)[WIDE][2], const uint2* below, const uint2* above,
                                          const uint4* bank) {
    float even[WIDE][2][4] = {}, odd[WIDE][2][4] = {};
#pragma unroll 1
    for (int far = 0; far < 2; ++far) {  // y = 0..7, then y = 8..15
        Folded right[WIDE + 1], left[WIDE + 1];  // columns 2 s + i, and -2 s - 1 + i
#pragma unroll
        for (int i = 0; i <= WIDE; ++i) right[i] = fold(below, above, i);
        left[0] = fold(below, above, -1);
#pragma unroll
        for (int i = 1; i <= WIDE; ++i) left[i] = right[i - 1];
#pragma unroll
        for (int s = 0; s < 8; ++s) {  // x = 2 s and 2 s + 1
            const uint4 even_high = __ldg(bank), even_low = __ldg(bank + 32);
            const uint4 odd_high = __ldg(bank + 64), odd_low = __ldg(bank + 96);
            bank += 128;
#pragma unroll
            for (int j = 0; j < WIDE; ++j) {
                unsigned e_high[4], e_low[4], o_high[4], o_low[4];
#pragma unroll
                for (int i = 0; i < 4; ++i) {
                    const Folded &r = right[j + i / 2], &l = left[j + 1 - i / 2];
                    e_high[i] = add_halves(r.even_high[i % 2], l.even_high[i % 2]);
                    o_high[i] = subtract_halves(r.odd_high[i % 2], l.odd_high[i % 2]);
                    e_low[i] = add_halves(r.even_low[i % 2], l.even_low[i % 2]);
                    o_low[i] = subtract_halves(r.odd_low[i % 2], l.odd_low[i % 2]);
                }
                multiply(even[j], e_high, even_high);
                multiply(odd[j], o_high, odd_high);
                multiply(even[j], e_high, even_low);
                multiply(odd[j], o_high, odd_low);
                multiply(even[j], e_low, even_high);
                multiply(odd[j], o_low, odd_high);
            }
            if (s < 7) {
#pragma unroll
                for (int i = 0; i < WIDE - 1; ++i) {
                    right[i] = right[i + 2];
                    left[WIDE - i] = left[WIDE - i - 2];
                }
                right[WIDE - 1] = fold(below, above, 2 * s + WIDE + 1);
                right[WIDE] = fold(below, above, 2 * s + WIDE + 2);
                left[1] = fold(below, above, -2 * s - 2);
                left[0] = fold(below, above, -2 * s - 3);
            }
        }
        below += 8 * STRIDE;
        above -= 8 * STRIDE;
    }
#pragma unroll
    for (int j = 0; j < WIDE; ++j)
#pragma unroll
        for (int i = 0; i < 8; ++i)
            largest[j][i / 4] = fmaxf(largest[j][i / 4], even[j][i % 4 / 2][i / 4 * 2 + i % 2] +
                                                             fabsf(odd[j][i % 4 / 2][i / 4 * 2 + i % 2]));
}

extern "C" __global__ void __launch_bounds__(WARPS * 32, 2)
edge_tensor(const FRAME* __restrict__ frames, const uint4* __restrict__ bank, Output* __restrict__ tensor, int height,
            int width, int groups, float edge_scale, unsigned white, unsigned* over_range) {
    __shared__ Tile tile;
    const float scale[3] = {COLOUR_SCALE}, shift[3] = {COLOUR_SHIFT};
    const size_t plane = (size_t)height * width;
    const FRAME* frame = frames + blockIdx.z * plane * CHANNELS;
    Output* planes = tensor + blockIdx.z * plane * 4;
    const int row0 = blockIdx.y * ROWS, column0 = blockIdx.x * COLUMNS;

    fill(tile, frame, row0, column0, height, width, white);
#pragma unroll
    for (int i = 0; i < ROWS / WARPS; ++i) {
        const int row = row0 + i * WARPS + threadIdx.x / 32, column = column0 + threadIdx.x % 32;
        if (row >= height || column >= width) continue;
        const size_t at = (size_t)row * width + column;
#pragma unroll
        for (int channel = 0; channel < 3; ++channel) {
            const FRAME value = __ldg(frame + at * CHANNELS + channel % CHANNELS);
            if (sizeof(FRAME) == 2 && value > white) atomicMax(over_range, (unsigned)value);
            planes[channel * plane + at] = to_output(eight_bit(value, white) * scale[channel] - shift[channel]);
        }
    }
    __syncthreads();  // the tile is whole

    const int lane = threadIdx.x % 32, group = lane / 4, quad = lane % 4;
#pragma unroll 1
    for (int first = threadIdx.x / 32 * WIDE; first < COLUMNS; first += WARPS * WIDE) {
        if (column0 + first >= width) break;  // the same for the whole warp
        float largest[WIDE][2];
#pragma unroll
        for (int i = 0; i < 2 * WIDE; ++i) largest[i / 2][i % 2] = -3.4e38f;
#pragma unroll 1
        for (int k = 0; k < groups; ++k)
            correlate(largest, &tile.below[group + 2 * quad][first + RADIUS],
                      &tile.above[group - 2 * quad + RADIUS - 1][first + RADIUS], bank + k * 2048 + lane);
        const int column = column0 + first + quad;  // lane `quad` of the four that share a row keeps pixel `quad`
#pragma unroll
        for (int i = 0; i < 2; ++i) {
            float mine = 0;
#pragma unroll
            for (int j = 0; j < WIDE; ++j) {
                float value = largest[j][i];
                value = fmaxf(value, __shfl_xor_sync(0xffffffffu, value, 1));
                value = fmaxf(value, __shfl_xor_sync(0xffffffffu, value, 2));
                mine = j == quad ? value : mine;
            }
            const int row = row0 + group + i * 8;
            if (row < height && column < width)
                planes[3 * plane + (size_t)row * width + column] = to_output(mine * edge_scale);
        }
    }
}
