"""Brightfield slides of scanner makers by OpenSlide: SVS, NDPI, MRXS, SCN, BIF and others; 8-bit RGB only.

OpenSlide turns 16-bit values into a few 8-bit ones without a word, so `io.open_slide` sends it no such file.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from breastseg_deploy.errors import SlideError
from breastseg_deploy.extras import require
from breastseg_deploy.io.slide import EXTRA, SlideInfo, levels_of, region_error

FORMATS = {
    "aperio": "SVS",
    "hamamatsu": "NDPI",
    "leica": "SCN",
    "mirax": "MRXS",
    "philips": "Philips TIFF",
    "sakura": "SVSLIDE",
    "trestle": "Trestle TIFF",
    "ventana": "BIF",
}
"""OpenSlide's names of the makers whose files go through it, and ours."""


def brightfield_format(path: Path) -> str | None:
    """Our name of a maker's format that OpenSlide recognises; None for all else.

    Raises:
        MachineError: OpenSlide is not installed.
    """
    openslide = require("openslide", EXTRA)
    return FORMATS.get(openslide.OpenSlide.detect_format(str(path)))


class OpenSlideReader:
    """A brightfield slide; transparent pixels, which scanners leave where they did not look, are white.

    White is what these formats and their viewers show there.
    """

    def __init__(self, path: Path) -> None:
        """Open a slide.

        Raises:
            SlideError: damaged, or without a level.
            MachineError: OpenSlide is not installed.
        """
        openslide = require("openslide", EXTRA)
        self._path, self._errors = path, (openslide.OpenSlideError, OSError, ValueError)
        try:
            self._slide = openslide.OpenSlide(str(path))
        except self._errors as err:
            raise SlideError(f"{path} cannot be opened ({err}); the slide is damaged or incomplete") from err
        sizes = [(height, width) for width, height in self._slide.level_dimensions]
        self._info = SlideInfo(
            FORMATS.get(self._slide.properties["openslide.vendor"], "slide"),
            sizes[0],
            ("R", "G", "B"),
            "uint8",
            8,
            self._pixel_size_um(),
            levels_of(path, sizes),
            _files_of(path),
        )

    def describe(self) -> SlideInfo:
        """What the slide is."""
        return self._info

    def read(self, level: int, top: int, left: int, height: int, width: int) -> NDArray[Any]:
        """A region of a level; see `SlideReader`."""
        downsample = self._slide.level_downsamples[level]
        place = (round(left * downsample), round(top * downsample))  # OpenSlide counts in pixels of the full resolution
        try:
            rgba = np.asarray(self._slide.read_region(place, level, (width, height)))
        except self._errors as err:
            raise region_error(self._path, level, top, left, err) from err
        return on_white(rgba)

    def close(self) -> None:
        """Let the file go."""
        self._slide.close()

    def _pixel_size_um(self) -> tuple[float, float] | None:
        try:
            height, width = (float(self._slide.properties[f"openslide.mpp-{axis}"]) for axis in "yx")
        except (KeyError, ValueError):
            return None
        return (height, width) if height > 0 and width > 0 else None


def on_white(rgba: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """(H, W, 4) uint8 RGBA laid over white; (H, W, 3) uint8."""
    rgb, alpha = rgba[:, :, :3], rgba[:, :, 3:]
    if alpha.min(initial=255) == 255:
        return np.ascontiguousarray(rgb)
    cover = alpha.astype(np.uint32)
    return ((rgb * cover + 255 * (255 - cover) + 127) // 255).astype(np.uint8)


def _files_of(path: Path) -> tuple[Path, ...]:
    """The slide's files: MRXS keeps its pixels in a folder of its name, VMS and VMU name theirs in a list."""
    if path.suffix.lower() == ".mrxs":
        return (path, *sorted(file for file in path.with_suffix("").iterdir() if file.is_file()))
    if path.suffix.lower() in (".vms", ".vmu"):
        values = {line.partition("=")[2].strip() for line in path.read_text(errors="replace").splitlines()}
        return (path, *sorted(path.parent / name for name in values if name and (path.parent / name).is_file()))
    return (path,)
