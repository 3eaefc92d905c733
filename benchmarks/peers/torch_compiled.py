"""`torch.compile` in its default mode, float32. It needs a C++ compiler and, for a large encoder, minutes."""

from __future__ import annotations

import shutil

import numpy as np
import torch

from breastseg_deploy.errors import MachineError
from breastseg_train.network.checkpoint import load_checkpoint
from peers import Segment, Setting
from peers.torch_eager import segment_by


def open_peer(setting: Setting) -> Segment:
    """Load it; a frame is run here, since the first one is what compiles.

    Raises:
        MachineError: no C++ compiler.
    """
    if not any(shutil.which(name) for name in ("c++", "g++", "clang++")):
        raise MachineError("torch.compile needs a C++ compiler, found none of c++, g++, clang++: install g++")
    checkpoint = load_checkpoint(setting.checkpoint)
    segment = segment_by(torch.compile(checkpoint.model), checkpoint, torch.contiguous_format)
    segment(np.zeros((1, *setting.size_px, 3), np.uint8))
    return segment
