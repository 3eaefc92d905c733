"""What a stream says: the answer to a frame that is handed in, what became of it, and the counters."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from breastseg_deploy.latency import LatencyFigures
from breastseg_deploy.result import Segmentation

OVERDUE, REPLACED, NOT_TAKEN = "overdue", "replaced", "not_taken"
FULL, UNREAD, CLOCK = "full", "unread", "clock"
CLOSED, LOST = "closed", "lost"

MEANING: Mapping[str, str] = {
    OVERDUE: "it was older than the deadline before its turn came",
    REPLACED: "a newer frame took its place in the queue",
    NOT_TAKEN: "its mask was made, nobody took it, and newer ones took its place",
    FULL: "there was no place for it: the queue is full",
    UNREAD: "nobody has taken what became of earlier frames: iterate over the stream",
    CLOCK: "acquired_at lies ahead of the clock: pass seconds of time.monotonic(), or omit it",
    CLOSED: "the stream is closed",
    LOST: "the Segmenter cannot compute any more: see the last failure",
}
"""Every reason for which a frame is dropped or refused, in words."""


@dataclass(frozen=True)
class Submission:
    """The answer to `Stream.submit`; true where the frame was accepted.

    Attributes:
        id: of the frame.
        refused: why it was not accepted, a key of `MEANING`; None where it was.
        replaced: the ids of frames that were dropped from the queue for it; each is reported in the stream as well.
    """

    id: Hashable
    refused: str | None = None
    replaced: tuple[Hashable, ...] = ()

    def __bool__(self) -> bool:
        return self.refused is None


@dataclass(frozen=True)
class Delivered:
    """A frame's answer.

    Attributes:
        id: as it was submitted.
        segmentation: mask, timings of the call, backend.
        age_s: from the frame's acquisition until it was handed over here.
        waited_s: from its submission until its inference began.
    """

    id: Hashable
    segmentation: Segmentation
    age_s: float
    waited_s: float

    @property
    def mask(self) -> NDArray[np.uint8]:
        """(H, W) uint8; 1 where the probability reaches the bundle's threshold, else 0."""
        return self.segmentation.mask

    @property
    def timings(self) -> Mapping[str, float]:
        """Seconds by stage of the call, `result.STAGES`."""
        return self.segmentation.timings


@dataclass(frozen=True)
class Dropped:
    """A frame that was accepted and has no mask: why (a key of `MEANING`), and how old it was then."""

    id: Hashable
    reason: str
    age_s: float


@dataclass(frozen=True)
class Failed:
    """A frame whose call raised `error`: it breaks the frame contract, or the engine failed."""

    id: Hashable
    error: BaseException
    age_s: float


Event = Delivered | Dropped | Failed
"""What becomes of an accepted frame. Each accepted id comes back exactly once."""


@dataclass(frozen=True)
class Snapshot:
    """The counters of a stream at one moment.

    At every moment submitted = delivered + dropped + refused + failed + waiting + computing + untaken.

    Attributes:
        submitted: calls of `submit` that were answered.
        delivered: results that were handed over.
        dropped: accepted frames without a mask, by reason.
        refused: frames that were not accepted, by reason.
        failed: frames whose call raised.
        waiting, computing, untaken: frames in the queue, in the engine, and results that nobody has taken yet.
        callback_errors: times that the callback raised.
        latency: of delivered frames, from acquisition to delivery.
        wait: of frames that were computed, from submission until the inference began.
    """

    submitted: int
    delivered: int
    dropped: Mapping[str, int]
    refused: Mapping[str, int]
    failed: int
    waiting: int
    computing: int
    untaken: int
    callback_errors: int
    latency: LatencyFigures
    wait: LatencyFigures

    @property
    def in_flight(self) -> int:
        """Frames that were accepted and of which nobody knows yet what became of them."""
        return self.waiting + self.computing + self.untaken
