"""The two kernels of the GPU path: against the CPU reference, in time, and under compute-sanitizer."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from breastseg_benchmark.gpu_check.machine import needed_cupy
from breastseg_benchmark.gpu_check.step import Finding, Settings, Skip
from breastseg_deploy.contract import rgb_batch
from breastseg_deploy.gpu.ops import Kernels
from breastseg_deploy.preprocess import tensor as preprocess
from breastseg_deploy.preprocess.gabor import GaborParameters

_TOLERANCE = 1e-5
_ODD = (33, 47)
_TIMED, _ROUNDS = (512, 512), 50
UNDER_SANITIZER = (
    "import cupy; cupy.cuda.set_allocator(None); from breastseg_benchmark.gpu_check.kernel import small; small()"
)
"""Without CuPy's pool each array is an allocation of its own: within a block of the pool nothing is out of bounds."""


def kernel(settings: Settings, size_px: tuple[int, int] = _TIMED, rounds: int = _ROUNDS) -> Finding:
    """Both kernels at odd sizes, 8 and 16 bits, grey and colour; then the time of one frame of `size_px`."""
    worst = small()
    edge_ms, mask_ms = _times(size_px, rounds)
    figures = {"largest error": worst, "edge kernel, ms a frame": edge_ms, "mask kernel, ms a frame": mask_ms}
    right = worst <= _TOLERANCE
    times = f"{edge_ms:.4f} + {mask_ms:.4f} ms for a {size_px[0]} x {size_px[1]} frame"
    words = f"largest error {worst:.2g} (limit {_TOLERANCE:g}); {times}"
    return Finding("passed" if right else "failed", words, figures)


def small() -> float:
    """The largest error of both kernels over small frames of every kind; NaN where one of them is.

    Raises:
        Skip: there is no GPU.
    """
    cupy: Any = needed_cupy()
    rng, kernels = np.random.default_rng(0), Kernels(_ODD, GaborParameters())
    errors = []
    for channels in (1, 3):
        for dtype, bits in ((np.uint8, None), (np.uint16, 12)):
            frames = rng.integers(0, 2 ** (bits or 8), (2, *_ODD, channels), dtype)
            wanted = preprocess.network_input(rgb_batch(frames, _ODD, bit_depth=bits))
            out, flag = cupy.empty(wanted.shape, np.float32), cupy.zeros((1,), np.int32)
            given = cupy.asarray(frames)
            kernels.network_input(given, bit_depth=bits, out=out, over_range=flag)
            errors.append(float(np.abs(out.get() - wanted).max()))
    logits = rng.normal(0, 4, (2, 1, *_ODD)).astype(np.float32)
    mask, probability = cupy.empty((2, *_ODD), np.uint8), cupy.empty((2, *_ODD), np.float32)
    flag = cupy.empty((1,), np.int32)
    kernels.mask_of_logits(cupy.asarray(logits), 0.5, mask=mask, probability=probability, not_finite=flag)
    errors.append(float(np.abs(probability.get() - 1 / (1 + np.exp(-logits[:, 0]))).max()))
    if not np.array_equal(mask.get(), probability.get() >= 0.5):
        raise AssertionError("the mask kernel's mask is not where its probability reaches the threshold")
    return float(np.max(errors))  # Python's own would pass over a NaN that is not the first


def _times(size_px: tuple[int, int], rounds: int) -> tuple[float, float]:
    """Medians of the device's own time for one colour frame, in milliseconds, after calls that are not counted."""
    cupy: Any = needed_cupy()
    frames = cupy.asarray(np.random.default_rng(0).integers(0, 256, (1, *size_px, 3), np.uint8))
    tensor, logits = cupy.empty((1, 4, *size_px), np.float32), cupy.zeros((1, 1, *size_px), np.float32)
    mask, probability = cupy.empty((1, *size_px), np.uint8), cupy.empty((1, *size_px), np.float32)
    flag, kernels = cupy.zeros((1,), np.int32), Kernels(size_px, GaborParameters())
    marks = [cupy.cuda.Event() for _ in range(3)]
    times_ms: list[tuple[float, float]] = []
    for _ in range(rounds + 10):
        marks[0].record()
        kernels.network_input(frames, out=tensor, over_range=flag)
        marks[1].record()
        kernels.mask_of_logits(logits, 0.5, mask=mask, probability=probability, not_finite=flag)
        marks[2].record()
        marks[2].synchronize()
        times_ms.append(tuple(cupy.cuda.get_elapsed_time(*marks[at : at + 2]) for at in (0, 1)))
    edge, masks = zip(*times_ms[10:], strict=True)
    return median(edge), median(masks)


def sanitizer(settings: Settings) -> Finding:
    """The small frames under compute-sanitizer: memory errors, then races in shared memory.

    Raises:
        Skip: there is no GPU, or no compute-sanitizer.
    """
    needed_cupy()
    tool = found_sanitizer()
    if tool is None:
        raise Skip("no compute-sanitizer on the PATH or in CUDA's folder (it comes with the CUDA toolkit)")
    return sanitized([tool], [sys.executable, "-c", UNDER_SANITIZER])


def found_sanitizer() -> str | None:
    """compute-sanitizer on the PATH, or where CUDA's toolkit is installed, which is often not on it."""
    toolkits = (os.environ.get("CUDA_HOME"), os.environ.get("CUDA_PATH"), "/usr/local/cuda")
    places = [os.environ.get("PATH", os.defpath), *(str(Path(one) / "bin") for one in toolkits if one)]
    return shutil.which("compute-sanitizer", path=os.pathsep.join(places))


def sanitized(tool: Sequence[str], program: Sequence[str]) -> Finding:
    """`sanitizer` with a tool at hand: it passes a check where it reports neither an error nor a hazard.

    Args:
        tool: the command of compute-sanitizer.
        program: the command to run under it.
    """
    said = {}
    for check in ("memcheck", "racecheck"):
        command = [*tool, "--tool", check, "--error-exitcode", "9", *program]
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
        lines = [line for line in done.stdout.splitlines() if "SUMMARY:" in line]
        said[check] = lines[-1].strip("= ") if lines else f"no summary; exit code {done.returncode}"
        if done.returncode != 0 or ": 0 " not in said[check]:
            return Finding("failed", f"{check}: {said[check]}", said)
    return Finding("passed", "; ".join(f"{check}: {words}" for check, words in said.items()), said)
