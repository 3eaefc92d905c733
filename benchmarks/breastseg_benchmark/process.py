"""The parent's side of a measurement: an implementation in a process of its own, and calls of several in turn."""

from __future__ import annotations

import json
import queue
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from breastseg_benchmark.implementations import Implementation
from breastseg_benchmark.memory import GpuMemory, reset_peak, resident_bytes, resident_peak_bytes
from breastseg_benchmark.results import Memory
from breastseg_deploy.errors import BreastsegError

OPEN_TIMEOUT_S = 900.0
"""Longest wait for an answer: an engine of a large network takes minutes to build."""

CLOCKS_S = 0.3
"""Unmeasured calls before each measured one on a GPU, which lowers its clocks while the others have their turn. An
estimate: no GPU was there to measure how long the clocks take."""

_END_TIMEOUT_S = 20.0
_STDERR_TAIL = 300


class NotRunError(BreastsegError):
    """An implementation cannot be measured here; the message is the reason, for its row."""


@dataclass(frozen=True)
class Timed:
    """One call: its seconds, and those of its stages where the implementation knows them."""

    seconds: float
    stages_s: Mapping[str, float]


class Process:
    """An implementation's process. Use it as a context manager; it ends with the block.

    Args:
        implementation: what it serves.
        frames: a .npy file of frames.
        timeout_s: longest wait for an answer.

    Attributes:
        timeout_s: longest wait for the next answer.
    """

    def __init__(self, implementation: Implementation, frames: Path, timeout_s: float = OPEN_TIMEOUT_S) -> None:
        self.timeout_s = timeout_s
        self._on_gpu = implementation.on_gpu
        self._gpu_memory = GpuMemory() if implementation.on_gpu else None  # before the process: it may only see a rise
        self._answers: queue.Queue[str | None] = queue.Queue()
        self._stderr: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115  # closed in __exit__
        self._process = subprocess.Popen(
            [sys.executable, *implementation.arguments, str(frames)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            text=True,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def open(self) -> tuple[float, dict[str, str]]:
        """Load it; seconds and facts."""
        answer = self._ask("open")
        return float(answer["seconds"]), answer["facts"]

    def time(self, start: int, count: int = 1, unmeasured_s: float = 0.0) -> Timed:
        """One call on frames `start` to `start + count - 1`, after as many unmeasured ones as fill `unmeasured_s`."""
        answer = self._ask("time", start=start, count=count, unmeasured_s=unmeasured_s)
        return Timed(float(answer["seconds"]), answer["stages"])

    def time_in_turn(self, start: int) -> Timed:
        """One call on a frame; on a GPU, unmeasured calls bring the clocks up first."""
        return self.time(start, unmeasured_s=CLOCKS_S if self._on_gpu else 0.0)

    def masks(self, count: int, scratch: Path, on_frame: Callable[[], object] = lambda: None) -> NDArray[np.uint8]:
        """Its masks of the first frames, one by one.

        Args:
            count: of frames.
            scratch: a folder to pass masks through.
            on_frame: called after each frame, for a progress bar.

        Returns:
            (count, H, W) uint8.
        """
        place, masks = scratch / "mask.npy", []
        for number in range(count):
            self._ask("mask", number=number, into=str(place))
            masks.append(np.load(place))
            on_frame()
        place.unlink()
        return np.stack(masks)

    def repeat(self, times: int) -> int:
        """So many calls of one frame each; resident bytes afterwards."""
        self._ask("repeat", times=times)
        return resident_bytes(self._process.pid)

    def peak(self) -> int | None:
        """The resident peak since the last question; begins a new one where the system can."""
        peak = resident_peak_bytes(self._process.pid)
        reset_peak(self._process.pid)
        return peak

    def memory(self) -> Memory:
        """What the process took so far."""
        allocators = self._ask("allocators")
        held = None if self._gpu_memory is None else self._gpu_memory.held_by(self._process.pid)
        return Memory(
            resident_peak_bytes=resident_peak_bytes(self._process.pid),
            gpu_process_bytes=held[0] if held else None,
            gpu_method=held[1] if held else None,
            allocators_bytes=allocators,
        )

    def __enter__(self) -> Process:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with suppress(OSError):
            self._process.stdin.close()  # the end of its requests
        try:
            self._process.wait(0 if kind is KeyboardInterrupt else _END_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._reader.join()
        self._process.stdout.close()
        self._stderr.close()

    def _ask(self, what: str, **fields: object) -> dict[str, Any]:
        """Ask, and wait for the answer.

        Raises:
            NotRunError: it refuses, has died, or does not answer in time.
        """
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps({"do": what, **fields}) + "\n")
            self._process.stdin.flush()
            line = self._answers.get(timeout=self.timeout_s)
        except OSError:  # it has died, and nobody reads its requests
            line = None
        except queue.Empty as err:
            self._process.kill()
            raise NotRunError(f"no answer to {what!r} within {self.timeout_s:.0f} s") from err
        if line is None:
            raise NotRunError(f"its process died: {self._last_words()}")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise NotRunError(answer["error"])
        return answer

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._answers.put(line)
        self._answers.put(None)

    def _last_words(self) -> str:
        code = self._process.wait()
        self._stderr.seek(0)
        lines = self._stderr.read().decode(errors="replace").strip().splitlines()
        said = lines[-1][-_STDERR_TAIL:] if lines else "silently"
        return f"signal {-code} ({said})" if code < 0 else f"exit code {code} ({said})"


def in_turn(
    callers: Mapping[str, Callable[[int], Timed]],
    rounds: int,
    frames: int,
    on_round: Callable[[], object] = lambda: None,
) -> tuple[dict[str, list[Timed]], dict[str, str]]:
    """Call several implementations in turn, A B A B, on the same frame each round.

    A machine that slows down slows all of them, so ratios of pairs hold where seconds do not.

    Args:
        callers: by name; each takes the number of a frame and times one call on it.
        rounds: calls of each.
        frames: how many there are; they are taken in order, again and again.
        on_round: called after each round.

    Returns:
        Calls by name, `rounds` of each, in order: calls of one number belong together. Then the reasons of those that
        raised a NotRunError, by name; the others went on without them.
    """
    calls: dict[str, list[Timed]] = {name: [] for name in callers}
    failed: dict[str, str] = {}
    for number in range(rounds):
        for name in list(calls):
            try:
                calls[name].append(callers[name](number % frames))
            except NotRunError as err:
                del calls[name]
                failed[name] = str(err)
        on_round()
    return calls, failed


def seconds_of(calls: Sequence[Timed]) -> list[float]:
    """Of calls, without their stages."""
    return [call.seconds for call in calls]
