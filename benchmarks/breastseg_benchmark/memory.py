"""Memory of another process, seen from outside: nothing is loaded into the measured process for it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from breastseg_deploy.extras import require

_KIB = 1024
_RESET_PEAK = "5"
"""Written to clear_refs, it sets the peak back to what is resident now (proc(5))."""


def resident_bytes(pid: int) -> int:
    """What of a process lies in the host's memory now.

    Raises:
        MachineError: psutil is not installed.
    """
    return int(require("psutil", "benchmark").Process(pid).memory_info().rss)


def resident_peak_bytes(pid: int) -> int | None:
    """The most that did since it began or `reset_peak` was called; None where the system does not say.

    Raises:
        MachineError: psutil is not installed.
    """
    info = require("psutil", "benchmark").Process(pid).memory_info()
    if hasattr(info, "peak_wset"):  # Windows
        return int(info.peak_wset)
    # psutil has no peak on Linux, and that of getrusage begins with the peak of the process which started this one.
    try:
        peak = re.search(r"^VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    except OSError:
        return None
    return int(peak[1]) * _KIB if peak else None


def reset_peak(pid: int) -> bool:
    """Begin a new peak; False where the system cannot."""
    try:
        Path(f"/proc/{pid}/clear_refs").write_text(_RESET_PEAK)
    except OSError:
        return False
    return True


class GpuMemory:
    """What a process that starts after this was made holds of the GPUs, summed over them.

    Args:
        nvml: NVIDIA's management library as the module `pynvml` shows it; imported by default.

    Raises:
        MachineError: nvidia-ml-py is not installed.
    """

    def __init__(self, nvml: Any = None) -> None:
        self._nvml = require("pynvml", "benchmark") if nvml is None else nvml
        try:
            self._nvml.nvmlInit()
            count = self._nvml.nvmlDeviceGetCount()
            self._devices = [self._nvml.nvmlDeviceGetHandleByIndex(index) for index in range(count)]
            self._used_before = self._used()
        except self._nvml.NVMLError:  # no driver on this machine
            self._devices = []

    def held_by(self, pid: int) -> tuple[int, str] | None:
        """Bytes and how they were found; None where the driver does not say."""
        if not self._devices:
            return None
        try:
            own = self._own(pid)
            if own:
                return sum(own), "NVML, this process"
            # Inside a container NVML knows processes by other numbers.
            return max(0, self._used() - self._used_before), "NVML, whole GPU, rise since the process began"
        except self._nvml.NVMLError:
            return None

    def _own(self, pid: int) -> list[int]:
        try:
            found = [one for device in self._devices for one in self._nvml.nvmlDeviceGetComputeRunningProcesses(device)]
        except self._nvml.NVMLError:
            return []
        return [one.usedGpuMemory for one in found if one.pid == pid and one.usedGpuMemory is not None]

    def _used(self) -> int:
        """Bytes in use by anybody."""
        return sum(int(self._nvml.nvmlDeviceGetMemoryInfo(device).used) for device in self._devices)
