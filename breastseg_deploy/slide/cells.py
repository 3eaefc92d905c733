"""The cells of a slide, found core by core in bounded memory: where the cores lie never matters."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from breastseg_deploy.errors import ArgumentError
from breastseg_deploy.instances import LARGEST_BOX_PX, CellParameters, components, in_reading_order, split_components
from breastseg_deploy.progress import followed as shown
from breastseg_deploy.slide.crossing import Box, Grid, crossing
from breastseg_deploy.slide.figures import measure_cells
from breastseg_deploy.slide.raster import CELL_DTYPE, SlideRaster

_LOG = logging.getLogger("breastseg_deploy")


def find_cells(
    raster: SlideRaster,
    core_px: int,
    write_labels: Callable[[int, int, NDArray[np.uint32]], object],
    intensity: Callable[[int, int, int, int], NDArray[np.float32]],
    parameters: CellParameters,
    pixel_size_um: float | None,
    followed: Callable[[Sequence[int], str, str], Iterator[int]] = shown,
    on_too_large: Callable[[Box], object] | None = None,
) -> NDArray[np.void]:
    """Find, number, write and measure the cells of a slide: those of `instances.split_cells` on all of it at once.

    Two passes over the cores in reading order. The first joins the connected components over borders of cores. The
    second splits each component in a region that holds it whole, and writes a row of cores when all cells that begin
    in it are known.

    Args:
        raster: the slide's mask and probability; its labels are not read.
        core_px: side of the cores, the first of which starts at (0, 0).
        write_labels: takes top, left and a core's block of labels, in reading order.
        intensity: reads a region of the original channel by top, left, height and width; (height, width) float32.
        parameters: how components are split.
        pixel_size_um: of the slide; None where it is not known.
        followed: shows progress over rows of cores, see `progress.followed`.
        on_too_large: told the box of each component that is too large to hold (`instances.LARGEST_BOX_PX`): its pixels
            get no label. None logs a warning for each.

    Returns:
        (N,) of `CELL_DTYPE`, numbered from 1 by the cells' first pixels in reading order.

    Raises:
        ArgumentError: a core without pixels, or lengths in micrometres without a pixel size.
        MachineError: OpenCV is not installed.

    Memory: the table, 98 bytes for each cell; 12 bytes for each labelled pixel of one row of cores; and a region of at
    most two by two cores, or of one component in a box of at most `LARGEST_BOX_PX`.
    """
    if core_px < 1:
        raise ArgumentError(f"a core has a side of at least one pixel, got {core_px}")
    in_px = parameters.in_unit("px", pixel_size_um)
    grid = Grid(raster.size_px, core_px)
    found = _CellsSoFar(raster, grid, in_px, intensity, on_too_large or _warn)
    over_borders = crossing(raster, grid, followed(range(grid.rows), "joining cells over borders", "rows of cores"))
    for row in followed(range(grid.rows), "finding cells", "rows of cores"):
        for column in range(grid.columns):
            found.split_core(grid.core(row, column), over_borders.pop((row, column), []))
        found.number_until(grid.core(row, 0)[2])
        for column in range(grid.columns):
            top, left, bottom, right = grid.core(row, column)
            write_labels(top, left, found.take_labels((row, column), (bottom - top, right - left)))
    return found.table()


class _CellsSoFar:
    """Cells so far. Each has an *id* in the order of finding, and a number once all cells before it are known."""

    def __init__(
        self,
        raster: SlideRaster,
        grid: Grid,
        parameters: CellParameters,
        intensity: Callable[[int, int, int, int], NDArray[np.float32]],
        on_too_large: Callable[[Box], object],
    ) -> None:
        self._raster, self._grid, self._parameters = raster, grid, parameters
        self._intensity, self._on_too_large = intensity, on_too_large
        self._tables = [np.zeros(0, CELL_DTYPE)]
        self._firsts = [np.zeros(0, np.int64)]  # place of each cell's first pixel in the flat slide, by id
        self._numbers = np.zeros(0, np.uint32)  # by id; 0 where it is not known yet
        self._pieces: dict[tuple[int, int], list[tuple[NDArray[np.int32], NDArray[np.int64]]]] = defaultdict(list)

    def split_core(self, core: Box, over_borders: list[Box]) -> None:
        """Split the components inside a core, and those that reach over its borders and whose boxes begin in it."""
        side = self._grid.core_px
        # Small boxes share one region with the core, read once; a box larger than a core is read on its own.
        near = [box for box in over_borders if box[2] - box[0] <= side and box[3] - box[1] <= side]
        top, left, bottom, right = core
        region = top, left, max([bottom, *(box[2] for box in near)]), max([right, *(box[3] for box in near)])
        self._split(region, near, core)
        for box in sorted(set(over_borders) - set(near)):
            self._split(box, [box])

    def _split(self, region: Box, whole: list[Box], core: Box | None = None) -> None:
        """Split the components of a region with these boxes, and those that lie inside the core."""
        top, left, bottom, right = region
        if core is None and (bottom - top) * (right - left) > LARGEST_BOX_PX:
            self._on_too_large(region)
            return
        place = top, left, bottom - top, right - left
        mask = self._raster.mask(*place)
        if not mask.any():
            return
        found = components(mask)
        boxes = found.boxes + np.array((top, left, top, left))
        wanted = np.zeros(len(boxes), np.bool_) if core is None else ~self._grid.at_seam(core, boxes)
        # A component at the core's border belongs to the core in which its box begins: else it would be found twice.
        known = set(whole)
        wanted |= [not one and tuple(box) in known for one, box in zip(wanted, boxes.tolist(), strict=True)]
        wanted[0] = False
        for box in boxes[wanted & found.too_large].tolist():
            self._on_too_large(tuple(box))
        if (wanted & ~found.too_large).any():
            probability = self._raster.probability(*place)
            labels = split_components(found, wanted & ~found.too_large, probability, self._parameters)
            self._keep(in_reading_order(labels), probability, place)

    def _keep(self, labels: NDArray[np.uint32], probability: NDArray[np.uint8], place: Box) -> None:
        """Measure the cells of a region, and share their pixels out among the cores."""
        top, left, height, width = place
        intensity = self._intensity(top, left, height, width)
        known, size_px = sum(map(len, self._tables)), self._grid.size_px
        self._tables.append(measure_cells(labels, probability, intensity, place=(top, left), image_px=size_px))
        inside = np.flatnonzero(labels)
        # Labels are in reading order, so the maximum so far rises at the first pixel of each cell.
        rising = np.maximum.accumulate(labels.ravel()[inside], dtype=np.int64)
        y, x = np.divmod(inside[np.diff(rising, prepend=0) > 0], width)
        self._firsts.append((y + top) * size_px[1] + x + left)
        side = self._grid.core_px
        for row in range(top // side, -(-(top + height) // side)):
            for column in range(left // side, -(-(left + width) // side)):
                up, before, down, behind = self._grid.core(row, column)
                part = labels[max(up - top, 0) : down - top, max(before - left, 0) : behind - left]
                y, x = np.nonzero(part)
                if len(y):
                    at = (y + max(top - up, 0)) * (behind - before) + x + max(left - before, 0)
                    self._pieces[row, column].append((at.astype(np.int32), part[y, x].astype(np.int64) + (known - 1)))

    def number_until(self, bottom: int) -> None:
        """Number the cells that begin above this row of pixels; all of them were found."""
        self._firsts = [np.concatenate(self._firsts)]
        (firsts,) = self._firsts
        numbered = int(self._numbers.max(initial=0))
        self._numbers = np.concatenate([self._numbers, np.zeros(len(firsts) - len(self._numbers), np.uint32)])
        # Cells that begin below may still be preceded by one that nobody has found yet.
        due = np.flatnonzero((self._numbers == 0) & (firsts < bottom * self._grid.size_px[1]))
        self._numbers[due[np.argsort(firsts[due])]] = np.arange(numbered + 1, numbered + 1 + len(due))

    def take_labels(self, core: tuple[int, int], size_px: tuple[int, int]) -> NDArray[np.uint32]:
        """The numbers of a core's pixels, all of which are known; nothing of them is kept."""
        block = np.zeros(size_px[0] * size_px[1], np.uint32)
        for at, ids in self._pieces.pop(core, []):
            block[at] = self._numbers[ids]
        return block.reshape(size_px)

    def table(self) -> NDArray[np.void]:
        """All cells by number."""
        table = np.concatenate(self._tables)
        table["number"] = self._numbers
        return table[np.argsort(self._numbers)]


def _warn(box: Box) -> None:
    _LOG.warning(
        "a connected piece of the mask in the box %s (top, left, bottom, right) is too large to split, over %s px; "
        "it holds no cells",
        box,
        LARGEST_BOX_PX,
    )
