"""PyTorch in float32 on the CPU behind 24 x `cv2.filter2D`: "eager" is the paper's pipeline.

"channels_last" holds weights and tensors in the layout that PyTorch's CPU kernels prefer. "compiled" is `torch.compile`
in its default mode; it needs a C++ compiler and, for a large encoder, minutes.
"""

from __future__ import annotations

import shutil
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from breastseg_deploy.errors import MachineError
from breastseg_train.network.checkpoint import load_checkpoint
from peers import Segment, Setting
from peers.opencv_front import opencv_tensor


def open_peer(setting: Setting, variant: str) -> Segment:
    """Load it; where it is compiled a frame is run here, since the first one is what compiles.

    Raises:
        MachineError: no C++ compiler for "compiled".
    """
    checkpoint = load_checkpoint(setting.checkpoint)
    layout = torch.channels_last if variant == "channels_last" else torch.contiguous_format
    network: Any = checkpoint.model  # PyTorch's types do not know this form of `to`
    network = network.to(memory_format=layout)
    if variant == "compiled":
        if not any(shutil.which(name) for name in ("c++", "g++", "clang++")):
            raise MachineError("torch.compile needs a C++ compiler, found none of c++, g++, clang++: install g++")
        network = torch.compile(network)

    def segment(rgb: NDArray[np.uint8]) -> NDArray[np.uint8]:
        tensor = torch.from_numpy(opencv_tensor(rgb, checkpoint.model.architecture.gabor))
        with torch.inference_mode():
            probability = network(tensor.contiguous(memory_format=layout)).sigmoid()[:, 0]
            masks: NDArray[np.uint8] = (probability >= checkpoint.threshold).to(torch.uint8).numpy()
        return masks

    if variant == "compiled":
        segment(np.zeros((1, *setting.size_px, 3), np.uint8))
    return segment
