"""What a slide gives: 8-bit RGB by a stated conversion, at one pixel size, the same wherever its regions are cut."""

from __future__ import annotations

import hashlib
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import tifffile
import zarr
from slides import grey16, pyramid, rgb8, smooth_rgb8

from breastseg_deploy.contract import rgb_frame
from breastseg_deploy.errors import ArgumentError, SlideError
from breastseg_deploy.io.open_slide import Slide, open_slide


def whole(slide: Slide) -> Any:
    return slide.read_rgb(0, 0, *slide.size_px)


def test_a_colour_slide_needs_no_parameter_and_is_left_as_it_is(tmp_path: Path) -> None:
    path = pyramid(tmp_path / "slide.ome.tif", rgb8(150, 210), 2)
    with open_slide(str(path)) as slide:
        assert (slide.name, slide.size_px, slide.pixel_size_um) == ("slide", (150, 210), None)
        np.testing.assert_array_equal(slide.read_rgb(10, 20, 30, 40), rgb8(150, 210)[10:40, 20:60])
        assert slide.conversion["channel"] == "RGB"


def test_a_bit_depth_converts_as_the_frame_contract_does() -> None:
    pixels = grey16(90, 120)
    with open_slide(pixels, bit_depth=12) as slide:
        np.testing.assert_array_equal(whole(slide), rgb_frame(pixels, (90, 120), bit_depth=12))


def test_a_window_is_linear_between_its_ends_and_clipped_outside() -> None:
    pixels = np.array([[0, 99, 100, 150, 200, 201, 65535]], np.uint16)
    with open_slide(pixels, window=(100, 200)) as slide:
        assert slide.read_rgb(0, 0, 1, 7)[0, :, 0].tolist() == [0, 0, 0, 128, 255, 255, 255]
        assert slide.conversion["window"] == [100.0, 200.0]
        assert slide.conversion["outside_the_window"] == "clipped"


def test_a_window_of_8_bit_values_stretches_them_too() -> None:
    with open_slide(np.array([[0, 10, 20, 30]], np.uint8), window=(10, 20)) as slide:
        assert slide.read_rgb(0, 0, 1, 4)[0, :, 1].tolist() == [0, 0, 255, 255]


@pytest.mark.parametrize("parameters", [{}, {"bit_depth": 8}, {"bit_depth": 17}])
def test_16_bit_values_have_no_range_of_their_own(parameters: dict[str, Any]) -> None:
    with pytest.raises(SlideError, match=r"never guessed|bit_depth"):
        open_slide(grey16(90, 120), **parameters)


def test_a_value_beyond_the_bit_depth_is_refused_with_its_place() -> None:
    pixels = np.zeros((90, 120), np.uint16)
    pixels[80, 100] = 5000
    with open_slide(pixels, bit_depth=12) as slide:
        slide.read_rgb(0, 0, 50, 50)
        with pytest.raises(SlideError, match="array at row 50, column 60: frames declared 12-bit hold the value 5000"):
            slide.read_rgb(50, 60, 40, 60)


@pytest.mark.parametrize(
    ("parameters", "sentence"),
    [
        ({"bit_depth": 12, "window": (0, 100)}, "a bit depth or a window, got both"),
        ({"window": (100, 100)}, "LOW below HIGH, got 100.0 and 100.0"),
        ({"window": (float("nan"), 100)}, "LOW below HIGH"),
        ({"window": (1,)}, "two numbers"),
        ({"bit_depth": 12, "channel": "DAPI"}, "no channel 'DAPI', expected one of 0: 0"),
        ({"bit_depth": 12, "channel": 1}, "no channel '1'"),
        ({"bit_depth": 12, "pixel_size_um": 0}, "positive number of micrometres, got 0"),
        ({"bit_depth": 12, "rescale_to_um": 0.5}, "states no pixel size, so it cannot be rescaled"),
        ({"bit_depth": 12, "pixel_size_um": 0.5, "rescale_to_um": 50.0}, "a factor of 100, over 8"),
        ({"bit_depth": 12, "pixel_size_um": 0.5, "rescale_to_um": -1}, "positive number of micrometres, got -1"),
    ],
)
def test_parameters_that_make_no_sense_are_refused(parameters: dict[str, Any], sentence: str) -> None:
    with pytest.raises(SlideError, match=sentence):
        open_slide(grey16(90, 120), **parameters)


@pytest.mark.parametrize("channel", ["CK5", "1", 1])
def test_a_channel_is_chosen_by_name_or_number(tmp_path: Path, channel: str | int) -> None:
    planes = np.stack([grey16(150, 210), grey16(150, 210)[::-1]])
    path = pyramid(tmp_path / "a.ome.tif", planes, 1, metadata={"Channel": {"Name": ["DAPI", "CK5"]}})
    with open_slide(path, channel=channel, bit_depth=12) as slide:
        np.testing.assert_array_equal(whole(slide), rgb_frame(planes[1].copy(), (150, 210), bit_depth=12))
        np.testing.assert_array_equal(slide.read_intensity(5, 6, 7, 8), planes[1, 5:12, 6:14].astype(np.float32))
        assert slide.conversion["channel"] == "CK5"


def test_of_several_channels_none_is_guessed_and_the_error_lists_them(tmp_path: Path) -> None:
    planes = np.zeros((2, 64, 64), np.uint8)
    path = pyramid(tmp_path / "a.ome.tif", planes, 1, metadata={"Channel": {"Name": ["DAPI", "CK5"]}})
    with pytest.raises(SlideError, match=r"a.ome.tif: the slide has 2 channels \(0: DAPI, 1: CK5\); choose one"):
        open_slide(path)


def test_two_channels_of_one_name_are_told_apart_by_number_only(tmp_path: Path) -> None:
    planes = np.stack([grey16(64, 64), grey16(64, 64)[::-1]])
    path = pyramid(tmp_path / "a.ome.tif", planes, 1, metadata={"Channel": {"Name": ["DAPI", "DAPI"]}})
    with pytest.raises(SlideError, match="has 2 channels 'DAPI'"):
        open_slide(path, channel="DAPI", bit_depth=12)
    with open_slide(path, channel=1, bit_depth=12) as slide:
        assert slide.read_intensity(0, 0, 1, 1)[0, 0] == planes[1, 0, 0]


def test_one_colour_of_a_colour_slide_may_be_chosen() -> None:
    with open_slide(rgb8(40, 50), channel="G") as slide:
        np.testing.assert_array_equal(whole(slide), np.repeat(rgb8(40, 50)[:, :, 1:2], 3, axis=2))


def test_the_intensity_of_colour_is_its_luma() -> None:
    with open_slide(rgb8(40, 50)) as slide:
        expected = rgb8(40, 50) @ np.array([0.299, 0.587, 0.114])
        np.testing.assert_allclose(slide.read_intensity(0, 0, 40, 50), expected, atol=1e-4)


@pytest.mark.parametrize("wanted", [0.25, 0.31, 0.7, 0.50926, 1.0, 1.37, 3.9])
def test_a_region_of_a_rescaled_slide_is_a_crop_of_the_whole_to_the_bit(wanted: float) -> None:
    pixels = np.random.default_rng(0).integers(0, 65536, (301, 437), np.uint16)
    with open_slide(pixels, bit_depth=16, pixel_size_um=0.5, rescale_to_um=wanted) as slide:
        height, width = slide.size_px
        rgb, intensity = whole(slide), slide.read_intensity(0, 0, height, width)
        for top, left, bottom, right in [
            (0, 0, 1, 1),
            (height - 1, width - 1, height, width),
            (3, 5, 60, 30),
            (17, 1, 38, 55),
        ]:
            bottom, right = min(bottom, height), min(right, width)
            place = (top, left, bottom - top, right - left)
            np.testing.assert_array_equal(slide.read_rgb(*place), rgb[top:bottom, left:right])
            np.testing.assert_array_equal(slide.read_intensity(*place), intensity[top:bottom, left:right])


def test_rescaling_keeps_what_is_flat_and_the_mean_of_what_is_not() -> None:
    flat = np.full((200, 300), 77, np.uint8)
    flat[0, 0] = 78  # else it would be taken for a mask
    with open_slide(flat, pixel_size_um=0.5, rescale_to_um=0.83) as slide:
        assert slide.size_px == (120, 180)
        assert set(np.unique(whole(slide)[5:, 5:]).tolist()) == {77}
    noise = np.random.default_rng(0).integers(0, 256, (400, 400), np.uint8)
    with open_slide(noise, pixel_size_um=0.5, rescale_to_um=2.0) as slide:
        small = whole(slide)[:, :, 0]
        assert abs(small.mean() - noise.mean()) < 0.5
        assert small.std() < noise.std() / 3


def test_a_rescaled_edge_lies_where_it_was() -> None:
    edge = np.zeros((120, 120), np.uint8)
    edge[:, 60:] = 200
    edge[0, 0] = 1
    with open_slide(edge, pixel_size_um=1.0, rescale_to_um=0.5) as slide:
        row = whole(slide)[100, :, 0].astype(int)
        assert row[117] == 0
        assert row[119] + row[120] == 200
        assert row[122] == 200


@pytest.mark.parametrize(
    ("wanted", "kept"), [(0.5, True), (0.5049, True), (0.4951, True), (0.51, False), (0.49, False)]
)
def test_a_pixel_size_within_1_percent_is_left_as_it_is(wanted: float, kept: bool) -> None:
    with open_slide(rgb8(90, 120), pixel_size_um=0.5, rescale_to_um=wanted) as slide:
        assert (slide.size_px == (90, 120)) is kept
        assert slide.pixel_size_um == (0.5 if kept else wanted)
        assert (slide.conversion["rescaled_to_um"] is None) is kept


def test_the_files_pixel_size_is_taken_and_a_given_one_overrides_it(tmp_path: Path) -> None:
    metadata = {"PhysicalSizeX": 0.5, "PhysicalSizeY": 0.502}
    path = pyramid(tmp_path / "a.ome.tif", rgb8(64, 64), 1, metadata=metadata)
    with open_slide(path) as slide:
        assert slide.pixel_size_um == pytest.approx(0.501, abs=1e-5)
    with open_slide(path, pixel_size_um=0.3) as slide:
        assert slide.pixel_size_um == 0.3
        assert slide.conversion["stated_pixel_size_um"] == [0.502, 0.5]
        assert slide.conversion["pixel_size_um"] == 0.3


def test_pixels_that_are_not_square_need_a_given_size(tmp_path: Path) -> None:
    metadata = {"PhysicalSizeX": 0.5, "PhysicalSizeY": 0.51}
    path = pyramid(tmp_path / "a.ome.tif", rgb8(64, 64), 1, metadata=metadata)
    with pytest.raises(SlideError, match=r"0.51 um high and 0.5 um wide; pass .*--mpp"):
        open_slide(path)
    open_slide(path, pixel_size_um=0.5).close()


@pytest.mark.parametrize("longest", [1, 25, 60, 100, 1000])
def test_a_thumbnail_is_the_mean_of_squares_and_says_how_large_they_are(longest: int) -> None:
    pixels = smooth_rgb8(333, 500)
    with open_slide(pixels) as slide:
        small, downsample = slide.thumbnail(longest)
        assert max(small.shape) <= max(longest, 3)
        step = int(downsample)
        first = pixels[:step, :step].reshape(-1, 3).mean(axis=0)
        assert np.abs(small[0, 0] - first).max() <= 0.5
        last = pixels[(small.shape[0] - 1) * step :, (small.shape[1] - 1) * step :].reshape(-1, 3).mean(axis=0)
        assert np.abs(small[-1, -1] - last).max() <= 0.5


def test_a_thumbnail_comes_from_the_lowest_level_that_is_large_enough(tmp_path: Path) -> None:
    path = tmp_path / "a.ome.tif"
    with tifffile.TiffWriter(path, ome=True) as tiff:
        tiff.write(rgb8(512, 512), subifds=2, tile=(64, 64), photometric="rgb")
        for side, value in ((256, 100), (128, 200)):
            tiff.write(np.full((side, side, 3), value, np.uint8), subfiletype=1, tile=(64, 64), photometric="rgb")
    with open_slide(path) as slide:
        small, downsample = slide.thumbnail(200)
        assert (np.unique(small).tolist(), small.shape, downsample) == ([100], (128, 128, 3), 4.0)
        small, downsample = slide.thumbnail(128)
        assert (np.unique(small).tolist(), small.shape, downsample) == ([200], (128, 128, 3), 4.0)


def test_a_thumbnail_of_a_rescaled_slide_counts_in_its_pixels() -> None:
    with open_slide(rgb8(400, 400), pixel_size_um=0.5, rescale_to_um=1.0) as slide:
        assert slide.thumbnail(100)[1] == 2.0


def test_a_region_that_leaves_the_slide_is_refused() -> None:
    with open_slide(rgb8(40, 50)) as slide:
        for place in [(-1, 0, 5, 5), (0, 0, 41, 5), (0, 46, 5, 5), (0, 0, 0, 5)]:
            with pytest.raises(ArgumentError, match="inside the slide of 40 x 50 px"):
                slide.read_rgb(*place)


def test_the_hash_of_a_file_is_its_own(tmp_path: Path) -> None:
    path = pyramid(tmp_path / "a.ome.tif", rgb8(64, 64), 1)
    with open_slide(path) as slide:
        assert slide.sha256() == hashlib.sha256(path.read_bytes()).hexdigest()


def test_the_hash_of_an_array_knows_its_values_dtype_and_shape_and_not_its_layout() -> None:
    pixels = grey16(64, 96)

    def digest(array: Any) -> str:
        with open_slide(array, channel=0, bit_depth=12 if array.dtype.itemsize == 2 else None) as slide:
            return slide.sha256()

    assert digest(pixels) == digest(np.asfortranarray(pixels)) == digest(pixels.astype(">u2"))
    others = [pixels + 1, pixels.reshape(96, 64), pixels[:, :, None], pixels.view(np.uint8)]
    assert len({digest(pixels), *map(digest, others)}) == 5


def test_a_zarr_array_is_a_slide_and_only_its_chunks_are_read(tmp_path: Path) -> None:
    stored = zarr.create_array(tmp_path / "a.zarr", shape=(300, 400), chunks=(100, 100), dtype="uint16")
    stored[:] = grey16(300, 400)
    for chunk in (tmp_path / "a.zarr" / "c" / "2").iterdir():
        chunk.write_bytes(b"damaged")
    with open_slide(stored, bit_depth=12) as slide:
        np.testing.assert_array_equal(slide.read_intensity(20, 50, 150, 200), grey16(300, 400)[20:170, 50:250])


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_a_picture_of_any_size_is_a_slide(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"well{suffix}"
    cv2.imwrite(str(path), np.ascontiguousarray(smooth_rgb8(77, 99)[:, :, ::-1]))
    with open_slide(path) as slide:
        assert (slide.name, slide.size_px, slide.info.format) == (
            "well",
            (77, 99),
            {".png": "PNG", ".jpg": "JPEG"}[suffix],
        )
        assert np.abs(whole(slide).astype(int) - smooth_rgb8(77, 99)).max() <= (0 if suffix == ".png" else 12)


@pytest.mark.parametrize("white", [1, 255])
def test_a_mask_is_no_slide(tmp_path: Path, white: int) -> None:
    path = tmp_path / "mask.tif"
    tifffile.imwrite(path, np.where(grey16(300, 400) > 2000, white, 0).astype(np.uint8))
    with pytest.raises(SlideError, match=rf"mask.tif: it holds only 0 and {white}: a mask and no slide"):
        open_slide(path)


def test_a_dark_slide_with_cells_far_from_its_corners_is_no_mask() -> None:
    pixels = np.random.default_rng(0).integers(0, 2, (2200, 2600), np.uint8)
    pixels[700, 700] = 90
    open_slide(pixels).close()


def test_an_empty_slide_is_no_mask() -> None:
    open_slide(np.zeros((300, 400), np.uint8)).close()


@pytest.mark.parametrize(
    ("source", "sentence"),
    [
        (np.zeros((3, 4, 5, 6), np.uint8), r"is \(H, W\) or \(H, W, channels\), got \(3, 4, 5, 6\)"),
        (np.zeros((0, 5), np.uint8), r"got \(0, 5\)"),
        (np.zeros((40, 50), np.float32), "uint8 or uint16, got float32"),
        (np.ma.masked_array(np.zeros((40, 50), np.uint8)), "loses its mask"),
        ([[1, 2], [3, 4]], "a path or an array, got list"),
        (np.zeros((40, 50, 4), np.uint8), r"has 4 channels \(0: 0, 1: 1, 2: 2, 3: 3\); choose one"),
    ],
)
def test_arrays_that_are_no_slide_are_refused(source: Any, sentence: str) -> None:
    with pytest.raises(SlideError, match=sentence):
        open_slide(source)


def test_a_place_that_is_no_slide_is_refused_in_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(SlideError, match=r"cannot read .*nothing.svs: No such file"):
        open_slide(tmp_path / "nothing.svs")
    with pytest.raises(SlideError, match="is a folder and no slide"):
        open_slide(tmp_path)
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(SlideError, match=r"cannot read .*a\.svs: Not a directory; check its name and permissions"):
        open_slide(tmp_path / "file" / "a.svs")
    text = tmp_path / "a.svs"
    text.write_text("no slide")
    with pytest.raises(SlideError, match=r"a.svs is no slide that can be read; expected TIFF"):
        open_slide(text)
    text.write_bytes(b"")
    with pytest.raises(SlideError, match=r"a.svs is no slide that can be read"):
        open_slide(text)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_slide_without_permission_is_refused_in_a_sentence(tmp_path: Path) -> None:
    path = pyramid(tmp_path / "a.ome.tif", rgb8(64, 64), 1)
    path.chmod(0)
    with pytest.raises(SlideError, match=r"cannot read .*Permission denied; check its name and permissions"):
        open_slide(path)


def test_threads_may_read_while_others_do(tmp_path: Path) -> None:
    path = pyramid(tmp_path / "a.ome.tif", rgb8(300, 300), 1, compression="zlib")
    with open_slide(path, pixel_size_um=0.5, rescale_to_um=0.8) as slide, ThreadPoolExecutor(8) as pool:
        expected = whole(slide)
        places = [(n * 7 % 100, n * 13 % 100, 80, 80) for n in range(64)]
        for (top, left, height, width), found in zip(
            places, pool.map(lambda p: slide.read_rgb(*p), places), strict=True
        ):
            np.testing.assert_array_equal(found, expected[top : top + height, left : left + width])
