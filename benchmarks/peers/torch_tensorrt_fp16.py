"""Torch-TensorRT in FP16. Written for a GPU; see its row for whether one ran it."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from breastseg_deploy.extras import require
from breastseg_train.network.checkpoint import load_checkpoint
from peers import Segment, Setting
from peers.opencv_front import opencv_tensor


def open_peer(setting: Setting) -> Segment:
    """Compile it: a model in half, whose types TensorRT then keeps.

    Raises:
        MachineError: torch_tensorrt is not installed.
    """
    torch_tensorrt = require("torch_tensorrt", "peers")
    checkpoint = load_checkpoint(setting.checkpoint)
    model: Any = checkpoint.model.cuda().half().eval()
    example = torch.zeros(1, 4, *setting.size_px, device="cuda", dtype=torch.half)
    compiled = torch_tensorrt.compile(model, ir="dynamo", inputs=[example], use_explicit_typing=True)
    gabor = checkpoint.model.architecture.gabor

    def segment(rgb: NDArray[np.uint8]) -> NDArray[np.uint8]:
        masks = []
        with torch.inference_mode():
            for frame in torch.from_numpy(opencv_tensor(rgb, gabor)):
                probability = compiled(frame[None].cuda().half()).float().sigmoid()[0, 0]
                masks.append((probability >= checkpoint.threshold).to(torch.uint8).cpu().numpy())
        return np.stack(masks)

    return segment
