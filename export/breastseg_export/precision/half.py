"""The strongly typed float16 network: precision stands in the file, not in a flag."""

from __future__ import annotations

from collections.abc import Collection, Iterator

import numpy as np
import onnx
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

from breastseg_deploy.errors import ArgumentError

FLOAT, FLOAT16 = int(TensorProto.FLOAT), int(TensorProto.FLOAT16)

_ALWAYS_FLOAT32 = {("Resize", 1), ("Resize", 2)}
"""Inputs that ONNX wants in float32 whatever the type of the data: region and scales."""

HEAVY = ("Conv", "ConvTranspose", "MatMul", "Gemm")
"""Operations that add products up."""
_SUFFIX = {FLOAT: "/fp32", FLOAT16: "/fp16"}


def half_network(network: ModelProto, islands: Collection[str]) -> ModelProto:
    """The network in float16 but for its islands; tensor and logits stay float32.

    A value has the type of the node that makes it, and is cast where a node of the other type reads it. So nothing is
    rounded between one island and the next, and an island that reads the tensor reads it unrounded.

    Args:
        network: float32, as `graph.export_network` makes it.
        islands: names of the nodes that compute in float32.

    Raises:
        ArgumentError: a convolution or matrix product beyond the islands did not become float16.
    """
    floats = {name for name, kind in value_types(network).items() if kind == FLOAT}
    half = _without_inner_types(network)
    _assign_types(half.graph, floats, islands)
    onnx.checker.check_model(half, full_check=True)
    _check_heavy_nodes(half, islands)
    return half


def rounded_to_float16(network: ModelProto, islands: Collection[str]) -> ModelProto:
    """`half_network` as ONNX Runtime shows it on a CPU: float32 types, each float16 value rounded where it is made.

    Raises:
        ArgumentError: see `half_network`.
    """
    return explicitly_rounded(half_network(network, islands))


def explicitly_rounded(half: ModelProto) -> ModelProto:
    """The same network in float32 types, with casts that round each float16 value where it is made.

    ONNX Runtime has no float16 kernels for a CPU: it computes a float16 graph in float32 and drops the casts that it
    put between the nodes, so neither the rounding of inner values nor an overflow shows. Casts that stand in the file
    it keeps. This graph computes what the types of `half` say: one rounding per value, sums in float32.
    """
    types = value_types(half)
    rounded = _without_inner_types(half)
    for tensor in rounded.graph.initializer:
        _retype(tensor, FLOAT16, FLOAT)
    _replace_nodes(rounded.graph, [new for node in half.graph.node for new in _rounding(_copy(node), types)])
    return rounded


def value_types(model: ModelProto) -> dict[str, int]:
    """Element type of every value of a graph, initializers too."""
    inferred = onnx.shape_inference.infer_shapes(model).graph
    values = [*inferred.input, *inferred.output, *inferred.value_info]
    types = {value.name: value.type.tensor_type.elem_type for value in values}
    return types | {tensor.name: tensor.data_type for tensor in model.graph.initializer}


def _assign_types(graph: GraphProto, floats: Collection[str], islands: Collection[str]) -> None:
    """Give every node its type, cast where types meet, and store weights in the types that read them."""
    weights = {tensor.name for tensor in graph.initializer}
    weights_read: set[tuple[str, int]] = set()
    made = {value.name: FLOAT for value in graph.input}
    casts: dict[str, NodeProto] = {}
    nodes: list[NodeProto] = []
    for node in map(_copy, graph.node):
        own = FLOAT if node.name in islands else FLOAT16
        for index, name in enumerate(node.input):
            kind = FLOAT if (node.op_type, index) in _ALWAYS_FLOAT32 else own
            if name not in floats or made.get(name) == kind:
                continue
            if name in weights:
                weights_read.add((name, kind))
                node.input[index] = _variant(name, kind)
            else:
                node.input[index] = cast = _variant(name, kind)
                if cast not in casts:  # one cast for each value and type, however many nodes read it
                    casts[cast] = _cast(name, cast, kind)
                    nodes.append(casts[cast])
        if own == FLOAT16:
            _attributes_to_half(node)
        made |= dict.fromkeys(node.output, own)
        nodes.append(node)
    # Outputs stay float32 whatever makes them: the file's interface must not change with the islands.
    for value in graph.output:
        if made[value.name] == FLOAT16:
            inner = _variant(value.name, FLOAT16)
            nodes = [*(_renamed(node, value.name, inner) for node in nodes), _cast(inner, value.name, FLOAT)]
    _store_weights(graph, weights_read)
    _replace_nodes(graph, nodes)


def _variant(name: str, kind: int) -> str:
    return name + _SUFFIX[kind]


def _store_weights(graph: GraphProto, read: Collection[tuple[str, int]]) -> None:
    """Replace each float32 initializer by one per type in which it is read."""
    tensors = []
    for tensor in graph.initializer:
        kinds = [kind for kind in (FLOAT, FLOAT16) if (tensor.name, kind) in read]
        for kind in kinds:
            variant = TensorProto()
            variant.CopyFrom(tensor)
            variant.name = _variant(tensor.name, kind)
            _retype(variant, FLOAT, kind)
            tensors.append(variant)
        if tensor.data_type != FLOAT:
            kept = TensorProto()
            kept.CopyFrom(tensor)
            tensors.append(kept)
    graph.ClearField("initializer")
    graph.initializer.extend(tensors)


def _rounding(node: NodeProto, types: dict[str, int]) -> Iterator[NodeProto]:
    """A node of a float16 graph as nodes of a float32 graph: it and the casts that round its outputs."""
    for attribute in node.attribute:
        if attribute.name == "value":
            _retype(attribute.t, FLOAT16, FLOAT)
    halves = [name for name in node.output if types.get(name) == FLOAT16]
    for name in halves:
        node = _renamed(node, name, f"{name}/exact")
    yield node
    for name in halves:
        if node.op_type == "Cast":
            node.attribute[0].i = FLOAT
        yield _cast(f"{name}/exact", f"{name}/rounded", FLOAT16)
        yield _cast(f"{name}/rounded", name, FLOAT)


def _attributes_to_half(node: NodeProto) -> None:
    """Constants and casts inside a float16 node make float16."""
    for attribute in node.attribute:
        if attribute.name == "value":
            _retype(attribute.t, FLOAT, FLOAT16)
        if (node.op_type, attribute.name, attribute.i) == ("Cast", "to", FLOAT):
            attribute.i = FLOAT16


def _retype(tensor: TensorProto, old: int, new: int) -> None:
    """Change a tensor's type in place, if it is the old one. Beyond 65504 a float16 is infinite."""
    if tensor.data_type == old != new:
        kind = np.float16 if new == FLOAT16 else np.float32
        with np.errstate(over="ignore"):
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(kind), tensor.name))


def _check_heavy_nodes(half: ModelProto, islands: Collection[str]) -> None:
    types = value_types(half)
    heavy = [node for node in half.graph.node if node.op_type in HEAVY and node.name not in islands]
    wrong = [node.name for node in heavy if {types.get(name) for name in node.input if name} != {FLOAT16}]
    if wrong:
        raise ArgumentError(
            f"{len(wrong)} convolutions or matrix products did not become float16, the first is {wrong[0]}; "
            "export with --precision fp32"
        )


def _without_inner_types(model: ModelProto) -> ModelProto:
    copy = ModelProto()
    copy.CopyFrom(model)
    copy.graph.ClearField("value_info")
    return copy


def _replace_nodes(graph: GraphProto, nodes: list[NodeProto]) -> None:
    graph.ClearField("node")
    graph.node.extend(nodes)


def _copy(node: NodeProto) -> NodeProto:
    copy = NodeProto()
    copy.CopyFrom(node)
    return copy


def _renamed(node: NodeProto, old: str, new: str) -> NodeProto:
    node.input[:] = [new if name == old else name for name in node.input]
    node.output[:] = [new if name == old else name for name in node.output]
    return node


def _cast(source: str, target: str, kind: int) -> NodeProto:
    return helper.make_node("Cast", [source], [target], name=f"cast/{source}/{target}", to=kind)
