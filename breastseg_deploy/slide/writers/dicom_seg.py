"""DICOM SEG: the mask as a binary segmentation in tiles, beside the DICOM slide that it belongs to."""

from __future__ import annotations

import struct
from contextlib import AbstractContextManager
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from breastseg_deploy.errors import SlideError
from breastseg_deploy.extras import require
from breastseg_deploy.slide.raster import SlideRaster
from breastseg_deploy.slide.writers.dicom_source import read_source, uid_of
from breastseg_deploy.storage import file_written_whole
from breastseg_deploy.version import __version__

TILE_PX = 512
_NAME = "breastseg_deploy"
_SERIES_NUMBER = 1000
_FRAME_BYTES = TILE_PX * TILE_PX // 8
_MOST_BYTES = 2**32 - 2
"""Of pixel data whose length is stated in 32 bits; one bit per pixel, 185,000 x 185,000 px."""


def write_dicom_seg(
    path: Path,
    raster: SlideRaster,
    source: Path,
    *,
    pixel_size_um: float | None,
    identity: str,
    made_at: datetime,
) -> tuple[str, ...]:
    """Write the mask as BINARY, TILED_FULL, one bit per pixel, uncompressed: what viewers show, in bounded memory.

    Args:
        path: of the file; another one there is replaced.
        raster: the slide.
        source: the DICOM slide, a file or the folder of its files.
        pixel_size_um: used where the slide states none.
        identity: of the run (such as hashes of slide, bundle and parameters): the file's UIDs are made of it.
        made_at: date and time of the run, for the file's own dates.

    Returns:
        What the slide lacks or states against the standard, and what was done about it, attribute by attribute.

    Raises:
        SlideError: see `read_source`; a mask beyond 4 GB.
        OutputError: no permission, no space.
        MachineError: highdicom is not installed.

    Source: DICOM PS3.3, A.51 (Segmentation IOD) and C.7.6.17.3 (TILED_FULL).
    """
    frames = [(top, left) for top in _tiles(raster.size_px[0]) for left in _tiles(raster.size_px[1])]
    with _as_stated():
        header, faults = _header(source, raster.size_px, pixel_size_um, identity, made_at)
        with file_written_whole(path) as growing:
            header.save_as(growing, enforce_file_format=True)
            with growing.open("ab") as file:
                file.write(struct.pack("<HH2sHL", 0x7FE0, 0x0010, b"OB", 0, len(frames) * _FRAME_BYTES))
                for top, left in frames:
                    file.write(_frame(raster, top, left))
    return faults


def check_source(source: Path, size_px: tuple[int, int], pixel_size_um: float | None) -> None:
    """Refuse before the long work what `write_dicom_seg` would refuse after it.

    Raises:
        SlideError, MachineError: as `write_dicom_seg`.
    """
    with _as_stated():
        _header(source, size_px, pixel_size_um, "", datetime.min)


def _as_stated() -> AbstractContextManager[None]:
    """Inside, pydicom leaves the slide's own values as they are, however long, without a warning."""
    context: AbstractContextManager[None] = require("pydicom", "slides").config.disable_value_validation()
    return context


def _tiles(length_px: int) -> range:
    return range(0, length_px, TILE_PX)


def _frame(raster: SlideRaster, top: int, left: int) -> bytes:
    """One bit per pixel, the first in the lowest bit; zeros beyond the slide."""
    height, width = min(TILE_PX, raster.size_px[0] - top), min(TILE_PX, raster.size_px[1] - left)
    tile = np.zeros((TILE_PX, TILE_PX), np.uint8)
    tile[:height, :width] = raster.mask(top, left, height, width)
    return np.packbits(tile, bitorder="little").tobytes()


def _header(
    source: Path, size_px: tuple[int, int], pixel_size_um: float | None, identity: str, made_at: datetime
) -> tuple[Any, tuple[str, ...]]:
    """All but the pixels, and what to say of the slide."""
    frames = len(_tiles(size_px[0])) * len(_tiles(size_px[1]))
    if frames * _FRAME_BYTES > _MOST_BYTES:
        raise SlideError(f"a DICOM segmentation of {size_px} px would pass 4 GB; write without dicom-seg")
    slide = read_source(source, size_px, pixel_size_um)
    try:
        header = _of_one_tile(slide.header, identity)
    except (AttributeError, TypeError, ValueError) as err:  # what highdicom makes of a header that is damaged otherwise
        raise SlideError(f"no DICOM segmentation can refer to {source} ({err}); write without dicom-seg") from err
    header.TotalPixelMatrixRows, header.TotalPixelMatrixColumns = size_px
    header.NumberOfFrames = frames
    header.DimensionOrganizationSequence[0].DimensionOrganizationUID = uid_of("dimensions", identity)
    _date(header, made_at)
    return header, slide.faults


def _of_one_tile(slide: Any, identity: str) -> Any:
    """The header as highdicom makes it of one empty tile, since it wants all pixels of a slide at once."""
    seg, codes = require("highdicom.seg", "slides"), require("pydicom.sr.codedict", "slides").codes
    slide.TotalPixelMatrixRows = slide.TotalPixelMatrixColumns = TILE_PX
    slide.NumberOfFrames = 1
    name, slide.PatientName = slide.PatientName, None  # highdicom warns of names in one piece
    header = seg.Segmentation(
        source_images=[slide],
        pixel_array=np.zeros((1, TILE_PX, TILE_PX), np.uint8),
        segmentation_type="BINARY",
        segment_descriptions=[_segment(seg, codes)],
        series_instance_uid=uid_of("series", identity),
        series_number=_SERIES_NUMBER,
        sop_instance_uid=uid_of("instance", identity),
        instance_number=1,
        manufacturer=_NAME,
        manufacturer_model_name=_NAME,
        software_versions=__version__,
        device_serial_number=__version__,
        content_label="CELLS",
        content_description="Cells, segmented by a network",
        tile_pixel_array=True,
        tile_size=(TILE_PX, TILE_PX),
        dimension_organization_type="TILED_FULL",
        omit_empty_frames=False,
    )
    del header.PixelData
    header.PatientName, header.PatientOrientation = name, None
    return header


def _segment(seg: Any, codes: Any) -> Any:
    algorithm = require("highdicom", "slides").AlgorithmIdentificationSequence(
        name=_NAME, family=codes.DCM.ArtificialIntelligence, version=__version__
    )
    return seg.SegmentDescription(
        segment_number=1,
        segment_label="Cells",
        segmented_property_category=codes.cid7150.AnatomicalStructure,
        segmented_property_type=codes.SCT.Cell,
        algorithm_type=seg.SegmentAlgorithmTypeValues.AUTOMATIC,
        algorithm_identification=algorithm,
    )


def _date(header: Any, made_at: datetime) -> None:
    """The run's time in place of the clock's: a run that goes on after an interruption writes the same bytes."""
    date, time = f"{made_at:%Y%m%d}", f"{made_at:%H%M%S}"
    header.InstanceCreationDate = header.ContentDate = header.SeriesDate = date
    header.InstanceCreationTime = header.ContentTime = header.SeriesTime = time
    for equipment in header.ContributingEquipmentSequence:
        equipment.ContributionDateTime = date + time
