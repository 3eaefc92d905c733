"""What this machine can run. Libraries are looked at, not loaded, as far as that answers the question."""

from __future__ import annotations

import platform
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version

from breastseg_deploy.backends.registry import BACKENDS, BackendRecord
from breastseg_deploy.errors import BreastsegError, MachineError
from breastseg_deploy.extras import DISTRIBUTION
from breastseg_deploy.machine import Machine
from breastseg_deploy.nvidia import Gpu

_GIB = 1 << 30

Version = Callable[[str], str]
"""The version of an installed distribution; PackageNotFoundError where it is none."""


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


def capabilities(
    machine: Machine | None = None,
    backends: Mapping[str, BackendRecord] = BACKENDS,
    version_of: Version = version,
) -> list[Capability]:
    """All capabilities, the machine's own first, then libraries, then backends in the order of preference.

    Args:
        machine: that is looked at; None for this one.
        backends: to look at, by name.
        version_of: the versions of what is installed.
    """
    machine = machine or Machine()
    look, processor = _Look(machine, version_of), machine.processor
    return [
        Capability("python", "machine", True, f"{platform.python_version()} on {platform.machine()}"),
        Capability("processor", "machine", True, f"{processor.name}, {processor.cores} cores for this process"),
        *_gpu(machine),
        look.library("image files", "cpu", "opencv-python-headless"),
        look.for_gpu(look.library("cupy", "gpu", "cupy-cuda13x", "cupy-cuda12x", "cupy")),
        look.onnxruntime(),
        look.library("openvino", "openvino", "openvino"),
        look.for_gpu(look.library("onnxruntime-gpu", "gpu", "onnxruntime-gpu", replacing="onnxruntime")),
        look.for_gpu(look.library("tensorrt", "tensorrt", "tensorrt", "tensorrt-cu13", "tensorrt-cu12")),
        look.library("tensorrt-rtx", "tensorrt-rtx", "tensorrt-rtx", "tensorrt-rtx-cu13", "tensorrt-rtx-cu12"),
        look.library("export", "export", "onnxscript"),
        look.library("export in int8", "int8", "nncf"),
        look.library("training", "train", "lightning"),
        *(look.backend(name, record) for name, record in backends.items()),
    ]


def _gpu(machine: Machine) -> list[Capability]:
    """The GPU and its driver, as CUDA shows them to this process."""
    found = machine.gpu
    if not isinstance(found, Gpu):
        return [Capability("nvidia gpu", "machine", False, found.reason)]
    memory = f"{found.memory_bytes / _GIB:.1f} GiB"
    return [
        Capability(
            "nvidia gpu", "machine", True, f"{found.name}, compute capability {found.compute_capability}, {memory}"
        ),
        Capability("nvidia driver", "machine", True, f"{found.driver}, runs CUDA up to {found.cuda}"),
    ]


@dataclass(frozen=True)
class _Look:
    """A look at one machine and at what is installed on it."""

    machine: Machine
    version_of: Version

    def library(self, name: str, extra: str, *packages: str, replacing: str | None = None) -> Capability:
        """The first of several packages that is installed: some libraries come by more than one name.

        Args:
            name: what to call it.
            extra: brings it.
            packages: distributions that hold it.
            replacing: a distribution that must go first, because both hold the same files.
        """
        present = self._present(*packages)
        if present:
            return Capability(name, "library", True, present[0])
        first = f"pip uninstall -y {replacing} && " if replacing and self._present(replacing) else ""
        return Capability(name, "library", False, f"{packages[0]} is not installed", first + _install(extra))

    def onnxruntime(self) -> Capability:
        """The build for CPUs; the one for GPUs holds the same, and must not be installed beside it."""
        if self._present("onnxruntime-gpu") and not self._present("onnxruntime"):
            return Capability("onnxruntime", "library", True, "part of onnxruntime-gpu")
        return self.library("onnxruntime", "cpu", "onnxruntime")

    def for_gpu(self, library: Capability) -> Capability:
        """A missing library that would be of no use here needs no remedy."""
        if isinstance(self.machine.gpu, Gpu) or library.usable:
            return library
        return replace(library, detail=f"{library.detail}; of no use without an NVIDIA GPU", remedy="")

    def backend(self, name: str, record: BackendRecord) -> Capability:
        """Whether a backend could serve now; its library is loaded where GPU and packages are there."""
        title, remedy = f"backend {name}", _install(record.extras)
        present = self._present(*record.packages)
        if record.packages and not present:
            return Capability(title, "backend", False, f"{record.packages[0]} is not installed", remedy)
        if len(present) > 1:
            detail = f"{' and '.join(present)} overwrite each other's files"
            return Capability(
                title, "backend", False, detail, f"pip uninstall -y {' '.join(record.packages)} && {remedy}"
            )
        try:
            return Capability(title, "backend", True, record.check(self.machine))
        except MachineError as err:
            needs_gpu = record.on_gpu and not isinstance(self.machine.gpu, Gpu)
            return Capability(title, "backend", False, str(err), "" if needs_gpu else remedy)
        except (BreastsegError, ImportError, OSError) as err:
            return Capability(title, "backend", False, f"its library is broken: {err}", remedy)

    def _present(self, *packages: str) -> list[str]:
        """Those of the packages that are installed, with their versions."""
        found = []
        for package in packages:
            try:
                found.append(f"{package} {self.version_of(package)}")
            except PackageNotFoundError:
                continue
        return found


def _install(extras: str) -> str:
    return f"pip install '{DISTRIBUTION}[{extras}]'"
