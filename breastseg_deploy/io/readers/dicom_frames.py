"""Where the frames of a DICOM slide lie in its file, which tile each one is, and how it is decoded."""

from __future__ import annotations

import struct
from bisect import bisect_left
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from breastseg_deploy.errors import SlideError
from breastseg_deploy.extras import require
from breastseg_deploy.io.images import is_cut_short_jpeg
from breastseg_deploy.io.readers.pieces import SharedFile
from breastseg_deploy.io.slide import EXTRA

_IMPLICIT = "1.2.840.10008.1.2"
_NATIVE = (_IMPLICIT, "1.2.840.10008.1.2.1")
_JPEG = ("1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.51")
_JPEG_2000 = ("1.2.840.10008.1.2.4.90", "1.2.840.10008.1.2.4.91")
_WAVELET_COLOURS = ("YBR_ICT", "YBR_RCT")
"""What JPEG 2000 itself turns back into RGB."""
_CODECS = {
    "1.2.840.10008.1.2.5": "dicomrle_decode",
    "1.2.840.10008.1.2.4.57": "ljpeg_decode",
    "1.2.840.10008.1.2.4.70": "ljpeg_decode",
    "1.2.840.10008.1.2.4.80": "jpegls_decode",
    "1.2.840.10008.1.2.4.81": "jpegls_decode",
    "1.2.840.10008.1.2.4.90": "jpeg2k_decode",
    "1.2.840.10008.1.2.4.91": "jpeg2k_decode",
}
"""Transfer syntaxes and imagecodecs' function for each (DICOM PS3.5, annex A)."""

_PIXEL_DATA = (0x7FE0, 0x0010)
_ITEM, _END = (0xFFFE, 0xE000), (0xFFFE, 0xE0DD)
_UNDEFINED = 0xFFFFFFFF


@dataclass(frozen=True)
class Frame:
    """One tile in a file: its pieces as (offset, bytes), and the transfer syntax that they are encoded in."""

    file: SharedFile
    pieces: tuple[tuple[int, int], ...]
    syntax: str
    shape: tuple[int, int, int]


@dataclass(frozen=True)
class Tiles:
    """The frames of one file.

    Attributes:
        frames: by channel, row and column in tiles.
        order_unknown: whether the file leaves open in which order its tiles come; here by rows, as DICOM's full tiling.
    """

    frames: dict[tuple[int, int, int], Frame]
    order_unknown: bool


def frames_of(file: SharedFile, header: Any, channels: list[str]) -> Tiles:
    """The tiles of a file.

    Raises:
        SlideError: several focal planes, a tile off the grid, or frames that cannot be told apart.
    """
    syntax, count = str(header.file_meta.TransferSyntaxUID), int(header.get("NumberOfFrames", 1))
    if syntax not in (*_NATIVE, *_JPEG, *_CODECS):
        raise SlideError(f"{file.path} is encoded as {header.file_meta.TransferSyntaxUID.name}, which is not read here")
    shape = (int(header.Rows), int(header.Columns), int(header.SamplesPerPixel))
    meaning = str(header.PhotometricInterpretation)
    converted = _JPEG if meaning in ("YBR_FULL", "YBR_FULL_422") else _JPEG_2000 if meaning in _WAVELET_COLOURS else ()
    planar = int(header.get("PlanarConfiguration", 0)) and syntax in _NATIVE
    if shape[2] == 3 and (planar or (meaning != "RGB" and syntax not in converted)):
        raise SlideError(
            f"{file.path} stores colour as {'planes of ' if planar else ''}{meaning} in "
            f"{header.file_meta.TransferSyntaxUID.name}, which is not read here; convert it to RGB"
        )
    if int(header.get("TotalPixelMatrixFocalPlanes", 1)) > 1:
        raise SlideError(f"{file.path} is a z-stack of {header.TotalPixelMatrixFocalPlanes} planes; export one of them")
    pieces = _pieces(file, header, syntax, count)
    groups = header.get("PerFrameFunctionalGroupsSequence")
    organised, stated = header.get("DimensionOrganizationType"), bool(groups and _position(groups[0]))
    places = _places(file, header, count, channels, sparse=stated or organised == "TILED_SPARSE")
    frames = {place: Frame(file, own, syntax, shape) for place, own in zip(places, pieces, strict=True)}
    return Tiles(frames, order_unknown=not stated and not organised)


def decode(frame: Frame, meaning: str, dtype: str) -> NDArray[Any]:
    """The pixels of a frame, as many values as its shape has.

    Args:
        frame: of `frames_of`.
        meaning: its PhotometricInterpretation; decides about JPEGs without a marker that does.
        dtype: of the slide.

    Raises:
        SlideError: bytes are missing; whatever a codec raises besides.
    """
    content = b"".join(frame.file.bytes_at(*piece) for piece in frame.pieces)
    if len(content) < sum(count for _, count in frame.pieces):
        raise SlideError("the file ends before")
    if frame.syntax in _NATIVE:
        return np.frombuffer(content, np.dtype(dtype).newbyteorder("<")).astype(dtype, copy=False)
    if is_cut_short_jpeg(content):
        raise SlideError("a JPEG without its end")
    imagecodecs = require("imagecodecs", EXTRA)
    if frame.syntax in _JPEG:
        marked = b"JFIF" in content[:64] or b"Adobe" in content[:1024]
        own = "RGB" if meaning == "RGB" and not marked else None
        pixels = imagecodecs.jpeg8_decode(content, colorspace=own, outcolorspace="RGB" if frame.shape[2] == 3 else None)
    elif _CODECS[frame.syntax] == "dicomrle_decode":
        planes = np.frombuffer(imagecodecs.dicomrle_decode(content, np.dtype(dtype).newbyteorder("<")), dtype)
        pixels = np.moveaxis(planes.reshape(frame.shape[2], *frame.shape[:2]), 0, -1)
    else:
        pixels = getattr(imagecodecs, _CODECS[frame.syntax])(content)
    if pixels.dtype != dtype:
        raise SlideError(f"{pixels.dtype} values instead of {dtype}")
    return np.asarray(pixels)


def _places(
    file: SharedFile, header: Any, count: int, channels: list[str], *, sparse: bool
) -> list[tuple[int, int, int]]:
    """Channel, row and column in tiles of each frame (DICOM PS3.3, C.7.6.17.3: columns run fastest, then rows)."""
    own = [str(item.get("OpticalPathIdentifier", "0")) for item in header.get("OpticalPathSequence") or ()]
    of_file = [channels.index(name) for name in own if name in channels] or [0]
    tile = (int(header.Rows), int(header.Columns))
    across = -(-int(header.TotalPixelMatrixColumns) // tile[1])
    tiles = across * -(-int(header.TotalPixelMatrixRows) // tile[0])
    if sparse:
        groups = header.get("PerFrameFunctionalGroupsSequence") or ()
        return _stated_places(file, groups, count, tile, of_file, channels)
    before = int(header.get("ConcatenationFrameOffsetNumber", 0))
    numbers = range(before, before + count)
    if numbers[-1] >= tiles * len(of_file):
        raise SlideError(f"{file.path} holds {count} frames, more than its {tiles} tiles; the file is damaged")
    return [(of_file[n // tiles], n % tiles // across, n % across) for n in numbers]


def _stated_places(
    file: SharedFile, groups: Any, count: int, tile: tuple[int, int], of_file: list[int], channels: list[str]
) -> list[tuple[int, int, int]]:
    places, heights = [], set()
    for group in groups:
        position = _position(group)
        if position is None:
            raise SlideError(f"{file.path} does not say where each of its tiles lies; export it again")
        row = int(position.RowPositionInTotalImagePixelMatrix) - 1
        column = int(position.ColumnPositionInTotalImagePixelMatrix) - 1
        if row % tile[0] or column % tile[1]:
            raise SlideError(f"{file.path} has a tile off the grid, at row {row}, column {column}; export it again")
        heights.add(float(position.get("ZOffsetInSlideCoordinateSystem", 0)))
        named = group.get("OpticalPathIdentificationSequence")
        channel = channels.index(str(named[0].OpticalPathIdentifier)) if named and len(of_file) > 1 else of_file[0]
        places.append((channel, row // tile[0], column // tile[1]))
    if len(heights) > 1:
        raise SlideError(f"{file.path} is a z-stack of {len(heights)} planes; export one of them")
    if len(places) != count or len(set(places)) != count:
        raise SlideError(f"{file.path} states {len(set(places))} places for {count} tiles; the file is damaged")
    return places


def _position(group: Any) -> Any:
    sequence = group.get("PlanePositionSlideSequence")
    return sequence[0] if sequence else None


def _pieces(file: SharedFile, header: Any, syntax: str, count: int) -> list[tuple[tuple[int, int], ...]]:
    """(offset, bytes) of the pieces of each frame."""
    start, length = _pixel_data(file, header, syntax)
    if length != _UNDEFINED:
        each = int(header.Rows) * int(header.Columns) * int(header.SamplesPerPixel) * int(header.BitsAllocated) // 8
        if each * count > length or start + each * count > file.path.stat().st_size:
            raise SlideError(f"{file.path} is cut short: it lacks tiles at its end; copy the slide again")
        return [((start + number * each, each),) for number in range(count)]
    table, items = _items(file, start)
    if len(items) == count:
        return [(item,) for item in items]
    extended = header.get("ExtendedOffsetTable")
    firsts = list(np.frombuffer(extended, "<u8")) if extended else list(np.frombuffer(table, "<u4"))
    if len(firsts) != count:
        raise SlideError(f"{file.path} does not say where its {count} frames begin; export it again")
    starts = [offset - 8 for offset, _ in items]
    cuts = [bisect_left(starts, int(first) + starts[0]) for first in firsts]
    return [tuple(items[cut:end]) for cut, end in zip(cuts, [*cuts[1:], len(items)], strict=True)]


def _pixel_data(file: SharedFile, header: Any, syntax: str) -> tuple[int, int]:
    """Offset and length of the value of PixelData."""
    pydicom = require("pydicom", EXTRA)
    with file.path.open("rb") as stream:
        pydicom.dcmread(stream, stop_before_pixels=True)
        found = stream.read(12)
        here = stream.tell()
    if len(found) < 12 or struct.unpack("<HH", found[:4]) != _PIXEL_DATA:
        raise SlideError(f"{file.path} holds no pixels; copy the slide again")
    if syntax == _IMPLICIT:
        return here - 4, int(struct.unpack("<I", found[4:8])[0])
    return here, int(struct.unpack("<I", found[8:])[0])


def _items(file: SharedFile, start: int) -> tuple[bytes, list[tuple[int, int]]]:
    """The basic offset table, and (offset, bytes) of each item behind it."""
    items: list[tuple[int, int]] = []
    place = start
    while True:
        head = file.bytes_at(place, 8)
        group, element, length = struct.unpack("<HHI", head) if len(head) == 8 else (0, 0, 0)
        if (group, element) == _END:
            return file.bytes_at(*items[0]), items[1:]
        if (group, element) != _ITEM or place + 8 + length > file.path.stat().st_size:
            raise SlideError(f"{file.path} is cut short: its pixel data has no end; copy the slide again")
        items.append((place + 8, length))
        place += 8 + length
