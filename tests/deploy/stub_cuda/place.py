"""Open a network on ONNX Runtime's CUDA provider, which then has a kernel for every node, and print its options."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import onnxruntime

from breastseg_deploy.gpu.onnxruntime_cuda import PROVIDER, open_session, provider_options

network = Path(sys.argv[1])
session = open_session(onnxruntime, network, network.read_bytes(), provider_options(4096, 0))
print(json.dumps(session.get_provider_options()[PROVIDER]))
