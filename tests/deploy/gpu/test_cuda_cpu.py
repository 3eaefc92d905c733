"""The harness that runs kernels on the CPU: what it computes, and its complaints where a GPU would hang or be wrong."""

from __future__ import annotations

import ctypes
from types import FunctionType
from typing import Any

import numpy as np
import pytest
from cuda_cpu import fake_cupy
from cuda_cpu.compiled import CpuModule, KernelError, why_not
from numpy.typing import NDArray

pytestmark = pytest.mark.skipif(why_not() is not None, reason=why_not() or "")

KERNELS = r"""
extern "C" __global__ void reversed(const float* in, float* out) {
    __shared__ float held[64];
    held[threadIdx.x] = in[blockIdx.x * 64 + threadIdx.x];
    __syncthreads();
    out[blockIdx.x * 64 + threadIdx.x] = held[63 - threadIdx.x];
}
extern "C" __global__ void unwritten(const float*, float* out) {
    __shared__ float held[64];
    out[threadIdx.x] = held[threadIdx.x];
}
extern "C" __global__ void summed(const float* in, float* out) {
    float value = in[threadIdx.x];
    for (int bits = 16; bits; bits /= 2) value += __shfl_xor_sync(0xffffffffu, value, bits);
    out[threadIdx.x] = value;
}
extern "C" __global__ void split(const float*, float*) {
    if (threadIdx.x < 32) __syncthreads(); else __syncthreads();
}
extern "C" __global__ void early(const float*, float*) {
    if (threadIdx.x == 5) return;
    __syncthreads();
}
extern "C" __global__ void torn(const float*, float* out) {
    if (threadIdx.x % 2) out[0] = __shfl_xor_sync(0xffffffffu, 1.f, 1);
    else out[1] = __shfl_xor_sync(0xffffffffu, 1.f, 1);
}
extern "C" __global__ void product(const unsigned* a, const unsigned* b, float* c) {
    const unsigned row = threadIdx.x / 4, pair = threadIdx.x % 4;
    float d[4] = {};
    const unsigned *upper = a + row * 8 + pair, *lower = upper + 64, *slot = b + row * 8 + pair;
    const unsigned left[4] = {upper[0], lower[0], upper[4], lower[4]}, right[2] = {slot[0], slot[4]};
    mma_m16n8k16(d, left, right);
    for (int i = 0; i < 4; ++i) c[(row + i / 2 * 8) * 8 + pair * 2 + i % 2] = d[i];
}
"""


def called(name: str, *arrays: NDArray[Any], grid: int = 1, block: int = 64, backwards: bool = False) -> None:
    pointers = [ctypes.c_void_p(array.ctypes.data) for array in arrays]
    CpuModule(KERNELS, backwards=backwards).call(name, (grid,), (block,), pointers)


@pytest.mark.parametrize("backwards", [False, True])
def test_a_barrier_lets_threads_read_one_another(backwards: bool) -> None:
    numbers, out = np.arange(128, dtype=np.float32), np.zeros(128, np.float32)
    called("reversed", numbers, out, grid=2, backwards=backwards)
    np.testing.assert_array_equal(out, [*range(63, -1, -1), *range(127, 63, -1)])


def test_shared_memory_that_nobody_wrote_is_no_number() -> None:
    out = np.zeros(64, np.float32)
    called("unwritten", out, out)
    assert np.isnan(out).all()


def test_lanes_of_each_warp_exchange_values() -> None:
    numbers, out = np.arange(64, dtype=np.float32), np.zeros(64, np.float32)
    called("summed", numbers, out)
    np.testing.assert_array_equal(out, [496] * 32 + [1520] * 32)


@pytest.mark.parametrize(
    ("kernel", "complaint"),
    [
        ("split", "threads of one block wait at different __syncthreads"),
        ("early", "deadlock: a barrier is not reached by all threads"),
        ("torn", "lanes of one warp are at different warp operations"),
    ],
)
def test_barriers_that_do_not_meet_are_errors(kernel: str, complaint: str) -> None:
    out = np.zeros(64, np.float32)
    with pytest.raises(KernelError, match=complaint):
        called(kernel, out, out)


def test_a_wrong_number_of_arguments_is_an_error() -> None:
    with pytest.raises(KernelError, match="wrong number of kernel arguments"):
        called("summed", np.zeros(64, np.float32))


def test_every_name_of_the_stand_in_is_one_of_cupy() -> None:
    cupy = pytest.importorskip("cupy", reason="no CuPy: pip install 'breastseg-deploy[gpu]'")
    added = {"host", "backwards", "forget", "put", "run", "finish_later"}  # what the tests look at
    functions = {name for name, value in vars(fake_cupy).items() if isinstance(value, FunctionType)}
    compared = [(functions - {"scalar", "ExternalStream"}, cupy), (vars(fake_cupy.cuda), cupy.cuda)]
    compared += [(vars(fake_cupy.runtime), cupy.cuda.runtime)]
    compared += [(vars(getattr(fake_cupy, name)), getattr(cupy, name)) for name in ("ndarray", "RawModule")]
    classes = ("Stream", "Event", "Device", "MemoryPointer")
    compared += [(vars(getattr(fake_cupy.cuda, name)), getattr(cupy.cuda, name)) for name in classes]
    for names, theirs in compared:
        ours = {name for name in names if not name.startswith("_")} - added
        assert {name for name in ours if not hasattr(theirs, name)} == set(), theirs


def test_the_matrix_instruction_multiplies_matrices() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.integers(-9, 10, (16, 16)).astype(np.float16), rng.integers(-9, 10, (16, 8)).astype(np.float16)
    c = np.zeros((16, 8), np.float32)
    called("product", a, np.ascontiguousarray(b.T), c, block=32)
    np.testing.assert_array_equal(c, a.astype(np.float32) @ b.astype(np.float32))
