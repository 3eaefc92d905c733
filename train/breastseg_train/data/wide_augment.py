"""Changes as wide as other microscopes, stains and cameras make them; for models that meet frames of any origin."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional

CELL_CROP_SHARE = 0.5
"""Of the crops, centred on a pixel of a cell where the frame has any."""

SCALE = (0.5, 2.0)
GAMMA, GAMMA_SHARE = (0.6, 1.7), 0.4
GAIN, GAIN_SHARE = (0.45, 2.2), 0.5
OFFSET, OFFSET_SHARE = (-0.05, 0.12), 0.3
BLUR_SIGMA_PX, BLUR_SHARE = (0.5, 1.6), 0.2
FULL_SCALE_PHOTONS, SHOT_SHARE = (60.0, 2000.0), 0.2
READ_NOISE, READ_SHARE = (0.004, 0.03), 0.3
ILLUMINATION, ILLUMINATION_SHARE = (0.6, 1.4), 0.2
"""Ranges on a scale of 0 to 1 for black to white, and the share of crops that get each."""

_ILLUMINATION_GRID = 3
_BLUR_RADIUS_SIGMAS = 3


class WideAugmentation:
    """Crop at a random scale, flips and quarter turns; then what optics and camera do: light, blur, noise.

    Light comes first, noise last, as in a microscope; what leaves 0 to 255 is clipped, as a camera does. Grey frames
    stay grey: noise is drawn once for all three colours.

    Args:
        crop_px: side of the square crop.
        inverted_share: of the crops whose light is inverted; only for data whose cells may be darker than what is
            around them.

    Source: ranges of a recipe that was tried on unseen microscopes (docs/LOG.md); shot noise is ours.
    """

    def __init__(self, crop_px: int, inverted_share: float = 0.0) -> None:
        self._crop_px, self._inverted_share = crop_px, inverted_share
        turns = [v2.RandomRotation((angle, angle)) for angle in (90.0, 180.0, 270.0)]
        self._turned = v2.Compose(
            [v2.RandomHorizontalFlip(0.5), v2.RandomVerticalFlip(0.5), v2.RandomApply([v2.RandomChoice(turns)], 0.5)]
        )
        self._light: tuple[tuple[float, Callable[[Tensor], Tensor]], ...] = (
            (inverted_share, lambda light: 1 - light),
            (ILLUMINATION_SHARE, _unevenly_lit),
            (GAMMA_SHARE, lambda light: light ** _log_uniform(*GAMMA)),
            (GAIN_SHARE, lambda light: light * _log_uniform(*GAIN)),
            (OFFSET_SHARE, lambda light: light + _uniform(*OFFSET)),
            (BLUR_SHARE, _blurred),
            (SHOT_SHARE, _with_shot_noise),
            (READ_SHARE, lambda light: light + _log_uniform(*READ_NOISE) * torch.randn_like(light)),
        )

    def __call__(
        self, frame: NDArray[np.uint8], mask: NDArray[np.uint8], seed: int
    ) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """Change a frame (H, W, 3) RGB and its mask (H, W) alike; both come back as (crop_px, crop_px, ...)."""
        grey = bool((frame == frame[..., :1]).all())
        pixels = torch.from_numpy(frame[..., :1] if grey else frame).permute(2, 0, 1)
        with torch.random.fork_rng(devices=[]):  # torchvision draws from the global generator
            torch.manual_seed(seed)
            image, truth = self._cropped(tv_tensors.Image(pixels), tv_tensors.Mask(torch.from_numpy(mask)))
            image, truth = self._turned(image, truth)
            light = image.as_subclass(Tensor).float() / 255
            for share, change in self._light:
                if torch.rand(()) < share:
                    light = change(light).clamp(0, 1)
        changed = (light * 255).round().to(torch.uint8).expand(3, -1, -1)
        return np.ascontiguousarray(changed.permute(1, 2, 0).numpy()), truth.contiguous().numpy()

    def _cropped(self, image: Tensor, truth: Tensor) -> tuple[Tensor, Tensor]:
        """A window whose side is the crop's over the scale, as far as the frame reaches, brought to the crop's size."""
        height, width = truth.shape[-2:]
        side = min(round(self._crop_px / _log_uniform(*SCALE)), height, width)
        pixels = torch.nonzero(truth)
        if len(pixels) and torch.rand(()) < CELL_CROP_SHARE:
            middle = pixels[torch.randint(len(pixels), ())]
            top, left = (
                int((at - side // 2).clamp(0, extent - side))
                for at, extent in zip(middle, (height, width), strict=True)
            )
        else:
            top, left = (int(torch.randint(extent - side + 1, ())) for extent in (height, width))
        size = [self._crop_px, self._crop_px]
        return (
            functional.resized_crop(image, top, left, side, side, size, antialias=True),
            functional.resized_crop(truth, top, left, side, side, size),
        )


def _uniform(low: float, high: float) -> float:
    return low + (high - low) * float(torch.rand(()))


def _log_uniform(low: float, high: float) -> float:
    return math.exp(_uniform(math.log(low), math.log(high)))


def _unevenly_lit(light: Tensor) -> Tensor:
    """Light under a smooth field of random factors."""
    low, high = ILLUMINATION
    grid = low + (high - low) * torch.rand(1, _ILLUMINATION_GRID, _ILLUMINATION_GRID)
    field: Tensor = functional.resize(grid, list(light.shape[-2:]), v2.InterpolationMode.BICUBIC)
    return light * field


def _blurred(light: Tensor) -> Tensor:
    sigma = _uniform(*BLUR_SIGMA_PX)
    side = 2 * math.ceil(_BLUR_RADIUS_SIGMAS * sigma) + 1
    blurred: Tensor = functional.gaussian_blur(light, [side, side], [sigma, sigma])
    return blurred


def _with_shot_noise(light: Tensor) -> Tensor:
    """Each pixel as a count of photons, of which white gives a random number."""
    photons = _log_uniform(*FULL_SCALE_PHOTONS)
    return torch.poisson(light * photons) / photons
