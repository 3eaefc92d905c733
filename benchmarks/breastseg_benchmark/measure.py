"""One run: every backend of this machine, the paper's pipeline and peers, in turn on the same frames."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

import numpy as np
from numpy.typing import NDArray

from breastseg_benchmark.agreement import agreement
from breastseg_benchmark.contestants import OPEN_TIMEOUT_S, Contestant, NotRunError, Running, Timed, in_turn, seconds_of
from breastseg_benchmark.entrants import backend_contestants, runtime_contestant
from breastseg_benchmark.environment import environment, now
from breastseg_benchmark.frames import BenchmarkFrames, benchmark_frames, decoding
from breastseg_benchmark.growing import GrowthPlan, measure_growth
from breastseg_benchmark.results import BundleFacts, Distribution, Ratio, Results, Row
from breastseg_deploy.backends.select import AUTO, BY_NAME_ONLY
from breastseg_deploy.bundle import Bundle
from breastseg_deploy.progress import Progress


@dataclass(frozen=True)
class Plan:
    """What is measured.

    Attributes:
        bundle: the bundle's folder.
        command: that asked for it, for the record.
        frames: folder of frames, or None for phantoms.
        bit_depth: of uint16 files.
        most_frames: of the folder, the first ones; None for all.
        rounds: calls of each contestant.
        backends: names; empty for all that the runtime knows.
        reference: the float32 reference, whose masks every Dice is against; without it the bundle's goldens are.
        paper: the paper's pipeline.
        peers: others, each measured in turn with the runtime.
        growth: how growth is measured.
        short: whether absolute figures are held to no budget.
        timeout_s: longest wait for one answer of a contestant.
    """

    bundle: Path
    command: str
    frames: Path | None = None
    bit_depth: int | None = None
    most_frames: int | None = None
    rounds: int = 30
    backends: tuple[str, ...] = ()
    reference: Contestant | None = None
    paper: Contestant | None = None
    peers: tuple[Contestant, ...] = ()
    growth: GrowthPlan = field(default_factory=GrowthPlan)
    short: bool = False
    timeout_s: float = OPEN_TIMEOUT_S


def measure(plan: Plan, say: Callable[[str], None] = lambda _: None) -> Results:
    """Measure all that the plan asks for and this machine can run; the rest says why not.

    Args:
        plan: what.
        say: told about each step, in a sentence.

    Raises:
        BackendError: a backend that nobody knows.
        BundleError: the bundle is missing, incomplete or altered.
        FrameError: no frames, or frames that break the bundle's contract.
        MachineError: OpenCV is not installed.
    """
    bundle = Bundle.open(plan.bundle)
    facts = environment()
    backends = backend_contestants(bundle, plan.backends)
    with tempfile.TemporaryDirectory(prefix="breastseg-benchmark-") as place:
        scratch = Path(place)
        frames = benchmark_frames(bundle, plan.frames, scratch / "frames", plan.bit_depth, plan.most_frames)
        run = _Run(plan, frames, scratch, say)
        runtime = run.chosen_backend(backends)
        rows = run.backends_and_paper(backends, runtime) + run.peers(runtime)
        growth = None
        if not plan.growth.is_empty and runtime is not None:
            say(f"growth of {runtime.name}: batches, sizes, memory over {plan.growth.frames} frames")
            growth = measure_growth(plan.growth, bundle, runtime.name, scratch, plan.timeout_s)
        return Results(
            made_at=now(),
            command=plan.command,
            environment=facts,
            bundle=_bundle_facts(bundle),
            frames=frames.description,
            rounds=plan.rounds,
            short=plan.short,
            runtime=runtime.name if runtime else None,
            rows=tuple(rows),
            decode=decoding(frames, plan.rounds),
            growth=growth,
        )


def _bundle_facts(bundle: Bundle) -> BundleFacts:
    manifest = bundle.manifest
    return BundleFacts(
        name=manifest.name,
        encoder=manifest.encoder,
        precision=manifest.precision,
        size_px=manifest.frame.size_px,
        built_at=manifest.built_at,
    )


def _idle(contestant: Contestant, why: str) -> Row:
    return Row(name=contestant.name, kind=contestant.kind, on_gpu=contestant.on_gpu, not_run=why)


@dataclass(frozen=True)
class _Ready:
    """A contestant that is loaded and has segmented every frame once."""

    running: Running
    open_s: float
    facts: Mapping[str, str]
    first_frame_s: float
    masks: NDArray[np.uint8]


class _Run:
    """A run's frames, and rows made on them."""

    def __init__(self, plan: Plan, frames: BenchmarkFrames, scratch: Path, say: Callable[[str], None]) -> None:
        self._plan, self._scratch, self._say = plan, scratch, say
        self._truths = frames.truths
        self._count = len(frames.rgb)
        self._file = scratch / "frames.npy"
        np.save(self._file, frames.rgb)
        self._references = self._reference_masks(frames.references)

    def chosen_backend(self, backends: Sequence[Contestant]) -> Contestant | None:
        """The one of these that the runtime takes by itself here; None where it takes none of them."""
        usable = {one.name: one for one in backends if one.not_run is None and one.name not in BY_NAME_ONLY}
        if len(usable) < 2:
            return next(iter(usable.values()), None)
        try:
            runtime = runtime_contestant(self._plan.bundle, AUTO)
            with Progress("the runtime's choice"), Running(runtime, self._file, self._plan.timeout_s) as running:
                chosen = running.open()[1]["backend"]
        except NotRunError as err:
            self._say(f"the runtime cannot choose a backend: {err}")
            return None
        return usable.get(chosen, next(iter(usable.values())))

    def backends_and_paper(self, backends: Sequence[Contestant], runtime: Contestant | None) -> list[Row]:
        """Rows of all backends and of the paper's pipeline, measured in turn."""
        entrants = list(backends) + ([self._plan.paper] if self._plan.paper else [])
        return self._rows(entrants, runtime.name if runtime else None)

    def peers(self, runtime: Contestant | None) -> list[Row]:
        """Rows of the peers, each in turn with the runtime; the runtime stays loaded, the peers come and go."""
        usable = any(peer.not_run is None for peer in self._plan.peers)
        with ExitStack() as stack:
            beside: dict[str, Running] = {}
            if runtime is not None and usable:
                process = stack.enter_context(self._process(runtime))
                with suppress(NotRunError), Progress(f"loading {runtime.name}"):  # it ran a moment ago
                    process.open()
                    process.time(0)
                    beside[runtime.name] = process
            return [self._peer(peer, beside, runtime.name if runtime else None) for peer in self._plan.peers]

    def _peer(self, peer: Contestant, beside: Mapping[str, Running], runtime: str | None) -> Row:
        if peer.not_run is not None:
            return _idle(peer, peer.not_run)
        self._say(f"loading {peer.name}")
        try:
            with self._process(peer) as process:
                ready = self._prepare(process)
                calls, lost = self._calls({**beside, peer.name: process})
                return self._row(peer, ready, calls, runtime) if peer.name in calls else _idle(peer, lost[peer.name])
        except NotRunError as err:
            return _idle(peer, str(err))

    def _reference_masks(self, known: Sequence[NDArray[np.uint8] | None]) -> Sequence[NDArray[np.uint8] | None]:
        reference = self._plan.reference
        if reference is None:
            return known
        self._say(f"masks of the {reference.name}")
        try:
            with Progress("reference"), Running(reference, self._file, self._plan.timeout_s) as running:
                running.open()
                return list(running.masks(self._scratch))
        except NotRunError as err:
            self._say(f"the {reference.name} cannot run ({err}); Dice is against the bundle's goldens")
            return known

    def _rows(self, entrants: Sequence[Contestant], runtime: str | None) -> list[Row]:
        """Load them all, call them in turn, and make their rows, in the order given."""
        lost = {one.name: one.not_run for one in entrants if one.not_run is not None}
        with ExitStack() as stack:
            ready: dict[str, _Ready] = {}
            for one in entrants:
                if one.name in lost:
                    continue
                self._say(f"loading {one.name}")
                try:
                    ready[one.name] = self._prepare(stack.enter_context(self._process(one)))
                except NotRunError as err:
                    lost[one.name] = str(err)
            calls, lost_in_turn = self._calls({name: one.running for name, one in ready.items()})
            lost |= lost_in_turn
            return [
                self._row(one, ready[one.name], calls, runtime) if one.name in calls else _idle(one, lost[one.name])
                for one in entrants
            ]

    def _calls(self, running: Mapping[str, Running]) -> tuple[dict[str, list[Timed]], dict[str, str]]:
        """Calls in turn by name, and why some have none."""
        lost: dict[str, str] = {}
        self._say(f"{self._plan.rounds} rounds of {', '.join(running) or 'nothing'}")
        with Progress("rounds", self._plan.rounds, "rounds") as progress:
            calls = in_turn(
                running,
                self._plan.rounds,
                self._count,
                lambda name, err: lost.update({name: str(err)}),
                progress.update,
            )
        return calls, lost

    def _process(self, contestant: Contestant) -> Running:
        return Running(contestant, self._file, self._plan.timeout_s)

    def _prepare(self, running: Running) -> _Ready:
        with Progress(f"loading {running.contestant.name}, and its masks of {self._count} frames"):
            open_s, facts = running.open()
            first = running.time(0)
            return _Ready(running, open_s, facts, first.seconds, running.masks(self._scratch))

    def _row(self, one: Contestant, ready: _Ready, calls: Mapping[str, list[Timed]], runtime: str | None) -> Row:
        own = calls[one.name]
        seconds = seconds_of(own)
        paper = self._plan.paper.name if self._plan.paper else None

        def ratio(other: str | None) -> Ratio | None:
            return Ratio.of(seconds, seconds_of(calls[other])) if other in calls and other is not None else None

        return Row(
            name=one.name,
            kind=one.kind,
            on_gpu=one.on_gpu,
            detail=ready.facts.get("detail", ""),
            open_s=ready.open_s,
            first_frame_s=ready.first_frame_s,
            latency=Distribution.of(seconds),
            stages_s={stage: median(call.stages_s[stage] for call in own) for stage in own[0].stages_s},
            agreement=agreement(list(ready.masks), self._references),
            truth=agreement(list(ready.masks), self._truths),
            memory=ready.running.memory(),
            ratio_to_paper=ratio(paper),
            ratio_to_runtime=ratio(runtime),
        )
