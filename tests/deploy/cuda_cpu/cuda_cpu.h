// Runs the source of a CUDA kernel on the CPU, unchanged, to test what it computes (x86-64, g++ 12 or newer). Not for
// speed.
//
// Every CUDA thread is a fiber with a stack of its own; the fibers of a block take turns on one OS thread, and the
// blocks of a grid follow one another. A fiber runs until it waits: at __syncthreads() for its block, at a warp-wide
// operation for its warp. What a GPU would let pass or hang on is an error here:
//   - threads of one block waiting at different __syncthreads(), or one that ended while the others wait;
//   - lanes of one warp at different warp-wide operations.
// A barrier that is missing shows in the values: shared memory holds the bit pattern of NaN when a block starts, and
// the fibers can be run forwards or backwards, so that a thread that reads what no barrier made ready reads rubbish.
//
// Known to the sources: threadIdx, blockIdx, blockDim, gridDim, __shared__ arrays of fixed size, __syncthreads, __ldg,
// __shfl_xor_sync over whole warps, atomicMax and atomicOr, and the instructions below that C++ has no word for.
#pragma once
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <exception>
#include <stdexcept>
#include <sys/mman.h>
#include <tuple>
#include <utility>
#include <vector>

#define CUDA_CPU 1
#define __global__
#define __device__
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)
#define __shared__ static __attribute__((section("cuda_shared")))
#ifndef __restrict__
#define __restrict__ __restrict
#endif

struct uint3 { unsigned x, y, z; };
struct dim3 { unsigned x, y, z; };
struct alignas(8) uint2 { unsigned x, y; };
struct alignas(16) uint4 { unsigned x, y, z, w; };
static inline uint2 make_uint2(unsigned x, unsigned y) { return {x, y}; }

// The linker's names for the ends of the section that holds every __shared__ array; null where a source has none.
extern char __start_cuda_shared[] __attribute__((weak, visibility("hidden")));
extern char __stop_cuda_shared[] __attribute__((weak, visibility("hidden")));

namespace cuda_cpu {

constexpr unsigned WARP = 32;
constexpr int MATRIX_SITE = 1 << 20;  // beyond every __COUNTER__
constexpr size_t STACK_BYTES = 64 << 10;

enum class State : uint8_t { ready, at_block_barrier, at_warp_operation, done };

struct Fiber {
    void* stack_pointer;
    State state;
    int site;          // which barrier or warp operation of the source it waits at
    unsigned operations;  // warp operations so far; its parity picks the half of the exchange buffer
};

// What the lanes of a warp show one another. Two copies: a lane may enter the next operation before all have read this
// one.
struct Exchange {
    uint64_t word[2][WARP];
    float a[2][16][16], b[2][8][16];  // operands of mma_m16n8k16, k last
};

// A kernel with its arguments.
struct Call {
    virtual void operator()() const = 0;
    virtual ~Call() = default;
};

struct Block {
    std::vector<Fiber> fibers;
    std::vector<Exchange> warps;
    const Call* call = nullptr;
    std::exception_ptr failure;
    void* scheduler = nullptr;
    char* stacks = nullptr;
    size_t stacks_held = 0;
    int current = 0;
};

inline Block block;
inline uint3 thread_index, block_index;
inline dim3 block_size, grid_size;

extern "C" void cuda_cpu_switch(void** save, void* next);
asm(R"(
.text
.type cuda_cpu_switch,@function
.local cuda_cpu_switch
cuda_cpu_switch:
 pushq %rbp
 pushq %rbx
 pushq %r12
 pushq %r13
 pushq %r14
 pushq %r15
 movq %rsp,(%rdi)
 movq %rsi,%rsp
 popq %r15
 popq %r14
 popq %r13
 popq %r12
 popq %rbx
 popq %rbp
 ret
)");

__attribute__((noinline)) inline void wait(State state, int site) {
    Fiber& self = block.fibers[block.current];
    self.state = state;
    self.site = site;
    cuda_cpu_switch(&self.stack_pointer, block.scheduler);
}

inline void fiber_main() {
    try {
        (*block.call)();
    } catch (...) {
        block.failure = std::current_exception();
    }
    wait(State::done, 0);
    __builtin_unreachable();
}

inline void start_fibers(unsigned threads) {
    if (block.stacks_held < threads) {
        if (block.stacks) munmap(block.stacks, block.stacks_held * STACK_BYTES);
        void* memory = mmap(nullptr, threads * STACK_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        block.stacks = memory == MAP_FAILED ? nullptr : static_cast<char*>(memory);
        block.stacks_held = block.stacks ? threads : 0;
        if (!block.stacks) throw std::runtime_error("no memory for the threads' stacks");
    }
    block.fibers.assign(threads, Fiber{});
    block.warps.resize((threads + WARP - 1) / WARP);
    for (unsigned i = 0; i < threads; ++i) {
        void** top = reinterpret_cast<void**>(block.stacks + (i + 1) * STACK_BYTES);
        *--top = nullptr;
        *--top = reinterpret_cast<void*>(&fiber_main);
        for (int saved = 0; saved < 6; ++saved) *--top = nullptr;
        block.fibers[i].stack_pointer = top;
    }
}

inline void run_fiber(unsigned i) {
    block.current = static_cast<int>(i);
    thread_index = {i % block_size.x, i / block_size.x % block_size.y, i / (block_size.x * block_size.y)};
    cuda_cpu_switch(&block.scheduler, block.fibers[i].stack_pointer);
    if (block.failure) std::rethrow_exception(std::exchange(block.failure, nullptr));
}

// Lets the threads [first, last) go on if all of them wait for one another; true if they do.
inline bool release(unsigned first, unsigned last, State waiting, const char* complaint) {
    int site = -1;
    for (unsigned i = first; i < last; ++i) {
        if (block.fibers[i].state != waiting) return false;
        if (site >= 0 && block.fibers[i].site != site) throw std::runtime_error(complaint);
        site = block.fibers[i].site;
    }
    for (unsigned i = first; i < last; ++i) block.fibers[i].state = State::ready;
    return true;
}

inline void run_block(unsigned threads, bool backwards) {
    start_fibers(threads);
    if (__start_cuda_shared) std::memset(__start_cuda_shared, 0xff, __stop_cuda_shared - __start_cuda_shared);
    for (unsigned done = 0; done < threads;) {
        bool progress = false;
        for (unsigned turn = 0; turn < threads; ++turn) {
            unsigned i = backwards ? threads - 1 - turn : turn;
            if (block.fibers[i].state != State::ready) continue;
            run_fiber(i);
            progress = true;
            done += block.fibers[i].state == State::done;
        }
        for (unsigned first = 0; first < threads; first += WARP)
            progress |= release(first, first + WARP < threads ? first + WARP : threads, State::at_warp_operation,
                                "lanes of one warp are at different warp operations");
        progress |= release(0, threads, State::at_block_barrier,
                            "threads of one block wait at different __syncthreads()");
        if (!progress && done < threads) throw std::runtime_error("deadlock: a barrier is not reached by all threads");
    }
}

inline void run_grid(dim3 grid, dim3 size, bool backwards, const Call& call) {
    grid_size = grid;
    block_size = size;
    block.call = &call;
    for (unsigned z = 0; z < grid.z; ++z)
        for (unsigned y = 0; y < grid.y; ++y)
            for (unsigned x = 0; x < grid.x; ++x) {
                block_index = {x, y, z};
                run_block(size.x * size.y * size.z, backwards);
            }
}

// The arguments come as an array of pointers to them, as cuLaunchKernel takes them.
template <class... P>
struct KernelCall : Call {
    void (*kernel)(P...);
    std::tuple<P...> values;
    template <size_t... I>
    KernelCall(void (*called)(P...), void** arguments, std::index_sequence<I...>)
        : kernel(called), values(*static_cast<P*>(arguments[I])...) {}
    void operator()() const override { std::apply(kernel, values); }
};

template <class... P>
int launch(void (*kernel)(P...), const unsigned* shape, int backwards, void** arguments, int count, char* message,
           size_t room) {
    try {
        if (count != static_cast<int>(sizeof...(P))) throw std::runtime_error("wrong number of kernel arguments");
        run_grid({shape[0], shape[1], shape[2]}, {shape[3], shape[4], shape[5]}, backwards != 0,
                 KernelCall<P...>(kernel, arguments, std::index_sequence_for<P...>{}));
        return 0;
    } catch (const std::exception& error) {
        std::snprintf(message, room, "%s", error.what());
        return 1;
    }
}

inline unsigned lane() { return static_cast<unsigned>(block.current) % WARP; }
inline Exchange& warp() { return block.warps[block.current / WARP]; }
inline unsigned next_half() { return block.fibers[block.current].operations++ & 1; }

template <class T>
T shuffle_xor(T value, unsigned bits, int site) {
    static_assert(sizeof(T) <= sizeof(uint64_t));
    const unsigned half = next_half();
    std::memcpy(&warp().word[half][lane()], &value, sizeof(T));
    wait(State::at_warp_operation, site);
    std::memcpy(&value, &warp().word[half][lane() ^ bits], sizeof(T));
    return value;
}

inline float low_half(unsigned pair) {
    const uint16_t bits = static_cast<uint16_t>(pair);
    _Float16 value;
    std::memcpy(&value, &bits, sizeof(value));
    return static_cast<float>(value);
}
inline float high_half(unsigned pair) { return low_half(pair >> 16); }

// To float towards zero.
inline float truncated(double value) {
    const float nearest = static_cast<float>(value);
    return std::fabs(static_cast<double>(nearest)) > std::fabs(value) ? std::nextafterf(nearest, 0.f) : nearest;
}

}  // namespace cuda_cpu

#define threadIdx cuda_cpu::thread_index
#define blockIdx cuda_cpu::block_index
#define blockDim cuda_cpu::block_size
#define gridDim cuda_cpu::grid_size
#define __syncthreads() cuda_cpu::wait(cuda_cpu::State::at_block_barrier, __COUNTER__)
#define __shfl_xor_sync(mask, value, bits) cuda_cpu::shuffle_xor(value, bits, __COUNTER__)

using std::isfinite;
template <class T> T max(T a, T b) { return a < b ? b : a; }
template <class T> T min(T a, T b) { return b < a ? b : a; }
template <class T> T __ldg(const T* address) { return *address; }
template <class T> T atomicMax(T* address, T value) { return std::exchange(*address, max(*address, value)); }
template <class T> T atomicOr(T* address, T value) { return std::exchange(*address, *address | value); }

// ---- twins of the PTX instructions that the kernels wrap ------------------------------------------------------------
static inline uint16_t half_of(float value) {
    const _Float16 rounded = static_cast<_Float16>(value);
    uint16_t bits;
    std::memcpy(&bits, &rounded, sizeof(bits));
    return bits;
}
static inline float float_of(uint16_t half) { return cuda_cpu::low_half(half); }
static inline unsigned pack_halves(float low, float high) {
    return half_of(low) | static_cast<unsigned>(half_of(high)) << 16;
}
static inline unsigned add_halves(unsigned a, unsigned b) {
    return pack_halves(cuda_cpu::low_half(a) + cuda_cpu::low_half(b), cuda_cpu::high_half(a) + cuda_cpu::high_half(b));
}
static inline unsigned subtract_halves(unsigned a, unsigned b) {
    return pack_halves(cuda_cpu::low_half(a) - cuda_cpu::low_half(b), cuda_cpu::high_half(a) - cuda_cpu::high_half(b));
}
static inline unsigned swap_halves(unsigned pair) { return pair >> 16 | pair << 16; }

// mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32: d += a b, the operands spread over the lanes as the PTX ISA draws
// it. Its rounding is not specified; matrix units were seen to cut sums off where others round, so each is cut here.
static inline void mma_m16n8k16(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
    cuda_cpu::Exchange& warp = cuda_cpu::warp();
    const unsigned half = cuda_cpu::next_half(), group = cuda_cpu::lane() / 4, column = cuda_cpu::lane() % 4 * 2;
    for (unsigned part = 0; part < 4; ++part) {
        float* at = &warp.a[half][group + part % 2 * 8][column + part / 2 * 8];
        at[0] = cuda_cpu::low_half(a[part]);
        at[1] = cuda_cpu::high_half(a[part]);
    }
    for (unsigned part = 0; part < 2; ++part) {
        float* at = &warp.b[half][group][column + part * 8];
        at[0] = cuda_cpu::low_half(b[part]);
        at[1] = cuda_cpu::high_half(b[part]);
    }
    cuda_cpu::wait(cuda_cpu::State::at_warp_operation, cuda_cpu::MATRIX_SITE);
    for (unsigned part = 0; part < 4; ++part) {
        const float* row = warp.a[half][group + part / 2 * 8];
        const float* slot = warp.b[half][column + part % 2];
        double sum = d[part];
        for (unsigned k = 0; k < 16; ++k) sum += static_cast<double>(row[k]) * slot[k];
        d[part] = cuda_cpu::truncated(sum);
    }
}

#define CUDA_CPU_EXPORT(name)                                                                                       \
    extern "C" int name##_on_cpu(const unsigned* shape, int backwards, void** arguments, int count, char* message,  \
                                 size_t room) {                                                                     \
        return cuda_cpu::launch(&name, shape, backwards, arguments, count, message, room);                          \
    }
