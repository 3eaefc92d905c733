"""PyTorch eager in float32 with weights and tensors in channels_last, the layout its CPU kernels prefer."""

from __future__ import annotations

from typing import Any

import torch

from breastseg_train.network.checkpoint import load_checkpoint
from peers import Segment, Setting
from peers.torch_eager import segment_by


def open_peer(setting: Setting) -> Segment:
    """Load it."""
    checkpoint = load_checkpoint(setting.checkpoint)
    model: Any = checkpoint.model  # PyTorch's types do not know this form of `to`
    return segment_by(model.to(memory_format=torch.channels_last), checkpoint, torch.channels_last)
