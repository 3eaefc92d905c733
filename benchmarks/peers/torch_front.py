"""The preprocessing as a user of PyTorch would write it: the edge channel is one convolution with the whole bank."""

from __future__ import annotations

import torch
from torch.nn.functional import conv2d, pad

from breastseg_deploy.contract import IMAGENET_MEAN, IMAGENET_STD
from breastseg_deploy.preprocess.gabor import LUMA_BT601, RADIUS_PX, GaborParameters, gabor_bank


class TorchFront(torch.nn.Module):
    """Frames (N, H, W, 3) uint8 to the network's tensor (N, 4, H, W) float32, on the device that it was moved to.

    A convolution on a GPU is as exact as PyTorch makes it by itself: with TF32, about as a float16 input is.
    """

    def __init__(self, parameters: GaborParameters) -> None:
        super().__init__()
        bank = torch.from_numpy(gabor_bank(parameters)).float()[:, None]
        for name, values in {
            "bank": bank,
            "luma": torch.tensor(LUMA_BT601),
            "mean": torch.tensor(IMAGENET_MEAN),
            "std": torch.tensor(IMAGENET_STD),
        }.items():
            self.register_buffer(name, values)

    def forward(self, frames: torch.Tensor) -> torch.Tensor:
        rgb = frames.float() / 255
        luma = pad((rgb @ self.luma)[:, None], (RADIUS_PX,) * 4, mode="reflect")
        edge = conv2d(luma, self.bank).amax(dim=1, keepdim=True)
        return torch.cat([((rgb - self.mean) / self.std).permute(0, 3, 1, 2), edge], dim=1)
