"""An exported network's nodes by the names that a reader of the model knows: layers, and groups of layers."""

from __future__ import annotations

import ast
import re
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import onnx
from onnx import ModelProto, NodeProto, ValueInfoProto, helper

_SCOPES = "pkg.torch.onnx.name_scopes"
"""Where torch.onnx.export writes the modules that a node comes from, the outermost first, the operation last."""
_ENCODER, _DECODER_BLOCK = "unet.encoder", re.compile(r"unet\.decoder\.blocks\.x_\d+_(\d+)")
_PLAIN_NAMES = {"projection": "projection", "unet.segmentation_head": "head"}

Groups = frozenset[str]
"""Names of groups."""


@dataclass(frozen=True)
class Group:
    """Nodes that become float32 together.

    Attributes:
        name: as a reader of the model would call it, e.g. "encoder stage 2".
        nodes: in the order of the graph.
    """

    name: str
    nodes: tuple[NodeProto, ...]

    @property
    def node_names(self) -> frozenset[str]:
        """Names of the nodes."""
        return frozenset(node.name for node in self.nodes)


def layer_of(node: NodeProto) -> str:
    """The innermost torch module that a node comes from, e.g. "unet.encoder.layer1.0.bn2"; else the node's own name.

    A batch norm that the export folded into its convolution gives the convolution its own name.
    """
    return (_scopes(node)[:-1] or [""])[-1] or node.name


def groups(network: ModelProto) -> tuple[Group, ...]:
    """The network cut into groups, each of which reads only the tensor and groups before it.

    Projection; stem: the encoder up to the first feature map that the decoder reads; an encoder stage up to each
    further one; the decoder's blocks by resolution, from the coarsest (x_*_0) to the finest; head. A graph without
    torch's names is one group.
    """
    names = _encoder_groups(network.graph.node)
    for node in network.graph.node:
        scopes = " ".join(_scopes(node))
        block = _DECODER_BLOCK.search(scopes)
        plain = next((name for scope, name in _PLAIN_NAMES.items() if scope in _scopes(node)), None)
        name = f"decoder x_*_{block[1]}" if block else plain
        if name is not None:
            names[node.name] = name
    readers: dict[str, list[str]] = {}
    for node in reversed(network.graph.node):  # what joins feature maps for a block belongs to that block
        reading = [names[reader] for value in node.output for reader in readers.get(value, [])]
        names.setdefault(node.name, min(reading, key=_position, default="network"))
        for value in node.input:
            readers.setdefault(value, []).append(node.name)
    found: dict[str, list[NodeProto]] = {}
    for node in network.graph.node:
        found.setdefault(names[node.name], []).append(node)
    return tuple(Group(name, tuple(found[name])) for name in sorted(found, key=_position))


def part(network: ModelProto, nodes: Sequence[NodeProto], values: dict[str, ValueInfoProto]) -> ModelProto:
    """Some nodes of a network as a model: it reads what they do not make, and gives what others read of them.

    Args:
        network: the whole.
        nodes: of one group.
        values: the description of every value of the network (`described_values`).
    """
    graph = network.graph
    weights = {tensor.name for tensor in graph.initializer}
    read = list(dict.fromkeys(name for node in nodes for name in node.input if name))
    made = {name for node in nodes for name in node.output}
    chosen = {node.name for node in nodes}
    wanted = {name for node in graph.node if node.name not in chosen for name in node.input}
    wanted |= {value.name for value in graph.output}
    body = helper.make_graph(
        nodes,
        "part",
        [values[name] for name in read if name not in made and name not in weights],
        [values[name] for name in dict.fromkeys(n for node in nodes for n in node.output) if name in wanted],
        [tensor for tensor in graph.initializer if tensor.name in read],
    )
    return helper.make_model(body, opset_imports=network.opset_import, ir_version=network.ir_version)


def described_values(network: ModelProto) -> dict[str, ValueInfoProto]:
    """Name, type and shape of every value that a network reads, makes or gives."""
    inferred = onnx.shape_inference.infer_shapes(network).graph
    return {value.name: value for value in [*inferred.value_info, *inferred.input, *inferred.output]}


def multiply_adds(network: ModelProto, values: dict[str, ValueInfoProto]) -> dict[str, int]:
    """Multiply-adds of each convolution for one frame, by the node's name."""
    shapes = {tensor.name: tensor.dims for tensor in network.graph.initializer}
    return {
        node.name: prod(shapes[node.input[1]]) * plane_size(values[node.output[0]])
        for node in network.graph.node
        if node.op_type == "Conv" and node.input[1] in shapes
    }


def plane_size(value: ValueInfoProto) -> int:
    """H x W of an (N, C, H, W) value; 1 where it has no such axes."""
    return prod(axis.dim_value for axis in value.type.tensor_type.shape.dim[2:] if axis.dim_value)


def _encoder_groups(nodes: Sequence[NodeProto]) -> dict[str, str]:
    inside = [node for node in nodes if _ENCODER in _scopes(node)]
    own = {node.name for node in inside}
    features = {name for node in nodes if node.name not in own for name in node.input}
    names, stage = {}, 0
    for node in inside:
        names[node.name] = f"encoder stage {stage}" if stage else "stem"
        stage += bool(features & set(node.output))
    return names


def _position(name: str) -> tuple[int, str]:
    order = ("projection", "stem", "encoder", "decoder", "head")
    return next((place for place, word in enumerate(order) if name.startswith(word)), len(order)), name


def _scopes(node: NodeProto) -> list[str]:
    for entry in node.metadata_props:
        if entry.key == _SCOPES:
            return [str(scope) for scope in ast.literal_eval(entry.value)]
    return []
