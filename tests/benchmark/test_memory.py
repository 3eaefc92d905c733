from __future__ import annotations

import os
import subprocess
import sys
from mmap import mmap
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from breastseg_benchmark.growth import growth_bytes
from breastseg_benchmark.memory import GpuMemory, reset_peak, resident_bytes, resident_peak_bytes
from breastseg_deploy.errors import ArgumentError

MB = 1_000_000
NEEDS_PROC = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


def test_a_planted_leak_is_found() -> None:
    leak = [100 * MB + number * MB for number in range(41)]  # 1 MB a sample
    assert growth_bytes(leak) == pytest.approx(20 * MB, rel=0.1)


def test_a_warm_up_is_no_growth() -> None:
    assert growth_bytes([100 * MB, 300 * MB, *[400 * MB] * 38]) == 0


def test_a_page_that_comes_and_goes_is_no_growth() -> None:
    rng = np.random.default_rng(5)
    noisy = [400 * MB + int(rng.integers(0, MB)) for _ in range(41)]
    noisy[30] += 50 * MB
    assert abs(growth_bytes(noisy)) < MB


def test_memory_that_is_given_back_is_negative_growth() -> None:
    assert growth_bytes([400 * MB] * 10 + [300 * MB] * 10) < 0


def test_too_few_samples_are_refused() -> None:
    with pytest.raises(ArgumentError, match="at least 8 samples, got 7"):
        growth_bytes([1] * 7)


@NEEDS_PROC
def test_the_peak_remembers_what_was_freed_until_it_is_reset() -> None:
    own = os.getpid()
    before = resident_bytes(own)
    block = full_pages(64 * MB)
    held = resident_bytes(own)
    block.close()
    peak = resident_peak_bytes(own)
    assert peak is not None
    assert held - before > 60 * MB
    assert peak >= held - MB  # the kernel counts in batches of pages
    if reset_peak(own):
        fresh = resident_peak_bytes(own)
        assert fresh is not None
        assert fresh < peak - 50 * MB


@NEEDS_PROC
def test_the_peak_is_not_that_of_the_process_which_started_the_measured_one() -> None:
    block = full_pages(128 * MB)
    child = "print('ready', flush=True); input()"
    with subprocess.Popen([sys.executable, "-c", child], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        peak = resident_peak_bytes(process.pid)
        process.communicate(b"end\n")
    block.close()
    assert peak is not None
    assert peak < 64 * MB


def full_pages(size: int) -> mmap:
    """Pages of their own, where an array could take what an earlier one gave back."""
    block = mmap(-1, size)
    for page in range(0, size, 4096):
        block[page] = 1
    return block


class Nvml:
    """NVIDIA's management library on a machine with two GPUs, as `pynvml` shows it.

    Args:
        processes: (GPU, pid, bytes) of those that it knows.
        used: bytes in use on both, answer by answer.
    """

    class NVMLError(Exception):
        pass

    def __init__(self, processes: list[tuple[int, int, int | None]], used: list[int]) -> None:
        self._processes, self._used = processes, iter(used)

    def nvmlInit(self) -> None:  # noqa: N802
        pass

    def nvmlDeviceGetCount(self) -> int:  # noqa: N802
        return 2

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:  # noqa: N802
        return index

    def nvmlDeviceGetComputeRunningProcesses(self, device: int) -> list[SimpleNamespace]:  # noqa: N802
        return [SimpleNamespace(pid=pid, usedGpuMemory=held) for gpu, pid, held in self._processes if gpu == device]

    def nvmlDeviceGetMemoryInfo(self, device: int) -> SimpleNamespace:  # noqa: N802
        return SimpleNamespace(used=next(self._used) if device == 0 else 0)


class NoDriver(Nvml):
    def nvmlInit(self) -> None:  # noqa: N802
        raise self.NVMLError("NVML Shared Library Not Found")


def test_gpu_memory_is_what_the_driver_says_of_the_process() -> None:
    found = GpuMemory(Nvml([(0, 7, 300 * MB), (1, 7, 50 * MB), (0, 8, 900 * MB)], used=[100 * MB])).held_by(7)
    assert found == (350 * MB, "NVML, this process")


@pytest.mark.parametrize("processes", [[], [(0, 7, None)]], ids=["unknown", "known without a figure"])
def test_gpu_memory_of_a_process_that_the_driver_does_not_know_is_the_rise(processes: list[Any]) -> None:
    memory = GpuMemory(Nvml(processes, used=[100 * MB, 400 * MB]))
    assert memory.held_by(7) == (300 * MB, "NVML, whole GPU, rise since the process began")


def test_without_a_driver_nothing_is_said_about_a_gpu() -> None:
    assert GpuMemory(NoDriver([], used=[])).held_by(7) is None
