"""What a run measures: backends of the runtime, the paper's pipeline and peers, each an implementation of one model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from breastseg_benchmark.results import Kind
from breastseg_deploy.backends.registry import BACKENDS
from breastseg_deploy.bundle import Bundle
from breastseg_deploy.errors import BackendError, BreastsegError
from breastseg_deploy.machine import Machine
from breastseg_deploy.nvidia import NoGpu

NO_GPU = "no GPU"
"""How every reason begins where that is the reason."""


@dataclass(frozen=True)
class Implementation:
    """One way from a frame to its mask, served by a process of its own.

    Attributes:
        name: for the tables.
        kind: a backend of the runtime, the paper's pipeline or a peer.
        arguments: of the Python interpreter that serves it; the frames' file is appended.
        on_gpu: whether it computes on a GPU.
        by_name_only: whether the runtime never chooses it by itself, because its masks are not those in float32.
        not_run: why it cannot run here, where that is known already.
    """

    name: str
    kind: Kind
    arguments: tuple[str, ...]
    on_gpu: bool = False
    by_name_only: bool = False
    not_run: str | None = None


def runtime_implementation(bundle: Path, backend: str) -> Implementation:
    """The runtime with one backend or with "auto"; it is not said here whether that can run."""
    record = BACKENDS.get(backend)
    return Implementation(
        backend,
        "backend",
        ("-m", "breastseg_benchmark.serving", str(bundle), backend),
        on_gpu=record is not None and record.on_gpu,
        by_name_only=record is not None and record.by_name_only,
    )


def backend_implementations(
    bundle: Bundle, names: Sequence[str] = (), machine: Machine | None = None
) -> list[Implementation]:
    """The runtime's backends; those that the machine or the bundle lacks something for say what.

    Args:
        bundle: opened.
        names: of backends; empty for all.
        machine: where they are to run; None for this one.

    Raises:
        BackendError: a name that the runtime does not know.
    """
    unknown = [name for name in names if name not in BACKENDS]
    if unknown:
        raise BackendError(f"no backend {unknown[0]!r}; choose from {', '.join(BACKENDS)}")
    machine = machine or Machine()
    return [
        replace(runtime_implementation(bundle.path, name), not_run=_lacking(bundle, name, machine))
        for name in names or BACKENDS
    ]


def why_no_gpu(machine: Machine) -> str | None:
    """Why nothing can run on a machine's GPU; None where it can."""
    found = machine.gpu
    return f"{NO_GPU} ({found.reason})" if isinstance(found, NoGpu) else None


def _lacking(bundle: Bundle, name: str, machine: Machine) -> str | None:
    """What a backend lacks here, in words."""
    record = BACKENDS[name]
    no_gpu = why_no_gpu(machine) if record.on_gpu else None
    if no_gpu is not None:
        return no_gpu
    if bundle.manifest.artefact(record.artefact) is None:
        return f"the bundle {bundle.holds_no(record.artefact)}"
    try:
        record.check(machine)
    except BreastsegError as err:
        return str(err)
    return None
