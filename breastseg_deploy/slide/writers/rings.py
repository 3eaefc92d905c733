"""The outlines of labelled cells along the edges of their pixels: rings that hold exactly the pixels of the cell."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Ring = list[int]
"""Corners in order, the first not repeated, each as y * stride + x; it begins with the smallest."""
Polygon = list[Ring]
"""The outer ring first, then the holes."""

_RIGHT, _LEFT = 1, 3


def stride_of(labels: NDArray[np.uint32]) -> int:
    """What a row counts in the corners that `trace` gives for these labels."""
    return int(labels.shape[1]) + 2


def trace(labels: NDArray[np.uint32]) -> dict[int, list[Polygon]]:
    """The polygons of each label, in pixel corners: pixel (y, x) covers y to y + 1 and x to x + 1.

    Every ring is simple (no corner twice) and has no corner on a straight line. Outer rings have a positive area in
    (x, y), holes a negative one. Pixels of a label that touch by a corner alone are polygons that touch in a point.

    Args:
        labels: (H, W) uint32, 0 for none. What lies outside counts as 0.
    """
    stride = stride_of(labels)
    vertices, following, numbers = _segments(np.pad(labels, 1))
    seen = bytearray(len(vertices))
    shells: dict[int, list[Polygon]] = {}
    holes: dict[int, list[Ring]] = {}
    for first, number in enumerate(numbers):  # by corner, so that an outer ring comes before its holes
        if seen[first]:
            continue
        walk, at = [], first
        while not seen[at]:
            seen[at] = 1
            walk.append(vertices[at])
            at = following[at]
        for ring in _simple(walk):
            if ring[1] - ring[0] < stride:  # from the topmost, leftmost corner, an outer ring goes right, a hole down
                shells.setdefault(number, []).append([ring])
            else:
                holes.setdefault(number, []).append(ring)
    for number, rings in holes.items():
        for ring in rings:
            _around(ring, shells[number], stride).append(ring)
    return shells


def _segments(padded: NDArray[np.uint32]) -> tuple[list[int], list[int], list[int]]:
    """The straight pieces of all outlines, by their first corner: that corner, the piece that follows, the label.

    A piece goes with its cell on the right. Where two pixels of a cell touch by a corner, each keeps to itself.
    """
    stride, flat = padded.shape[1], padded.ravel()
    rows = flat[stride:-stride]  # all but the rim above and below, so that each pixel has neighbours
    corners = (-stride - 1, -stride, 0, -1)  # of a pixel, clockwise from the top left one, to its own index
    keys, goals, numbers = [], [], []
    for heading, (ahead, left) in enumerate(((1, -stride), (stride, 1), (-1, stride), (-stride, -1))):
        beside = flat[stride + left : len(flat) - stride + left]
        pixel = np.flatnonzero((rows != beside) & (rows > 0)) + stride
        own = flat[pixel]
        begins = (flat[pixel - ahead] != own) | (flat[pixel - ahead + left] == own)
        goes_on = flat[pixel + ahead] == own
        ends = ~goes_on | (flat[pixel + ahead + left] == own)
        first, last = _along(pixel[begins], heading, stride), _along(pixel[ends], heading, stride)
        turn = np.where(goes_on[ends], _LEFT, _RIGHT)[last]
        begin, end = pixel[begins][first] + corners[heading], pixel[ends][last] + corners[(heading + 1) % 4]
        keys.append(begin * 4 + heading)
        goals.append(end * 4 + (heading + turn) % 4)
        numbers.append(own[begins][first])
    key, goal, number = np.concatenate(keys), np.concatenate(goals), np.concatenate(numbers)
    order = np.argsort(key)
    key = key[order]
    return (key // 4).tolist(), np.searchsorted(key, goal[order]).tolist(), number[order].tolist()


def _along(pixels: NDArray[np.int64], heading: int, stride: int) -> NDArray[np.int64]:
    """The order along lines of that heading: the n-th beginning of a piece and the n-th end are then one piece's."""
    return np.argsort(pixels if heading % 2 == 0 else pixels % stride * (1 << 40) + pixels)


def _simple(walk: list[int]) -> list[Ring]:
    """Cut a closed walk at each corner that it passes twice."""
    if len(set(walk)) == len(walk):
        return [walk]
    rings: list[Ring] = []
    open_walk: list[int] = []
    places: dict[int, int] = {}
    for vertex in walk:
        if vertex in places:
            begin = places[vertex]
            rings.append(_from_smallest(open_walk[begin:]))
            for cut in open_walk[begin:]:
                del places[cut]
            del open_walk[begin:]
        places[vertex] = len(open_walk)
        open_walk.append(vertex)
    return [*rings, _from_smallest(open_walk)]


def _from_smallest(ring: Ring) -> Ring:
    at = ring.index(min(ring))
    return ring[at:] + ring[:at]


def _around(hole: Ring, shells: list[Polygon], stride: int) -> Polygon:
    """The polygon whose pixels border the hole: the innermost that holds the pixel to the left of its first corner."""
    if len(shells) == 1:
        return shells[0]
    y, x = hole[0] // stride, hole[0] % stride - 1
    holding = [polygon for polygon in shells if _holds(polygon[0], y, x, stride)]
    return max(holding, key=lambda polygon: polygon[0][0])  # of nested outer rings, the inner one begins further down


def _holds(ring: Ring, y: int, x: int, stride: int) -> bool:
    """Whether the pixel lies inside the ring: an odd number of its vertical pieces lie to the left."""
    crossed = 0
    for here, there in zip(ring, [*ring[1:], ring[0]], strict=True):
        same_column = here % stride == there % stride
        if same_column and here % stride <= x and min(here, there) // stride <= y < max(here, there) // stride:
            crossed += 1
    return crossed % 2 == 1
