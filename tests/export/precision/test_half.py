"""The strongly typed float16 network: types, casts, and what its rounding does."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, helper, numpy_helper

from breastseg_deploy.artefacts import HalfPrecision, details_of
from breastseg_deploy.bundle import FP16, NETWORK_FP16
from breastseg_deploy.errors import ArgumentError
from breastseg_deploy.manifest import Manifest
from breastseg_export.graph import OPSET
from breastseg_export.precision.half import explicitly_rounded, half_network, value_types

FLOAT, FLOAT16 = TensorProto.FLOAT, TensorProto.FLOAT16
LAYERS = ("a", "b", "c", "features")


def small_network(scale: float = 1 / 6) -> ModelProto:
    """Four convolutions and a global pool, enough to tell how types are assigned."""
    rng = np.random.default_rng(0)
    nodes = [
        helper.make_node("Conv", [before, f"weights-{after}"], [after], name=f"conv-{after}", pads=[1, 1, 1, 1])
        for before, after in itertools.pairwise(["tensor", *LAYERS])
    ] + [
        helper.make_node("ReduceMean", ["features", "axes"], ["pooled"], name="pool"),
        helper.make_node("Mul", ["features", "pooled"], ["logits"], name="scale"),
    ]
    body = helper.make_graph(
        nodes,
        "network",
        [helper.make_tensor_value_info("tensor", FLOAT, ["N", 4, 32, 32])],
        [helper.make_tensor_value_info("logits", FLOAT, ["N", 4, 32, 32])],
        [numpy_helper.from_array(np.array([2, 3]), "axes")]
        + [
            numpy_helper.from_array(rng.standard_normal((4, 4, 3, 3)).astype(np.float32) * scale, f"weights-{after}")
            for after in LAYERS
        ],
    )
    return helper.make_model(body, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=10)


def node_types(model: ModelProto) -> dict[str, set[int]]:
    """Types of what each node reads and makes, but for the axes of a pool."""
    types = value_types(model)
    return {
        node.name: {types[name] for name in (*node.input, *node.output)} - {TensorProto.INT64}
        for node in model.graph.node
    }


def answers(model: ModelProto) -> Callable[[NDArray[np.float32]], NDArray[np.float32]]:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return lambda tensor: np.asarray(session.run(None, {"tensor": tensor})[0])


@pytest.fixture
def tensor() -> NDArray[np.float32]:
    return np.random.default_rng(2).standard_normal((2, 4, 32, 32)).astype(np.float32)


def test_every_node_but_the_islands_is_float16() -> None:
    types = node_types(half_network(small_network(), ("conv-a", "conv-b", "pool")))
    assert {name for name, kinds in types.items() if kinds == {FLOAT}} == {"conv-a", "conv-b", "pool"}
    assert {name for name, kinds in types.items() if kinds == {FLOAT16}} == {"conv-c", "conv-features", "scale"}


def test_neighbouring_islands_hand_values_over_without_a_cast() -> None:
    half = half_network(small_network(), ("conv-a", "conv-b", "pool"))
    casts = [(node.input[0], node.output[0]) for node in half.graph.node if node.op_type == "Cast"]
    assert [source for source, _ in casts] == ["b", "features", "pooled", "logits/fp16"]


def test_a_network_without_islands_casts_at_its_ends_alone() -> None:
    half = half_network(small_network(), ())
    assert [node.input[0] for node in half.graph.node if node.op_type == "Cast"] == ["tensor", "logits/fp16"]
    assert [value.type.tensor_type.elem_type for value in (*half.graph.input, *half.graph.output)] == [FLOAT, FLOAT]


def test_the_float32_network_stays_as_it_was() -> None:
    network = small_network()
    half_network(network, ("pool",))
    assert network == small_network()


def test_half_network_keeps_the_numbers(tensor: NDArray[np.float32]) -> None:
    expected = answers(small_network())(tensor)
    found = answers(half_network(small_network(), ("pool",)))(tensor)
    assert 0 < np.abs(found - expected).max() < 2e-3 * np.abs(expected).max()


def test_rounding_is_that_of_the_types_node_by_node(tensor: NDArray[np.float32]) -> None:
    """Against the same steps by hand: weights, tensor and each result rounded, sums in float32."""

    def rounded(values: NDArray[np.float32]) -> NDArray[np.float32]:
        return values.astype(np.float16).astype(np.float32)

    network = small_network()
    weights = {t.name: numpy_helper.to_array(t) for t in network.graph.initializer}
    values = rounded(tensor)
    for layer in LAYERS:
        padded = np.pad(values, ((0, 0), (0, 0), (1, 1), (1, 1)))
        windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(2, 3))
        kernel = rounded(weights[f"weights-{layer}"]).astype(np.float64)
        values = rounded(np.einsum("nchwij,kcij->nkhw", windows, kernel).astype(np.float32))
    expected = rounded(values * rounded(values.mean(axis=(2, 3), keepdims=True)))
    found = answers(explicitly_rounded(half_network(network, ())))(tensor)
    unrounded = answers(network)(tensor)
    # A sum in another order may fall to the other side of a half step, so equality is not to be had.
    assert np.abs(found - expected).mean() < 0.2 * np.abs(expected - unrounded).mean()


def test_an_overflow_that_onnxruntime_hides_shows_where_types_are_rounded_explicitly(
    tensor: NDArray[np.float32],
) -> None:
    network = small_network(scale=12.0)
    (last,) = [t for t in network.graph.initializer if t.name == "weights-features"]
    last.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(last) * np.float32(1e-7), last.name))
    half = half_network(network, ())
    assert np.isfinite(answers(half)(tensor)).all()
    assert not np.isfinite(answers(explicitly_rounded(half))(tensor)).all()


def test_islands_are_not_rounded(tensor: NDArray[np.float32]) -> None:
    everything = [node.name for node in small_network().graph.node]
    found = answers(explicitly_rounded(half_network(small_network(), everything)))(tensor)
    np.testing.assert_allclose(found, answers(small_network())(tensor), rtol=1e-6)


def test_weights_that_both_types_read_are_stored_in_both() -> None:
    network = small_network()
    network.graph.node[1].input[1] = "weights-a"
    half = half_network(network, ("conv-a",))
    stored = {tensor.name: tensor.data_type for tensor in half.graph.initializer}
    assert stored == {
        "axes": TensorProto.INT64,
        "weights-a/fp32": FLOAT,
        "weights-a/fp16": FLOAT16,
        "weights-c/fp16": FLOAT16,
        "weights-features/fp16": FLOAT16,
    }


def test_a_convolution_that_cannot_become_float16_is_refused() -> None:
    network = small_network()
    (convolution,) = [node for node in network.graph.node if node.name == "conv-b"]
    convolution.input[:], convolution.output[:] = ["a64", "w64"], ["b64"]
    casts = [("a", "a64", TensorProto.DOUBLE), ("weights-b", "w64", TensorProto.DOUBLE), ("b64", "b", FLOAT)]
    nodes = [helper.make_node("Cast", [old], [new], name=f"to-{new}", to=kind) for old, new, kind in casts]
    order = [network.graph.node[0], *nodes[:2], convolution, nodes[2], *network.graph.node[2:]]
    body = helper.make_graph(order, "n", network.graph.input, network.graph.output, network.graph.initializer)
    double = helper.make_model(body, opset_imports=network.opset_import, ir_version=10)
    with pytest.raises(ArgumentError, match=r"1 convolutions or .* did not become float16, the first is conv-b"):
        half_network(double, ())


def test_float16_network_of_the_bundle_is_strongly_typed_outside_its_islands(
    demo_bundle: Path, demo_manifest: Manifest
) -> None:
    model = onnx.load(demo_bundle / NETWORK_FP16)
    types = value_types(model)
    (half,) = details_of(demo_manifest, FP16, HalfPrecision)
    islands = set(half.fp32_islands)
    nodes = [node for node in model.graph.node if node.op_type != "Cast"]
    convolutions = [node for node in nodes if node.op_type == "Conv" and node.name not in islands]
    assert (types["tensor"], types["logits"]) == (FLOAT, FLOAT)
    assert len(convolutions) > 100
    assert {types[name] for node in convolutions for name in (*node.input, *node.output)} == {FLOAT16}
    assert islands <= {node.name for node in nodes}
    for node in nodes:
        expected = FLOAT if node.name in islands else FLOAT16
        assert {types[name] for name in node.output} == {expected}, node.name
