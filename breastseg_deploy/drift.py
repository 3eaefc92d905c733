"""Drift watch: do the frames of late still look like those that the bundle was exported with?

It looks at the frames and at what was found in them, says so where they differ, and changes no mask. A warning is no
proof that masks are wrong, and silence none that they are right: see docs/drift.md for what it finds and what not.
"""

from __future__ import annotations

import logging
import threading
from collections import Counter, deque
from collections.abc import Collection
from dataclasses import dataclass
from math import isnan

import numpy as np
from numpy.typing import NDArray

from breastseg_deploy.errors import ArgumentError, BundleError
from breastseg_deploy.fingerprint import FEATURES, Fingerprint, Measures, measure
from breastseg_deploy.manifest import Manifest
from breastseg_deploy.result import Segmentation

_LOG = logging.getLogger("breastseg_deploy")

WINDOW_FRAMES = 32
"""Frames that are judged together."""
LIMIT = 4.0
"""Standard errors that a window's mean may lie from the fingerprint's; chosen on validation frames (docs/LOG.md)."""
LEAST_VALUES = 8
"""Frames with cells that a window must hold, before what only they have is judged."""


@dataclass(frozen=True)
class Drift:
    """A feature of the latest window that lies outside its limits.

    Attributes:
        feature: its name in `fingerprint.FEATURES`.
        value: of the window, in the unit that the feature is read in.
        low, high: its limits in that unit.
    """

    feature: str
    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return (
            f"{self.feature}: {FEATURES[self.feature].says} is {self.value:.4g}, "
            f"expected {self.low:.4g} to {self.high:.4g}"
        )


class DriftWatch:
    """Compares the latest frames with the fingerprint in a bundle. Several threads may feed one.

    Attributes:
        window: frames that are judged together.
        windows: how many full windows were judged, one for each frame from the window's size on.
        warnings: in how many of them each feature lay outside its limits.
        windows_outside: in how many of them any did.
    """

    def __init__(self, manifest: Manifest, *, window: int = WINDOW_FRAMES, limit: float = LIMIT) -> None:
        """Watch for frames unlike those of the export.

        Args:
            manifest: of the bundle.
            window: frames that are judged together.
            limit: standard errors that their mean may lie from the fingerprint's.

        Raises:
            ArgumentError: a window of fewer than `LEAST_VALUES` frames, or a limit that is not over 0.
            BundleError: the bundle holds no fingerprint.
        """
        if manifest.drift is None:
            raise BundleError(
                f"the bundle {manifest.name} holds no fingerprint of frames to compare with; "
                "export it again with --frames, at least 16 of the scanner's own"
            )
        if window < LEAST_VALUES or not limit > 0:
            raise ArgumentError(
                f"a drift watch takes windows from {LEAST_VALUES} frames on and limits over 0, got {window} and {limit}"
            )
        self._fingerprint: Fingerprint = manifest.drift
        self._limit = limit
        self.window = window
        self._latest: deque[Measures] = deque(maxlen=window)
        self._outside: frozenset[str] = frozenset()
        self._lock = threading.Lock()
        self.windows = 0
        self.windows_outside = 0
        self.warnings: Counter[str] = Counter()

    def feed(self, frame: NDArray[np.uint8], answer: Segmentation) -> tuple[Drift, ...]:
        """Take a frame with its answer, and judge the latest window; each feature is logged when it goes out of bounds.

        Args:
            frame: (H, W) or (H, W, 3) uint8, as it was segmented.
            answer: what the Segmenter gave for it.

        Returns:
            What lies outside its limits now; nothing while the first window is filling.

        Raises:
            FrameError: a frame of another dtype or shape.
        """
        measured = measure(frame, answer.mask, answer.probability)
        with self._lock:
            self._latest.append(measured)
            if len(self._latest) < self.window:
                return ()
            found = outside(self._fingerprint, self._latest, self._limit)
            self.windows += 1
            self.windows_outside += bool(found)
            self.warnings.update(drift.feature for drift in found)
            before, self._outside = self._outside, frozenset(drift.feature for drift in found)
        for drift in found:
            if drift.feature not in before:
                _LOG.warning("the last %d frames are unlike those of the export: %s", self.window, drift)
        return found

    def summary(self) -> dict[str, object]:
        """The counters, as JSON tells them."""
        with self._lock:
            return {
                "windows": self.windows,
                "windows_outside": self.windows_outside,
                "warnings": dict(sorted(self.warnings.items())),
            }


def outside(against: Fingerprint, window: Collection[Measures], limit: float = LIMIT) -> tuple[Drift, ...]:
    """The features of a window that lie outside their limits, in the order of the fingerprint.

    Args:
        against: what the window is compared with.
        window: measures of its frames.
        limit: standard errors that their mean may lie from the fingerprint's.
    """
    found = []
    for name, spread in against.spreads.items():
        values = [value for one in window if not isnan(value := against.value(name, one))]
        if len(values) < LEAST_VALUES:
            continue
        mean, half = float(np.mean(values)), spread.half_width(len(values), limit)
        if abs(mean - spread.mean) > half:
            shown = FEATURES[name].shown
            found.append(Drift(name, shown(mean), shown(spread.mean - half), shown(spread.mean + half)))
    return tuple(found)
