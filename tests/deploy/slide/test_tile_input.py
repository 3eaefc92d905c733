"""The tensor of a tile is that part of the whole slide's tensor."""

from __future__ import annotations

import numpy as np
import pytest
from array_slide import ArraySlide

from breastseg_deploy.preprocess.tensor import network_input
from breastseg_deploy.slide.tile_input import tile_input
from breastseg_deploy.tiling import Grid, Plan, padded_size


@pytest.mark.parametrize("size_px", [(300, 217), (64, 500), (33, 32), (45, 300)])
def test_every_tiles_tensor_is_its_part_of_the_whole_slides(size_px: tuple[int, int]) -> None:
    rgb = np.random.default_rng(0).integers(0, 256, (*size_px, 3), dtype=np.uint8)
    height, width = padded_size(size_px)
    padded = np.pad(rgb, ((0, height - size_px[0]), (0, width - size_px[1]), (0, 0)), mode="reflect")
    whole = network_input(padded[np.newaxis])
    for tile in Plan(size_px, Grid(128, 32)):
        found, seen = tile_input(ArraySlide(rgb).read_rgb, size_px, tile.seen), tile.seen
        expected = whole[:, :, seen.top : seen.bottom, seen.left : seen.right]
        assert np.array_equal(found[:, :3], expected[:, :3])
        np.testing.assert_allclose(found[:, 3], expected[:, 3], atol=2e-6)  # other FFT tiles round otherwise
