"""Which reader opens a file: decided by what the file holds, never by its suffix alone."""

from __future__ import annotations

import os
from pathlib import Path

from breastseg_deploy.errors import FrameError, SlideError
from breastseg_deploy.io.readers.array import ArrayLike, ArrayReader
from breastseg_deploy.io.slide import SlideReader

Source = str | os.PathLike[str] | ArrayLike

_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_PICTURES = {b"\x89PNG": "PNG", b"\xff\xd8\xff": "JPEG"}
_CZI = b"ZISRAWFILE"
_DICOM, _DICOM_AT = b"DICM", 128
_LISTS = (".mrxs", ".vms", ".vmu")
"""Slides whose file is a picture or a list beside the pixels: known by their suffix, as OpenSlide does."""


def open_reader(source: Source) -> SlideReader:
    """The reader of a slide: a file, a folder of DICOM files, or an array.

    Raises:
        SlideError: it does not exist, may not be read, is damaged, or no reader knows it.
        MachineError: a library is missing; the message names the extra.
    """
    if not isinstance(source, (str, os.PathLike)):
        return ArrayReader(source)
    path = Path(source)
    try:
        return _open_folder(path) if path.is_dir() else _open_file(path)
    except OSError as err:
        raise SlideError(f"cannot read {path}: {err.strerror or err}; check its name and permissions") from err


def is_dicom(path: Path) -> bool:
    """Whether a file is DICOM, by its first bytes."""
    return _head(path)[_DICOM_AT:].startswith(_DICOM)


def dicom_files(folder: Path) -> list[Path]:
    """The files of a folder where all of them are DICOM; else none. Hidden files do not count."""
    files = sorted(file for file in folder.iterdir() if file.is_file() and not file.name.startswith("."))
    return files if files and all(is_dicom(file) for file in files) else []


def _open_folder(folder: Path) -> SlideReader:
    files = dicom_files(folder)
    if not files:
        raise SlideError(
            f"{folder} is a folder and no slide; pass its files, or a folder that holds one DICOM slide only"
        )
    from breastseg_deploy.io.readers.dicom import DicomReader

    return DicomReader(files)


def _open_file(path: Path) -> SlideReader:
    head = _head(path)
    if head[_DICOM_AT:].startswith(_DICOM):  # first: what lies before it may look like a TIFF
        from breastseg_deploy.io.readers.dicom import DicomReader

        return DicomReader([path])
    if head.startswith(_TIFF):
        return _open_tiff(path)
    if head.startswith(_CZI):
        from breastseg_deploy.io.readers.czi import CziReader

        return CziReader(path)
    picture = next((name for magic, name in _PICTURES.items() if head.startswith(magic)), None)
    if picture is not None and path.suffix.lower() not in _LISTS:
        return _open_picture(path, picture)
    from breastseg_deploy.io.readers.openslide import OpenSlideReader, brightfield_format

    if brightfield_format(path) is None:
        raise SlideError(
            f"{path} is no slide that can be read; expected TIFF, OME-TIFF, SVS, NDPI, MRXS or another format of "
            "OpenSlide, a DICOM whole slide, CZI, PNG or JPEG"
        )
    return OpenSlideReader(path)


def _open_tiff(path: Path) -> SlideReader:
    from breastseg_deploy.io.readers.openslide import OpenSlideReader, brightfield_format
    from breastseg_deploy.io.readers.tiff import TiffReader

    if brightfield_format(path) is not None and _is_8_bit_colour(path):
        return OpenSlideReader(path)
    return TiffReader(path)


def _is_8_bit_colour(path: Path) -> bool:
    """Whether OpenSlide's 8-bit RGB holds all that is in a scanner's TIFF."""
    from breastseg_deploy.io.readers.tiff import opened_tiff, refuse_cut_short

    with opened_tiff(path) as tiff:
        try:
            refuse_cut_short(tiff, path)
            page = tiff.pages[0]
            return bool(page.bitspersample == 8 and page.samplesperpixel == 3)
        except SlideError:
            raise
        except Exception as err:  # whatever a damaged directory makes the parser raise
            raise SlideError(f"{path} is a damaged TIFF ({err or type(err).__name__}); copy the slide again") from err


def _open_picture(path: Path, kind: str) -> SlideReader:
    from breastseg_deploy.io.images import read_frame

    try:
        return ArrayReader(read_frame(path), kind, (path,))
    except FrameError as err:
        raise SlideError(str(err)) from err


def _head(path: Path) -> bytes:
    with path.open("rb") as stream:
        return stream.read(_DICOM_AT + len(_DICOM))
