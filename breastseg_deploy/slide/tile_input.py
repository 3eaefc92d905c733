"""From a region of a slide to the network's tensor; each pixel's edge channel is computed from its true neighbours."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from breastseg_deploy.preprocess.gabor import RADIUS_PX, GaborParameters
from breastseg_deploy.preprocess.tensor import network_input
from breastseg_deploy.tiling import Box, padded_size

ReadRgb = Callable[[int, int, int, int], NDArray[np.uint8]]
"""(top, left, height, width) inside the slide to (height, width, 3) uint8."""


def tile_input(
    read_rgb: ReadRgb, size_px: tuple[int, int], seen: Box, gabor: GaborParameters | None = None
) -> NDArray[np.float32]:
    """The tensor of one tile, (1, 4, H, W): the same as that part of the whole slide's tensor.

    Args:
        read_rgb: reads the slide.
        size_px: (H, W) of the slide.
        seen: the tile, inside the slide padded by reflection to multiples of 32.
        gabor: of the edge channel; the paper's by default.
    """
    height, width = padded_size(size_px)
    around = Box(
        max(0, seen.top - RADIUS_PX),
        max(0, seen.left - RADIUS_PX),
        min(height, seen.bottom + RADIUS_PX),
        min(width, seen.right + RADIUS_PX),
    )
    rgb = _read_padded(read_rgb, size_px, around)
    # At the slide's border the edge channel reflects; elsewhere what it reflects is cut off here.
    rows = slice(seen.top - around.top, seen.bottom - around.top)
    columns = slice(seen.left - around.left, seen.right - around.left)
    return np.ascontiguousarray(network_input(rgb[np.newaxis], gabor)[:, :, rows, columns])


def _read_padded(read_rgb: ReadRgb, size_px: tuple[int, int], box: Box) -> NDArray[np.uint8]:
    """A region that may reach over the slide's lower and right border, which are reflected there."""
    bottom, right = min(box.bottom, size_px[0]), min(box.right, size_px[1])
    rgb = read_rgb(box.top, box.left, bottom - box.top, right - box.left)
    if (bottom, right) == (box.bottom, box.right):
        return rgb
    return np.pad(rgb, ((0, box.bottom - bottom), (0, box.right - right), (0, 0)), mode="reflect")
