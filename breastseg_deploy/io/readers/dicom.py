"""DICOM whole slides, by pydicom and imagecodecs: a level a file or several, tiled fully or sparsely, 8 and 16 bit.

The tiles are found here and not by wsidicom or OpenSlide: both refuse slides that lack an attribute which says nothing
about pixels, such as ImageType, and that is how anonymised slides come.
"""

from __future__ import annotations

import struct
import warnings
from collections.abc import Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from breastseg_deploy.errors import SlideError
from breastseg_deploy.extras import require
from breastseg_deploy.io.readers.dicom_frames import Frame, decode, frames_of
from breastseg_deploy.io.readers.dicom_order import ordered_by_borders
from breastseg_deploy.io.readers.pieces import SharedFile, paste, tiles_in
from breastseg_deploy.io.slide import EXTRA, SlideInfo, levels_of, region_error

WHOLE_SLIDE = "1.2.840.10008.5.1.4.1.1.77.1.6"
"""SOP class of VL Whole Slide Microscopy Image Storage."""

_BESIDE = ("LABEL", "OVERVIEW", "LOCALIZER", "THUMBNAIL")
"""The third value of ImageType for pictures that are no level of the slide."""


@dataclass(frozen=True)
class _Level:
    size_px: tuple[int, int]
    tile_px: tuple[int, int]
    sparse: bool
    frames: dict[tuple[int, int, int], Frame]
    """By channel, row and column in tiles."""
    unordered: list[bool]
    """Of each of its files, whether that leaves the order of its tiles open."""

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of tiles."""
        return -(-self.size_px[0] // self.tile_px[0]), -(-self.size_px[1] // self.tile_px[1])


class DicomReader:
    """A DICOM whole slide. Where a sparse slide has no tile, colour is white and grey is 0."""

    def __init__(self, files: Sequence[Path]) -> None:
        """Open the levels of one slide; files of a folder that are no whole slide are passed over.

        Raises:
            SlideError: no whole slide among them, several slides, a z-stack, a tile missing, or an encoding that is not
                known.
            MachineError: pydicom or imagecodecs is not installed.
        """
        pydicom = require("pydicom", EXTRA)
        require("imagecodecs", EXTRA)
        self._path = files[0] if len(files) == 1 else files[0].parent
        with ExitStack() as stack, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # over-long names and identifiers change no pixel
            try:
                self._open(pydicom, files, stack)
            except SlideError:
                raise
            except Exception as err:  # damaged attributes make pydicom raise whatever its parsing comes to
                raise SlideError(f"{self._path} is damaged DICOM ({err or type(err).__name__}); copy it again") from err
            self._stack = stack.pop_all()

    def _open(self, pydicom: Any, files: Sequence[Path], stack: ExitStack) -> None:
        slides: list[tuple[SharedFile, Any]] = []
        others: list[tuple[SharedFile, Any]] = []
        for file in files:
            shared = stack.enter_context(closing(SharedFile(file)))
            header = pydicom.dcmread(file, stop_before_pixels=True)
            (slides if header.get("SOPClassUID") == WHOLE_SLIDE else others).append((shared, header))
        if not slides:
            raise _no_slide(others[0][0].path, others[0][1])
        slides = [(shared, header) for shared, header in slides if not _is_beside(header)]
        if not slides:
            raise SlideError(
                f"{self._path} holds a label or an overview and no level of a slide; pass the slide's folder"
            )
        series = {str(header.SeriesInstanceUID) for _, header in slides}
        if len(series) > 1:
            raise SlideError(f"{self._path} holds {len(series)} slides; give each a folder of its own")
        self._first = slides[0][1]
        for _, header in slides:
            _refuse_pixels(header, self._first, self._path)
        self._channels = _channels([header for _, header in slides])
        self._dtype = "uint16" if int(self._first.BitsAllocated) == 16 else "uint8"
        self._levels = self._found_levels(slides)
        largest = max((header for _, header in slides), key=lambda header: int(header.TotalPixelMatrixRows))
        sizes = [level.size_px for level in self._levels]
        self._info = SlideInfo(
            "DICOM",
            sizes[0],
            tuple(self._channels),
            self._dtype,
            int(self._first.BitsStored),
            _pixel_size_um(largest),
            levels_of(self._path, sizes),
            tuple(sorted(shared.path for shared, _ in slides)),
            self._find_orders(),
        )

    def _found_levels(self, slides: Sequence[tuple[SharedFile, Any]]) -> list[_Level]:
        levels: dict[tuple[int, int], _Level] = {}
        for shared, header in slides:
            size = (int(header.TotalPixelMatrixRows), int(header.TotalPixelMatrixColumns))
            tile = (int(header.Rows), int(header.Columns))
            sparse = str(header.get("DimensionOrganizationType", "")) == "TILED_SPARSE"
            level = levels.setdefault(size, _Level(size, tile, sparse, {}, []))
            if (level.tile_px, level.sparse) != (tile, sparse):
                raise SlideError(f"{self._path} holds two different levels of {size[0]} x {size[1]} px; split it")
            tiles = frames_of(shared, header, list(self._channels))
            level.unordered.append(tiles.order_unknown)
            for place, frame in tiles.frames.items():
                if level.frames.setdefault(place, frame) is not frame:
                    raise SlideError(f"{self._path} holds one tile of {size[0]} x {size[1]} px twice; split it")
        for level in levels.values():
            self._refuse_missing_tiles(level)
        return [levels[size] for size in sorted(levels, reverse=True)]

    def _find_orders(self) -> tuple[str, ...]:
        """Put the tiles of levels that state no order where their borders say; what was found, a sentence each."""
        said = []
        for number, level in enumerate(self._levels):
            if not any(level.unordered) or min(level.grid) == 1:
                continue
            if len(level.unordered) > 1 or len(self._planes) > 1:
                raise SlideError(f"{self._path} states no order of its tiles (DimensionOrganizationType is missing)")
            try:
                frames, sentence = ordered_by_borders(level.frames, level.grid, partial(self._decoded, level=number))
            except SlideError as err:
                raise SlideError(f"{self._path} {err}") from err
            level.frames.update(frames)
            said.append(f"level {number} {sentence}")
        return tuple(said)

    @property
    def _planes(self) -> list[str]:
        """Channels with tiles of their own."""
        return ["RGB"] if self._is_rgb else self._channels

    def _refuse_missing_tiles(self, level: _Level) -> None:
        down, across = level.grid
        planes = len(self._planes)
        missing = planes * down * across - len(level.frames)
        if missing and not level.sparse:
            raise SlideError(
                f"{self._path} lacks {missing} of {planes * down * across} tiles of its level of {level.size_px[0]} x "
                f"{level.size_px[1]} px; copy all of its files"
            )

    @property
    def _is_rgb(self) -> bool:
        return tuple(self._channels) == ("R", "G", "B")

    def describe(self) -> SlideInfo:
        """What the slide is."""
        return self._info

    def read(self, level: int, top: int, left: int, height: int, width: int) -> NDArray[Any]:
        """A region of a level; see `SlideReader`."""
        of = self._levels[level]
        absent = 255 if self._is_rgb else 0
        out = np.full((height, width, len(self._info.channels)), absent, self._info.dtype)
        planes = [out] if self._is_rgb else [out[:, :, number : number + 1] for number in range(out.shape[2])]
        for channel, plane in enumerate(planes):
            for y, x in tiles_in(top, left, height, width, of.tile_px):
                if (frame := of.frames.get((channel, y, x))) is not None:
                    row, column = y * of.tile_px[0], x * of.tile_px[1]
                    paste(plane, top, left, self._decoded(frame, level, (row, column)), row, column)
        return out

    def _decoded(self, frame: Frame, level: int, place: tuple[int, int] = (0, 0)) -> NDArray[Any]:
        tile = self._levels[level].tile_px
        try:
            pixels = decode(frame, str(self._first.PhotometricInterpretation), self._dtype)
            return pixels.reshape(*tile, 3 if self._is_rgb else 1)
        except Exception as err:  # each codec has errors of its own
            raise region_error(frame.file.path, level, *place, err) from err

    def close(self) -> None:
        """Let the files go."""
        self._stack.close()


def _no_slide(path: Path, header: Any) -> SlideError:
    kind = str(getattr(header.get("SOPClassUID"), "name", "")) or "unknown kind"
    return SlideError(
        f"{path} is a DICOM image of modality {header.get('Modality', 'unknown')} ({kind}) and no whole slide; "
        "expected VL Whole Slide Microscopy"
    )


def _is_beside(header: Any) -> bool:
    kind: Sequence[Any] = header.get("ImageType") or ()
    return len(kind) > 2 and str(kind[2]) in _BESIDE


def _refuse_pixels(header: Any, first: Any, path: Path) -> None:
    for keyword in ("SamplesPerPixel", "BitsAllocated", "BitsStored", "PhotometricInterpretation"):
        if header.get(keyword) != first.get(keyword):
            raise SlideError(f"{path}: its files differ in {keyword}, so they are not levels of one slide; split it")
    samples, bits, meaning = (
        int(header.SamplesPerPixel),
        int(header.BitsAllocated),
        str(header.PhotometricInterpretation),
    )
    colour = samples == 3 and bits == 8 and (meaning == "RGB" or meaning.startswith("YBR_"))
    grey = samples == 1 and bits in (8, 16) and meaning == "MONOCHROME2"
    if not (colour or grey) or int(header.get("PixelRepresentation", 0)):
        raise SlideError(
            f"{path} stores {samples} x {bits} bits as {meaning}; expected 8-bit colour, or 8 or 16-bit MONOCHROME2"
        )


def _channels(headers: Sequence[Any]) -> list[str]:
    """R, G and B, or the identifiers of the optical paths in the order of their files."""
    found: list[str] = []
    for header in headers:
        for item in header.get("OpticalPathSequence") or ():
            identifier = str(item.get("OpticalPathIdentifier", "0"))
            found += [] if identifier in found else [identifier]
    if int(headers[0].SamplesPerPixel) == 3:
        if len(found) > 1:
            raise SlideError(f"the slide has {len(found)} optical paths in colour ({', '.join(found)}); expected one")
        return ["R", "G", "B"]
    return found or ["0"]


def _pixel_size_um(header: Any) -> tuple[float, float] | None:
    """PixelSpacing of the shared functional groups; the imaged volume's size is not used, it is often made up."""
    try:
        spacing = header.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0].PixelSpacing
        height, width = (float(value) * 1000 for value in spacing)
    except (AttributeError, IndexError, TypeError, ValueError, struct.error):
        return None
    return (height, width) if height > 0 and width > 0 else None
