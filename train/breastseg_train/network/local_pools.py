"""Channel attention that pools over a window around each pixel, so that a tile's answer does not depend on its grid.

Source: test-time local converter, arXiv 2112.04491; here the windows are there in training too, and their means are
taken on a coarse grid, which costs one pooling and one resize.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.nn import functional

from breastseg_deploy.contract import SIDE_MULTIPLE_PX
from breastseg_deploy.errors import ArgumentError

CELL_PX = SIDE_MULTIPLE_PX
"""Side of a grid cell in pixels of the frame. Tiles start at multiples of it, so all of them see the same grid."""


class LocalSCSE(nn.Module):
    """SCSE whose channel attention pools over windows: (N, C, n g, m g) to the same shape.

    A window lies around each corner of a grid of cells, clipped at the borders; between corners the attention is
    interpolated. A window over everything gives what smp's SCSE gives.

    Args:
        scse: segmentation-models-pytorch's SCSE module, whose layers and their names it takes over.
        cell: side g of a grid cell in positions of the input, even.
        cells: side of the window in cells, even, so that a corner lies in its middle.
    """

    def __init__(self, scse: Any, cell: int, cells: int) -> None:
        super().__init__()
        self.cSE, self.sSE = scse.cSE, scse.sSE
        self.cSE[0] = nn.Identity()  # its pool; the other layers keep their numbers
        self.cell, self.cells = cell, cells

    def forward(self, features: Tensor) -> Tensor:
        """Features weighed by the sum of both attentions."""
        means = functional.avg_pool2d(features, self.cell)  # each pixel is read once, whatever the window
        corners = functional.avg_pool2d(means, self.cells, 1, self.cells // 2, count_include_pad=False)
        wide = functional.interpolate(self.cSE(corners), scale_factor=self.cell, mode="bilinear")
        half = self.cell // 2  # the resize puts half a cell outside the outer corners
        attention = wide[..., half:-half, half:-half] + self.sSE(features)
        weighed: Tensor = features * attention
        return weighed


def pool_locally(decoder: Any, window_px: int) -> None:
    """Let the channel attention of an SCSE decoder of UNet++ pool over windows; its tensors and their names stay.

    Args:
        decoder: of segmentation-models-pytorch's UnetPlusPlus.
        window_px: side of the window in pixels of the frame.

    Raises:
        ArgumentError: a window that is no positive multiple of 64 px.
    """
    if window_px < 1 or window_px % (2 * CELL_PX):
        raise ArgumentError(f"pool_window_px must be a positive multiple of {2 * CELL_PX}, got {window_px}")
    for name, block in decoder.blocks.items():
        stride = 2 ** (decoder.depth - int(name.rpartition("_")[2]))  # x_0_4 is at the frame's scale
        for attention in (block.attention1, block.attention2):
            attention.attention = LocalSCSE(attention.attention, CELL_PX // stride, window_px // CELL_PX)
