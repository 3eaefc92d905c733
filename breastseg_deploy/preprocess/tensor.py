"""Preprocessing on the CPU: from 8-bit RGB frames to the network's normalised 4-channel tensor.

This is the reference that GPU kernels and graphs reproduce, and what training itself uses, so that the two cannot
differ.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from breastseg_deploy.contract import IMAGENET_MEAN, IMAGENET_STD
from breastseg_deploy.preprocess.fft import edge_channel
from breastseg_deploy.preprocess.gabor import GaborParameters


def network_input(
    rgb: NDArray[np.uint8], parameters: GaborParameters | None = None, threads: int = 1
) -> NDArray[np.float32]:
    """RGB normalised by ImageNet mean and standard deviation, then the edge channel as it is.

    Args:
        rgb: (N, H, W, 3) uint8, H and W >= 32.
        parameters: of the Gabor bank; the paper's by default.
        threads: passed to `fft.edge_channel`.

    Returns:
        (N, 4, H, W) float32, C-contiguous.

    Raises:
        ArgumentError: H or W below 32.
    """
    count, height, width, _ = rgb.shape
    tensor = np.empty((count, 4, height, width), np.float32)
    scale = 1 / (255 * np.array(IMAGENET_STD, np.float32))
    shift = np.array(IMAGENET_MEAN, np.float32) / np.array(IMAGENET_STD, np.float32)
    for frame, planes in zip(rgb, tensor, strict=True):
        for channel in range(3):
            np.multiply(frame[:, :, channel], scale[channel], out=planes[channel])
            planes[channel] -= shift[channel]
        planes[3] = edge_channel(frame, parameters, threads)
    return tensor
