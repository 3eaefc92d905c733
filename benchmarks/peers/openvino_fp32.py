"""OpenVINO on the CPU, held to float32: by itself it computes in bfloat16 where the processor can."""

from __future__ import annotations

from peers import Segment, Setting
from peers.openvino_model import segment_by_openvino


def open_peer(setting: Setting) -> Segment:
    """Load it."""
    return segment_by_openvino(setting, {"INFERENCE_PRECISION_HINT": "f32"})
