"""`python -m breastseg_benchmark.soak BUNDLE`: streams under three times the load that is carried, for long."""

from __future__ import annotations

import argparse
import gc
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

import numpy as np
from numpy.typing import NDArray

from breastseg_benchmark.memory import resident_bytes
from breastseg_deploy.accounts import POLICIES, Policy
from breastseg_deploy.cli.command import print_json
from breastseg_deploy.events import Delivered, Snapshot
from breastseg_deploy.phantom import phantom_frame
from breastseg_deploy.progress import Progress
from breastseg_deploy.segmenter import Segmenter
from breastseg_deploy.stream import Stream

OVERLOAD = 3.0
THREADS = 8
LIMIT_BYTES = 5_000_000
"""Growth that a soak may show after its first tenth."""
_FRAMES = 10
_TIMED_CALLS = 100


@dataclass(frozen=True)
class StreamSoak:
    """One policy under load.

    Attributes:
        frames: that were submitted.
        delivered, dropped, refused, failed: what became of them.
        seconds: from the first submission to the last event.
        grown_bytes: resident memory after the last event, less that after the first tenth of the submissions.
        longest_age_s: of a delivered frame.
        longest_call_s: of the stream's calls.
        allowed_age_s: (depth + 1) x the longest call.
        unbalanced: snapshots in which the counters did not add up.
    """

    policy: Policy
    depth: int
    frames: int
    delivered: int
    dropped: int
    refused: int
    failed: int
    seconds: float
    grown_bytes: int
    p50_age_s: float
    p99_age_s: float
    longest_age_s: float
    longest_call_s: float
    allowed_age_s: float
    unbalanced: int


@dataclass(frozen=True)
class Growth:
    """What many repetitions left behind: memory after the last one less that after the first tenth, and what else."""

    what: str
    repetitions: int
    seconds: float
    grown_bytes: int
    threads: int
    open_files: int
    wrong: int


def soak_stream(segmenter: Segmenter, policy: Policy, frames: int, depth: int = 8) -> StreamSoak:
    """Submit frames at three times the rate that calls one after the other carry, and take all events."""
    phantoms = _phantoms(segmenter)
    call_s = median(_seconds(lambda: segmenter(phantoms[0], probability=False)) for _ in range(_TIMED_CALLS))
    places = 1 if policy == "latest" else depth
    longest, unbalanced = 0.0, 0
    started = time.monotonic()
    early: list[int] = []
    with segmenter.stream(policy, depth=depth, probability=False) as stream:
        source = threading.Thread(
            target=_submit_all, args=(stream, phantoms, frames, call_s / OVERLOAD, lambda: early.append(_memory()))
        )
        source.start()
        for number, event in enumerate(stream):
            if isinstance(event, Delivered):
                longest = max(longest, event.timings["total"])
            if number % 50 == 0:
                unbalanced += not _adds_up(stream.snapshot())
        source.join()
        counts = stream.snapshot()
    unbalanced += not _adds_up(counts)
    return StreamSoak(
        policy=policy,
        depth=places,
        frames=counts.submitted,
        delivered=counts.delivered,
        dropped=sum(counts.dropped.values()),
        refused=sum(counts.refused.values()),
        failed=counts.failed,
        seconds=time.monotonic() - started,
        grown_bytes=_memory() - early[0],
        p50_age_s=counts.latency.p50_s,
        p99_age_s=counts.latency.p99_s,
        longest_age_s=counts.latency.max_s,
        longest_call_s=longest,
        allowed_age_s=(places + 1) * longest,
        unbalanced=unbalanced,
    )


def soak_threads(segmenter: Segmenter, calls: int) -> Growth:
    """Calls from 8 threads at once; `wrong` counts masks that differ from those of calls one after the other."""
    phantoms = _phantoms(segmenter)
    expected = [segmenter(frame, probability=False).mask for frame in phantoms]

    def is_wrong(number: int) -> bool:
        which = number % len(phantoms)
        return not np.array_equal(segmenter(phantoms[which], probability=False).mask, expected[which])

    # The same threads to the end, each with buffers of its own; a future for each call would be memory, too.
    with ThreadPoolExecutor(THREADS) as pool:
        all_there = threading.Barrier(THREADS)
        list(pool.map(lambda _: all_there.wait(), range(THREADS)))  # a pool makes its threads as it needs them

        def repeat(numbers: range) -> int:
            shares = [numbers[start::THREADS] for start in range(THREADS)]
            return sum(pool.map(lambda share: sum(map(is_wrong, share)), shares))

        return _grown(f"calls by {THREADS} threads", calls, repeat)


def soak_opening(bundle: Path, backend: str, times: int) -> Growth:
    """Open the bundle, segment one frame by a stream, close both; `wrong` counts frames without a result."""

    def repeat(numbers: range) -> int:
        return sum(_opened_once(bundle, backend) for _ in numbers)

    return _grown("open, stream, close", times, repeat)


def _opened_once(bundle: Path, backend: str) -> bool:
    with Segmenter.open(bundle, backend) as segmenter, segmenter.stream() as stream:
        stream.submit(np.zeros(segmenter.manifest.frame.size_px, np.uint8))
        stream.finish()
        return not all(isinstance(event, Delivered) for event in stream)


def _grown(what: str, repetitions: int, repeat: Callable[[range], int]) -> Growth:
    started = time.monotonic()
    first = max(1, repetitions // 10)
    wrong = repeat(range(first))
    before = _memory(), threading.active_count(), _open_files()
    wrong += repeat(range(first, repetitions))
    after = _memory(), threading.active_count(), _open_files()
    grown = [late - early for late, early in zip(after, before, strict=True)]
    return Growth(what, repetitions, time.monotonic() - started, grown[0], grown[1], grown[2], wrong)


def _submit_all(
    stream: Stream, phantoms: Sequence[NDArray[np.uint8]], frames: int, every_s: float, warm: Callable[[], object]
) -> None:
    """Frames at even times; one that is late, because "block" let it wait, is handed in at once."""
    started = time.monotonic()
    for number in range(frames):
        wait_s = started + number * every_s - time.monotonic()
        if wait_s > 0:
            time.sleep(wait_s)
        stream.submit(phantoms[number % len(phantoms)])
        if number == frames // 10:
            warm()
    stream.finish()


def _phantoms(segmenter: Segmenter) -> list[NDArray[np.uint8]]:
    return [phantom_frame(number, segmenter.manifest.frame.size_px).frame for number in range(_FRAMES)]


def _adds_up(counts: Snapshot) -> bool:
    ended = counts.delivered + sum(counts.dropped.values()) + sum(counts.refused.values()) + counts.failed
    return counts.submitted == ended + counts.in_flight


def _memory() -> int:
    gc.collect()
    return resident_bytes(os.getpid())


def _open_files() -> int:
    """0 where the system does not say."""
    place = Path("/proc/self/fd")
    return len(list(place.iterdir())) if place.is_dir() else 0


def _seconds(call: Callable[[], object]) -> float:
    started = time.monotonic()
    call()
    return time.monotonic() - started


def _soaks(arguments: argparse.Namespace) -> Iterator[Callable[[], StreamSoak | Growth]]:
    bundle, backend, frames = arguments.bundle, arguments.backend, arguments.frames
    with Segmenter.open(bundle, backend) as segmenter:
        for policy in POLICIES:
            yield lambda policy=policy: soak_stream(segmenter, policy, frames)  # type: ignore[misc]
        yield lambda: soak_threads(segmenter, frames)
    yield lambda: soak_opening(bundle, backend, arguments.openings)


def main(words: Sequence[str] | None = None) -> int:
    """Run all soaks; the exit code is 1 where one grew, lost a frame or kept one for too long."""
    parser = argparse.ArgumentParser(prog="python -m breastseg_benchmark.soak", description=__doc__)
    parser.add_argument("bundle", type=Path, help="best one for small frames: `breastseg-export demo --size 64`")
    parser.add_argument("--backend", default="auto", help="default: %(default)s")
    parser.add_argument("--frames", type=int, default=10_000, help="per policy, and calls by threads (%(default)s)")
    parser.add_argument("--openings", type=int, default=500, help="times that the bundle is opened (%(default)s)")
    arguments = parser.parse_args(words)
    found = []
    for soak in _soaks(arguments):
        with Progress("soak"):
            found.append(soak())
        print_json({"soak": type(found[-1]).__name__, **asdict(found[-1]), "passed": passed(found[-1])})
    return 0 if all(passed(one) for one in found) else 1


def passed(found: StreamSoak | Growth) -> bool:
    """Whether it kept what docs/streams.md promises."""
    if found.grown_bytes > LIMIT_BYTES:
        return False
    if isinstance(found, Growth):
        return not (found.wrong or found.threads > 0 or found.open_files > 0)
    live = found.policy in ("drop_oldest", "latest")
    return not found.unbalanced and not found.failed and (not live or found.longest_age_s <= found.allowed_age_s)


if __name__ == "__main__":
    sys.exit(main())
