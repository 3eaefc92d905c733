"""Other implementations of the same weights, which the runtime is compared with. `serve_peer.py` runs one by itself.

A peer's module has `open_peer(setting, variant)`, which loads it and returns a function from frames to masks. It raises
a MachineError where this machine lacks something. What would distort a peer's memory, such as the export that it starts
from, runs in another process before.
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
    """A peer.

    Attributes:
        title: its name in the tables.
        module: here.
        variant: of the module.
        on_gpu: whether it computes on a GPU; written for one, see its row for whether one ran it.
    """

    title: str
    module: str
    variant: str = ""
    on_gpu: bool = False

    def open(self, setting: Setting) -> Segment:
        """Load it.

        Raises:
            MachineError: this machine lacks something for it.
        """
        found: Any = importlib.import_module(f"peers.{self.module}")
        segment: Segment = found.open_peer(setting, self.variant)
        return segment


REFERENCE, PAPER = "reference", "paper"
"""The two that every run measures: what Dice is held against, and what ratios are taken to."""

PEERS: Mapping[str, Peer] = {
    REFERENCE: Peer("float32 reference", "reference"),
    PAPER: Peer("the paper's pipeline", "torch_cpu", "eager"),
    "torch-channels-last": Peer("PyTorch channels_last", "torch_cpu", "channels_last"),
    "torch-compiled": Peer("torch.compile", "torch_cpu", "compiled"),
    "onnxruntime": Peer("ONNX Runtime, plain export", "onnxruntime_plain", "cpu"),
    "openvino-fp32": Peer("OpenVINO FP32", "openvino_plain", "fp32"),
    "openvino-default": Peer("OpenVINO, its own precision", "openvino_plain", "default"),
    "openvino-int8": Peer("OpenVINO NNCF INT8", "openvino_plain", "int8"),
    "torch-fp16-graph": Peer("PyTorch FP16, CUDA graph", "torch_gpu", "graph", on_gpu=True),
    "torch-tensorrt-fp16": Peer("Torch-TensorRT FP16", "torch_gpu", "tensorrt", on_gpu=True),
    "onnxruntime-cuda": Peer("ONNX Runtime CUDA", "onnxruntime_plain", "cuda", on_gpu=True),
    "onnxruntime-tensorrt": Peer("ONNX Runtime TensorRT", "onnxruntime_plain", "tensorrt", on_gpu=True),
}
