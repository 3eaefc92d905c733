"""Two things timed in turn, A B A B, so that a machine that slows down slows both."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Paired:
    """Seconds of A and B, measured in turn.

    Attributes:
        a_s: median of A.
        b_s: median of B.
        ratio: median over the pairs of B / A: how many times A is faster.
        ratio_low: the smallest of those ratios.
        ratio_high: the largest.
    """

    a_s: float
    b_s: float
    ratio: float
    ratio_low: float
    ratio_high: float


def timed_in_turn(a: Callable[[], object], b: Callable[[], object], pairs: int, warm_up: int = 2) -> Paired:
    """Run A and B in turn, `warm_up` uncounted pairs first."""
    seconds = [(_seconds(a), _seconds(b)) for _ in range(warm_up + pairs)][warm_up:]
    ratios = sorted(b_s / a_s for a_s, b_s in seconds)
    return Paired(
        statistics.median(a_s for a_s, _ in seconds),
        statistics.median(b_s for _, b_s in seconds),
        statistics.median(ratios),
        ratios[0],
        ratios[-1],
    )


def _seconds(call: Callable[[], object]) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started
