"""What a slide is to the rest: an image of any size that is read region by region. Readers are in `io.readers`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from numpy.typing import NDArray


@dataclass(frozen=True)
class Level:
    """One resolution of a slide; `downsample` is 1 for the full one, and pixels of the full one per pixel of this."""

    size_px: tuple[int, int]
    downsample: float


@dataclass(frozen=True)
class SlideInfo:
    """What a reader knows of a slide before any pixel is read.

    Attributes:
        format: such as "OME-TIFF" or "SVS".
        size_px: (H, W) of the full resolution.
        channels: their names in order; ("R", "G", "B") for colour. Unnamed ones are "0", "1" and so on.
        dtype: NumPy's name of what `SlideReader.read` gives: "uint8" or "uint16".
        bits: that are used, where the file says so; else those of the dtype.
        pixel_size_um: (vertical, horizontal); None where the file does not say.
        levels: the full resolution first.
    """

    format: str
    size_px: tuple[int, int]
    channels: tuple[str, ...]
    dtype: str
    bits: int
    pixel_size_um: tuple[float, float] | None
    levels: tuple[Level, ...]

    @property
    def is_rgb(self) -> bool:
        """Whether its channels are the three colours."""
        return self.channels == ("R", "G", "B")


class SlideReader(Protocol):
    """An open slide. Several threads may call `read` at the same time."""

    def describe(self) -> SlideInfo:
        """What the slide is."""

    def read(self, level: int, top: int, left: int, height: int, width: int) -> NDArray[Any]:
        """A region that lies inside a level, in that level's pixels; (height, width, channels) of the slide's dtype.

        Raises:
            SlideError: the region cannot be decoded; the message names the file and the place.
        """

    def close(self) -> None:
        """Let the file go; `read` is not called again."""
