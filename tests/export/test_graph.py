"""The exported graphs: contracts of input and output, types, and sizes."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from breastseg_deploy.bundle import MODEL, NETWORK_FP16
from breastseg_deploy.errors import ContractError, FrameError
from breastseg_deploy.manifest import Manifest
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


def small_network() -> onnx.ModelProto:
    """Four convolutions and a global pool, enough to tell how types are assigned."""
    rng = np.random.default_rng(0)
    values = ["tensor", "a", "b", "c", "features"]
    nodes = [
        helper.make_node("Conv", [before, f"weights-{after}"], [after], name=f"conv-{after}", pads=[1, 1, 1, 1])
        for before, after in itertools.pairwise(values)
    ] + [
        helper.make_node("ReduceMean", ["features", "axes"], ["pooled"], name="pool"),
        helper.make_node("Mul", ["features", "pooled"], ["logits"], name="scale"),
    ]
    body = helper.make_graph(
        nodes,
        "network",
        [helper.make_tensor_value_info("tensor", TensorProto.FLOAT, ["N", 4, 32, 32])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", 4, 32, 32])],
        [numpy_helper.from_array(np.array([2, 3]), "axes")]
        + [
            numpy_helper.from_array(rng.standard_normal((4, 4, 3, 3)).astype(np.float32) / 6, f"weights-{after}")
            for after in values[1:]
        ],
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


def test_float16_network_is_strongly_typed_outside_its_islands(demo_bundle: Path, demo_manifest: Manifest) -> None:
    model = onnx.load(demo_bundle / NETWORK_FP16)
    types = element_types(model)
    assert demo_manifest.half is not None
    islands = set(demo_manifest.half.fp32_islands)
    nodes = [node for node in model.graph.node if node.op_type != "Cast"]
    convolutions = [node for node in nodes if node.op_type == "Conv" and node.name not in islands]
    pools = [node.name for node in nodes if node.op_type in graph.ISLAND_OPERATORS]
    assert (types["tensor"], types["logits"]) == (TensorProto.FLOAT, TensorProto.FLOAT)
    assert len(convolutions) > 100
    assert {types[name] for node in convolutions for name in (*node.input, *node.output)} == {TensorProto.FLOAT16}
    assert len(pools) > 30
    assert islands >= set(pools)
    for node in nodes:
        expected = TensorProto.FLOAT if node.name in islands else TensorProto.FLOAT16
        assert {types[name] for name in node.output} == {expected}, node.name


def test_float16_network_reads_the_tensor_without_rounding_it(demo_bundle: Path) -> None:
    model = onnx.load(demo_bundle / NETWORK_FP16)
    (first,) = [node for node in model.graph.node if "tensor" in node.input]
    assert first.op_type == "Conv"
    assert element_types(model)[first.input[1]] == TensorProto.FLOAT


def test_half_network_names_its_float32_islands() -> None:
    half, islands = graph.half_network(small_network())
    types = element_types(half)
    assert islands == ("conv-a", "conv-b", "conv-c", "pool")
    assert [types[f"weights-{name}"] for name in ("a", "b", "c", "features")] == [
        TensorProto.FLOAT,
        TensorProto.FLOAT,
        TensorProto.FLOAT,
        TensorProto.FLOAT16,
    ]


def test_half_network_keeps_the_numbers() -> None:
    tensor = np.random.default_rng(2).standard_normal((2, 4, 32, 32)).astype(np.float32)
    full = onnxruntime.InferenceSession(small_network().SerializeToString(), providers=["CPUExecutionProvider"])
    half = onnxruntime.InferenceSession(
        graph.half_network(small_network())[0].SerializeToString(), providers=["CPUExecutionProvider"]
    )
    expected, found = full.run(None, {"tensor": tensor})[0], half.run(None, {"tensor": tensor})[0]
    assert 0 < np.abs(found - expected).max() < 2e-3 * np.abs(expected).max()


def test_a_convolution_that_stays_float32_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    convert = graph.convert_float_to_float16
    everything = [node.name for node in small_network().graph.node]
    monkeypatch.setattr(
        graph, "convert_float_to_float16", lambda network, **options: convert(network, node_block_list=everything[:4])
    )
    with pytest.raises(ContractError, match="1 convolutions did not become float16, the first is conv-features"):
        graph.half_network(small_network())


@pytest.mark.parametrize("side", [0, 16, 500, 513])
def test_a_size_that_is_no_multiple_of_32_is_refused_before_tracing(side: int) -> None:
    model = SegmentationModel(Architecture("resnet18", (16,) * 5)).eval()
    with pytest.raises(FrameError, match=f"multiple of 32 on both sides, got {side} x {side}; the nearest is"):
        graph.export_network(model, (side, side))
