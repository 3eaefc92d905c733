"""What writers read of a segmented slide: its rasters region by region, and the table of its cells."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

CELL_DTYPE = np.dtype(
    [
        ("number", "u4"),
        ("top", "i8"),
        ("left", "i8"),
        ("bottom", "i8"),
        ("right", "i8"),
        ("centroid_y_px", "f8"),
        ("centroid_x_px", "f8"),
        ("area_px", "i8"),
        ("perimeter_px", "f8"),
        ("eccentricity", "f8"),
        ("mean_probability", "f8"),
        ("mean_intensity", "f8"),
        ("touches_border", "?"),
    ]
)
"""A row per cell. Numbers are 1 to N by the first pixel of each cell in reading order; the box is half-open; lengths
and places are in pixels of the full resolution, and (0, 0) is the centre of the top left pixel."""


class SlideRaster(Protocol):
    """A segmented slide at full resolution. Regions lie inside it; several threads may read."""

    @property
    def size_px(self) -> tuple[int, int]:
        """(H, W)."""

    def mask(self, top: int, left: int, height: int, width: int) -> NDArray[np.uint8]:
        """(height, width), 0 or 1."""

    def probability(self, top: int, left: int, height: int, width: int) -> NDArray[np.uint8]:
        """(height, width), the probability times 255, rounded."""

    def labels(self, top: int, left: int, height: int, width: int) -> NDArray[np.uint32]:
        """(height, width), the number of each pixel's cell, 0 for none."""
