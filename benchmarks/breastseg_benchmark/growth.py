"""How time and memory grow: with the batch, with the frame's size, and with the number of frames."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from breastseg_benchmark.implementations import runtime_implementation
from breastseg_benchmark.process import NotRunError, Process, Timed, in_turn, seconds_of
from breastseg_benchmark.results import BatchPoint, Distribution, Growth, MemoryGrowth, SizePoint
from breastseg_deploy.bundle import Bundle
from breastseg_deploy.contract import rgb_batch
from breastseg_deploy.errors import ArgumentError
from breastseg_deploy.phantom import phantom_frames
from breastseg_deploy.progress import Progress, followed

LEAST_SAMPLES = 8
"""Two in each quarter of a run; see `growth_bytes`."""

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
        ArgumentError: too few frames to tell growth from noise.
    """

    batches: tuple[int, ...] = tuple(range(1, 9))
    rounds: int = 5
    sizes: tuple[Path, ...] = ()
    frames: int = 2000

    def __post_init__(self) -> None:
        if self.frames and self.frames < LEAST_SAMPLES:
            raise ArgumentError(
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
    with _process(bundle, backend, scratch, timeout_s) as process:
        try:
            process.open()
            memory = over_frames(process, plan.frames) if plan.frames else None
            batches = _over_batches(process, plan.batches, plan.rounds)
        except NotRunError as err:
            return Growth(backend=backend, not_run=str(err))
    sizes = [bundle, *(Bundle.open(path) for path in plan.sizes)] if plan.sizes else []
    points = _over_sizes(sizes, backend, scratch, plan.rounds, timeout_s)
    return Growth(backend=backend, batches=tuple(batches), sizes=tuple(points), memory=memory)


def over_frames(process: Process, frames: int) -> MemoryGrowth:
    """Resident memory of an open implementation while it segments frame after frame."""
    step = max(1, frames // _SAMPLES)
    counts = [step] * (frames // step)
    resident = [process.repeat(0)]
    with Progress("growth over frames", sum(counts), "frames") as progress:
        for count in counts:
            resident.append(process.repeat(count))
            progress.update(count)
    return MemoryGrowth(frames=sum(counts), resident_bytes=tuple(resident), growth_bytes=growth_bytes(resident))


def growth_bytes(resident_bytes: Sequence[int]) -> int:
    """How much resident memory grew from the second quarter of a run to its last.

    The first quarter is not counted: arenas and caches fill up once. Medians are taken because a page that comes and
    goes is no growth. Half a run lies between the middles of the two quarters, so a steady leak of b bytes per sample
    shows as b * samples / 2.

    Args:
        resident_bytes: at equal distances.

    Returns:
        The difference of the two medians; negative where memory was given back.

    Raises:
        ArgumentError: fewer than 8 samples.
    """
    if len(resident_bytes) < LEAST_SAMPLES:
        raise ArgumentError(
            f"growth of memory needs at least {LEAST_SAMPLES} samples, got {len(resident_bytes)}; measure more frames"
        )
    quarter = len(resident_bytes) // 4
    early = np.median(resident_bytes[quarter : 2 * quarter])
    late = np.median(resident_bytes[-quarter:])
    return round(float(late - early))


def _process(bundle: Bundle, backend: str, scratch: Path, timeout_s: float) -> Process:
    """The runtime on phantoms of the bundle's size, one with cells and one without."""
    size_px = bundle.manifest.frame.size_px
    place = scratch / f"phantoms-{size_px[0]}x{size_px[1]}.npy"
    np.save(place, rgb_batch([phantom.frame for phantom in phantom_frames(2, size_px)], size_px))
    return Process(runtime_implementation(bundle.path, backend), place, timeout_s)


def _over_batches(process: Process, batches: Sequence[int], rounds: int) -> list[BatchPoint]:
    """Memory on the way up, the smallest batch first, since allocators keep what they took; then time, in turn."""
    peaks: dict[int, int | None] = {}
    process.peak()
    for batch in followed(sorted(batches), "memory of the batches", "batches"):
        process.time(0, batch)
        peaks[batch] = process.peak()
    seconds: dict[int, list[float]] = {batch: [] for batch in peaks}
    for number in followed(range(rounds), "time of the batches", "rounds"):
        for batch, measured in seconds.items():
            measured.append(process.time(number, batch).seconds)
    return [
        BatchPoint(batch=batch, latency=Distribution.of(measured), resident_peak_bytes=peaks[batch])
        for batch, measured in seconds.items()
    ]


def _over_sizes(
    bundles: Sequence[Bundle], backend: str, scratch: Path, rounds: int, timeout_s: float
) -> list[SizePoint]:
    """Every bundle in a process of its own, called in turn; one that fails is omitted."""
    by_size: Mapping[str, Bundle] = {str(bundle.manifest.frame.size_px): bundle for bundle in bundles}
    with ExitStack() as stack:
        open_now: dict[str, Process] = {}
        for name, bundle in followed(list(by_size.items()), "loading other sizes", "sizes"):
            process = stack.enter_context(_process(bundle, backend, scratch, timeout_s))
            try:
                process.open()
                process.time(0)
            except NotRunError:
                continue
            open_now[name] = process
        callers = {name: process.time_in_turn for name, process in open_now.items()}
        with Progress("time of the sizes", rounds, "rounds") as progress:
            calls, _ = in_turn(callers, rounds, 2, progress.update)
        points = [_size_point(by_size[name], open_now[name], measured) for name, measured in calls.items()]
    return sorted(points, key=lambda point: point.size_px)


def _size_point(bundle: Bundle, process: Process, calls: Sequence[Timed]) -> SizePoint:
    return SizePoint(
        size_px=bundle.manifest.frame.size_px,
        latency=Distribution.of(seconds_of(calls)),
        resident_peak_bytes=process.memory().resident_peak_bytes,
    )
