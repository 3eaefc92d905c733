"""Phantom frames: synthetic fluorescence microscopy with exactly known masks.

A phantom is a test object in the sense of imaging quality assurance: it shows that a path from frame to mask works and
keeps working. It is no tissue, and a figure measured on it says nothing about patients.

Nuclei lie in rings (cut acini) and clusters on a dark, unevenly lit background; the optics blur them and the camera
adds shot noise. As in the paper's data set (Table I), 60 % of the frames hold no cells.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_WITH_CELLS_OF_FIVE = (0, 2)
"""Which of five consecutive frames hold cells: 40 %."""

_BLUR_SIGMA_PX = 1.2
_PHOTONS_AT_WHITE = 900.0
"""Photons that make a pixel white; the shot noise at brightness b is sqrt(b / 900) of white."""
_READ_NOISE = 0.004
"""Standard deviation of the camera's own noise, as a share of white."""


@dataclass(frozen=True)
class PhantomFrame:
    """One phantom.

    Attributes:
        name: stable name, e.g. "phantom-0003".
        frame: (H, W) uint8 grey.
        mask: (H, W) uint8, 1 where a pixel's centre lies inside a nucleus.
    """

    name: str
    frame: NDArray[np.uint8]
    mask: NDArray[np.uint8]


def phantom_frame(index: int, size_px: tuple[int, int] = (512, 512)) -> PhantomFrame:
    """The phantom with the given number; the same number and size always give the same pixels.

    Args:
        index: >= 0. Of each five consecutive numbers, two have cells.
        size_px: (H, W).
    """
    rng = np.random.default_rng([20_240_501, index, *size_px])
    light, mask = _background(rng, size_px), np.zeros(size_px, np.uint8)
    while index % 5 in _WITH_CELLS_OF_FIVE and not mask.any():  # all nuclei can miss a very small frame
        for centre_yx, radii_px, turn_rad in _nuclei(rng, size_px):
            _draw_nucleus(rng, light, mask, centre_yx, radii_px, turn_rad)
    light = _blurred(light, _BLUR_SIGMA_PX)
    seen = rng.poisson(light * _PHOTONS_AT_WHITE) / _PHOTONS_AT_WHITE + rng.normal(0, _READ_NOISE, size_px)
    return PhantomFrame(f"phantom-{index:04d}", np.rint(255 * np.clip(seen, 0, 1)).astype(np.uint8), mask)


def phantom_frames(count: int, size_px: tuple[int, int] = (512, 512)) -> list[PhantomFrame]:
    """The phantoms 0 to count - 1."""
    return [phantom_frame(index, size_px) for index in range(count)]


def _background(rng: np.random.Generator, size_px: tuple[int, int]) -> NDArray[np.float64]:
    """Dark field with uneven light and out-of-focus haze; brightness in shares of white."""
    y, x = np.mgrid[: size_px[0], : size_px[1]] / max(size_px)
    light = 0.015 + 0.01 * rng.random() + 0.01 * (rng.random() * x + rng.random() * y)
    for _ in range(rng.integers(0, 3)):
        centre_y, centre_x, spread = rng.random(), rng.random(), rng.uniform(0.15, 0.35)
        distance2 = (y - centre_y) ** 2 + (x - centre_x) ** 2
        light += rng.uniform(0.005, 0.02) * np.exp(-distance2 / (2 * spread**2))
    return np.asarray(light)


def _nuclei(
    rng: np.random.Generator, size_px: tuple[int, int]
) -> list[tuple[NDArray[np.float64], NDArray[np.float64], float]]:
    """Centres, half-axes and turns of the nuclei of one frame: one to three rings and one or two clusters."""
    size, nuclei = np.array(size_px, float), []
    for _ in range(rng.integers(1, 4)):
        centre, ring_px = rng.uniform(0.15, 0.85, 2) * size, rng.uniform(35, 75)
        count = int(2 * np.pi * ring_px / rng.uniform(24, 34))
        for angle in np.arange(count) * 2 * np.pi / count + rng.random():
            place = centre + (ring_px + rng.normal(0, 2.5)) * np.array([np.sin(angle), np.cos(angle)])
            nuclei.append((place, _half_axes(rng), angle + rng.normal(0, 0.3)))
    for _ in range(rng.integers(1, 3)):
        centre = rng.uniform(0.1, 0.9, 2) * size
        for _ in range(rng.integers(4, 12)):
            nuclei.append((centre + rng.normal(0, 32, 2), _half_axes(rng), rng.uniform(0, np.pi)))
    return nuclei


def _half_axes(rng: np.random.Generator) -> NDArray[np.float64]:
    return np.array([rng.uniform(8, 13), rng.uniform(6, 10)])


def _draw_nucleus(
    rng: np.random.Generator,
    light: NDArray[np.float64],
    mask: NDArray[np.uint8],
    centre_yx: NDArray[np.float64],
    radii_px: NDArray[np.float64],
    turn_rad: float,
) -> None:
    """Add one elliptical nucleus, brighter in its middle and mottled by chromatin, to `light` and `mask`."""
    reach = int(np.ceil(radii_px.max()))
    corner = np.maximum(np.floor(centre_yx).astype(int) - reach, 0)
    box = tuple(slice(start, max(int(at) + reach + 2, start)) for start, at in zip(corner, centre_yx, strict=True))
    light, mask = light[box], mask[box]
    y, x = np.indices(mask.shape) + corner[:, np.newaxis, np.newaxis] - centre_yx[:, np.newaxis, np.newaxis]
    along, across = y * np.sin(turn_rad) + x * np.cos(turn_rad), y * np.cos(turn_rad) - x * np.sin(turn_rad)
    radius2 = (along / radii_px[0]) ** 2 + (across / radii_px[1]) ** 2
    inside = radius2 <= 1
    brightness = rng.uniform(0.25, 0.7)
    chromatin = 1 + 0.12 * np.sin(along / rng.uniform(1.5, 3)) * np.cos(across / rng.uniform(1.5, 3))
    light[inside] = np.maximum(light[inside], (brightness * (1 - 0.35 * radius2) * chromatin)[inside])
    mask[inside] = 1


def _blurred(light: NDArray[np.float64], sigma_px: float) -> NDArray[np.float64]:
    """Gaussian blur with mirrored borders."""
    reach = int(np.ceil(4 * sigma_px))
    weights = np.exp(-(np.arange(-reach, reach + 1) ** 2) / (2 * sigma_px**2))
    weights /= weights.sum()
    for axis in (0, 1):
        padded = np.pad(light, [(reach, reach) if a == axis else (0, 0) for a in (0, 1)], mode="reflect")
        light = np.lib.stride_tricks.sliding_window_view(padded, len(weights), axis=axis) @ weights
    return light
