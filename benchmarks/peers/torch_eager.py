"""What the peers on PyTorch share: OpenCV's tensor through a module, and the sigmoid's mask."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from breastseg_train.network.checkpoint import Checkpoint
from peers import Segment
from peers.opencv_front import opencv_tensor


def segment_by(network: Any, checkpoint: Checkpoint, memory_format: torch.memory_format) -> Segment:
    """Frames to masks by a network on the CPU, a module or a compiled one."""
    gabor = checkpoint.model.architecture.gabor

    def segment(rgb: NDArray[np.uint8]) -> NDArray[np.uint8]:
        tensor = torch.from_numpy(opencv_tensor(rgb, gabor)).contiguous(memory_format=memory_format)
        with torch.inference_mode():
            probability = network(tensor).sigmoid()[:, 0]
            mask: NDArray[np.uint8] = (probability >= checkpoint.threshold).to(torch.uint8).numpy()
        return mask

    return segment
