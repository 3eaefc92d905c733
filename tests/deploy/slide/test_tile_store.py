"""Tiles on disk, read back region by region."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from breastseg_deploy.errors import OutputError
from breastseg_deploy.slide.store import TileStore
from breastseg_deploy.tiling import Grid, Plan

SIZE_PX = (300, 217)
PROBABILITY = np.random.default_rng(0).random(SIZE_PX, np.float32)
MASK = (PROBABILITY >= 0.3).astype(np.uint8)
LABELS = np.random.default_rng(1).integers(0, 2**32, SIZE_PX, dtype=np.uint32)
SKIPPED = (1, 1)


@pytest.fixture
def store(tmp_path: Path) -> TileStore:
    store = TileStore(tmp_path, Plan(SIZE_PX, Grid(128, 32)), [SKIPPED], block_px=100)
    for tile in store.missing():
        store.write(tile, tile.core.of(MASK), tile.core.of(PROBABILITY))
    return store


@given(st.data())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40, deadline=None)
def test_every_region_is_that_of_the_whole_but_for_skipped_tiles(store: TileStore, data: st.DataObject) -> None:
    top, left = data.draw(st.integers(0, 299)), data.draw(st.integers(0, 216))
    height, width = data.draw(st.integers(1, 300 - top)), data.draw(st.integers(1, 217 - left))
    mask, probability = MASK.copy(), np.rint(PROBABILITY * 255).astype(np.uint8)
    for whole in (mask, probability):
        store.plan[SKIPPED].core.of(whole)[:] = 0
    here = np.s_[top : top + height, left : left + width]
    assert np.array_equal(store.mask(top, left, height, width), mask[here])
    assert np.array_equal(store.probability(top, left, height, width), probability[here])


def test_labels_are_read_back_over_the_borders_of_their_blocks_and_0_where_none_were_written(store: TileStore) -> None:
    expected = LABELS.copy()
    for top in range(0, 300, 100):
        for left in range(0, 217, 100):
            block = np.s_[top : top + 100, left : left + 100]
            if (top, left) == (100, 0):
                expected[block] = 0
            else:
                store.write_labels(top, left, LABELS[block])
    assert np.array_equal(store.labels(0, 0, *SIZE_PX), expected)
    assert np.array_equal(store.labels(90, 150, 120, 67), expected[90:210, 150:217])


def test_a_tile_that_is_written_is_missing_no_more(tmp_path: Path) -> None:
    store = TileStore(tmp_path, Plan(SIZE_PX, Grid(128, 32)), [SKIPPED])
    first, *others = store.missing()
    assert len(others) + 2 == len(store.plan)
    store.write(first, first.core.of(MASK), first.core.of(PROBABILITY))
    assert TileStore(tmp_path, store.plan, [SKIPPED]).missing() == others


def test_a_damaged_tile_is_named(store: TileStore, tmp_path: Path) -> None:
    (tmp_path / "tiles" / "0-0.tile").write_bytes(b"damaged")
    with pytest.raises(OutputError, match=r"0-0\.tile is damaged .*; remove its folder and run again"):
        store.mask(0, 0, 10, 10)
