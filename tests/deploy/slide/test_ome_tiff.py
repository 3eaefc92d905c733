"""OME-TIFF: the full level gives the raster pixel by pixel, and readers find levels, tiles and scale."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import ome_types
import pytest
import tifffile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from written import ArrayRaster

from breastseg_deploy.slide.writers.ome_tiff import level_sizes, write_labels_ome_tiff, write_mask_ome_tiff

RNG = np.random.default_rng(3)
LARGE = np.where(RNG.random((1300, 1100)) < 0.4, RNG.integers(0, 70_000, (1300, 1100)), 0).astype(np.uint32)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(arrays(np.uint32, st.tuples(st.integers(1, 12), st.integers(1, 12)), elements=st.integers(0, 2)))
def test_the_full_level_is_the_raster_pixel_by_pixel(tmp_path: Path, labels: Any) -> None:
    write_mask_ome_tiff(tmp_path / "mask.ome.tif", ArrayRaster(labels), 0.5)
    write_labels_ome_tiff(tmp_path / "labels.ome.tif", ArrayRaster(labels), 0.5)
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "mask.ome.tif"), (labels > 0) * 255)
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "labels.ome.tif"), labels)


@pytest.mark.parametrize(
    ("write", "expected"), [(write_mask_ome_tiff, (LARGE > 0) * 255), (write_labels_ome_tiff, LARGE)]
)
def test_each_level_holds_every_second_pixel_of_the_one_above(tmp_path: Path, write: Any, expected: Any) -> None:
    write(tmp_path / "slide.ome.tif", ArrayRaster(LARGE), 0.25)
    with tifffile.TiffFile(tmp_path / "slide.ome.tif") as tiff:
        levels = tiff.series[0].levels
        assert [level.shape for level in levels] == level_sizes(LARGE.shape) == [(1300, 1100), (650, 550), (325, 275)]
        for number, level in enumerate(levels):
            np.testing.assert_array_equal(level.asarray(), expected[:: 2**number, :: 2**number])


def test_it_is_a_bigtiff_in_compressed_tiles_with_its_levels_in_subifds(tmp_path: Path) -> None:
    write_mask_ome_tiff(tmp_path / "mask.ome.tif", ArrayRaster(LARGE), 0.25)
    with tifffile.TiffFile(tmp_path / "mask.ome.tif") as tiff:
        assert tiff.is_bigtiff
        assert tiff.is_ome
        assert len(tiff.pages) == 1
        page = tiff.pages.first
        assert page.subifds is not None
        assert len(page.subifds) == 2
        assert (page.tilelength, page.tilewidth, page.compression.name) == (512, 512, "ADOBE_DEFLATE")


@pytest.mark.parametrize("pixel_size_um", [0.2527, None])
def test_its_metadata_are_valid_and_state_the_pixel_size_if_it_is_known(
    tmp_path: Path, pixel_size_um: float | None
) -> None:
    write_labels_ome_tiff(tmp_path / "labels.ome.tif", ArrayRaster(LARGE), pixel_size_um)
    text = tifffile.tiffcomment(tmp_path / "labels.ome.tif")
    ome_types.validate_xml(text)
    (image,) = ome_types.from_xml(text).images
    assert (image.pixels.physical_size_x, image.pixels.physical_size_y) == (pixel_size_um, pixel_size_um)
    assert image.pixels.physical_size_x_unit.value == "µm"
    assert (image.pixels.size_x, image.pixels.size_y, image.pixels.type.value) == (1100, 1300, "uint32")


def test_the_same_slide_gives_the_same_bytes(tmp_path: Path) -> None:
    written = []
    for _ in range(2):
        write_labels_ome_tiff(tmp_path / "labels.ome.tif", ArrayRaster(LARGE), 0.5)
        written.append((tmp_path / "labels.ome.tif").read_bytes())
    assert written[0] == written[1]
    assert [path.name for path in tmp_path.iterdir()] == ["labels.ome.tif"]
