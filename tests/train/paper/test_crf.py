"""The conditional random field behind the multi-scale attention U-Net."""

from __future__ import annotations

import numpy as np
import pytest

from breastseg_train.paper.crf import APPEARANCE_WEIGHT, SMOOTHNESS_WEIGHT, mean_field, sharpened

SIDE_PX = 24


def edge_frame() -> np.ndarray:
    """Dark on the left, bright on the right."""
    frame = np.full((SIDE_PX, SIDE_PX, 3), 20, np.uint8)
    frame[:, SIDE_PX // 2 :] = 200
    return frame


def test_a_lone_pixel_is_taken_back_by_its_neighbours() -> None:
    probability = np.full((SIDE_PX, SIDE_PX), 0.1, np.float32)
    probability[12, 5] = 0.7
    assert mean_field(edge_frame(), probability)[12, 5] < 0.5


def test_belief_follows_brightness_and_not_its_own_blurred_border() -> None:
    """The map is unsure in a band around the edge of the frame; the frame decides where the border lies."""
    probability = np.full((SIDE_PX, SIDE_PX), 0.05, np.float32)
    probability[:, SIDE_PX // 2 :] = 0.95
    probability[:, SIDE_PX // 2 - 2 : SIDE_PX // 2 + 2] = 0.5
    mask = mean_field(edge_frame(), probability) >= 0.5
    assert np.array_equal(mask, edge_frame()[..., 0] > 100)


def test_on_a_flat_frame_a_flat_belief_moves_by_the_weights_alone() -> None:
    """All neighbours agree: one update adds 2 (w1 + w2) (belief - 1/2) to the log-odds; solved here step by step."""
    frame = np.full((SIDE_PX, SIDE_PX, 3), 90, np.uint8)
    belief = 0.6
    for _ in range(5):
        odds = np.log(0.6 / 0.4) + 2 * (SMOOTHNESS_WEIGHT + APPEARANCE_WEIGHT) * (belief - 0.5)
        belief = 1 / (1 + np.exp(-odds))
    found = mean_field(frame, np.full((SIDE_PX, SIDE_PX), 0.6, np.float32))
    assert found == pytest.approx(np.full_like(found, belief), abs=1e-5)  # the border of the frame, too


def test_certain_probabilities_stay_finite() -> None:
    probability = np.zeros((SIDE_PX, SIDE_PX), np.float32)
    probability[:, :8] = 1.0
    assert np.isfinite(mean_field(edge_frame(), probability)).all()


def test_a_predictor_is_sharpened_frame_by_frame() -> None:
    frames = np.stack([edge_frame(), edge_frame()[:, ::-1]])
    probability = np.random.default_rng(0).random((2, SIDE_PX, SIDE_PX)).astype(np.float32)
    found = sharpened(lambda _: probability)(frames)
    assert np.array_equal(found[1], mean_field(frames[1], probability[1]))
