"""CZI slides, written by Zeiss's own library: regions are the file's pixels; scenes, stacks and damage are refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from pylibCZIrw import czi as pyczi
from slides import grey16, rgb8

from breastseg_deploy.errors import SlideError
from breastseg_deploy.io.open_reader import open_reader
from breastseg_deploy.io.open_slide import open_slide


def saved(path: Path, write: Callable[[Any], object], names: dict[int, str] | None = None) -> Path:
    with pyczi.create_czi(str(path)) as czi:
        write(czi)
        czi.write_metadata("slide", channel_names=names, scale_x=0.5e-6, scale_y=0.5e-6)
    return path


def tiles(czi: Any, pixels: NDArray[Any], channel: int = 0, compression: str = "uncompressed:") -> None:
    """In tiles of 64 px from the corner (1000, 2000), as a stage would have it."""
    for top in range(0, pixels.shape[0], 64):
        for left in range(0, pixels.shape[1], 64):
            tile = pixels[top : top + 64, left : left + 64]
            czi.write(tile, (1000 + left, 2000 + top), {"C": channel}, compression_options=compression)


@pytest.mark.parametrize(
    "compression", ["uncompressed:", "zstd1:ExplicitLevel=2;PreProcess=HiLoByteUnpack", "zstd0:ExplicitLevel=3"]
)
@pytest.mark.parametrize("pixels", [grey16(150, 210), rgb8(150, 210), rgb8(150, 210)[:, :, 0]], ids=["16", "rgb", "8"])
def test_regions_are_the_files_own_pixels(tmp_path: Path, pixels: NDArray[Any], compression: str) -> None:
    stored = pixels if pixels.ndim == 3 else pixels[:, :, None]
    bgr = stored[:, :, ::-1]
    path = saved(tmp_path / "a.czi", lambda czi: tiles(czi, bgr, compression=compression))
    reader = open_reader(path)
    info = reader.describe()
    assert (info.format, info.size_px, info.dtype) == ("CZI", (150, 210), pixels.dtype.name)
    assert info.pixel_size_um == pytest.approx((0.5, 0.5))
    for top, left, height, width in [(0, 0, 150, 210), (63, 64, 2, 1), (149, 209, 1, 1), (17, 101, 100, 90)]:
        found = reader.read(0, top, left, height, width)
        np.testing.assert_array_equal(found, stored[top : top + height, left : left + width])
    reader.close()


def test_channels_have_their_names(tmp_path: Path) -> None:
    first, second = grey16(100, 120)[:, :, None], grey16(100, 120)[::-1, :, None]

    def write(czi: Any) -> None:
        tiles(czi, first, 0)
        tiles(czi, second, 1)

    path = saved(tmp_path / "a.czi", write, {0: "DAPI", 1: "CK5"})
    with pytest.raises(SlideError, match=r"2 channels \(0: DAPI, 1: CK5\)"):
        open_slide(path, bit_depth=12)
    with open_slide(path, bit_depth=12, channel="CK5") as slide:
        np.testing.assert_array_equal(slide.read_intensity(3, 4, 50, 60), second[3:53, 4:64, 0])


def test_where_no_tile_lies_colour_is_white(tmp_path: Path) -> None:
    def write(czi: Any) -> None:
        czi.write(rgb8(50, 50), (0, 0))
        czi.write(rgb8(50, 50), (100, 100))

    reader = open_reader(saved(tmp_path / "a.czi", write))
    assert np.all(reader.read(0, 0, 60, 40, 40) == 255)
    reader.close()


def test_several_scenes_and_stacks_are_refused(tmp_path: Path) -> None:
    def scenes(czi: Any) -> None:
        czi.write(rgb8(50, 50), (0, 0), scene=0)
        czi.write(rgb8(50, 50), (100, 100), scene=1)

    def stack(czi: Any) -> None:
        for z in range(3):
            czi.write(rgb8(50, 50), (0, 0), {"Z": z})

    with pytest.raises(SlideError, match="holds 2 images of 1 planes each"):
        open_reader(saved(tmp_path / "a.czi", scenes))
    with pytest.raises(SlideError, match="holds 1 images of 3 planes each"):
        open_reader(saved(tmp_path / "b.czi", stack))


@pytest.mark.parametrize("share", [0.001, 0.3, 0.6, 0.95])
def test_a_file_that_is_cut_short_is_refused(tmp_path: Path, share: float) -> None:
    path = saved(tmp_path / "a.czi", lambda czi: tiles(czi, grey16(300, 300)[:, :, None]))
    path.write_bytes(path.read_bytes()[: max(20, int(path.stat().st_size * share))])
    with pytest.raises(SlideError, match=r"a\.czi"), open_slide(path, bit_depth=16) as slide:
        slide.read_rgb(0, 0, *slide.size_px)
