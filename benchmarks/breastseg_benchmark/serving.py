"""The child's side of a measurement: one implementation in a process of its own, asked by lines of JSON.

A process of its own keeps libraries from sharing threads, memory and failures: what it holds is what the implementation
costs. Time is taken here, around the call alone, so asking costs nothing that is measured.

`python -m breastseg_benchmark.serving BUNDLE BACKEND FRAMES` serves the runtime; peers serve themselves.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TextIO

import numpy as np
from numpy.typing import NDArray

from breastseg_deploy.errors import BreastsegError

_REASON_LENGTH = 300


@dataclass(frozen=True)
class Segmented:
    """Masks of a batch.

    Attributes:
        masks: (N, H, W) uint8 on the host, 0 or 1.
        stages_s: seconds by stage, where the implementation knows its stages.
    """

    masks: NDArray[np.uint8]
    stages_s: Mapping[str, float] = field(default_factory=dict)


class Loaded(Protocol):
    """A loaded implementation.

    Attributes:
        facts: about it, in words, by name.
    """

    facts: Mapping[str, str]

    def __call__(self, rgb: NDArray[np.uint8]) -> Segmented:
        """Segment a batch (N, H, W, 3) uint8; when it returns, the masks lie on the host."""


class Runtime:
    """A bundle opened with a backend, as a scanner does it: with PyTorch nowhere in the process."""

    def __init__(self, bundle: Path, backend: str) -> None:
        from breastseg_deploy.segmenter import Segmenter

        self._segment = Segmenter.open(bundle, backend)
        self.facts: Mapping[str, str] = {"backend": self._segment.backend, "detail": self._segment.backend_reason}

    def __call__(self, rgb: NDArray[np.uint8]) -> Segmented:
        """Segment a batch; see `Loaded`."""
        results = self._segment.batch(rgb)
        return Segmented(np.stack([result.mask for result in results]), results[0].timings)


def serve(load: Callable[[], Loaded], frames: Path) -> int:
    """Answer requests from stdin until it ends.

    Args:
        load: of the implementation.
        frames: a .npy file, (F, H, W, 3) uint8.

    Requests are objects with a field "do", answers are objects; a failure is `{"error": ...}`:
        open: {"seconds", "facts"}.
        time {"start", "count", "unmeasured_s"}: one call on `count` frames from number `start` on, beginning anew after
            the last, after unmeasured calls on them for so many seconds: {"seconds", "stages"}.
        mask {"number", "into"}: one frame by itself; writes (H, W) uint8 to that .npy file.
        repeat {"times"}: so many calls of one frame each.
        allocators: bytes that the libraries' own allocators hold of the GPU, by library.
    """
    answers = _own_stdout()
    server = _Server(load, np.load(frames, mmap_mode="r"))
    for line in sys.stdin:
        try:
            answer = server.answer(json.loads(line))
        except BreastsegError as err:
            answer = {"error": str(err)}
        except Exception as err:  # an implementation may fail in any way; the run goes on without it
            answer = {"error": f"{type(err).__name__}: {' '.join(str(err).split())[:_REASON_LENGTH]}"}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()
    return 0


class _Server:
    """Answers requests."""

    def __init__(self, load: Callable[[], Loaded], frames: NDArray[np.uint8]) -> None:
        self._load = load
        self._frames = frames
        self._loaded: Loaded | None = None
        self._next = 0

    def answer(self, request: Mapping[str, Any]) -> dict[str, Any]:
        what = request["do"]
        if what == "open":
            started = time.perf_counter()
            self._loaded = self._load()
            return {"seconds": time.perf_counter() - started, "facts": dict(self._loaded.facts)}
        if what == "time":
            start, count = int(request["start"]), int(request["count"])
            self._unmeasured(start, count, float(request["unmeasured_s"]))
            segmented, seconds = self._call(start, count)
            return {"seconds": seconds, "stages": dict(segmented.stages_s)}
        if what == "mask":
            np.save(request["into"], self._call(int(request["number"]), 1)[0].masks[0])
            return {}
        if what == "repeat":
            for _ in range(int(request["times"])):
                self._call(self._next, 1)
                self._next += 1
            return {}
        if what == "allocators":
            return _allocators()
        raise ValueError(f"no request {what!r}")

    def _unmeasured(self, start: int, count: int, seconds: float) -> None:
        end = time.perf_counter() + seconds
        while time.perf_counter() < end:
            self._call(start, count)

    def _call(self, start: int, count: int) -> tuple[Segmented, float]:
        if self._loaded is None:
            raise ValueError("nothing is open yet")
        chosen = np.array([self._frames[number % len(self._frames)] for number in range(start, start + count)])
        started = time.perf_counter()
        segmented = self._loaded(chosen)
        seconds = time.perf_counter() - started
        expected, masks = chosen.shape[:3], segmented.masks
        if masks.shape != expected or masks.dtype != np.uint8:
            raise ValueError(f"masks must be uint8 {expected}, got {masks.dtype} {masks.shape}")
        return segmented, seconds


def _allocators() -> dict[str, Any]:
    """What allocators of libraries that are loaded already hold of the GPU; none is loaded for the question."""
    held: dict[str, Any] = {}
    cupy, torch = sys.modules.get("cupy"), sys.modules.get("torch")
    with suppress(Exception):  # a library without a GPU refuses in ways of its own
        if cupy is not None and (pool := int(cupy.get_default_memory_pool().total_bytes())):
            held["cupy"] = pool
    with suppress(Exception):
        if torch is not None and torch.cuda.is_available():
            held["torch"] = int(torch.cuda.max_memory_reserved())
    return held


def _own_stdout() -> TextIO:
    """The pipe to the parent, for answers alone: whatever else is printed, by C libraries too, goes to stderr."""
    pipe = os.dup(sys.stdout.fileno())
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    return os.fdopen(pipe, "w", encoding="utf-8")


if __name__ == "__main__":
    _bundle, _backend, _frames = sys.argv[1:]
    sys.exit(serve(lambda: Runtime(Path(_bundle), _backend), Path(_frames)))
