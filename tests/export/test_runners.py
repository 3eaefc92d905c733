"""The engines that are compared, and what is watched while they run."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from breastseg_deploy.errors import ParityError
from breastseg_deploy.phantom import phantom_frame
from breastseg_deploy.preprocess.gabor import GaborParameters
from breastseg_export import runners
from breastseg_export.parity import FP16_LIMITS, HALF_LIMITS, Artefact, check, compare
from breastseg_export.samples import Samples
from breastseg_train.network.architecture import Architecture
from breastseg_train.network.model import SegmentationModel


@pytest.fixture
def model() -> SegmentationModel:
    torch.manual_seed(0)
    return SegmentationModel(Architecture("resnet18", (16,) * 5)).eval()


def rgb(index: int = 0) -> np.ndarray:
    return np.repeat(phantom_frame(index, (64, 64)).frame[:, :, None], 3, 2)


def overflowing(model: SegmentationModel) -> None:
    """Make the projection reach a million: harmless in float32, where the encoder's first batch norm takes it back."""
    with torch.no_grad():
        model.projection[3].weight *= 1e6
        model.unet.encoder.bn1.running_var.fill_(1e12)


def test_reference_gives_a_float32_probability_per_pixel(model: SegmentationModel) -> None:
    probability = runners.reference(model)(rgb())
    assert (probability.shape, probability.dtype) == ((64, 64), np.float32)
    assert 0 < probability.min() <= probability.max() < 1


def test_half_precision_in_torch_stays_close_on_a_tame_network(model: SegmentationModel) -> None:
    error = np.abs(runners.half_in_torch(model)(rgb()) - runners.reference(model)(rgb())).max()
    assert 0 < error < 5e-3


def test_making_the_half_precision_engine_leaves_the_model_in_float32(model: SegmentationModel) -> None:
    runners.half_in_torch(model)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


def test_modules_that_are_named_stay_in_float32_and_read_what_nobody_rounded(model: SegmentationModel) -> None:
    """All of them: then nothing is rounded at all."""
    names = [name for name, _ in model.named_modules() if name]
    np.testing.assert_array_equal(runners.half_in_torch(model, names)(rgb()), runners.reference(model)(rgb()))


def test_an_overflow_of_float16_fails_parity_and_passes_with_its_modules_in_float32(model: SegmentationModel) -> None:
    overflowing(model)
    half = Artefact("network", "half", runners.half_in_torch(model), FP16_LIMITS)
    wide = ["projection", "unet.encoder.conv1", "unet.encoder.bn1"]
    mixed = Artefact("network", "mixed", runners.half_in_torch(model, wide), HALF_LIMITS)
    run = compare(runners.reference(model), [half, mixed], Samples(None, (64, 64)), 0.5)
    with pytest.raises(ParityError, match="network in half: worst frame Dice") as caught:
        check(run.summaries)
    assert "mixed" not in str(caught.value)


def test_edge_channel_check_passes_for_the_paper_bank_and_others() -> None:
    runners.check_edge_channel(rgb(), GaborParameters())
    runners.check_edge_channel(rgb(), GaborParameters(wavelengths_px=(5.0,), orientations=3, zero_mean=True))


def test_edge_channel_check_refuses_a_wrong_channel(monkeypatch: pytest.MonkeyPatch) -> None:
    right = runners.network_input
    monkeypatch.setattr(runners, "network_input", lambda frames, gabor: right(frames, gabor) + 2e-5)
    with pytest.raises(ParityError, match=r"off its float64 reference, the limit is 1e-05"):
        runners.check_edge_channel(rgb(), GaborParameters())
