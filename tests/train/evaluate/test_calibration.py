"""What probabilities are worth."""

from __future__ import annotations

import numpy as np
import pytest

from breastseg_deploy.errors import DataError
from breastseg_deploy.metrics import dice
from breastseg_train.evaluate.calibration import LEVELS, calibration, dice_by_threshold, probability_counts


def frame(seed: int, sharpness: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Random probabilities, and a truth that holds as many cells as they say (with sharpness 1)."""
    rng = np.random.default_rng(seed)
    probability = rng.random((200, 200)).astype(np.float32)
    stated = probability if sharpness == 1 else np.clip(0.5 + sharpness * (probability - 0.5), 0, 1)
    return stated.astype(np.float32), (rng.random((200, 200)) < probability).astype(np.uint8)


def test_probabilities_that_mean_what_they_say_have_no_calibration_error() -> None:
    found = calibration([probability_counts(*frame(seed)) for seed in range(3)])
    assert found["ece"] < 0.01
    assert all(abs(one["probability"] - one["share"]) < 0.03 for one in found["bins"])


def test_overconfident_probabilities_are_found_out() -> None:
    found = calibration([probability_counts(*frame(0, sharpness=3))])
    assert found["ece"] > 0.1
    assert found["bins"][0]["share"] > found["bins"][0]["probability"]


def test_background_that_nobody_disputes_is_left_out_of_the_second_figure() -> None:
    probability, truth = np.zeros((100, 100), np.float32), np.zeros((100, 100), np.uint8)
    probability[0], truth[0] = 0.9, 1
    found = calibration([probability_counts(probability, truth)])
    assert found["ece"] == pytest.approx(0.001)
    assert found["ece_disputed"] == pytest.approx(0.1)
    assert found["bins"][5] == {"pixels": 0, "probability": None, "share": None}


def test_a_frame_without_a_disputed_pixel_has_no_second_figure() -> None:
    counts = probability_counts(np.zeros((8, 8), np.float32), np.zeros((8, 8), np.uint8))
    assert calibration([counts])["ece_disputed"] is None


def test_no_frame_has_no_calibration() -> None:
    with pytest.raises(DataError, match="measured on frames, got none"):
        calibration([])


def test_the_curve_is_the_dice_of_masks_at_each_threshold() -> None:
    frames = [frame(seed, sharpness=1.5) for seed in range(2)]
    curve = dice_by_threshold([probability_counts(*one) for one in frames])
    assert len(curve) == LEVELS - 1
    for point in curve[9::20]:
        masks = [(probability >= point["threshold"]).astype(np.uint8) for probability, _ in frames]
        expected = np.mean([dice(mask, truth) for mask, (_, truth) in zip(masks, frames, strict=True)])
        assert point["dice"] == pytest.approx(expected)


def test_frames_without_cells_have_no_curve() -> None:
    assert dice_by_threshold([probability_counts(np.ones((8, 8), np.float32), np.zeros((8, 8), np.uint8))]) == []


def test_a_probability_of_1_is_counted_in_the_last_level() -> None:
    counts = probability_counts(np.ones((2, 2), np.float32), np.ones((2, 2), np.uint8))
    assert counts.cell[-1] == 4
