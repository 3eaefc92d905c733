"""The engines that are compared, and what is watched while they run."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from onnx import ModelProto

from breastseg_deploy.errors import ParityError
from breastseg_deploy.manifest import Parity
from breastseg_deploy.phantom import phantom_frame
from breastseg_deploy.preprocess.gabor import GaborParameters
from breastseg_deploy.preprocess.tensor import network_input
from breastseg_export import runners
from breastseg_export.graph import export_network
from breastseg_export.named_frames import NamedFrames
from breastseg_export.parity import FP16_LIMITS, Compared, check, compare
from breastseg_export.precision.half import half_network
from breastseg_export.precision.layers import layer_of
from breastseg_train.network.architecture import Architecture
from breastseg_train.network.model import SegmentationModel

SIZE = (64, 64)


def random_model() -> SegmentationModel:
    torch.manual_seed(0)
    return SegmentationModel(Architecture("resnet18", (16,) * 5)).eval()


@pytest.fixture(scope="module")
def model() -> SegmentationModel:
    return random_model()


def rgb(index: int = 0) -> np.ndarray:
    return np.repeat(phantom_frame(index, SIZE).frame[:, :, None], 3, 2)


def parity_of(model: SegmentationModel, half: ModelProto) -> dict[str, Parity]:
    run = runners.network_in_onnxruntime(half, model.architecture.gabor)
    limits = FP16_LIMITS.model_copy(update={"mean_dice": 0.99})  # random weights leave every pixel near the threshold
    return compare(
        runners.reference(model), [Compared("file", "half", run, limits)], NamedFrames(None, SIZE), 0.5
    ).summaries


def test_reference_gives_a_float32_probability_per_pixel(model: SegmentationModel) -> None:
    probability = runners.reference(model)(rgb())
    assert (probability.shape, probability.dtype) == ((64, 64), np.float32)
    assert 0 < probability.min() <= probability.max() < 1


def test_a_float16_network_stays_close_on_a_tame_model_and_is_rounded(model: SegmentationModel) -> None:
    half = half_network(export_network(model, SIZE), ())
    found = runners.network_in_onnxruntime(half, GaborParameters())(rgb())
    assert 0 < np.abs(found - runners.reference(model)(rgb())).max() < 5e-3


@pytest.fixture(scope="module")
def reaching_far() -> tuple[SegmentationModel, ModelProto]:
    """Values over 65504 behind the first convolution, taken back before the encoder; all weights suit float16."""
    model = random_model()
    with torch.no_grad():
        for tensor in (model.projection[1].weight, model.projection[1].bias):
            tensor *= 4e4
        for tensor in (model.projection[3].weight, model.unet.encoder.conv1.weight):
            tensor /= 200
    return model, export_network(model, SIZE)


def test_an_overflow_that_onnxruntime_would_hide_fails_parity(
    reaching_far: tuple[SegmentationModel, ModelProto],
) -> None:
    model, network = reaching_far
    hiding = runners.session(half_network(network, ()))
    tensor = network_input(rgb()[np.newaxis], GaborParameters())
    hidden = runners.probability(hiding.run(None, {"tensor": tensor})[0][0, 0])
    assert np.abs(hidden - runners.reference(model)(rgb())).max() < 5e-3
    with pytest.raises(ParityError, match=r"half: worst frame Dice 0\.000000"):
        check(parity_of(model, half_network(network, ())))


def test_layers_that_would_overflow_pass_parity_in_float32(reaching_far: tuple[SegmentationModel, ModelProto]) -> None:
    model, network = reaching_far
    islands = [
        node.name for node in network.graph.node if layer_of(node).startswith(("projection", "unet.encoder.bn1"))
    ]
    check(parity_of(model, half_network(network, islands)))


def test_edge_channel_check_passes_for_the_paper_bank_and_others() -> None:
    runners.check_edge_channel(rgb(), GaborParameters())
    runners.check_edge_channel(rgb(), GaborParameters(wavelengths_px=(5.0,), orientations=3, zero_mean=True))


def test_edge_channel_check_refuses_a_wrong_channel() -> None:
    with pytest.raises(ParityError, match=r"off its float64 reference, the limit is 1e-05"):
        runners.check_edge_channel(rgb(), GaborParameters(), lambda frames, gabor: network_input(frames, gabor) + 2e-5)
