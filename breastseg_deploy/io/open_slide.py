"""`open_slide`: any image that a reader knows, as the network sees it: 8-bit RGB at one pixel size, by regions."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable
from itertools import product
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from breastseg_deploy.errors import ArgumentError, SlideError
from breastseg_deploy.io.content_hash import array_sha256, files_sha256
from breastseg_deploy.io.conversion import Conversion, conversion_for
from breastseg_deploy.io.inputs import slide_name
from breastseg_deploy.io.open_reader import Source, open_reader
from breastseg_deploy.io.rescale import LARGEST_FACTOR, Rescaled, mean_of_squares
from breastseg_deploy.io.slide import SlideInfo, SlideReader

SAME_PIXEL_SIZE = 0.01
"""Pixel sizes that differ by no more than this share count as the same; see `same_pixel_size`."""

_BLOCK_PX = 2048
_LOOKED_AT_PX = 512


def open_slide(
    source: Source,
    *,
    channel: str | int | None = None,
    bit_depth: int | None = None,
    window: tuple[float, float] | None = None,
    pixel_size_um: float | None = None,
    rescale_to_um: float | None = None,
) -> Slide:
    """Open an image of any size.

    Args:
        source: a file, a folder of DICOM files, or an array (H, W) or (H, W, channels), uint8 or uint16 (NumPy, Zarr).
        channel: name or number of the one to segment; needed where there are several that are not R, G and B.
        bit_depth: of 16-bit values (9 to 16), as for frames.
        window: (low, high) instead: the values that become black and white, linear between and clipped outside.
        pixel_size_um: overrides what the file states; needed where that differs in height and width by over 1 %.
        rescale_to_um: resample to this pixel size; left as it is where the slide's own is within 1 % of it.

    Returns:
        The slide, to be closed; a context manager.

    Raises:
        SlideError: the file cannot be read or is no slide, or something is left open that must be said.
        MachineError: a library is missing; the message names the extra.
    """
    reader = open_reader(source)
    try:
        info = reader.describe()
        conversion = conversion_for(info, channel, bit_depth, window)
        _refuse_mask(reader, info)
        size_um = _pixel_size_um(info, pixel_size_um)
        grid = None if rescale_to_um is None else _grid(info, size_um, rescale_to_um)
        name = slide_name(Path(source)) if isinstance(source, (str, os.PathLike)) else "array"
        return Slide(reader, source, name, conversion, size_um, rescale_to_um, grid)
    except SlideError as err:
        reader.close()
        raise _naming(err, source) from err
    except BaseException:
        reader.close()
        raise


class Slide:
    """An open slide; `open_slide` makes one. Several threads may read at the same time.

    Attributes:
        name: of the file without its suffixes; "array" for an array.
        info: what the reader knows of it.
        size_px: (H, W), after rescaling.
        pixel_size_um: after rescaling; None where it is not known.
        conversion: what was done to the values, for the result.
    """

    def __init__(
        self,
        reader: SlideReader,
        source: Source,
        name: str,
        conversion: Conversion,
        pixel_size_um: float | None,
        rescale_to_um: float | None,
        grid: Rescaled | None,
    ) -> None:
        self._reader, self._source, self._convert, self._grid = reader, source, conversion, grid
        self.name, self.info = name, reader.describe()
        self.size_px = self.info.size_px if grid is None else grid.size_px
        self.pixel_size_um = pixel_size_um if grid is None else rescale_to_um
        self.conversion: dict[str, Any] = {
            "channel": "RGB" if len(conversion.channels) == 3 else self.info.channels[conversion.channels[0]],
            "bit_depth": conversion.bit_depth,
            "window": None if conversion.window is None else list(conversion.window),
            "outside_the_window": None if conversion.window is None else "clipped",
            "stated_pixel_size_um": None if self.info.pixel_size_um is None else list(self.info.pixel_size_um),
            "pixel_size_um": pixel_size_um,
            "rescaled_to_um": None if grid is None else rescale_to_um,
            "found_out": list(self.info.found_out),
        }

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, err: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def read_rgb(self, top: int, left: int, height: int, width: int) -> NDArray[np.uint8]:
        """A region inside the slide as the network gets it; (height, width, 3) uint8.

        Raises:
            SlideError: the region cannot be decoded, or holds a value beyond the bit depth.
            ArgumentError: it does not lie inside the slide.
        """
        self._check_inside(top, left, height, width)
        if self._grid is None:
            return self._rgb(0, top, left, height, width)
        resampled = self._grid.read(lambda *place: self._rgb(0, *place), top, left, height, width)
        return np.rint(resampled).astype(np.uint8)

    def read_intensity(self, top: int, left: int, height: int, width: int) -> NDArray[np.float32]:
        """The channel's own values in a region, (height, width) float32; luma (0 to 255, or of 16 bit) for colour.

        Raises:
            SlideError: the region cannot be decoded.
            ArgumentError: it does not lie inside the slide.
        """
        self._check_inside(top, left, height, width)

        def source(*place: int) -> NDArray[np.float32]:
            return self._convert.intensity(self._reader.read(0, *place))

        if self._grid is None:
            return source(top, left, height, width)
        return self._grid.read(source, top, left, height, width)

    def thumbnail(self, longest_px: int) -> tuple[NDArray[np.uint8], float]:
        """A small picture of the whole slide, its sides at most `longest_px`, from the lowest level that is larger.

        Each of its pixels is the mean of a square of that level; those at the bottom and right may be of fewer pixels.

        Returns:
            (h, w, 3) uint8, and how many pixels of `size_px` its pixels are wide.
        """
        if longest_px < 1:
            raise ArgumentError(f"a thumbnail has at least 1 px, got {longest_px}")
        levels = self.info.levels
        fine = [number for number, level in enumerate(levels) if max(level.size_px) >= longest_px]
        number = fine[-1] if fine else 0
        factor = max(1, math.ceil(max(levels[number].size_px) / longest_px))
        small = self._reduced(number, factor)
        return small, factor * levels[number].downsample / (1.0 if self._grid is None else self._grid.step)

    def sha256(self) -> str:
        """Of the content: the file's own; of several files, of their names and hashes; of an array, of all it is."""
        if isinstance(self._source, (str, os.PathLike)):
            return files_sha256(self.info.files)
        return array_sha256(self._source)

    def close(self) -> None:
        """Let the file go; nothing is read after that."""
        self._reader.close()

    def _rgb(self, level: int, top: int, left: int, height: int, width: int) -> NDArray[np.uint8]:
        region = self._reader.read(level, top, left, height, width)
        try:
            return self._convert.rgb(region)
        except SlideError as err:
            raise SlideError(f"{self._words} at row {top}, column {left}: {err}") from err

    def _reduced(self, level: int, factor: int) -> NDArray[np.uint8]:
        """A level, each square of `factor` pixels its mean; read block by block."""
        height, width = self.info.levels[level].size_px
        out = np.empty((-(-height // factor), -(-width // factor), 3), np.uint8)
        step = factor * max(1, _BLOCK_PX // factor)
        for top in range(0, height, step):
            for left in range(0, width, step):
                block = self._rgb(level, top, left, min(step, height - top), min(step, width - left))
                mean = mean_of_squares(block, factor)
                out[top // factor :, left // factor :][: mean.shape[0], : mean.shape[1]] = mean
        return out

    def _check_inside(self, top: int, left: int, height: int, width: int) -> None:
        inside = 0 <= top < top + height <= self.size_px[0] and 0 <= left < left + width <= self.size_px[1]
        if not inside:
            raise ArgumentError(
                f"a region lies inside the slide of {self.size_px[0]} x {self.size_px[1]} px, got row {top}, column "
                f"{left}, {height} x {width} px"
            )

    @property
    def _words(self) -> str:
        return str(self.info.files[0] if len(self.info.files) == 1 else self.name)


def _naming(err: SlideError, source: Source) -> SlideError:
    """The error with the slide's path in front, where it is not there."""
    if not isinstance(source, (str, os.PathLike)) or str(source) in str(err):
        return err
    return SlideError(f"{source}: {err}")


def _pixel_size_um(info: SlideInfo, given: float | None) -> float | None:
    if given is not None:
        if not 0 < given < math.inf:
            raise SlideError(f"a pixel size is a positive number of micrometres, got {given}")
        return float(given)
    if info.pixel_size_um is None:
        return None
    height, width = info.pixel_size_um
    if not same_pixel_size(height, width):
        raise SlideError(
            f"its pixels are {height:g} um high and {width:g} um wide; pass the size to assume as pixel_size_um (--mpp)"
        )
    return math.sqrt(height * width)


def same_pixel_size(one_um: float, other_um: float) -> bool:
    """Whether two pixel sizes count as the same: the larger is over the smaller by no more than a hundredth."""
    return max(one_um, other_um) <= (1 + SAME_PIXEL_SIZE) * min(one_um, other_um)


def _grid(info: SlideInfo, pixel_size_um: float | None, wanted_um: float) -> Rescaled | None:
    if not 0 < wanted_um < math.inf:
        raise SlideError(f"a slide is rescaled to a positive number of micrometres, got {wanted_um}")
    if pixel_size_um is None:
        raise SlideError("the slide states no pixel size, so it cannot be rescaled; pass pixel_size_um (--mpp)")
    step = wanted_um / pixel_size_um
    if same_pixel_size(pixel_size_um, wanted_um):
        return None
    if not 1 / LARGEST_FACTOR <= step <= LARGEST_FACTOR:
        raise SlideError(
            f"rescaling from {pixel_size_um:g} to {wanted_um:g} um is a factor of {step:g}, over {LARGEST_FACTOR:g}; "
            "check both pixel sizes"
        )
    return Rescaled(info.size_px, step)


def _refuse_mask(reader: SlideReader, info: SlideInfo) -> None:
    """An 8-bit grey image of nothing but 0 and one of 1 and 255 is a mask.

    All of it is looked at only where five places of it hold both values and no other.
    """
    if info.dtype != "uint8" or len(info.channels) != 1:
        return
    height, width = (min(_LOOKED_AT_PX, side) for side in info.size_px)
    down, across = info.size_px[0] - height, info.size_px[1] - width
    five = [(down // 2, across // 2), (0, 0), (0, across), (down, 0), (down, across)]
    everywhere = product(range(0, info.size_px[0], _BLOCK_PX), range(0, info.size_px[1], _BLOCK_PX))
    values = _values_if_mask(reader, info, five, _LOOKED_AT_PX)
    if len(values) == 2 and (values := _values_if_mask(reader, info, everywhere, _BLOCK_PX)):
        raise SlideError(f"it holds only {min(values)} and {max(values)}: a mask and no slide; pass the image itself")


def _values_if_mask(reader: SlideReader, info: SlideInfo, places: Iterable[tuple[int, int]], side: int) -> set[int]:
    """All values in squares of a slide; none as soon as one is no mask's."""
    values: set[int] = set()
    for top, left in places:
        region = reader.read(0, top, left, min(side, info.size_px[0] - top), min(side, info.size_px[1] - left))
        values |= set(np.unique(region).tolist())
        if not values <= {0, 1} and not values <= {0, 255}:
            return set()
    return values
