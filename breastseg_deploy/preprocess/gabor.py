"""The Gabor bank of the paper's edge channel, and the edge channel itself in its reference form.

Everything here is NumPy in float64 and written to be read beside eq. (4) of the paper. `preprocess.fft` computes the
same channel in float32 and fast; `breastseg_export.preprocessing` and `gpu/edge.cu` put it into a graph on a GPU.
All of them are held to `edge_channel_reference`.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from breastseg_deploy.errors import ArgumentError

KERNEL_PX = 31
RADIUS_PX = KERNEL_PX // 2
MIN_SIDE_PX = 32
"""Shortest side of a frame. Reflect-101 needs RADIUS_PX + 1 pixels; the network's five halvings need 32."""

MOST_ORIENTATIONS = 180
"""One a degree. A damaged manifest could ask for a bank that fills the memory."""

LUMA_BT601 = (0.299, 0.587, 0.114)
"""Weights of R, G, B in the luma of ITU-R BT.601."""


@dataclass(frozen=True)
class GaborParameters:
    """Parameters of the bank; the defaults are the paper's (section III D), kernel size and scale are ours.

    Attributes:
        wavelengths_px: periods of the cosine in pixels of the model grid, each > 2 (Nyquist).
        orientations: 1 to `MOST_ORIENTATIONS` of them; filter k is turned by k * 180 / orientations degrees.
        sigma_px: standard deviation of the envelope across the stripes, in pixels.
        gamma: aspect ratio of the envelope; along the stripes it is sigma_px / gamma.
        psi_rad: phase of the cosine.
        zero_mean: subtract each kernel's mean, so that it does not answer to flat brightness. Off in the paper.

    Raises:
        ArgumentError: a parameter outside its range.
    """

    wavelengths_px: tuple[float, ...] = (4.0, 10.0, 20.0)
    orientations: int = 8
    sigma_px: float = 5.0
    gamma: float = 0.5
    psi_rad: float = 0.0
    zero_mean: bool = False

    def __post_init__(self) -> None:
        numbers = (*self.wavelengths_px, self.sigma_px, self.gamma, self.psi_rad)
        if not all(map(math.isfinite, numbers)):
            raise ArgumentError(f"Gabor parameters must be finite, got {self}; the defaults are the paper's")
        if not self.wavelengths_px or any(not w > 2 for w in self.wavelengths_px):
            raise ArgumentError(f"each Gabor wavelength must be over 2 px (Nyquist), got {self.wavelengths_px}")
        if not 1 <= self.orientations <= MOST_ORIENTATIONS:
            raise ArgumentError(
                f"a Gabor bank needs 1 to {MOST_ORIENTATIONS} orientations, got {self.orientations}; the paper has 8"
            )
        if not (self.sigma_px > 0 and self.gamma > 0):
            raise ArgumentError(
                f"sigma_px and gamma must be positive, got {self.sigma_px} and {self.gamma}; the paper's are 5 and 0.5"
            )


def gabor_bank(parameters: GaborParameters | None = None) -> NDArray[np.float64]:
    """The Gabor kernels of eq. (4), scaled so that a response to luma in [0, 1] lies in [-1, 1].

    Returns:
        (K, 31, 31) float64, K = wavelengths x orientations, wavelength by wavelength; the absolute values of each
        kernel sum to 1. Row index is y, column index is x, both from -15 to 15.

    Source: the paper, eq. (4); kernel size and scale are ours (docs/decisions/training.md).
    """
    p = parameters or GaborParameters()
    y, x = np.mgrid[-RADIUS_PX : RADIUS_PX + 1, -RADIUS_PX : RADIUS_PX + 1].astype(np.float64)
    kernels = []
    for wavelength in p.wavelengths_px:
        for k in range(p.orientations):
            theta = np.pi * k / p.orientations
            x_turned = x * np.cos(theta) + y * np.sin(theta)
            y_turned = -x * np.sin(theta) + y * np.cos(theta)
            envelope = np.exp(-(x_turned**2 + (p.gamma * y_turned) ** 2) / (2 * p.sigma_px**2))
            kernel = envelope * np.cos(2 * np.pi * x_turned / wavelength + p.psi_rad)
            if p.zero_mean:
                kernel -= kernel.mean()
            kernels.append(kernel / np.abs(kernel).sum())
    return np.stack(kernels)


def bank_sha256(parameters: GaborParameters | None = None) -> str:
    """Hash of the bank rounded to 1e-9, so that it is the same on every machine.

    The rounding is far coarser than the last-bit differences of exp and cos between C libraries, and far finer than
    any tolerance in this project.
    """
    rounded = np.rint(gabor_bank(parameters) * 1e9).astype("<i8")
    return hashlib.sha256(rounded.tobytes()).hexdigest()


def luma(rgb: NDArray[np.uint8]) -> NDArray[np.float64]:
    """BT.601 luma in [0, 1] of (..., H, W, 3) uint8 RGB; (..., H, W) float64."""
    return np.asarray(rgb.astype(np.float64) @ np.array(LUMA_BT601) / 255.0)


def edge_channel_reference(rgb: NDArray[np.uint8], parameters: GaborParameters | None = None) -> NDArray[np.float64]:
    """The edge channel, directly: correlate the luma with each kernel, keep the largest response of each pixel.

    Args:
        rgb: (H, W, 3) uint8, H and W >= 32.

    Returns:
        (H, W) float64 in [-1, 1]. Borders are reflect-101 (OpenCV's BORDER_DEFAULT).

    Raises:
        ArgumentError: H or W below 32.

    Source: the paper, section III D. Slow (about 2 s for 512 x 512) and plain on purpose: it is the truth that
    every faster implementation is measured against.
    """
    check_side(rgb.shape[0], rgb.shape[1])
    padded = np.pad(luma(rgb), RADIUS_PX, mode="reflect")
    height, width = rgb.shape[:2]
    edge = np.full((height, width), -np.inf)
    for kernel in gabor_bank(parameters):
        response = np.zeros((height, width))
        for row in range(KERNEL_PX):
            for column in range(KERNEL_PX):
                response += kernel[row, column] * padded[row : row + height, column : column + width]
        np.maximum(edge, response, out=edge)
    return edge


def check_side(height: int, width: int) -> None:
    """Refuse frames too small for the bank's reflected border.

    Raises:
        ArgumentError: a side below 32 px.
    """
    if min(height, width) < MIN_SIDE_PX:
        raise ArgumentError(
            f"a frame must be at least {MIN_SIDE_PX} x {MIN_SIDE_PX} px, got {height} x {width}; do not pad it by hand"
        )
