"""A camera's frames through a Segmenter: a policy for what is too much, and every frame accounted for."""

from __future__ import annotations

import logging
import os
import threading
import time
import traceback
from collections.abc import AsyncIterator, Callable, Hashable, Iterator
from contextlib import suppress
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np

from breastseg_deploy.accounts import Accounts, Entry, Policy
from breastseg_deploy.errors import ArgumentError, BackendError
from breastseg_deploy.events import CLOSED, FULL, Event, Snapshot, Submission
from breastseg_deploy.result import Segmentation

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop, Future

_LOG = logging.getLogger("breastseg_deploy")

CLOSE_S = 10.0
"""How long `close` lets accepted frames be worked off."""
_LAST_STEPS_S = 0.5
"""What threads that are told to end may take for their last steps."""


class Stream(Iterator[Event], AsyncIterator[Event]):
    """Frames go in by `submit`, events come out: by iteration, `async for`, `take`, or a callback. See docs/streams.md.

    Every accepted frame comes back as exactly one event: its result (`Delivered`), or why there is none (`Dropped`,
    `Failed`). Results come in the order of submission. Memory is bounded: at most `depth` frames wait, `depth` results
    wait to be taken (twice as many once it is finished), and `accounts.MOST_REPORTS` reports.

    Where the queue is full, the policy decides:
        "block": `submit` waits for a place, at most `patience_s`, then refuses. Nothing that was accepted is lost.
        "reject": `submit` refuses the new frame. Nothing that was accepted is lost.
        "drop_oldest": the frame that has waited longest makes room.
        "latest": as "drop_oldest" with one place: only the newest frame waits.
    Where nobody takes results, "block" and "reject" stop computing, so the queue fills; the others go on and drop the
    oldest result.

    Times are seconds of `clock`, time.monotonic by default, which nobody can set back. Several threads may use one
    stream; after a fork, the child may not.

    Args:
        segment: computes one frame; called from `calls` threads at once.
        policy: see above.
        depth: see above; "latest" has one place whatever it is.
        deadline_s: a frame that is older than this when its inference should begin is dropped, "overdue".
        callback: is handed each event, on a thread of its own, in place of iteration. What it raises is logged and
            counted.
        patience_s: see above; None for ever.
        calls: frames that are computed at the same time.
        clock: seconds, never decreasing.

    Raises:
        ArgumentError: a policy, depth, deadline or number of calls that is none.
    """

    def __init__(
        self,
        segment: Callable[[Any], Segmentation],
        policy: Policy = "block",
        *,
        depth: int = 8,
        deadline_s: float | None = None,
        callback: Callable[[Event], object] | None = None,
        patience_s: float | None = 60.0,
        calls: int = 1,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if calls < 1:
            raise ArgumentError(f"calls must be a whole number from 1 up, got {calls!r}; omit it")
        self._accounts = Accounts(policy, depth, deadline_s)
        self._segment, self._callback, self._patience_s, self._clock = segment, callback, patience_s, clock
        self._changed = threading.Condition()
        self._sleepers: list[tuple[AbstractEventLoop, Future[None]]] = []
        self._process = os.getpid()
        work: list[Callable[[], None]] = [self._compute] * calls
        if callback is not None:
            work.append(partial(self._deliver, callback))
        # Daemons: a call that never returns must not keep the process from ending.
        self._threads = [threading.Thread(target=one, name=f"stream {n}", daemon=True) for n, one in enumerate(work)]
        for thread in self._threads:
            thread.start()

    def submit(
        self,
        frame: Any,
        *,
        id: Hashable | None = None,  # noqa: A002
        acquired_at: float | None = None,
    ) -> Submission:
        """Hand in one frame; except under "block" it never waits.

        Args:
            frame: as `Segmenter.__call__` takes it, which checks it when its turn comes. A NumPy array is copied: a
                camera may fill its buffer again. An array on a GPU is not, and must stay as it is until its event.
            id: comes back with the event; the frame's number in this stream, from 0, where it is omitted.
            acquired_at: when the camera took it, in seconds of the stream's clock; now where it is omitted.

        Returns:
            Whether it was accepted, and if not, why.

        Raises:
            BackendError: in a process forked after the stream was made.
        """
        self._check_process()
        acquired_at = self._clock() if acquired_at is None else acquired_at
        # Copied before the lock is taken: a large frame must not hold up those who take events.
        kept = frame.copy() if isinstance(frame, np.ndarray) else frame
        # A callback that waits for a place waits for itself.
        patience_s = 0.0 if threading.current_thread() in self._threads else self._patience_s
        answer: Submission | None = None

        def is_answered() -> bool:
            nonlocal answer
            answer = self._accounts.submit(kept, id, acquired_at, self._clock())
            return answer is not None

        with self._changed:
            self._changed.wait_for(is_answered, patience_s)
            if answer is None:  # a refusal is false, too
                answer = self._accounts.refuse(id, FULL)
            self._wake()
        return answer

    def take(self, timeout_s: float | None = None) -> Event | None:
        """The next event; None where none came in time, or the stream has ended and will give none.

        Args:
            timeout_s: how long to wait; None until there is one.

        Raises:
            ArgumentError: the events go to a callback.
            BackendError: in a process forked after the stream was made.
        """
        self._check_process()
        if self._callback is not None:
            raise ArgumentError("the events of this stream go to its callback; omit the callback to iterate over them")
        return self._take(timeout_s)

    def __next__(self) -> Event:
        event = self.take()
        if event is None:
            raise StopIteration
        return event

    async def __anext__(self) -> Event:
        import asyncio

        while True:
            event = self.take(0)
            if event is not None:
                return event
            loop = asyncio.get_running_loop()
            woken: Future[None] = loop.create_future()
            with self._changed:
                if self._accounts.ended:
                    raise StopAsyncIteration
                if self._accounts.unread:  # it came in between
                    continue
                self._sleepers.append((loop, woken))
            try:
                await woken
            finally:  # a cancelled task leaves nothing behind
                with self._changed, suppress(ValueError):
                    self._sleepers.remove((loop, woken))

    def snapshot(self) -> Snapshot:
        """The counters of this moment.

        Raises:
            BackendError: in a process forked after the stream was made.
        """
        self._check_process()
        with self._changed:
            return self._accounts.snapshot()

    @property
    def ended(self) -> bool:
        """Whether no further event will come."""
        with self._changed:
            return self._accounts.ended

    def finish(self) -> None:
        """Refuse further frames; those accepted are worked off, and iteration ends after the last one's event.

        No result is dropped any more for want of room.
        """
        self._check_process()
        with self._changed:
            self._accounts.finish()
            self._wake()

    def close(self, timeout_s: float = CLOSE_S) -> Snapshot:
        """Refuse further frames and end, within `timeout_s` and half a second.

        Accepted frames are worked off as far as time allows; the rest is dropped, "closed". A call that is under way
        then cannot be stopped: its thread ends with it. Events that nobody has taken can still be taken.

        Returns:
            The counters at the end.
        """
        if os.getpid() != self._process:  # the threads, and maybe the lock, are the parent's
            return Accounts("block", 1).snapshot()
        last = time.monotonic() + timeout_s
        ours = threading.current_thread() in self._threads
        with self._changed:
            self._accounts.finish()
            self._wake()
            if not ours:  # a callback would wait for its own end
                self._changed.wait_for(self._is_worked_off, timeout_s)
            # Under the same lock as the wait: no worker can start a frame between the last look and this.
            self._accounts.drop_waiting(CLOSED, self._clock())
            self._wake()
        # Outside the lock, which the threads need for their own end. They share the last half second: many stuck calls
        # take no longer than one.
        for thread in self._threads:
            if not ours:
                thread.join(max(last - time.monotonic(), _LAST_STEPS_S / len(self._threads)))
        return self.snapshot()

    def __enter__(self) -> Stream:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close(CLOSE_S if error is None else 0.0)

    def _is_worked_off(self) -> bool:
        return self._accounts.worked_off and (self._callback is None or self._accounts.ended)

    def _take(self, timeout_s: float | None) -> Event | None:
        with self._changed:
            self._changed.wait_for(lambda: self._accounts.unread or self._accounts.ended, timeout_s)
            event = self._accounts.take(self._clock())
            # An event that was taken makes room, which a blocked producer waits for.
            if event is not None:
                self._wake()
            return event

    def _compute(self) -> None:
        while (entry := self._next_entry()) is not None:
            outcome = self._outcome_of(entry)
            with self._changed:
                self._accounts.end(entry, outcome, self._clock())
                self._wake()

    def _next_entry(self) -> Entry | None:
        """The next frame to compute; None where there will be none."""
        with self._changed:
            while True:
                unread = self._accounts.unread
                entry = self._accounts.start(self._clock())
                # `start` may drop overdue frames: their events wake a consumer although nothing is computed.
                if entry is not None or self._accounts.unread != unread:
                    self._wake()
                if entry is not None or self._accounts.over:
                    return entry
                self._changed.wait()

    def _outcome_of(self, entry: Entry) -> Segmentation | BaseException:
        try:
            return self._segment(entry.frame)
        except BaseException as err:  # whatever it is: a frame that fails is reported and stops nothing
            _let_go(err)
            return err

    def _deliver(self, callback: Callable[[Event], object]) -> None:
        while (event := self._take(None)) is not None:
            try:
                callback(event)
            except BaseException:  # a display that is gone must not end what it only showed
                _LOG.exception("the callback of a stream failed on frame %r; the stream goes on", event.id)
                with self._changed:
                    self._accounts.callback_errors += 1

    def _wake(self) -> None:
        """Wake everybody who waits for a change; the lock is held."""
        self._changed.notify_all()
        for loop, woken in self._sleepers:
            with suppress(RuntimeError):  # its event loop is closed
                loop.call_soon_threadsafe(_set, woken)
        self._sleepers.clear()

    def _check_process(self) -> None:
        if os.getpid() != self._process:
            raise BackendError(
                f"this stream was made in process {self._process} and a fork has none of its threads; "
                "open the bundle in the process that uses it"
            )


def _let_go(err: BaseException | None) -> None:
    """Drop the local variables behind an error, which hold frames; where it arose stays."""
    while err is not None:
        traceback.clear_frames(err.__traceback__)
        err = err.__cause__ or err.__context__


def _set(woken: Future[None]) -> None:
    if not woken.done():  # its task may have been cancelled
        woken.set_result(None)
