from __future__ import annotations

import sys
from mmap import mmap

import numpy as np
import pytest

from breastseg_benchmark.growth import growth_bytes
from breastseg_benchmark.memory import MemoryWatch, reset_peak, resident_bytes, resident_peak_bytes
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
    before = resident_bytes()
    block = mmap(-1, 64 * MB)  # pages of its own, where an array could take what an earlier one gave back
    for page in range(0, len(block), 4096):
        block[page] = 1
    held = resident_bytes()
    block.close()
    peak = resident_peak_bytes()
    assert before is not None
    assert held is not None
    assert peak is not None
    assert held - before > 60 * MB
    assert peak >= held - MB  # the kernel counts in batches of pages
    if reset_peak():
        fresh = resident_peak_bytes()
        assert fresh is not None
        assert fresh < peak - 50 * MB


def test_without_a_management_library_nothing_is_said_about_a_gpu() -> None:
    def missing(name: str) -> None:
        raise OSError(name)

    found = MemoryWatch(missing).memory()  # type: ignore[arg-type]
    assert (found.gpu_process_bytes, found.gpu_method) == (None, None)
