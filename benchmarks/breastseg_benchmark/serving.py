"""The child's side of a measurement: one contestant in a process of its own, asked by lines of JSON.

A process of its own keeps libraries from sharing threads, memory and failures: what it holds is what the contestant
costs. Time is taken here, around the call alone, so asking costs nothing that is measured.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TextIO

import numpy as np
from numpy.typing import NDArray

from breastseg_benchmark.memory import MemoryWatch, reset_peak, resident_bytes, resident_peak_bytes
from breastseg_deploy.errors import BreastsegError

_REASON_LENGTH = 300


@dataclass(frozen=True)
class Answer:
    """A contestant's answer to a batch.

    Attributes:
        mask: (N, H, W) uint8 on the host, 0 or 1.
        stages_s: seconds by stage, where it knows its stages.
    """

    mask: NDArray[np.uint8]
    stages_s: Mapping[str, float] = field(default_factory=dict)


class Contestant(Protocol):
    """Something that segments.

    Attributes:
        facts: about it, in words, by name.
    """

    facts: Mapping[str, str]

    def __call__(self, rgb: NDArray[np.uint8]) -> Answer:
        """Segment a batch (N, H, W, 3) uint8; when it returns, the mask lies on the host."""


def serve(open_contestant: Callable[[], Contestant], frames: Path) -> int:
    """Answer requests from stdin until it ends.

    Args:
        open_contestant: loads it.
        frames: a .npy file, (F, H, W, 3) uint8.

    Requests are objects with a field "do", answers are objects; a failure is `{"error": ..., "kind": ...}`:
        open: {"seconds", "facts"}.
        time {"start", "count"}: one call on `count` frames from number `start` on, beginning anew after the last:
            {"seconds", "stages"}.
        masks {"into"}: every frame by itself; writes (F, H, W) uint8 to that .npy file.
        repeat {"times"}: so many calls of one frame each: {"resident"}, bytes afterwards.
        peak: {"resident_peak"} since the last question; begins a new peak where the system can.
        memory: `Memory` as an object.
    """
    answers = _own_stdout()
    desk = _Desk(open_contestant, np.load(frames, mmap_mode="r"))
    for request in _requests():
        try:
            answer = desk.answer(request)
        except BreastsegError as err:
            answer = {"error": str(err), "kind": type(err).__name__}
        except Exception as err:  # a contestant may fail in any way; the run goes on without it
            reason = " ".join(str(err).split())[:_REASON_LENGTH]
            answer = {"error": f"{type(err).__name__}: {reason}", "kind": type(err).__name__}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()
    return 0


class _Desk:
    """Answers requests."""

    def __init__(self, open_contestant: Callable[[], Contestant], frames: NDArray[np.uint8]) -> None:
        self._open = open_contestant
        self._frames = frames
        self._watch = MemoryWatch()
        self._contestant: Contestant | None = None
        self._next = 0

    def answer(self, request: Mapping[str, Any]) -> dict[str, Any]:
        what = request["do"]
        if what == "open":
            started = time.perf_counter()
            self._contestant = self._open()
            return {"seconds": time.perf_counter() - started, "facts": dict(self._contestant.facts)}
        if what == "time":
            answer, seconds = self._call(int(request["start"]), int(request["count"]))
            return {"seconds": seconds, "stages": dict(answer.stages_s)}
        if what == "masks":
            masks = [self._call(number, 1)[0].mask[0] for number in range(len(self._frames))]
            np.save(request["into"], np.stack(masks))
            self._watch.look()
            return {}
        if what == "repeat":
            for _ in range(int(request["times"])):
                self._call(self._next, 1)
                self._next += 1
            return {"resident": resident_bytes()}
        if what == "peak":
            peak = resident_peak_bytes()
            reset_peak()
            return {"resident_peak": peak}
        if what == "memory":
            return self._watch.memory().model_dump()
        raise ValueError(f"no request {what!r}")

    def _call(self, start: int, count: int) -> tuple[Answer, float]:
        if self._contestant is None:
            raise ValueError("nothing is open yet")
        chosen = np.array([self._frames[number % len(self._frames)] for number in range(start, start + count)])
        started = time.perf_counter()
        answer = self._contestant(chosen)
        seconds = time.perf_counter() - started
        wanted = chosen.shape[:3]
        if answer.mask.shape != wanted or answer.mask.dtype != np.uint8:
            raise ValueError(f"a mask must be uint8 {wanted}, got {answer.mask.dtype} {answer.mask.shape}")
        return answer, seconds


def _requests() -> Iterator[Mapping[str, Any]]:
    for line in sys.stdin:
        yield json.loads(line)


def _own_stdout() -> TextIO:
    """The pipe to the parent, for answers alone: whatever else is printed, by C libraries too, goes to stderr."""
    pipe = os.dup(sys.stdout.fileno())
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    return os.fdopen(pipe, "w", encoding="utf-8")
