"""Preprocessing as a torch module, so that it becomes part of the exported graph."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from breastseg_deploy.contract import IMAGENET_MEAN, IMAGENET_STD
from breastseg_deploy.preprocess.gabor import LUMA_BT601, RADIUS_PX, GaborParameters, gabor_bank


class EdgeChannel(nn.Module):
    """The Gabor bank as one convolution: luma, 24 filters, maximum, reflect-101 borders; see `preprocess.gabor`.

    Input (N, 3, H, W) float RGB in [0, 255]; output (N, 1, H, W) in [-1, 1].
    """

    bank: Tensor
    weights: Tensor

    def __init__(self, parameters: GaborParameters) -> None:
        super().__init__()
        self.register_buffer("bank", torch.from_numpy(gabor_bank(parameters)).float().unsqueeze(1))
        self.register_buffer("weights", torch.tensor(LUMA_BT601).view(1, 3, 1, 1) / 255)

    def forward(self, rgb: Tensor) -> Tensor:
        """The edge channel of (N, 3, H, W) RGB."""
        luma = functional.conv2d(rgb, self.weights)
        padded = functional.pad(luma, (RADIUS_PX,) * 4, mode="reflect")
        return functional.conv2d(padded, self.bank).amax(dim=1, keepdim=True)


class Preprocessing(nn.Module):
    """uint8 NHWC RGB frames to the network's tensor, the same as `breastseg_deploy.preprocess.tensor.network_input`.

    Input (N, H, W, 3) uint8; output (N, 4, H, W) float32.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, parameters: GaborParameters) -> None:
        super().__init__()
        self.edge = EdgeChannel(parameters)
        self.register_buffer("mean", 255 * torch.tensor(IMAGENET_MEAN).view(1, 3, 1, 1))
        self.register_buffer("std", 255 * torch.tensor(IMAGENET_STD).view(1, 3, 1, 1))

    def forward(self, frames: Tensor) -> Tensor:
        """The 4-channel tensor of (N, H, W, 3) uint8 frames."""
        rgb = frames.permute(0, 3, 1, 2).float()
        return torch.cat([(rgb - self.mean) / self.std, self.edge(rgb)], dim=1)
