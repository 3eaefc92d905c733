"""What a float16 network gives in an engine that sums in float16: against sums worked out product by product."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from breastseg_deploy.artefacts import HalfPrecision, details_of
from breastseg_deploy.bundle import FP16
from breastseg_deploy.errors import ArgumentError, ParityError
from breastseg_deploy.manifest import Manifest
from breastseg_deploy.preprocess.gabor import GaborParameters
from breastseg_export.exporter import export_bundle
from breastseg_export.graph import OPSET, export_network
from breastseg_export.named_frames import NamedFrames
from breastseg_export.parity import FLOAT16_SUMS_LIMITS, FP16_LIMITS, Compared, check, compare
from breastseg_export.precision.half import explicitly_rounded, half_network
from breastseg_export.precision.sums import FLOAT16_SUMS, PRODUCTS, SummedInHalf, network_summing_in_float16
from breastseg_export.runners import network_in_onnxruntime, reference
from breastseg_export.settings import ExportSettings
from breastseg_train.network.architecture import Architecture
from breastseg_train.network.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from breastseg_train.network.model import SegmentationModel

SIZE = (128, 128)


def network(nodes: Sequence[NodeProto], channels: int, **weights: NDArray[Any]) -> ModelProto:
    """A float32 network of these nodes, from "tensor" to "logits"."""
    body = helper.make_graph(
        nodes,
        "network",
        [helper.make_tensor_value_info("tensor", TensorProto.FLOAT, [1, channels, "H", "W"])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1, "K", "h", "w"])],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    return helper.make_model(body, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=10)


def convolution(weight: NDArray[np.float32], bias: NDArray[np.float32] | None = None, **options: Any) -> ModelProto:
    given = {"weight": weight} | ({} if bias is None else {"bias": bias})
    node = helper.make_node("Conv", ["tensor", *given], ["logits"], name="conv", **options)
    return network([node], weight.shape[1] * options.get("group", 1), **given)


def summed(model: ModelProto, tensor: NDArray[np.float32], islands: Sequence[str] = ()) -> NDArray[np.float32]:
    return SummedInHalf(half_network(model, islands)).logits(tensor)


def integers(*shape: int) -> NDArray[np.float32]:
    """Whole numbers up to 30: float32 adds their products up exactly, float16 cannot from 2048 on."""
    return np.random.default_rng(0).integers(-30, 31, shape).astype(np.float32)


def product_by_product(
    tensor: NDArray[np.float32], weight: NDArray[np.float32], step: int, group: int
) -> NDArray[np.float16]:
    """The first filter's plane, its sums rounded after each `PRODUCTS` channels at each place of the kernel."""
    _, channels, *kernel = weight.shape
    height, width = ((side - taps) // step + 1 for side, taps in zip(tensor.shape[2:], kernel, strict=True))
    plane = np.zeros((height, width), np.float16)
    for row, column in np.ndindex(height, width):
        total = np.float16(0)
        for y, x in itertools.product(*map(range, kernel)):
            products = tensor[0, :channels, row * step + y, column * step + x] * weight[0, :, y, x]
            for first in range(0, channels, PRODUCTS):
                total = np.float16(np.float32(total) + products[first : first + PRODUCTS].sum())
        plane[row, column] = total
    return plane


@pytest.mark.parametrize(
    ("filters", "channels", "group", "kernel", "step"),
    [(3, 20, 1, (3, 3), 1), (2, 40, 1, (1, 1), 1), (2, 16, 1, (5, 5), 2), (6, 1, 6, (5, 5), 1), (4, 1, 4, (3, 3), 2)],
)
def test_sums_are_rounded_after_each_sixteen_channels_at_one_place(
    filters: int, channels: int, group: int, kernel: tuple[int, int], step: int
) -> None:
    tensor, weight = integers(1, channels * group, 9, 12), integers(filters, channels, *kernel)
    found = summed(convolution(weight, group=group, strides=[step, step]), tensor)
    np.testing.assert_array_equal(found, product_by_product(tensor, weight, step, group))


def test_padding_dilation_and_bias_are_those_of_the_convolution() -> None:
    """Small whole numbers: float16 holds all sums, so the answer is the plain one."""
    tensor, weight, bias = integers(1, 4, 9, 11) % 3, integers(2, 4, 3, 3) % 3, integers(2)
    model = convolution(weight, bias, pads=[2, 1, 0, 3], dilations=[2, 2])
    plain = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    np.testing.assert_array_equal(summed(model, tensor), plain.run(None, {"tensor": tensor})[0][0, 0])


def test_frames_of_many_strips_are_put_together_again() -> None:
    tensor, weight = integers(1, 3, 700, 600) % 2, integers(1, 3, 3, 3) % 2
    model = convolution(weight, pads=[1, 1, 1, 1])
    plain = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    np.testing.assert_array_equal(summed(model, tensor), plain.run(None, {"tensor": tensor})[0][0, 0])


def test_small_products_are_lost_beside_a_large_sum_and_kept_in_an_island() -> None:
    tensor, weight = np.ones((1, 160, 1, 1), np.float32), np.full((1, 160, 1, 1), 0.1, np.float32)
    weight[0, 0] = 4096
    model = convolution(weight)
    assert summed(model, tensor) == 4096
    assert summed(model, tensor, islands=["conv"]) == pytest.approx(4096 + 15.9, abs=0.1)


def test_a_sum_that_leaves_float16_on_its_way_is_infinite_though_its_end_would_fit() -> None:
    weight = np.zeros((1, 48, 1, 1), np.float32)
    weight[0, [0, 16, 32], 0, 0] = 60000, 60000, -60000
    tensor = np.ones((1, 48, 1, 1), np.float32)
    rounded = explicitly_rounded(half_network(convolution(weight), ()))
    hiding = onnxruntime.InferenceSession(rounded.SerializeToString(), providers=["CPUExecutionProvider"])
    assert hiding.run(None, {"tensor": tensor})[0] == pytest.approx(60000, rel=1e-3)
    assert not np.isfinite(summed(convolution(weight), tensor))


def test_matrix_products_that_are_no_convolutions_are_refused() -> None:
    product = helper.make_node("MatMul", ["tensor", "weight"], ["logits"], name="product")
    model = network([product], 1, weight=np.ones((8, 8), np.float32))
    with pytest.raises(ArgumentError, match="float16 sums of MatMul are not modelled; export with --precision fp32"):
        SummedInHalf(half_network(model, ()))


def test_pytorch_keeps_its_threads() -> None:
    threads = torch.get_num_threads()
    summed(convolution(integers(1, 1, 1, 1)), integers(1, 1, 2, 2))
    assert torch.get_num_threads() == threads


@pytest.fixture(scope="module")
def beside_4096() -> tuple[SegmentationModel, ModelProto]:
    """The demo, whose projection adds 4096 to its sums, which its bias takes away: what is finer than 2 is lost."""
    model = load_checkpoint("demo").model
    with torch.no_grad():
        model.projection[1].weight[-1], model.projection[1].bias[-1] = 0, 1  # a channel that is 1 everywhere
        model.projection[3].weight[:, -1] = 4096
        model.projection[3].bias -= 4096
    return model, export_network(model, SIZE)


def test_a_network_in_float32_islands_alone_is_the_float32_network() -> None:
    torch.manual_seed(0)
    model = SegmentationModel(Architecture("resnet18", (16,) * 5)).eval()
    network = export_network(model, SIZE)
    half = half_network(network, [node.name for node in network.graph.node])
    frame = NamedFrames(None, SIZE)[0].frame
    found = network_summing_in_float16(half, GaborParameters())(frame)
    np.testing.assert_allclose(found, reference(model)(frame), atol=1e-5)


def test_float16_sums_that_spoil_a_mask_fail_parity_where_float32_sums_pass(
    beside_4096: tuple[SegmentationModel, ModelProto],
) -> None:
    model, network = beside_4096
    half, gabor, frames = half_network(network, ()), GaborParameters(), NamedFrames(None, SIZE)
    compared = [
        Compared("file", "ONNX Runtime", network_in_onnxruntime(half, gabor), FP16_LIMITS),
        Compared("file", FLOAT16_SUMS, network_summing_in_float16(half, gabor), FLOAT16_SUMS_LIMITS, {frames[0].name}),
    ]
    run = compare(reference(model), compared, frames, 0.5)
    assert run.summaries[compared[1].title].frames == 1
    with pytest.raises(ParityError, match=r"^file in PyTorch with float16 sums: worst frame Dice 0\.[0-9]"):
        check(run.summaries)


def test_an_export_puts_the_layer_into_float32_whose_sums_float16_cannot_hold(
    beside_4096: tuple[SegmentationModel, ModelProto], tmp_path: Path
) -> None:
    checkpoint = tmp_path / "beside.safetensors"
    save_checkpoint(Checkpoint(beside_4096[0]), checkpoint)
    told: list[str] = []
    manifest = export_bundle(
        ExportSettings(str(checkpoint), tmp_path / "bundle", size_px=SIZE[0], slide=False), told.append
    )
    (half,) = details_of(manifest, FP16, HalfPrecision)
    wide = [step.rsplit(": ")[-1] for step in told if step.startswith("further layers in float32")]
    assert wide[-1] == "projection"
    assert half.groups == ("projection",)


def test_the_bundle_says_what_float16_sums_would_cost(demo_manifest: Manifest) -> None:
    artefact = demo_manifest.artefact(FP16)
    assert artefact is not None
    exact, sums = artefact.parity
    (half,) = details_of(demo_manifest, FP16, HalfPrecision)
    assert (exact.limits, sums.engine) == (FP16_LIMITS, FLOAT16_SUMS)
    assert sums.frames == len(half.search_frames)
    assert sums.frames_with_cells >= 2
    assert sums.worst_dice >= sums.limits.worst_dice == FLOAT16_SUMS_LIMITS.worst_dice
    assert 0 < sums.largest_probability_error < 0.1
