"""Phantoms as image files, for exports that calibrate and measure on frames."""

from __future__ import annotations

from pathlib import Path

from breastseg_deploy.io.images import png_bytes
from breastseg_deploy.phantom import phantom_frame
from breastseg_deploy.storage import make_folder

SIDE = 128
SIZE = (SIDE, SIDE)


def write_phantoms(folder: Path, first: int, count: int, masks: bool = False) -> Path:
    """So many phantoms from a number on, with their masks where asked for; returns the folder."""
    for part in ("images", "masks") if masks else ("images",):
        make_folder(folder / part)
    for number in range(first, first + count):
        phantom = phantom_frame(number, SIZE)
        (folder / "images" / f"{number}.png").write_bytes(png_bytes(phantom.frame))
        if masks:
            (folder / "masks" / f"{number}.png").write_bytes(png_bytes(255 * phantom.mask))
    return folder
