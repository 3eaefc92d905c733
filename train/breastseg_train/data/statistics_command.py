"""`breastseg dataset-stats`."""

from __future__ import annotations

import argparse
from collections.abc import Callable
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
    _print_table(table)
    if arguments.weights:
        for split, of_frames in weights.items():
            for name, weight in sorted(of_frames.items(), key=lambda item: -item[1]):
                print(f"{weight:6.3f}  {split}/{name}")
    return 0


def _print_table(table: dict[str, SplitStatistics]) -> None:
    """Table I of the paper, one column per split, and three rows more."""
    rows: dict[str, Callable[[SplitStatistics], str]] = {
        "Total images": lambda s: f"{s.images}",
        "With cells": lambda s: f"{s.with_cells} ({s.with_cells / s.images:.0%})",
        "Without cells": lambda s: f"{s.without_cells} ({s.without_cells / s.images:.0%})",
        "Avg. cell size": lambda s: _share(s.average_cell_size),
        "Cell pixels": lambda s: _share(s.cell_pixels),
        "Cells per image": lambda s: "-" if s.cells_per_image is None else f"{s.cells_per_image:.1f}",
        "Median cell (px)": lambda s: "-" if s.median_cell_px is None else f"{s.median_cell_px:.0f}",
        "Small structures": lambda s: f"{s.small_structures} of {s.cells}",
    }
    print(f"{'Characteristic':18}" + "".join(f"{split:>16}" for split in table))
    for title, cell in rows.items():
        print(f"{title:18}" + "".join(f"{cell(statistics):>16}" for statistics in table.values()))


def _share(share: float | None) -> str:
    return "-" if share is None else f"{share:.2%}"


COMMAND = Command(
    "describe a data set: cells, sizes, sampling weights",
    _add_arguments,
    _run,
    loads=("breastseg_train.data.statistics",),
    extra="train",
)
