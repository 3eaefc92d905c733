"""What is there: the GPU, its driver, and the libraries, each imported."""

from __future__ import annotations

import importlib
import platform
from collections.abc import Sequence
from typing import Any

from breastseg_benchmark.gpu_check.step import Finding, Settings, Skip
from breastseg_deploy.machine import Machine
from breastseg_deploy.nvidia import NoGpu

LIBRARIES = ("numpy", "cupy", "onnxruntime", "tensorrt", "tensorrt_rtx", "torch")


def versions(settings: Settings, machine: Machine | None = None, libraries: Sequence[str] = LIBRARIES) -> Finding:
    """The GPU, the driver, and the version of each library, or why it cannot be imported."""
    gpu = (machine or Machine()).gpu
    figures = {"python": platform.python_version(), "platform": platform.platform()}
    broken = []
    for name in libraries:
        try:
            library: Any = importlib.import_module(name)
            figures[name] = str(library.__version__)
            if name == "onnxruntime":  # two distributions hold its files, and the last one that was unpacked has won
                figures[f"{name} has"] = ", ".join(library.get_available_providers())
        except ModuleNotFoundError:
            figures[name] = "not installed"
        except Exception as err:  # a library that is there and does not load
            figures[name] = f"{type(err).__name__}: {' '.join(str(err).split())}"[:300]
            broken.append(name)
    if isinstance(gpu, NoGpu):
        return Finding("failed", gpu.reason, figures)
    if figures["cupy"] == "not installed":
        return Finding("failed", f"{gpu}; CuPy is not installed: pip install 'breastseg-deploy[gpu]'", figures)
    words = f"{gpu}, {gpu.memory_bytes / 2**30:.1f} GiB, CUDA up to {gpu.cuda}"
    return Finding(
        "failed" if broken else "passed", words + (f"; broken: {', '.join(broken)}" if broken else ""), figures
    )


def needed_cupy() -> object:
    """CuPy with a GPU behind it.

    Raises:
        Skip: there is none.
    """
    try:
        cupy = importlib.import_module("cupy")
    except ImportError as err:
        raise Skip(f"no CuPy: {err}") from err
    if not cupy.cuda.is_available():
        raise Skip("CuPy finds no GPU")
    return cupy


def bytes_in_use(cupy: Any) -> int:
    """What all processes hold of the GPU, this one's CUDA context included: on an idle GPU, what this one takes."""
    free, total = cupy.cuda.Device().mem_info
    return int(total - free)
