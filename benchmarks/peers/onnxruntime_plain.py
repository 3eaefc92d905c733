"""ONNX Runtime on the CPU: a plain export of the network behind OpenCV's preprocessing."""

from __future__ import annotations

from peers import Segment, Setting
from peers.onnxruntime_session import segment_by_providers


def open_peer(setting: Setting) -> Segment:
    """Load it."""
    return segment_by_providers(setting, ["CPUExecutionProvider"], "cpu")
