"""How far two masks of the same pixels agree that were computed with tiles at other places."""

from __future__ import annotations

from collections.abc import Container, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from breastseg_deploy.tiling import Plan, Tile


@dataclass(frozen=True)
class Agreement:
    """Two masks of one region, as counts, so that regions add up.

    Attributes:
        pixels: of the region.
        flipped: pixels that only one of the masks holds.
        held: pixels of the first mask and of the second, added.
        cells_before, cells_after: cells in the first and in the second mask.
    """

    pixels: int
    flipped: int
    held: int
    cells_before: int = 0
    cells_after: int = 0

    @property
    def flipped_ppm(self) -> float:
        """Flipped pixels in parts per million; 0 where there are none to compare."""
        return self.flipped / self.pixels * 1e6 if self.pixels else 0.0

    @property
    def dice(self) -> float:
        """Dice coefficient of the masks; 1 where both are empty."""
        return 1.0 - self.flipped / self.held if self.held else 1.0

    @property
    def cells_difference(self) -> float:
        """Change of the cell count as a share of the larger count."""
        largest = max(self.cells_before, self.cells_after)
        return abs(self.cells_after - self.cells_before) / largest if largest else 0.0


def agreement(before: NDArray[np.uint8], after: NDArray[np.uint8], cells: tuple[int, int] = (0, 0)) -> Agreement:
    """Compare two masks of 0 and 1, of one shape."""
    flipped = int(np.count_nonzero(before != after))
    return Agreement(before.size, flipped, int(before.sum()) + int(after.sum()), *cells)


def answered_elsewhere(plan: Plan, moved: Tile, skipped: Container[tuple[int, int]] = frozenset()) -> NDArray[np.bool_]:
    """Which pixels of a moved tile's core are compared, (H, W): at the slide's borders both plans have some tiles in
    common, and a tile's answer agrees with itself.

    Args:
        plan: that is not moved.
        moved: a tile of the moved plan of the same slide.
        skipped: rows and columns of tiles that were not answered at all, so that whatever is found there counts.
    """
    core = moved.core
    compared = np.ones(core.size_px, np.bool_)
    for tile in plan.touched(core):
        if tile.seen == moved.seen and (tile.row, tile.column) not in skipped:
            top, bottom = max(core.top, tile.core.top), min(core.bottom, tile.core.bottom)
            left, right = max(core.left, tile.core.left), min(core.right, tile.core.right)
            compared[top - core.top : bottom - core.top, left - core.left : right - core.left] = False
    return compared


def added(regions: Sequence[Agreement]) -> Agreement:
    """The agreement over several regions."""
    return Agreement(
        sum(one.pixels for one in regions),
        sum(one.flipped for one in regions),
        sum(one.held for one in regions),
        sum(one.cells_before for one in regions),
        sum(one.cells_after for one in regions),
    )
