"""Where wrong pixels lie, by hand."""

from __future__ import annotations

import numpy as np

from breastseg_train.evaluate.error_analysis import ErrorCounts, error_counts, total

RICH = np.random.default_rng(0).integers(0, 256, (64, 64, 1), np.uint8).repeat(3, axis=2)
FLAT = np.full((64, 64, 3), 90, np.uint8)
EMPTY = np.zeros((64, 64), np.uint8)


def square(top: int, left: int, side: int) -> np.ndarray:
    mask = EMPTY.copy()
    mask[top : top + side, left : left + side] = 1
    return mask


def test_a_mask_one_pixel_too_large_is_wrong_at_its_border_only() -> None:
    counts = error_counts(RICH, square(19, 19, 22), square(20, 20, 20))
    assert counts == ErrorCounts(wrong=22**2 - 20**2, near_border=84, in_tiny_structures=0, low_contrast=0, elsewhere=0)


def test_a_false_cell_far_from_any_border_is_elsewhere() -> None:
    counts = error_counts(RICH, square(10, 10, 10) | square(40, 40, 8), square(10, 10, 10))
    assert (counts.wrong, counts.near_border, counts.elsewhere) == (64, 0, 64)


def test_a_missed_structure_is_tiny_under_50_pixels() -> None:
    assert error_counts(RICH, EMPTY, square(20, 20, 7)).in_tiny_structures == 49
    assert error_counts(RICH, EMPTY, square(20, 20, 8)).in_tiny_structures == 0


def test_errors_on_a_flat_frame_have_low_contrast() -> None:
    counts = error_counts(FLAT, square(10, 10, 8), EMPTY)
    assert (counts.low_contrast, counts.near_border, counts.elsewhere) == (64, 0, 0)


def test_counts_of_frames_add_up() -> None:
    assert total([ErrorCounts(5, 4, 3, 2, 1), ErrorCounts(1, 1, 1, 1, 0)]) == ErrorCounts(6, 5, 4, 3, 1)
    assert total([]) == ErrorCounts(0, 0, 0, 0, 0)
