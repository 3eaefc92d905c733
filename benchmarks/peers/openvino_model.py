"""What the peers on OpenVINO share: a network behind OpenCV's preprocessing, compiled for latency."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from breastseg_deploy.backends.openvino import load_openvino
from peers import Segment, Setting
from peers.logits import mask_of
from peers.opencv_front import opencv_tensor
from peers.plain_export import read_plain_export


def segment_by_openvino(setting: Setting, options: Mapping[str, Any], network: Path | None = None) -> Segment:
    """Frames to masks on the CPU.

    Args:
        setting: of the peer.
        options: of the compilation, besides the hint for latency.
        network: made from the plain export; the plain export itself by default.

    Raises:
        MachineError: openvino is not installed, or there is no plain export.
    """
    core = load_openvino().Core()
    plain = read_plain_export(setting.shared)
    compiled = core.compile_model(network or plain.onnx, "CPU", {"PERFORMANCE_HINT": "LATENCY", **options})
    request = compiled.create_infer_request()

    def segment(rgb: NDArray[np.uint8]) -> NDArray[np.uint8]:
        tensors = opencv_tensor(rgb, plain.gabor)
        return mask_of([np.array(request.infer([tensor[np.newaxis]])[0]) for tensor in tensors], plain.threshold)

    return segment
