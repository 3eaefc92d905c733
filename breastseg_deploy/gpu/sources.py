"""CUDA sources, one file per operation, and the operands they take. `gpu_ops` launches them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from breastseg_deploy.contract import IMAGENET_MEAN, IMAGENET_STD


def source(name: str) -> str:
    """Text of a kernel's source, e.g. "edge" for edge.cu."""
    return Path(__file__).with_name(f"{name}.cu").read_text(encoding="utf-8")


def edge_options(frame: Any, channels: int, result: Any) -> tuple[str, ...]:
    """Compiler options of `edge.cu` for frames of that dtype and channel count, and that dtype of the result."""
    scale = (f"{float(np.float32(1 / (255 * std)))!r}f" for std in IMAGENET_STD)
    shift = (f"{float(np.float32(mean / std))!r}f" for mean, std in zip(IMAGENET_MEAN, IMAGENET_STD, strict=True))
    return (
        "-std=c++17",
        f"-DFRAME=unsigned {'char' if np.dtype(frame) == np.uint8 else 'short'}",
        f"-DCHANNELS={channels}",
        f"-DCOLOUR_SCALE={','.join(scale)}",
        f"-DCOLOUR_SHIFT={','.join(shift)}",
        *(("-DHALF_OUTPUT",) if np.dtype(result) == np.float16 else ()),
    )


def mask_options(logits: Any) -> tuple[str, ...]:
    """Compiler options of `mask.cu` for logits of that dtype."""
    return ("-std=c++17", *(("-DHALF_LOGITS",) if np.dtype(logits) == np.float16 else ()))
