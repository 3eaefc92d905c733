"""The exported graphs: contracts of input and output, types, and sizes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto

from breastseg_deploy.bundle import MODEL
from breastseg_deploy.errors import FrameError
from breastseg_deploy.phantom import phantom_frame
from breastseg_deploy.preprocess.tensor import network_input
from breastseg_export import graph
from breastseg_train.network.architecture import Architecture
from breastseg_train.network.model import SegmentationModel

SIDE = 128


def shape_of(value: onnx.ValueInfoProto) -> list[int | str]:
    return [axis.dim_param or axis.dim_value for axis in value.type.tensor_type.shape.dim]


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


@pytest.mark.parametrize("side", [0, 16, 500, 513])
def test_a_size_that_is_no_multiple_of_32_is_refused_before_tracing(side: int) -> None:
    model = SegmentationModel(Architecture("resnet18", (16,) * 5)).eval()
    with pytest.raises(FrameError, match=f"multiple of 32 on both sides, got {side} x {side}; the nearest is"):
        graph.export_network(model, (side, side))
