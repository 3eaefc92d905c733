"""The engines that are compared, and what is watched while they run."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from breastseg_deploy.errors import ParityError
from breastseg_deploy.gabor import GaborParameters
from breastseg_deploy.phantom import phantom_frame
from breastseg_export import artefacts
from breastseg_export.parity import FP16_LIMITS, Artefact, check, compare
from breastseg_export.samples import Samples
from breastseg_train.model import Architecture, SegmentationModel


@pytest.fixture
def model() -> SegmentationModel:
    torch.manual_seed(0)
    return SegmentationModel(Architecture("resnet18", (16,) * 5)).eval()


def rgb(index: int = 0) -> np.ndarray:
    return np.repeat(phantom_frame(index, (64, 64)).frame[:, :, None], 3, 2)


def test_reference_gives_a_float32_probability_per_pixel(model: SegmentationModel) -> None:
    probability = artefacts.reference(model)(rgb())
    assert (probability.shape, probability.dtype) == ((64, 64), np.float32)
    assert 0 < probability.min() <= probability.max() < 1


def test_half_precision_in_torch_stays_close_on_a_tame_network(model: SegmentationModel) -> None:
    error = np.abs(artefacts.half_in_torch(model)(rgb()) - artefacts.reference(model)(rgb())).max()
    assert 0 < error < 5e-3


def test_making_the_half_precision_engine_leaves_the_model_in_float32(model: SegmentationModel) -> None:
    artefacts.half_in_torch(model)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


def test_an_overflow_of_float16_fails_parity(model: SegmentationModel) -> None:
    with torch.no_grad():
        model.projection[3].weight *= 1e6  # harmless in float32; the encoder's first batch norm is given its scale
        model.unet.encoder.bn1.running_var.fill_(1e12)
    half = Artefact("network", "half", artefacts.half_in_torch(model), FP16_LIMITS)
    run = compare(artefacts.reference(model), [half], Samples(None, (64, 64)), 0.5)
    with pytest.raises(ParityError, match="network in half: worst frame Dice"):
        check(run.summaries)


def test_activations_record_the_layer_that_reaches_furthest() -> None:
    network = nn.Sequential(nn.Conv2d(1, 1, 1, bias=False), nn.ReLU(), nn.Conv2d(1, 1, 1, bias=False))
    with torch.no_grad():
        network[0].weight.fill_(-300.0)
        network[2].weight.fill_(2.0)
    activations = artefacts.record_activations(network)
    network(torch.full((1, 1, 2, 2), 5.0))
    assert activations.peak == ("0", 1500.0)
    network(torch.full((1, 1, 2, 2), -5.0))
    assert activations.peak == ("2", 3000.0)
    assert activations.largest == {"0": 1500.0, "1": 1500.0, "2": 3000.0}


def test_edge_channel_check_passes_for_the_paper_bank_and_others() -> None:
    artefacts.check_edge_channel(rgb(), GaborParameters())
    artefacts.check_edge_channel(rgb(), GaborParameters(wavelengths_px=(5.0,), orientations=3, zero_mean=True))


def test_edge_channel_check_refuses_a_wrong_channel(monkeypatch: pytest.MonkeyPatch) -> None:
    right = artefacts.network_input
    monkeypatch.setattr(artefacts, "network_input", lambda frames, gabor: right(frames, gabor) + 2e-5)
    with pytest.raises(ParityError, match=r"off its float64 reference, the limit is 1e-05"):
        artefacts.check_edge_channel(rgb(), GaborParameters())
