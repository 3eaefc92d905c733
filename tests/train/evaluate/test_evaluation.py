"""Evaluation of predictors, the summary, and seven-fold averaging."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from discs import disc_frame, write_labels

from breastseg_deploy.errors import ArgumentError
from breastseg_deploy.instances import CellParameters, split_cells
from breastseg_train.data.dataset import read_data_set
from breastseg_train.evaluate.evaluation import CellSplit, confidence_interval, evaluate, masked, summary
from breastseg_train.evaluate.frame_figures import frame_figures
from breastseg_train.evaluate.prediction import seen_upright, seven_fold, seven_views

DARK = np.zeros((64, 64, 3), np.uint8)


def brightness(frames: np.ndarray) -> np.ndarray:
    """A predictor that calls bright pixels cells."""
    return frames[..., 0].astype(np.float32) / 255


def test_a_predictor_that_sees_the_discs_scores_nearly_1(data_root: Path) -> None:
    samples = read_data_set(data_root, ["test"]).splits["test"]
    result = summary(evaluate(brightness, samples, threshold=0.3))
    assert result["with_cells"]["frames"] == 2
    assert result["with_cells"]["dice"]["mean"] > 0.99
    assert result["empty"] == {"frames": 1, "false_positive_rate": 0.0, "mean_predicted_pixels": 0.0}


def test_a_predictor_that_sees_cells_everywhere_is_found_out_by_the_empty_frames(data_root: Path) -> None:
    samples = read_data_set(data_root, ["test"]).splits["test"]
    result = summary(evaluate(lambda frames: np.ones(frames.shape[:3], np.float32), samples, threshold=0.5))
    assert result["empty"]["false_positive_rate"] == 1
    assert result["empty"]["mean_predicted_pixels"] == 64 * 64
    assert result["with_cells"]["recall"]["mean"] == 1


def test_frames_with_cells_are_reported_apart_from_all() -> None:
    empty, mask = np.zeros((64, 64), np.uint8), disc_frame(0, 3)[1] // 255
    figures = [frame_figures("missed", DARK, empty, mask), frame_figures("empty", DARK, empty, empty)]
    result = summary(figures)
    assert result["with_cells"]["dice"]["mean"] == 0
    assert result["all"]["dice"]["mean"] == 0.5


def test_a_figure_is_averaged_only_where_it_is_defined() -> None:
    empty, mask = np.zeros((64, 64), np.uint8), disc_frame(0, 3)[1] // 255
    result = summary([frame_figures("missed", DARK, empty, mask), frame_figures("found", DARK, mask, mask)])
    assert result["with_cells"]["hd95_px"]["frames"] == 1
    assert result["with_cells"]["hd95_px"]["mean"] == 0
    assert result["with_cells"]["recall"]["frames"] == 2
    assert result["errors"]["wrong_pixels"] == mask.sum()


def test_no_empty_frames_give_no_false_positive_rate() -> None:
    mask = disc_frame(0, 3)[1] // 255
    assert summary([frame_figures("found", DARK, mask, mask)])["empty"]["false_positive_rate"] is None


def test_the_interval_is_as_wide_as_the_normal_one_for_many_frames() -> None:
    values = np.random.default_rng(0).normal(0.9, 0.05, 400)
    low, high = confidence_interval(values)
    assert high - low == pytest.approx(2 * 1.96 * 0.05 / 20, rel=0.15)
    assert low < values.mean() < high


def test_the_threshold_itself_is_cell() -> None:
    assert masked(np.array([0.49, 0.5], np.float32), 0.5).tolist() == [0, 1]


def test_seven_views_are_different_and_come_back_upright() -> None:
    frame = np.arange(16 * 16 * 3, dtype=np.uint32).astype(np.uint8).reshape(16, 16, 3)
    views = seven_views(frame)
    assert len({view.tobytes() for view in views}) == 7
    upright = seen_upright(views[..., 0].astype(np.float32))
    assert (upright == frame[..., 0]).all()


def test_averaging_a_predictor_that_knows_no_direction_changes_nothing() -> None:
    frames = np.repeat(disc_frame(1, 4)[0][None, ..., None], 3, axis=3)
    assert seven_fold(brightness)(frames) == pytest.approx(brightness(frames), abs=1e-6)


def test_averaging_evens_out_a_predictor_that_knows_a_direction() -> None:
    frames = np.repeat(disc_frame(1, 4)[0][None, ..., None], 3, axis=3)

    def left_half(seen: np.ndarray) -> np.ndarray:
        return np.broadcast_to(np.arange(64) < 32, seen.shape[:3]).astype(np.float32)

    averaged = seven_fold(left_half)(frames)[0]
    # seen upright: left twice, right twice, top twice, bottom once
    assert averaged[[0, 0, -1, -1], [0, -1, 0, -1]] == pytest.approx(np.array([4, 4, 3, 3]) / 7)


def test_frames_that_are_not_square_cannot_be_turned() -> None:
    with pytest.raises(ArgumentError, match="needs square ones, got 32 x 64"):
        seven_fold(brightness)(np.zeros((1, 32, 64, 3), np.uint8))


def test_cells_are_measured_where_the_truth_numbers_them(data_root: Path) -> None:
    samples = read_data_set(data_root, ["test"]).splits["test"]
    assert summary(evaluate(brightness, samples, threshold=0.3))["cells"] is None
    for sample in samples:
        cells = split_cells(sample.read()[1], sample.read()[1].astype(np.float32))
        write_labels(data_root, "test", sample.name, cells.astype(np.uint16))
    numbered = read_data_set(data_root, ["test"]).splits["test"]
    found = summary(evaluate(brightness, numbered, threshold=0.3))["cells"]
    assert found["truth"] >= 2
    assert found["f1"] > 0.8
    nothing = summary(evaluate(lambda frames: np.zeros(frames.shape[:3], np.float32), numbered, threshold=0.3))["cells"]
    assert (nothing["found"], nothing["f1"], nothing["count_error"]) == (0, 0, 1)


def test_masks_become_cells_by_the_parameters_that_are_given(data_root: Path) -> None:
    mask = disc_frame(0, cells=3)[1]
    write_labels(data_root, "test", "test-0", (mask > 0).astype(np.uint16))
    samples = read_data_set(data_root, ["test"]).splits["test"][:1]
    too_small = CellSplit(CellParameters(unit="um", least_area=64 * 64 / 4), pixel_size_um=0.5)
    (figures,) = evaluate(brightness, samples, threshold=0.3, split=too_small)
    assert figures.cells is not None
    assert figures.cells.found == 0
