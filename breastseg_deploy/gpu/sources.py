"""CUDA sources, one file per operation, and what they are compiled and launched with. `gpu.ops` launches them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from breastseg_deploy.contract import IMAGENET_MEAN, IMAGENET_STD
from breastseg_deploy.gpu.bank import ALONE, PAIRED
from breastseg_deploy.preprocess.gabor import RADIUS_PX

MASK_OPTIONS = ("-std=c++17",)
"""Compiler options of `mask.cu`."""

_TILE_ROWS, _TILE_COLUMNS = 16, 32
"""Pixels of a block of `edge.cu`; a warp reads 32 columns of one row."""

_THREAD_PIXELS = 4
"""With 24 sums for each, 96 registers: more leave too few for the rest, fewer read the bank more often."""


def source(name: str) -> str:
    """Text of a kernel's source, e.g. "edge" for edge.cu."""
    return Path(__file__).with_name(f"{name}.cu").read_text(encoding="utf-8")


def edge_options(frame: Any, channels: int) -> tuple[str, ...]:
    """Compiler options of `edge.cu` for frames of that dtype and channel count."""
    scale = (f"{float(np.float32(1 / (255 * std)))!r}f" for std in IMAGENET_STD)
    shift = (f"{float(np.float32(mean / std))!r}f" for mean, std in zip(IMAGENET_MEAN, IMAGENET_STD, strict=True))
    return (
        "-std=c++17",
        f"-DFRAME=unsigned {'char' if np.dtype(frame) == np.uint8 else 'short'}",
        f"-DCHANNELS={channels}",
        f"-DCOLOUR_SCALE={','.join(scale)}",
        f"-DCOLOUR_SHIFT={','.join(shift)}",
        f"-DCOLUMNS={_TILE_COLUMNS}",
        f"-DROWS={_TILE_ROWS}",
        f"-DPIXELS={_THREAD_PIXELS}",
        f"-DRADIUS={RADIUS_PX}",
        f"-DPAIRED={PAIRED}",
        f"-DALONE={ALONE}",
    )


def edge_shape(count: int, size_px: tuple[int, int]) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
    """Grid and block of `edge.cu` for so many frames (H, W)."""
    height, width = size_px
    grid = (-(-width // _TILE_COLUMNS), -(-height // _TILE_ROWS), count)
    return grid, (_TILE_COLUMNS, _TILE_ROWS // _THREAD_PIXELS, 1)
