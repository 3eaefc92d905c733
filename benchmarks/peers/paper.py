"""The paper's pipeline: PyTorch eager in float32 behind 24 x `cv2.filter2D`."""

from __future__ import annotations

import torch

from breastseg_train.network.checkpoint import load_checkpoint
from peers import Segment, Setting
from peers.torch_eager import segment_by


def open_peer(setting: Setting) -> Segment:
    """Load it."""
    checkpoint = load_checkpoint(setting.checkpoint)
    return segment_by(checkpoint.model, checkpoint, torch.contiguous_format)
