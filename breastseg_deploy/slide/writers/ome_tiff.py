"""OME-TIFF: mask and labels as pyramids, BigTIFF in tiles of 512 px, written in one pass over the raster."""

from __future__ import annotations

import uuid
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import cache
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from breastseg_deploy.extras import require
from breastseg_deploy.slide.raster import SlideRaster
from breastseg_deploy.storage import file_written_whole
from breastseg_deploy.version import __version__

TILE_PX = 512
MASK_VALUE = 255
"""Of a cell's pixels in the mask, as in the masks of frames."""

_ZLIB_LEVEL = 6
_UM_PER_CM = 10_000
_IDS = uuid.UUID("1f1c2e8a-65c6-5c7e-9d0e-5b7a8e8f3a51")

Read = Callable[[int, int, int, int], NDArray[Any]]


def write_mask_ome_tiff(path: Path, raster: SlideRaster, pixel_size_um: float | None) -> None:
    """Write the mask, uint8, 255 in cells; each lower level holds every second pixel of the one above it.

    Args:
        path: of the file; another one there is replaced.
        raster: the slide.
        pixel_size_um: of the full resolution; None leaves it unsaid.

    Raises:
        OutputError: no permission, no space.
        MachineError: tifffile is not installed.
    """

    def read(top: int, left: int, height: int, width: int) -> NDArray[Any]:
        return raster.mask(top, left, height, width) * np.uint8(MASK_VALUE)

    _write(path, raster.size_px, np.dtype(np.uint8), read, pixel_size_um)


def write_labels_ome_tiff(path: Path, raster: SlideRaster, pixel_size_um: float | None) -> None:
    """Write the number of each pixel's cell, uint32, 0 for none; else as `write_mask_ome_tiff`."""
    _write(path, raster.size_px, np.dtype(np.uint32), raster.labels, pixel_size_um)


def level_sizes(size_px: tuple[int, int]) -> list[tuple[int, int]]:
    """(H, W) of each level, the full resolution first, halved until a level is one tile."""
    sizes = [size_px]
    while max(sizes[-1]) > TILE_PX:
        sizes.append((-(-sizes[-1][0] // 2), -(-sizes[-1][1] // 2)))
    return sizes


class _LowerLevel:
    """A level below the full one: one row of tiles in memory, the finished ones compressed in a file."""

    def __init__(self, size_px: tuple[int, int], dtype: np.dtype[Any], file: IO[bytes], below: _LowerLevel | None):
        self.size_px, self._file, self._below = size_px, file, below
        self._strip = np.zeros((TILE_PX, size_px[1]), dtype)
        self._filled, self._done, self._lengths = 0, 0, list[int]()

    def put(self, left: int, pixels: NDArray[Any]) -> None:
        """Pixels below those that are there already; `advance` ends their rows."""
        height, width = pixels.shape
        self._strip[self._filled : self._filled + height, left : left + width] = pixels

    def advance(self, rows: int) -> None:
        """So many rows are complete from end to end."""
        self._filled += rows
        if self._filled == TILE_PX or self._done + self._filled == self.size_px[0]:
            self._flush()

    def tiles(self) -> Iterator[bytes]:
        """The compressed tiles in reading order, once all rows are there."""
        self._file.seek(0)
        for length in self._lengths:
            yield self._file.read(length)

    def _flush(self) -> None:
        strip = self._strip[: self._filled]
        for left in range(0, self.size_px[1], TILE_PX):
            tile = _compressed(strip[:, left : left + TILE_PX])
            self._file.write(tile)
            self._lengths.append(len(tile))
        if self._below is not None:
            half = strip[::2, ::2]
            self._below.put(0, half)
            self._below.advance(len(half))
        self._done, self._filled = self._done + self._filled, 0


def _write(path: Path, size_px: tuple[int, int], dtype: np.dtype[Any], read: Read, pixel_size_um: float | None) -> None:
    tifffile = require("tifffile", "slides")
    sizes = level_sizes(size_px)
    with file_written_whole(path) as growing, ExitStack() as stack:
        below: list[_LowerLevel] = []
        for number, size in reversed([*enumerate(sizes)][1:]):
            file = stack.enter_context(growing.with_name(f"level{number}").open("wb+"))
            below.insert(0, _LowerLevel(size, dtype, file, below[0] if below else None))
        with tifffile.TiffWriter(growing, bigtiff=True, ome=True) as tiff:
            options = _options(dtype, pixel_size_um)
            tiff.write(
                _full_level(size_px, read, below[0] if below else None),
                shape=size_px,
                subifds=len(below),
                metadata=_metadata(path, pixel_size_um),
                **options,
            )
            for level in below:
                tiff.write(level.tiles(), shape=level.size_px, subfiletype=1, metadata=None, **options)


def _full_level(size_px: tuple[int, int], read: Read, below: _LowerLevel | None) -> Iterator[bytes]:
    height, width = size_px
    for top in range(0, height, TILE_PX):
        rows = min(TILE_PX, height - top)
        for left in range(0, width, TILE_PX):
            tile = read(top, left, rows, min(TILE_PX, width - left))
            if below is not None:
                below.put(left // 2, tile[::2, ::2])
                if left + TILE_PX >= width:  # before the tile is given: after the last one, nothing is asked any more
                    below.advance(-(-rows // 2))
            yield _compressed(tile)


def _compressed(tile: NDArray[Any]) -> bytes:
    """A whole tile, zeros to the right of the slide and below it."""
    if not tile.any():
        return _empty(tile.dtype)
    whole = np.zeros((TILE_PX, TILE_PX), tile.dtype.newbyteorder("<"))
    whole[: tile.shape[0], : tile.shape[1]] = tile
    return zlib.compress(whole.data, _ZLIB_LEVEL)


@cache
def _empty(dtype: np.dtype[Any]) -> bytes:
    """Most of a slide is this tile."""
    return zlib.compress(bytes(TILE_PX * TILE_PX * dtype.itemsize), _ZLIB_LEVEL)


def _options(dtype: np.dtype[Any], pixel_size_um: float | None) -> dict[str, Any]:
    options = {
        "dtype": dtype,
        "tile": (TILE_PX, TILE_PX),
        "compression": "zlib",
        "photometric": "minisblack",
        "software": f"breastseg_deploy {__version__}",
        "maxworkers": 1,
    }
    if pixel_size_um is not None:
        options |= {"resolution": (_UM_PER_CM / pixel_size_um,) * 2, "resolutionunit": "CENTIMETER"}
    return options


def _metadata(path: Path, pixel_size_um: float | None) -> dict[str, Any]:
    name = f"{path.parent.name}/{path.name}"
    # Without an id and a creator of ours, tifffile takes the time for one: the same slide would give other bytes.
    metadata: dict[str, Any] = {
        "axes": "YX",
        "Name": name,
        "UUID": str(uuid.uuid5(_IDS, name)),
        "Creator": f"breastseg_deploy {__version__}",
    }
    if pixel_size_um is not None:
        for axis in "XY":
            metadata |= {f"PhysicalSize{axis}": pixel_size_um, f"PhysicalSize{axis}Unit": "µm"}
    return metadata
