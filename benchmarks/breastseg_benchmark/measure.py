"""One run: every backend of this machine, the paper's pipeline and peers, in turn on the same frames."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

import numpy as np
from numpy.typing import NDArray

from breastseg_benchmark.environment import environment, now
from breastseg_benchmark.frames import BenchmarkFrames, benchmark_frames, decoding
from breastseg_benchmark.growth import GrowthPlan, measure_growth
from breastseg_benchmark.implementations import Implementation, backend_implementations, runtime_implementation
from breastseg_benchmark.process import OPEN_TIMEOUT_S, NotRunError, Process, Timed, in_turn, seconds_of
from breastseg_benchmark.profile import profiles
from breastseg_benchmark.results import Agreement, BundleFacts, Distribution, Memory, Ratio, Results, Row
from breastseg_benchmark.threads import measure_threads
from breastseg_deploy.backends.select import AUTO
from breastseg_deploy.bundle import Bundle
from breastseg_deploy.progress import Progress

_WARM_UP = 3
"""Unmeasured calls of everything that is called in turn, before the first round: allocators and threads settle."""


@dataclass(frozen=True)
class Plan:
    """What is measured.

    Attributes:
        bundle: the bundle's folder.
        command: that asked for it, for the record.
        frames: folder of frames, or None for phantoms.
        bit_depth: of uint16 files.
        most_frames: of the folder, the first ones; None for all.
        rounds: calls of each implementation.
        backends: names; empty for all that the runtime knows.
        reference: the float32 reference, whose masks every Dice is against; without it the bundle's goldens are.
        paper: the paper's pipeline.
        peers: others, each measured in turn with the runtime.
        growth: how growth is measured.
        profile: whether the layers of the backends are counted whose engine does that.
        threads: whether threads and frames side by side are measured.
        short: whether absolute figures are held to no budget.
        timeout_s: longest wait for one answer of an implementation.
    """

    bundle: Path
    command: str
    frames: Path | None = None
    bit_depth: int | None = None
    most_frames: int | None = None
    rounds: int = 30
    backends: tuple[str, ...] = ()
    reference: Implementation | None = None
    paper: Implementation | None = None
    peers: tuple[Implementation, ...] = ()
    growth: GrowthPlan = field(default_factory=GrowthPlan)
    profile: bool = False
    threads: bool = False
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
        MachineError: a library of the extra `benchmark` or OpenCV is not installed.
    """
    bundle = Bundle.open(plan.bundle)
    facts = environment()
    backends = backend_implementations(bundle, plan.backends)
    with tempfile.TemporaryDirectory(prefix="breastseg-benchmark-") as place:
        scratch = Path(place)
        frames = benchmark_frames(bundle, plan.frames, scratch / "frames", plan.bit_depth, plan.most_frames)
        run = _Run(plan, frames, scratch, say)
        runtime = runtime_choice(backends, run.chosen_by_auto)
        rows = run.rows([*backends, *([plan.paper] if plan.paper else [])], runtime)
        for peer in plan.peers:
            rows += run.rows([peer], runtime)
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
            profiles=profiles(bundle, plan.backends, frames.rgb, plan.rounds) if plan.profile else (),
            threads=measure_threads(bundle, frames.rgb, plan.rounds) if plan.threads else None,
        )


def runtime_choice(
    backends: Sequence[Implementation], chosen_by_auto: Callable[[], str | None]
) -> Implementation | None:
    """The one of these backends that the runtime chooses by itself here; None where it chooses none of them.

    Args:
        backends: that take part.
        chosen_by_auto: the name that the runtime chooses, among all backends; asked only where there is a choice.
    """
    usable = {one.name: one for one in backends if one.not_run is None and not one.by_name_only}
    if len(usable) < 2:
        return next(iter(usable.values()), None)
    chosen = chosen_by_auto()
    return None if chosen is None else usable.get(chosen, next(iter(usable.values())))


def _bundle_facts(bundle: Bundle) -> BundleFacts:
    manifest = bundle.manifest
    return BundleFacts(
        name=manifest.name,
        encoder=manifest.encoder,
        precision=manifest.precision,
        size_px=manifest.frame.size_px,
        built_at=manifest.built_at,
    )


@dataclass(frozen=True)
class _Alone:
    """What an implementation showed while no other process was there."""

    open_s: float
    facts: Mapping[str, str]
    first_frame_s: float
    masks: NDArray[np.uint8]
    memory: Memory


class _Run:
    """A run's frames, and rows made on them."""

    def __init__(self, plan: Plan, frames: BenchmarkFrames, scratch: Path, say: Callable[[str], None]) -> None:
        self._plan, self._scratch, self._say = plan, scratch, say
        self._truths = frames.truths
        self._count = len(frames.rgb)
        self._file = scratch / "frames.npy"
        np.save(self._file, frames.rgb)
        self._references = self._reference_masks(frames.references)

    def chosen_by_auto(self) -> str | None:
        """Name of the backend that the runtime chooses by itself; None where it cannot open the bundle."""
        try:
            with (
                Progress("the runtime's choice"),
                self._process(runtime_implementation(self._plan.bundle, AUTO)) as process,
            ):
                return process.open()[1]["backend"]
        except NotRunError as err:
            self._say(f"the runtime cannot choose a backend: {err}")
            return None

    def rows(self, group: Sequence[Implementation], runtime: Implementation | None) -> list[Row]:
        """Rows of a group, in its order: each is alone first, then all are called in turn with the runtime's choice."""
        alone: dict[str, _Alone] = {}
        failed: dict[str, str] = {}
        for one in group:
            try:
                alone[one.name] = self._alone(one)
            except NotRunError as err:
                failed[one.name] = str(err)
        together = [one for one in group if one.name in alone]
        if together and runtime is not None and runtime not in group:
            together.append(runtime)
        calls, failed_in_turn = self._calls(together) if together else ({}, {})
        failed |= failed_in_turn
        return [
            self._row(one, alone[one.name], calls, runtime)
            if one.name in calls
            else _row_not_run(one, failed[one.name])
            for one in group
        ]

    def _reference_masks(self, known: Sequence[NDArray[np.uint8] | None]) -> Sequence[NDArray[np.uint8] | None]:
        reference = self._plan.reference
        if reference is None:
            return known
        self._say(f"masks of the {reference.name}")
        try:
            with self._following(f"masks of the {reference.name}") as progress, self._process(reference) as process:
                process.open()
                return list(process.masks(self._count, self._scratch, progress.update))
        except NotRunError as err:
            self._say(f"the {reference.name} cannot run ({err}); Dice is against the bundle's goldens")
            return known

    def _alone(self, one: Implementation) -> _Alone:
        """Load it with no other process beside it, segment every frame once, and read its memory.

        A GPU backend of the runtime also runs every batch size before: the budget is for all of them.

        Raises:
            NotRunError: it cannot run here.
        """
        if one.not_run is not None:
            raise NotRunError(one.not_run)
        self._say(f"{one.name} alone")
        with self._following(f"{one.name} alone") as progress, self._process(one) as process:
            open_s, facts = process.open()
            first = process.time(0)
            masks = process.masks(self._count, self._scratch, progress.update)
            for batch in self._plan.growth.batches if one.on_gpu and one.kind == "backend" else ():
                process.time(0, batch)
            return _Alone(open_s, facts, first.seconds, masks, process.memory())

    def _calls(self, group: Sequence[Implementation]) -> tuple[dict[str, list[Timed]], dict[str, str]]:
        """Load all of them and call them in turn: calls by name, and why some have none."""
        rounds, failed = self._plan.rounds, {}
        with ExitStack() as stack, Progress("rounds", rounds, "rounds") as progress:
            callers = {}
            for one in group:
                try:
                    process = stack.enter_context(self._process(one))
                    process.open()
                    process.repeat(_WARM_UP)
                    callers[one.name] = process.time_in_turn
                except NotRunError as err:
                    failed[one.name] = str(err)
            self._say(f"{rounds} rounds of {', '.join(callers) or 'nothing'}")
            calls, failed_in_turn = in_turn(callers, rounds, self._count, progress.update)
        return calls, failed | failed_in_turn

    def _following(self, what: str) -> Progress:
        return Progress(what, self._count, "frames")

    def _process(self, implementation: Implementation) -> Process:
        return Process(implementation, self._file, self._plan.timeout_s)

    def _row(
        self, one: Implementation, alone: _Alone, calls: Mapping[str, list[Timed]], runtime: Implementation | None
    ) -> Row:
        own = calls[one.name]
        seconds = seconds_of(own)

        def ratio_to(other: Implementation | None) -> Ratio | None:
            beside = calls.get(other.name) if other is not None else None
            return Ratio.of(seconds, seconds_of(beside)) if beside is not None else None

        return Row(
            name=one.name,
            kind=one.kind,
            on_gpu=one.on_gpu,
            by_name_only=one.by_name_only,
            detail=alone.facts.get("detail", ""),
            open_s=alone.open_s,
            first_frame_s=alone.first_frame_s,
            latency=Distribution.of(seconds),
            stages_s={stage: median(call.stages_s[stage] for call in own) for stage in own[0].stages_s},
            agreement=Agreement.of(list(alone.masks), self._references),
            truth=Agreement.of(list(alone.masks), self._truths),
            memory=alone.memory,
            ratio_to_paper=ratio_to(self._plan.paper),
            ratio_to_runtime=ratio_to(runtime),
        )


def _row_not_run(one: Implementation, why: str) -> Row:
    return Row(name=one.name, kind=one.kind, on_gpu=one.on_gpu, by_name_only=one.by_name_only, not_run=why)
