"""Slides made in the tests: pixels that tell where they are, in files of each kind."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import tifffile
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import ExplicitVRLittleEndian, JPEGBaseline8Bit, generate_uid

WHOLE_SLIDE = "1.2.840.10008.5.1.4.1.1.77.1.6"


def grey16(height: int, width: int) -> NDArray[np.uint16]:
    """Every pixel another value than its neighbours, over 12 bits."""
    y, x = np.mgrid[:height, :width]
    return ((y * 61 + x * 7) % 4096).astype(np.uint16)


def rgb8(height: int, width: int) -> NDArray[np.uint8]:
    y, x = np.mgrid[:height, :width]
    return np.stack([y % 256, x % 256, (y + x) % 256], axis=-1).astype(np.uint8)


def smooth_rgb8(height: int, width: int) -> NDArray[np.uint8]:
    """Slopes that JPEG keeps within a few values."""
    y, x = np.mgrid[:height, :width]
    return np.stack([255 * y / height, 255 * x / width, 127 + 0 * x], axis=-1).astype(np.uint8)


def pyramid(path: Path, full: NDArray[Any], levels: int, **options: Any) -> Path:
    """A tiled OME-TIFF pyramid in SubIFDs, each level every second pixel of the one before."""
    with tifffile.TiffWriter(path, ome=True) as tiff:
        photometric = "rgb" if full.ndim == 3 and full.shape[-1] == 3 else "minisblack"
        axes = {"axes": "YXS" if photometric == "rgb" else "CYX" if full.ndim == 3 else "YX"}
        metadata = {**axes, **options.pop("metadata", {})}
        tiff.write(full, subifds=levels - 1, tile=(64, 64), photometric=photometric, metadata=metadata, **options)
        for level in range(1, levels):
            step = 2**level
            small = full[::step, ::step] if photometric == "rgb" or full.ndim == 2 else full[:, ::step, ::step]
            tiff.write(small, subfiletype=1, tile=(64, 64), photometric=photometric, metadata=None, **options)
    return path


def dicom_slide(
    path: Path,
    pixels: NDArray[Any],
    *,
    tile: int = 32,
    order: Sequence[int] | None = None,
    jpeg: bool = False,
    **attributes: Any,
) -> Path:
    """A DICOM whole slide of one level, tiled fully; `attributes` are set last, None removes one.

    Args:
        path: the file.
        pixels: (H, W, 3) uint8, or (H, W) of 8 or 16 bit.
        tile: side of its tiles.
        order: of the frames, as indices in reading order.
        jpeg: encoded so instead of plain.
    """
    height, width = pixels.shape[:2]
    down, across = -(-height // tile), -(-width // tile)
    padded = np.pad(pixels, [(0, down * tile - height), (0, across * tile - width), *[(0, 0)] * (pixels.ndim - 2)])
    frames = [padded[y * tile :, x * tile :][:tile, :tile] for y in range(down) for x in range(across)]
    frames = [frames[number] for number in (order if order is not None else range(len(frames)))]
    slide = Dataset()
    slide.file_meta = FileMetaDataset()
    slide.file_meta.TransferSyntaxUID = JPEGBaseline8Bit if jpeg else ExplicitVRLittleEndian
    slide.file_meta.MediaStorageSOPClassUID = slide.SOPClassUID = WHOLE_SLIDE
    slide.file_meta.MediaStorageSOPInstanceUID = slide.SOPInstanceUID = generate_uid()
    slide.StudyInstanceUID, slide.SeriesInstanceUID, slide.Modality = "1.2.3", "1.2.3.4", "SM"
    slide.ImageType = ["ORIGINAL", "PRIMARY", "VOLUME", "NONE"]
    slide.DimensionOrganizationType = "TILED_FULL"
    slide.SamplesPerPixel = 3 if pixels.ndim == 3 else 1
    slide.PhotometricInterpretation = "RGB" if pixels.ndim == 3 else "MONOCHROME2"
    slide.PlanarConfiguration, slide.NumberOfFrames, slide.Rows, slide.Columns = 0, len(frames), tile, tile
    slide.BitsAllocated = slide.BitsStored = pixels.itemsize * 8
    slide.HighBit, slide.PixelRepresentation = slide.BitsStored - 1, 0
    slide.TotalPixelMatrixRows, slide.TotalPixelMatrixColumns = height, width
    measures = Dataset()
    measures.PixelSpacing = [0.0005, 0.0005]
    shared = Dataset()
    shared.PixelMeasuresSequence = [measures]
    slide.SharedFunctionalGroupsSequence = [shared]
    content = b"".join(np.ascontiguousarray(frame).tobytes() for frame in frames)
    slide.PixelData = encapsulate([jpeg_bytes(frame) for frame in frames]) if jpeg else content
    if jpeg:
        slide["PixelData"].is_undefined_length = True
    for name, value in attributes.items():
        if value is None:
            delattr(slide, name)
        else:
            setattr(slide, name, value)
    pydicom.dcmwrite(path, slide, enforce_file_format=True)
    return path


def jpeg_bytes(frame: NDArray[np.uint8]) -> bytes:
    import imagecodecs

    return bytes(imagecodecs.jpeg8_encode(np.ascontiguousarray(frame), level=95))
