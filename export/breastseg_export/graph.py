"""From torch modules to checked ONNX graphs, and the strongly typed float16 network."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import onnx
import onnx_ir
import torch
from onnx import TensorProto, compose, helper
from onnxruntime.transformers.float16 import convert_float_to_float16
from torch import Tensor, nn

from breastseg_deploy.contract import check_model_size
from breastseg_deploy.errors import ContractError
from breastseg_deploy.gabor import GaborParameters
from breastseg_export.portable import Preprocessing
from breastseg_train.model import SegmentationModel

OPSET = 20
"""Old enough for every runtime the toolkit meets (ONNX Runtime >= 1.17, TensorRT >= 10, OpenVINO >= 2024)."""

FRAMES, PROBABILITY = "frames", "probability"
"""Input and output of the portable model."""
TENSOR, LOGITS = "tensor", "logits"
"""Input and output of the network alone."""

ISLAND_OPERATORS = ("ReduceMean", "GlobalAveragePool")
"""Kept in float32: the global pools of squeeze-and-excitation and SCSE sum a whole plane and overflow float16."""

ISLAND_CONVOLUTIONS = 3
"""The first convolutions stay in float32 too, with all that lies before the next one: projection and stem. A black
pixel is about -2 once normalised, where float16 resolves 6 % of a grey level; on dark frames that was most of the error
(docs/LOG.md)."""

_LARGEST_BATCH = 64


def export_graph(module: nn.Module, example: Tensor, input_name: str, output_name: str) -> onnx.ModelProto:
    """Trace a module into an ONNX graph with a dynamic batch, checked by ONNX's own checker.

    Args:
        module: in evaluation mode.
        example: one batch of two, so that no size 1 is taken for a constant; its H and W stay fixed.
        input_name: of the graph's only input.
        output_name: of the graph's only output.
    """
    batch = torch.export.Dim("N", min=1, max=_LARGEST_BATCH)
    with _quiet_exporter(), torch.inference_mode():
        program = torch.onnx.export(
            module,
            (example,),
            dynamo=True,
            opset_version=OPSET,
            input_names=[input_name],
            output_names=[output_name],
            dynamic_shapes=({0: batch},),
            verbose=False,
        )
    if program is None:
        raise ContractError("torch.onnx.export returned no program; use the torch version of constraints.txt")
    graph = program.model_proto
    onnx.checker.check_model(graph, full_check=True)
    return graph


def export_network(model: SegmentationModel, size_px: tuple[int, int]) -> onnx.ModelProto:
    """The network alone: float32 4-channel tensor (N, 4, H, W) to logits (N, 1, H, W).

    Raises:
        FrameError: a size that is no multiple of 32; said here because smp's own check is skipped while tracing.
    """
    check_model_size(size_px)
    return export_graph(model, torch.zeros(2, 4, *size_px), TENSOR, LOGITS)


def portable_model(network: onnx.ModelProto, gabor: GaborParameters, size_px: tuple[int, int]) -> onnx.ModelProto:
    """The whole path in one graph: uint8 RGB frames (N, H, W, 3) to probabilities (N, 1, H, W) float32.

    Preprocessing and sigmoid are put around the network that was exported already, so both graphs hold the same weights
    and the network's input keeps its name, `TENSOR`, inside this graph.
    """
    example = torch.zeros(2, *size_px, 3, dtype=torch.uint8)
    before = export_graph(Preprocessing(gabor).eval(), example, FRAMES, TENSOR)
    before = compose.add_prefix(before, "preprocessing/", rename_inputs=False, rename_outputs=False)
    after = helper.make_graph(
        [helper.make_node("Sigmoid", [LOGITS], [PROBABILITY], name="probability")],
        "probability",
        [network.graph.output[0]],
        [helper.make_tensor_value_info(PROBABILITY, TensorProto.FLOAT, ["N", 1, *size_px])],
    )
    sigmoid = helper.make_model(after, opset_imports=network.opset_import, ir_version=network.ir_version)
    whole = compose.merge_models(before, network, [(TENSOR, TENSOR)])
    whole = compose.merge_models(whole, sigmoid, [(LOGITS, LOGITS)])
    onnx.checker.check_model(whole, full_check=True)
    return whole


def half_network(network: onnx.ModelProto) -> tuple[onnx.ModelProto, tuple[str, ...]]:
    """The network in float16, strongly typed: precision stands in the file, not in a flag.

    Tensor and logits stay float32, and so do the islands: the global pools, and all before the fourth convolution.

    Args:
        network: float32, as `export_network` makes it; it is used up.

    Returns:
        The graph, and the names of the nodes that compute in float32.

    Raises:
        ContractError: a convolution beyond the islands did not become float16.
    """
    islands = _islands(network)
    del network.graph.value_info[:]  # the float32 types of inner values; shape inference finds the new ones
    half = convert_float_to_float16(network, node_block_list=list(islands), disable_shape_infer=False)
    _tensor_in_float32(half)
    _logits_in_float32(half)
    half = _sorted(half)  # the converter appends its casts at the end
    onnx.checker.check_model(half, full_check=True)
    _check_convolutions(half, islands)
    return half, islands


def _islands(network: onnx.ModelProto) -> tuple[str, ...]:
    """Names of the nodes that stay in float32, in the order of the graph."""
    islands, convolutions = [], 0
    for node in network.graph.node:
        convolutions += node.op_type == "Conv"
        if convolutions <= ISLAND_CONVOLUTIONS or node.op_type in ISLAND_OPERATORS:
            islands.append(node.name)
    return tuple(islands)


def _tensor_in_float32(half: onnx.ModelProto) -> None:
    """Take the float32 tensor as it is, where the converter made a float16 input and a cast back to float32."""
    (tensor,) = half.graph.input
    (cast,) = [node for node in half.graph.node if tensor.name in node.input]
    for node in half.graph.node:
        node.input[:] = [tensor.name if name == cast.output[0] else name for name in node.input]
    half.graph.node.remove(cast)
    tensor.type.tensor_type.elem_type = TensorProto.FLOAT


def _logits_in_float32(half: onnx.ModelProto) -> None:
    """Let the float16 logits leave through a cast to float32, which every consumer takes."""
    (logits,) = half.graph.output
    inner = f"{logits.name}_fp16"
    for node in half.graph.node:
        node.output[:] = [inner if name == logits.name else name for name in node.output]
        node.input[:] = [inner if name == logits.name else name for name in node.input]
    half.graph.node.append(helper.make_node("Cast", [inner], [logits.name], name="logits_cast", to=TensorProto.FLOAT))
    logits.type.tensor_type.elem_type = TensorProto.FLOAT


def _sorted(graph: onnx.ModelProto) -> onnx.ModelProto:
    """The same graph with its nodes in topological order."""
    model = onnx_ir.from_proto(graph)
    model.graph.sort()
    return onnx_ir.to_proto(model)


def _check_convolutions(half: onnx.ModelProto, islands: tuple[str, ...]) -> None:
    types = {tensor.name: tensor.data_type for tensor in half.graph.initializer}
    convolutions = [node for node in half.graph.node if node.op_type == "Conv" and node.name not in islands]
    wrong = [node.name for node in convolutions if types.get(node.input[1]) != TensorProto.FLOAT16]
    if wrong:
        raise ContractError(f"{len(wrong)} convolutions did not become float16, the first is {wrong[0]}")


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
