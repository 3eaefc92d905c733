"""From a slide's own values to what the network gets: which channel, and which values are black and white."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from breastseg_deploy.contract import rgb_frame
from breastseg_deploy.errors import FrameError, SlideError
from breastseg_deploy.io.slide import SlideInfo
from breastseg_deploy.preprocess.gabor import LUMA_BT601


@dataclass(frozen=True)
class Conversion:
    """How the regions of one slide become 8-bit RGB.

    Attributes:
        channels: indices of the channels that are used: one, or R, G and B.
        bit_depth: for 16 bit, how many bits the scanner uses; see `contract.rgb_frame`.
        window: (low, high), the values that become 0 and 255; linear between, and clipped outside.
    """

    channels: tuple[int, ...]
    bit_depth: int | None = None
    window: tuple[float, float] | None = None

    def rgb(self, region: NDArray[Any]) -> NDArray[np.uint8]:
        """(H, W, channels) of the slide's dtype to (H, W, 3) uint8.

        Raises:
            SlideError: a value over 2 ** bit_depth - 1.
        """
        picked = self._picked(region)
        if self.window is not None:
            picked = _window_table(self.window, np.iinfo(picked.dtype).max)[picked]
        try:
            return rgb_frame(picked, region.shape[:2], bit_depth=self.bit_depth)
        except FrameError as err:
            raise SlideError(str(err)) from err

    def intensity(self, region: NDArray[Any]) -> NDArray[np.float32]:
        """(H, W, channels) of the slide's dtype to its own values, (H, W) float32; BT.601 luma of colour."""
        picked = self._picked(region).astype(np.float32)
        if len(self.channels) == 1:
            return picked[:, :, 0]
        red, green, blue = (picked[:, :, number] * np.float32(LUMA_BT601[number]) for number in range(3))
        return np.asarray(red + green + blue)

    def _picked(self, region: NDArray[Any]) -> NDArray[Any]:
        if self.channels == tuple(range(region.shape[2])):
            return region
        return region[:, :, self.channels]


def conversion_for(
    info: SlideInfo,
    channel: str | int | None = None,
    bit_depth: int | None = None,
    window: tuple[float, float] | None = None,
) -> Conversion:
    """The conversion that these parameters ask for.

    Raises:
        SlideError: several channels and none chosen, a channel that does not exist, 16 bit without bit depth or window,
            or parameters that do not go together; the message lists the channels.
    """
    channels = _channels(info, channel)
    if window is not None:
        if bit_depth is not None:
            raise SlideError("a slide has a bit depth or a window, got both; omit one")
        return Conversion(channels, window=_checked_window(window))
    try:  # the contract decides which bit depths belong to which dtype
        rgb_frame(np.zeros((1, 1), info.dtype), (1, 1), bit_depth=bit_depth)
    except FrameError as err:
        if bit_depth is None:
            raise SlideError(
                f"the slide holds {info.bits}-bit values and their range is never guessed; pass bit_depth (9 to 16) or "
                "window (LOW,HIGH), on the command line --bit-depth or --window"
            ) from err
        raise SlideError(str(err)) from err
    return Conversion(channels, bit_depth)


def _channels(info: SlideInfo, channel: str | int | None) -> tuple[int, ...]:
    if channel is None:
        if info.is_rgb or len(info.channels) == 1:
            return tuple(range(len(info.channels)))
        raise SlideError(f"the slide has {len(info.channels)} channels ({_listed(info)}); choose one by --channel")
    matching = [number for number, name in enumerate(info.channels) if name == channel]
    if len(matching) == 1:
        return (matching[0],)
    if str(channel).isdecimal() and not matching and int(channel) < len(info.channels):
        return (int(channel),)
    how = "no channel" if not matching else f"{len(matching)} channels"
    raise SlideError(f"the slide has {how} {str(channel)!r}, expected one of {_listed(info)}, by name or number")


def _listed(info: SlideInfo) -> str:
    return ", ".join(f"{number}: {name}" for number, name in enumerate(info.channels))


def _checked_window(window: tuple[float, float]) -> tuple[float, float]:
    try:
        low, high = (float(value) for value in window)
    except (TypeError, ValueError) as err:
        raise SlideError(f"a window is two numbers, LOW and HIGH, got {window!r}") from err
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise SlideError(f"a window is LOW below HIGH, got {low} and {high}")
    return low, high


def _window_table(window: tuple[float, float], largest: int) -> NDArray[np.uint8]:
    low, high = window
    share = (np.arange(largest + 1) - low) / (high - low)
    return np.asarray(np.rint(np.clip(share, 0, 1) * 255), np.uint8)
