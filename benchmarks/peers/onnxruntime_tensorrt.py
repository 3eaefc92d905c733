"""ONNX Runtime's TensorRT provider in FP16. Written for a GPU; see its row for whether one ran it."""

from __future__ import annotations

import numpy as np

from peers import Segment, Setting
from peers.onnxruntime_session import segment_by_providers


def open_peer(setting: Setting) -> Segment:
    """Load it; a frame is run here, since the first one is what builds the engine."""
    tensorrt = ("TensorrtExecutionProvider", {"trt_fp16_enable": "1"})
    segment = segment_by_providers(setting, [tensorrt, "CUDAExecutionProvider", "CPUExecutionProvider"], "gpu")
    segment(np.zeros((1, *setting.size_px, 3), np.uint8))
    return segment
