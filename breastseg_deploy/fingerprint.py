"""The fingerprint of frames: what they and their masks look like in a few figures, and how far these scatter."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import isnan, sqrt
from typing import Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, model_validator

from breastseg_deploy.errors import FrameError
from breastseg_deploy.expected_width import ExpectedWidth, fit_expected_width

LEAST_FRAMES = 16
"""A fingerprint of fewer frames would say little about how they scatter."""

Measures = Mapping[str, float]
"""What one frame gave, by feature (`FEATURES` but "scale"), in the form that is compared; NaN where it has none."""


@dataclass(frozen=True)
class Feature:
    """One figure of a frame.

    Attributes:
        says: what it is, for messages.
        least_deviation: deviations are not taken for smaller than this, or frames that agree would allow nothing.
        shown: from the scale that it is compared on to the one that people read.
    """

    says: str
    least_deviation: float
    shown: Callable[[float], float] = lambda value: value


_GREY_OFFSET = 4.0
"""Added to grey values before their logarithm: near black, one grey value is no factor of two."""


def _power(value: float) -> float:
    return float(2.0**value)


def _grey(value: float) -> float:
    return _power(value) - _GREY_OFFSET


FEATURES: Mapping[str, Feature] = {
    "dark": Feature("the darkest hundredth's grey value (0 to 255)", 0.05, _grey),
    "median": Feature("the median grey value (0 to 255)", 0.05, _grey),
    "bright": Feature("the brightest hundredth's grey value (0 to 255)", 0.05, _grey),
    "noise": Feature("noise (grey values)", 0.05, _power),
    "sharpness": Feature("change over 1 px as a share of that over 4 px", 0.05, _power),
    "colour": Feature("distance of the colour channels (grey values)", 0.5),
    "foreground": Feature("share of pixels called cells", 0.01),
    "width": Feature("width of the structures called cells (px)", 0.05, _power),
    "scale": Feature("width of the structures over what frames of that brightness and noise had", 0.05, _power),
    "confidence": Feature("mean probability of pixels called cells", 0.01),
}
"""By name, in the order of reports. The last three are of frames with cells alone; the scale is the width once more,
held against the expected one."""


class Spread(BaseModel):
    """How a feature scatters over the frames of a fingerprint: mean, standard deviation, and of how many frames."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    mean: float
    deviation: float = Field(gt=0)
    frames: int = Field(ge=2)

    def half_width(self, frames: int, limit: float) -> float:
        """How far the mean of so many frames may lie from the fingerprint's: `limit` standard errors of both."""
        return limit * self.deviation * sqrt(1 / frames + 1 / self.frames)


class Fingerprint(BaseModel):
    """What the frames of a bundle's export looked like; later frames are compared with it (`drift.DriftWatch`).

    Attributes:
        frames: how many it was made from.
        spreads: by feature; a feature that hardly any of them had is missing.
        expected_width: what "scale" is measured against; None of too few frames with cells, and then there is none.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    frames: int = Field(ge=LEAST_FRAMES)
    spreads: dict[str, Spread]
    expected_width: ExpectedWidth | None = None

    def value(self, feature: str, measured: Measures) -> float:
        """A feature of a frame, on the scale that it is compared on; NaN where the frame has none."""
        if feature == "scale":
            return float("nan") if self.expected_width is None else self.expected_width.excess(measured)
        return measured[feature]

    @model_validator(mode="after")
    def _agrees_with_itself(self) -> Self:
        if unknown := sorted(self.spreads.keys() - FEATURES.keys()):
            raise ValueError(f"a fingerprint has no feature {unknown[0]!r}")
        return self


def fingerprint(measured: Sequence[Measures]) -> Fingerprint | None:
    """The fingerprint of frames; None of fewer than `LEAST_FRAMES`."""
    if len(measured) < LEAST_FRAMES:
        return None
    fitted = fit_expected_width([one for one in measured if not isnan(one["width"])])
    expected_width, excesses = (None, ()) if fitted is None else fitted
    spreads = {}
    for name, feature in FEATURES.items():
        values = excesses if name == "scale" else [one[name] for one in measured if not isnan(one[name])]
        if len(values) >= LEAST_FRAMES // 2:
            deviation = max(float(np.std(values, ddof=1)), feature.least_deviation)
            spreads[name] = Spread(mean=float(np.mean(values)), deviation=deviation, frames=len(values))
    return Fingerprint(frames=len(measured), spreads=spreads, expected_width=expected_width)


def measure(frame: NDArray[np.uint8], mask: NDArray[np.uint8], probability: NDArray[np.float32] | None) -> Measures:
    """The features of one frame and of what was found in it.

    Args:
        frame: (H, W) or (H, W, 3) uint8, each side at least 5 px: as `contract.rgb_frame` gives it, or one channel.
        mask: (H, W), 0 or 1.
        probability: (H, W); None where it is not known, and the confidence then is not either.

    Raises:
        FrameError: a frame of another dtype or shape.
    """
    if frame.dtype != np.uint8 or frame.shape not in (mask.shape, (*mask.shape, 3)) or min(mask.shape) < 5:
        raise FrameError(
            f"a drift watch takes uint8 frames of the mask's size, got {frame.dtype} {frame.shape} and {mask.shape}; "
            "bring the frame to 8 bits by contract.rgb_frame first"
        )
    grey = _luma(frame)
    dark, median, bright = np.quantile(grey, (0.01, 0.5, 0.99), method="nearest")
    wide = grey.astype(np.float32)
    cells = mask != 0
    confidence = float("nan") if probability is None or not cells.any() else float(probability[cells].mean())
    return {
        "dark": float(np.log2(dark + _GREY_OFFSET)),
        "median": float(np.log2(median + _GREY_OFFSET)),
        "bright": float(np.log2(bright + _GREY_OFFSET)),
        "noise": float(np.log2(noise_sigma(grey) + 0.05)),
        "sharpness": float(np.log2((_change(wide, 1) + 0.01) / (_change(wide, 4) + 0.01))),
        "colour": 0.0 if frame.ndim == 2 else _colour(frame),
        "foreground": float(cells.mean()),
        "width": _width(cells),
        "confidence": confidence,
    }


def _luma(frame: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Grey values of BT.601 in whole numbers."""
    if frame.ndim == 2:
        return frame
    red, green, blue = np.moveaxis(frame.astype(np.uint16), 2, 0)
    return np.asarray((77 * red + 150 * green + 29 * blue + 128) >> 8, np.uint8)


def _colour(frame: NDArray[np.uint8]) -> float:
    """Mean difference of the largest and the smallest channel; 0 for grey in three channels."""
    red, green, blue = np.moveaxis(frame, 2, 0)
    return float(np.mean(np.maximum(np.maximum(red, green), blue) - np.minimum(np.minimum(red, green), blue)))


def noise_sigma(grey: NDArray[np.uint8]) -> float:
    """Standard deviation of white noise in grey values, by a kernel that is blind to flat and sloping parts.

    Args:
        grey: (H, W), each side at least 3 px.

    Source: Immerkaer, Fast Noise Variance Estimation, CVIU 64, 1996.
    """
    wide = grey.astype(np.float32)
    across = wide[:, :-2] - 2 * wide[:, 1:-1] + wide[:, 2:]
    left = across[:-2] - 2 * across[1:-1] + across[2:]
    return float(sqrt(np.pi / 2) / 6 * np.mean(np.abs(left)))


def _change(grey: NDArray[np.float32], distance: int) -> float:
    """Mean squared difference of pixels so far from each other, over both directions."""
    down, across = grey[distance:] - grey[:-distance], grey[:, distance:] - grey[:, :-distance]
    return float(np.mean(down * down) + np.mean(across * across)) / 2


def _width(cells: NDArray[np.bool_]) -> float:
    """log2 of the mean length in pixels of the mask's runs along rows and columns; NaN without cells."""
    if not cells.any():
        return float("nan")
    starts = np.count_nonzero(cells[1:] & ~cells[:-1]) + np.count_nonzero(cells[0])
    starts += np.count_nonzero(cells[:, 1:] & ~cells[:, :-1]) + np.count_nonzero(cells[:, 0])
    return float(np.log2(2 * np.count_nonzero(cells) / starts))
