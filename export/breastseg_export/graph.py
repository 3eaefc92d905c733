"""From torch modules to checked ONNX graphs."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import onnx
import torch
from onnx import TensorProto, compose, helper, numpy_helper
from torch import Tensor, nn

from breastseg_deploy.bundle import TENSOR
from breastseg_deploy.contract import check_model_size
from breastseg_deploy.errors import ArgumentError
from breastseg_deploy.preprocess.gabor import GaborParameters
from breastseg_export.preprocessing import Preprocessing
from breastseg_train.network.model import SegmentationModel

OPSET = 20
"""Old enough for every runtime the toolkit meets (ONNX Runtime >= 1.17, TensorRT >= 10, OpenVINO >= 2024)."""

FRAMES, PROBABILITY = "frames", "probability"
"""Input and output of the portable model."""
LOGITS = "logits"
"""Output of the network alone, whose input is `TENSOR`."""

_LARGEST_BATCH = 64
_TILE_EXAMPLE_PX = 96, 160
"""Neither the same on both sides nor a single cell of the grid."""


def export_graph(
    module: nn.Module, examples: Mapping[str, Tensor], output_names: Sequence[str], *, any_batch: bool = True
) -> onnx.ModelProto:
    """Trace a module into an ONNX graph, checked by ONNX's own checker.

    Args:
        module: in evaluation mode; called with the examples in their order.
        examples: by the name of the graph's input; with `any_batch` a batch of two, so that no size 1 is taken for a
            constant.
        output_names: of what it returns, in order.
        any_batch: whether the batch stays open; all other sizes stay fixed.
    """
    free = {0: torch.export.Dim("N", min=1, max=_LARGEST_BATCH)} if any_batch else {}
    with _quiet_exporter(), torch.inference_mode():
        program = torch.onnx.export(
            module,
            tuple(examples.values()),
            dynamo=True,
            opset_version=OPSET,
            input_names=list(examples),
            output_names=list(output_names),
            dynamic_shapes=tuple(free for _ in examples),
            verbose=False,
        )
    if program is None:
        raise ArgumentError("torch.onnx.export returned no program; use the torch version of constraints.txt")
    graph = program.model_proto
    onnx.checker.check_model(graph, full_check=True)
    return graph


def export_network(model: SegmentationModel, size_px: tuple[int, int]) -> onnx.ModelProto:
    """The network alone: float32 4-channel tensor (N, 4, H, W) to logits (N, 1, H, W).

    Raises:
        FrameError: a size that is no multiple of 32; said here because smp's own check is skipped while tracing.
    """
    check_model_size(size_px)
    return export_graph(model, {TENSOR: torch.zeros(2, 4, *size_px)}, [LOGITS])


def export_tile_network(model: SegmentationModel) -> onnx.ModelProto:
    """The network for one tile of any size: float32 tensor (1, 4, H, W) to probability (1, 1, H, W).

    H and W are multiples of 32. It is traced at one small size and its sides are opened afterwards, which takes half of
    the time of tracing open ones; whether the graph is free of that size is left to the parity of a whole tile.
    """
    example = torch.zeros(1, 4, *_TILE_EXAMPLE_PX)
    module = nn.Sequential(model, nn.Sigmoid()).eval()
    graph = export_graph(module, {TENSOR: example}, [PROBABILITY], any_batch=False)
    del graph.graph.value_info[:]
    for value in (graph.graph.input[0], graph.graph.output[0]):
        for name, axis in (("H", 2), ("W", 3)):
            value.type.tensor_type.shape.dim[axis].dim_param = name
    onnx.checker.check_model(graph, full_check=True)
    return graph


def global_pools(graph: onnx.ModelProto) -> list[str]:
    """Nodes that reduce both sides of an image to one value, by name."""
    constants = {one.name: numpy_helper.to_array(one) for one in graph.graph.initializer}
    found = []
    for node in graph.graph.node:
        axes = constants.get(node.input[1]) if len(node.input) > 1 else None
        reduces = node.op_type.startswith("Reduce") and (axes is None or bool({2, -2} & set(axes.ravel().tolist())))
        if reduces or node.op_type in ("GlobalAveragePool", "GlobalMaxPool"):
            found.append(node.name)
    return found


def portable_model(network: onnx.ModelProto, gabor: GaborParameters, size_px: tuple[int, int]) -> onnx.ModelProto:
    """The whole path in one graph: uint8 RGB frames (N, H, W, 3) to probabilities (N, 1, H, W) float32.

    Preprocessing and sigmoid are put around the network that was exported already, so both graphs hold the same weights
    and the network's input keeps its name, `TENSOR`, inside this graph.
    """
    example = torch.zeros(2, *size_px, 3, dtype=torch.uint8)
    before = export_graph(Preprocessing(gabor).eval(), {FRAMES: example}, [TENSOR])
    before = compose.add_prefix(before, "preprocessing/", rename_inputs=False, rename_outputs=False)
    whole = behind_sigmoid(compose.merge_models(before, network, [(TENSOR, TENSOR)]), size_px)
    onnx.checker.check_model(whole, full_check=True)
    return whole


def behind_sigmoid(graph: onnx.ModelProto, size_px: tuple[int, int]) -> onnx.ModelProto:
    """A graph whose output is `LOGITS`, with the sigmoid put after it."""
    (logits,) = [output for output in graph.graph.output if output.name == LOGITS]
    after = helper.make_graph(
        [helper.make_node("Sigmoid", [LOGITS], [PROBABILITY], name="probability")],
        "probability",
        [logits],
        [helper.make_tensor_value_info(PROBABILITY, TensorProto.FLOAT, ["N", 1, *size_px])],
    )
    sigmoid = helper.make_model(after, opset_imports=graph.opset_import, ir_version=graph.ir_version)
    return compose.merge_models(graph, sigmoid, [(LOGITS, LOGITS)])


@contextmanager
def _quiet_exporter() -> Iterator[None]:
    """The exporter's notes about its own internals are not for the user; errors still are."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
