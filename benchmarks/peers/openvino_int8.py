"""OpenVINO on the CPU, quantised by NNCF after training; what is left in floating point is float32.

It is calibrated on the very frames that it is measured on, which flatters its Dice.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from breastseg_deploy.errors import BackendError
from breastseg_deploy.extras import require
from peers import Segment, Setting
from peers.openvino_model import segment_by_openvino

_BENCHMARKS = Path(__file__).resolve().parents[1]


def open_peer(setting: Setting) -> Segment:
    """Quantise, in a process of its own, and load it.

    Raises:
        MachineError: nncf or openvino is not installed, or there is no plain export.
        BackendError: NNCF failed.
    """
    require("openvino", "peers")
    network = setting.shared / "int8.xml"
    command = [sys.executable, "-m", "peers.quantise_int8", str(setting.shared), str(setting.frames), str(network)]
    done = subprocess.run(
        command, cwd=_BENCHMARKS, env={**os.environ, "PYTHONPATH": str(_BENCHMARKS)}, capture_output=True, text=True
    )
    if done.returncode != 0:
        raise BackendError(f"NNCF failed: {(done.stderr.strip().splitlines() or ['without a word'])[-1]}")
    return segment_by_openvino(setting, {"INFERENCE_PRECISION_HINT": "f32"}, network)
