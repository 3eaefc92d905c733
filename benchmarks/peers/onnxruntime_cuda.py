"""ONNX Runtime's CUDA provider on the plain float32 export. Written for a GPU; see its row for whether one ran it."""

from __future__ import annotations

from peers import Segment, Setting
from peers.onnxruntime_session import segment_by_providers


def open_peer(setting: Setting) -> Segment:
    """Load it."""
    return segment_by_providers(setting, ["CUDAExecutionProvider", "CPUExecutionProvider"], "gpu")
