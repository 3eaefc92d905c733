"""Cells from masks: what is split, what is joined, what is no cell."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from breastseg_deploy.errors import ArgumentError
from breastseg_deploy.instances import DEFAULTS, CellParameters, in_255ths, split_cells

CERTAIN = 1.0


def disc(size_px: tuple[int, int], centre: tuple[float, float], radius_px: float) -> NDArray[np.bool_]:
    y, x = np.indices(size_px)
    return np.asarray((y - centre[0]) ** 2 + (x - centre[1]) ** 2 <= radius_px**2)


def split(mask: NDArray[np.bool_], parameters: CellParameters = DEFAULTS) -> NDArray[np.uint32]:
    return split_cells(mask, np.where(mask, CERTAIN, 0).astype(np.float32), parameters)


def two_discs(apart_px: int, radius_px: float = 12) -> NDArray[np.bool_]:
    return disc((64, 96), (32, 32), radius_px) | disc((64, 96), (32, 32 + apart_px), radius_px)


def test_discs_that_touch_are_two_cells_and_every_pixel_has_one() -> None:
    mask = two_discs(22)
    labels = split(mask)
    assert labels.dtype == np.uint32
    assert labels.max() == 2
    assert np.array_equal(labels > 0, mask)
    areas = np.bincount(labels.ravel())[1:]
    assert abs(int(areas[0]) - int(areas[1])) < 20


def test_discs_that_overlap_by_much_are_one_cell() -> None:
    assert split(two_discs(5)).max() == 1


def test_a_ragged_disc_is_one_cell() -> None:
    mask = disc((96, 96), (48, 48), 30)
    rng = np.random.default_rng(0)
    rim = mask & ~disc((96, 96), (48, 48), 28.5)
    assert split(mask & ~(rim & (rng.random(mask.shape) < 0.5))).max() == 1


def test_a_narrow_neck_is_cut_whatever_the_size() -> None:
    assert {int(split(two_discs(2 * radius - 2, radius)).max()) for radius in (6, 10, 20)} == {2}


def test_a_dip_of_the_probability_parts_what_the_mask_joins() -> None:
    mask = two_discs(11)
    probability = np.where(mask, 1, 0).astype(np.float32)
    assert split_cells(mask, probability, CellParameters(neck=0.85)).max() == 1
    probability[:, 36:39] *= np.float32(0.6)
    assert split_cells(mask, probability, CellParameters(neck=0.85)).max() == 2


def test_a_nucleolus_is_no_neck_and_a_larger_hole_is() -> None:
    mask = disc((96, 96), (48, 48), 22)
    mask[46:49, 46:49] = mask[50, 60] = mask[40, 36] = False  # holes of 9 px and less
    assert split(mask).max() == 1
    assert split(mask, CellParameters(neck=0.97, largest_hole=0)).max() > 1


def test_a_hole_with_something_in_it_is_not_filled() -> None:
    mask = disc((96, 96), (48, 48), 22)
    mask[44:51, 44:51] = False
    labels = split(mask, CellParameters(least_area=1, largest_hole=100))
    mask[47, 47] = True
    among = split(mask, CellParameters(least_area=1, largest_hole=100))
    assert labels.max() == 1
    assert among[47, 47] not in (0, among[30, 48])


def test_components_are_cells_where_that_is_the_method() -> None:
    assert split(two_discs(22), CellParameters(method="components")).max() == 1
    assert split(two_discs(30), CellParameters(method="components")).max() == 2


def test_a_component_under_the_least_area_stays_in_the_mask_and_is_no_cell() -> None:
    mask = np.zeros((32, 32), np.bool_)
    mask[2:7, 2:8] = True  # 30 px
    mask[20:21, 1:30] = True  # 29 px
    for method in ("watershed", "components"):
        labels = split(mask, CellParameters(method=method))  # type: ignore[arg-type]
        assert labels[4, 4] == 1
        assert not labels[20].any()


def test_no_piece_is_smaller_than_the_least_piece() -> None:
    mask = disc((64, 64), (32, 24), 14) | disc((64, 64), (32, 41), 4)
    assert split(mask, CellParameters(least_piece=20)).max() == 2
    assert split(mask, CellParameters(least_piece=60)).max() == 1


def test_diagonal_neighbours_are_one_component() -> None:
    mask = np.zeros((16, 16), np.bool_)
    mask[:8, :8] = mask[8:, 8:] = True
    assert split(mask, CellParameters(method="components")).max() == 1


def test_cells_are_numbered_by_their_first_pixels_in_reading_order() -> None:
    mask = disc((64, 64), (40, 12), 8) | disc((64, 64), (20, 40), 8) | disc((64, 64), (12, 14), 8)
    labels = split(mask)
    assert [int(labels[place]) for place in ((12, 14), (20, 40), (40, 12))] == [1, 2, 3]


def test_an_empty_and_a_full_mask_hold_no_cell_and_one() -> None:
    assert split(np.zeros((32, 32), np.bool_)).max() == 0
    assert split(np.ones((32, 32), np.bool_)).max() == 1


def test_a_frame_and_a_slides_stored_probability_give_the_same_cells() -> None:
    rng = np.random.default_rng(1)
    probability = rng.random((128, 128), np.float32)
    mask = two_discs(20).repeat(2, axis=0)[:, :96]
    probability = probability[:, :96]
    expected = split_cells(mask, probability)
    assert np.array_equal(split_cells(mask, in_255ths(probability)), expected)


def test_what_surrounds_a_component_does_not_change_its_cells() -> None:
    rng = np.random.default_rng(2)
    size_px = (160, 160)
    alone = disc(size_px, (70, 70), 13) | disc(size_px, (70, 92), 13) | disc(size_px, (88, 80), 9)
    others = rng.random(size_px) < 0.4
    others &= ~disc(size_px, (77, 80), 45)
    probability = rng.uniform(0.5, 1, size_px).astype(np.float32)
    pieces = split_cells(alone, probability)
    among = np.where(alone, split_cells(alone | others, probability), 0)
    pairs = np.unique(np.stack([pieces[alone], among[alone]]), axis=1)
    assert pairs.shape[1] == pieces.max() == len(np.unique(pairs[1]))


def test_micrometres_become_pixels_and_back() -> None:
    in_um = CellParameters(unit="um", depth=0.2, least_area=7.5, least_piece=15, largest_hole=2.5)
    in_px = in_um.in_unit("px", 0.5)
    assert (in_px.unit, in_px.depth, in_px.least_area, in_px.least_piece, in_px.neck) == ("px", 0.4, 30, 60, 0.95)
    assert in_px.in_unit("um", 0.5) == in_um
    assert in_px.in_unit("px", None) is in_px


@pytest.mark.parametrize("pixel_size_um", [0.324, 0.65, 0.2201, 1 / 3])
def test_pixels_are_the_same_pixels_after_the_way_over_micrometres(pixel_size_um: float) -> None:
    assert DEFAULTS.in_unit("um", pixel_size_um).in_unit("px", pixel_size_um) == DEFAULTS


def test_micrometres_without_a_pixel_size_are_refused() -> None:
    with pytest.raises(ArgumentError, match="parameters are in um and the image states no pixel size; state it"):
        split_cells(two_discs(22), two_discs(22).astype(np.float32), CellParameters(unit="um"))


def test_two_shapes_are_refused() -> None:
    with pytest.raises(ArgumentError, match=r"one shape \(H, W\), got \(4, 4\), \(4, 5\)"):
        split_cells(np.zeros((4, 4)), np.zeros((4, 5)))
