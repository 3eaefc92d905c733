"""How a slide is cut into tiles."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from breastseg_deploy.errors import ArgumentError
from breastseg_deploy.tiling import Box, Grid, Plan, padded_size

SIDES = st.integers(32, 900)
GRIDS = st.builds(
    lambda halo, step: Grid(32 * (2 * halo + step), 32 * halo), halo=st.integers(0, 4), step=st.integers(2, 8)
)


@settings(deadline=None)
@given(SIDES, SIDES, GRIDS, st.booleans())
def test_each_pixel_of_the_slide_lies_in_one_core(height: int, width: int, grid: Grid, moved: bool) -> None:
    count = np.zeros((height, width), np.uint8)
    for tile in Plan((height, width), grid, moved):
        tile.core.of(count)[:] += 1
    assert (count == 1).all()


@settings(deadline=None)
@given(SIDES, SIDES, GRIDS, st.booleans())
def test_tiles_start_at_multiples_of_32_inside_the_padded_slide_and_are_of_one_size(
    height: int, width: int, grid: Grid, moved: bool
) -> None:
    plan, padded = Plan((height, width), grid, moved), padded_size((height, width))
    for tile in plan:
        assert tile.seen.top % 32 == tile.seen.left % 32 == 0
        assert tile.seen.size_px == plan.tile_size_px
        assert min(tile.seen.top, tile.seen.left) >= 0
        assert tile.seen.bottom <= padded[0]
        assert tile.seen.right <= padded[1]


@settings(deadline=None)
@given(SIDES, SIDES, GRIDS, st.booleans())
def test_a_core_keeps_the_halo_away_from_every_border_of_its_tile_but_the_slides_own(
    height: int, width: int, grid: Grid, moved: bool
) -> None:
    padded = padded_size((height, width))
    for tile in Plan((height, width), grid, moved):
        seen, core = tile.seen, tile.core
        assert seen.top == 0 or core.top - seen.top >= grid.halo_px
        assert seen.left == 0 or core.left - seen.left >= grid.halo_px
        assert seen.bottom == padded[0] or seen.bottom - core.bottom >= grid.halo_px
        assert seen.right == padded[1] or seen.right - core.right >= grid.halo_px


@settings(deadline=None)
@given(SIDES, SIDES, GRIDS, st.data())
def test_the_tiles_that_a_box_touches_are_those_whose_cores_share_pixels_with_it(
    height: int, width: int, grid: Grid, data: st.DataObject
) -> None:
    top, left = data.draw(st.integers(0, height - 1)), data.draw(st.integers(0, width - 1))
    box = Box(top, left, data.draw(st.integers(top + 1, height)), data.draw(st.integers(left + 1, width)))
    plan = Plan((height, width), grid)
    expected = [
        tile
        for tile in plan
        if max(tile.core.top, box.top) < min(tile.core.bottom, box.bottom)
        and max(tile.core.left, box.left) < min(tile.core.right, box.right)
    ]
    assert list(plan.touched(box)) == expected


@settings(deadline=None)
@given(st.integers(32, 4000), GRIDS)
def test_borders_of_the_moved_grid_lie_half_a_step_before_those_of_the_first(side: int, grid: Grid) -> None:
    first, moved = (Plan((side, side), grid, moved).rows for moved in (False, True))
    borders = {span.end for span in first[:-1]}
    assert {span.end + grid.half_step_px for span in moved[:-1]} & set(range(side)) >= borders - {side}


def test_a_slide_no_larger_than_a_tile_is_one_tile() -> None:
    (tile,) = Plan((1000, 32), Grid(1024, 256))
    assert tile.seen.size_px == (1024, 32)
    assert tile.core.size_px == (1000, 32)


def test_a_slide_below_32_px_is_refused() -> None:
    with pytest.raises(ArgumentError, match="a slide must be at least 32 x 32 px, got 31 x 700"):
        Plan((31, 700), Grid(1024, 256))


@pytest.mark.parametrize(("tile", "halo"), [(1000, 256), (1024, 100), (1024, 512), (1024, 481), (256, -32)])
def test_measures_that_make_no_grid_are_refused(tile: int, halo: int) -> None:
    with pytest.raises(ArgumentError, match=r"must be multiples of 32 px|must keep at least 64 px"):
        Grid(tile, halo)
