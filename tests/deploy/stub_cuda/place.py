"""Open a network on ONNX Runtime's CUDA provider, which then has a kernel for every node, and print its options."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import onnxruntime

from breastseg_deploy.gpu.onnxruntime_cuda import PROVIDER, _open_session, provider_options

network = Path(sys.argv[1])
bundle: Any = SimpleNamespace(path=network.parent, read=lambda _: network.read_bytes())
session = _open_session(onnxruntime, bundle, provider_options(4096, 0))
print(json.dumps(session.get_provider_options()[PROVIDER]))
