// Runs the source of a CUDA kernel on the CPU, unchanged, to test what it computes (x86-64, g++ 12 or newer). Not for
// speed.
//
// Every CUDA thread is a fiber with a stack of its own; the fibers of a block take turns on one OS thread, and the
// blocks of a grid follow one another. A fiber runs until it waits at __syncthreads() for its block. What a GPU would let
// pass or hang at is an error here: threads of one block waiting at different __syncthreads(), or one that ended while
// the others wait.
// A barrier that is missing shows in the values: shared memory holds the bit pattern of NaN when a block starts, and
// the fibers can be run forwards or backwards, so that a thread that reads what no barrier made ready reads rubbish.
//
// Known to the sources: threadIdx, blockIdx, blockDim, gridDim, __shared__ arrays of fixed size, __syncthreads,
// atomicMax and atomicOr.
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

// The linker's names for the ends of the section that holds every __shared__ array; null where a source has none.
extern char __start_cuda_shared[] __attribute__((weak, visibility("hidden")));
extern char __stop_cuda_shared[] __attribute__((weak, visibility("hidden")));

namespace cuda_cpu {

constexpr size_t STACK_BYTES = 64 << 10;

enum class State : uint8_t { ready, at_barrier, done };

struct Fiber {
    void* stack_pointer;
    State state;
    int site;  // which barrier of the source it waits at
};

// A kernel with its arguments.
struct Call {
    virtual void operator()() const = 0;
    virtual ~Call() = default;
};

struct Block {
    std::vector<Fiber> fibers;
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

// Lets the threads go on if all of them wait at the same barrier; true if they do.
inline bool release() {
    for (const Fiber& fiber : block.fibers) {
        if (fiber.state != State::at_barrier) return false;
        if (fiber.site != block.fibers[0].site)
            throw std::runtime_error("threads of one block wait at different __syncthreads()");
    }
    for (Fiber& fiber : block.fibers) fiber.state = State::ready;
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
        progress |= release();
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

}  // namespace cuda_cpu

#define threadIdx cuda_cpu::thread_index
#define blockIdx cuda_cpu::block_index
#define blockDim cuda_cpu::block_size
#define gridDim cuda_cpu::grid_size
#define __syncthreads() cuda_cpu::wait(cuda_cpu::State::at_barrier, __COUNTER__)

using std::isfinite;
template <class T> T max(T a, T b) { return a < b ? b : a; }
template <class T> T min(T a, T b) { return b < a ? b : a; }
template <class T> T atomicMax(T* address, T value) { return std::exchange(*address, max(*address, value)); }
template <class T> T atomicOr(T* address, T value) { return std::exchange(*address, *address | value); }

#define CUDA_CPU_EXPORT(name)                                                                                       \
    extern "C" int name##_on_cpu(const unsigned* shape, int backwards, void** arguments, int count, char* message,  \
                                 size_t room) {                                                                     \
        return cuda_cpu::launch(&name, shape, backwards, arguments, count, message, room);                          \
    }
