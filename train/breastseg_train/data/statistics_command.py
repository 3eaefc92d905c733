"""`breastseg dataset-stats`."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from breastseg_deploy.cli.command import Command, print_json

if TYPE_CHECKING:
    from breastseg_train.data.statistics import SplitStatistics


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("data", type=Path, metavar="DIR", help="folder with SPLIT/images and SPLIT/masks")
    parser.add_argument("--splits", nargs="+", metavar="SPLIT", help="all there are by default")
    parser.add_argument("--weights", action="store_true", help="also list each frame's sampling weight")
    parser.add_argument("--picture", type=Path, metavar="FILE", help="draw the distribution of cell sizes")
    parser.add_argument("--json", action="store_true", help="print one JSON object on stdout")


def _run(arguments: argparse.Namespace) -> int:
    from breastseg_train.data.dataset import read_data_set
    from breastseg_train.data.statistics import (
        cell_areas_px,
        draw_size_distribution,
        split_names,
        split_statistics,
        statistics_of,
    )

    data = read_data_set(arguments.data, arguments.splits or split_names(arguments.data))
    masks = {split: statistics_of(samples) for split, samples in data.splits.items()}
    table = {split: split_statistics(found) for split, found in masks.items()}
    weights = {
        split: {sample.name: round(mask.complexity, 4) for sample, mask in zip(samples, masks[split], strict=True)}
        for split, samples in data.splits.items()
    }
    if arguments.picture is not None:
        draw_size_distribution({split: cell_areas_px(found) for split, found in masks.items()}, arguments.picture)
    if arguments.json:
        splits = {split: asdict(statistics) for split, statistics in table.items()}
        print_json(
            {"data": str(arguments.data), "splits": splits, **({"weights": weights} if arguments.weights else {})}
        )
        return 0
    print(table_text(table), end="")
    if arguments.weights:
        for split, of_frames in weights.items():
            for name, weight in sorted(of_frames.items(), key=lambda item: -item[1]):
                print(f"{weight:6.3f}  {split}/{name}")
    return 0


def table_text(table: Mapping[str, SplitStatistics], beside: Mapping[str, Sequence[str]] | None = None) -> str:
    """Table I of the paper, one column per split, and three rows more.

    Args:
        table: by split.
        beside: columns that stand beside those of the same splits, such as `PAPER_TABLE_I`, row by row.
    """
    columns: dict[str, list[str]] = {}
    for split, statistics in table.items():
        columns[split] = [cell(statistics) for cell in _ROWS.values()]
        if beside is not None:
            known = list(beside[split])
            columns[f"{split}, paper"] = [*known, *["-"] * (len(_ROWS) - len(known))]
    lines = [f"{'Characteristic':18}" + "".join(f"{title:>16}" for title in columns)]
    for at, title in enumerate(_ROWS):
        lines.append(f"{title:18}" + "".join(f"{column[at]:>16}" for column in columns.values()))
    return "".join(f"{line}\n" for line in lines)


def _share(share: float | None) -> str:
    return "-" if share is None else f"{share:.2%}"


_ROWS: dict[str, Callable[[SplitStatistics], str]] = {
    "Total images": lambda s: f"{s.images}",
    "With cells": lambda s: f"{s.with_cells} ({s.with_cells / s.images:.0%})",
    "Without cells": lambda s: f"{s.without_cells} ({s.without_cells / s.images:.0%})",
    "Avg. cell size": lambda s: _share(s.average_cell_size),
    "Cell pixels": lambda s: _share(s.cell_pixels),
    "Cells per image": lambda s: "-" if s.cells_per_image is None else f"{s.cells_per_image:.1f}",
    "Median cell (px)": lambda s: "-" if s.median_cell_px is None else f"{s.median_cell_px:.0f}",
    "Small structures": lambda s: f"{s.small_structures} of {s.cells}",
}
PAPER_TABLE_I = {
    "train": ("599", "240 (40%)", "359 (60%)", "4.4%", "1.76%"),
    "val": ("130", "52 (40%)", "78 (60%)", "4.3%", "1.72%"),
    "test": ("100", "40 (40%)", "60 (60%)", "4.5%", "1.80%"),
}
"""The paper's Table I, row by row as far as it goes."""

COMMAND = Command(
    "describe a data set: cells, sizes, sampling weights",
    _add_arguments,
    _run,
    loads=("breastseg_train.data.statistics",),
    extra="train",
)
