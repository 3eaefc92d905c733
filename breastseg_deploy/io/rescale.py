"""Resampling a slide to another pixel size, region by region, so that a region is a crop of the whole to the bit."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

LARGEST_FACTOR = 8.0
"""Between a slide's pixel size and the one asked for, either way; beyond it the pixel size is likely wrong."""

_SOURCE_PX = 2**22
"""Of the full resolution at once: 50 MB of colour in float32. Smaller bands would decode tiles at their seams twice."""
_A_LITTLE = 1e-6
"""What a division that comes out even may lack in floating point."""

ReadSource = Callable[[int, int, int, int], NDArray[Any]]
"""(top, left, height, width) of the full resolution to (height, width) or (height, width, channels)."""


@dataclass(frozen=True)
class Rescaled:
    """The grid of a rescaled slide: a triangle filter over the full resolution.

    It reaches one new pixel to each side, at least one old one. The weights of a new pixel depend on its place in the
    slide alone, and sums are taken in one order, so that regions agree to the bit wherever they are cut. Only the full
    resolution is read: lower levels are made differently by every scanner. At the slide's border the filter is cut off
    and its weights sum to 1 again.

    Attributes:
        source_px: (H, W) of the full resolution.
        step: pixels of the full resolution per new pixel.
    """

    source_px: tuple[int, int]
    step: float

    @property
    def size_px(self) -> tuple[int, int]:
        """(H, W) of the rescaled slide; a last partial pixel is dropped."""
        height, width = (max(1, math.floor(side / self.step + _A_LITTLE)) for side in self.source_px)
        return height, width

    def read(self, source: ReadSource, top: int, left: int, height: int, width: int) -> NDArray[np.float32]:
        """A region of the rescaled slide; (height, width) or (height, width, channels) float32."""
        rows = max(1, int(_SOURCE_PX / (width * self.step**2)))
        bands = [self._band(source, top + row, left, min(rows, height - row), width) for row in range(0, height, rows)]
        return np.concatenate(bands)

    def _band(self, source: ReadSource, top: int, left: int, height: int, width: int) -> NDArray[np.float32]:
        rows, row_weights = self._taps(top, height, self.source_px[0])
        columns, column_weights = self._taps(left, width, self.source_px[1])
        y, x = int(rows.min()), int(columns.min())
        pixels = source(y, x, int(rows.max()) + 1 - y, int(columns.max()) + 1 - x)
        down = _weighted(pixels.astype(np.float32), rows - y, row_weights, 0)
        return _weighted(down, columns - x, column_weights, 1)

    def _taps(self, first: int, count: int, side: int) -> tuple[NDArray[np.intp], NDArray[np.float32]]:
        """Indices of source pixels and their weights, (count, taps) each; all new pixels have as many taps."""
        reach = max(1.0, self.step)
        centre = (np.arange(first, first + count) + 0.5) * self.step - 0.5
        index = np.floor(centre - reach).astype(np.intp)[:, None] + 1 + np.arange(math.ceil(2 * reach))
        weight = np.maximum(0.0, 1 - np.abs(index - centre[:, None]) / reach)
        weight[(index < 0) | (index >= side)] = 0.0
        weight /= weight.sum(axis=1, keepdims=True)
        return np.clip(index, 0, side - 1), weight.astype(np.float32)


def _weighted(
    pixels: NDArray[np.float32], index: NDArray[np.intp], weight: NDArray[np.float32], axis: int
) -> NDArray[np.float32]:
    """Weighted sums of rows or columns: out[i] = sum over k of weight[i, k] * pixels[index[i, k]], k in order."""
    shape = [*pixels.shape]
    shape[axis] = len(index)
    out, one = np.zeros(shape, np.float32), np.empty(shape, np.float32)
    broadcast = [-1 if number == axis else 1 for number in range(pixels.ndim)]
    for tap in range(index.shape[1]):
        np.take(pixels, index[:, tap], axis, out=one, mode="clip")  # "raise" would copy all of it once more
        one *= weight[:, tap].reshape(broadcast)
        out += one
    return out


def mean_of_squares(pixels: NDArray[np.uint8], factor: int) -> NDArray[np.uint8]:
    """Means of squares of (H, W, 3), rounded; those at the bottom and right of what there is."""
    if factor == 1:
        return pixels
    rows, columns = (np.arange(0, side, factor) for side in pixels.shape[:2])
    sums = np.add.reduceat(np.add.reduceat(pixels, rows, axis=0, dtype=np.uint32), columns, axis=1, dtype=np.uint32)
    count = np.minimum(factor, pixels.shape[0] - rows)[:, None] * np.minimum(factor, pixels.shape[1] - columns)
    return np.asarray((sums + count[:, :, None] // 2) // count[:, :, None], np.uint8)
