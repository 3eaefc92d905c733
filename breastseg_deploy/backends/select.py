"""Which backend serves: the preferred one that works here, and the reasons, in words, why others do not.

Opening a bundle never changes the code path silently. `choose` says why every preferred backend was passed over; with
`strict`, it does not pass over what ought to work. Backends on a GPU come in the order of preference; among those on
the CPU the fastest serves, see `backends.fastest`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from breastseg_deploy.backends.dice_loss import DiceLoss
from breastseg_deploy.backends.fastest import WALL_CLOCK, Clock, SpeedTest
from breastseg_deploy.backends.gated import bundle_gate
from breastseg_deploy.backends.registry import BACKENDS, BackendRecord
from breastseg_deploy.backends.search import NO_GATE, Backends, Search, in_words, opened
from breastseg_deploy.bundle import ENGINE, PORTABLE, Bundle
from breastseg_deploy.errors import ArgumentError, BackendError, MachineError
from breastseg_deploy.inference import Backend
from breastseg_deploy.machine import Machine
from breastseg_deploy.nvidia import Gpu, NoGpu

AUTO = "auto"
FASTEST = "fastest"


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
    max_dice_loss: float | None = None,
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

    "fastest" chooses likewise among all backends whose loss of Dice keeps to `max_dice_loss`, those in bfloat16 and
    INT8 included: by the manifest, and by the goldens on this machine each time it is opened; see `DiceLoss`.

    With `gate`, the backend skips the decoder for frames that the bundle's empty-frame gate finds empty, in its own
    precision. That is served on the CPU alone so far, so every GPU backend is passed over with that reason; and one
    whose scores left their margin at the export is passed over or, asked for by name, refused with the export's reason.

    Args:
        bundle: opened.
        name: of a backend, "auto" or "fastest".
        machine: where it serves; None for this one.
        strict: refuse what "auto" would otherwise pass over.
        gate: serve with the bundle's empty-frame gate.
        max_dice_loss: with "fastest", the mean Dice that may be lost, 0 to 1.
        backends: to choose among, by name.
        clock: that CPU backends are timed by.

    Raises:
        ArgumentError: "fastest" without `max_dice_loss`, or the other way round; one outside 0 to 1.
        BackendError: no backend of that name; it failed; none is left; it serves no gate; or `strict` refuses.
        ParityError: it was asked for by name, or with `strict`, and a golden misses its limit.
        MachineError: this machine lacks something for the backend asked for by name, or for all of them.
        BundleError: a file of the bundle was altered, or it holds no gate.
    """
    if gate:
        bundle_gate(bundle)
    machine = machine or Machine()
    loss = _allowed_loss(name, max_dice_loss)
    if name in (AUTO, FASTEST):
        return _preferred(Search(bundle, machine, backends, loss, strict=strict, gate=gate), clock)
    if name not in backends:
        raise BackendError(f"no backend {name!r}; choose one of {', '.join([AUTO, FASTEST, *backends])}")
    record = backends[name]
    if gate and record.open_gated is None:
        raise BackendError(f"{name} {NO_GATE}; open the bundle without gate, or with another backend")
    record.check(machine)
    served = opened(record, bundle, machine, gate)
    why = f"{name}: asked for by name{_GATE_ON if gate else ''}"
    return Choice(name, record, why, served, record.gate if gate else record.artefact)


_GATE_ON = "; with the empty-frame gate"


def _allowed_loss(name: str, max_dice_loss: float | None) -> DiceLoss | None:
    if (name == FASTEST) != (max_dice_loss is not None):
        got = "none" if max_dice_loss is None else f"{max_dice_loss:g} with {name}"
        raise ArgumentError(f"{FASTEST} and a max_dice_loss belong together, e.g. 0.002; got {got}")
    if max_dice_loss is None:
        return None
    if not 0 <= max_dice_loss <= 1:
        raise ArgumentError(f"max_dice_loss is a loss of mean Dice, 0 to 1, got {max_dice_loss}")
    return DiceLoss(max_dice_loss)


def _preferred(search: Search, clock: Clock) -> Choice:
    # The registry's order ranks GPU backends; only those on the CPU are timed against each other.
    gpu = search.machine.gpu
    for name in [name for name, record in search.backends.items() if record.on_gpu]:
        backend = search.opened(name)
        if backend is not None:
            artefact = search.artefact(name)
            return Choice(name, search.backends[name], search.reason(name), backend, artefact, search.failed)
    # Only now is it known that no GPU serves; the reasons of all that were tried go into the refusal.
    if search.strict:
        _refuse_the_cpu(search.bundle, gpu, search.passed_over)
    name, why, backend = _fastest_on_cpu(search, clock)
    why += _GATE_ON if search.gate else ""
    fell_back = search.failed or isinstance(gpu, Gpu)
    return Choice(name, search.backends[name], why, backend, search.artefact(name), fell_back)


def _fastest_on_cpu(search: Search, clock: Clock) -> tuple[str, str, Backend]:
    """The CPU backend that serves: its name, the reason, and itself; the fastest one where there are several.

    Raises:
        BackendError, MachineError: none is left.
    """
    words = {name: search.ready(name) for name in search.on_cpu}
    engines = {name: engine for name, engine in words.items() if engine is not None}
    roles = sorted({search.artefact(name) for name in engines} or {PORTABLE})
    speed = SpeedTest(search.bundle, engines, roles, search.machine, clock)
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
    finally:  # also where the chosen one raises: each holds the memory of a network
        for slower in opened.values():
            slower.close()
    # What failed can be mended by another version; what the machine lacks must be installed: other exit codes.
    kind = BackendError if search.failed else MachineError
    raise kind(f"no backend can serve here: {in_words(search.passed_over)}")


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
        f"{in_words(passed_over)}; mend that, open without strict, or ask for a backend by name"
    )
