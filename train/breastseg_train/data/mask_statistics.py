"""What a mask holds: cells, small structures, borders; and how hard that makes its frame."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from breastseg_deploy.metrics import border

SMALL_STRUCTURE_PX = 100
"""A connected component under this area is a small structure."""

SMALL_STRUCTURE_FACTOR = 1.5
"""How much oftener a frame with small structures is drawn (paper, section IV C, case 1)."""

_CROWDED_CELLS = 25
"""Cells in the paper's most crowded example (section IV C, case 1); more do not raise the weight."""


@dataclass(frozen=True)
class MaskStatistics:
    """Statistics of one mask.

    Attributes:
        pixels: of the mask.
        cell_pixels: foreground pixels.
        cell_areas_px: area of each 8-connected component.
        border_pixels: foreground pixels beside background.
    """

    pixels: int
    cell_pixels: int
    cell_areas_px: tuple[int, ...]
    border_pixels: int

    @property
    def small_structures(self) -> int:
        """Number of components under 100 px."""
        return sum(area < SMALL_STRUCTURE_PX for area in self.cell_areas_px)

    @property
    def complexity(self) -> float:
        """Sampling weight: 1 for an empty frame, up to 3 for a crowded one with ragged and small structures.

        1 + 0.5 x crowding + 0.5 x raggedness, times 1.5 where there are small structures; crowding is the number of
        cells over 25, at most 1; raggedness is the share of cell pixels that lie on a border.

        Source: the paper asks for static weights from complexity and for the factor 1.5 (sections IV C and IV D); the
        rest of the formula is ours (docs/decisions/training.md).
        """
        if not self.cell_pixels:
            return 1.0
        crowding = min(1.0, len(self.cell_areas_px) / _CROWDED_CELLS)
        raggedness = self.border_pixels / self.cell_pixels
        return (1 + 0.5 * crowding + 0.5 * raggedness) * (SMALL_STRUCTURE_FACTOR if self.small_structures else 1.0)


def mask_statistics(mask: NDArray[np.uint8]) -> MaskStatistics:
    """Statistics of an (H, W) uint8 mask, 0 and 1."""
    _, _, table, _ = cv2.connectedComponentsWithStats(mask, connectivity=8)
    areas = tuple(int(area) for area in table[1:, cv2.CC_STAT_AREA])  # row 0 is the background
    return MaskStatistics(mask.size, int(mask.sum()), areas, int(border(mask).sum()))
