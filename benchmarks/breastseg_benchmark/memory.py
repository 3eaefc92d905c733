"""Memory of this process: on the host by the kernel, on a GPU by its driver and by the libraries' allocators."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from breastseg_benchmark.results import Memory

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
_RESET_PEAK = "5"
"""Written to clear_refs, it sets the peak back to what is resident now (proc(5))."""
_KIB = 1024
_MANAGEMENT = "nvml.dll" if sys.platform == "win32" else "libnvidia-ml.so.1"
_MOST_PROCESSES = 256
_NOT_AVAILABLE = 2**64 - 1
"""NVML_VALUE_NOT_AVAILABLE, in a process's memory."""

Load = Callable[[str], ctypes.CDLL]


class _ProcessInfo(ctypes.Structure):
    """nvmlProcessInfo_t of NVML's third interface."""

    _fields_ = (
        ("pid", ctypes.c_uint),
        ("used_bytes", ctypes.c_ulonglong),
        ("gpu_instance", ctypes.c_uint),
        ("compute_instance", ctypes.c_uint),
    )


class _MemoryInfo(ctypes.Structure):
    """nvmlMemory_t."""

    _fields_ = (("total", ctypes.c_ulonglong), ("free", ctypes.c_ulonglong), ("used", ctypes.c_ulonglong))


def resident_bytes() -> int | None:
    """What of this process lies in the host's memory now; None where the system does not say."""
    return _status("VmRSS")


def resident_peak_bytes() -> int | None:
    """The most that did since the process began or `reset_peak` was called; None where the system does not say."""
    peak = _status("VmHWM")
    if peak is not None or sys.platform == "win32":
        return peak
    import resource

    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * _KIB


def reset_peak() -> bool:
    """Begin a new peak; False where the system cannot."""
    try:
        _CLEAR.write_text(_RESET_PEAK)
    except OSError:
        return False
    return True


class MemoryWatch:
    """This process's memory since the watch began.

    Args:
        load: opens a shared library by name.
    """

    def __init__(self, load: Load = ctypes.CDLL) -> None:
        self._nvml = _Nvml.open(load)
        self._gpu_before = self._nvml.device_used() if self._nvml else None
        self._gpu_peak: int | None = None
        self._method: str | None = None

    def look(self) -> None:
        """Take what the process holds of the GPU into the peak; libraries keep what they took, so seldom is enough."""
        if self._nvml is None:
            return
        own = self._nvml.process_used(os.getpid())
        if own is not None:
            self._method = "NVML, this process"
        elif self._gpu_before is not None:  # inside a container NVML knows the process by another number
            now = self._nvml.device_used()
            own = None if now is None else max(0, now - self._gpu_before)
            self._method = "NVML, whole GPU, rise since the process began"
        if own is not None:
            self._gpu_peak = max(own, self._gpu_peak or 0)

    def memory(self) -> Memory:
        """All of it."""
        self.look()
        return Memory(
            resident_peak_bytes=resident_peak_bytes(),
            gpu_process_bytes=self._gpu_peak,
            gpu_method=self._method if self._gpu_peak is not None else None,
            allocators_bytes=_allocators(),
        )


class _Nvml:
    """The two questions to NVIDIA's management library, summed over the machine's GPUs."""

    def __init__(self, library: ctypes.CDLL, devices: list[ctypes.c_void_p]) -> None:
        self._library, self._devices = library, devices

    @classmethod
    def open(cls, load: Load) -> _Nvml | None:
        count, devices = ctypes.c_uint(), []
        try:
            library = load(_MANAGEMENT)
            if library.nvmlInit_v2() != 0 or library.nvmlDeviceGetCount_v2(ctypes.byref(count)) != 0:
                return None
            for index in range(count.value):
                device = ctypes.c_void_p()
                if library.nvmlDeviceGetHandleByIndex_v2(index, ctypes.byref(device)) == 0:
                    devices.append(device)
        except (OSError, AttributeError):
            return None
        return cls(library, devices) if devices else None

    def process_used(self, process: int) -> int | None:
        """Bytes that a process holds; None where NVML does not know it."""
        call = getattr(self._library, "nvmlDeviceGetComputeRunningProcesses_v3", None)
        if call is None:
            return None
        held = []
        for device in self._devices:
            count = ctypes.c_uint(_MOST_PROCESSES)
            infos = (_ProcessInfo * _MOST_PROCESSES)()
            if call(device, ctypes.byref(count), infos) == 0:
                own = [info.used_bytes for info in infos[: count.value] if info.pid == process]
                held += [used for used in own if used != _NOT_AVAILABLE]
        return sum(held) if held else None

    def device_used(self) -> int | None:
        """Bytes in use by anybody."""
        info, used = _MemoryInfo(), 0
        for device in self._devices:
            if self._library.nvmlDeviceGetMemoryInfo(device, ctypes.byref(info)) != 0:
                return None
            used += int(info.used)
        return used


def _allocators() -> dict[str, int]:
    """What allocators of libraries that are loaded already hold of the GPU; none is loaded for the question."""
    held: dict[str, int] = {}
    cupy, torch = sys.modules.get("cupy"), sys.modules.get("torch")
    with suppress(Exception):  # a library without a GPU refuses in ways of its own
        if cupy is not None and (taken := int(cupy.get_default_memory_pool().total_bytes())):
            held["cupy"] = taken
    with suppress(Exception):
        if torch is not None and torch.cuda.is_available():
            held["torch"] = int(torch.cuda.max_memory_reserved())
    return held


def _status(field: str) -> int | None:
    try:
        lines = _STATUS.read_text().splitlines()
    except OSError:
        return None
    for line in lines:
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * _KIB
    return None
