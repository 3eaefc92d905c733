"""The networks of the paper's Table II beside its own, built from MONAI. Three channels in, one logit out."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence

import torch
from monai.networks.blocks.aspp import SimpleASPP
from monai.networks.blocks.convolutions import Convolution
from monai.networks.blocks.squeeze_and_excitation import ChannelSELayer
from monai.networks.nets.attentionunet import AttentionBlock, AttentionUnet, ConvBlock, UpConv
from monai.networks.nets.basic_unet import BasicUNet
from torch import Tensor, nn

COLOURS = 3
_ASPP_RATES = 4
_SE_REDUCTION = 8


def unet(widths: Sequence[int], dropout: float) -> nn.Module:
    """MONAI's BasicUNet with batch norm (Falk et al. 2019, after Ronneberger et al. 2015).

    Args:
        widths: of the five levels, from full resolution to the coarsest.
        dropout: share of channels dropped behind each convolution.
    """
    return BasicUNet(
        spatial_dims=2,
        in_channels=COLOURS,
        out_channels=1,
        features=(*widths, widths[0]),
        norm="batch",
        dropout=dropout,
        upsample="deconv",
    )


def attention_unet(widths: Sequence[int], dropout: float) -> nn.Module:
    """MONAI's AttentionUnet (Oktay et al. 2018); arguments as in `unet`."""
    return AttentionUnet(
        spatial_dims=2,
        in_channels=COLOURS,
        out_channels=1,
        channels=widths,
        strides=(2,) * (len(widths) - 1),
        dropout=dropout,
    )


class MultiScaleAttentionUnet(nn.Module):
    """Attention U-Net with squeeze-and-excitation at every level and atrous pyramid pooling at its bottom.

    MONAI has the parts (ConvBlock, ChannelSELayer, SimpleASPP, UpConv, AttentionBlock) and no network of them. Which
    part goes where is ours: the paper's Table II names them only.

    Args:
        widths: of the levels, from full resolution to the coarsest, each a multiple of 8.
        dropout: share of channels dropped behind each convolution.
    """

    def __init__(self, widths: Sequence[int], dropout: float) -> None:
        super().__init__()
        inputs = [COLOURS, *widths[:-1]]
        self.down = nn.ModuleList(
            nn.Sequential(
                ConvBlock(2, before, width, strides=1 if level == 0 else 2, dropout=dropout),
                ChannelSELayer(2, width, r=_SE_REDUCTION),
            )
            for level, (before, width) in enumerate(zip(inputs, widths, strict=True))
        )
        self.pyramid = SimpleASPP(2, widths[-1], widths[-1] // _ASPP_RATES)
        pairs = list(itertools.pairwise(widths))[::-1]
        self.up = nn.ModuleList(UpConv(2, coarse, fine) for fine, coarse in pairs)
        self.gate = nn.ModuleList(AttentionBlock(2, f_int=fine // 2, f_g=fine, f_l=fine) for fine, _ in pairs)
        self.merge = nn.ModuleList(
            nn.Sequential(
                Convolution(2, 2 * fine, fine, act="relu", norm="batch", adn_ordering="NDA", dropout=dropout),
                ChannelSELayer(2, fine, r=_SE_REDUCTION),
            )
            for fine, _ in pairs
        )
        self.head = nn.Conv2d(widths[0], 1, 1)

    def forward(self, colours: Tensor) -> Tensor:
        """Logits (N, 1, H, W) of (N, 3, H, W)."""
        skips: list[Tensor] = []
        for level in self.down:
            colours = level(colours)
            skips.append(colours)
        features: Tensor = self.pyramid(skips.pop())
        for up, gate, merge in zip(self.up, self.gate, self.merge, strict=True):
            features, skip = up(features), skips.pop()
            features = merge(torch.cat((gate(g=features, x=skip), features), dim=1))
        logits: Tensor = self.head(features)
        return logits


NETWORKS: Mapping[str, Callable[[Sequence[int], float], nn.Module]] = {
    "unet": unet,
    "attention-unet": attention_unet,
    "multiscale-attention-unet": MultiScaleAttentionUnet,
}
"""By the name that `model.Architecture.network` has for them."""
