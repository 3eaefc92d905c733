"""How the 4-channel tensor becomes the three channels that a network pretrained on colours takes."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

INPUT_CHANNELS = 4
PROJECTION_WIDTH = 16


class Projection(nn.Sequential):
    """Conv3x3(4 -> 16) - BN - ReLU - Conv1x1(16 -> 3), paper eq. (2), started as the identity on the colour channels.

    ReLU would cut the negative half of the normalised colours, so each colour enters once as x and once as -x:
    relu(x) - relu(-x) = x. The other hidden channels start at random and unused; training decides what they carry.

    Args:
        channels: 4, or 3 to leave the edge channel out.
    """

    def __init__(self, channels: int = INPUT_CHANNELS) -> None:
        spread = nn.Conv2d(channels, PROJECTION_WIDTH, 3, padding=1, bias=False)
        merge = nn.Conv2d(PROJECTION_WIDTH, 3, 1)
        with torch.no_grad():
            merge.weight.zero_()
            merge.bias.zero_() if merge.bias is not None else None
            for colour in range(3):
                for sign, hidden in ((1.0, 2 * colour), (-1.0, 2 * colour + 1)):
                    spread.weight[hidden] = 0
                    spread.weight[hidden, colour, 1, 1] = sign
                    merge.weight[colour, hidden, 0, 0] = sign
        super().__init__(spread, nn.BatchNorm2d(PROJECTION_WIDTH), nn.ReLU(inplace=True), merge)


class ChosenChannels(nn.Module):
    """Some of the four channels as they are: nothing is learnt. (N, 4, H, W) to (N, len(channels), H, W)."""

    def __init__(self, channels: tuple[int, ...]) -> None:
        super().__init__()
        self._channels = list(channels)

    def forward(self, tensor: Tensor) -> Tensor:
        """The chosen channels, in the order they were named."""
        return tensor[:, self._channels]


FRONTS: Mapping[str, Callable[[], nn.Module]] = {
    "projection": Projection,
    "projection-without-edge": lambda: nn.Sequential(ChosenChannels((0, 1, 2)), Projection(3)),
    "channel-drop": lambda: ChosenChannels((0, 1, 3)),
    "colours": lambda: ChosenChannels((0, 1, 2)),
}
"""The paper's projection, and what it is measured against: the same without the edge channel; the edge channel in the
place of blue, which has the least weight in luma (the paper's "naive channel dropping" names no channel); the colours
alone."""
