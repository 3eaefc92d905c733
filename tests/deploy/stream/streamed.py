"""What the tests of streams share: a segmenter that waits for permits, and the sum of a stream's accounts."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np

from breastseg_deploy.events import Snapshot
from breastseg_deploy.result import Segmentation

LONG_S = 20.0
"""What no step of these tests takes unless something waits for ever."""


FRAME = np.arange(16, dtype=np.uint8).reshape(4, 4)


def answer(frame: Any) -> Segmentation:
    return Segmentation(np.asarray(frame), None, {"total": 0.0}, "made up")


class Gate:
    """A segmenter that stays in its call until it is let through, one frame for each permit."""

    def __init__(self) -> None:
        self.entered, self.permits = threading.Semaphore(0), threading.Semaphore(0)

    def __call__(self, frame: Any) -> Segmentation:
        self.entered.release()
        assert self.permits.acquire(timeout=LONG_S)
        return answer(frame)

    def wait_until_entered(self) -> None:
        assert self.entered.acquire(timeout=LONG_S)


def accounted(counts: Snapshot) -> int:
    return (
        counts.delivered
        + sum(counts.dropped.values())
        + sum(counts.refused.values())
        + counts.failed
        + counts.in_flight
    )


def ids(events: Any) -> list[object]:
    return [event.id for event in events]
