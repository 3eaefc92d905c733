"""Which backend serves: the preferred one that works here, and the reasons, in words, why others do not.

Opening a bundle never changes the code path without a word. `choose` says why every preferred backend was passed over;
with `strict`, it does not pass over what ought to work. Backends on a GPU come in the order of preference; among those
on the CPU the faster one serves, see `backends.contest`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

from breastseg_deploy.backends.contest import Contest
from breastseg_deploy.backends.gated import bundle_gate
from breastseg_deploy.backends.onnxruntime import OnnxRuntimeCpu, check_onnxruntime, open_gated_onnxruntime
from breastseg_deploy.backends.openvino import (
    NAME_INT8,
    check_openvino,
    open_gated_openvino,
    open_openvino,
    open_openvino_int8,
)
from breastseg_deploy.bundle import GATE_DECODER, INT8_NETWORK, MODEL, NETWORK_FP16, Bundle
from breastseg_deploy.errors import BackendError, BreastsegError, BundleError, MachineError, ParityError
from breastseg_deploy.gpu.loading import check_onnxruntime_cuda, check_tensorrt, open_onnxruntime_cuda, open_tensorrt
from breastseg_deploy.inference import Backend, GatedBackend
from breastseg_deploy.nvidia import Gpu, NoGpu, look_for_gpu

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
        open_gated: loads a bundle with the empty-frame gate; None where it serves none.
    """

    check: Callable[[], str]
    open: Callable[[Bundle], Backend]
    on_gpu: bool
    artefact: str
    extras: str
    open_gated: Callable[[Bundle], GatedBackend] | None = None


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
    "openvino": Loader(
        check=check_openvino,
        open=open_openvino,
        on_gpu=False,
        artefact=MODEL,
        extras="openvino",
        open_gated=open_gated_openvino,
    ),
    "onnxruntime": Loader(
        check=check_onnxruntime,
        open=OnnxRuntimeCpu,
        on_gpu=False,
        artefact=MODEL,
        extras="cpu",
        open_gated=open_gated_onnxruntime,
    ),
    NAME_INT8: Loader(
        check=check_openvino,
        open=open_openvino_int8,
        on_gpu=False,
        artefact=INT8_NETWORK,
        extras="openvino",
    ),
}
"""Backends by name: those on a GPU, the preferred one first; then those on the CPU."""

BY_NAME_ONLY = frozenset({NAME_INT8})
"""Those that "auto" never takes, because their masks are not those of the float32 network."""


def choose(bundle: Bundle, name: str = AUTO, *, strict: bool = False, gate: bool = False) -> Choice:
    """Load the backend of that name, or with "auto" the preferred one that works here.

    A backend asked for by name serves or fails. With "auto", one that this machine lacks something for (GPU, library)
    is passed over, and one that is there and fails (no engine can be built, a golden misses its limit, no memory)
    as well. `strict` allows the first and refuses the second; and it refuses the CPU where a GPU ought to serve:
    where an NVIDIA driver is installed, or the bundle holds engines.

    Where "auto" comes to the CPU and finds several backends for it, the first opening of a bundle loads them all and
    times them on a golden, which takes seconds and the memory of all; the choice is kept for the next opening.

    With `gate`, the backend leaves the decoder out for frames that the bundle's empty-frame gate finds empty. That is
    served on the CPU alone so far, so every GPU backend is passed over with that reason.

    Raises:
        BackendError: no backend of that name; it failed; none is left; it serves no gate; or `strict` refuses.
        ParityError: it was asked for by name, or with `strict`, and a golden misses its limit.
        MachineError: this machine lacks something for the backend asked for by name, or for all of them.
        BundleError: a file of the bundle was altered, or it holds no gate.
    """
    if gate:
        bundle_gate(bundle)
    if name == AUTO:
        return _preferred(bundle, strict, gate)
    if name not in LOADERS:
        raise BackendError(f"no backend {name!r}; choose one of {', '.join([AUTO, *LOADERS])}")
    loader = LOADERS[name]
    if gate and loader.open_gated is None:
        raise BackendError(f"{name} {_NO_GATE}; open the bundle without gate, or with another backend")
    loader.check()
    served = _opened(loader, bundle, gate)
    why = f"{name}: asked for by name{_GATE_ON if gate else ''}"
    return Choice(name, why, served, GATE_DECODER if gate else loader.artefact)


_GATE_ON = "; with the empty-frame gate"
_NO_GATE = "serves no empty-frame gate, which runs in float32 on the CPU alone"


def _opened(loader: Loader, bundle: Bundle, gate: bool) -> Backend:
    return loader.open_gated(bundle) if gate and loader.open_gated is not None else loader.open(bundle)


def _preferred(bundle: Bundle, strict: bool, gate: bool) -> Choice:
    search = _Search(bundle, strict, gate)
    gpu = look_for_gpu()
    for name in [name for name, loader in LOADERS.items() if loader.on_gpu]:
        backend = search.opened(name)
        if backend is not None:
            return Choice(name, search.reason(name), backend, LOADERS[name].artefact, search.failed)
    if strict:
        _refuse_the_cpu(bundle, gpu, search.passed_over)
    name, why, backend = _fastest_on_cpu(search)
    artefact = GATE_DECODER if gate else LOADERS[name].artefact
    return Choice(name, why + (_GATE_ON if gate else ""), backend, artefact, search.failed or isinstance(gpu, Gpu))


class _Search:
    """A search for a backend, and what came of those that were tried.

    Attributes:
        passed_over: backends that cannot serve, with the reason in words.
        failed: whether one of them is there and ought to have worked.
    """

    def __init__(self, bundle: Bundle, strict: bool, gate: bool) -> None:
        self.bundle, self.gate = bundle, gate
        self.passed_over: dict[str, str] = {}
        self.failed = False
        self._strict = strict

    def opened(self, name: str) -> Backend | None:
        """The backend, loaded; None where it cannot serve."""
        try:
            return _opened(LOADERS[name], self.bundle, self.gate) if self.ready(name) is not None else None
        except BreastsegError as err:
            self.lost(name, err)
            return None

    def ready(self, name: str) -> str | None:
        """What would serve, in words; None where this machine or the bundle lacks something for it."""
        loader, files = LOADERS[name], self.bundle.manifest.files
        if self.gate and loader.open_gated is None:
            self.passed_over[name] = _NO_GATE
            return None
        if loader.artefact not in files:
            precision = self.bundle.manifest.precision
            self.passed_over[name] = (
                f"the bundle holds no {loader.artefact} (it was exported with --precision {precision})"
            )
            return None
        try:
            return loader.check()
        except MachineError as err:
            self.passed_over[name] = str(err)
        except BreastsegError as err:
            self.lost(name, err)
        return None

    def lost(self, name: str, err: BreastsegError) -> None:
        """Pass over a backend that is there and fails.

        Raises:
            BundleError: the bundle is damaged, which no other backend would mend.
            ParityError, BackendError: with `strict`.
        """
        if isinstance(err, BundleError):
            raise err
        if self._strict:
            kind = ParityError if isinstance(err, ParityError) else BackendError
            raise kind(f"{name} failed, and with strict=True no other backend may serve in its place: {err}") from err
        self.failed = True
        self.passed_over[name] = f"failed: {err}"

    def reason(self, name: str, why: str = "") -> str:
        """Why a backend serves, and why others do not."""
        if not self.passed_over:
            return f"{name}: {why or 'preferred, and works here'}"
        return f"{name}: {why or 'the first that works here'}; passed over: {_in_words(self.passed_over)}"


def _fastest_on_cpu(search: _Search) -> tuple[str, str, Backend]:
    """The CPU backend that serves: its name, the reason, and itself; the faster one where there are several.

    Raises:
        BackendError, MachineError: none is left.
    """
    names = [name for name, loader in LOADERS.items() if not loader.on_gpu and name not in BY_NAME_ONLY]
    words = {name: search.ready(name) for name in names}
    engines = {name: engine for name, engine in words.items() if engine is not None}
    contest = Contest(search.bundle, engines, GATE_DECODER if search.gate else MODEL)
    measured = contest.known() if len(engines) > 1 else None
    opened: dict[str, Backend] = {}
    try:
        if measured is None:
            for name in engines:
                backend = search.opened(name)
                if backend is not None:
                    opened[name] = backend
            measured = contest.hold(opened, search.lost) if len(opened) > 1 else None
        ranking = list(opened) if measured is None else measured.ranking()
        for name in ranking:
            backend = opened.pop(name, None) or search.opened(name)
            if backend is not None:
                faster = measured is not None and len(ranking) > 1 and name == ranking[0]
                return name, search.reason(name, measured.words(name) if measured and faster else ""), backend
    finally:
        for loser in opened.values():
            loser.close()
    kind = BackendError if search.failed else MachineError
    raise kind(f"no backend can serve here: {_in_words(search.passed_over)}")


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


def _in_words(passed_over: Mapping[str, str]) -> str:
    """Backends with the same reason together."""
    by_reason: dict[str, list[str]] = {}
    for name, why in passed_over.items():
        by_reason.setdefault(why, []).append(name)
    return "; ".join(f"{', '.join(names)} ({why})" for why, names in by_reason.items())
