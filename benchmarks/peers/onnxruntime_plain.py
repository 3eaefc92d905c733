"""ONNX Runtime on the plain float32 export: on the CPU behind OpenCV's preprocessing, on a GPU behind PyTorch's.

"cuda" and "tensorrt" (in FP16) are written for a GPU; see their rows for whether one ran them.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from breastseg_deploy.errors import MachineError
from breastseg_deploy.extras import require
from peers import Segment, Setting
from peers.opencv_front import opencv_tensor
from peers.plain_export import INPUT, PlainExport, read_plain_export

_CPU, _CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"
_TENSORRT = ("TensorrtExecutionProvider", {"trt_fp16_enable": "1"})
_PROVIDERS: dict[str, list[Any]] = {"cpu": [_CPU], "cuda": [_CUDA, _CPU], "tensorrt": [_TENSORRT, _CUDA, _CPU]}


def open_peer(setting: Setting, variant: str) -> Segment:
    """Load it; on a GPU a frame is run here, since the first one is what builds an engine.

    Raises:
        MachineError: onnxruntime is not installed, or cannot use the provider here; or there is no plain export.
    """
    on_gpu = variant != "cpu"
    ort = require("onnxruntime", "gpu" if on_gpu else "cpu")
    plain = read_plain_export(setting.shared)
    providers = _PROVIDERS[variant]
    first = providers[0] if isinstance(providers[0], str) else providers[0][0]
    if first not in ort.get_available_providers():
        raise MachineError(f"this onnxruntime has no {first}; install onnxruntime-gpu in its place")
    options = ort.SessionOptions()
    options.log_severity_level = 3
    session = ort.InferenceSession(str(plain.onnx), options, providers=providers, enable_fallback=0)
    if session.get_providers()[0] != first:  # it falls back to the CPU silently
        raise MachineError(f"onnxruntime lists {first} and cannot use it here; look at its CUDA libraries")
    if not on_gpu:
        return lambda rgb: plain.masks(
            [session.run(None, {INPUT: tensor[np.newaxis]})[0] for tensor in opencv_tensor(rgb, plain.gabor)]
        )
    segment = behind_torch(session, plain, "cuda")
    segment(np.zeros((1, *setting.size_px, 3), np.uint8))
    return segment


def behind_torch(session: Any, plain: PlainExport, device: str) -> Segment:
    """Frames to masks on a device: the tensor goes from PyTorch to ONNX Runtime without leaving it."""
    import torch

    from peers.torch_front import TorchFront

    front = TorchFront(plain.gabor).to(device)
    output = session.get_outputs()[0].name

    def logits(frame: NDArray[np.uint8]) -> NDArray[np.float32]:
        with torch.inference_mode():
            tensor = front(torch.from_numpy(frame)[None].to(device)).contiguous()
        if device == "cuda":
            torch.cuda.current_stream().synchronize()  # the session computes on a stream of its own
        binding = session.io_binding()
        binding.bind_input(INPUT, device, 0, np.float32, tuple(tensor.shape), tensor.data_ptr())
        binding.bind_output(output)
        session.run_with_iobinding(binding)
        found: NDArray[np.float32] = binding.copy_outputs_to_cpu()[0]
        return found

    return lambda rgb: plain.masks([logits(frame) for frame in rgb])
