"""Where wrong pixels lie, after the paper's failure analysis: at borders, in tiny structures, where contrast is low."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import astuple, dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from breastseg_deploy.metrics import BOUNDARY_TOLERANCE_PX, border
from breastseg_deploy.preprocess.gabor import luma

TINY_STRUCTURE_PX = 50
"""A component of the truth under this area is tiny (paper, section IV C 6); sampling calls under 100 px small."""

CONTRAST_WINDOW_PX = 31
LOW_CONTRAST = 5 / 255
"""Standard deviation of the luma in the window around a pixel, under which its surroundings count as low in contrast.

Window and limit are ours; the paper names the class only.
"""


@dataclass(frozen=True)
class ErrorCounts:
    """Wrong pixels by where they lie; a pixel may lie in several places.

    Attributes:
        wrong: pixels in which mask and truth differ.
        near_border: of these, within 3 px of a border pixel of the truth.
        in_tiny_structures: of these, inside components of the truth under 50 px.
        low_contrast: of these, where the frame has little contrast.
        elsewhere: in none of these places.
    """

    wrong: int
    near_border: int
    in_tiny_structures: int
    low_contrast: int
    elsewhere: int


def error_counts(frame: NDArray[np.uint8], mask: NDArray[np.uint8], truth: NDArray[np.uint8]) -> ErrorCounts:
    """Count the wrong pixels of one frame by place.

    Args:
        frame: (H, W, 3) uint8 RGB.
        mask: (H, W) uint8, 0 and 1.
        truth: (H, W) uint8, 0 and 1.
    """
    wrong = mask != truth
    near_border, tiny, low_contrast = _near_border(truth), _in_tiny_structures(truth), _low_contrast(frame)
    return ErrorCounts(
        wrong=int(wrong.sum()),
        near_border=int((wrong & near_border).sum()),
        in_tiny_structures=int((wrong & tiny).sum()),
        low_contrast=int((wrong & low_contrast).sum()),
        elsewhere=int((wrong & ~(near_border | tiny | low_contrast)).sum()),
    )


def total(counts: Iterable[ErrorCounts]) -> ErrorCounts:
    """The counts of several frames together."""
    rows = [astuple(each) for each in counts]
    return ErrorCounts(*(sum(column) for column in zip(*rows, strict=True))) if rows else ErrorCounts(0, 0, 0, 0, 0)


def _near_border(truth: NDArray[np.uint8]) -> NDArray[np.bool_]:
    pixels = border(truth)
    if not pixels.any():  # with nothing to be near to, OpenCV leaves distances undefined
        return np.zeros(truth.shape, np.bool_)
    distance_px = cv2.distanceTransform((~pixels).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    return np.asarray(distance_px <= BOUNDARY_TOLERANCE_PX)


def _in_tiny_structures(truth: NDArray[np.uint8]) -> NDArray[np.bool_]:
    _, labels, table, _ = cv2.connectedComponentsWithStats(truth, connectivity=8)
    tiny = table[:, cv2.CC_STAT_AREA] < TINY_STRUCTURE_PX
    tiny[0] = False  # the background
    return np.asarray(tiny[labels])


def _low_contrast(frame: NDArray[np.uint8]) -> NDArray[np.bool_]:
    light = luma(frame)
    window = (CONTRAST_WINDOW_PX, CONTRAST_WINDOW_PX)
    mean, mean_of_squares = cv2.blur(light, window), cv2.blur(light**2, window)
    return np.asarray(mean_of_squares - mean**2 < LOW_CONTRAST**2)
