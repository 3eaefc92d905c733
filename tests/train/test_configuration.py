"""Presets and what a configuration refuses."""

from __future__ import annotations

import pytest

from breastseg_deploy.errors import ContractError
from breastseg_train.configuration import PRESETS, Configuration, preset_configuration


def test_the_paper_preset_is_the_papers() -> None:
    paper = preset_configuration("paper")
    assert (paper.encoder, paper.decoder_channels) == ("efficientnet-b7", (256, 128, 64, 32, 16))
    assert (paper.crop_px, paper.batch_size, paper.accumulation, paper.epochs) == (512, 4, 2, 200)
    assert (paper.lr_max, paper.lr_min, paper.warmup_share) == (3e-4, 3e-7, 0.1)
    assert (paper.weight_decay, paper.clip_norm, paper.brightness_contrast) == (1e-4, 0.5, 0.2)
    assert paper.weighted_sampling


def test_every_preset_goes_by_the_name_it_carries() -> None:
    assert all(preset_configuration(name).preset == name for name in PRESETS)


def test_an_unknown_preset_is_answered_with_those_there_are() -> None:
    with pytest.raises(ContractError, match=r"no preset 'papper'; choose one of .*demo.*paper"):
        preset_configuration("papper")


def test_a_run_ends_with_a_validation() -> None:
    with pytest.raises(ContractError, match=r"epochs must be a multiple of 4, .* got 10"):
        Configuration("x", epochs=10, validate_every_epochs=4)


@pytest.mark.parametrize("crop_px", [32, 100])
def test_a_crop_that_cannot_be_trained_on_is_refused(crop_px: int) -> None:
    with pytest.raises(ContractError, match="multiple of 32 and at least 64"):
        Configuration("x", crop_px=crop_px)
