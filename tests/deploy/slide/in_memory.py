"""A slide in memory, for tests of what reads one."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from breastseg_deploy.instances import CellParameters
from breastseg_deploy.slide.cells import find_cells


class InMemory:
    """A `SlideRaster` over arrays, all (H, W)."""

    def __init__(self, mask: NDArray[np.uint8], probability: NDArray[np.uint8]) -> None:
        self._mask, self._probability = mask, probability
        self.size_px = (mask.shape[0], mask.shape[1])
        self.largest_region_px = 0

    def mask(self, top: int, left: int, height: int, width: int) -> NDArray[np.uint8]:
        assert top >= 0 <= left
        assert top + height <= self.size_px[0]
        assert left + width <= self.size_px[1]
        self.largest_region_px = max(self.largest_region_px, height * width)
        return self._mask[top : top + height, left : left + width]

    def probability(self, top: int, left: int, height: int, width: int) -> NDArray[np.uint8]:
        return self._probability[top : top + height, left : left + width]

    def labels(self, top: int, left: int, height: int, width: int) -> NDArray[np.uint32]:
        raise NotImplementedError("cells are found from the mask")


def found(
    raster: InMemory, intensity: NDArray[np.float32], core_px: int, parameters: CellParameters
) -> tuple[NDArray[np.uint32], NDArray[np.void]]:
    """The labels that `find_cells` writes, put together, and its table; every core is written once, in order."""
    labels = np.full(raster.size_px, 2**32 - 1, np.uint32)
    places: list[tuple[int, int]] = []

    def write(top: int, left: int, block: NDArray[np.uint32]) -> None:
        places.append((top, left))
        assert (labels[top : top + block.shape[0], left : left + block.shape[1]] == 2**32 - 1).all()
        labels[top : top + block.shape[0], left : left + block.shape[1]] = block

    def read(top: int, left: int, height: int, width: int) -> NDArray[np.float32]:
        return intensity[top : top + height, left : left + width]

    table = find_cells(raster, core_px, write, read, parameters, None)
    assert places == sorted(places)
    return labels, table
