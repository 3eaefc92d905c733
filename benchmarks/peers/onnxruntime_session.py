"""What the peers on ONNX Runtime share: the plain export behind OpenCV's preprocessing."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from breastseg_deploy.errors import MachineError
from breastseg_deploy.extras import require
from peers import Segment, Setting
from peers.logits import mask_of
from peers.opencv_front import opencv_tensor
from peers.plain_export import INPUT, read_plain_export


def segment_by_providers(
    setting: Setting, providers: Sequence[str | tuple[str, dict[str, str]]], extra: str
) -> Segment:
    """Frames to masks by a session that may use these providers and must use the first.

    Raises:
        MachineError: onnxruntime is not installed, or not with that provider; or there is no plain export.
    """
    ort = require("onnxruntime", extra)
    plain = read_plain_export(setting.shared)
    wanted = providers[0] if isinstance(providers[0], str) else providers[0][0]
    if wanted not in ort.get_available_providers():
        raise MachineError(f"this onnxruntime has no {wanted}; install onnxruntime-gpu in its place")
    options = ort.SessionOptions()
    options.log_severity_level = 3
    session = ort.InferenceSession(str(plain.onnx), options, providers=list(providers), enable_fallback=0)
    if session.get_providers()[0] != wanted:  # it falls back to the CPU without a word
        raise MachineError(f"onnxruntime lists {wanted} and cannot use it here; look at its CUDA libraries")

    def segment(rgb: NDArray[np.uint8]) -> NDArray[np.uint8]:
        tensors = opencv_tensor(rgb, plain.gabor)
        return mask_of([session.run(None, {INPUT: tensor[np.newaxis]})[0] for tensor in tensors], plain.threshold)

    return segment
