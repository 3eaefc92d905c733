"""What a command was given to segment, sorted into frames and slides."""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from breastseg_deploy.errors import FrameError
from breastseg_deploy.io.images import SUFFIXES, FrameFile
from breastseg_deploy.io.open_reader import dicom_files

SLIDE_SUFFIXES = (
    ".svs",
    ".ndpi",
    ".mrxs",
    ".scn",
    ".bif",
    ".vms",
    ".vmu",
    ".svslide",
    ".czi",
    ".dcm",
    ".qptiff",
    ".btf",
)
"""Suffixes of slides in a folder, beside those of frames; a file that is named itself may have any."""

_PNG, _JPEG, _TIFF = b"\x89PNG", b"\xff\xd8", (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_NO_FRAME = (0xFFC4, 0xFFC8, 0xFFCC)
"""Markers among FFC0 to FFCF that start no frame: Huffman tables, an extension, arithmetic conditioning."""
_WIDTH, _LENGTH = 256, 257
"""TIFF's tags ImageWidth and ImageLength."""
_MOST_TAGS = 4096


@dataclass(frozen=True)
class Inputs:
    """What there is to segment, each kind in the order given."""

    frames: list[FrameFile]
    slides: list[Path]


def sort_inputs(places: Iterable[Path], frame_size_px: tuple[int, int]) -> Inputs:
    """Frames and slides among files and folders.

    A PNG, TIFF or JPEG of exactly the bundle's frame size is a frame; every other file is a slide, for a reader to open
    or refuse. A folder of DICOM files alone is one slide; of another folder, the files with a known suffix are taken,
    and of a data set its `images/`.

    Raises:
        FrameError: a place that does not exist, a folder with nothing in it, or two inputs of one name (their results
            would overwrite each other).
    """
    frames: dict[str, FrameFile] = {}
    slides: dict[str, Path] = {}
    by_name: dict[str, Path] = {}
    for file in (file for place in places for file in _in_place(place)):
        is_frame = file.path.suffix.lower() in SUFFIXES and image_size_px(file.path) == frame_size_px
        name = file.name if is_frame else slide_name(file.path)
        other = by_name.setdefault(name, file.path)
        if other.resolve() != file.path.resolve():  # one file that was named twice is one input
            raise FrameError(f"the results of {other} and {file.path} would both be called {name}; rename one of them")
        if is_frame:
            frames[name] = file
        else:
            slides[name] = file.path
    return Inputs(list(frames.values()), list(slides.values()))


def slide_name(path: Path) -> str:
    """What a slide's results are called: its file's name without suffixes such as .ome.tif, or its folder's name."""
    if path.is_dir():
        return path.resolve().name
    return path.stem[: -len(".ome")] if path.stem.lower().endswith(".ome") else path.stem


def image_size_px(path: Path) -> tuple[int, int] | None:
    """(H, W) that the header of a PNG, TIFF or JPEG states for its first image; None where it cannot be read."""
    try:
        with path.open("rb") as stream:
            head = stream.read(4)
            if head == _PNG:
                width, height = struct.unpack(">12xII", stream.read(20))
                return height, width
            if head.startswith(_JPEG):
                return _jpeg_size(stream)
            return _tiff_size(stream, head) if head in _TIFF else None
    except (OSError, struct.error, ValueError):
        return None


def _jpeg_size(stream: BinaryIO) -> tuple[int, int]:
    """Of the first start-of-frame marker (ITU-T T.81, B.2.2)."""
    stream.seek(2)
    while True:
        marker, length = struct.unpack(">HH", stream.read(4))
        if 0xFFC0 <= marker <= 0xFFCF and marker not in _NO_FRAME:
            height, width = struct.unpack(">xHH", stream.read(5))
            return height, width
        stream.seek(length - 2, 1)


def _tiff_size(stream: BinaryIO, head: bytes) -> tuple[int, int]:
    """ImageLength and ImageWidth of the first directory; classic TIFF and BigTIFF."""
    order, big = "<" if head.startswith(b"II") else ">", 43 in head[2:]
    if big:
        stream.seek(8)
    (place,) = struct.unpack(order + ("Q" if big else "I"), stream.read(8 if big else 4))
    stream.seek(place)
    (count,) = struct.unpack(order + ("Q" if big else "H"), stream.read(8 if big else 2))
    sides = {}
    for _ in range(min(count, _MOST_TAGS)):
        tag, kind = struct.unpack(order + "HH", stream.read(4))
        value = stream.read(16 if big else 8)[8 if big else 4 :]
        if tag in (_WIDTH, _LENGTH):
            (sides[tag],) = struct.unpack_from(order + {3: "H", 4: "I", 16: "Q"}.get(kind, "I"), value)
    if len(sides) < 2:
        raise ValueError("no size")
    return sides[_LENGTH], sides[_WIDTH]


def _in_place(place: Path) -> list[FrameFile]:
    try:
        if place.is_dir():
            return [FrameFile(place)] if dicom_files(place) else _in_folder(place)
        if place.is_file():
            return [FrameFile(place)]
    except OSError as err:
        raise FrameError(f"cannot read {place}: {err.strerror or err}; check its name and permissions") from err
    raise FrameError(f"there is no {place}; expected an image or slide, or a folder of them")


def _in_folder(folder: Path) -> list[FrameFile]:
    images = folder / "images" if (folder / "images").is_dir() else folder
    known = (*SUFFIXES, *SLIDE_SUFFIXES)
    paths = sorted(path for path in images.iterdir() if path.suffix.lower() in known and path.is_file())
    if not paths:
        raise FrameError(f"{images} holds no images; expected files ending in {', '.join(known)}")
    truths = {path: folder / "masks" / f"{path.stem}.png" for path in paths if images != folder}
    return [FrameFile(path, truths[path] if path in truths and truths[path].is_file() else None) for path in paths]
