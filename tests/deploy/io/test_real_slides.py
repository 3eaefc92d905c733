"""The readers on real files of microscopes and scanners, where they lie beside the checkout."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from breastseg_deploy.errors import SlideError
from breastseg_deploy.io.open_slide import open_slide
from breastseg_deploy.io.slide import SlideInfo

pytestmark = pytest.mark.data

FORMATS = {
    "CMU-1-Small-Region.svs": ("SVS", (2967, 2220), "uint8", 3, 0.499),
    "TCGA-XK-AAJU_small_wsi.dcm": ("DICOM", (2638, 3236), "uint8", 3, None),
    "OS-1-detail.ome.tif": ("OME-TIFF", (1101, 1101), "uint8", 3, 0.2271),
    "OS-2-ndpi-ki67.ome.tif": ("OME-TIFF", (2202, 2202), "uint8", 3, 0.2271),
    "breast_dapi_16bit.tif": ("ImageJ TIFF", (589, 1070), "uint16", 1, 0.32442),
    "u2os_hoechst_16bit.tif": ("MetaMorph TIFF", (520, 696), "uint16", 1, 0.645),
    "breast_dapi_pyramid_16bit.ome.tif": ("OME-TIFF", (851, 2260), "uint16", 1, None),
}
"""Format, size, dtype, channels and pixel size of each file."""

REFUSED = {
    "pydicom_CT_small.dcm": r"modality CT \(CT Image Storage\) and no whole slide",
    "neubias_multiple_images.czi": "holds 2 images of 2 planes each; export one plane of one image",
}


def bit_depth_of(info: SlideInfo | str) -> int | None:
    return 16 if (info if isinstance(info, str) else info.dtype) == "uint16" else None


def test_every_real_file_is_either_read_or_refused_here(microscopy: Callable[[str], Path]) -> None:
    found = {path.name for path in microscopy("formats").iterdir()} - {"manifest.csv"}
    assert found == set(FORMATS) | set(REFUSED)


@pytest.mark.parametrize("name", FORMATS)
def test_a_real_file_is_described_and_read(microscopy: Callable[[str], Path], name: str) -> None:
    kind, size_px, dtype, channels, pixel_size_um = FORMATS[name]
    with open_slide(microscopy(f"formats/{name}"), bit_depth=bit_depth_of(dtype)) as slide:
        info = slide.info
        assert (info.format, info.size_px, info.dtype, len(info.channels)) == (kind, size_px, dtype, channels)
        assert slide.pixel_size_um == (None if pixel_size_um is None else pytest.approx(pixel_size_um, rel=1e-3))
        whole = slide.read_rgb(0, 0, *slide.size_px)
        np.testing.assert_array_equal(slide.read_rgb(211, 333, 300, 250), whole[211:511, 333:583])
        small, downsample = slide.thumbnail(256)
        assert small.shape[:2] == tuple(-(-side // int(downsample)) for side in slide.size_px)
        step, (rows, columns) = int(downsample), (side // int(downsample) for side in size_px)
        squares = whole[: rows * step, : columns * step].reshape(rows, step, columns, step, 3)
        if len(info.levels) == 1:
            assert np.abs(small[:rows, :columns] - squares.mean(axis=(1, 3))).max() <= 0.5


@pytest.mark.parametrize("name", REFUSED)
def test_a_real_file_that_is_no_slide_is_refused_in_a_sentence(microscopy: Callable[[str], Path], name: str) -> None:
    path = microscopy(f"formats/{name}")
    with pytest.raises(SlideError, match=REFUSED[name]) as caught:
        open_slide(path, bit_depth=16)
    assert str(path) in str(caught.value)


def test_the_pyramid_holds_the_same_pixels_as_the_plain_file_of_the_same_image(
    microscopy: Callable[[str], Path],
) -> None:
    with (
        open_slide(microscopy("formats/breast_dapi_pyramid_16bit.ome.tif"), bit_depth=16) as pyramid,
        open_slide(microscopy("whole/scc_human_h11.tif"), bit_depth=16) as plain,
    ):
        size = plain.size_px
        np.testing.assert_array_equal(pyramid.read_intensity(0, 0, *size), plain.read_intensity(0, 0, *size))


def test_the_tiles_of_the_real_dicom_slide_fit_together(microscopy: Callable[[str], Path]) -> None:
    """The file states no order of its tiles, and it is not that of most slides."""
    with open_slide(microscopy("formats/TCGA-XK-AAJU_small_wsi.dcm")) as slide:
        assert "they are in order of columns" in slide.info.found_out[0]
        whole = slide.read_rgb(0, 0, *slide.size_px).astype(int)
    at_borders = np.mean([np.abs(whole[:, x] - whole[:, x - 1]).mean() for x in range(500, 3236, 500)])
    elsewhere = np.mean([np.abs(whole[:, x] - whole[:, x - 1]).mean() for x in range(250, 3236, 500)])
    assert at_borders < 1.5 * elsewhere


def test_every_whole_image_is_read_at_its_stated_size_and_pixel_size(microscopy: Callable[[str], Path]) -> None:
    folder = microscopy("whole")
    with (folder / "manifest.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == 11
    for row in rows:
        with open_slide(folder / row["file"], bit_depth=bit_depth_of(row["dtype"])) as slide:
            assert slide.size_px == (int(row["height"]), int(row["width"]))
            assert slide.sha256() == row["sha256_file"]
            stated = float(row["pixel_size_um"]) if row["pixel_size_um"] else None
            assert slide.pixel_size_um == (None if stated is None else pytest.approx(stated, rel=1e-3))
            values = slide.read_intensity(0, 0, *slide.size_px)
            assert (values.min(), values.max()) == (int(row["min"]), int(row["max"]))
