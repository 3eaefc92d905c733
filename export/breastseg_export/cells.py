"""Which parameters turn masks into cells: chosen on frames with numbered cells, over a small grid, by F1."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from breastseg_deploy.cell_choice import CellChoice, CellFigures, CellsOfSource
from breastseg_deploy.errors import DataError
from breastseg_deploy.instance_metrics import InstanceCounts, instance_counts, together
from breastseg_deploy.instances import DEFAULTS, CellParameters, Unit, components, in_255ths, landscape, split_cells
from breastseg_deploy.progress import followed
from breastseg_export.report import rendered
from breastseg_export.runners import Engine
from breastseg_train.data.dataset import Sample, read_data_set
from breastseg_train.data.sources import sources

COMPONENTS = CellParameters(method="components")
NECKS, LEAST_PIECES_PX, LARGEST_HOLES_PX = (0.8, 0.9, 0.95, 0.97), (30.0, 60.0, 120.0), (0.0, 10.0, 100.0)
WATERSHEDS = tuple(
    CellParameters(neck=neck, least_piece=piece, largest_hole=hole)
    for hole, neck, piece in product(LARGEST_HOLES_PX, NECKS, LEAST_PIECES_PX)
)
"""The grid, in pixels; of equal F1 the first counts."""
LARGEST_LOSS = 0.02
"""Of F1 against connected components, which a source is served with where the watershed loses more."""

Tried = Mapping[CellParameters, list[InstanceCounts]]
"""Counts of the same frames in the same order, by parameters."""


class LabelledFrames:
    """Frames with numbered cells, of folders such as DATA/val, all checked.

    Args:
        folders: each holds images/, masks/ and labels/, and may lie in a data set whose manifest names sources.
        size_px: (H, W) that every frame must have.

    Raises:
        DataError: see `read_data_set`; a frame without labels, or of another size; no cell at all.
    """

    def __init__(self, folders: Sequence[Path], size_px: tuple[int, int]) -> None:
        self.samples: list[Sample] = []
        self.sources: list[str] = []
        self.names = [folder.name for folder in folders]
        for folder in folders:
            root = folder.absolute().parent
            samples = read_data_set(root, [folder.name]).splits[folder.name]
            self.samples += samples
            self.sources += sources(root, samples)
        digest, cells = hashlib.sha256(), 0
        for sample in self.samples:
            truth = labels_of(sample)
            if truth.shape != size_px:
                raise DataError(f"{sample.image} has {truth.shape} px, the bundle's frames {size_px}; crop it")
            digest.update(f"{sample.name} {sample.sha256}".encode() + truth.tobytes())
            cells += instance_counts(truth, truth).truth
        if not cells:
            raise DataError(f"{', '.join(map(str, folders))}: no cell is numbered there; name frames with cells")
        self.sha256 = digest.hexdigest()

    @property
    def description(self) -> str:
        """What they are, in words."""
        return f"{len(self.samples)} frames of {', '.join(self.names)}"


def choose_cells(frames: LabelledFrames, predict: Engine, threshold: float, pixel_size_um: float | None) -> CellChoice:
    """Try the grid on every frame, and take the highest F1: over all cells, and over each source's for its own.

    Args:
        frames: to choose on.
        predict: the reference.
        threshold: of its masks.
        pixel_size_um: of the frames; where it is known the choice is in micrometres.
    """
    tried: dict[CellParameters, list[InstanceCounts]] = {parameters: [] for parameters in (COMPONENTS, *WATERSHEDS)}
    for sample in followed(frames.samples, "choosing how masks become cells", "frames"):
        frame, _ = sample.read()
        probability, truth = predict(frame), labels_of(sample)
        mask = probability >= threshold
        tried[COMPONENTS].append(instance_counts(split_cells(mask, probability, COMPONENTS), truth))
        found, in_bytes = components(mask), in_255ths(probability)
        cells = found.areas >= DEFAULTS.least_area
        # Basins depend on the holes alone, all other parameters only join them: three maps serve the whole grid.
        basins = {hole: landscape(found, cells, in_bytes, hole) for hole in LARGEST_HOLES_PX}
        for parameters in WATERSHEDS:
            split = basins[parameters.largest_hole].cells(parameters)
            tried[parameters].append(instance_counts(split, truth))
    by_source: dict[str, list[int]] = defaultdict(list)
    for number, source in enumerate(frames.sources):
        by_source[source].append(number)
    general = best(tried)
    of_sources = {
        source: _of_source({one: [counts[number] for number in numbers] for one, counts in tried.items()}, general)
        for source, numbers in sorted(by_source.items())
        if source and together(tried[COMPONENTS][number] for number in numbers).truth
    }
    unit: Unit = "px" if pixel_size_um is None else "um"
    return CellChoice(
        parameters=general.in_unit(unit, pixel_size_um),
        chosen_on=frames.description,
        data_sha256=frames.sha256,
        figures=_figures(tried[general]),
        components=_figures(tried[COMPONENTS]),
        sources={
            name: one.model_copy(update={"parameters": one.parameters.in_unit(unit, pixel_size_um)})
            for name, one in of_sources.items()
        },
        worst_source=min(of_sources, key=lambda name: of_sources[name].figures.f1 or 0, default=None),
    )


def best(tried: Tried) -> CellParameters:
    """The parameters of the highest F1 over all cells of the frames; of equal ones the first."""
    return max(tried, key=lambda parameters: together(tried[parameters]).f1 or 0)


def best_of_source(tried: Tried) -> CellParameters:
    """The watershed of the highest F1; connected components where it loses more than 0.02 against them."""
    watershed = best({parameters: tried[parameters] for parameters in WATERSHEDS})
    lost = (together(tried[COMPONENTS]).f1 or 0) - (together(tried[watershed]).f1 or 0)
    return COMPONENTS if lost > LARGEST_LOSS else watershed


def cells_section(choice: CellChoice) -> str:
    """The choice as a part of the report, HTML."""
    return rendered("cells.html.j2", choice=choice)


def labels_of(sample: Sample) -> NDArray[np.int64]:
    """The numbered cells of a sample, (H, W).

    Raises:
        DataError: it has none.
    """
    labels = sample.read_labels()
    if labels is None:
        raise DataError(f"{sample.image} has no labels of that name; --cells needs all frames' cells numbered")
    return labels


def _of_source(tried: Tried, general: CellParameters) -> CellsOfSource:
    own = best_of_source(tried)
    return CellsOfSource(figures=_figures(tried[general]), parameters=own, own_figures=_figures(tried[own]))


def _figures(counts: Sequence[InstanceCounts]) -> CellFigures:
    return CellFigures(**together(counts).figures())
