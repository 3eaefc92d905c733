"""Random changes of a training frame and its mask, paper section III H. The edge channel is computed after them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2

ELASTIC_ALPHA_PX = 120.0
ELASTIC_SIGMA_PX = 9.0
CELL_PATCH_SHARE = 0.5
"""Of the crops that patch sampling centres on a cell."""

Augment = Callable[[NDArray[np.uint8], NDArray[np.uint8], int], tuple[NDArray[np.uint8], NDArray[np.uint8]]]
"""Changes a frame (H, W, 3) and its mask (H, W) alike into square crops; the same for the same seed."""


class Augmentation:
    """Crop, flips, quarter turns, elastic deformation, brightness and contrast; the same draw for the same seed.

    Args:
        crop_px: side of the square crop, at most the frame's sides.
        brightness_contrast: relative range of both.
        patch_sampling: centre half of the crops, as near as the frame's borders allow, on a pixel of a cell.

    Source: the paper, section III H: flips p = 0.5, quarter turns p = 0.5, elastic alpha = 120, sigma = 9, p = 0.3,
    brightness and contrast p = 0.5. Patch sampling is named in Table II; that it takes half of the crops is ours.
    """

    def __init__(self, crop_px: int, brightness_contrast: float, *, patch_sampling: bool = False) -> None:
        self._crop_px, self._patch_sampling = crop_px, patch_sampling
        turns = [v2.RandomRotation((angle, angle)) for angle in (90.0, 180.0, 270.0)]
        # torchvision measures displacements in half frames and so moves pixels by alpha / 2: twice the paper's alpha.
        elastic = v2.ElasticTransform(alpha=2 * ELASTIC_ALPHA_PX, sigma=ELASTIC_SIGMA_PX)
        self._transform = v2.Compose(
            [
                v2.RandomCrop(crop_px),
                v2.RandomHorizontalFlip(0.5),
                v2.RandomVerticalFlip(0.5),
                v2.RandomApply([v2.RandomChoice(turns)], 0.5),
                v2.RandomApply([elastic], 0.3),
                v2.RandomApply([v2.ColorJitter(brightness_contrast, brightness_contrast)], 0.5),
            ]
        )

    def __call__(
        self, frame: NDArray[np.uint8], mask: NDArray[np.uint8], seed: int
    ) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """Change a frame (H, W, 3) RGB and its mask (H, W) alike; both come back as (crop_px, crop_px, ...)."""
        image = tv_tensors.Image(torch.from_numpy(frame).permute(2, 0, 1))
        with torch.random.fork_rng(devices=[]):  # torchvision draws from the global generator
            torch.manual_seed(seed)
            truth = tv_tensors.Mask(torch.from_numpy(mask))
            if self._patch_sampling and mask.any() and torch.rand(()) < CELL_PATCH_SHARE:
                image, truth = self._around_a_cell(image, truth)
            image, truth = self._transform(image, truth)
        return np.ascontiguousarray(image.permute(1, 2, 0).numpy()), truth.numpy()

    def _around_a_cell(self, image: Tensor, truth: Tensor) -> tuple[Tensor, Tensor]:
        """The crop whose centre lies nearest to a random pixel of a cell."""
        pixels = torch.nonzero(truth)
        centre = pixels[torch.randint(len(pixels), ())]
        top, left = (
            int((position - self._crop_px // 2).clamp(0, side - self._crop_px))
            for position, side in zip(centre, truth.shape[-2:], strict=True)
        )
        window = (top, left, self._crop_px, self._crop_px)
        return v2.functional.crop(image, *window), v2.functional.crop(truth, *window)
