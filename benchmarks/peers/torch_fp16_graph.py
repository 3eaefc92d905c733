"""PyTorch eager in FP16 and channels_last, its run captured in a CUDA graph. Written for a GPU; see its row."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from breastseg_train.network.checkpoint import load_checkpoint
from peers import Segment, Setting
from peers.opencv_front import opencv_tensor

_WARM_UP = 3
"""Runs before a capture, as PyTorch's notes on CUDA graphs ask for."""


def open_peer(setting: Setting) -> Segment:
    """Load and capture it."""
    checkpoint = load_checkpoint(setting.checkpoint)
    model: Any = checkpoint.model.cuda().half()
    model = model.to(memory_format=torch.channels_last)
    gabor = checkpoint.model.architecture.gabor
    tensor = torch.zeros(1, 4, *setting.size_px, device="cuda", dtype=torch.half)
    tensor = tensor.contiguous(memory_format=torch.channels_last)
    with torch.inference_mode():
        side: Any = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(_WARM_UP):
                model(tensor)
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            mask = (model(tensor).float().sigmoid()[:, 0] >= checkpoint.threshold).to(torch.uint8)

    def segment(rgb: NDArray[np.uint8]) -> NDArray[np.uint8]:
        masks = []
        with torch.inference_mode():
            for frame in torch.from_numpy(opencv_tensor(rgb, gabor)):
                tensor.copy_(frame[None])
                graph.replay()
                masks.append(mask.cpu().numpy()[0])  # waits for the GPU
        return np.stack(masks)

    return segment
