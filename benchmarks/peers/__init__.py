"""Other ways to run the same weights on the same frames, one small file each. `serve_peer.py` runs one by itself.

A peer's module has `open_peer(setting)`, which loads it and returns a function from frames to masks. It imports its
libraries inside, and raises a MachineError where this machine lacks something. What would distort a peer's memory, such
as the export that it starts from, runs in another process before.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Segment = Callable[[NDArray[np.uint8]], NDArray[np.uint8]]
"""(N, H, W, 3) uint8 to masks (N, H, W) uint8, 0 or 1, on the host."""


@dataclass(frozen=True)
class Setting:
    """What a peer is loaded for.

    Attributes:
        checkpoint: its name, for peers on PyTorch.
        shared: a folder that all peers of a run share; it holds the plain export.
        frames: a .npy file, (F, H, W, 3) uint8.
    """

    checkpoint: str
    shared: Path
    frames: Path

    @property
    def size_px(self) -> tuple[int, int]:
        """(H, W) of the frames."""
        _, height, width, _ = np.load(self.frames, mmap_mode="r").shape
        return height, width


@dataclass(frozen=True)
class Peer:
    """A peer: its module here, its name in the tables, and whether it computes on a GPU."""

    module: str
    title: str
    on_gpu: bool = False

    def open(self, setting: Setting) -> Segment:
        """Load it.

        Raises:
            MachineError: this machine lacks something for it.
        """
        found: Any = importlib.import_module(f"peers.{self.module}")
        segment: Segment = found.open_peer(setting)
        return segment


_ALL = (
    Peer("reference", "float32 reference"),
    Peer("paper", "the paper's pipeline"),
    Peer("torch_channels_last", "PyTorch channels_last"),
    Peer("torch_compiled", "torch.compile"),
    Peer("onnxruntime_plain", "ONNX Runtime, plain export"),
    Peer("openvino_fp32", "OpenVINO FP32"),
    Peer("openvino_default", "OpenVINO, its own precision"),
    Peer("openvino_int8", "OpenVINO NNCF INT8"),
    Peer("torch_fp16_graph", "PyTorch FP16, CUDA graph", on_gpu=True),
    Peer("torch_tensorrt_fp16", "Torch-TensorRT FP16", on_gpu=True),
    Peer("onnxruntime_cuda", "ONNX Runtime CUDA", on_gpu=True),
    Peer("onnxruntime_tensorrt", "ONNX Runtime TensorRT", on_gpu=True),
)

PEERS: Mapping[str, Peer] = {peer.module: peer for peer in _ALL}
REFERENCE, PAPER = "reference", "paper"
"""The two that every run measures: what Dice is held against, and what ratios are taken to."""
