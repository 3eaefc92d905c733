"""Latencies of any number of frames in a bounded space: counts in buckets whose widths grow with the latency."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

_LEAST_S = 1e-5
_GROWTH = 1.05
_BUCKETS = 500
"""From 10 us up, each bucket 5 % wider than the one before: the last one begins after 4.3 days."""

QUANTILES = (0.5, 0.95, 0.99)


@dataclass(frozen=True)
class LatencyFigures:
    """Quantiles of latencies in seconds, each at most 5 % over the true one; 0 where nothing was measured."""

    count: int
    sum_s: float
    p50_s: float
    p95_s: float
    p99_s: float
    max_s: float


@dataclass
class Latencies:
    """A histogram with logarithmic buckets. Its size does not grow with what it has seen, and two can be added up."""

    count: int = 0
    sum_s: float = 0.0
    max_s: float = 0.0
    _buckets: list[int] = field(default_factory=lambda: [0] * _BUCKETS)

    def record(self, seconds: float) -> None:
        """Count one latency; one under 0 counts as 0."""
        seconds = max(0.0, seconds)
        self.count += 1
        self.sum_s += seconds
        self.max_s = max(self.max_s, seconds)
        self._buckets[_bucket(seconds)] += 1

    def add(self, other: Latencies) -> None:
        """Count what another has counted, such as another process's."""
        self.count += other.count
        self.sum_s += other.sum_s
        self.max_s = max(self.max_s, other.max_s)
        self._buckets = [ours + theirs for ours, theirs in zip(self._buckets, other._buckets, strict=True)]

    def quantile(self, share: float) -> float:
        """The latency in seconds that this share of all does not exceed: the end of its bucket, never over the maximum.

        Args:
            share: over 0 and at most 1.
        """
        wanted, seen = max(1, math.ceil(share * self.count)), 0
        for number, count in enumerate(self._buckets):
            seen += count
            if seen >= wanted:
                return min(self.max_s, _LEAST_S * _GROWTH**number)
        return self.max_s

    def figures(self) -> LatencyFigures:
        """What stands in a snapshot."""
        p50_s, p95_s, p99_s = map(self.quantile, QUANTILES)
        return LatencyFigures(self.count, self.sum_s, p50_s, p95_s, p99_s, self.max_s)


def _bucket(seconds: float) -> int:
    """Bucket n ends at 1.05 ** n times 10 us, where the next one begins; the last one holds the rest."""
    if seconds <= _LEAST_S:
        return 0
    return min(_BUCKETS - 1, math.ceil(math.log(seconds / _LEAST_S, _GROWTH)))
