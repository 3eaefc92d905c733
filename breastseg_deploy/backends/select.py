"""Which backend serves: the preferred one that works here, and the reasons, in words, why others do not.

Opening a bundle never changes the code path silently. `choose` says why every preferred backend was passed over; with
`strict`, it does not pass over what ought to work. Backends on a GPU come in the order of preference; among those on
the CPU the fastest serves, see `backends.fastest`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from breastseg_deploy.backends.fastest import WALL_CLOCK, Clock, SpeedTest
from breastseg_deploy.backends.gated import bundle_gate
from breastseg_deploy.backends.registry import BACKENDS, BackendRecord
from breastseg_deploy.bundle import ENGINE, GATE, PORTABLE, Bundle
from breastseg_deploy.errors import BackendError, BreastsegError, BundleError, MachineError, ParityError
from breastseg_deploy.inference import Backend
from breastseg_deploy.machine import Machine
from breastseg_deploy.nvidia import Gpu, NoGpu

Backends = Mapping[str, BackendRecord]

AUTO = "auto"


@dataclass(frozen=True)
class Choice:
    """Which backend was taken and why, in words for a log.

    Attributes:
        name: of the backend.
        record: what the registry says of it.
        reason: begins with the name.
        backend: loaded.
        artefact: the role that it serves.
        fell_back: whether something better ought to have worked here: another backend failed, or a GPU stays unused.
    """

    name: str
    record: BackendRecord
    reason: str
    backend: Backend
    artefact: str
    fell_back: bool = False


def choose(
    bundle: Bundle,
    name: str = AUTO,
    machine: Machine | None = None,
    *,
    strict: bool = False,
    gate: bool = False,
    backends: Backends = BACKENDS,
    clock: Clock = WALL_CLOCK,
) -> Choice:
    """Load the backend of that name, or with "auto" the preferred one that works here.

    A backend asked for by name serves or fails. With "auto", one that this machine lacks something for (GPU, library)
    is passed over, and one that is there and fails (no engine can be built, a golden misses its limit, no memory)
    as well. `strict` allows the first and refuses the second; and it refuses the CPU where a GPU ought to serve:
    where an NVIDIA driver is installed, or the bundle holds engines.

    Where "auto" comes to the CPU and finds several backends for it, the first opening of a bundle loads them all and
    times them on a golden, which takes seconds and the memory of all; the choice is kept for the next opening.

    With `gate`, the backend skips the decoder for frames that the bundle's empty-frame gate finds empty. That is served
    on the CPU alone so far, so every GPU backend is passed over with that reason.

    Args:
        bundle: opened.
        name: of a backend, or "auto".
        machine: where it serves; None for this one.
        strict: refuse what "auto" would otherwise pass over.
        gate: serve with the bundle's empty-frame gate.
        backends: to choose among, by name.
        clock: that CPU backends are timed by.

    Raises:
        BackendError: no backend of that name; it failed; none is left; it serves no gate; or `strict` refuses.
        ParityError: it was asked for by name, or with `strict`, and a golden misses its limit.
        MachineError: this machine lacks something for the backend asked for by name, or for all of them.
        BundleError: a file of the bundle was altered, or it holds no gate.
    """
    if gate:
        bundle_gate(bundle)
    machine = machine or Machine()
    if name == AUTO:
        return _preferred(_Search(bundle, machine, backends, strict=strict, gate=gate), clock)
    if name not in backends:
        raise BackendError(f"no backend {name!r}; choose one of {', '.join([AUTO, *backends])}")
    record = backends[name]
    if gate and record.open_gated is None:
        raise BackendError(f"{name} {_NO_GATE}; open the bundle without gate, or with another backend")
    record.check(machine)
    served = _opened(record, bundle, machine, gate)
    why = f"{name}: asked for by name{_GATE_ON if gate else ''}"
    return Choice(name, record, why, served, GATE if gate else record.artefact)


_GATE_ON = "; with the empty-frame gate"
_NO_GATE = "serves no empty-frame gate, which runs in float32 on the CPU alone"


def _opened(record: BackendRecord, bundle: Bundle, machine: Machine, gate: bool) -> Backend:
    open_backend = record.open_gated if gate and record.open_gated is not None else record.open
    return open_backend(bundle, machine)


def _preferred(search: _Search, clock: Clock) -> Choice:
    gpu = search.machine.gpu
    for name in [name for name, record in search.backends.items() if record.on_gpu]:
        backend = search.opened(name)
        if backend is not None:
            artefact = search.artefact(name)
            return Choice(name, search.backends[name], search.reason(name), backend, artefact, search.failed)
    if search.strict:
        _refuse_the_cpu(search.bundle, gpu, search.passed_over)
    name, why, backend = _fastest_on_cpu(search, clock)
    why += _GATE_ON if search.gate else ""
    fell_back = search.failed or isinstance(gpu, Gpu)
    return Choice(name, search.backends[name], why, backend, search.artefact(name), fell_back)


class _Search:
    """A search for a backend, and what came of those that were tried.

    Attributes:
        passed_over: backends that cannot serve, with the reason in words.
        failed: whether one of them is there and ought to have worked.
    """

    def __init__(self, bundle: Bundle, machine: Machine, backends: Backends, *, strict: bool, gate: bool) -> None:
        self.bundle, self.machine, self.backends = bundle, machine, backends
        self.strict, self.gate = strict, gate
        self.passed_over: dict[str, str] = {}
        self.failed = False

    def artefact(self, name: str) -> str:
        """The role that a backend serves."""
        return GATE if self.gate else self.backends[name].artefact

    def opened(self, name: str) -> Backend | None:
        """The backend, loaded; None where it cannot serve."""
        if self.ready(name) is None:
            return None
        try:
            return _opened(self.backends[name], self.bundle, self.machine, self.gate)
        except BreastsegError as err:
            self.pass_over(name, err)
            return None

    def ready(self, name: str) -> str | None:
        """What would serve, in words; None where this machine or the bundle lacks something for it."""
        record = self.backends[name]
        if self.gate and record.open_gated is None:
            self.passed_over[name] = _NO_GATE
            return None
        if self.bundle.manifest.artefact(record.artefact) is None:
            self.passed_over[name] = f"the bundle {self.bundle.holds_no(record.artefact)}"
            return None
        try:
            return record.check(self.machine)
        except MachineError as err:
            self.passed_over[name] = str(err)
        except BreastsegError as err:
            self.pass_over(name, err)
        return None

    def pass_over(self, name: str, err: BreastsegError) -> None:
        """Pass over a backend that is there and fails.

        Raises:
            BundleError: the bundle is damaged, which no other backend would mend.
            ParityError, BackendError: with `strict`.
        """
        if isinstance(err, BundleError):
            raise err
        if self.strict:
            kind = ParityError if isinstance(err, ParityError) else BackendError
            raise kind(f"{name} failed, and with strict=True no other backend may serve in its place: {err}") from err
        self.failed = True
        self.passed_over[name] = f"failed: {err}"

    def reason(self, name: str, why: str = "") -> str:
        """Why a backend serves, and why others do not."""
        if not self.passed_over:
            return f"{name}: {why or 'preferred, and works here'}"
        return f"{name}: {why or 'the first that works here'}; passed over: {_in_words(self.passed_over)}"


def _fastest_on_cpu(search: _Search, clock: Clock) -> tuple[str, str, Backend]:
    """The CPU backend that serves: its name, the reason, and itself; the fastest one where there are several.

    Raises:
        BackendError, MachineError: none is left.
    """
    names = [name for name, record in search.backends.items() if not record.on_gpu and not record.by_name_only]
    words = {name: search.ready(name) for name in names}
    engines = {name: engine for name, engine in words.items() if engine is not None}
    speed = SpeedTest(search.bundle, engines, GATE if search.gate else PORTABLE, search.machine, clock)
    measured = speed.known() if len(engines) > 1 else None
    opened: dict[str, Backend] = {}
    try:
        # Nothing is known yet: all are loaded and timed. Else only the fastest is, and the next where it fails today.
        if measured is None:
            for name in engines:
                backend = search.opened(name)
                if backend is not None:
                    opened[name] = backend
            measured = speed.measure(opened, search.pass_over) if len(opened) > 1 else None
        ranking = list(opened) if measured is None else measured.ranking()
        for name in ranking:
            backend = opened.pop(name, None) or search.opened(name)
            if backend is not None:
                faster = measured is not None and len(ranking) > 1 and name == ranking[0]
                return name, search.reason(name, measured.words(name) if measured and faster else ""), backend
    finally:
        for slower in opened.values():
            slower.close()
    kind = BackendError if search.failed else MachineError
    raise kind(f"no backend can serve here: {_in_words(search.passed_over)}")


def _refuse_the_cpu(bundle: Bundle, gpu: Gpu | NoGpu, passed_over: Mapping[str, str]) -> None:
    """With `strict`: the CPU is no stand-in for a GPU that this machine or this bundle was meant for."""
    if isinstance(gpu, Gpu):
        why = f"this machine has a GPU ({gpu})"
    elif gpu.expected:
        why = "this machine has an NVIDIA driver"
    elif bundle.manifest.artefact(ENGINE) is not None:
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
