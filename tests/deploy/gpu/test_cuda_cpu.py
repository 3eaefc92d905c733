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
extern "C" __global__ void split(const float*, float*) {
    if (threadIdx.x < 32) __syncthreads(); else __syncthreads();
}
extern "C" __global__ void early(const float*, float*) {
    if (threadIdx.x == 5) return;
    __syncthreads();
}
"""


def called(name: str, *arrays: NDArray[Any], grid: int = 1, backwards: bool = False) -> None:
    pointers = [ctypes.c_void_p(array.ctypes.data) for array in arrays]
    CpuModule(KERNELS, backwards=backwards).call(name, (grid,), (64,), pointers)


@pytest.mark.parametrize("backwards", [False, True])
def test_a_barrier_lets_threads_read_one_another(backwards: bool) -> None:
    numbers, out = np.arange(128, dtype=np.float32), np.zeros(128, np.float32)
    called("reversed", numbers, out, grid=2, backwards=backwards)
    np.testing.assert_array_equal(out, [*range(63, -1, -1), *range(127, 63, -1)])


def test_shared_memory_that_nobody_wrote_is_no_number() -> None:
    out = np.zeros(64, np.float32)
    called("unwritten", out, out)
    assert np.isnan(out).all()


@pytest.mark.parametrize(
    ("kernel", "complaint"),
    [
        ("split", "threads of one block wait at different __syncthreads"),
        ("early", "deadlock: a barrier is not reached by all threads"),
    ],
)
def test_barriers_that_do_not_meet_are_errors(kernel: str, complaint: str) -> None:
    out = np.zeros(64, np.float32)
    with pytest.raises(KernelError, match=complaint):
        called(kernel, out, out)


def test_a_wrong_number_of_arguments_is_an_error() -> None:
    with pytest.raises(KernelError, match="wrong number of kernel arguments"):
        called("reversed", np.zeros(64, np.float32))


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
