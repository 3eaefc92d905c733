"""What the writers' tests share: a slide in memory, its table of cells, and GeoJSON drawn again pixel by pixel."""

from __future__ import annotations

import gzip
import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from breastseg_deploy.slide.raster import CELL_DTYPE


class ArrayRaster:
    """A SlideRaster over a label array; it refuses regions that do not lie inside, as the contract allows."""

    def __init__(self, labels: NDArray[Any]) -> None:
        self._labels = labels.astype(np.uint32)

    @property
    def size_px(self) -> tuple[int, int]:
        height, width = self._labels.shape
        return height, width

    def labels(self, top: int, left: int, height: int, width: int) -> NDArray[np.uint32]:
        rows, columns = self.size_px
        assert 0 <= top < top + height <= rows, "the region does not lie inside"
        assert 0 <= left < left + width <= columns, "the region does not lie inside"
        return self._labels[top : top + height, left : left + width].copy()

    def mask(self, top: int, left: int, height: int, width: int) -> NDArray[np.uint8]:
        return (self.labels(top, left, height, width) > 0).astype(np.uint8)

    def probability(self, top: int, left: int, height: int, width: int) -> NDArray[np.uint8]:
        return self.mask(top, left, height, width) * np.uint8(200)


def table_of(labels: NDArray[Any]) -> NDArray[np.void]:
    """The table of the cells of a label array; what has no meaning in a test is 0.5."""
    boxes = [(number, box) for number, box in enumerate(ndimage.find_objects(labels.astype(int)), 1) if box is not None]
    cells = np.zeros(len(boxes), CELL_DTYPE)
    for row, (number, (rows, columns)) in zip(cells, boxes, strict=True):
        y, x = np.nonzero(labels[rows, columns] == number)
        y, x = y + rows.start, x + columns.start
        row["number"], row["area_px"] = number, len(y)
        row["top"], row["left"], row["bottom"], row["right"] = y.min(), x.min(), y.max() + 1, x.max() + 1
        row["centroid_y_px"], row["centroid_x_px"] = y.mean(), x.mean()
        for name in ("perimeter_px", "eccentricity", "mean_probability", "mean_intensity"):
            row[name] = 0.5
    return cells


def features_of(path: Path) -> list[dict[str, Any]]:
    with gzip.open(path) as file:
        return list(json.load(file)["features"])


def polygons_of(feature: dict[str, Any]) -> list[list[list[list[float]]]]:
    """The rings of each polygon of a Feature."""
    geometry = feature["geometry"]
    return [geometry["coordinates"]] if geometry["type"] == "Polygon" else list(geometry["coordinates"])


def filled(rings: list[list[list[float]]], size_px: tuple[int, int]) -> NDArray[np.bool_]:
    """The pixels whose centre lies inside an odd number of rings; axis-parallel rings with whole numbers alone."""
    crossings = np.zeros((size_px[0], size_px[1] + 1), int)
    for ring in rings:
        for (x, y), (next_x, next_y) in pairwise(ring):
            if x == next_x:
                crossings[int(min(y, next_y)) : int(max(y, next_y)), int(x)] += 1
    return np.cumsum(crossings, axis=1)[:, :-1] % 2 == 1


def drawn(features: list[dict[str, Any]], size_px: tuple[int, int]) -> NDArray[np.uint32]:
    """Labels drawn of features by their names."""
    labels = np.zeros(size_px, np.uint32)
    for feature in features:
        for rings in polygons_of(feature):
            left, top = np.array(rings[0]).min(0).astype(int)
            right, bottom = np.array(rings[0]).max(0).astype(int)
            moved = [[[x - left, y - top] for x, y in ring] for ring in rings]
            inside = filled(moved, (bottom - top, right - left))
            labels[top:bottom, left:right][inside] = int(feature["properties"]["name"])
    return labels
