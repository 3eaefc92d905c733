"""What this machine can run. Libraries are looked at, not loaded, as far as that answers the question."""

from __future__ import annotations

import platform
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version

from breastseg_deploy.backends.select import LOADERS, Loader
from breastseg_deploy.errors import BreastsegError, MachineError
from breastseg_deploy.extras import DISTRIBUTION
from breastseg_deploy.nvidia import Gpu, look_for_gpu
from breastseg_deploy.processor import this_processor

_GIB = 1 << 30
_ONNXRUNTIMES = ("onnxruntime", "onnxruntime-gpu")


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
    """All capabilities, the machine's own first, then libraries, then backends in the order of preference."""
    gpu = isinstance(look_for_gpu(), Gpu)
    return [
        Capability("python", "machine", True, f"{platform.python_version()} on {platform.machine()}"),
        Capability("processor", "machine", True, _processor()),
        *_gpu(),
        _library("image files", "cpu", "opencv-python-headless"),
        _for_gpu(gpu, _library("cupy", "gpu", "cupy-cuda13x", "cupy-cuda12x", "cupy")),
        _onnxruntime(),
        _library("openvino", "openvino", "openvino"),
        _for_gpu(gpu, _library("onnxruntime-gpu", "gpu", "onnxruntime-gpu", replacing="onnxruntime")),
        _for_gpu(gpu, _library("tensorrt", "tensorrt", "tensorrt", "tensorrt-cu13", "tensorrt-cu12")),
        _library("tensorrt-rtx", "tensorrt-rtx", "tensorrt-rtx", "tensorrt-rtx-cu13", "tensorrt-rtx-cu12"),
        _library("export", "export", "onnxscript"),
        _library("export in int8", "int8", "nncf"),
        _library("training", "train", "lightning"),
        *(_backend(name, loader) for name, loader in LOADERS.items()),
    ]


def _processor() -> str:
    found = this_processor()
    return f"{found.name}, {found.cores} cores for this process"


def _gpu() -> list[Capability]:
    """The GPU and its driver, as CUDA shows them to this process."""
    found = look_for_gpu()
    if not isinstance(found, Gpu):
        return [Capability("nvidia gpu", "machine", False, found.reason)]
    memory = f"{found.memory_bytes / _GIB:.1f} GiB"
    return [
        Capability(
            "nvidia gpu", "machine", True, f"{found.name}, compute capability {found.compute_capability}, {memory}"
        ),
        Capability("nvidia driver", "machine", True, f"{found.driver}, runs CUDA up to {found.cuda}"),
    ]


def _library(name: str, extra: str, *packages: str, replacing: str | None = None) -> Capability:
    """The first of several packages that is installed: some libraries come by more than one name.

    Args:
        name: what to call it.
        extra: brings it.
        packages: distributions that hold it.
        replacing: a distribution that must go first, because both hold the same files.
    """
    present = _present(*packages)
    if present:
        return Capability(name, "library", True, present[0])
    first = f"pip uninstall -y {replacing} && " if replacing and _present(replacing) else ""
    return Capability(name, "library", False, f"{packages[0]} is not installed", first + _install(extra))


def _onnxruntime() -> Capability:
    """The build for CPUs; the one for GPUs holds the same, and must not be installed beside it."""
    if _present("onnxruntime-gpu") and not _present("onnxruntime"):
        return Capability("onnxruntime", "library", True, "part of onnxruntime-gpu")
    return _library("onnxruntime", "cpu", "onnxruntime")


def _for_gpu(gpu: bool, library: Capability) -> Capability:
    """A missing library that would be of no use here needs no remedy."""
    if gpu or library.usable:
        return library
    return replace(library, detail=f"{library.detail}; of no use without an NVIDIA GPU", remedy="")


def _backend(name: str, loader: Loader) -> Capability:
    """Whether a backend could serve now; its library is loaded where GPU and packages are there."""
    title = f"backend {name}"
    if name in ("onnxruntime", "onnxruntime-cuda"):
        present = _present(*_ONNXRUNTIMES)
        if not present:
            return Capability(title, "backend", False, "onnxruntime is not installed", _install(loader.extras))
        if len(present) == 2:
            detail = f"{' and '.join(present)} overwrite each other's files"
            remedy = f"pip uninstall -y {' '.join(_ONNXRUNTIMES)} && {_install(loader.extras)}"
            return Capability(title, "backend", False, detail, remedy)
    try:
        return Capability(title, "backend", True, loader.check())
    except MachineError as err:
        needs_gpu = loader.on_gpu and not isinstance(look_for_gpu(), Gpu)
        return Capability(title, "backend", False, str(err), "" if needs_gpu else _install(loader.extras))
    except (BreastsegError, ImportError, OSError) as err:
        return Capability(title, "backend", False, f"its library is broken: {err}", _install(loader.extras))


def _present(*packages: str) -> list[str]:
    """Those of the packages that are installed, with their versions."""
    found = []
    for package in packages:
        try:
            found.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            continue
    return found


def _install(extras: str) -> str:
    return f"pip install '{DISTRIBUTION}[{extras}]'"
