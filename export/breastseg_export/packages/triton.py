"""A bundle as a model repository of Triton Inference Server, with a client of ten lines.

Source: Triton's model configuration, https://github.com/triton-inference-server/server/blob/main/docs/user_guide.
"""

from __future__ import annotations

import hashlib

from breastseg_deploy.artefacts import EngineEntry, details_of
from breastseg_deploy.bundle import ENGINE, MANIFEST, MODEL, Bundle
from breastseg_export.packages.documentation import model_page
from breastseg_export.packages.package import Files, Package, manifest_bytes, portable_model

_NAME = "breastseg"
_LARGEST_BATCH = 8
_CONFIG = """\
name: "{name}"
platform: "onnxruntime_onnx"
max_batch_size: {batch}
input [ {{ name: "frames" data_type: TYPE_UINT8 dims: [ {height}, {width}, 3 ] }} ]
output [ {{ name: "probability" data_type: TYPE_FP32 dims: [ 1, {height}, {width} ] }} ]
# Frames that arrive within 2 ms share a call. A queue of 64 refuses what it cannot take, and a frame that has waited
# for 5 s is refused: a client always hears what became of its frame.
dynamic_batching {{
  preferred_batch_size: [ {batch} ]
  max_queue_delay_microseconds: 2000
  preserve_ordering: true
  default_queue_policy {{
    timeout_action: REJECT
    default_timeout_microseconds: 5000000
    allow_timeout_override: true
    max_queue_size: 64
  }}
}}
parameters [
  {{ key: "threshold" value {{ string_value: "{threshold}" }} }},
  {{ key: "manifest_sha256" value {{ string_value: "{sha256}" }} }}
]
"""
_CLIENT = '''\
"""Send a frame to Triton and write its mask: python client.py FRAME.png MASK.png [HOST:PORT]"""
import sys
import cv2
import tritonclient.http as triton

server = triton.InferenceServerClient(sys.argv[3] if len(sys.argv) > 3 else "localhost:8000")
frames = cv2.cvtColor(cv2.imread(sys.argv[1], cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)[None]  # (1, H, W, 3) uint8
sent = triton.InferInput("frames", frames.shape, "UINT8")
sent.set_data_from_numpy(frames)
probability = server.infer("{name}", [sent]).as_numpy("probability")  # (1, 1, H, W) float32
cv2.imwrite(sys.argv[2], (probability[0, 0] >= {threshold}).astype("uint8") * 255)
'''


def _files(bundle: Bundle) -> Files:
    manifest = bundle.manifest
    height, width = manifest.frame.size_px
    about = manifest_bytes(bundle)
    config = _CONFIG.format(
        name=_NAME,
        batch=_LARGEST_BATCH,
        height=height,
        width=width,
        threshold=manifest.threshold,
        sha256=hashlib.sha256(about).hexdigest(),
    )
    yield f"models/{_NAME}/1/{MODEL}", portable_model(bundle)
    yield f"models/{_NAME}/config.pbtxt", config.encode()
    yield "client.py", _CLIENT.format(name=_NAME, threshold=manifest.threshold).encode()
    yield MANIFEST, about
    yield "README.md", _page(bundle).encode()


def _page(bundle: Bundle) -> str:
    return f"""{model_page(bundle)}
## Serving it
    tritonserver --model-repository models
    python client.py FRAME.png MASK.png
{_left_out(bundle)}"""


def _left_out(bundle: Bundle) -> str:
    """The bundle's engines, and why they are not here: Triton would serve them unseen by any golden."""
    engines = details_of(bundle.manifest, ENGINE, EngineEntry)
    if not engines:
        return ""
    names = "\n".join(f"- `{one.file}`, {one.flavour} {one.version}" for one in engines)
    return f"""
## Not in this repository
The bundle also holds engines:

{names}

They are no `tensorrt_plan` here. The runtime tries an engine on the goldens of its bundle before it serves, and Triton
would not. They take the preprocessed tensor, not a frame. A plan of TensorRT-RTX is none of TensorRT, and one of
TensorRT loads in its own version alone.
"""


TRITON = Package("Triton Inference Server", _files, MANIFEST, frozenset({"models", "client.py", MANIFEST, "README.md"}))
