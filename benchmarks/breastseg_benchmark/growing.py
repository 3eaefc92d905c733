"""How time and memory grow: with the batch, with the frame's size, and with the number of frames."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from breastseg_benchmark.contestants import NotRunError, Running, in_turn, seconds_of
from breastseg_benchmark.entrants import runtime_contestant
from breastseg_benchmark.growth import LEAST_SAMPLES, growth_bytes
from breastseg_benchmark.results import BatchPoint, Distribution, Growth, MemoryGrowth, SizePoint
from breastseg_deploy.bundle import Bundle
from breastseg_deploy.contract import rgb_batch
from breastseg_deploy.errors import ContractError
from breastseg_deploy.phantom import phantom_frames
from breastseg_deploy.progress import Progress, followed

_SAMPLES = 40
"""Looks at resident memory over a run."""


@dataclass(frozen=True)
class GrowthPlan:
    """What of growth is measured.

    Attributes:
        batches: frames per call.
        rounds: calls of each batch and of each size, in turn.
        sizes: bundles of the same checkpoint for other frame sizes: a bundle takes frames of one size only.
        frames: how many one process segments while its memory is watched; 0 for none.

    Raises:
        ContractError: too few frames to tell growth from noise.
    """

    batches: tuple[int, ...] = tuple(range(1, 9))
    rounds: int = 5
    sizes: tuple[Path, ...] = ()
    frames: int = 2000

    def __post_init__(self) -> None:
        if self.frames and self.frames < LEAST_SAMPLES:
            raise ContractError(
                f"growth of memory needs at least {LEAST_SAMPLES} frames, got {self.frames}; ask for more, or for 0"
            )

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to measure."""
        return not (self.batches or self.sizes or self.frames)


def measure_growth(plan: GrowthPlan, bundle: Bundle, backend: str, scratch: Path, timeout_s: float) -> Growth:
    """Measure one backend's growth; a part in which it fails is left empty.

    Args:
        plan: what.
        bundle: opened.
        backend: by name.
        scratch: a folder for frames.
        timeout_s: longest wait for one answer.

    Raises:
        BundleError: one of the plan's bundles is missing, incomplete or altered.
    """
    with ExitStack() as stack:
        running = stack.enter_context(_process(bundle, backend, scratch, timeout_s))
        try:
            running.open()
            memory = _over_frames(running, plan.frames) if plan.frames else None
            batches = _over_batches(running, plan.batches, plan.rounds)
        except NotRunError as err:
            return Growth(backend=backend, not_run=str(err))
    sizes = [bundle, *(Bundle.open(path) for path in plan.sizes)] if plan.sizes else []
    points = _over_sizes(sizes, backend, scratch, plan.rounds, timeout_s)
    return Growth(backend=backend, batches=tuple(batches), sizes=tuple(points), memory=memory)


def _process(bundle: Bundle, backend: str, scratch: Path, timeout_s: float) -> Running:
    """The runtime on phantoms of the bundle's size, one with cells and one without."""
    size_px = bundle.manifest.frame.size_px
    place = scratch / f"phantoms-{size_px[0]}x{size_px[1]}.npy"
    np.save(place, np.concatenate([rgb_batch(phantom.frame, size_px) for phantom in phantom_frames(2, size_px)]))
    return Running(runtime_contestant(bundle.path, backend), place, timeout_s)


def _over_frames(running: Running, frames: int) -> MemoryGrowth | None:
    step = max(1, frames // _SAMPLES)
    counts = [step] * (frames // step)
    resident = [running.repeat(0)]
    with Progress("growth over frames", sum(counts), "frames") as progress:
        for count in counts:
            resident.append(running.repeat(count))
            progress.update(count)
    seen = [bytes_ for bytes_ in resident if bytes_ is not None]
    if len(seen) < len(resident):
        return None
    return MemoryGrowth(frames=sum(counts), resident_bytes=tuple(seen), growth_bytes=growth_bytes(seen))


def _over_batches(running: Running, batches: Sequence[int], rounds: int) -> list[BatchPoint]:
    """Memory on the way up, the smallest batch first, since allocators keep what they took; then time, in turn."""
    peaks: dict[int, int | None] = {}
    running.peak()
    for batch in followed(sorted(batches), "memory of the batches", "batches"):
        running.time(0, batch)
        peaks[batch] = running.peak()
    seconds: dict[int, list[float]] = {batch: [] for batch in peaks}
    for number in followed(range(rounds), "time of the batches", "rounds"):
        for batch, taken in seconds.items():
            taken.append(running.time(number, batch).seconds)
    return [
        BatchPoint(batch=batch, latency=Distribution.of(taken), resident_peak_bytes=peaks[batch])
        for batch, taken in seconds.items()
    ]


def _over_sizes(
    bundles: Sequence[Bundle], backend: str, scratch: Path, rounds: int, timeout_s: float
) -> list[SizePoint]:
    """Every bundle in a process of its own, called in turn; one that fails is left out."""
    by_size: Mapping[str, Bundle] = {str(bundle.manifest.frame.size_px): bundle for bundle in bundles}
    with ExitStack() as stack:
        running: dict[str, Running] = {}
        for name, bundle in followed(list(by_size.items()), "loading other sizes", "sizes"):
            process = stack.enter_context(_process(bundle, backend, scratch, timeout_s))
            try:
                process.open()
                process.time(0)
            except NotRunError:
                continue
            running[name] = process
        with Progress("time of the sizes", rounds, "rounds") as progress:
            calls = in_turn(running, rounds, 2, lambda _name, _err: None, progress.update)
        points = [
            SizePoint(
                size_px=by_size[name].manifest.frame.size_px,
                latency=Distribution.of(seconds_of(taken)),
                resident_peak_bytes=running[name].memory().resident_peak_bytes,
            )
            for name, taken in calls.items()
        ]
    return sorted(points, key=lambda point: point.size_px)
