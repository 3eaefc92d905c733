"""Where figures were measured: date, processor, versions and load, so that they can be repeated."""

from __future__ import annotations

import os
import platform
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version

from breastseg_deploy.machine import Machine
from breastseg_deploy.nvidia import NoGpu
from breastseg_deploy.version import __version__

_PACKAGES = (
    "numpy", "onnxruntime", "onnxruntime-gpu", "openvino", "nncf", "tensorrt-cu13", "tensorrt-rtx", "cupy-cuda13x",
    "torch", "torch-tensorrt", "opencv-python-headless",
)  # fmt: skip
_VARIABLES = ("OMP_NUM_THREADS", "OMP_WAIT_POLICY", "CUDA_VISIBLE_DEVICES")


def now() -> str:
    """ISO 8601, UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def environment() -> dict[str, str]:
    """Facts by name, in the order of a table."""
    machine = Machine()
    gpu, processor = machine.gpu, machine.processor
    facts = {
        "processor": f"{processor.name}, {processor.cores} cores for this process",
        "gpu": f"none: {gpu.reason}" if isinstance(gpu, NoGpu) else str(gpu),
        "system": platform.platform(),
        "python": platform.python_version(),
        "breastseg-deploy": __version__,
        **_versions(),
        **{name: os.environ[name] for name in _VARIABLES if name in os.environ},
    }
    if hasattr(os, "getloadavg"):
        facts["load before the run"] = f"{os.getloadavg()[0]:.1f} processes on average over a minute"
    return facts


def _versions() -> dict[str, str]:
    found = {}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
