"""The NVIDIA GPU of this machine, asked of its driver alone: no GPU library is imported for a machine without one."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable
from dataclasses import dataclass

DEVICE = 0
"""The GPU that serves, as CUDA counts; CUDA_VISIBLE_DEVICES chooses among several."""

_CUDA, _MANAGEMENT = ("nvcuda.dll", "nvml.dll") if sys.platform == "win32" else ("libcuda.so.1", "libnvidia-ml.so.1")
_CAPABILITY_MAJOR, _CAPABILITY_MINOR = 75, 76
"""CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR and _MINOR of cuda.h."""
_NO_DEVICE = 100
"""CUDA_ERROR_NO_DEVICE."""
_TEXT_BYTES = 128

Load = Callable[[str], ctypes.CDLL]


@dataclass(frozen=True)
class Gpu:
    """The GPU that serves: the first that CUDA shows to this process.

    Attributes:
        name: as the driver calls it, e.g. "NVIDIA GeForce RTX 3090".
        compute_capability: e.g. "8.6".
        memory_bytes: in all.
        driver: version of the driver, e.g. "580.82.07"; "unknown" where it does not say.
        cuda: the newest CUDA that the driver runs, e.g. "13.0".
    """

    name: str
    compute_capability: str
    memory_bytes: int
    driver: str
    cuda: str

    def __str__(self) -> str:
        return f"{self.name}, compute capability {self.compute_capability}, driver {self.driver}"


@dataclass(frozen=True)
class NoGpu:
    """Why no GPU can be used.

    Attributes:
        reason: in words.
        expected: whether a driver is installed all the same, so that somebody meant this machine to have a GPU.
    """

    reason: str
    expected: bool


class _DriverError(Exception):
    def __init__(self, call: str, status: int) -> None:
        super().__init__(f"{call}: CUDA error {status}")
        self.status = status


def look_for_gpu(load: Load = ctypes.CDLL) -> Gpu | NoGpu:
    """The GPU, or why there is none.

    Args:
        load: opens a shared library by name.
    """
    try:
        driver = load(_CUDA)
    except OSError:
        return NoGpu(f"no NVIDIA driver on this machine (no {_CUDA})", expected=False)
    try:
        return _first_gpu(driver, _driver_version(load))
    except _DriverError as err:
        hidden = " (is it hidden by CUDA_VISIBLE_DEVICES?)" if err.status == _NO_DEVICE else ""
        return NoGpu(f"the NVIDIA driver shows no usable GPU: {err}{hidden}", expected=True)


def _first_gpu(driver: ctypes.CDLL, version: str) -> Gpu:
    device, cuda, major, minor = (ctypes.c_int() for _ in range(4))
    memory, name = ctypes.c_size_t(), ctypes.create_string_buffer(_TEXT_BYTES)
    for call, *arguments in (
        ("cuInit", 0),
        ("cuDriverGetVersion", ctypes.byref(cuda)),
        ("cuDeviceGet", ctypes.byref(device), DEVICE),
        ("cuDeviceGetName", name, _TEXT_BYTES, device),
        ("cuDeviceTotalMem_v2", ctypes.byref(memory), device),
        ("cuDeviceGetAttribute", ctypes.byref(major), _CAPABILITY_MAJOR, device),
        ("cuDeviceGetAttribute", ctypes.byref(minor), _CAPABILITY_MINOR, device),
    ):
        status = getattr(driver, call)(*arguments)
        if status != 0:
            raise _DriverError(call, status)
    return Gpu(
        name=name.value.decode(errors="replace"),
        compute_capability=f"{major.value}.{minor.value}",
        memory_bytes=memory.value,
        driver=version,
        cuda=f"{cuda.value // 1000}.{cuda.value % 1000 // 10}",  # as cuDriverGetVersion packs it
    )


def _driver_version(load: Load) -> str:
    try:
        management = load(_MANAGEMENT)
    except OSError:
        return "unknown"
    text = ctypes.create_string_buffer(_TEXT_BYTES)
    known = management.nvmlInit_v2() == 0 and management.nvmlSystemGetDriverVersion(text, _TEXT_BYTES) == 0
    return text.value.decode(errors="replace") if known else "unknown"
