"""OpenVINO on the CPU on the plain export, behind OpenCV's preprocessing, compiled for latency.

"default" is OpenVINO as it comes: bfloat16 where the processor has it (AMX), float32 elsewhere. "fp32" is held to
float32. "int8" is quantised by NNCF after training, what is left in floating point is float32; it is calibrated on the
very frames that it is measured on, which flatters its Dice.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np

from breastseg_deploy.backends.openvino_library import load_openvino
from breastseg_deploy.errors import BackendError
from peers import Segment, Setting
from peers.opencv_front import opencv_tensor
from peers.plain_export import read_plain_export

_BENCHMARKS = Path(__file__).resolve().parents[1]


def open_peer(setting: Setting, variant: str) -> Segment:
    """Load it; "int8" is quantised by the first opening of a run.

    Raises:
        MachineError: openvino is not installed, or there is no plain export.
        BackendError: NNCF failed or is not installed.
    """
    core = load_openvino().Core()
    plain = read_plain_export(setting.shared)
    network = _quantised(setting) if variant == "int8" else plain.onnx
    precision = {} if variant == "default" else {"INFERENCE_PRECISION_HINT": "f32"}
    compiled = core.compile_model(network, "CPU", {"PERFORMANCE_HINT": "LATENCY", **precision})
    request = compiled.create_infer_request()
    return lambda rgb: plain.masks(
        [np.array(request.infer([tensor[np.newaxis]])[0]) for tensor in opencv_tensor(rgb, plain.gabor)]
    )


def _quantised(setting: Setting) -> Path:
    """The network in INT8, made by a process of its own."""
    network = setting.shared / "int8.xml"
    if network.exists():
        return network
    command = [sys.executable, "-m", "peers.quantise_int8", str(setting.shared), str(setting.frames), str(network)]
    environment = {**os.environ, "PYTHONPATH": str(_BENCHMARKS)}
    done = subprocess.run(command, cwd=_BENCHMARKS, env=environment, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise BackendError(f"NNCF failed: {(done.stderr.strip().splitlines() or ['silently'])[-1]}")
    return network
