"""The network as a processor computes it that multiplies in bfloat16, rounded so that any processor can show it."""

from __future__ import annotations

from collections.abc import Collection, Iterator

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from breastseg_export.precision.half import FLOAT, HEAVY, value_types

_BFLOAT16 = int(TensorProto.BFLOAT16)
_WEIGHT = 1
"""The input of a convolution or matrix product that holds its weight. OpenVINO keeps what is added in float32."""


def rounded_to_bfloat16(network: ModelProto, islands: Collection[str]) -> ModelProto:
    """The same network in float32 types, with casts that round what bfloat16 would.

    Beyond the islands each weight is rounded once, each value where it is made, and each value of an island where it is
    read. Sums are float32, as in the instructions of AVX512_BF16 and AMX. OpenVINO rounds at most that often: what it
    fuses into one kernel it rounds once.

    Args:
        network: float32, as `graph.export_network` makes it, or a part of it.
        islands: names of the nodes that compute in float32.
    """
    floats = {name for name, kind in value_types(network).items() if kind == FLOAT}
    weights = {tensor.name: tensor for tensor in network.graph.initializer}
    reduced = [node for node in network.graph.node if node.name not in islands]
    heavy = {node.input[_WEIGHT] for node in reduced if node.op_type in HEAVY} & weights.keys()
    exact = {value.name for value in network.graph.input}
    exact.update(name for node in network.graph.node if node.name in islands for name in node.output)
    rounded = ModelProto()
    rounded.CopyFrom(network)
    graph, cast = rounded.graph, set[str]()
    graph.ClearField("value_info")
    graph.ClearField("node")
    for node in network.graph.node:
        copy = NodeProto()
        copy.CopyFrom(node)
        if node.name in islands:
            graph.node.append(copy)
            continue
        for index, name in enumerate(node.input):
            # Rounded where it is read, once for all readers: an input or an island's value is exact for its own kind.
            if name in exact & floats:
                copy.input[index] = _rounded(name)
                graph.node.extend(() if name in cast else _rounding(name, _rounded(name)))
                cast.add(name)
            elif name in heavy and index == _WEIGHT and node.op_type in HEAVY:
                copy.input[index] = _rounded(name)
        made = [name for name in node.output if name in floats]
        copy.output[:] = [f"{name}/exact" if name in made else name for name in node.output]
        graph.node.append(copy)
        for name in made:
            graph.node.extend(_rounding(f"{name}/exact", name))
    graph.initializer.extend(
        numpy_helper.from_array(nearest_bfloat16(numpy_helper.to_array(weights[name])), _rounded(name))
        for name in sorted(heavy)
    )
    return rounded


def nearest_bfloat16(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Finite values rounded to 8 bits of precision, ties to even, as VCVTNEPS2BF16 does."""
    bits = np.asarray(values, np.float32, order="C").view(np.uint32)
    return ((bits + np.uint32(0x7FFF) + ((bits >> 16) & np.uint32(1))) & np.uint32(0xFFFF0000)).view(np.float32)


def _rounded(name: str) -> str:
    return f"{name}/bf16"


def _rounding(source: str, target: str) -> Iterator[NodeProto]:
    """Two casts, which stand in the file so that ONNX Runtime keeps them."""
    inner = f"{target}/in bfloat16"
    yield helper.make_node("Cast", [source], [inner], name=f"cast/{inner}", to=_BFLOAT16)
    yield helper.make_node("Cast", [inner], [target], name=f"cast/{target}", to=FLOAT)
