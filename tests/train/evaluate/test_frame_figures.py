"""Figures of one frame, by hand."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from monai.metrics.surface_dice import compute_surface_dice
from scipy import ndimage

from breastseg_deploy.metrics import BOUNDARY_TOLERANCE_PX, surface_dice
from breastseg_train.evaluate.frame_figures import frame_figures, hausdorff95

EMPTY = np.zeros((64, 64), np.uint8)
FRAME = np.zeros((64, 64, 3), np.uint8)


def square(top: int, left: int, side: int) -> np.ndarray:
    mask = EMPTY.copy()
    mask[top : top + side, left : left + side] = 1
    return mask


def test_overlap_figures_are_the_papers_equations() -> None:
    figures = frame_figures("f", FRAME, square(10, 10, 20), square(10, 15, 20))
    assert figures.dice == pytest.approx(2 * 300 / 800)
    assert figures.iou == pytest.approx(300 / 500)
    assert figures.precision == pytest.approx(300 / 400)
    assert figures.recall == pytest.approx(300 / 400)


def test_an_empty_frame_left_empty_counts_1_and_has_no_precision_recall_or_distance() -> None:
    figures = frame_figures("f", FRAME, EMPTY, EMPTY)
    assert (figures.dice, figures.iou, figures.surface_dice) == (1, 1, 1)
    assert (figures.precision, figures.recall, figures.hd95_px) == (None, None, None)


def test_a_missed_frame_counts_0() -> None:
    figures = frame_figures("f", FRAME, EMPTY, square(10, 10, 20))
    assert (figures.dice, figures.recall, figures.precision) == (0, 0, None)


def test_hausdorff_distance_of_a_square_moved_sideways_is_the_move() -> None:
    assert hausdorff95(square(10, 10, 20), square(10, 16, 20)) == pytest.approx(6, abs=1e-3)


def test_hausdorff_distance_is_symmetric_and_sees_a_far_false_cell() -> None:
    truth, with_false_cell = square(10, 10, 10), square(10, 10, 10) | square(50, 50, 8)
    there, back = hausdorff95(with_false_cell, truth), hausdorff95(truth, with_false_cell)
    assert there == back
    assert there is not None
    assert there > 40


def test_no_distance_is_measured_to_an_empty_mask() -> None:
    assert hausdorff95(EMPTY, square(10, 10, 20)) is None
    assert hausdorff95(square(10, 10, 20), EMPTY) is None
    assert hausdorff95(EMPTY, EMPTY) is None


def test_any_value_but_0_is_foreground_of_the_distance() -> None:
    assert hausdorff95(square(10, 10, 20) * 255, square(10, 16, 20).astype(bool)) == pytest.approx(6)


def cells(seed: int, edge_px: int) -> np.ndarray:
    """Blobs, none of them within `edge_px` of the frame's edge."""
    field = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=EMPTY.shape), 4)
    mask = (field > np.quantile(field, 0.7)).astype(np.uint8)
    return np.pad(mask[edge_px : 64 - edge_px, edge_px : 64 - edge_px], edge_px)


def monai_surface_dice(mask: np.ndarray, truth: np.ndarray) -> float:
    predicted, expected = (torch.from_numpy(pixels[None, None]) for pixels in (mask, truth))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*always_return_as_numpy.*", FutureWarning)
        return float(compute_surface_dice(predicted, expected, [float(BOUNDARY_TOLERANCE_PX)], include_background=True))


@pytest.mark.parametrize("seed", range(4))
def test_surface_dice_is_monais_where_no_cell_touches_the_frames_edge(seed: int) -> None:
    mask, truth = cells(seed, edge_px=1), cells(seed + 100, edge_px=1)
    assert 0.1 < surface_dice(mask, truth) < 0.9
    assert surface_dice(mask, truth) == pytest.approx(monai_surface_dice(mask, truth), abs=1e-6)


def test_surface_dice_takes_no_frames_edge_for_a_border_and_monai_does() -> None:
    mask, truth = square(0, 0, 20), square(0, 10, 20)  # the edge lies within 3 px of the edge: agreement for nothing
    assert surface_dice(mask, truth) < monai_surface_dice(mask, truth)


def test_a_small_structure_is_found_where_half_of_it_is_in_the_mask() -> None:
    truth = square(4, 4, 8) | square(30, 30, 8) | square(40, 2, 20)
    half = truth.copy()
    half[4:8] = 0  # the first keeps 4 of 8 rows
    half[30:35] = 0  # the second keeps 3
    figures = frame_figures("f", FRAME, half, truth)
    assert (figures.small_structures, figures.small_structures_found) == (2, 1)
