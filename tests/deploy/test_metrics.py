"""Figures worked by hand, and the surface Dice against Euclidean distances computed another way."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage

from breastseg_deploy.errors import ArgumentError
from breastseg_deploy.metrics import border, dice, flipped_ppm, surface_dice

EMPTY = np.zeros((20, 30), np.uint8)


def rectangle(top: int, left: int, height: int, width: int, shape: tuple[int, int] = (20, 30)) -> NDArray[np.uint8]:
    mask = np.zeros(shape, np.uint8)
    mask[top : top + height, left : left + width] = 1
    return mask


def blobs(seed: int, share: float = 0.3) -> NDArray[np.uint8]:
    field = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=(61, 83)), 4)
    return (field > np.quantile(field, 1 - share)).astype(np.uint8)


def surface_dice_by_distances(mask: NDArray[np.uint8], truth: NDArray[np.uint8], tolerance_px: float) -> float:
    edges = []
    for foreground in (mask.astype(bool), truth.astype(bool)):
        eroded = ndimage.binary_erosion(foreground, ndimage.generate_binary_structure(2, 1), border_value=1)
        edges.append(foreground & ~eroded)
    to_first, to_second = (ndimage.distance_transform_edt(~edge) for edge in edges)
    near = (to_second[edges[0]] <= tolerance_px).sum() + (to_first[edges[1]] <= tolerance_px).sum()
    return float(near / (edges[0].sum() + edges[1].sum()))


def test_dice_is_twice_the_overlap_over_the_sum() -> None:
    first, second = rectangle(0, 0, 4, 5), rectangle(2, 0, 4, 5)  # 20 and 20 pixels, 10 shared
    assert dice(first, second) == 0.5
    assert dice(rectangle(0, 0, 2, 2), rectangle(0, 0, 1, 2)) == pytest.approx(2 * 2 / (4 + 2))


def test_dice_of_a_mask_with_itself_is_one() -> None:
    assert dice(blobs(0), blobs(0)) == 1.0


def test_dice_of_disjoint_masks_is_zero() -> None:
    assert dice(rectangle(0, 0, 3, 3), rectangle(10, 10, 3, 3)) == 0.0


def test_dice_of_an_empty_pair_is_one_by_convention() -> None:
    assert dice(EMPTY, EMPTY) == 1.0


def test_dice_against_an_empty_mask_is_zero_either_way() -> None:
    assert dice(rectangle(0, 0, 1, 1), EMPTY) == 0.0
    assert dice(EMPTY, rectangle(0, 0, 1, 1)) == 0.0


@pytest.mark.parametrize("dtype", [np.bool_, np.uint8, np.int64, np.float32])
def test_dice_takes_any_non_zero_value_for_foreground(dtype: Any) -> None:
    assert dice((rectangle(0, 0, 4, 5) * 255).astype(dtype), rectangle(2, 0, 4, 5).astype(bool)) == 0.5


def test_dice_does_not_overflow_on_many_pixels() -> None:
    white = np.full((512, 512), 255, np.uint8)
    assert dice(white, white) == 1.0


def test_flipped_pixels_count_both_directions_in_parts_per_million() -> None:
    first = rectangle(0, 0, 1, 3, (100, 100))
    second = rectangle(0, 2, 1, 2, (100, 100))  # two pixels lost, one won
    assert flipped_ppm(first, second) == pytest.approx(3 / 10_000 * 1e6)
    assert flipped_ppm(first * 255, first) == 0.0


def test_border_of_a_square_is_its_outermost_ring() -> None:
    expected = rectangle(5, 5, 6, 6) - rectangle(6, 6, 4, 4)
    np.testing.assert_array_equal(border(rectangle(5, 5, 6, 6)), expected.astype(bool))


def test_the_frames_edge_is_no_border() -> None:
    found = border(rectangle(0, 0, 10, 30))
    np.testing.assert_array_equal(found, rectangle(9, 0, 1, 30).astype(bool))
    assert not border(np.ones((20, 30), np.uint8)).any()


def test_a_hole_has_a_border() -> None:
    ring = rectangle(2, 2, 11, 11)
    ring[7, 7] = 0
    assert border(ring)[[6, 8, 7, 7], [7, 7, 6, 8]].all()
    assert not border(ring)[6, 6]  # diagonal to the hole


@pytest.mark.parametrize("tolerance", [0, 1, 2, 3, 5])
@pytest.mark.parametrize("seed", range(4))
def test_surface_dice_matches_euclidean_distances_on_random_blobs(seed: int, tolerance: int) -> None:
    mask, truth = blobs(seed), blobs(seed + 100, share=0.2)
    expected = surface_dice_by_distances(mask, truth, tolerance)
    assert 0 < expected < 1
    assert surface_dice(mask, truth, tolerance) == pytest.approx(expected, abs=1e-12)


def test_surface_dice_tolerates_a_shift_of_three_pixels_and_not_of_four() -> None:
    truth = rectangle(0, 10, 20, 20)  # only its left side is a border
    assert surface_dice(rectangle(0, 7, 20, 23), truth) == 1.0
    assert surface_dice(rectangle(0, 6, 20, 24), truth) == 0.0


def test_surface_dice_measures_diagonals_by_euclid() -> None:
    def dot(row: int, column: int) -> NDArray[np.uint8]:
        return rectangle(row, column, 1, 1)

    assert surface_dice(dot(5, 5), dot(7, 7)) == 1.0  # 2.83 px
    assert surface_dice(dot(5, 5), dot(8, 6)) == 0.0  # 3.16 px


def test_surface_dice_does_not_reach_around_the_frame() -> None:
    assert surface_dice(rectangle(5, 0, 1, 1), rectangle(5, 29, 1, 1)) == 0.0


def test_surface_dice_of_an_empty_pair_is_one_and_of_one_empty_mask_zero() -> None:
    assert surface_dice(EMPTY, EMPTY) == 1.0
    assert surface_dice(rectangle(3, 3, 5, 5), EMPTY) == 0.0
    assert surface_dice(EMPTY, rectangle(3, 3, 5, 5)) == 0.0


def test_surface_dice_tells_a_full_frame_from_an_empty_one() -> None:
    full = np.ones_like(EMPTY)
    assert surface_dice(full, full) == 1.0
    assert surface_dice(full, EMPTY) == 0.0


@pytest.mark.parametrize("metric", [dice, flipped_ppm, surface_dice])
@pytest.mark.parametrize("shape", [(1, 20, 30), (30,), (20, 1)])
def test_masks_of_two_shapes_are_refused_and_not_broadcast(
    metric: Callable[..., float], shape: tuple[int, ...]
) -> None:
    with pytest.raises(ArgumentError, match=r"must have one shape, got \(20, 30\) and \("):
        metric(EMPTY, np.zeros(shape, np.uint8))
