"""What `pip install 'breastseg-deploy[gpu]'` brings, asked of pip itself; nothing is installed."""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def brought() -> dict[str, list[str]]:
    """Name of each distribution, with what it requires in turn; skipped where no package index answers."""
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    options = ["--dry-run", "--ignore-installed", "--quiet", "--report", "-"]
    command = [sys.executable, "-m", "pip", "install", *options, *extras["gpu"]]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        pytest.skip(f"pip finds no packages from here: {done.stderr.strip().splitlines()[-1]}")
    found = [entry["metadata"] for entry in json.loads(done.stdout)["install"]]
    return {entry["name"].lower(): entry.get("requires_dist", []) for entry in found}


def test_it_brings_the_libraries_that_the_cuda_provider_loads(brought: dict[str, list[str]]) -> None:
    """libcublas, libcudart, libcufft, libcurand, libnvrtc and libcudnn, for CUDA 13."""
    names = "cublas", "cuda-runtime", "cufft", "curand", "cuda-nvrtc", "cudnn-cu13"
    assert {f"nvidia-{name}" for name in names} <= brought.keys()


def test_its_onnxruntime_is_built_for_cuda_13(brought: dict[str, list[str]]) -> None:
    cudnn = [requirement for requirement in brought["onnxruntime-gpu"] if "cudnn" in requirement]
    assert cudnn
    assert all("cu13" in requirement for requirement in cudnn)
    assert "cupy-cuda13x" in brought


def test_it_brings_no_second_onnxruntime(brought: dict[str, list[str]]) -> None:
    """Both hold the same files: the one that is unpacked last would win."""
    assert "onnxruntime" not in brought
