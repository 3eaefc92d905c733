"""What this machine can run. Libraries are looked at, not loaded, as far as that answers the question."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

from breastseg_deploy.extras import DISTRIBUTION


@dataclass(frozen=True)
class Capability:
    """One thing that a machine can have.

    Attributes:
        name: of the capability.
        kind: "machine", "library" or "backend"; at least one backend must be usable to segment.
        usable: whether it can be used now.
        detail: version, or what is missing.
        remedy: the command that brings it; empty where none does.
    """

    name: str
    kind: str
    usable: bool
    detail: str
    remedy: str = ""


def capabilities() -> list[Capability]:
    """All capabilities, the machine's own first, then libraries, then backends."""
    return [
        Capability("python", "machine", True, f"{platform.python_version()} on {platform.machine()}"),
        Capability("processor", "machine", True, f"{_processors()} cores for this process"),
        _gpu(),
        _library("image files", "opencv-python-headless", "cpu"),
        _library("export", "onnxscript", "export"),
        _library("training", "lightning", "train"),
        _onnxruntime(),
    ]


def _processors() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _gpu() -> Capability:
    """The GPU by the driver's own tool; this version has no backend that would use it."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return Capability("nvidia gpu", "machine", False, "no NVIDIA driver on this machine (no nvidia-smi)")
    query = [tool, "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"]
    try:
        seen = subprocess.run(query, capture_output=True, text=True, timeout=20, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError) as err:
        return Capability("nvidia gpu", "machine", False, f"nvidia-smi failed: {err}")
    return Capability("nvidia gpu", "machine", True, f"{seen}; no backend of this version uses it yet")


def _library(name: str, package: str, extra: str) -> Capability:
    found = _version(package)
    if found is None:
        return Capability(name, "library", False, f"{package} is not installed", _install(extra))
    return Capability(name, "library", True, f"{package} {found}")


def _onnxruntime() -> Capability:
    installed = {package: _version(package) for package in ("onnxruntime", "onnxruntime-gpu")}
    present = [f"{package} {found}" for package, found in installed.items() if found is not None]
    if not present:
        return Capability("backend onnxruntime", "backend", False, "onnxruntime is not installed", _install("cpu"))
    if len(present) == 2:
        detail = f"{' and '.join(present)} overwrite each other's files"
        remedy = "pip uninstall onnxruntime onnxruntime-gpu, then one extra"
        return Capability("backend onnxruntime", "backend", False, detail, remedy)
    try:
        import onnxruntime
    except ImportError as err:
        return Capability("backend onnxruntime", "backend", False, f"{present[0]} is broken: {err}", _install("cpu"))
    usable = "CPUExecutionProvider" in onnxruntime.get_available_providers()
    return Capability("backend onnxruntime", "backend", usable, f"{present[0]}, on the CPU")


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _install(extra: str) -> str:
    return f"pip install '{DISTRIBUTION}[{extra}]'"
