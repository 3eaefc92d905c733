"""`breastseg import-data`."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path

from breastseg_deploy.cli.command import Command, print_json
from breastseg_deploy.progress import Progress
from breastseg_deploy.storage import check_output_folder


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "layout",
        choices=["bmgd", "labels"],
        help="bmgd: the Breast Mammary Gland Dataset, STIFFNESS/image and STIFFNESS/mask; labels: images with instance "
        "labels (images/ with labels/ or masks/, or NAME with NAME_masks)",
    )
    parser.add_argument("folder", type=Path, metavar="DIR", help="the unpacked data")
    parser.add_argument("--output", type=Path, required=True, metavar="DATA", help="data set to make")
    parser.add_argument("--size", type=int, default=512, metavar="PX", help="side of the frames (512)")
    parser.add_argument("--bit-depth", type=int, metavar="N", help="of 16-bit images: white is 2^N - 1")
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="of the splits (0)")
    parser.add_argument("--json", action="store_true", help="print one JSON object on stdout")


def _run(arguments: argparse.Namespace) -> int:
    from breastseg_train.data.dataset import read_data_set
    from breastseg_train.data.import_frames import ImportSettings, import_frames
    from breastseg_train.data.import_pairs import find_pairs
    from breastseg_train.data.statistics import split_names, split_statistics, statistics_of
    from breastseg_train.data.statistics_command import PAPER_TABLE_I, table_text

    settings = ImportSettings(arguments.size, arguments.bit_depth, arguments.seed)
    check_output_folder(arguments.output, force=False)  # before the long work
    pairs = find_pairs(arguments.layout, arguments.folder)
    with Progress("read", len(pairs), "images") as progress:
        import_frames(arguments.folder, pairs, arguments.output, settings, progress.update)
    data = read_data_set(arguments.output, split_names(arguments.output))
    order = [split for split in PAPER_TABLE_I if split in data.splits]
    table = {split: split_statistics(statistics_of(data.splits[split])) for split in order}
    if arguments.json:
        splits = {split: asdict(statistics) for split, statistics in table.items()}
        print_json({"data": str(arguments.output), "images": len(pairs), "sha256": data.sha256, "splits": splits})
    else:
        print(table_text(table, beside=PAPER_TABLE_I), end="")
    return 0


COMMAND = Command(
    "make a data set of images and labels that others laid out",
    _add_arguments,
    _run,
    loads=("breastseg_train.data.import_frames",),
    extra="train",
)
