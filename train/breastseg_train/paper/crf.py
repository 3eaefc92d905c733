"""Conditional random field over a probability map: neighbours of like brightness are drawn to one label.

A fully connected field (Krähenbühl & Koltun 2011) whose pairwise terms end at 5 px, as in convolutional CRFs (Teichmann
& Cipolla 2018): what lies further off has little weight in frames of cells. MONAI's CRF needs an extension compiled
from source, which its wheels leave out.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from breastseg_deploy.preprocess.gabor import luma
from breastseg_train.evaluate.evaluation import Predictor

RADIUS_PX = 5
SPATIAL_SIGMA_PX = 3.0
BRIGHTNESS_SIGMA = 0.05
"""In luma from 0 to 1."""
SMOOTHNESS_WEIGHT, APPEARANCE_WEIGHT = 1.0, 2.0
ITERATIONS = 5
_CERTAIN = 1e-6


def sharpened(predict: Predictor) -> Predictor:
    """A predictor whose probabilities have been through the field; see `mean_field`."""

    def predict_sharpened(frames: NDArray[np.uint8]) -> NDArray[np.float32]:
        pairs = zip(frames, predict(frames), strict=True)
        return np.stack([mean_field(frame, probability) for frame, probability in pairs])

    return predict_sharpened


def mean_field(frame: NDArray[np.uint8], probability: NDArray[np.float32]) -> NDArray[np.float32]:
    """Five mean-field updates of a binary Potts field with a spatial and a bilateral term.

    Args:
        frame: (H, W, 3) uint8 RGB; its luma guides the bilateral term.
        probability: (H, W) float32, the unary term.

    Returns:
        (H, W) float32.

    The messages are means over the window's pixels inside the frame, so that the weights do not depend on the window.
    """
    brightness = luma(frame).astype(np.float32)
    unary = np.log(np.clip(probability, _CERTAIN, 1 - _CERTAIN)) - np.log(np.clip(1 - probability, _CERTAIN, 1))
    belief = probability
    for _ in range(ITERATIONS):
        smoothness, appearance = _messages(belief - 0.5, brightness)
        field = unary + 2 * (SMOOTHNESS_WEIGHT * smoothness + APPEARANCE_WEIGHT * appearance)
        belief = (0.5 * (1 + np.tanh(0.5 * field))).astype(np.float32)  # the sigmoid, without overflow
    return belief


def _messages(
    belief: NDArray[np.float32], brightness: NDArray[np.float32]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Weighted means of the neighbours' belief: by distance, and by distance and brightness."""
    height, width = belief.shape
    padding = RADIUS_PX
    around = np.pad(belief, padding)
    light = np.pad(brightness, padding, constant_values=np.inf)  # outside the frame, every weight is 0
    inside = np.pad(np.ones_like(belief), padding)
    sums = np.zeros((4, height, width), np.float32)
    for row in range(-padding, padding + 1):
        for column in range(-padding, padding + 1):
            if row == column == 0:
                continue
            near = np.exp(-(row**2 + column**2) / (2 * SPATIAL_SIGMA_PX**2), dtype=np.float32)
            window = (slice(padding + row, padding + row + height), slice(padding + column, padding + column + width))
            alike = near * np.exp(-((light[window] - brightness) ** 2) / np.float32(2 * BRIGHTNESS_SIGMA**2))
            sums += (near * around[window], near * inside[window], alike * around[window], alike)
    return sums[0] / sums[1], sums[2] / np.maximum(sums[3], np.float32(_CERTAIN))
