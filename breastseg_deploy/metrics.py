"""Agreement of masks, in NumPy alone, so that a scanner can measure it too."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from breastseg_deploy.errors import ArgumentError

BOUNDARY_TOLERANCE_PX = 3
"""The spread between annotators that the paper reports (abstract and section IV C)."""


def dice(mask: NDArray[Any], truth: NDArray[Any]) -> float:
    """Dice coefficient, paper eq. (7), of two masks of one shape; any non-zero value is foreground.

    Two empty masks agree perfectly (1.0) by convention: report frames with cells apart from all frames.

    Raises:
        ArgumentError: two shapes, which NumPy would broadcast into a figure without meaning.
    """
    _check_shapes(mask, truth)
    foreground, expected = mask != 0, truth != 0
    total = int(foreground.sum()) + int(expected.sum())
    return 1.0 if total == 0 else 2 * int((foreground & expected).sum()) / total


def flipped_ppm(mask: NDArray[Any], reference: NDArray[Any]) -> float:
    """Pixels that differ between two masks of one shape, in parts per million.

    Raises:
        ArgumentError: two shapes.
    """
    _check_shapes(mask, reference)
    return float(np.count_nonzero((mask != 0) != (reference != 0)) / mask.size * 1e6)


def surface_dice(mask: NDArray[Any], truth: NDArray[Any], tolerance_px: int = BOUNDARY_TOLERANCE_PX) -> float:
    """Normalised surface Dice: the share of both borders that lies within `tolerance_px` of the other border.

    Args:
        mask: (H, W); any non-zero value is foreground.
        truth: (H, W), likewise.
        tolerance_px: Euclidean distance between border pixels; an integer, so that dilation by a disc is exact.

    Returns:
        0 to 1; 1 where both masks are empty, 0 where one of them is.

    Raises:
        ArgumentError: two shapes.

    Source: Nikolov et al. 2018, arXiv:1809.04430, with border pixels as the surface. A border pixel is a foreground
    pixel with a background pixel above, below, left or right of it; the frame's edge is no border.
    """
    _check_shapes(mask, truth)
    first, second = border(mask), border(truth)
    total = int(first.sum()) + int(second.sum())
    if total == 0:
        return 1.0 if np.array_equal(mask != 0, truth != 0) else 0.0
    near_first, near_second = _dilated(first, tolerance_px), _dilated(second, tolerance_px)
    return (int((first & near_second).sum()) + int((second & near_first).sum())) / total


def border(mask: NDArray[Any]) -> NDArray[np.bool_]:
    """Foreground pixels of an (H, W) mask with a background pixel above, below, left or right of them."""
    foreground = np.pad(mask != 0, 1, mode="edge")
    surrounded = foreground[:-2, 1:-1] & foreground[2:, 1:-1] & foreground[1:-1, :-2] & foreground[1:-1, 2:]
    return np.asarray(foreground[1:-1, 1:-1] & ~surrounded)


def _check_shapes(first: NDArray[Any], second: NDArray[Any]) -> None:
    if first.shape != second.shape:
        raise ArgumentError(f"masks to compare must have one shape, got {first.shape} and {second.shape}; crop one")


def _dilated(pixels: NDArray[np.bool_], radius_px: int) -> NDArray[np.bool_]:
    """All pixels within `radius_px` (Euclidean) of a set pixel."""
    height, width = pixels.shape
    padded = np.pad(pixels, radius_px)
    grown = np.zeros_like(pixels)
    for down in range(-radius_px, radius_px + 1):
        for right in range(-radius_px, radius_px + 1):
            if down**2 + right**2 <= radius_px**2:
                top, left = radius_px + down, radius_px + right
                grown |= padded[top : top + height, left : left + width]
    return grown
