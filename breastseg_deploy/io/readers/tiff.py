"""TIFF and OME-TIFF as slides: 8 and 16 bit, tiled, in strips or plain, pyramids, several channels, by tifffile.

A region decodes the tiles or strips that it touches and no others; plain uncompressed pixels are mapped into memory.
"""

from __future__ import annotations

import logging
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from breastseg_deploy.errors import SlideError
from breastseg_deploy.extras import require
from breastseg_deploy.io.images import is_cut_short_jpeg
from breastseg_deploy.io.readers.pieces import LARGEST_PIECE_BYTES, SharedFile, paste, tiles_in
from breastseg_deploy.io.readers.tiff_facts import JPEG, bits_of, channel_names, pixel_size_um, slide_series
from breastseg_deploy.io.slide import EXTRA, SlideInfo, levels_of, region_error

_UNSAID = logging.NullHandler()


class TiffReader:
    """A slide in a TIFF file, or in the files of one OME-TIFF."""

    def __init__(self, path: Path) -> None:
        """Open a slide and check that every tile of every level lies inside its file.

        Raises:
            SlideError: damaged, cut short, a level or file missing, several images, a z-stack, alpha, a colour map,
                another dtype than uint8 and uint16, or compressed in pieces over LARGEST_PIECE_BYTES.
            MachineError: tifffile or imagecodecs is not installed.
        """
        self._path, self._stack = path, ExitStack()
        with ExitStack() as stack:
            tiff = stack.enter_context(opened_tiff(path))
            try:
                series = slide_series(tiff, path)
                names = channel_names(tiff, series, path)
                self._levels = [_level(level, path, stack, len(names)) for level in series.levels]
                sizes = [level.size_px for level in self._levels]
                self._info = SlideInfo(
                    _format_of(tiff),
                    sizes[0],
                    names,
                    series.dtype.newbyteorder("=").name,
                    bits_of(tiff, series),
                    pixel_size_um(tiff, series),
                    levels_of(path, sizes),
                    _files_of(series),
                )
            except SlideError:
                raise
            except Exception as err:  # a damaged directory makes tifffile raise whatever its parsing comes to
                raise SlideError(f"{path} is damaged ({err or type(err).__name__}); copy the slide again") from err
            self._stack = stack.pop_all()

    def describe(self) -> SlideInfo:
        """What the slide is."""
        return self._info

    def read(self, level: int, top: int, left: int, height: int, width: int) -> NDArray[Any]:
        """A region of a level; see `SlideReader`."""
        out = np.empty((height, width, len(self._info.channels)), self._info.dtype)
        self._levels[level].read_into(out, top, left, level, self._path)
        return out

    def close(self) -> None:
        """Let the files go."""
        self._stack.close()


class _MappedLevel:
    """A level whose pixels lie in one uncompressed piece of the file."""

    def __init__(self, series: Any, path: Path) -> None:
        dtype = series.dtype.newbyteorder(series.keyframe.parent.byteorder)
        if series.dataoffset + int(np.prod(series.shape)) * dtype.itemsize > path.stat().st_size:
            raise _cut_short(path, "its pixels reach past the end of the file")
        pixels = np.memmap(path, dtype, "r", series.dataoffset, series.shape)
        self._pixels = _channels_last(pixels, series.axes)
        self.size_px = (int(self._pixels.shape[0]), int(self._pixels.shape[1]))

    def read_into(self, out: NDArray[Any], top: int, left: int, level: int, path: Path) -> None:
        out[:] = self._pixels[top : top + out.shape[0], left : left + out.shape[1]]


class _SegmentedLevel:
    """A level in tiles or strips: one page with all channels, or a page per channel."""

    def __init__(self, series: Any, path: Path, stack: ExitStack, channels: int) -> None:
        self._key = series.keyframe
        self._sources: dict[Path, SharedFile] = {}
        self._pages = list(series.pages)
        self._planes = self._key.samplesperpixel if int(self._key.planarconfig) == 2 else 1
        self.size_px = (self._key.imagelength, self._key.imagewidth)
        held = len(self._pages) * self._key.samplesperpixel
        if held != channels:
            raise SlideError(f"{path} describes {channels} channels and holds {held}; export it again")
        for page in self._pages:
            place = _file_of(page)
            if place not in self._sources:
                self._sources[place] = stack.enter_context(closing(SharedFile(place)))
            _refuse_missing_segments(page, place)
        self._grid()

    def _grid(self) -> None:
        key, (height, width) = self._key, self.size_px
        self._piece = (key.tilelength, key.tilewidth) if key.is_tiled else (min(key.rowsperstrip, height), width)
        if min(self._piece) < 1:
            raise SlideError(
                f"{_file_of(key)} states tiles of {self._piece[0]} x {self._piece[1]} px; the file is damaged"
            )
        samples = 1 if self._planes > 1 else key.samplesperpixel
        size = self._piece[0] * self._piece[1] * samples * key.dtype.itemsize
        if size > LARGEST_PIECE_BYTES:
            raise SlideError(
                f"{_file_of(key)} is compressed in pieces of {self._piece[0]} x {self._piece[1]} px, too large to read "
                "region by region; save it in tiles, e.g. of 512 x 512 px"
            )

    def read_into(self, out: NDArray[Any], top: int, left: int, level: int, path: Path) -> None:
        """Fill (height, width, channels) from the segments that it touches."""
        rows, columns = self._piece
        down, across = -(-self.size_px[0] // rows), -(-self.size_px[1] // columns)
        samples = 1 if self._planes > 1 else self._key.samplesperpixel
        for number, page in enumerate(self._pages):
            for plane in range(self._planes):
                first = (number * self._planes + plane) * samples
                channels = out[:, :, first : first + samples]
                for y, x in tiles_in(top, left, out.shape[0], out.shape[1], self._piece):
                    piece = self._decode(page, (plane * down + y) * across + x, y * rows, x * columns, level, path)
                    paste(channels, top, left, piece, y * rows, x * columns)

    def _decode(self, page: Any, index: int, row: int, column: int, level: int, path: Path) -> NDArray[Any]:
        """(rows, columns, channels) of one segment."""
        try:
            content = self._sources[_file_of(page)].bytes_at(page.dataoffsets[index], page.databytecounts[index])
            if int(self._key.compression) in JPEG and is_cut_short_jpeg(content):
                raise SlideError("a JPEG without its end")
            decoded, _, _ = self._key.decode(content, index, jpegtables=page.jpegtables)
        except Exception as err:  # each codec has errors of its own
            raise region_error(path, level, row, column, err) from err
        piece: NDArray[Any] = decoded[0]
        wanted = tuple(
            min(side, full - at) for side, full, at in zip(self._piece, self.size_px, (row, column), strict=True)
        )
        if piece.shape[0] < wanted[0] or piece.shape[1] < wanted[1]:
            raise region_error(path, level, row, column, f"{piece.shape[0]} x {piece.shape[1]} px instead of more")
        return piece


def opened_tiff(path: Path) -> Any:
    """tifffile's view of a file. What tifffile logs of damage is not printed: what matters of it is raised here.

    Raises:
        SlideError: it cannot be read.
        MachineError: tifffile or imagecodecs is not installed.
    """
    tifffile = require("tifffile", EXTRA)
    require("imagecodecs", EXTRA)
    logging.getLogger("tifffile").addHandler(_UNSAID)
    try:
        return tifffile.TiffFile(path)
    except OSError as err:
        raise SlideError(f"cannot read {path}: {err.strerror or err}; check its name and permissions") from err
    except Exception as err:
        raise SlideError(f"{path} is a damaged TIFF ({err or type(err).__name__}); copy the slide again") from err


def refuse_cut_short(tiff: Any, path: Path) -> None:
    """Refuse a file where a tile of any of its pages lies past the end.

    Raises:
        SlideError: there is such a tile.
    """
    for page in tiff.pages:
        _refuse_past_end(np.asarray(page.dataoffsets, np.int64), np.asarray(page.databytecounts, np.int64), path)


def _level(series: Any, path: Path, stack: ExitStack, channels: int) -> _MappedLevel | _SegmentedLevel:
    if any(page is None for page in series.pages):
        raise SlideError(f"{path} lacks pages or files that its own description names; copy all of its files")
    if series.dataoffset is not None and not series.is_multifile:
        return _MappedLevel(series, _file_of(series.keyframe))
    return _SegmentedLevel(series, path, stack, channels)


def _channels_last(pixels: NDArray[Any], axes: str) -> NDArray[Any]:
    """(H, W, channels) of a slide's axes: "YX", or with "C" or "S" before or behind."""
    if axes == "YX":
        return pixels[:, :, np.newaxis]
    return pixels if axes.startswith("YX") else np.moveaxis(pixels, 0, -1)


def _refuse_missing_segments(page: Any, path: Path) -> None:
    """Every tile must be there and end inside its file: a missing one would be blank without a word."""
    offsets = np.asarray(page.dataoffsets, np.int64)
    counts = np.asarray(page.databytecounts, np.int64)
    if len(offsets) != len(counts):
        raise SlideError(f"{path} names {len(offsets)} tiles and {len(counts)} sizes; the file is damaged")
    if np.any(offsets <= 0) or np.any(counts <= 0):
        raise SlideError(f"{path} lacks {int(np.sum((counts <= 0) | (offsets <= 0)))} of its {len(counts)} tiles")
    _refuse_past_end(offsets, counts, path)


def _refuse_past_end(offsets: NDArray[np.int64], counts: NDArray[np.int64], path: Path) -> None:
    if len(offsets) == len(counts) and (past := int(np.sum(offsets + counts > path.stat().st_size))):
        raise _cut_short(path, f"{past} of its {len(counts)} tiles reach past its end")


def _cut_short(path: Path, how: str) -> SlideError:
    return SlideError(f"{path} is cut short: {how}; copy the slide again")


def _format_of(tiff: Any) -> str:
    kinds = {
        "OME-TIFF": tiff.is_ome,
        "QPTIFF": tiff.is_qpi,
        "ImageJ TIFF": tiff.is_imagej,
        "MetaMorph TIFF": tiff.is_stk,
    }
    return next((kind for kind, is_it in kinds.items() if is_it), "TIFF")


def _file_of(page: Any) -> Path:
    return Path(page.parent.filehandle.path)


def _files_of(series: Any) -> tuple[Path, ...]:
    return tuple(sorted({_file_of(page) for level in series.levels for page in level.pages}))
