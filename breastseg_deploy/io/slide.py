"""What a slide is to the rest: an image of any size that is read region by region. Readers are in `io.readers`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from numpy.typing import NDArray

from breastseg_deploy.errors import SlideError

EXTRA = "slides"
"""The extra that brings the readers' libraries."""


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
        files: that the slide consists of; none for an array in memory.
        found_out: what the file leaves open and the reader took from its pixels, a sentence each.
    """

    format: str
    size_px: tuple[int, int]
    channels: tuple[str, ...]
    dtype: str
    bits: int
    pixel_size_um: tuple[float, float] | None
    levels: tuple[Level, ...]
    files: tuple[Path, ...] = ()
    found_out: tuple[str, ...] = ()

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


def levels_of(path: Path, sizes_px: Sequence[tuple[int, int]]) -> tuple[Level, ...]:
    """The levels of these sizes, the full resolution first. A downsample is a whole number where the sizes allow one.

    Raises:
        SlideError: a level that is larger than the one before, or of another shape than the slide.
    """
    full, before, levels = sizes_px[0], sizes_px[0], []
    for number, size in enumerate(sizes_px):
        ratios = (full[0] / size[0], full[1] / size[1])
        whole = round(ratios[0] if full[0] > full[1] else ratios[1])
        downsample = float(whole) if _halved(full, size, whole) else (ratios[0] * ratios[1]) ** 0.5
        # A side may lose up to a pixel of the level in each of its halvings.
        bent = any(abs(side / downsample - own) > 1 + 0.01 * own for side, own in zip(full, size, strict=True))
        if bent or size[0] > before[0] or size[1] > before[1]:
            raise SlideError(
                f"{path}: its level {number} has {size[0]} x {size[1]} px and the slide {full[0]} x {full[1]} px, so "
                "it is no smaller picture of the same; the file is damaged, or holds several images: export it again"
            )
        levels.append(Level(size, downsample))
        before = size
    return tuple(levels)


def _halved(full: tuple[int, int], size: tuple[int, int], by: int) -> bool:
    """Whether a level's sides are the slide's, divided by a whole number and rounded either way."""
    return by >= 1 and all(own in (side // by, -(-side // by)) for side, own in zip(full, size, strict=True))


def region_error(path: Path, level: int, top: int, left: int, why: object) -> SlideError:
    """The error of a region that cannot be read."""
    place = f"at row {top}, column {left}" + (f" of level {level}" if level else "")
    reason = str(why).strip().rstrip(".") or type(why).__name__
    return SlideError(f"{path} cannot be decoded {place} ({reason}); copy the slide again")
