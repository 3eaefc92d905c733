"""The GPU as its driver describes it, by a driver of a few lines of C in the place of NVIDIA's."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from stub_driver import drivers

from breastseg_deploy.nvidia import Gpu, NoGpu, look_for_gpu

pytestmark = pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler (cc) on this machine")


def test_gpu_is_described_by_its_driver(tmp_path: Path) -> None:
    found = look_for_gpu(drivers(tmp_path))
    assert found == Gpu("NVIDIA Test", "8.6", 24 << 30, "580.82.07", "13.2")
    assert str(found) == "NVIDIA Test, compute capability 8.6, driver 580.82.07"


def test_no_driver_is_no_gpu_and_none_was_expected(tmp_path: Path) -> None:
    found = look_for_gpu(lambda name: ctypes.CDLL(str(tmp_path / name)))
    assert found == NoGpu("no NVIDIA driver on this machine (no libcuda.so.1)", expected=False)


@pytest.mark.parametrize(
    ("status", "words"), [(100, "cuInit: CUDA error 100 (is it hidden by CUDA_VISIBLE_DEVICES?)"), (999, "error 999")]
)
def test_a_driver_without_usable_gpu_says_so_and_one_was_expected(tmp_path: Path, status: int, words: str) -> None:
    found = look_for_gpu(drivers(tmp_path, libcuda=status))
    assert isinstance(found, NoGpu)
    assert found.expected
    assert found.reason.startswith("the NVIDIA driver shows no usable GPU: ")
    assert words in found.reason


def test_a_driver_that_does_not_tell_its_version_is_of_unknown_version(tmp_path: Path) -> None:
    found = look_for_gpu(drivers(tmp_path, libnvidia_ml=1))
    assert isinstance(found, Gpu)
    assert found.driver == "unknown"
    (tmp_path / "libnvidia-ml.so.1").unlink()
    assert look_for_gpu(lambda name: ctypes.CDLL(str(tmp_path / name))) == found


@pytest.mark.skipif(isinstance(look_for_gpu(), Gpu), reason="needs a machine without GPU")
@pytest.mark.parametrize(("required", "outcome", "code"), [("0", "1 skipped", 0), ("1", "1 error", 1)])
def test_tests_that_need_a_gpu_are_skipped_without_one_and_fail_where_it_is_required(
    required: str, outcome: str, code: int
) -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", __file__, "-k", "the_one_that_cupy_sees"]
    environment = {**os.environ, "BREASTSEG_REQUIRE_GPU": required}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, outcome in done.stdout) == (code, True)
    assert "no NVIDIA driver on this machine" in done.stdout
    assert ("BREASTSEG_REQUIRE_GPU=1 allows no skipping" in done.stdout) == (required == "1")


@pytest.mark.gpu
def test_this_machines_gpu_is_the_one_that_cupy_sees() -> None:
    cupy = pytest.importorskip("cupy")
    found = look_for_gpu()
    assert isinstance(found, Gpu)
    seen = cupy.cuda.runtime.getDeviceProperties(0)
    assert found.name == seen["name"].decode()
    assert found.compute_capability == f"{seen['major']}.{seen['minor']}"
    assert found.driver != "unknown"
