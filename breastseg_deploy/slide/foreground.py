"""Which tiles of a slide hold nothing but background, found on a small picture of it.

A tile is empty where the luma of its core, and of one pixel of the picture around it, varies by no more than
`LARGEST_RANGE` grey levels. Glass, the black of fluorescence and what scanners fill in do; a cell does not, as long as
it stands out by more than that after the averaging of the picture, each of whose pixels is at most `LARGEST_FACTOR`
pixels of the slide wide. Noise makes a tile look full, never empty. The certificate computes some of the tiles that
were skipped all the same.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from breastseg_deploy.slide.source import SlideSource
from breastseg_deploy.slide.store import Place
from breastseg_deploy.tiling import Plan, Tile

LARGEST_RANGE = 3
"""Grey levels of 255."""
LARGEST_FACTOR = 32
LEAST_PX = 1024
"""Of the picture's longest side."""
_LUMA = np.array([299, 587, 114], np.uint32)


def empty_tiles(slide: SlideSource, plan: Plan) -> list[Place]:
    """Row and column of each tile to skip, in order.

    Raises:
        SlideError: the slide cannot be read.
    """
    longest = max(LEAST_PX, math.ceil(max(slide.size_px) / LARGEST_FACTOR))
    thumbnail, downsample = slide.thumbnail(longest)
    luma = (thumbnail @ _LUMA + 500) // 1000
    return [(tile.row, tile.column) for tile in plan if _is_empty(luma, tile, downsample)]


def _is_empty(luma: NDArray[np.uint32], tile: Tile, downsample: float) -> bool:
    core = tile.core
    top, left = (max(0, math.floor(edge / downsample) - 1) for edge in (core.top, core.left))
    bottom, right = (math.ceil(edge / downsample) + 1 for edge in (core.bottom, core.right))
    seen = luma[top:bottom, left:right]
    return int(seen.max()) - int(seen.min()) <= LARGEST_RANGE
