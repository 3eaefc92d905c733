"""Which backend serves: the preferred one that works here, and the reasons, in words, why others do not.

Opening a bundle never changes the code path without a word. `choose` says why every preferred backend was passed over;
with `strict`, it does not pass over what ought to work.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

from breastseg_deploy.backends import Backend
from breastseg_deploy.backends.gpu_loading import (
    check_onnxruntime_cuda,
    check_tensorrt,
    open_onnxruntime_cuda,
    open_tensorrt,
)
from breastseg_deploy.backends.nvidia import Gpu, NoGpu, look_for_gpu
from breastseg_deploy.backends.onnxruntime_cpu import OnnxRuntimeCpu, check_onnxruntime
from breastseg_deploy.bundle import MODEL, NETWORK_FP16, Bundle
from breastseg_deploy.errors import BackendError, BreastsegError, BundleError, MachineError, ParityError

AUTO = "auto"


@dataclass(frozen=True)
class Loader:
    """How a backend is opened; its libraries are imported by `check` and `open`, not before.

    Attributes:
        check: says what would serve, in words; a MachineError says what this machine lacks for it.
        open: loads a bundle.
        on_gpu: whether it computes on a GPU.
        artefact: the bundle's file that it serves, whose parity limits its goldens are held to.
        extras: of this distribution, that bring its libraries.
    """

    check: Callable[[], str]
    open: Callable[[Bundle], Backend]
    on_gpu: bool
    artefact: str
    extras: str


@dataclass(frozen=True)
class Choice:
    """Which backend was taken and why, in words for a log.

    Attributes:
        name: of the backend.
        reason: begins with the name.
        backend: loaded.
        artefact: the bundle's file that it serves.
        fell_back: whether something better ought to have worked here: another backend failed, or a GPU stays unused.
    """

    name: str
    reason: str
    backend: Backend
    artefact: str = MODEL
    fell_back: bool = False


LOADERS: Mapping[str, Loader] = {
    "tensorrt": Loader(
        check=partial(check_tensorrt, "tensorrt"),
        open=partial(open_tensorrt, name="tensorrt"),
        on_gpu=True,
        artefact=NETWORK_FP16,
        extras="gpu,tensorrt",
    ),
    "tensorrt-rtx": Loader(
        check=partial(check_tensorrt, "tensorrt-rtx"),
        open=partial(open_tensorrt, name="tensorrt-rtx"),
        on_gpu=True,
        artefact=NETWORK_FP16,
        extras="gpu,tensorrt-rtx",
    ),
    "onnxruntime-cuda": Loader(
        check=check_onnxruntime_cuda, open=open_onnxruntime_cuda, on_gpu=True, artefact=NETWORK_FP16, extras="gpu"
    ),
    "onnxruntime": Loader(check=check_onnxruntime, open=OnnxRuntimeCpu, on_gpu=False, artefact=MODEL, extras="cpu"),
}
"""Backends by name, the preferred one first; those on a GPU before those on the CPU."""


def choose(bundle: Bundle, name: str = AUTO, *, strict: bool = False) -> Choice:
    """Load the backend of that name, or with "auto" the preferred one that works here.

    A backend asked for by name serves or fails. With "auto", one that this machine lacks something for (GPU, library)
    is passed over, and one that is there and fails (no engine can be built, a golden misses its limit, no memory)
    as well. `strict` allows the first and refuses the second; and it refuses the CPU where a GPU ought to serve:
    where an NVIDIA driver is installed, or the bundle holds engines.

    Raises:
        BackendError: no backend of that name; it failed; none is left; or `strict` refuses.
        ParityError: it was asked for by name, or with `strict`, and a golden misses its limit.
        MachineError: this machine lacks something for the backend asked for by name, or for all of them.
        BundleError: a file of the bundle was altered.
    """
    if name == AUTO:
        return _preferred(bundle, strict)
    if name not in LOADERS:
        raise BackendError(f"no backend {name!r}; choose one of {', '.join([AUTO, *LOADERS])}")
    loader = LOADERS[name]
    loader.check()
    return Choice(name, f"{name}: asked for by name", loader.open(bundle), loader.artefact)


def _preferred(bundle: Bundle, strict: bool) -> Choice:
    passed_over: dict[str, str] = {}
    failed = False
    gpu = look_for_gpu()
    for name, loader in LOADERS.items():
        if strict and not loader.on_gpu:
            _refuse_the_cpu(bundle, gpu, passed_over)
        try:
            lacking = _lacking(bundle, loader)
            if lacking is None:
                backend = loader.open(bundle)
                unused = not loader.on_gpu and isinstance(gpu, Gpu)
                return Choice(name, _reason(name, passed_over), backend, loader.artefact, failed or unused)
            passed_over[name] = lacking
        except BundleError:
            raise
        except BreastsegError as err:
            if strict:
                kind = ParityError if isinstance(err, ParityError) else BackendError
                raise kind(
                    f"{name} failed, and with strict=True no other backend may serve in its place: {err}"
                ) from err
            failed = True
            passed_over[name] = f"failed: {err}"
    raise (BackendError if failed else MachineError)(f"no backend can serve here: {_in_words(passed_over)}")


def _lacking(bundle: Bundle, loader: Loader) -> str | None:
    """What the backend would need and has not; None where all is there."""
    if loader.artefact not in bundle.manifest.files:
        return f"the bundle holds no {loader.artefact} (it was exported with --precision {bundle.manifest.precision})"
    try:
        loader.check()
    except MachineError as err:
        return str(err)
    return None


def _refuse_the_cpu(bundle: Bundle, gpu: Gpu | NoGpu, passed_over: Mapping[str, str]) -> None:
    """With `strict`: the CPU is no stand-in for a GPU that this machine or this bundle was meant for."""
    if isinstance(gpu, Gpu):
        why = f"this machine has a GPU ({gpu})"
    elif gpu.expected:
        why = "this machine has an NVIDIA driver"
    elif bundle.manifest.engines:
        why = "the bundle holds engines for GPUs"
    else:
        return
    raise BackendError(
        f"{why}, so with strict=True the CPU may not serve in its place, and no GPU backend can: "
        f"{_in_words(passed_over)}; mend that, open without strict, or ask for a backend by name"
    )


def _reason(name: str, passed_over: Mapping[str, str]) -> str:
    if not passed_over:
        return f"{name}: preferred, and works here"
    return f"{name}: the first that works here; passed over: {_in_words(passed_over)}"


def _in_words(passed_over: Mapping[str, str]) -> str:
    """Backends with the same reason together."""
    by_reason: dict[str, list[str]] = {}
    for name, why in passed_over.items():
        by_reason.setdefault(why, []).append(name)
    return "; ".join(f"{', '.join(names)} ({why})" for why, names in by_reason.items())
