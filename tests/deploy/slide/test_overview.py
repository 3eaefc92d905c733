"""The overview."""

from __future__ import annotations

import numpy as np
import pytest
from written import ArrayRaster

from breastseg_deploy.slide.writers.overview import cell_share, draw_overview, round_length

MASK = np.random.default_rng(2).random((3000, 4100)) < 0.3


def test_the_share_of_cells_is_the_mean_of_the_pixels_below() -> None:
    share = cell_share(ArrayRaster(MASK), (300, 410))
    np.testing.assert_allclose(share, MASK.reshape(300, 10, 410, 10).mean((1, 3)), atol=1e-6)


@pytest.mark.parametrize("size_px", [(299, 411), (3000, 4100), (1, 1)])
def test_every_pixel_of_the_slide_counts_once_whatever_the_size(size_px: tuple[int, int]) -> None:
    share = cell_share(ArrayRaster(MASK), size_px)
    rows, columns = (np.diff(np.arange(n + 1) * full // n) for n, full in zip(size_px, MASK.shape, strict=True))
    assert np.sum(share.astype(float) * np.outer(rows, columns)) == pytest.approx(MASK.sum(), rel=1e-6)


def test_an_overview_that_is_larger_than_a_rescaled_slide_repeats_its_pixels() -> None:
    labels = np.zeros((5, 8), np.uint32)
    labels[1, 2:4] = 1
    share = cell_share(ArrayRaster(labels), (6, 12))
    assert set(np.unique(share)) == {0.0, 1.0}
    np.testing.assert_array_equal(share, (labels > 0)[np.arange(6) * 5 // 6][:, np.arange(12) * 8 // 12])


def test_cells_are_outlined_on_their_own_pixels_where_they_are_large_enough() -> None:
    labels = np.zeros((600, 700), np.uint32)
    labels[100:140, 200:240] = 1
    drawn = draw_overview(np.zeros((600, 700, 3), np.uint8), ArrayRaster(labels), [], 0.5)
    green = (drawn[:600] == (0, 255, 80)).all(2)
    assert green.sum() == 4 * 39
    assert green[100, 200:240].all()


def test_skipped_tiles_are_drawn_and_counted_and_no_other_place() -> None:
    grey = np.full((600, 700, 3), 90, np.uint8)
    drawn = draw_overview(grey, ArrayRaster(np.zeros((1200, 1400), np.uint32)), [(200, 400, 600, 800)], None)
    changed = (drawn[:600] != 90).any(2)
    assert changed[100:300, 200:400].all()
    assert changed.sum() == 200 * 200


def test_a_legend_is_below_and_the_thumbnail_itself_stays_as_it_was() -> None:
    thumbnail = np.zeros((300, 410, 3), np.uint8)
    drawn = draw_overview(thumbnail, ArrayRaster(MASK), [(0, 0, 500, 500)], 0.5)
    assert drawn.shape == (334, 560, 3)
    assert not thumbnail.any()


@pytest.mark.parametrize(("most", "length"), [(1.0, 1), (1.9, 1), (2, 2), (49, 20), (730, 500), (0.3, 0.2)])
def test_the_scale_bar_is_a_round_length(most: float, length: float) -> None:
    assert round_length(most) == pytest.approx(length)
