"""The exported graphs: contracts of input and output, types, and sizes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from breastseg_deploy.bundle import MODEL, NETWORK_FP16
from breastseg_deploy.errors import ContractError, FrameError
from breastseg_deploy.phantom import phantom_frame
from breastseg_deploy.preprocess import network_input
from breastseg_export import graph
from breastseg_train.model import Architecture, SegmentationModel

SIDE = 128


def element_types(model: onnx.ModelProto) -> dict[str, int]:
    """Type of every value in a graph, by name."""
    inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True).graph
    values = [*inferred.input, *inferred.output, *inferred.value_info]
    types = {value.name: value.type.tensor_type.elem_type for value in values}
    return types | {tensor.name: tensor.data_type for tensor in inferred.initializer}


def shape_of(value: onnx.ValueInfoProto) -> list[int | str]:
    return [axis.dim_param or axis.dim_value for axis in value.type.tensor_type.shape.dim]


def two_layer_network() -> onnx.ModelProto:
    """A convolution and a global pool, enough to tell how types are assigned."""
    weights = np.random.default_rng(0).standard_normal((1, 4, 3, 3)).astype(np.float32)
    nodes = [
        helper.make_node("Conv", ["tensor", "weights"], ["features"], name="conv", pads=[1, 1, 1, 1]),
        helper.make_node("ReduceMean", ["features", "axes"], ["pooled"], name="pool"),
        helper.make_node("Mul", ["features", "pooled"], ["logits"], name="scale"),
    ]
    body = helper.make_graph(
        nodes,
        "network",
        [helper.make_tensor_value_info("tensor", TensorProto.FLOAT, ["N", 4, 32, 32])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", 1, 32, 32])],
        [numpy_helper.from_array(weights, "weights"), numpy_helper.from_array(np.array([2, 3]), "axes")],
    )
    return helper.make_model(body, opset_imports=[helper.make_opsetid("", graph.OPSET)], ir_version=10)


def test_portable_model_takes_uint8_frames_and_gives_float32_probabilities(demo_bundle: Path) -> None:
    model = onnx.load(demo_bundle / MODEL)
    onnx.checker.check_model(model, full_check=True)
    (frames,), (probability,) = model.graph.input, model.graph.output
    assert frames.type.tensor_type.elem_type == TensorProto.UINT8
    assert shape_of(frames) == ["N", SIDE, SIDE, 3]
    assert probability.type.tensor_type.elem_type == TensorProto.FLOAT
    assert shape_of(probability) == ["N", 1, SIDE, SIDE]
    assert {(o.domain, o.version >= 18) for o in model.opset_import} == {("", True)}


def test_portable_model_takes_any_batch_with_the_same_result_per_frame(demo_bundle: Path) -> None:
    session = onnxruntime.InferenceSession(demo_bundle / MODEL, providers=["CPUExecutionProvider"])
    frames = np.stack([np.repeat(phantom_frame(i, (SIDE, SIDE)).frame[:, :, None], 3, 2) for i in range(3)])
    together = session.run(None, {"frames": frames})[0]
    alone = np.concatenate([session.run(None, {"frames": frame[None]})[0] for frame in frames])
    np.testing.assert_allclose(together, alone, atol=1e-6)


def test_preprocessing_inside_the_portable_model_is_the_runtime_reference(demo_bundle: Path) -> None:
    inner = onnx.utils.Extractor(onnx.load(demo_bundle / MODEL)).extract_model([graph.FRAMES], [graph.TENSOR])
    session = onnxruntime.InferenceSession(inner.SerializeToString(), providers=["CPUExecutionProvider"])
    frames = np.random.default_rng(1).integers(0, 256, (2, SIDE, SIDE, 3), dtype=np.uint8)
    np.testing.assert_allclose(session.run(None, {"frames": frames})[0], network_input(frames), atol=1e-5)


def test_float16_network_is_strongly_typed(demo_bundle: Path) -> None:
    model = onnx.load(demo_bundle / NETWORK_FP16)
    types = element_types(model)
    convolutions = [node for node in model.graph.node if node.op_type == "Conv"]
    pools = [node for node in model.graph.node if node.op_type in graph.ISLAND_OPERATORS]
    assert types["tensor"] == TensorProto.FLOAT16
    assert types["logits"] == TensorProto.FLOAT
    assert len(convolutions) > 100
    assert {types[name] for node in convolutions for name in (*node.input[:2], *node.output)} == {TensorProto.FLOAT16}
    assert len(pools) > 30
    assert {types[name] for node in pools for name in (node.input[0], *node.output)} == {TensorProto.FLOAT}


def test_half_network_names_its_float32_islands() -> None:
    half, islands = graph.half_network(two_layer_network())
    types = element_types(half)
    assert islands == ("pool",)
    assert types["weights"] == TensorProto.FLOAT16
    assert types["logits"] == TensorProto.FLOAT


def test_half_network_keeps_the_numbers() -> None:
    tensor = np.random.default_rng(2).standard_normal((2, 4, 32, 32)).astype(np.float32)
    full = onnxruntime.InferenceSession(two_layer_network().SerializeToString(), providers=["CPUExecutionProvider"])
    half = onnxruntime.InferenceSession(
        graph.half_network(two_layer_network())[0].SerializeToString(), providers=["CPUExecutionProvider"]
    )
    expected = full.run(None, {"tensor": tensor})[0]
    found = half.run(None, {"tensor": tensor.astype(np.float16)})[0]
    np.testing.assert_allclose(found, expected, atol=4e-3)  # two roundings to 11 bits of values up to about 2


def test_a_convolution_that_stays_float32_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graph, "ISLAND_OPERATORS", ("Conv",))
    with pytest.raises(ContractError, match="1 convolutions did not become float16, the first is conv"):
        graph.half_network(two_layer_network())


@pytest.mark.parametrize("side", [0, 16, 500, 513])
def test_a_size_that_is_no_multiple_of_32_is_refused_before_tracing(side: int) -> None:
    model = SegmentationModel(Architecture("resnet18", (16,) * 5)).eval()
    with pytest.raises(FrameError, match=f"multiple of 32 on both sides, got {side} x {side}; the nearest is"):
        graph.export_network(model, (side, side))
