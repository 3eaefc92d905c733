"""Cells of a slide: the grid of cores must not show in any of them."""

from __future__ import annotations

import logging
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from in_memory import InMemory, found
from numpy.typing import NDArray

from breastseg_deploy import instances
from breastseg_deploy.errors import ArgumentError
from breastseg_deploy.instances import DEFAULTS, CellParameters, split_cells
from breastseg_deploy.slide.cells import find_cells
from breastseg_deploy.slide.figures import measure_cells

ALL = CellParameters(least_area=1, least_piece=2)


def certain(mask: NDArray[np.bool_]) -> InMemory:
    return InMemory(mask.astype(np.uint8), np.where(mask, 255, 0).astype(np.uint8))


def intensity_of(size_px: tuple[int, int]) -> NDArray[np.float32]:
    return np.random.default_rng(5).random(size_px, np.float32)


def assert_the_grid_does_not_show(raster: InMemory, core_px: int, parameters: CellParameters) -> int:
    """Labels and figures are those of the whole image at once; the number of cells."""
    height, width = raster.size_px
    mask, probability = raster.mask(0, 0, height, width), raster.probability(0, 0, height, width)
    intensity = intensity_of(raster.size_px)
    labels, table = found(raster, intensity, core_px, parameters)
    expected = split_cells(mask, probability, parameters)
    assert np.array_equal(labels, expected)
    assert np.array_equal(table, measure_cells(expected, probability, intensity))
    return len(table)


@pytest.mark.parametrize("core_px", [32, 64, 96])
def test_discs_on_every_seam_and_corner_are_exactly_so_many_cells(core_px: int) -> None:
    side, radius = 3 * core_px + 20, 9
    y, x = np.indices((side, side))
    mask = np.zeros((side, side), np.bool_)
    halves = range(0, side, core_px // 2)
    placed = [(top, left) for top in halves for left in halves]  # in corners, on seams, in the middle of cores
    for top, left in placed:
        mask |= (y - top) ** 2 + (x - left) ** 2 <= (radius if core_px > 32 else 5) ** 2
    labels, table = found(certain(mask), intensity_of(mask.shape), core_px, CellParameters(least_area=1))
    assert len(table) == len(placed)
    assert np.array_equal(labels > 0, mask)
    assert sorted(labels[top, left] for top, left in placed) == list(range(1, len(placed) + 1))


@pytest.mark.parametrize("core_px", [7, 32, 50, 200])
def test_touching_discs_over_seams_are_split_as_on_the_whole(core_px: int) -> None:
    y, x = np.indices((150, 170))
    rng = np.random.default_rng(3)
    mask = np.zeros((150, 170), np.bool_)
    for _ in range(60):
        mask |= (y - rng.integers(150)) ** 2 + (x - rng.integers(170)) ** 2 <= rng.integers(4, 13) ** 2
    assert assert_the_grid_does_not_show(certain(mask), core_px, DEFAULTS) > 15


@given(data=st.data())
@settings(max_examples=150, deadline=None)
def test_the_grid_never_shows(data: st.DataObject) -> None:
    size_px = data.draw(st.tuples(st.integers(1, 60), st.integers(1, 60)))
    core_px = data.draw(st.integers(1, 40))
    seed, share, block = (
        data.draw(st.integers(0, 2**32 - 1)),
        data.draw(st.floats(0.1, 0.9)),
        data.draw(st.integers(1, 6)),
    )
    rng = np.random.default_rng(seed)
    blocks = rng.random((size_px[0] // block + 1, size_px[1] // block + 1)) < share
    mask = blocks.repeat(block, axis=0).repeat(block, axis=1)[: size_px[0], : size_px[1]].astype(np.uint8)
    probability = rng.integers(0, 256, size_px, np.uint8)
    method = data.draw(st.sampled_from(["watershed", "components"]))
    neck, hole = data.draw(st.floats(0.5, 1)), data.draw(st.integers(0, 40))
    parameters = CellParameters(method=method, neck=neck, depth=0, least_area=2, least_piece=2, largest_hole=hole)
    assert_the_grid_does_not_show(InMemory(mask, probability), core_px, parameters)


def test_a_spiral_over_all_cores_is_one_component_and_what_lies_in_its_arms_is_its_own() -> None:
    mask = np.zeros((97, 97), np.bool_)
    for ring in range(0, 44, 8):
        mask[ring : ring + 2, ring : 97 - ring] = mask[97 - ring - 2 : 97 - ring, ring : 97 - ring] = True
        mask[ring : 97 - ring, ring : ring + 2] = mask[ring : 97 - ring, 97 - ring - 2 : 97 - ring] = True
    mask[4:6, 4:93:7] = True
    whole = CellParameters(method="components", least_area=1)
    expected = assert_the_grid_does_not_show(certain(mask), 500, whole)
    for core_px in (1, 5, 16, 33):
        assert assert_the_grid_does_not_show(certain(mask), core_px, whole) == expected


def test_no_more_than_two_by_two_cores_are_read_for_cells_that_are_smaller_than_a_core() -> None:
    mask = np.zeros((300, 300), np.bool_)
    mask[5::30, :] = False
    for top in range(0, 300, 24):
        for left in range(0, 300, 24):
            mask[top : top + 20, left : left + 20] = True
    raster = certain(mask)
    found(raster, intensity_of(mask.shape), 40, DEFAULTS)
    assert raster.largest_region_px <= 80 * 80


def test_a_component_that_is_too_large_is_reported_and_holds_no_cells(caplog: pytest.LogCaptureFixture) -> None:
    side = int(instances.LARGEST_BOX_PX**0.5) + 1
    mask = np.zeros((side + 40, side), np.uint8)
    mask[0, :] = mask[:side, 0] = 1
    mask[side + 10 : side + 20, 10:20] = 1
    boxes: list[tuple[int, int, int, int]] = []
    blocks: list[NDArray[np.uint32]] = []

    def cells(on_too_large: Callable[[tuple[int, int, int, int]], object] | None) -> NDArray[np.void]:
        return find_cells(
            InMemory(mask, mask * 255),
            1000,
            lambda top, left, block: blocks.append(block),
            lambda top, left, height, width: np.zeros((height, width), np.float32),
            DEFAULTS,
            None,
            on_too_large=on_too_large,
        )

    assert len(cells(boxes.append)) == 1
    assert boxes == [(0, 0, side, side)]
    assert sum(int(np.count_nonzero(block)) for block in blocks) == 100
    with caplog.at_level(logging.WARNING):
        assert len(cells(None)) == 1
    assert "too large to split" in caplog.text


def test_micrometres_are_pixels_by_the_slides_own_pixel_size() -> None:
    mask = np.zeros((40, 40), np.bool_)
    mask[4:12, 4:12] = mask[20:23, 20:30] = True
    in_um = CellParameters(unit="um", depth=0.1, least_area=8.0, least_piece=8.0)
    raster, intensity = certain(mask), intensity_of((40, 40))

    def count(pixel_size_um: float | None) -> int:
        def read(top: int, left: int, height: int, width: int) -> NDArray[np.float32]:
            return intensity[top : top + height, left : left + width]

        return len(find_cells(raster, 16, lambda *_: None, read, in_um, pixel_size_um))

    assert (count(1.0), count(0.4)) == (2, 1)
    with pytest.raises(ArgumentError, match="states no pixel size"):
        count(None)


def test_a_core_without_pixels_is_refused() -> None:
    with pytest.raises(ArgumentError, match="at least one pixel, got 0"):
        found(certain(np.ones((4, 4), np.bool_)), intensity_of((4, 4)), 0, DEFAULTS)
