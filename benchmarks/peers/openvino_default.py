"""OpenVINO on the CPU as it comes: bfloat16 where the processor has it (AMX), float32 elsewhere."""

from __future__ import annotations

from peers import Segment, Setting
from peers.openvino_model import segment_by_openvino


def open_peer(setting: Setting) -> Segment:
    """Load it."""
    return segment_by_openvino(setting, {})
