"""Zeiss CZI as slides, 8 and 16 bit, by pylibCZIrw (Zeiss's own libCZI); an extra of its own."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
from numpy.typing import NDArray

from breastseg_deploy.errors import SlideError
from breastseg_deploy.extras import require
from breastseg_deploy.io.slide import SlideInfo, levels_of, region_error

EXTRA = "czi"

_DTYPES = {"Gray8": "uint8", "Gray16": "uint16", "Bgr24": "uint8"}
_WHITE, _BLACK = (1.0, 1.0, 1.0), (0.0, 0.0, 0.0)
_MOST_CHANNELS = 256
_A_LITTLE = 1 + 1e-9
"""A region's size times 1 / 3 must not round down to one pixel less."""


class CziReader:
    """A CZI file with one scene and one plane. Where no tile lies, colour is white and grey is 0."""

    def __init__(self, path: Path) -> None:
        """Open a slide.

        Raises:
            SlideError: damaged, several scenes, a z-stack or time series, or pixels that no slide has.
            MachineError: pylibCZIrw is not installed.
        """
        library = require("pylibCZIrw.czi", EXTRA)
        self._path, self._lock = path, threading.Lock()
        try:
            self._file = library.CziReader(str(path))
        except Exception as err:  # libCZI's errors are RuntimeErrors of any kind
            raise SlideError(f"{path} is a damaged CZI ({err}); copy the slide again") from err
        try:
            self._describe(path)
        except SlideError:
            self._file.close()
            raise
        except Exception as err:
            self._file.close()
            raise SlideError(f"{path} is a damaged CZI ({err}); copy the slide again") from err

    def _describe(self, path: Path) -> None:
        box = self._file.total_bounding_box_no_pyramid
        scenes = len(self._file.scenes_bounding_rectangle) or 1
        planes = int(np.prod([last - first for axis, (first, last) in box.items() if axis not in "XYC"]))
        if scenes > 1 or planes > 1:
            raise SlideError(f"{path} holds {scenes} images of {planes} planes each; export one plane of one image")
        if box["C"][1] - box["C"][0] > _MOST_CHANNELS:
            raise SlideError(f"{path} states {box['C'][1] - box['C'][0]} channels; the file is damaged")
        kinds = [self._file.get_channel_pixel_type(channel) for channel in range(*box["C"])]
        if len(set(kinds)) != 1 or kinds[0] not in _DTYPES or (kinds[0] == "Bgr24" and len(kinds) > 1):
            raise SlideError(f"{path} stores {', '.join(kinds)}; expected Gray8, Gray16 or one Bgr24")
        self._kind, self._count = kinds[0], len(kinds)
        self._left, self._top = box["X"][0], box["Y"][0]
        size = (box["Y"][1] - box["Y"][0], box["X"][1] - box["X"][0])
        self._reductions = self._found_reductions(min(size))
        sizes = [(size[0] // by, size[1] // by) for by in self._reductions]
        xml = ElementTree.fromstring(self._file.raw_metadata)
        names = ("R", "G", "B") if self._kind == "Bgr24" else _channel_names(xml, self._count)
        dtype = _DTYPES[self._kind]
        bits = xml.findtext(".//Image/ComponentBitCount")
        self._info = SlideInfo(
            "CZI",
            size,
            names,
            dtype,
            int(bits) if bits and 1 <= int(bits) <= 16 and dtype == "uint16" else np.dtype(dtype).itemsize * 8,
            _pixel_size_um(xml),
            levels_of(path, sizes),
            (path,),
        )

    def _found_reductions(self, shortest: int) -> list[int]:
        """How many times smaller each stored level is, the full resolution (1) first."""
        found = {1}

        def look(_: int, block: Any) -> bool:
            if block.physicalSize.w > 0:
                found.add(round(block.logicalRect.w / block.physicalSize.w))
            return True

        self._file.enumerate_subblocks(look)
        return sorted(by for by in found if 1 <= by <= shortest)

    def describe(self) -> SlideInfo:
        """What the slide is."""
        return self._info

    def read(self, level: int, top: int, left: int, height: int, width: int) -> NDArray[Any]:
        """A region of a level; see `SlideReader`."""
        by = self._reductions[level]
        roi = (self._left + left * by, self._top + top * by, width * by, height * by)
        try:
            planes = [self._plane(channel, roi, by) for channel in range(self._count)]
        except Exception as err:  # libCZI's errors are RuntimeErrors of any kind
            raise region_error(self._path, level, top, left, err) from err
        region = np.concatenate(planes, axis=2)
        if region.shape[:2] != (height, width):
            raise region_error(self._path, level, top, left, f"{region.shape[0]} x {region.shape[1]} px came")
        return region

    def _plane(self, channel: int, roi: tuple[int, int, int, int], by: int) -> NDArray[Any]:
        colour = self._kind == "Bgr24"
        with self._lock:
            pixels = self._file.read(
                roi=roi,
                plane={"C": channel, "Z": 0, "T": 0},
                zoom=1.0 if by == 1 else min(1.0, _A_LITTLE / by),
                pixel_type=self._kind,
                background_pixel=_WHITE if colour else _BLACK,
            )
        return np.asarray(pixels)[:, :, ::-1] if colour else np.asarray(pixels)

    def close(self) -> None:
        """Let the file go."""
        self._file.close()


def _channel_names(xml: ElementTree.Element, count: int) -> tuple[str, ...]:
    channels = xml.findall(".//Information/Image/Dimensions/Channels/Channel")
    names = [channel.get("Name") or "" for channel in channels]
    return tuple(names) if len(names) == count and all(names) else tuple(str(number) for number in range(count))


def _pixel_size_um(xml: ElementTree.Element) -> tuple[float, float] | None:
    """Scaling in metres, as CZI states it."""
    stated = [xml.findtext(f".//Scaling/Items/Distance[@Id='{axis}']/Value") for axis in "YX"]
    sizes = [float(value) * 1e6 if value else 0.0 for value in stated]
    return (sizes[0], sizes[1]) if min(sizes) > 0 else None
