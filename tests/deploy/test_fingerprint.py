"""The features of a frame, each against what is known of a made-up one, and the fingerprint of many."""

from __future__ import annotations

from math import isnan
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from pydantic import ValidationError

from breastseg_deploy.errors import FrameError
from breastseg_deploy.fingerprint import FEATURES, LEAST_FRAMES, Fingerprint, Spread, fingerprint, measure, noise_sigma
from breastseg_deploy.phantom import phantom_frame

SIDE = 96
EMPTY = np.zeros((SIDE, SIDE), np.uint8)


def shown(frame: NDArray[np.uint8], mask: NDArray[np.uint8] = EMPTY, probability: Any = None) -> dict[str, float]:
    """The features as people read them."""
    found = measure(frame, mask, probability)
    return {name: FEATURES[name].shown(value) for name, value in found.items()}


def squares(side: int) -> NDArray[np.uint8]:
    mask = EMPTY.copy()
    mask[10 : 10 + side, 10 : 10 + side] = 1
    mask[50 : 50 + side, 40 : 40 + side] = 1
    return mask


def grey(seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (SIDE, SIDE), np.uint8)


def test_every_feature_is_measured_and_no_other() -> None:
    assert list(measure(grey(), squares(9), np.ones((SIDE, SIDE), np.float32))) == [
        name for name in FEATURES if name != "scale"
    ]


def test_the_quantiles_are_those_of_the_grey_values() -> None:
    frame = np.arange(SIDE * SIDE).reshape(SIDE, SIDE) * 256 // SIDE**2
    found = shown(frame.astype(np.uint8))
    assert [found[name] for name in ("dark", "median", "bright")] == pytest.approx([2, 128, 253], abs=1)


@pytest.mark.parametrize("sigma", [2.0, 6.0, 20.0])
def test_noise_is_the_deviation_of_white_noise_whatever_slope_lies_below_it(sigma: float) -> None:
    slope = np.linspace(60, 180, SIDE)[None, :] + np.zeros((SIDE, 1))
    noisy = slope + np.random.default_rng(1).normal(0, sigma, (SIDE, SIDE))
    assert noise_sigma(np.rint(noisy).astype(np.uint8)) == pytest.approx(sigma, rel=0.06)


def test_sharpness_falls_as_a_frame_is_blurred() -> None:
    frame = phantom_frame(0, (SIDE, SIDE)).frame
    rolled = [np.roll(frame.astype(float), shift, (0, 1)) for shift in (-1, 0, 1)]
    blurred = np.rint(np.mean(rolled, axis=0)).astype(np.uint8)
    assert measure(blurred, EMPTY, None)["sharpness"] < measure(frame, EMPTY, None)["sharpness"]


def test_colour_is_zero_for_grey_frames_of_one_channel_and_of_three() -> None:
    frame = grey()
    three, cells = np.repeat(frame[..., None], 3, 2), (squares(9), np.ones((SIDE, SIDE), np.float32))
    assert measure(frame, *cells) == measure(three, *cells)
    assert measure(three, *cells)["colour"] == 0
    frame = np.zeros((SIDE, SIDE, 3), np.uint8)
    frame[..., 0] = 40
    assert measure(frame, EMPTY, None)["colour"] == 40


@pytest.mark.parametrize("side", [4, 20])
def test_width_is_the_side_of_squares(side: int) -> None:
    found = shown(grey(), squares(side))
    assert found["width"] == pytest.approx(side)
    assert found["foreground"] == pytest.approx(2 * side**2 / SIDE**2)


def test_a_structure_at_the_border_counts_as_far_as_it_is_seen() -> None:
    mask = EMPTY.copy()
    mask[:8, :8] = 1
    assert shown(grey(), mask)["width"] == pytest.approx(8)


def test_confidence_is_the_mean_probability_where_the_mask_is() -> None:
    mask = squares(9)
    assert shown(grey(), mask, np.where(mask == 1, 0.8, 0.1))["confidence"] == pytest.approx(0.8)


def test_a_frame_without_cells_has_neither_width_nor_confidence() -> None:
    found = measure(grey(), EMPTY, np.zeros((SIDE, SIDE), np.float32))
    assert [name for name, value in found.items() if isnan(value)] == ["width", "confidence"]
    assert isnan(measure(grey(), squares(9), None)["confidence"])


@pytest.mark.parametrize(
    "frame",
    [np.zeros((SIDE, SIDE), np.uint16), np.zeros((SIDE, SIDE + 1), np.uint8), np.zeros((SIDE, SIDE, 4), np.uint8)],
)
def test_a_frame_that_is_not_8_bit_or_not_of_the_masks_size_is_refused(frame: NDArray[Any]) -> None:
    with pytest.raises(FrameError, match=r"a drift watch takes uint8 frames of the mask's size, got .*; bring"):
        measure(frame, EMPTY, None)


def test_a_flat_frame_and_one_of_noise_have_finite_features() -> None:
    for frame in (EMPTY, EMPTY + np.uint8(255), grey()):
        values = [value for name, value in measure(frame, squares(9), np.ones((SIDE, SIDE), np.float32)).items()]
        assert np.isfinite(values).all()


def test_a_fingerprint_holds_mean_deviation_and_count_of_each_feature() -> None:
    measured = [measure(grey(seed), squares(9) if seed % 2 else EMPTY, None) for seed in range(20)]
    found = fingerprint(measured)
    assert found is not None
    assert found.frames == 20
    assert found.spreads["noise"].mean == pytest.approx(np.mean([one["noise"] for one in measured]))
    assert found.spreads["noise"].frames == 20
    assert found.spreads["width"].frames == 10
    assert "confidence" not in found.spreads  # no frame had one
    assert found.spreads["width"].deviation == FEATURES["width"].least_deviation


def test_fewer_frames_make_no_fingerprint() -> None:
    assert fingerprint([measure(grey(), EMPTY, None)] * (LEAST_FRAMES - 1)) is None


def test_a_fingerprint_survives_its_way_through_json() -> None:
    found = fingerprint([measure(grey(seed), squares(9), None) for seed in range(20)])
    assert found is not None
    assert Fingerprint.model_validate_json(found.model_dump_json()) == found


@pytest.mark.parametrize("damage", [{"deviation": 0}, {"deviation": float("nan")}, {"frames": 1}, {"unknown": 1}])
def test_a_spread_that_allows_nothing_is_refused(damage: dict[str, float]) -> None:
    with pytest.raises(ValidationError):
        Spread.model_validate({"mean": 0, "deviation": 1, "frames": 20, **damage})
