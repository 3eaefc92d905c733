"""Presets and what a configuration refuses."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from breastseg_deploy.errors import ArgumentError
from breastseg_train.network.model import SegmentationModel
from breastseg_train.run.configuration import PRESETS, TABLE_II, Configuration, preset_configuration


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
    with pytest.raises(ArgumentError, match=r"no preset 'papper'; choose one of .*general.*"):
        preset_configuration("papper")


def test_a_run_ends_with_a_validation() -> None:
    with pytest.raises(ArgumentError, match=r"epochs must be a multiple of 4, .* got 10"):
        Configuration("x", epochs=10, validate_every_epochs=4)


@pytest.mark.parametrize(("epochs", "interval"), [(24, 4), (10, 2), (2, 2), (1, 1), (9, 3), (7, 1)])
def test_another_number_of_epochs_is_validated_at_least_as_often_and_at_its_end(epochs: int, interval: int) -> None:
    small = preset_configuration("paper").small()
    changed = small.trained_for(epochs)
    assert changed == replace(small, epochs=epochs, validate_every_epochs=interval)


@pytest.mark.parametrize("epochs", [0, -4])
def test_a_run_without_epochs_is_refused(epochs: int) -> None:
    with pytest.raises(ArgumentError, match=f"a run has at least 1 epoch, got {epochs}"):
        preset_configuration("paper").small().trained_for(epochs)


@pytest.mark.parametrize("crop_px", [32, 100])
def test_a_crop_that_cannot_be_trained_on_is_refused(crop_px: int) -> None:
    with pytest.raises(ArgumentError, match="multiple of 32 and at least 64"):
        Configuration("x", crop_px=crop_px)


@pytest.mark.parametrize("name", PRESETS)
def test_a_small_preset_keeps_what_is_compared(name: str) -> None:
    preset = preset_configuration(name)
    small = preset.small()
    for field in ("preset", "network", "front", "loss", "dropout", "weighted_sampling", "patch_sampling", "crf"):
        assert getattr(small, field) == getattr(preset, field)
    assert (small.stabilised, small.active_learning_rounds) == (preset.stabilised, preset.active_learning_rounds)
    assert (small.crop_px, small.epochs) == (160, 24)


def test_single_changes_differ_from_the_paper_in_one_field() -> None:
    paper = preset_configuration("paper").as_json()
    for name in ("no-gabor", "channel-drop", "no-weighted-sampling", "boundary-aware", "hybrid-loss", "unstabilised"):
        preset = preset_configuration(name).as_json()
        assert len({field for field in paper if preset[field] != paper[field]} - {"preset"}) == 1, name


def test_every_preset_builds_its_network() -> None:
    for name in PRESETS:
        with torch.device("meta"):
            assert SegmentationModel(preset_configuration(name).architecture())
            assert SegmentationModel(preset_configuration(name).small().architecture())


def test_the_rows_of_table_ii_are_presets() -> None:
    assert set(TABLE_II) <= set(PRESETS)


def test_the_general_preset_starts_from_lite0_and_learns_the_rest_faster() -> None:
    general = preset_configuration("general")
    assert general.encoder == "tu-tf_efficientnet_lite0"
    assert (general.lr_max * general.encoder_lr_share, general.lr_max) == (5e-4, 2e-3)
    assert (general.augmentation, general.inverted_share) == ("wide", 0)
    assert (general.balanced_sources, general.choose_threshold, general.weight_averaging) == (True, True, 0.998)


def test_the_paper_keeps_its_global_pools_and_plain_weights() -> None:
    paper = preset_configuration("paper")
    assert (paper.pool_window_px, paper.weight_averaging, paper.choose_threshold) == (None, None, False)


def test_an_unknown_augmentation_is_refused() -> None:
    with pytest.raises(ArgumentError, match="'paper' or 'wide', got 'wild'"):
        Configuration("x", augmentation="wild")
