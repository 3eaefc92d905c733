"""Agreement of cells, in NumPy alone, so that a scanner can measure it too; masks are compared in `metrics`."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import astuple, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from breastseg_deploy.errors import ArgumentError

LEAST_AREA_PX = 30
"""Objects with fewer pixels are no cells to any of these figures, in truth or found: micronuclei, debris, slivers."""
LEAST_IOU = 0.5
"""Intersection over union from which a cell counts as found."""
CLOSE_PX = 3
"""Cells of the truth whose nearest pixels are less than this apart are a close pair."""

_STEPS = [
    (down, right)
    for down in range(CLOSE_PX)
    for right in range(1 - CLOSE_PX, CLOSE_PX)
    if (down or right > 0) and down**2 + right**2 < CLOSE_PX**2
]
"""To half of the pixels that are close to one; the other half finds the same pairs."""


@dataclass(frozen=True)
class InstanceCounts:
    """What the figures of one frame, or of several together, are made of.

    Attributes:
        truth: cells in truth.
        found: cells found.
        matched: pairs of them with an intersection over union of at least 0.5; each cell is in one pair at most.
        iou: sum over these pairs.
        intersection_px, union_px: the sums of the aggregated Jaccard index.
        miscounted: |found - truth|, summed over frames, so that they do not make up for each other.
        close_pairs: pairs of truth cells less than 3 px apart.
        merged_pairs: of these, pairs of which one found cell covers more than half of both.
    """

    truth: int = 0
    found: int = 0
    matched: int = 0
    iou: float = 0.0
    intersection_px: int = 0
    union_px: int = 0
    miscounted: int = 0
    close_pairs: int = 0
    merged_pairs: int = 0

    @property
    def f1(self) -> float | None:
        """F1 at 0.5: 2 TP / (2 TP + FP + FN); None without any cell."""
        return _ratio(2 * self.matched, self.truth + self.found)

    @property
    def ap(self) -> float | None:
        """Average precision at 0.5 as StarDist and Cellpose define it: TP / (TP + FP + FN); None without any cell.

        Source: Schmidt et al. 2018, arXiv 1806.03535, section 3; `stardist.matching`.
        """
        return _ratio(self.matched, self.truth + self.found - self.matched)

    @property
    def pq(self) -> float | None:
        """Panoptic quality: sum of IoU over matched pairs / (TP + FP / 2 + FN / 2); None without any cell.

        Source: Kirillov et al. 2019, arXiv 1801.00868, eq. (1).
        """
        return _ratio(self.iou, (self.truth + self.found) / 2)

    @property
    def aji(self) -> float | None:
        """Aggregated Jaccard index: each truth cell with the found one of the largest IoU; None without any cell.

        The sum of intersections over the sum of unions, to which found cells that no truth cell chose add their areas.

        Source: Kumar et al. 2017, IEEE Transactions on Medical Imaging 36 (7), algorithm 1.
        """
        return _ratio(self.intersection_px, self.union_px)

    @property
    def count_error(self) -> float | None:
        """Sum over frames of |found - truth| / cells in truth; None without a cell in truth."""
        return _ratio(self.miscounted, self.truth)

    @property
    def merged(self) -> float | None:
        """Share of the close pairs that are merged; None without a close pair."""
        return _ratio(self.merged_pairs, self.close_pairs)

    def figures(self) -> dict[str, Any]:
        """JSON values: the counts of cells and pairs, and all figures."""
        named = ("truth", "found", "f1", "ap", "pq", "aji", "count_error", "close_pairs", "merged")
        return {name: getattr(self, name) for name in named}


def together(frames: Iterable[InstanceCounts]) -> InstanceCounts:
    """The counts of several frames as one: figures over all their cells, not means of the frames' figures."""
    rows = [astuple(frame) for frame in frames]
    return InstanceCounts(*(sum(column) for column in zip(*rows, strict=True))) if rows else InstanceCounts()


def instance_counts(labels: NDArray[Any], truth: NDArray[Any]) -> InstanceCounts:
    """Compare the cells of a frame with those of its truth; objects under 30 px are left out of both first.

    Args:
        labels: (H, W) whole numbers, 0 for none, one for each cell.
        truth: (H, W), likewise.

    Raises:
        ArgumentError: two shapes.
    """
    if labels.shape != truth.shape:
        raise ArgumentError(f"labels to compare must have one shape, got {labels.shape} and {truth.shape}; crop one")
    found, expected = _numbered(labels), _numbered(truth)
    found_px, expected_px = np.bincount(found.ravel()), np.bincount(expected.ravel())
    both = (expected > 0) & (found > 0)
    overlaps, common = np.unique(expected[both] * len(found_px) + found[both], return_counts=True)
    one, other = np.divmod(overlaps, len(found_px))
    union = expected_px[one] + found_px[other] - common
    iou = common / union
    matched = _matched(one, other, iou)
    chosen = _best(one, iou)
    unused_px = expected_px[1:].sum() - expected_px[one[chosen]].sum()
    unused_px += found_px[1:].sum() - found_px[np.unique(other[chosen])].sum()
    covering = np.zeros(len(expected_px), np.int64)
    mostly = common * 2 > expected_px[one]
    covering[one[mostly]] = other[mostly]
    pairs = covering[_close_pairs(expected)]
    return InstanceCounts(
        truth=len(expected_px) - 1,
        found=len(found_px) - 1,
        matched=len(matched),
        iou=float(iou[matched].sum()),
        intersection_px=int(common[chosen].sum()),
        union_px=int(union[chosen].sum() + unused_px),
        miscounted=abs(len(found_px) - len(expected_px)),
        close_pairs=len(pairs),
        merged_pairs=int(((pairs[:, 0] > 0) & (pairs[:, 0] == pairs[:, 1])).sum()),
    )


def _numbered(labels: NDArray[Any]) -> NDArray[np.int64]:
    """The cells of at least 30 px, numbered 1 to N."""
    kept = np.bincount(labels.ravel()) >= LEAST_AREA_PX
    kept[0] = False
    return np.asarray(np.where(kept, np.cumsum(kept), 0)[labels], np.int64)


def _matched(one: NDArray[np.int64], other: NDArray[np.int64], iou: NDArray[np.float64]) -> NDArray[np.intp]:
    """Pairs of at least 0.5. Over 0.5 they exclude each other; at 0.5, two exact halves of a cell, the first counts."""
    enough = np.flatnonzero(iou >= LEAST_IOU)
    for side in (one, other):
        enough = enough[np.unique(side[enough], return_index=True)[1]]
    return enough


def _best(one: NDArray[np.int64], iou: NDArray[np.float64]) -> NDArray[np.intp]:
    """For each truth cell that overlaps any, its pair of the largest IoU; of equal ones the first."""
    order = np.lexsort((-iou, one))
    return order[np.unique(one[order], return_index=True)[1]]


def _close_pairs(labels: NDArray[np.int64]) -> NDArray[np.int64]:
    """(P, 2) pairs of cells with pixels less than 3 px apart, by the distance of their centres."""
    padded = np.pad(labels, CLOSE_PX - 1)
    flat, places = padded.ravel(), np.flatnonzero(padded)
    here = flat[places]
    found = [np.zeros((0, 2), np.int64)]
    for down, right in _STEPS:
        there = flat[places + down * padded.shape[1] + right]
        differ = (there > 0) & (there != here)
        found.append(np.stack([here[differ], there[differ]], axis=1))
    return np.unique(np.sort(np.concatenate(found), axis=1), axis=0)


def _ratio(part: float, whole: float) -> float | None:
    return part / whole if whole else None
