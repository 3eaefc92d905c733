"""The Gabor bank as a torch module, and the preprocessing around it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from breastseg_deploy.preprocess.gabor import GaborParameters, edge_channel_reference
from breastseg_deploy.preprocess.tensor import network_input
from breastseg_export.preprocessing import EdgeChannel, Preprocessing

BANKS = [GaborParameters(), GaborParameters(wavelengths_px=(6.0,), orientations=5, psi_rad=0.7, zero_mean=True)]


@pytest.mark.parametrize("parameters", BANKS)
@pytest.mark.parametrize("size_px", [(32, 32), (41, 57)])
def test_edge_channel_module_reproduces_the_float64_reference(
    parameters: GaborParameters, size_px: tuple[int, int]
) -> None:
    rgb = np.random.default_rng(3).integers(0, 256, (*size_px, 3), dtype=np.uint8)
    planes = torch.from_numpy(rgb.astype(np.float32)).permute(2, 0, 1)[None]
    found = EdgeChannel(parameters)(planes)[0, 0].numpy()
    assert found.shape == size_px
    assert np.abs(found - edge_channel_reference(rgb, parameters)).max() < 1e-5


def test_preprocessing_module_is_the_runtime_preprocessing() -> None:
    frames = np.random.default_rng(4).integers(0, 256, (2, 64, 96, 3), dtype=np.uint8)
    found = Preprocessing(GaborParameters())(torch.from_numpy(frames)).numpy()
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, network_input(frames), atol=1e-5)
