"""The preprocessing as the paper's authors would write it: 24 x `cv2.filter2D` and a maximum."""

from __future__ import annotations

from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

from breastseg_deploy.contract import IMAGENET_MEAN, IMAGENET_STD
from breastseg_deploy.preprocess.gabor import LUMA_BT601, GaborParameters, gabor_bank


def filter2d_edge(rgb: NDArray[np.uint8], parameters: GaborParameters) -> NDArray[np.float32]:
    """The edge channel (H, W) of a frame (H, W, 3)."""
    luma = rgb.astype(np.float32) @ np.array(LUMA_BT601, np.float32) / 255
    responses = [cv2.filter2D(luma, -1, kernel) for kernel in _bank(parameters)]
    return np.asarray(np.max(responses, axis=0), np.float32)


def opencv_tensor(rgb: NDArray[np.uint8], parameters: GaborParameters) -> NDArray[np.float32]:
    """The network's tensor (N, 4, H, W) of frames (N, H, W, 3)."""
    mean, std = np.array(IMAGENET_MEAN, np.float32), np.array(IMAGENET_STD, np.float32)
    tensors = []
    for frame in rgb:
        colours = (frame / np.float32(255) - mean) / std
        tensors.append(np.dstack([colours, filter2d_edge(frame, parameters)]).transpose(2, 0, 1))
    return np.ascontiguousarray(tensors, np.float32)


@lru_cache(maxsize=4)
def _bank(parameters: GaborParameters) -> NDArray[np.float32]:
    return gabor_bank(parameters).astype(np.float32)
