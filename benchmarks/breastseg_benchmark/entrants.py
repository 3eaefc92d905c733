"""Which backends of the runtime can take part here, and why others cannot."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from breastseg_benchmark.contestants import Contestant
from breastseg_deploy.backends.registry import BACKENDS
from breastseg_deploy.bundle import Bundle
from breastseg_deploy.errors import BackendError, BreastsegError
from breastseg_deploy.machine import Machine
from breastseg_deploy.nvidia import NoGpu, look_for_gpu

NO_GPU = "no GPU"
"""How every reason begins where that is the reason."""

_RUNTIME_MODULE = "breastseg_benchmark.serve_runtime"


def runtime_contestant(bundle: Path, backend: str, on_gpu: bool = False) -> Contestant:
    """The runtime with one backend; it is not said here whether that can run."""
    return Contestant(backend, "backend", ("-m", _RUNTIME_MODULE, str(bundle), backend), on_gpu)


def backend_contestants(bundle: Bundle, names: Sequence[str] = ()) -> list[Contestant]:
    """The runtime's backends as contestants; those that this machine or bundle lacks something for say what.

    Raises:
        BackendError: a name that the runtime does not know.
    """
    unknown = [name for name in names if name not in BACKENDS]
    if unknown:
        raise BackendError(f"no backend {unknown[0]!r}; choose from {', '.join(BACKENDS)}")
    contestants, machine = [], Machine()
    for name in names or BACKENDS:
        record = BACKENDS[name]
        found = runtime_contestant(bundle.path, name, record.on_gpu)
        lacking = why_no_gpu() if record.on_gpu else None
        if lacking is None and record.artefact not in bundle.manifest.files:
            lacking = f"the bundle holds no {record.artefact} (--precision {bundle.manifest.precision})"
        if lacking is None:
            try:
                record.check(machine)
            except BreastsegError as err:
                lacking = str(err)
        contestants.append(Contestant(name, "backend", found.arguments, record.on_gpu, lacking))
    return contestants


def why_no_gpu() -> str | None:
    """Why nothing can run on a GPU here; None where it can."""
    found = look_for_gpu()
    return f"{NO_GPU} ({found.reason})" if isinstance(found, NoGpu) else None
