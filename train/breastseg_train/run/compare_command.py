"""`breastseg compare-runs`."""

from __future__ import annotations

import argparse
from pathlib import Path

from breastseg_deploy.cli.command import Command, print_json
from breastseg_deploy.storage import write_whole


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="run folders of breastseg train")
    parser.add_argument("--output", type=Path, required=True, metavar="FILE", help="picture to write (PNG)")
    parser.add_argument("--json", action="store_true", help="print one JSON object on stdout")


def _run(arguments: argparse.Namespace) -> int:
    from breastseg_train.run.curves import comparison_png
    from breastseg_train.run.run_folder import SCORE, read_figures

    runs = {str(folder): read_figures(folder) for folder in arguments.runs}
    write_whole(arguments.output, comparison_png(runs))
    table = {}
    for name, rows in runs.items():
        scores = [row[SCORE] for row in rows]
        best = scores.index(max(scores))
        outliers = sum(int(row["outlier"]) for row in rows)
        table[name] = {"best": scores[best], "lowest_after_best": min(scores[best:]), "outliers": outliers}
    if arguments.json:
        print_json({"picture": str(arguments.output), "runs": table})
        return 0
    for name, row in table.items():
        print(
            f"{name}: best validation Dice {row['best']:.4f}, lowest after it {row['lowest_after_best']:.4f}, "
            f"{row['outliers']} outlier(s)"
        )
    return 0


COMMAND = Command(
    "draw the validation curves of several runs in one picture",
    _add_arguments,
    _run,
    loads=("breastseg_train.run.curves",),
    extra="train",
)
