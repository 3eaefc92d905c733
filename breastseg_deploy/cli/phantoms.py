"""`breastseg phantoms`: write phantom frames and their masks, to try a bundle without any microscopy."""

from __future__ import annotations

import argparse
import re
from pathlib import Path

from breastseg_deploy.cli.command import Command

_OWN = re.compile(r"images|masks|(images|masks)/phantom-\d{4,}\.png")
"""What this command writes, as places inside the output folder."""


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--output", required=True, type=Path, metavar="DIR", help="gets images/ and masks/")
    parser.add_argument(
        "--count", type=int, default=10, metavar="N", help="frames; 40%% hold cells (default: %(default)s)"
    )
    parser.add_argument("--size", type=int, default=512, metavar="PX", help="side of the frames (default: %(default)s)")
    parser.add_argument("--force", action="store_true", help="replace the folder that stands at --output")


def _run(arguments: argparse.Namespace) -> int:
    from breastseg_deploy.errors import ArgumentError
    from breastseg_deploy.io.images import png_bytes
    from breastseg_deploy.phantom import phantom_frame
    from breastseg_deploy.preprocess.gabor import check_side
    from breastseg_deploy.progress import followed
    from breastseg_deploy.storage import (
        check_output_folder,
        check_replaceable,
        folder_written_whole,
        make_folder,
        write_whole,
    )

    check_side(arguments.size, arguments.size)
    if arguments.count < 1:
        raise ArgumentError(f"--count must be at least 1, got {arguments.count}")
    check_output_folder(arguments.output, force=arguments.force)
    if arguments.force:
        check_replaceable(arguments.output, _foreign)
    with folder_written_whole(arguments.output, force=arguments.force) as folder:
        make_folder(folder / "images")
        make_folder(folder / "masks")
        for index in followed(range(arguments.count), "phantoms", "frames"):
            phantom = phantom_frame(index, (arguments.size, arguments.size))
            write_whole(folder / "images" / f"{phantom.name}.png", png_bytes(phantom.frame))
            write_whole(folder / "masks" / f"{phantom.name}.png", png_bytes(phantom.mask * 255))
    print(f"{arguments.count} phantom frames in {arguments.output}; synthetic, no clinical evidence")
    return 0


def _foreign(folder: Path) -> str | None:
    """See `check_replaceable`."""
    places = (path.relative_to(folder).as_posix() for path in folder.rglob("*"))
    other = next((place for place in places if not _OWN.fullmatch(place)), None)
    return None if other is None else f"{other}, which is no phantom"


COMMAND = Command(
    "write synthetic test frames and their masks", _add_arguments, _run, loads=("breastseg_deploy.phantom",)
)
