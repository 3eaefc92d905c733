"""The DICOM slide that a segmentation belongs to: its header, its gaps filled, with a word on each of them."""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from breastseg_deploy.errors import SlideError
from breastseg_deploy.extras import require
from breastseg_deploy.io.readers.dicom import WHOLE_SLIDE

_IDS = uuid.UUID("2d8e1f06-7b0f-5d5a-9a52-9c8f0d3f6a7e")
_DATE, _TIME, _ANY = r"\d{8}", r"\d\d(\d\d(\d\d(\.\d{1,6})?)?)?", r"(?s).*"
# The patient and study of the slide, which a segmentation repeats; the standard lets each of them be empty (type 2).
_MAY_BE_EMPTY = {
    "PatientID": _ANY,
    "PatientName": _ANY,
    "PatientBirthDate": _DATE,
    "PatientSex": "[MFO]",
    "StudyID": _ANY,
    "StudyDate": _DATE,
    "StudyTime": _TIME,
    "AccessionNumber": _ANY,
    "ReferringPhysicianName": _ANY,
}
_NEEDED = ("SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID", "TotalPixelMatrixRows", "TotalPixelMatrixColumns")
_SPECIMEN = (
    "ContainerIdentifier", "IssuerOfTheContainerIdentifierSequence", "ContainerTypeCodeSequence",
    "SpecimenDescriptionSequence",
)  # fmt: skip
_UID_LENGTH = 64
_COPIED = (
    "SpecificCharacterSet", "SOPClassUID", "Modality", "Rows", "Columns", "SamplesPerPixel", "BitsAllocated",
    "PhotometricInterpretation", "LossyImageCompression", "LossyImageCompressionRatio", "LossyImageCompressionMethod",
    *_SPECIMEN, "FrameOfReferenceUID", "PositionReferenceIndicator", "ImageOrientationSlide",
    "TotalPixelMatrixOriginSequence", "SharedFunctionalGroupsSequence", "ImagedVolumeDepth",
)  # fmt: skip


@dataclass(frozen=True)
class DicomSource:
    """Header of a whole slide without pixels and frames (a pydicom Dataset), and a word on each of its faults."""

    header: Any
    faults: tuple[str, ...]


def uid_of(*words: str) -> str:
    """A UID made of words, the same in every run: a UUID below 2.25, as the standard allows (PS3.5, B.2)."""
    return f"2.25.{uuid.uuid5(_IDS, '|'.join(words)).int}"


def read_source(source: Path, size_px: tuple[int, int], pixel_size_um: float | None) -> DicomSource:
    """The header of the full resolution of a DICOM slide, with all that a segmentation needs of it.

    What is no valid value (a date with dashes) is emptied where the standard allows it. Names and ids that are too
    long stay as they are, for the segmentation has to be found beside its slide.

    Args:
        source: the file of the full resolution, or the folder that holds the slide's files.
        size_px: (H, W) of the raster.
        pixel_size_um: where the slide states none; None refuses such a slide.

    Raises:
        SlideError: no DICOM whole slide of that size, without the UIDs that tie a segmentation to it, or without a
            pixel size.
        MachineError: pydicom is not installed.
    """
    pydicom = require("pydicom", "slides")
    read = _full_resolution(pydicom, source, size_px)
    missing = [keyword for keyword in _NEEDED if not read.get(keyword)]
    if missing:
        raise SlideError(
            f"{source} lacks {', '.join(missing)}, which a DICOM segmentation refers to; write without dicom-seg"
        )
    header = pydicom.Dataset()
    for keyword in (*_NEEDED, *_COPIED):
        if keyword in read:
            header[keyword] = read[keyword]
    faults = [
        *_too_long(header),
        *_completed_patient(header, read),
        *_completed_specimen(header),
        *_completed_place(pydicom, header),
        *_completed_scale(pydicom, header, source, pixel_size_um),
    ]
    return DicomSource(header, tuple(faults))


def _full_resolution(pydicom: Any, source: Path, size_px: tuple[int, int]) -> Any:
    """The header of the file with the whole slide at that size."""
    files = sorted(path for path in source.iterdir() if path.is_file()) if source.is_dir() else [source]
    sizes = []
    for path in files:
        try:
            read = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=[*_NEEDED, *_COPIED, *_MAY_BE_EMPTY])
        except (OSError, pydicom.errors.InvalidDicomError):
            continue
        if read.get("SOPClassUID") == WHOLE_SLIDE:
            sizes.append((read.get("TotalPixelMatrixRows"), read.get("TotalPixelMatrixColumns")))
            if sizes[-1] == size_px:
                return read
    if not sizes:
        raise SlideError(
            f"{source} is no DICOM whole slide, and a DICOM segmentation needs one; write without dicom-seg"
        )
    raise SlideError(
        f"{source} holds {sizes} (rows, columns) and the mask has {size_px}; a DICOM segmentation is written at the "
        "slide's own resolution: run without --rescale, or write without dicom-seg"
    )


def _too_long(header: Any) -> Iterator[str]:
    for keyword in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"):
        if len(header[keyword].value) > _UID_LENGTH:
            yield f"{keyword}: repeated as the slide states it, though longer than {_UID_LENGTH} characters"


def _completed_specimen(header: Any) -> Iterator[str]:
    if "ContainerIdentifier" not in header or "SpecimenDescriptionSequence" not in header:
        for keyword in _SPECIMEN:
            header.pop(keyword, None)
        yield "ContainerIdentifier, SpecimenDescriptionSequence: absent, the slide does not state both"


def _completed_patient(header: Any, read: Any) -> Iterator[str]:
    for keyword, pattern in _MAY_BE_EMPTY.items():
        stated = str(read.get(keyword, "") or "")
        valid = re.fullmatch(pattern, stated) is not None
        setattr(header, keyword, stated if valid else "")
        if keyword not in read:
            yield f"{keyword}: left empty, the slide lacks it"
        elif stated and not valid:
            yield f"{keyword}: left empty, the slide states {stated!r}, which is not valid"


def _completed_place(pydicom: Any, header: Any) -> Iterator[str]:
    if not header.get("FrameOfReferenceUID"):
        header.FrameOfReferenceUID = uid_of("frame of reference", header.SOPInstanceUID)
        yield f"FrameOfReferenceUID: {header.FrameOfReferenceUID}, made of the slide's SOPInstanceUID"
    if not header.get("PositionReferenceIndicator"):
        header.PositionReferenceIndicator = "SLIDE_CORNER"
        yield "PositionReferenceIndicator: SLIDE_CORNER"
    if not header.get("ImageOrientationSlide"):
        header.ImageOrientationSlide = [0, -1, 0, -1, 0, 0]
        yield "ImageOrientationSlide: 0, -1, 0, -1, 0, 0, the slide's label at the top"
    if not header.get("TotalPixelMatrixOriginSequence"):
        origin = pydicom.Dataset()
        origin.XOffsetInSlideCoordinateSystem = origin.YOffsetInSlideCoordinateSystem = 0
        header.TotalPixelMatrixOriginSequence = [origin]
        yield "TotalPixelMatrixOriginSequence: 0, 0"


def _completed_scale(pydicom: Any, header: Any, source: Path, pixel_size_um: float | None) -> Iterator[str]:
    shared = header.get("SharedFunctionalGroupsSequence") or [pydicom.Dataset()]
    stated = shared[0].get("PixelMeasuresSequence") or [pydicom.Dataset()]
    measures = pydicom.Dataset()
    measures.PixelSpacing, measures.SliceThickness = stated[0].get("PixelSpacing"), stated[0].get("SliceThickness")
    if not measures.PixelSpacing:
        if pixel_size_um is None:
            raise SlideError(f"{source} states no PixelSpacing, which a DICOM segmentation needs; state it by --mpp")
        measures.PixelSpacing = [pixel_size_um / 1000] * 2
        yield f"PixelSpacing: {pixel_size_um / 1000:g} mm, the pixel size of this run"
    if not measures.SliceThickness:
        measures.SliceThickness = float(header.get("ImagedVolumeDepth") or 1) / 1000
        yield f"SliceThickness: {measures.SliceThickness:g} mm"
    groups = pydicom.Dataset()
    groups.PixelMeasuresSequence = [measures]
    header.SharedFunctionalGroupsSequence = [groups]
