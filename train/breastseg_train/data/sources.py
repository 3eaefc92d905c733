"""Where frames come from: the two tables that may lie beside the splits of a data set.

`manifest.csv` names the source of each frame in its columns `split`, `name` and `dataset`; a frame that it does not
list comes from the source "". `mosaics.csv` lists the images that a frame was laid from, one to a line, by `split`,
`name`, `dst_y`, `dst_x`, `height` and `width`. Both may have more columns.
"""

from __future__ import annotations

import csv
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from breastseg_deploy.errors import ArgumentError, DataError
from breastseg_train.data.dataset import Sample
from breastseg_train.data.mask_statistics import MaskStatistics

MANIFEST, MOSAICS = "manifest.csv", "mosaics.csv"

EMPTY_SHARE = 0.15
"""Of the draws, for the frames without cells, whatever their number; of a recipe that was tried (docs/LOG.md)."""


def sources(root: Path, samples: Iterable[Sample]) -> list[str]:
    """The source of each sample.

    Raises:
        DataError: a manifest that lacks a column.
    """
    by_place = {(row["split"], row["name"]): row["dataset"] for row in _rows(root / MANIFEST, ("dataset",))}
    return [by_place.get((sample.split, sample.name), "") for sample in samples]


def cut_mosaics(root: Path, samples: Iterable[Sample]) -> list[Sample]:
    """The samples, each mosaic replaced by the images that it was laid from: their seams are no microscopy.

    Raises:
        DataError: a table of mosaics that lacks a column, or holds what is no number.
    """
    windows: dict[tuple[str, str], list[tuple[int, int, int, int]]] = defaultdict(list)
    for row in _rows(root / MOSAICS, ("dst_y", "dst_x", "height", "width")):
        try:
            window = (int(row["dst_y"]), int(row["dst_x"]), int(row["height"]), int(row["width"]))
        except ValueError as err:
            raise DataError(f"{root / MOSAICS}: the place of {row['name']} must be whole pixels ({err})") from err
        windows[row["split"], row["name"]].append(window)
    cut = []
    for sample in samples:
        found = windows.get((sample.split, sample.name), [None])
        cut += [replace(sample, window=window) for window in found]
    return cut


def balanced_weights(
    names: Sequence[str], masks: Sequence[MaskStatistics], shares: Mapping[str, float]
) -> NDArray[np.float64]:
    """How often each sample is drawn: sources in fixed shares, whatever their numbers; complex frames oftener inside.

    Args:
        names: the source of each sample.
        masks: its statistics.
        shares: relative share of a source among the frames with cells; 1 where it is not named.

    Returns:
        (N,) summing to 1; frames without cells have `EMPTY_SHARE` together, where there are both kinds.

    Raises:
        ArgumentError: a share of a source that has no frames with cells, or that is not positive.
    """
    complexity = np.array([mask.complexity for mask in masks])
    with_cells = np.array([mask.cell_pixels > 0 for mask in masks])
    groups = np.array(names)
    known = sorted(set(groups[with_cells].tolist()))
    for name, share in shares.items():
        if name not in known or share <= 0:
            raise ArgumentError(
                f"a source's share is a positive number for one of {', '.join(known)}, got {name}={share}"
            )
    weights = np.zeros(len(masks))
    for name in known:
        own = with_cells & (groups == name)
        weights[own] = shares.get(name, 1.0) * complexity[own] / complexity[own].sum()
    if with_cells.all():
        return np.asarray(weights / weights.sum())
    if not with_cells.any():
        return np.full(len(masks), 1 / len(masks))
    weights *= (1 - EMPTY_SHARE) / weights.sum()
    weights[~with_cells] = EMPTY_SHARE / np.count_nonzero(~with_cells)
    return weights


def _rows(path: Path, columns: Sequence[str]) -> list[dict[str, str]]:
    """The rows of a table; none where there is no table."""
    if not path.is_file():
        return []
    try:
        with path.open(newline="") as file:
            reader = csv.DictReader(file)
            missing = {"split", "name", *columns} - set(reader.fieldnames or ())
            rows = list(reader)
    except (OSError, UnicodeDecodeError, csv.Error) as err:
        raise DataError(f"{path} cannot be read as a table: {err}") from err
    if missing:
        raise DataError(f"{path} lacks the column(s) {', '.join(sorted(missing))}; add them, or move it away")
    return rows
