"""Slides of scanner makers through OpenSlide, here SVS as the tests write it; 16 bit never goes that way."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from slides import grey16, rgb8, smooth_rgb8

from breastseg_deploy.errors import SlideError
from breastseg_deploy.io.open_reader import open_reader
from breastseg_deploy.io.open_slide import open_slide
from breastseg_deploy.io.readers.openslide import OpenSlideReader, on_white


def svs(path: Path, pixels: NDArray[Any], **options: Any) -> Path:
    """An Aperio slide: tiled, its description begins with the maker's name, then the lower level."""
    shared: dict[str, Any] = {"tile": (64, 64), "metadata": None, **options}
    if pixels.ndim == 3:
        shared["photometric"] = "rgb"
    with tifffile.TiffWriter(path) as tiff:
        for level in (pixels, pixels[::4, ::4]):
            description = f"Aperio Image Library v11\r\n{pixels.shape[1]}x{pixels.shape[0]}|AppMag = 20|MPP = 0.4990"
            tiff.write(level, description=description, **shared)
    return path


def test_an_svs_has_its_levels_and_pixel_size_and_its_own_pixels(tmp_path: Path) -> None:
    pixels = smooth_rgb8(400, 600)
    reader = open_reader(svs(tmp_path / "a.svs", pixels, compression="jpeg"))
    assert isinstance(reader, OpenSlideReader)
    info = reader.describe()
    assert (info.format, info.size_px, info.is_rgb, info.pixel_size_um) == ("SVS", (400, 600), True, (0.499, 0.499))
    assert [(level.size_px, level.downsample) for level in info.levels] == [((400, 600), 1.0), ((100, 150), 4.0)]
    assert np.abs(reader.read(0, 100, 50, 200, 300).astype(int) - pixels[100:300, 50:350]).max() <= 8
    assert np.abs(reader.read(1, 20, 10, 50, 60).astype(int) - pixels[::4, ::4][20:70, 10:70]).max() <= 12
    reader.close()


@pytest.mark.parametrize(
    "pixels", [grey16(400, 600), np.stack([grey16(400, 600)] * 3, axis=-1)], ids=["grey", "colour"]
)
def test_16_bit_of_the_same_maker_is_read_by_tifffile_and_keeps_every_value(
    tmp_path: Path, pixels: NDArray[Any]
) -> None:
    path = tmp_path / "a.svs"
    options = {"photometric": "rgb"} if pixels.ndim == 3 else {}
    tifffile.imwrite(path, pixels, tile=(64, 64), description="Aperio Image Library v11", metadata=None, **options)
    with open_slide(path, bit_depth=12) as slide:
        assert (slide.info.format, slide.info.dtype) == ("TIFF", "uint16")
        if pixels.ndim == 2:
            np.testing.assert_array_equal(slide.read_intensity(100, 50, 200, 300), pixels[100:300, 50:350])


def test_transparent_pixels_lie_on_white() -> None:
    rgba = np.zeros((1, 3, 4), np.uint8)
    rgba[0, :, :3] = 100
    rgba[0, :, 3] = (0, 128, 255)
    assert on_white(rgba)[0, :, 0].tolist() == [255, 177, 100]


def test_a_tile_that_does_not_decode_is_named_by_its_place(tmp_path: Path) -> None:
    path = svs(tmp_path / "a.svs", rgb8(400, 600), compression="jpeg")
    with tifffile.TiffFile(path) as tiff:
        offset, count = tiff.pages[0].dataoffsets[23], tiff.pages[0].databytecounts[23]
    content = bytearray(path.read_bytes())
    content[offset : offset + count] = bytes(count)
    path.write_bytes(content)
    with open_slide(path) as slide:
        slide.read_rgb(0, 0, 64, 64)
        with pytest.raises(SlideError, match=r"a\.svs cannot be decoded at row 130, column 190 \("):
            slide.read_rgb(130, 190, 64, 64)


@pytest.mark.parametrize("share", [0.01, 0.3, 0.7, 0.95])
def test_a_file_that_is_cut_short_is_refused_as_it_opens(tmp_path: Path, share: float) -> None:
    path = svs(tmp_path / "a.svs", rgb8(400, 600), compression="jpeg")
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    with pytest.raises(SlideError, match=r"a\.svs"):
        open_slide(path)


def test_a_slide_whose_pixels_are_in_a_folder_that_is_missing_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.mrxs"
    path.write_bytes(b"\xff\xd8\xff\xe0 a picture of the slide")
    with pytest.raises(SlideError, match=r"a\.mrxs"):
        open_reader(path)
