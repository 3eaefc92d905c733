"""Streams, events and devices of the stand-in for CuPy, in CUDA's order of work and no more than that.

Work is done when it is put on a stream, or, with `late` set, at the latest moment that CUDA allows: when somebody waits
for it. What reads an array without waiting for its stream then reads what was there before.
"""

from __future__ import annotations

import threading
import time
import weakref
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar

late = False
"""Set by a test."""
_here = threading.local()


class Stream:
    """A stream: current inside `with`, and a number for the engine. It keeps CUDA's order, and no more than that."""

    null: Stream
    _next = 0x1000
    _known: ClassVar[weakref.WeakValueDictionary[int, Stream]] = weakref.WeakValueDictionary()

    def __init__(
        self, null: bool = False, non_blocking: bool = False, ptds: bool = False, priority: Any = None
    ) -> None:
        Stream._next += 16
        self.ptr = 0 if null else Stream._next
        self.device_id = -1 if null else current_device()
        self.synchronized = 0
        self.non_blocking = non_blocking
        self._queue: deque[Callable[[], object]] = deque()
        self._put = self._done = 0
        self._outer: list[tuple[int, Stream]] = []
        Stream._known[self.ptr] = self

    def put(self, work: Callable[[], object]) -> None:
        """Work for this stream; the null stream and those that do not say `non_blocking` wait for each other."""
        if not late:
            work()
            return
        others = [] if self.non_blocking else [Stream.null] if self.ptr else list(Stream._known.values())
        waits = [partial(o.run, o._put) for o in others if o is not self and not o.non_blocking]
        self._queue.append(lambda: [do() for do in (*waits, work)])
        self._put += 1

    def run(self, until: int | None = None) -> None:
        """Do what was put on it, up to a place in its order."""
        until = self._put if until is None else until
        while self._done < until:
            self._done += 1
            self._queue.popleft()()

    def forget(self) -> None:
        self._queue.clear()
        self._done = self._put

    def __enter__(self) -> Stream:
        outer = current_device(), current_stream()
        self._outer.append(outer)
        return self.use()

    def __exit__(self, *_: object) -> None:
        device, outer = self._outer.pop()
        _streams()[device] = outer

    def use(self) -> Stream:
        if self.device_id not in (-1, current_device()):
            raise RuntimeError(
                f"The device that the stream is created on ({self.device_id}) does not match with the current device "
                f"({current_device()})"
            )
        _streams()[current_device()] = self
        return self

    def synchronize(self) -> None:
        self.synchronized += 1
        self.run()

    def wait_event(self, event: Any) -> None:
        self.put(event.finish_later())

    def record(self, event: Any = None) -> Any:
        event = event or Event()
        event.record(self)
        return event

    def begin_capture(self, mode: Any = None) -> None:
        raise RuntimeError("the CPU captures no graphs")

    def end_capture(self) -> Any:
        raise RuntimeError("the CPU captures no graphs")

    def is_capturing(self) -> bool:
        return False


Stream.null = Stream(null=True)


def ExternalStream(ptr: int, device_id: int = -1) -> Stream:  # noqa: N802 - CuPy's name
    """Somebody else's stream, by its number; 1 is the legacy default stream."""
    known = Stream._known.get(0 if ptr == 1 else ptr)
    if known is None:
        known = Stream(non_blocking=True)
        known.ptr, known.device_id = ptr, device_id
    return known


class Event:
    """A point on a stream."""

    def __init__(self, block: bool = False, disable_timing: bool = False, interprocess: bool = False) -> None:
        self.recorded_s: float | None = None
        self._place: tuple[Stream, int] | None = None

    def record(self, stream: Any = None) -> None:
        stream = chosen(stream)
        self.recorded_s = None
        stream.put(self._pass)
        self._place = stream, stream._put

    def _pass(self) -> None:
        self.recorded_s = time.perf_counter()

    def finish_later(self) -> Callable[[], object]:
        """Waits for the stream up to where this was recorded last; an event that never was is passed already."""
        if self._place is None:
            return lambda: None
        stream, until = self._place
        return lambda: stream.run(until)

    def synchronize(self) -> None:
        self.finish_later()()

    @property
    def done(self) -> bool:
        return self._place is None or self._place[0]._done >= self._place[1]


class Device:
    """A device by number; `devices.count` of `cuda.runtime` says how many there are."""

    def __init__(self, device: int | None = None) -> None:
        self.id = current_device() if device is None else int(device)
        self._outer: list[int] = []

    compute_capability = "86"

    def __enter__(self) -> Device:
        self._outer.append(current_device())
        _here.device = self.id
        return self

    def __exit__(self, *_: object) -> None:
        _here.device = self._outer.pop()

    def __int__(self) -> int:
        return self.id

    def use(self) -> None:
        _here.device = self.id

    def synchronize(self) -> None: ...

    @property
    def mem_info(self) -> tuple[int, int]:
        return 8 << 30, 8 << 30


class CUDARuntimeError(RuntimeError):
    """What CuPy raises for an error of the CUDA runtime; tests raise it themselves."""


def current_device() -> int:
    return getattr(_here, "device", 0)


def set_device(device: int) -> None:
    _here.device = int(device)


def current_stream() -> Stream:
    """Of the current device: each has its own."""
    return _streams().get(current_device(), Stream.null)


def _streams() -> dict[int, Stream]:
    if not hasattr(_here, "streams"):
        _here.streams = {}
    return _here.streams  # type: ignore[no-any-return]


def chosen(stream: Any) -> Stream:
    return current_stream() if stream is None else stream  # type: ignore[no-any-return]


def elapsed_ms(start: Event, end: Event) -> float:
    if start.recorded_s is None or end.recorded_s is None:
        raise CUDARuntimeError("cudaErrorInvalidResourceHandle or cudaErrorNotReady: the event has not been passed")
    return (end.recorded_s - start.recorded_s) * 1000


def forget() -> None:
    """Nothing is under way or late, device 0 and the null stream are the current ones."""
    global late
    late = False
    for stream in Stream._known.values():
        stream.forget()
    _here.device, _here.streams = 0, {}
