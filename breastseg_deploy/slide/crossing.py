"""Which components of a slide's mask reach over the borders of its cores: a union-find over those borders."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from breastseg_deploy.instances import components
from breastseg_deploy.slide.raster import SlideRaster

Box = tuple[int, int, int, int]
"""Top, left, bottom and right in pixels of the slide, half-open."""


@dataclass(frozen=True)
class Grid:
    """Cores over a slide; those at its end are smaller.

    Attributes:
        size_px: (H, W) of the slide.
        core_px: side of a core.
    """

    size_px: tuple[int, int]
    core_px: int

    @property
    def rows(self) -> int:
        """Of cores."""
        return -(-self.size_px[0] // self.core_px)

    @property
    def columns(self) -> int:
        """Of cores."""
        return -(-self.size_px[1] // self.core_px)

    def core(self, row: int, column: int) -> Box:
        """The place of a core."""
        top, left = row * self.core_px, column * self.core_px
        return top, left, min(top + self.core_px, self.size_px[0]), min(left + self.core_px, self.size_px[1])

    def at_seam(self, core: Box, boxes: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Which boxes, (N, 4), reach a side of a core behind which the slide goes on."""
        before = (boxes[:, :2] <= core[:2]) & (np.array(core[:2]) > 0)
        behind = (boxes[:, 2:] >= core[2:]) & (np.array(core[2:]) < self.size_px)
        return np.asarray(before.any(axis=1) | behind.any(axis=1))


def crossing(raster: SlideRaster, grid: Grid, rows: Iterable[int]) -> dict[tuple[int, int], list[Box]]:
    """The box of each component that reaches a side of a core behind which the slide goes on.

    Components are 8-connected. No two have the same box: a path from top to bottom and one from left to right meet.

    Args:
        raster: of the slide; its masks are read once, core by core in reading order.
        grid: the cores.
        rows: all rows of cores, in order.

    Returns:
        By the row and the column of the core that holds the top left corner of the box.
    """
    union = _Union()
    above = np.full(grid.size_px[1], -1, np.int64)
    for row in rows:
        below, before = np.full_like(above, -1), np.full(grid.core_px, -1, np.int64)
        for column in range(grid.columns):
            core = top, left, bottom, right = grid.core(row, column)
            ids = _ids(raster, grid, core, union)
            before = before[: bottom - top]
            start, end = max(0, left - 1), min(len(above), right + 1)
            union.join_beside(np.pad(ids[0], (left - start, end - right), constant_values=-1), above[start:end])
            union.join_beside(ids[:, 0], before)
            below[left:right], before = ids[-1], ids[:, -1]
        above = below
    found = defaultdict(list)
    for box in union.boxes():
        found[box[0] // grid.core_px, box[1] // grid.core_px].append(box)
    return found


def _ids(raster: SlideRaster, grid: Grid, core: Box, union: _Union) -> NDArray[np.int64]:
    """(H, W) the set of the union that each pixel of a core is in; -1 for background, and for what stays inside."""
    top, left, bottom, right = core
    mask = raster.mask(top, left, bottom - top, right - left)
    if not mask.any():  # most of a large slide
        return np.broadcast_to(np.int64(-1), mask.shape)
    found = components(mask)
    boxes = found.boxes + np.array((top, left, top, left))
    reaches = grid.at_seam(core, boxes)
    reaches[0] = False
    numbers = np.full(len(boxes), -1, np.int64)
    numbers[reaches] = [union.add(box) for box in boxes[reaches].tolist()]
    return numbers[found.labels]


class _Union:
    """Sets that are joined, with a box around each."""

    def __init__(self) -> None:
        self._boxes: list[list[int]] = []
        self._parent: list[int] = []

    def add(self, box: list[int]) -> int:
        """A new set; its number."""
        self._boxes.append(box)
        self._parent.append(len(self._parent))
        return len(self._parent) - 1

    def join_beside(self, line: NDArray[np.int64], other: NDArray[np.int64]) -> None:
        """Join the sets of two lines of pixels beside each other, where those touch by a side or a corner."""
        for one, two in ((line, other), (line[1:], other[:-1]), (line[:-1], other[1:])):
            both = (one >= 0) & (two >= 0)
            for pair in {*zip(one[both].tolist(), two[both].tolist(), strict=True)}:
                self._join(*pair)

    def boxes(self) -> list[Box]:
        """Of all sets."""
        roots = (number for number, parent in enumerate(self._parent) if number == parent)
        return [(top, left, bottom, right) for top, left, bottom, right in (self._boxes[root] for root in roots)]

    def _join(self, one: int, other: int) -> None:
        first, second = sorted((self._root(one), self._root(other)))
        if first != second:
            self._parent[second] = first
            corners = list(zip(self._boxes[first], self._boxes[second], strict=True))
            self._boxes[first] = [*map(min, corners[:2]), *map(max, corners[2:])]

    def _root(self, one: int) -> int:
        while self._parent[one] != one:
            self._parent[one] = one = self._parent[self._parent[one]]
        return one
