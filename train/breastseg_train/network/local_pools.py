"""Channel attention that pools over a window around each pixel, so that a tile's answer does not depend on its grid.

Source: test-time local converter, arXiv 2112.04491; here the windows may be there in training too, and their means are
taken on a coarse grid, which costs one pooling and one resize.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from segmentation_models_pytorch.encoders._efficientnet import MBConvBlock
from segmentation_models_pytorch.encoders._senet import SEModule as SmpSEModule
from timm.layers.squeeze_excite import EffectiveSEModule, SEModule
from timm.models._efficientnet_blocks import SqueezeExcite
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
        corners = _corner_means(features, self.cell, self.cells)
        attention = _between_corners(self.cSE(corners), self.cell) + self.sSE(features)
        weighed: Tensor = features * attention
        return weighed


class LocalSqueeze(nn.Module):
    """Squeeze-and-excitation that pools over windows: (N, C, n g, m g) to the same shape, as `LocalSCSE`.

    Args:
        gate: from means (N, C, h, w) to factors of the same shape, pixel by pixel.
        cell: side g of a grid cell in positions of the input: even, or 1.
        cells: side of the window in cells, even.
    """

    def __init__(self, gate: nn.Module, cell: int, cells: int) -> None:
        super().__init__()
        self.gate = gate
        self.cell, self.cells = cell, cells

    def forward(self, features: Tensor) -> Tensor:
        """Features times their factors."""
        factors = _between_corners(self.gate(_corner_means(features, self.cell, self.cells)), self.cell)
        weighed: Tensor = features * factors
        return weighed


def _corner_means(features: Tensor, cell: int, cells: int) -> Tensor:
    """Means over the window around each corner of the grid; (N, C, n + 1, m + 1)."""
    means = functional.avg_pool2d(features, cell)  # each pixel is read once, whatever the window
    return functional.avg_pool2d(means, cells, 1, cells // 2, count_include_pad=False)


def _between_corners(corners: Tensor, cell: int) -> Tensor:
    """Values (N, C, n + 1, m + 1) at corners, interpolated for every position between them; (N, C, n g, m g)."""
    if cell == 1:  # a position lies in the middle of its four corners
        return functional.avg_pool2d(corners, 2, 1)
    wide = functional.interpolate(corners, scale_factor=cell, mode="bilinear")
    half = cell // 2  # the resize puts half a cell outside the outer corners
    return wide[..., half:-half, half:-half]


def pool_locally(decoder: Any, window_px: int) -> int:
    """Let the channel attention of an SCSE decoder of UNet++ pool over windows; its tensors and their names stay.

    Args:
        decoder: of segmentation-models-pytorch's UnetPlusPlus.
        window_px: side of the window in pixels of the frame.

    Returns:
        How many pools were replaced.

    Raises:
        ArgumentError: a window that is no positive multiple of 64 px.
    """
    check_window(window_px)
    for name, block in decoder.blocks.items():
        stride = 2 ** (decoder.depth - int(name.rpartition("_")[2]))  # x_0_4 is at the frame's scale
        for attention in (block.attention1, block.attention2):
            attention.attention = LocalSCSE(attention.attention, CELL_PX // stride, window_px // CELL_PX)
    return 2 * len(decoder.blocks)


def check_window(window_px: int) -> None:
    """Refuse a window that no grid carries.

    Raises:
        ArgumentError: it is no positive multiple of 64 px.
    """
    if window_px < 1 or window_px % (2 * CELL_PX):
        raise ArgumentError(f"pool_window_px must be a positive multiple of {2 * CELL_PX}, got {window_px}")


def squeeze_locally(encoder: nn.Module, window_px: int) -> int:
    """Let an encoder's squeeze-and-excitation pool over windows. Its weights stay; their names do not.

    Args:
        encoder: of segmentation-models-pytorch, in evaluation mode.
        window_px: side of the window in pixels of the frame.

    Returns:
        How many modules were replaced.

    Raises:
        ArgumentError: a window that is no positive multiple of 64 px.
    """
    check_window(window_px)
    cells = window_px // CELL_PX
    strides = _squeeze_strides(encoder)
    for name, stride in strides.items():
        parent, _, own = name.rpartition(".")
        module = encoder.get_submodule(name)
        if isinstance(module, MBConvBlock):
            # Its squeeze is no module: it stands before the projection, and so does what takes its place.
            squeeze = LocalSqueeze(_gate_of_mbconv(module), CELL_PX // stride, cells)
            module._has_se = False
            module._project_conv = nn.Sequential(squeeze, module._project_conv)
        else:
            setattr(encoder.get_submodule(parent), own, LocalSqueeze(_gate(module), CELL_PX // stride, cells))
    return len(strides)


def _squeeze_strides(encoder: nn.Module) -> dict[str, int]:
    """Where the encoder squeezes, by name: pixels of the frame per position of what is squeezed."""
    strides: dict[str, int] = {}

    def watch(name: str) -> Callable[..., None]:
        def note(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            strides[name] = side // int(output.shape[-1])

        return note

    side = 2 * CELL_PX
    handles = [
        module.register_forward_hook(watch(name)) for name, module in encoder.named_modules() if _squeezes(module)
    ]
    try:
        with torch.inference_mode():
            encoder(torch.zeros(1, 3, side, side, device=next(encoder.parameters()).device))
    finally:
        for handle in handles:
            handle.remove()
    return strides


def _squeezes(module: nn.Module) -> bool:
    return bool(module._has_se) if isinstance(module, MBConvBlock) else type(module) in _GATES


def _gate(module: nn.Module) -> nn.Module:
    return nn.Sequential(*(getattr(module, part) for part in _GATES[type(module)]))


def _gate_of_mbconv(block: Any) -> nn.Module:
    return nn.Sequential(block._se_reduce, block._swish, block._se_expand, nn.Sigmoid())


_GATES: Mapping[type[nn.Module], tuple[str, ...]] = {
    SqueezeExcite: ("conv_reduce", "act1", "conv_expand", "gate"),
    SEModule: ("fc1", "bn", "act", "fc2", "gate"),
    EffectiveSEModule: ("fc", "gate"),
    SmpSEModule: ("fc1", "relu", "fc2", "sigmoid"),
}
"""The parts of each kind of squeeze-and-excitation between its pool and its product, in order."""
