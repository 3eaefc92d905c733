"""What is compared: the float32 reference in PyTorch and what an export makes, each from raw uint8 to probability."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from numpy.typing import NDArray

from breastseg_deploy.bundle import TENSOR
from breastseg_deploy.errors import ParityError
from breastseg_deploy.preprocess.gabor import GaborParameters, edge_channel_reference
from breastseg_deploy.preprocess.tensor import network_input
from breastseg_export.graph import FRAMES
from breastseg_export.precision.half import explicitly_rounded
from breastseg_train.network.model import SegmentationModel

Frame = NDArray[np.uint8]
Probability = NDArray[np.float32]
Engine = Callable[[Frame], Probability]
"""(H, W, 3) uint8 to (H, W) float32 probability."""

_EDGE_TOLERANCE = 1e-5
_EDGE_CHECK_PX = 96


def reference(model: SegmentationModel) -> Engine:
    """The truth of every parity figure: float32 PyTorch behind the CPU reference preprocessing."""
    gabor = model.architecture.gabor

    def run(frame: Frame) -> Probability:
        with torch.inference_mode():
            logits = model(torch.from_numpy(network_input(frame[np.newaxis], gabor)))
            return probability(logits[0, 0].numpy())

    return run


def portable_in_onnxruntime(graph: onnx.ModelProto) -> Engine:
    """`model.onnx` as a scanner runs it: frame in, probability out."""
    onnx_session = session(graph)

    def run(frame: Frame) -> Probability:
        return np.asarray(onnx_session.run(None, {FRAMES: frame[np.newaxis]})[0][0, 0])

    return run


def network_in_onnxruntime(graph: onnx.ModelProto, gabor: GaborParameters) -> Engine:
    """`network.fp16.onnx` behind the CPU reference preprocessing, each value rounded as its types say.

    An overflow shows: without these roundings ONNX Runtime computes the whole graph in float32 and hides it.
    """
    return logits_in_onnxruntime(explicitly_rounded(graph), gabor)


def logits_in_onnxruntime(graph: onnx.ModelProto, gabor: GaborParameters) -> Engine:
    """A graph from tensor to logits behind the CPU reference preprocessing."""
    onnx_session = session(graph)

    def run(frame: Frame) -> Probability:
        logits = onnx_session.run(None, {TENSOR: network_input(frame[np.newaxis], gabor)})[0][0, 0]
        return probability(logits)

    return run


def probability(logits: NDArray[np.float32]) -> Probability:
    """The sigmoid, by torch as in the reference."""
    return torch.from_numpy(logits).sigmoid().numpy()


def session(graph: onnx.ModelProto, *, threads: int = 0) -> Any:
    """A graph in ONNX Runtime on the CPU, which shares its working memory with all others of the export.

    Args:
        graph: the graph.
        threads: that it computes on; 0 for as many as there are cores. They sleep while they wait.
    """
    _share_memory()
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.enable_mem_pattern = False  # it would hold the pages of each session apart
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.use_env_allocators", "1")
    content = graph.SerializeToString()
    return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"], enable_fallback=0)


@cache
def _share_memory() -> None:
    """One arena for all sessions of this process: a run takes the pages that the run before it left behind.

    An arena for each session holds as many times the memory; without any, a run asks the kernel for each value's pages
    again, which took half of its time (docs/LOG.md).
    """
    arena, memory = onnxruntime.OrtAllocatorType.ORT_ARENA_ALLOCATOR, onnxruntime.OrtMemType.DEFAULT
    onnxruntime.create_and_register_allocator(onnxruntime.OrtMemoryInfo("Cpu", arena, 0, memory), None)


def check_edge_channel(
    frame: Frame,
    gabor: GaborParameters,
    preprocess: Callable[[Frame, GaborParameters], NDArray[np.float32]] = network_input,
) -> None:
    """Hold the fast edge channel that the reference uses to the float64 one, on a corner of a real frame.

    Args:
        frame: (H, W, 3) uint8.
        gabor: of the edge channel.
        preprocess: (N, H, W, 3) uint8 frames to (N, 4, H, W), the edge channel last; what the reference uses.

    Raises:
        ParityError: they differ by more than 1e-5.
    """
    corner = np.ascontiguousarray(frame[:_EDGE_CHECK_PX, :_EDGE_CHECK_PX])
    fast = preprocess(corner[np.newaxis], gabor)[0, 3]
    error = float(np.abs(fast - edge_channel_reference(corner, gabor)).max())
    if not error <= _EDGE_TOLERANCE:
        raise ParityError(
            f"the edge channel is {error:.2e} off its float64 reference, the limit is {_EDGE_TOLERANCE:.0e}; "
            "this NumPy's FFT cannot be trusted: reinstall numpy at the version of constraints.txt"
        )
