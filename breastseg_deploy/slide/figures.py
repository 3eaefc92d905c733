"""Figures of labelled cells, all cells at once; the same definitions as `skimage.measure.regionprops`."""

from __future__ import annotations

from math import sqrt
from typing import Any

import numpy as np
from numpy.typing import NDArray

from breastseg_deploy.slide.raster import CELL_DTYPE

_STRAIGHT, _DIAGONAL = 1.0, sqrt(2)
_WEIGHTS = np.zeros(50)
_WEIGHTS[[5, 7, 15, 17, 25, 27]] = _STRAIGHT
_WEIGHTS[[21, 33]] = _DIAGONAL
_WEIGHTS[[13, 23]] = (_STRAIGHT + _DIAGONAL) / 2
"""Length of the border at a border pixel: by 1, plus 2 for each border pixel beside it, plus 10 for each at a corner.

Source: K. Benkrid and D. Crookes, Design and FPGA Implementation of a Perimeter Estimator; as scikit-image has it.
"""


def measure_cells(
    labels: NDArray[np.uint32],
    probability: NDArray[np.uint8],
    intensity: NDArray[Any],
    *,
    place: tuple[int, int] = (0, 0),
    image_px: tuple[int, int] | None = None,
) -> NDArray[np.void]:
    """Figures of the cells of a region, each of which lies in it whole.

    Args:
        labels: (H, W) cells; 0 is none, other numbers are kept as they are and need not follow each other.
        probability: (H, W), times 255.
        intensity: (H, W), of the original channel.
        place: top and left of the region in its image.
        image_px: (H, W) of the image; None where the region is all of it.

    Returns:
        (N,) of `CELL_DTYPE` by rising number. The figures of a cell are the same to the last bit in every region that
        holds it.
    """
    padded = np.pad(labels, 1)
    flat, width = padded.ravel(), padded.shape[1]
    places = np.flatnonzero(flat)
    numbers, cell = np.unique(flat[places], return_inverse=True)
    count = len(numbers)
    y, x = np.divmod(places, width)
    inside = (y - 1) * labels.shape[1] + x - 1
    y, x = y - 1 + place[0], x - 1 + place[1]

    def total(values: NDArray[Any]) -> NDArray[np.float64]:
        return np.bincount(cell, values, count).astype(np.float64)

    area = np.bincount(cell, minlength=count)
    table = np.zeros(count, CELL_DTYPE)
    table["number"], table["area_px"] = numbers, area
    table["top"], table["left"], table["bottom"], table["right"] = _boxes(cell, y, x, count)
    table["centroid_y_px"], table["centroid_x_px"] = total(y) / area, total(x) / area
    table["perimeter_px"] = _perimeters(flat, width, places, cell, count)
    down, right = y - table["centroid_y_px"][cell], x - table["centroid_x_px"][cell]
    table["eccentricity"] = _eccentricities(
        total(down * down) / area, total(down * right) / area, total(right * right) / area
    )
    table["mean_probability"] = total(probability.ravel()[inside]) / area / 255
    table["mean_intensity"] = total(intensity.ravel()[inside]) / area
    height, width = image_px or labels.shape
    at_start = (table["top"] == 0) | (table["left"] == 0)
    table["touches_border"] = at_start | (table["bottom"] == height) | (table["right"] == width)
    return table


def _boxes(
    cell: NDArray[np.intp], y: NDArray[np.intp], x: NDArray[np.intp], count: int
) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Top, left, bottom and right of each cell, half-open."""
    if count == 0:
        empty = np.zeros(0, np.int64)
        return empty, empty, empty, empty
    order = np.argsort(cell, kind="stable")
    starts = np.searchsorted(cell[order], np.arange(count))
    y, x = y[order], x[order]
    low, high = np.minimum.reduceat, np.maximum.reduceat
    return low(y, starts), low(x, starts), high(y, starts) + 1, high(x, starts) + 1


def _perimeters(
    flat: NDArray[np.uint32], width: int, places: NDArray[np.intp], cell: NDArray[np.intp], count: int
) -> NDArray[np.float64]:
    """Of each cell by itself: the border is its pixels with one beside them that is not of it."""
    beside, corner = (-width, -1, 1, width), (-width - 1, 1 - width, width - 1, width + 1)
    own = flat[places]
    is_border = np.zeros(len(places), np.bool_)
    for step in beside:
        is_border |= flat[places + step] != own
    border = np.zeros(flat.size, np.uint32)
    border[places[is_border]] = own[is_border]
    places, own = places[is_border], own[is_border]
    code = np.ones(len(places), np.intp)
    for steps, weight in ((beside, 2), (corner, 10)):
        for step in steps:
            code += weight * (border[places + step] == own)
    return np.bincount(cell[is_border], _WEIGHTS[code], count).astype(np.float64)


def _eccentricities(yy: NDArray[np.float64], xy: NDArray[np.float64], xx: NDArray[np.float64]) -> NDArray[np.float64]:
    """Of the ellipse with the same second moments: sqrt(1 - l2 / l1), with the eigenvalues l1 >= l2 of the moments."""
    mean, spread = (yy + xx) / 2, np.sqrt(((yy - xx) / 2) ** 2 + xy**2)
    larger, smaller = mean + spread, np.maximum(mean - spread, 0)
    flatness = np.divide(smaller, larger, out=np.ones_like(larger), where=larger > 0)
    return np.asarray(np.sqrt(1 - flatness))
