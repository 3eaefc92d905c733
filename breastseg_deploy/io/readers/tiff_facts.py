"""What a TIFF says of itself as a slide: which of its images is the slide, its channels, bits and pixel size."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np

from breastseg_deploy.errors import SlideError

BESIDE = ("label", "macro", "thumbnail", "label image", "macro image", "overview")
"""Names of the pictures that scanners store beside the slide (Bio-Formats, QuPath, Aperio)."""

LARGEST_PIXEL_UM = 10.0
"""TIFF's resolution is taken as a pixel size up to here: programs write a printer's 72 or 300 dpi (353 and 85 um)."""

JPEG = (6, 7, 34892, 33007)
"""TIFF's numbers of JPEG compression (tifffile's own list)."""
_ALPHA = (1, 2)
_AXES = ("YX", "YXS", "YXC", "SYX", "CYX")
_OME_UM = {"µm": 1.0, "μm": 1.0, "um": 1.0, "nm": 1e-3, "mm": 1e3, "cm": 1e4, "m": 1e6, "Å": 1e-4, "pm": 1e-6}
_UNITS_UM = {"µm": 1.0, "μm": 1.0, "um": 1.0, "micron": 1.0, "microns": 1.0, "nm": 1e-3, "mm": 1e3, "cm": 1e4}
_RESOLUTION_UM = {2: 25400.0, 3: 10000.0}
"""Micrometres in TIFF's units of resolution: inch, centimetre."""


def slide_series(tiff: Any, path: Path) -> Any:
    """The one image of a file that is the slide, with its levels.

    Raises:
        SlideError: none, several, a z-stack or time series, a level missing, or pixels that no slide has.
    """
    found = [series for series in tiff.series if series.name.lower() not in BESIDE]
    if not found:
        raise SlideError(f"{path} holds no image; export the slide again")
    if len(found) > 1:
        sizes = ", ".join(_in_words(series) for series in found[:4])
        raise SlideError(f"{path} holds {len(found)} images ({sizes}); export the one to segment as a file of its own")
    series = found[0]
    if series.axes not in _AXES:
        count = math.prod(n for n, axis in zip(series.shape, series.axes, strict=True) if axis not in "YXCS")
        raise SlideError(
            f"{path} holds {count} planes (a z-stack, a time series or several images; axes {series.axes}); export one "
            "plane, or a projection, as a file of its own"
        )
    _refuse_pixels(series, path)
    named = len(series.keyframe.subifds or ())
    if named and len(series.levels) != named + 1:
        raise SlideError(
            f"{path} names {named + 1} levels and only {len(series.levels)} are there; copy the slide again"
        )
    for number, level in enumerate(series.levels):
        if (level.axes, level.dtype) != (series.axes, series.dtype):
            raise SlideError(f"{path}: its level {number} has other channels or bits than the slide; export it again")
    return series


def channel_names(tiff: Any, series: Any, path: Path) -> tuple[str, ...]:
    """Names of the channels in order: R, G, B for colour; those of OME and QPTIFF; else their numbers.

    Raises:
        SlideError: an alpha channel.
    """
    key, count = series.keyframe, _channel_count(series)
    alpha = any(int(extra) in _ALPHA for extra in key.extrasamples)
    if alpha or (key.photometric.name == "RGB" and key.samplesperpixel == 4):
        raise SlideError(f"{path} has an alpha channel; save it as grey or RGB without transparency")
    if key.photometric.name in ("RGB", "YCBCR") and key.samplesperpixel == 3 and count == 3:
        return ("R", "G", "B")
    names = _stated_names(tiff, series)
    return tuple(names) if len(names) == count and all(names) else tuple(str(number) for number in range(count))


def bits_of(tiff: Any, series: Any) -> int:
    """Bits in use: OME's SignificantBits, or those that a sample has in the file."""
    pixels = _ome_pixels(tiff, series)
    stated = None if pixels is None else pixels.get("SignificantBits")
    return int(stated) if stated else int(series.keyframe.bitspersample)


def pixel_size_um(tiff: Any, series: Any) -> tuple[float, float] | None:
    """(vertical, horizontal) from OME, ImageJ, MetaMorph or TIFF's own resolution; None where none is plausible."""
    if tiff.is_ome:
        return _ome_pixel_size(_ome_pixels(tiff, series))
    if tiff.is_stk:
        return _metamorph_pixel_size(tiff.stk_metadata or {})
    key = series.keyframe
    across, down = (_ratio(key.tags.get(name)) for name in ("XResolution", "YResolution"))
    if not across or not down:
        return None
    if tiff.is_imagej:
        name = str((tiff.imagej_metadata or {}).get("unit", "")).replace("\\u00B5", "µ")
        unit = _UNITS_UM.get(name, 0.0)
        return (unit / down, unit / across) if unit else None
    unit = _RESOLUTION_UM.get(int(key.resolutionunit), 0.0)
    size = (unit / down, unit / across)
    return size if 0 < max(size) <= LARGEST_PIXEL_UM else None


def _refuse_pixels(series: Any, path: Path) -> None:
    key, dtype = series.keyframe, np.dtype(series.dtype).newbyteorder("=")
    if dtype == np.bool_ or int(key.bitspersample) == 1:
        raise SlideError(f"{path} holds single bits: a mask and no slide; pass the image that it was drawn on")
    if dtype not in (np.uint8, np.uint16):
        raise SlideError(f"{path} holds {series.dtype} values; a slide is uint8 or uint16: convert it without scaling")
    if key.photometric.name not in ("MINISBLACK", "RGB", "YCBCR"):
        raise SlideError(f"{path} stores colours as {key.photometric.name}; save it as grey (black is 0) or RGB")
    if key.photometric.name == "YCBCR" and int(key.compression) not in JPEG:  # which alone are converted to RGB
        raise SlideError(f"{path} stores colours as YCBCR without JPEG; save it as RGB")


def _channel_count(series: Any) -> int:
    return math.prod(n for n, axis in zip(series.shape, series.axes, strict=True) if axis in "CS")


def _in_words(series: Any) -> str:
    size = " x ".join(str(n) for n, axis in zip(series.shape, series.axes, strict=True) if axis in "YX")
    return f"{series.name or 'unnamed'}: {size} px"


def _ome_pixels(tiff: Any, series: Any) -> ElementTree.Element | None:
    """The <Pixels> element of the slide's image; None where the file is no OME-TIFF."""
    if not tiff.is_ome:
        return None
    images = ElementTree.fromstring(tiff.ome_metadata).findall("{*}Image")
    named = [image for image in images if (image.get("Name") or "") == series.name] or images
    return named[0].find("{*}Pixels") if named else None


def _ome_pixel_size(pixels: ElementTree.Element | None) -> tuple[float, float] | None:
    if pixels is None:
        return None
    sizes = []
    for axis in "YX":
        unit = _OME_UM.get(pixels.get(f"PhysicalSize{axis}Unit", "µm"))
        value = float(pixels.get(f"PhysicalSize{axis}", "0"))
        if unit is None or not 0 < value < math.inf:
            return None
        sizes.append(value * unit)
    return sizes[0], sizes[1]


def _metamorph_pixel_size(stated: Mapping[str, Any]) -> tuple[float, float] | None:
    unit = _UNITS_UM.get(str(stated.get("CalibrationUnits", "")), 0.0) if stated.get("SpatialCalibration") else 0.0
    height, width = (float(stated.get(name) or 0) * unit for name in ("YCalibration", "XCalibration"))
    return (height, width) if height > 0 and width > 0 else None


def _stated_names(tiff: Any, series: Any) -> list[str]:
    if tiff.is_qpi:
        pages = [ElementTree.fromstring(page.aspage().description) for page in series.pages]
        return [page.findtext("Name") or "" for page in pages]
    pixels = _ome_pixels(tiff, series)
    return [] if pixels is None else [channel.get("Name") or "" for channel in pixels.findall("{*}Channel")]


def _ratio(tag: Any) -> float:
    """TIFF's resolution, a fraction; 0 where it is absent or none."""
    if tag is None:
        return 0.0
    above, below = tag.value
    return above / below if below else 0.0
