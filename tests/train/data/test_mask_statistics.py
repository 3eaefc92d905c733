"""Counting cells, small structures and borders."""

from __future__ import annotations

import numpy as np
import pytest

from breastseg_train.data.mask_statistics import mask_statistics


def squares(*sides_px: int) -> np.ndarray:
    mask = np.zeros((64, 64), np.uint8)
    for column, side in enumerate(sides_px):
        mask[2 : 2 + side, 2 + 15 * column : 2 + 15 * column + side] = 1
    return mask


def test_cells_areas_and_borders_are_counted() -> None:
    statistics = mask_statistics(squares(12, 5))
    assert sorted(statistics.cell_areas_px) == [25, 144]
    assert statistics.cell_pixels == 169
    assert statistics.border_pixels == 44 + 16
    assert statistics.small_structures == 1


@pytest.mark.parametrize(("area_px", "small"), [(99, 1), (100, 0)])
def test_a_small_structure_has_under_100_pixels(area_px: int, small: int) -> None:
    mask = np.zeros((64, 64), np.uint8)
    mask[10:20, 10:20] = 1
    mask[10, 10] = area_px == 100
    assert mask_statistics(mask).small_structures == small


def test_cells_that_touch_at_a_corner_are_one() -> None:
    mask = np.zeros((32, 32), np.uint8)
    mask[4:8, 4:8] = 1
    mask[8:12, 8:12] = 1
    assert mask_statistics(mask).cell_areas_px == (32,)


def test_an_empty_frame_has_weight_1_and_no_cells() -> None:
    statistics = mask_statistics(np.zeros((64, 64), np.uint8))
    assert statistics.cell_areas_px == ()
    assert statistics.complexity == 1


def test_the_weight_is_worked_out_by_hand() -> None:
    # 2 of 25 cells; 44 + 16 border pixels of 144 + 25; one cell under 100 px
    assert mask_statistics(squares(12, 5)).complexity == pytest.approx((1 + 0.04 + 0.5 * 60 / 169) * 1.5)


def test_small_structures_raise_the_weight_by_half_beyond_their_number_and_border() -> None:
    large, with_small = mask_statistics(squares(12)), mask_statistics(squares(9))
    assert large.complexity < 1.3
    assert with_small.complexity > 1.5
