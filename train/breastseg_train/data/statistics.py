"""Statistics of a split: the paper's Table I, and the cells and small structures behind it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from breastseg_deploy.errors import DataError, OutputError
from breastseg_deploy.progress import followed
from breastseg_train.data.dataset import Sample, read_mask
from breastseg_train.data.mask_statistics import SMALL_STRUCTURE_PX, MaskStatistics, mask_statistics


@dataclass(frozen=True)
class SplitStatistics:
    """A split in figures; shares are between 0 and 1 and None where there is no frame to take them from.

    Attributes:
        images: frames in all.
        with_cells: frames with any cell pixel.
        without_cells: the others.
        average_cell_size: mean share of cell pixels over the frames with cells (Table I, "Avg. Cell Size").
        cell_pixels: share of cell pixels over all frames (Table I, "Cell Pixels").
        cells: connected components.
        cells_per_image: mean over the frames with cells.
        median_cell_px: median area of a component in pixels.
        small_structures: components under 100 px.
    """

    images: int
    with_cells: int
    without_cells: int
    average_cell_size: float | None
    cell_pixels: float
    cells: int
    cells_per_image: float | None
    median_cell_px: float | None
    small_structures: int


def split_names(root: Path) -> list[str]:
    """The folders of a data set that hold frames, by name.

    Raises:
        DataError: there is none.
    """
    names = sorted(folder.parent.name for folder in root.glob("*/images"))
    if not names:
        raise DataError(f"{root} holds no splits; expected folders such as {root / 'train' / 'images'}")
    return names


def statistics_of(samples: Sequence[Sample]) -> list[MaskStatistics]:
    """Statistics of each sample's mask."""
    return [mask_statistics(read_mask(sample.mask)) for sample in followed(samples, "describing masks", "masks")]


def split_statistics(masks: Sequence[MaskStatistics]) -> SplitStatistics:
    """Sum up the masks of a split, at least one."""
    shares = [mask.cell_pixels / mask.pixels for mask in masks]
    with_cells = [share for share in shares if share > 0]
    areas = cell_areas_px(masks)
    return SplitStatistics(
        images=len(masks),
        with_cells=len(with_cells),
        without_cells=len(masks) - len(with_cells),
        average_cell_size=float(np.mean(with_cells)) if with_cells else None,
        cell_pixels=float(np.mean(shares)),
        cells=len(areas),
        cells_per_image=len(areas) / len(with_cells) if with_cells else None,
        median_cell_px=float(np.median(areas)) if len(areas) else None,
        small_structures=sum(mask.small_structures for mask in masks),
    )


def cell_areas_px(masks: Sequence[MaskStatistics]) -> NDArray[np.int64]:
    """Areas of all components of all masks."""
    return np.array([area for mask in masks for area in mask.cell_areas_px], np.int64)


def draw_size_distribution(areas_px: dict[str, NDArray[np.int64]], path: Path) -> None:
    """Write a histogram of cell areas on a logarithmic axis, one line per split, small structures shaded.

    Raises:
        OutputError: the picture cannot be written.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    largest = max((int(areas.max()) for areas in areas_px.values() if len(areas)), default=SMALL_STRUCTURE_PX)
    bins = np.geomspace(1, largest + 1, 40)
    for split, areas in areas_px.items():
        axes.hist(areas, bins.tolist(), histtype="step", label=f"{split} ({len(areas)} cells)")
    axes.axvspan(1, SMALL_STRUCTURE_PX, color="0.9", label=f"small structures, under {SMALL_STRUCTURE_PX} px")
    axes.set(xscale="log", xlabel="area of a cell in pixels", ylabel="cells")
    axes.legend()
    try:
        figure.savefig(path, dpi=120)
    except (OSError, ValueError) as err:
        raise OutputError(f"cannot write the picture {path}: {err}; give a .png file in a folder that exists") from err
