"""What is compared: the float32 reference in PyTorch and what an export makes, each from raw uint8 to probability."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from breastseg_deploy.errors import ParityError
from breastseg_deploy.gabor import GaborParameters, edge_channel_reference
from breastseg_deploy.preprocess import network_input
from breastseg_export.graph import FRAMES, TENSOR
from breastseg_train.model import SegmentationModel

Frame = NDArray[np.uint8]
Probability = NDArray[np.float32]
Engine = Callable[[Frame], Probability]
"""(H, W, 3) uint8 to (H, W) float32 probability."""

FLOAT16_MAX = 65504.0
_EDGE_TOLERANCE = 1e-5
_EDGE_CHECK_PX = 96


@dataclass
class Activations:
    """The largest magnitude that each layer's output has reached so far."""

    largest: dict[str, float]

    @property
    def peak(self) -> tuple[str, float]:
        """The layer that reached furthest, and how far."""
        layer = max(self.largest, key=lambda name: self.largest[name])
        return layer, self.largest[layer]


def reference(model: SegmentationModel) -> Engine:
    """The truth of every parity figure: float32 PyTorch behind the CPU reference preprocessing."""
    return _engine_of(model, model.architecture.gabor)


def half_in_torch(model: SegmentationModel) -> Engine:
    """The network in torch `.half()` behind its float32 projection: it overflows where a GPU would.

    ONNX Runtime on a CPU computes float16 graphs in float32 and so hides an overflow; this does not.
    """
    half = copy.deepcopy(model).half()
    network = nn.Sequential(half.projection.float(), _ToHalf(), half.unet.encoder, _Decode(half))
    return _engine_of(network, model.architecture.gabor)


def portable_in_onnxruntime(graph: onnx.ModelProto) -> Engine:
    """`model.onnx` as a scanner runs it: frame in, probability out."""
    session = _session(graph)

    def run(frame: Frame) -> Probability:
        return np.asarray(session.run(None, {FRAMES: frame[np.newaxis]})[0][0, 0])

    return run


def network_in_onnxruntime(graph: onnx.ModelProto, gabor: GaborParameters) -> Engine:
    """`network.fp16.onnx` behind the CPU reference preprocessing."""
    session = _session(graph)

    def run(frame: Frame) -> Probability:
        logits = session.run(None, {TENSOR: network_input(frame[np.newaxis], gabor)})[0][0, 0]
        return torch.from_numpy(logits).sigmoid().numpy()

    return run


def record_activations(model: nn.Module) -> Activations:
    """Watch the output of every layer of `model` from now on."""
    activations = Activations({})

    def watch(name: str) -> Callable[[nn.Module, Any, Any], None]:
        def after(_module: nn.Module, _inputs: Any, output: Any) -> None:
            if isinstance(output, Tensor):
                largest = float(torch.linalg.vector_norm(output.detach(), ord=float("inf")))
                activations.largest[name] = max(largest, activations.largest.get(name, 0.0))

        return after

    for name, module in model.named_modules():
        if not any(module.children()):
            module.register_forward_hook(watch(name))
    return activations


def check_edge_channel(frame: Frame, gabor: GaborParameters) -> None:
    """Hold the fast edge channel that the reference uses to the float64 one, on a corner of a real frame.

    Raises:
        ParityError: they differ by more than 1e-5.
    """
    corner = np.ascontiguousarray(frame[:_EDGE_CHECK_PX, :_EDGE_CHECK_PX])
    fast = network_input(corner[np.newaxis], gabor)[0, 3]
    error = float(np.abs(fast - edge_channel_reference(corner, gabor)).max())
    if not error <= _EDGE_TOLERANCE:
        raise ParityError(
            f"the edge channel is {error:.2e} off its float64 reference, the limit is {_EDGE_TOLERANCE:.0e}; "
            "this NumPy's FFT cannot be trusted: reinstall numpy at the version of constraints.txt"
        )


class _ToHalf(nn.Module):
    def forward(self, tensor: Tensor) -> Tensor:
        return tensor.half()


class _Decode(nn.Module):
    """Decoder and head of a model, as one layer after its encoder."""

    def __init__(self, model: SegmentationModel) -> None:
        super().__init__()
        self.decoder, self.head = model.unet.decoder, model.unet.segmentation_head

    def forward(self, features: list[Tensor]) -> Tensor:
        return self.head(self.decoder(features))  # type: ignore[no-any-return]


def _engine_of(network: nn.Module, gabor: GaborParameters) -> Engine:
    def run(frame: Frame) -> Probability:
        with torch.inference_mode():
            logits = network(torch.from_numpy(network_input(frame[np.newaxis], gabor)))
            return logits.float().sigmoid()[0, 0].numpy()  # type: ignore[no-any-return]

    return run


def _session(graph: onnx.ModelProto) -> Any:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(graph.SerializeToString(), options, providers=["CPUExecutionProvider"])
