"""Channel attention over local windows."""

from __future__ import annotations

import pytest
import torch
from segmentation_models_pytorch.base.modules import SCSEModule

from breastseg_deploy.errors import ArgumentError
from breastseg_train.network.architecture import Architecture
from breastseg_train.network.local_pools import LocalSCSE, LocalSqueeze, squeeze_locally
from breastseg_train.network.model import SegmentationModel

WIDTHS = (16, 16, 16, 16, 16)
LITE0 = Architecture("tu-tf_efficientnet_lite0", WIDTHS)


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def scse() -> SCSEModule:
    torch.manual_seed(0)
    return SCSEModule(32)


def test_a_window_over_everything_is_the_global_pool() -> None:
    features, module = noise(2, 32, 24, 16), scse()
    with torch.inference_mode():
        expected = module(features)
        found = LocalSCSE(module, cell=4, cells=16)(features)
    torch.testing.assert_close(found, expected)


def test_a_position_takes_no_notice_of_what_lies_beyond_its_window() -> None:
    local = LocalSCSE(scse(), cell=4, cells=2)
    features = noise(1, 32, 64, 64)
    elsewhere = features.clone()
    elsewhere[..., 40:, :] = 7
    with torch.inference_mode():
        before, after = local(features), local(elsewhere)
    reach = 8  # half a window on each side of the corners around it
    assert torch.equal(before[..., : 40 - reach, :], after[..., : 40 - reach, :])
    assert not torch.equal(before[..., 40 - reach : 40, :], after[..., 40 - reach : 40, :])


def test_a_crop_at_whole_cells_answers_as_the_whole_does_away_from_its_borders() -> None:
    local = LocalSCSE(scse(), cell=4, cells=2)
    features = noise(1, 32, 64, 64)
    with torch.inference_mode():
        whole, crop = local(features), local(features[..., 16:48, 8:56])
    torch.testing.assert_close(crop[..., 8:-8, 8:-8], whole[..., 24:40, 16:48], atol=1e-6, rtol=0)


def test_the_windows_are_of_one_size_on_the_frame_at_every_level() -> None:
    model = SegmentationModel(Architecture("tu-tf_efficientnet_lite0", WIDTHS, pool_window_px=128)).eval()
    cells_px: set[float] = set()

    def note(module: LocalSCSE, inputs: tuple[torch.Tensor]) -> None:
        cells_px.add(module.cell * 192 / inputs[0].shape[-1])

    for module in model.modules():
        if isinstance(module, LocalSCSE):
            module.register_forward_pre_hook(note)
    with torch.inference_mode():
        model(torch.zeros(1, 4, 64, 192))
    assert cells_px == {32.0}


def test_the_weights_of_a_network_with_global_pools_fit_one_with_local_pools() -> None:
    torch.manual_seed(0)
    whole = SegmentationModel(LITE0)
    local = SegmentationModel(Architecture("tu-tf_efficientnet_lite0", WIDTHS, pool_window_px=1024))
    local.load_state_dict(whole.state_dict())
    tensor = noise(1, 4, 64, 96)
    with torch.inference_mode():
        torch.testing.assert_close(local.eval()(tensor), whole.eval()(tensor), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("window_px", [0, -64, 96, 100])
def test_a_window_that_no_grid_carries_is_refused(window_px: int) -> None:
    with pytest.raises(ArgumentError, match=f"a positive multiple of 64, got {window_px}"):
        SegmentationModel(Architecture("tu-tf_efficientnet_lite0", WIDTHS, pool_window_px=window_px))


ENCODERS = ("efficientnet-b0", "tu-efficientnet_b0", "tu-seresnet18", "se_resnet50", "tu-ese_vovnet19b_dw")
"""One for each kind of squeeze-and-excitation."""


@pytest.mark.parametrize("encoder", ENCODERS)
def test_an_encoder_squeezed_over_a_window_that_holds_everything_is_what_it_was(encoder: str) -> None:
    torch.manual_seed(0)
    model = SegmentationModel(Architecture(encoder, WIDTHS)).eval()
    tensor = noise(1, 4, 64, 96)
    with torch.inference_mode():
        expected = model.encode(tensor)
        assert squeeze_locally(model.unet.encoder, 1024) > 0
        for found, before in zip(model.encode(tensor), expected, strict=True):
            torch.testing.assert_close(found, before, atol=1e-4, rtol=1e-3)


def test_an_encoder_without_squeeze_and_excitation_is_left_as_it_is() -> None:
    model = SegmentationModel(LITE0).eval()
    before = str(model)
    assert squeeze_locally(model.unet.encoder, 128) == 0
    assert str(model) == before


def test_a_squeeze_takes_no_notice_of_what_lies_beyond_its_window() -> None:
    local = LocalSqueeze(torch.nn.Sequential(torch.nn.Conv2d(8, 8, 1), torch.nn.Sigmoid()), cell=1, cells=4)
    features = noise(1, 8, 32, 32)
    elsewhere = features.clone()
    elsewhere[..., 20:, :] = 7
    with torch.inference_mode():
        before, after = local(features), local(elsewhere)
    assert torch.equal(before[..., :17, :], after[..., :17, :])
    assert not torch.equal(before[..., 18, :], after[..., 18, :])
