"""Cells from a mask: a watershed of the distance map whose basins are joined where the neck between them is wide.

A slide is split region by region and must not show it. So every step depends on the pixels of one connected component
alone: distances to its border, the way up from each pixel, the order in which basins are joined. Wherever a component
is cut out, with whatever beside it, it falls into the same cells. Flooding from markers does not promise that: it takes
equal markers in the order of a heap that all of the image shares.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from breastseg_deploy.errors import ArgumentError
from breastseg_deploy.extras import require

SURE = 0.9
"""Probability over which pixels have a distance map of their own, averaged with the mask's: touching nuclei part there.

Chosen with the defaults below on the public validation frames (docs/LOG.md).
"""
LARGEST_BOX_PX = 2**24
"""A connected component in a larger box is no cell and is not split: it stays unlabelled and is reported."""

Unit = Literal["um", "px"]

_STEPS = ((-1, -1), (-1, 0), (-1, 1), (0, -1), (0, 1), (1, -1), (1, 0), (1, 1))


class CellParameters(BaseModel):
    """How a mask becomes cells.

    Components are 8-connected. One with less than `least_area` is no cell: its pixels stay in the mask and get no
    number. Two peaks of the distance map stay apart where the neck between them, measured as the distance map is, is
    narrower than `neck` times the smaller peak and at least `depth` below it; else, and where a piece would come out
    smaller than `least_piece`, they are one cell.

    Attributes:
        method: "watershed" splits components; with "components" each of them is one cell.
        unit: of lengths; areas are in its square.
        neck: share of the smaller peak.
        depth: a length.
        least_area: an area, of components.
        least_piece: an area, of what a component is split into.
        largest_hole: an area, of holes that do not count as necks.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    method: Literal["watershed", "components"] = "watershed"
    unit: Unit = "px"
    neck: float = Field(default=0.95, gt=0, le=1)
    depth: float = Field(default=0.4, ge=0)
    least_area: float = Field(default=30.0, ge=0)
    least_piece: float = Field(default=60.0, ge=0)
    largest_hole: float = Field(default=10.0, ge=0)

    def in_unit(self, unit: Unit, pixel_size_um: float | None) -> CellParameters:
        """The same parameters in another unit.

        Args:
            unit: to express them in.
            pixel_size_um: of the image; what is in pixels already needs none to stay so.

        Raises:
            ArgumentError: the units differ and the pixel size is not known.
        """
        if unit == self.unit:
            return self
        if pixel_size_um is None:
            raise ArgumentError(
                f"the cells' parameters are in {self.unit} and the image states no pixel size; state it, or export the "
                "bundle with parameters in pixels"
            )
        scale = pixel_size_um if unit == "um" else 1 / pixel_size_um
        powers, digits = {"depth": 1, "least_area": 2, "least_piece": 2, "largest_hole": 2}, 12 if unit == "um" else 6
        # Rounded, so that 30 px in micrometres are 30 px again: a component of exactly so many is a cell.
        changed = {name: round(getattr(self, name) * scale**power, digits) for name, power in powers.items()}
        return self.model_copy(update={"unit": unit, **changed})


DEFAULTS = CellParameters()
"""What a bundle without parameters of its own is served with; in pixels, because nothing is known of its images."""


@dataclass(frozen=True)
class Components:
    """The 8-connected components of a mask.

    Attributes:
        labels: (H, W) int32, 0 for none; in no particular order.
        boxes: (N + 1, 4) int64, top, left, bottom and right of each, half-open; row 0 is the background's.
        areas: (N + 1,) int64, in pixels.
    """

    labels: NDArray[np.int32]
    boxes: NDArray[np.int64]
    areas: NDArray[np.int64]

    @property
    def too_large(self) -> NDArray[np.bool_]:
        """(N + 1,), whose box is over `LARGEST_BOX_PX`."""
        large = (self.boxes[:, 2] - self.boxes[:, 0]) * (self.boxes[:, 3] - self.boxes[:, 1]) > LARGEST_BOX_PX
        large[0] = False
        return np.asarray(large)


def components(mask: NDArray[Any]) -> Components:
    """The components of an (H, W) mask; any non-zero value is foreground.

    Raises:
        MachineError: OpenCV is not installed.
    """
    cv2 = require("cv2", "cpu")
    _, labels, table, _ = cv2.connectedComponentsWithStats((mask != 0).astype(np.uint8), connectivity=8)
    left, top, width, height, area = table.astype(np.int64).T
    return Components(labels, np.stack([top, left, top + height, left + width], axis=1), area)


def split_cells(
    mask: NDArray[Any],
    probability: NDArray[Any],
    parameters: CellParameters = DEFAULTS,
    pixel_size_um: float | None = None,
) -> NDArray[np.uint32]:
    """The cells of a whole image.

    Args:
        mask: (H, W); any non-zero value is foreground.
        probability: (H, W), uint8 as a slide stores it, times 255; or floating point in [0, 1], which is rounded to
            that first, so that a frame and the same pixels in a slide hold the same cells.
        parameters: how.
        pixel_size_um: of the image; None where it is not known.

    Returns:
        (H, W) uint32, 0 for none; cells are numbered from 1 by their first pixels in reading order.

    Raises:
        ArgumentError: two shapes, or lengths in micrometres without a pixel size.
        MachineError: OpenCV is not installed.
    """
    if mask.ndim != 2 or mask.shape != probability.shape:
        raise ArgumentError(f"mask and probability must have one shape (H, W), got {mask.shape}, {probability.shape}")
    found = components(mask)
    labels = split_components(found, ~found.too_large, in_255ths(probability), parameters.in_unit("px", pixel_size_um))
    return in_reading_order(labels)


def in_255ths(probability: NDArray[Any]) -> NDArray[np.uint8]:
    """Probabilities as a slide stores them: times 255, rounded; uint8 ones are that already."""
    if probability.dtype == np.uint8:
        return np.asarray(probability, np.uint8)
    return np.asarray(np.rint(np.clip(probability, 0, 1) * np.float32(255)), np.uint8)


def split_components(
    found: Components, wanted: NDArray[np.bool_], probability: NDArray[np.uint8], parameters: CellParameters
) -> NDArray[np.uint32]:
    """Split some components of a region; the pieces of each do not depend on what else the region holds.

    Args:
        found: the components of the region's mask.
        wanted: (N + 1,), which to split; each must lie in the region whole.
        probability: (H, W) uint8 of the region.
        parameters: in pixels.

    Returns:
        (H, W) uint32; different numbers for different cells, in no particular order.
    """
    kept = wanted & (found.areas >= parameters.least_area)
    if parameters.method == "components":
        return np.where(kept, np.arange(len(kept), dtype=np.uint32), np.uint32(0))[found.labels]
    return landscape(found, kept, probability, parameters.largest_hole).cells(parameters)


def in_reading_order(labels: NDArray[np.uint32]) -> NDArray[np.uint32]:
    """The same cells numbered from 1 by their first pixels in reading order."""
    flat = labels.ravel()
    places = np.flatnonzero(flat)
    used, first, number = np.unique(flat[places], return_index=True, return_inverse=True)
    rank = np.empty(len(used), np.uint32)
    rank[np.argsort(first)] = np.arange(1, len(used) + 1)
    ordered = np.zeros(flat.size, np.uint32)
    ordered[places] = rank[number]
    return ordered.reshape(labels.shape)


@dataclass(frozen=True)
class Landscape:
    """A distance map and its basins, which any parameters join to cells.

    Attributes:
        inside: (H + 2, W + 2), the region's mask with a rim.
        places: (P,) of the pixels over 0 in the flat map with its rim, in reading order; filled holes among them.
        heights: (P,) of these.
        peaks: (P,) where the way up from each ends, as an index into `places`; a basin is named by it.
        pairs: (Q, 2), basins that touch.
        passes: (Q,), the height of the highest pass between each two, falling.
    """

    inside: NDArray[np.bool_]
    places: NDArray[np.intp]
    heights: NDArray[np.float32]
    peaks: NDArray[np.int32]
    pairs: NDArray[np.int32]
    passes: NDArray[np.float32]

    def cells(self, parameters: CellParameters) -> NDArray[np.uint32]:
        """(H, W), different numbers for different cells: basins joined over the highest passes first.

        Args:
            parameters: of a watershed, in pixels; components were chosen before.
        """
        labels = np.zeros(self.inside.size, np.uint32)
        labels[self.places] = self._joined(parameters)[self.peaks] + 1
        return np.where(self.inside, labels.reshape(self.inside.shape), np.uint32(0))[1:-1, 1:-1]

    def _joined(self, parameters: CellParameters) -> NDArray[np.intp]:
        """By basin, the basin that names its cell."""
        cell = np.arange(len(self.peaks))
        area = np.bincount(self.peaks, minlength=len(self.peaks))
        heights, parent = self.heights, dict[int, int]()

        def root(basin: int) -> int:
            top = basin
            while top in parent:
                top = parent[top]
            while basin != top:
                parent[basin], basin = top, parent[basin]
            return top

        # The highest pass first: a pair is judged by peaks and areas once all that is higher has been joined.
        for (one, other), neck in zip(self.pairs.tolist(), self.passes.tolist(), strict=True):
            low, high = sorted((root(one), root(other)), key=lambda basin: (heights[basin], -basin))
            peak = float(heights[low])
            apart = neck < parameters.neck * peak and neck <= peak - parameters.depth
            if low != high and not (apart and min(area[low], area[high]) >= parameters.least_piece):
                parent[low] = high
                area[high] += area[low]
        for basin in parent:
            cell[basin] = root(basin)
        return cell


def landscape(
    found: Components, kept: NDArray[np.bool_], probability: NDArray[np.uint8], largest_hole_px: float
) -> Landscape:
    """The distance map of some components of a region, and its basins.

    Args:
        found: the components of the region's mask.
        kept: (N + 1,), which to take; that of the background does not count.
        probability: (H, W) uint8 of the region.
        largest_hole_px: holes up to this area are filled first: they are nucleoli, and no necks.
    """
    labels = np.pad(found.labels, 1)
    inside = kept[labels] & (labels > 0)
    sure = inside & (np.pad(probability, 1) >= round(255 * SURE))
    whole, core = _filled(inside, labels, largest_hole_px), _filled(sure, labels, largest_hole_px)
    height = (_distance(whole) + _distance(core)) / np.float32(2)
    flat, width = height.ravel(), height.shape[1]
    places = np.flatnonzero(flat)
    peaks = _peaks(flat, width, places)
    pairs, passes = _passes(flat, width, places, peaks)
    return Landscape(inside, places, flat[places], peaks, pairs, passes)


def _filled(pixels: NDArray[np.bool_], labels: NDArray[np.int32], largest_px: float) -> NDArray[np.bool_]:
    """Pixels with the small holes in them; both (H, W) with an empty rim.

    Filled is what belongs to one component alone and touches no other: so that it depends on that component alone.
    """
    cv2 = require("cv2", "cpu")
    count, holes, table, _ = cv2.connectedComponentsWithStats((~pixels).astype(np.uint8), connectivity=4)
    small = table[:, cv2.CC_STAT_AREA] <= largest_px
    small[[0, holes[0, 0]]] = False  # the pixels that are set, and the surroundings with the rim: neither is a hole
    flat, width = labels.ravel(), labels.shape[1]
    places = np.flatnonzero(small[holes])
    hole = holes.ravel()[places]
    low, high = np.full(count, np.iinfo(np.int32).max), np.zeros(count, np.int64)
    for step in (0, -width, -1, 1, width):
        near = flat[places + step]
        there = near > 0
        np.minimum.at(low, hole[there], near[there])
        np.maximum.at(high, hole[there], near[there])
    return np.asarray(pixels | (small & (low == high))[holes])


def _distance(pixels: NDArray[np.bool_]) -> NDArray[np.float32]:
    """To the nearest pixel that is not set; there is one.

    OpenCV's distances are square roots of whole numbers up to their last bits; these are taken again from the whole
    numbers, so that they cannot depend on where a row begins.
    """
    cv2 = require("cv2", "cpu")
    distance = cv2.distanceTransform(pixels.astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    return np.asarray(np.sqrt(np.rint(distance * distance)), np.float32)


def _peaks(flat: NDArray[np.float32], width: int, places: NDArray[np.intp]) -> NDArray[np.int32]:
    """Where the way up ends: to the highest neighbour and on; of equal ones the last in reading order counts."""
    best, highest = places.copy(), flat[places]
    for down, right in _STEPS:
        neighbour = places + (down * width + right)
        beside = flat[neighbour]
        up = (beside > highest) | ((beside == highest) & (neighbour > best))
        np.copyto(best, neighbour, where=up)
        np.copyto(highest, beside, where=up)
    index = np.zeros(flat.size, np.int32)
    index[places] = np.arange(len(places), dtype=np.int32)
    peaks = index[best]
    # Each round doubles the step: a ridge of any length takes few rounds.
    while (peaks[peaks] != peaks).any():
        peaks = peaks[peaks]
    return peaks


def _passes(
    flat: NDArray[np.float32], width: int, places: NDArray[np.intp], peaks: NDArray[np.int32]
) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """Pairs of basins that touch, (Q, 2), and the highest pass between each, (Q,), the highest first.

    A pass is a pair of neighbours, one of each basin, and as high as the lower of them.
    """
    basin = np.full(flat.size, -1, np.int32)
    basin[places] = peaks
    found = []
    for step in (1, width - 1, width, width + 1):
        beside = basin[places + step]
        differ = (beside >= 0) & (beside != peaks)
        here = places[differ]
        passes = np.minimum(flat[here], flat[here + step])
        found.append((np.minimum(peaks, beside)[differ], np.maximum(peaks, beside)[differ], passes))
    first, second, passes = (np.concatenate(parts) for parts in zip(*found, strict=True))
    order = np.lexsort((-passes, second, first))
    first, second, passes = first[order], second[order], passes[order]
    # Of several passes between the same two basins the highest counts; sorted, it is the first of its pair.
    new = np.ones(len(first), np.bool_)
    new[1:] = (first[1:] != first[:-1]) | (second[1:] != second[:-1])
    first, second, passes = first[new], second[new], passes[new]
    falling = np.argsort(-passes, kind="stable")
    return np.stack([first, second], axis=1)[falling], passes[falling]
