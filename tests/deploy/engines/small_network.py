"""Networks small enough that TensorRT-RTX builds them in a tenth of a second, good ones and bad ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

SIDE = 32
ISLANDS = ("stem",)
Shape = Sequence[int | str]


def network(nodes: Sequence[onnx.NodeProto], *, batch: int | str = "N", inputs: int = 1, **weights: Any) -> bytes:
    """A graph from `tensor` (N, 4, 32, 32) float32 to `logits`, as the content of an ONNX file."""
    shape: Shape = [batch, 4, SIDE, SIDE]
    names = ["tensor", "second", "third"][:inputs]
    body = helper.make_graph(
        nodes,
        "network",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in names],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [batch, 4, SIDE, SIDE])],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    versions = [helper.make_opsetid("", 20), helper.make_opsetid("elsewhere", 1)]
    content: bytes = helper.make_model(body, opset_imports=versions, ir_version=10).SerializeToString()
    return content


def kernel(dtype: type[Any]) -> Any:
    """Weights of a convolution of four channels."""
    return (np.random.default_rng(0).standard_normal((4, 4, 3, 3)) / 6).astype(dtype)


def convolution(before: str, after: str, weights: str, name: str) -> onnx.NodeProto:
    return helper.make_node("Conv", [before, weights], [after], name=name, pads=[1, 1, 1, 1])


def cast(before: str, after: str, to: int) -> onnx.NodeProto:
    return helper.make_node("Cast", [before], [after], name=f"to-{after}", to=to)


def half_network(**change: Any) -> bytes:
    """A float32 stem, an island, before a float16 body: typed as the exporter types the real one."""
    nodes = [
        convolution("tensor", "stem-out", "w32", "stem"),
        cast("stem-out", "h", TensorProto.FLOAT16),
        convolution("h", "body-out", "w16", "body"),
        cast("body-out", "logits", TensorProto.FLOAT),
    ]
    return network(nodes, w32=kernel(np.float32), w16=kernel(np.float16), **change)


def float_network() -> bytes:
    """Two float32 convolutions, as a float32 export would hold them."""
    nodes = [convolution("tensor", "a", "w32", "stem"), convolution("a", "logits", "w32", "body")]
    return network(nodes, w32=kernel(np.float32))


def half_convolution_of_a_float_tensor() -> bytes:
    return network([convolution("tensor", "logits", "w16", "body")], w16=kernel(np.float16))


def sum_of_half_and_float() -> bytes:
    nodes = [
        cast("tensor", "h", TensorProto.FLOAT16),
        helper.make_node("Add", ["tensor", "h"], ["logits"], name="mixed-sum"),
    ]
    return network(nodes)


def custom_operation() -> bytes:
    return network([helper.make_node("Gabor", ["tensor"], ["logits"], domain="elsewhere", name="edge")])


def nothing_heavy() -> bytes:
    return network([helper.make_node("Relu", ["tensor"], ["logits"], name="only")])
