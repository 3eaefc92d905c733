"""Where each frame of a stream is, and what became of it. It has no thread, lock or clock: `stream.Stream` has them."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any, Literal, get_args

from breastseg_deploy.errors import ArgumentError, ClosedError
from breastseg_deploy.events import (
    CLOCK,
    CLOSED,
    FULL,
    LOST,
    NOT_TAKEN,
    OVERDUE,
    REPLACED,
    UNREAD,
    Delivered,
    Dropped,
    Event,
    Failed,
    Snapshot,
    Submission,
)
from breastseg_deploy.latency import Latencies
from breastseg_deploy.result import Segmentation

Policy = Literal["block", "drop_oldest", "reject", "latest"]
POLICIES: tuple[Policy, ...] = get_args(Policy)

MOST_REPORTS = 1000
"""Reports of dropped and failed frames that wait to be taken; while there are so many, frames are refused."""


@dataclass(eq=False)
class Entry:
    """A frame on its way; `outcome` is None until its call has ended."""

    id: Hashable
    frame: Any
    acquired_at: float
    submitted_at: float
    waited_s: float = 0.0
    outcome: Segmentation | BaseException | None = None


@dataclass(frozen=True, eq=False)
class _Result:
    """A frame's answer that nobody has taken yet."""

    entry: Entry
    segmentation: Segmentation


class Accounts:
    """The frames of one stream. `now` is in seconds of the stream's clock, wherever it is asked for.

    Args:
        policy: what happens to a frame that finds the queue full; see `stream.Stream`.
        depth: frames that may wait, and results that may; "latest" has one of each.
        deadline_s: the age that a frame may reach before its inference begins.

    Raises:
        ArgumentError: an unknown policy; a depth or deadline that is not over 0.
    """

    def __init__(self, policy: Policy, depth: int, deadline_s: float | None = None) -> None:
        if policy not in POLICIES:
            raise ArgumentError(f"policy must be one of {', '.join(POLICIES)}, got {policy!r}; choose one of them")
        if isinstance(depth, bool) or not isinstance(depth, int) or depth < 1:
            raise ArgumentError(f"depth must be a whole number of frames from 1 up, got {depth!r}; 8 is usual")
        if deadline_s is not None and not deadline_s > 0:
            raise ArgumentError(f"deadline_s must be over 0 seconds, got {deadline_s!r}; pass None for no deadline")
        self.depth = 1 if policy == "latest" else depth
        self._policy = policy
        self._drops_old = policy in ("drop_oldest", "latest")
        self._deadline_s = deadline_s
        self._waiting: deque[Entry] = deque()
        self._computing: deque[Entry] = deque()
        self._events: deque[_Result | Dropped | Failed] = deque()
        self._untaken = 0
        self._closed: str | None = None
        self._submitted = self._delivered = self._failed = self.callback_errors = 0
        self._dropped: Counter[str] = Counter()
        self._refused: Counter[str] = Counter()
        self._latency, self._wait = Latencies(), Latencies()

    @property
    def unread(self) -> int:
        """Events that nobody has taken."""
        return len(self._events)

    @property
    def worked_off(self) -> bool:
        """Whether no frame waits or is computed."""
        return not self._waiting and not self._computing

    @property
    def over(self) -> bool:
        """Whether there will be no further inference."""
        return self._closed is not None and not self._waiting

    @property
    def ended(self) -> bool:
        """Whether there will be no further event."""
        return self._closed is not None and self.worked_off and not self._events

    def submit(self, frame: Any, id: Hashable | None, acquired_at: float, now: float) -> Submission | None:  # noqa: A002
        """Accept or refuse a frame; None under "block" where there is no place yet, and then nothing was counted."""
        # Overdue frames make room first: no fresh frame is refused for one that would be dropped all the same.
        self._drop_overdue(now)
        full = len(self._waiting) >= self.depth
        why = self._why_not(acquired_at, now) or (FULL if full and self._policy == "reject" else None)
        if why is not None:
            return self.refuse(id, why)
        if full and not self._drops_old:
            return None
        replaced: tuple[Hashable, ...] = ()
        if full:
            oldest = self._waiting.popleft()
            self._drop(oldest, REPLACED, now)
            replaced = (oldest.id,)
        entry = Entry(self._named(id), frame, acquired_at, now)
        self._waiting.append(entry)
        return Submission(entry.id, None, replaced)

    def refuse(self, id: Hashable | None, why: str) -> Submission:  # noqa: A002
        """Count a frame as submitted and refused."""
        self._refused[why] += 1
        return Submission(self._named(id), why)

    def start(self, now: float) -> Entry | None:
        """The frame whose inference begins now; None where none may.

        Under "block" and "reject", a mask is only made where there is room for it: nothing that was accepted is lost to
        a slow consumer. The other policies make room when the mask is there. Of a finished stream only `depth` frames
        can be left, so there is room for all of them.
        """
        self._drop_overdue(now)
        finished = self._closed is not None
        has_room = self._drops_old or finished or self._untaken + len(self._computing) < self.depth
        if not self._waiting or not has_room:
            return None
        entry = self._waiting.popleft()
        entry.waited_s = max(0.0, now - entry.submitted_at)
        self._wait.record(entry.waited_s)
        self._computing.append(entry)
        return entry

    def end(self, entry: Entry, outcome: Segmentation | BaseException, now: float) -> None:
        """The frame's call has ended; events keep the order in which the frames were submitted."""
        entry.outcome, entry.frame = outcome, None  # the frame's memory is free while its result waits
        # Calls may end in any order; a result waits here for those of the frames before it.
        while self._computing and (first := self._computing[0]).outcome is not None:
            self._computing.popleft()
            self._report(first, first.outcome, now)

    def take(self, now: float) -> Event | None:
        """Hand the oldest event over; None where there is none."""
        if not self._events:
            return None
        event = self._events.popleft()
        if not isinstance(event, _Result):
            return event
        self._untaken -= 1
        self._delivered += 1
        age_s = _age(event.entry, now)
        self._latency.record(age_s)
        return Delivered(event.entry.id, event.segmentation, age_s, event.entry.waited_s)

    def finish(self, why: str = CLOSED) -> None:
        """Refuse all further frames; what was accepted goes on."""
        self._closed = self._closed or why

    def drop_waiting(self, reason: str, now: float) -> None:
        """Drop and report every frame whose inference has not begun."""
        while self._waiting:
            self._drop(self._waiting.popleft(), reason, now)

    def snapshot(self) -> Snapshot:
        """All counters."""
        return Snapshot(
            submitted=self._submitted,
            delivered=self._delivered,
            dropped=dict(self._dropped),
            refused=dict(self._refused),
            failed=self._failed,
            waiting=len(self._waiting),
            computing=len(self._computing),
            untaken=self._untaken,
            callback_errors=self.callback_errors,
            latency=self._latency.figures(),
            wait=self._wait.figures(),
        )

    def _named(self, id: Hashable | None) -> Hashable:  # noqa: A002
        """Count a submission; without an id of its own, a frame's number is its id."""
        number = self._submitted
        self._submitted += 1
        return number if id is None else id

    def _why_not(self, acquired_at: float, now: float) -> str | None:
        if self._closed is not None:
            return self._closed
        if not acquired_at <= now:  # NaN as well
            return CLOCK
        return UNREAD if len(self._events) - self._untaken >= MOST_REPORTS else None

    def _drop_overdue(self, now: float) -> None:
        if self._deadline_s is None:
            return
        late = [entry for entry in self._waiting if _age(entry, now) >= self._deadline_s]
        for entry in late:
            self._waiting.remove(entry)
            self._drop(entry, OVERDUE, now)

    def _drop(self, entry: Entry, reason: str, now: float) -> None:
        self._dropped[reason] += 1
        self._events.append(Dropped(entry.id, reason, _age(entry, now)))

    def _report(self, entry: Entry, outcome: Segmentation | BaseException, now: float) -> None:
        if isinstance(outcome, BaseException):
            self._failed += 1
            self._events.append(Failed(entry.id, outcome, _age(entry, now)))
            if isinstance(outcome, ClosedError):  # all that waits would fail likewise: it is reported now
                self.finish(LOST)
                self.drop_waiting(LOST, now)
            return
        if self._untaken >= self.depth and self._drops_old and self._closed is None:
            self._drop_oldest_result(now)
        self._events.append(_Result(entry, outcome))
        self._untaken += 1

    def _drop_oldest_result(self, now: float) -> None:
        """Its report stands where it stood, so that events keep their order."""
        for place, event in enumerate(self._events):
            if isinstance(event, _Result):
                self._events[place] = Dropped(event.entry.id, NOT_TAKEN, _age(event.entry, now))
                self._untaken -= 1
                self._dropped[NOT_TAKEN] += 1
                return


def _age(entry: Entry, now: float) -> float:
    """Never under 0: an injected clock may be set back."""
    return max(0.0, now - entry.acquired_at)
