"""Arrays as slides: NumPy, Zarr, and whatever else has a shape, a dtype and slices."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from breastseg_deploy.errors import SlideError
from breastseg_deploy.io.slide import Level, SlideInfo

RGB = ("R", "G", "B")


class ArrayLike(Protocol):
    """What a slide in memory or in chunks on disk must have."""

    @property
    def shape(self) -> tuple[int, ...]:
        """(H, W) or (H, W, channels)."""

    @property
    def dtype(self) -> Any:
        """Of its values."""

    def __getitem__(self, key: Any, /) -> Any:
        """A slice, as NumPy's."""


class ArrayReader:
    """A slide in an array, (H, W) or (H, W, channels), uint8 or uint16; three channels are R, G and B.

    Only what a region needs is sliced, so that a chunked array on disk is never read whole.
    """

    def __init__(self, array: ArrayLike, format: str = "array", files: tuple[Path, ...] = ()) -> None:  # noqa: A002
        """Take an array as a slide.

        Raises:
            SlideError: another shape or dtype, no pixels, or a masked array, whose mask would be lost.
        """
        if not all(hasattr(array, needed) for needed in ("shape", "dtype", "__getitem__")):
            raise SlideError(f"a slide is a path or an array, got {type(array).__name__}; use numpy.asarray first")
        if isinstance(array, np.ma.MaskedArray):
            raise SlideError("a masked array loses its mask here; fill it first, as in array.filled(0)")
        shape = tuple(int(side) for side in array.shape)
        if len(shape) not in (2, 3) or 0 in shape:
            raise SlideError(f"a slide in an array is (H, W) or (H, W, channels), got {shape}; move the channels last")
        dtype = np.dtype(array.dtype).newbyteorder("=")
        if dtype not in (np.uint8, np.uint16):
            raise SlideError(f"a slide is uint8 or uint16, got {array.dtype}; convert it without scaling")
        count = shape[2] if len(shape) == 3 else 1
        names = RGB if count == 3 else tuple(str(number) for number in range(count))
        size_px = (shape[0], shape[1])
        bits = dtype.itemsize * 8
        self._array, self._dtype = array, dtype
        self._info = SlideInfo(format, size_px, names, dtype.name, bits, None, (Level(size_px, 1.0),), files)

    def describe(self) -> SlideInfo:
        """What the slide is; an array states no pixel size."""
        return self._info

    def read(self, level: int, top: int, left: int, height: int, width: int) -> NDArray[Any]:
        """A region of the only level; see `SlideReader`."""
        region = np.asarray(self._array[top : top + height, left : left + width])
        return region.astype(self._dtype, copy=False).reshape(height, width, -1)

    def close(self) -> None:
        """Nothing to close: the array is the caller's."""
