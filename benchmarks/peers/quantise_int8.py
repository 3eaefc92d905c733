"""`python -m peers.quantise_int8 SHARED FRAMES OUTPUT`: the plain export, quantised by NNCF in its mixed preset.

Written by a process of its own, since NNCF takes memory that the quantised network does not need.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from breastseg_deploy.backends.openvino_library import load_openvino
from breastseg_deploy.extras import require
from peers.opencv_front import opencv_tensor
from peers.plain_export import read_plain_export


def quantise(shared: Path, frames: Path, output: Path) -> None:
    """Calibrate on all frames and write OpenVINO's .xml and .bin.

    Raises:
        MachineError: nncf or openvino is not installed.
    """
    openvino = load_openvino()  # first: NNCF would import it with its telemetry
    nncf = require("nncf", "peers")
    plain = read_plain_export(shared)
    tensors = [opencv_tensor(frame[np.newaxis], plain.gabor) for frame in np.load(frames)]
    model = openvino.Core().read_model(plain.onnx)
    preset = nncf.QuantizationPreset.MIXED
    quantised = nncf.quantize(model, nncf.Dataset(tensors), preset=preset, subset_size=len(tensors))
    openvino.save_model(quantised, output, compress_to_fp16=False)


if __name__ == "__main__":
    quantise(Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]))
