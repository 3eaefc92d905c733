"""Image files as they come from scanners and disks: read exactly, or refused."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from breastseg_deploy.errors import FrameError
from breastseg_deploy.io.images import SUFFIXES, find_frames, overlay, png_bytes, read_frame, read_mask
from breastseg_deploy.phantom import phantom_frame

RGB = np.random.default_rng(0).integers(0, 256, (40, 52, 3), np.uint8)
GREY16 = np.random.default_rng(1).integers(0, 4096, (40, 52), np.uint16)


def encoded(suffix: str, image: NDArray[Any], *options: int) -> bytes:
    pixels = image[:, :, ::-1] if image.ndim == 3 and image.shape[2] == 3 else image
    done, content = cv2.imencode(suffix, pixels, options)
    assert done
    return content.tobytes()


def saved(path: Path, image: NDArray[Any], *options: int) -> Path:
    path.write_bytes(encoded(path.suffix, image, *options))
    return path


@pytest.mark.parametrize(
    ("suffix", "image"),
    [(suffix, image) for suffix in (".png", ".tif") for image in (RGB, RGB[:, :, 0], GREY16)]
    + [(".tif", GREY16.astype(np.float32))],
)
def test_lossless_files_come_back_to_the_bit_in_rgb_order(tmp_path: Path, suffix: str, image: NDArray[Any]) -> None:
    found = read_frame(saved(tmp_path / f"a{suffix}", image))
    assert found.dtype == image.dtype
    np.testing.assert_array_equal(found, image)


def test_16_bit_colour_keeps_its_values_and_order(tmp_path: Path) -> None:
    image = RGB.astype(np.uint16) * 13
    np.testing.assert_array_equal(read_frame(saved(tmp_path / "a.png", image)), image)


def test_jpeg_is_rgb(tmp_path: Path) -> None:
    red = np.zeros((32, 32, 3), np.uint8)
    red[:, :, 0] = 200
    found = read_frame(saved(tmp_path / "a.jpg", red))
    assert np.abs(found.astype(int) - red).max() <= 3


def test_grey_jpeg_stays_grey(tmp_path: Path) -> None:
    assert read_frame(saved(tmp_path / "a.jpg", RGB[:, :, 0])).shape == (40, 52)


def test_exif_orientation_does_not_turn_the_frame(tmp_path: Path) -> None:
    """A turned frame would give a mask that does not lie on the file's own pixels."""
    plain = encoded(".jpg", RGB)
    turned_by_90 = b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0"
    segment = b"\xff\xe1" + (len(turned_by_90) + 2).to_bytes(2, "big") + turned_by_90
    (tmp_path / "a.jpg").write_bytes(plain[:2] + segment + plain[2:])
    (tmp_path / "b.jpg").write_bytes(plain)
    assert cv2.imread(str(tmp_path / "a.jpg")).shape == (52, 40, 3)  # the tag is in force for who honours it
    np.testing.assert_array_equal(read_frame(tmp_path / "a.jpg"), read_frame(tmp_path / "b.jpg"))


@pytest.mark.parametrize("suffix", [".png", ".tif", ".jpg"])
@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9, 0.999])
def test_truncated_files_are_refused_and_never_half_decoded(tmp_path: Path, suffix: str, share: float) -> None:
    content = encoded(suffix, phantom_frame(0, (96, 96)).frame)
    path = tmp_path / f"a{suffix}"
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(FrameError, match=f"{path} is (damaged or no image; expected a complete|cut short)"):
        read_frame(path)


def test_jpeg_without_its_last_two_bytes_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(encoded(".jpg", RGB)[:-2])
    with pytest.raises(FrameError, match=r"is cut short .*copy it again"):
        read_frame(tmp_path / "a.jpg")


def test_jpeg_cut_short_behind_a_whole_thumbnail_is_refused(tmp_path: Path) -> None:
    whole, thumbnail = encoded(".jpg", RGB), encoded(".jpg", RGB[:16, :16])
    segment = b"\xff\xe1" + (len(thumbnail) + 2).to_bytes(2, "big") + thumbnail
    (tmp_path / "a.jpg").write_bytes((whole[:2] + segment + whole[2:])[:-300])
    with pytest.raises(FrameError, match="is cut short"):
        read_frame(tmp_path / "a.jpg")


def test_png_with_one_altered_byte_is_refused(tmp_path: Path) -> None:
    content = bytearray(encoded(".png", RGB))
    content[len(content) // 2] ^= 1
    (tmp_path / "a.png").write_bytes(bytes(content))
    with pytest.raises(FrameError, match="is damaged or no image"):
        read_frame(tmp_path / "a.png")


@pytest.mark.parametrize("content", [b"", b"hello", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"II*\0"])
def test_what_is_no_image_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(FrameError, match=r"a.png is (damaged or no image|cut short)"):
        read_frame(tmp_path / "a.png")


def test_alpha_is_refused(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.png", np.dstack([RGB, RGB[:, :, :1]]))
    with pytest.raises(FrameError, match="has 4 channels, expected grey or RGB; remove the alpha channel"):
        read_frame(path)


def test_tiff_of_several_pages_is_refused(tmp_path: Path) -> None:
    done, content = cv2.imencodemulti(".tif", [GREY16, GREY16])
    assert done
    (tmp_path / "a.tif").write_bytes(content.tobytes())
    with pytest.raises(FrameError, match="holds 2 pages and only one frame per file is read; split it first"):
        read_frame(tmp_path / "a.tif")


def test_missing_file_and_folder_are_refused_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(FrameError, match=r"cannot read .*none.png: no such file or directory; check its name"):
        read_frame(tmp_path / "none.png")
    with pytest.raises(FrameError, match="is a directory"):
        read_frame(tmp_path)


@pytest.mark.parametrize("white", [1, 255])
def test_masks_of_0_and_1_or_255_become_0_and_1(tmp_path: Path, white: int) -> None:
    mask = phantom_frame(0, (64, 64)).mask
    np.testing.assert_array_equal(read_mask(saved(tmp_path / "m.png", mask * np.uint8(white))), mask)


def test_mask_without_cells_and_mask_all_cells_are_masks(tmp_path: Path) -> None:
    for value in (0, 255):
        found = read_mask(saved(tmp_path / "m.png", np.full((32, 32), value, np.uint8)))
        assert (found == (value > 0)).all()


@pytest.mark.parametrize("values", [(0, 128), (0, 1, 255), (0, 254, 255), (2,)])
def test_masks_with_other_values_are_refused(tmp_path: Path, values: tuple[int, ...]) -> None:
    mask = np.resize(np.array(values, np.uint8), (32, 32))
    with pytest.raises(FrameError, match=r"grey mask of 0 and 255 \(or 0 and 1\), got shape \(32, 32\) with"):
        read_mask(saved(tmp_path / "m.png", mask))


def test_coloured_masks_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FrameError, match="must be a grey mask"):
        read_mask(saved(tmp_path / "m.png", np.full((32, 32, 3), 255, np.uint8)))


def test_lossy_masks_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FrameError, match="save it as a lossless grey PNG"):
        read_mask(saved(tmp_path / "m.jpg", phantom_frame(0, (64, 64)).mask * 255))


def test_frames_of_a_folder_come_by_name_and_other_files_are_left_out(tmp_path: Path) -> None:
    for name in ("b.png", "a.tif", "c.JPG", "d.TIFF", "e.jpeg", "notes.txt", "Thumbs.db", ".b.png.12.partial"):
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "folder.png").mkdir()
    assert [frame.path.name for frame in find_frames([tmp_path])] == ["a.tif", "b.png", "c.JPG", "d.TIFF", "e.jpeg"]


def test_places_come_in_the_order_given(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    for name in ("z.png", "folder/b.png", "folder/a.png"):
        (tmp_path / name).write_bytes(b"")
    assert [frame.name for frame in find_frames([tmp_path / "z.png", tmp_path / "folder"])] == ["z", "a", "b"]


def test_data_set_folder_gives_frames_with_their_masks(tmp_path: Path) -> None:
    for name in ("images/a.tif", "images/b.png", "masks/a.png", "masks/other.png", "stray.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    found = find_frames([tmp_path])
    assert [(frame.name, frame.truth) for frame in found] == [("a", tmp_path / "masks" / "a.png"), ("b", None)]


def test_empty_folder_is_refused_with_the_endings_that_are_looked_for(tmp_path: Path) -> None:
    with pytest.raises(FrameError, match=r"holds no frames; expected files ending in .png, .tif, .tiff, .jpg, .jpeg"):
        find_frames([tmp_path])
    assert SUFFIXES == (".png", ".tif", ".tiff", ".jpg", ".jpeg")


@pytest.mark.parametrize("name", ["none.png", "a" * 300, "nul\0byte"])
def test_places_that_do_not_exist_are_refused_in_one_line(tmp_path: Path, name: str) -> None:
    with pytest.raises(FrameError, match=r"there is no .*; expected an image file|file name too long; check its name"):
        find_frames([tmp_path / name])


def test_two_frames_of_one_name_are_refused(tmp_path: Path) -> None:
    for name in ("a.png", "a.tif"):
        (tmp_path / name).write_bytes(b"")
    with pytest.raises(FrameError, match=r"a.png and .*a.tif would both become a.png; give one another name"):
        find_frames([tmp_path])


def test_one_file_that_was_named_twice_is_one_frame(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"")
    assert len(find_frames([tmp_path / "a.png", tmp_path, tmp_path / "." / "a.png"])) == 1


@pytest.mark.parametrize("image", [RGB, RGB[:, :, 1]], ids=["rgb", "grey"])
def test_png_bytes_come_back_to_the_bit(tmp_path: Path, image: NDArray[np.uint8]) -> None:
    (tmp_path / "a.png").write_bytes(png_bytes(image))
    np.testing.assert_array_equal(read_frame(tmp_path / "a.png"), image)


def test_overlay_draws_the_outline_in_green_and_leaves_the_rest() -> None:
    mask = np.zeros((40, 52), np.uint8)
    mask[10:20, 15:30] = 1
    drawn = overlay(RGB, mask)
    outline = mask.astype(bool)
    outline[11:19, 16:29] = False
    assert (drawn[outline] == (0, 255, 80)).all()
    np.testing.assert_array_equal(drawn[~outline], RGB[~outline])


def test_overlay_outlines_holes_too() -> None:
    mask = np.ones((40, 40), np.uint8)
    mask[15:25, 15:25] = 0
    assert (overlay(np.zeros((40, 40, 3), np.uint8), mask)[14, 15:25] == (0, 255, 80)).all()


def test_overlay_leaves_frame_and_mask_alone() -> None:
    frame, mask = RGB.copy(), np.ones((40, 52), np.uint8)
    overlay(frame, mask)
    np.testing.assert_array_equal(frame, RGB)
    assert (mask == 1).all()


def test_overlay_of_an_empty_mask_is_the_frame() -> None:
    np.testing.assert_array_equal(overlay(RGB, np.zeros((40, 52), np.uint8)), RGB)


def test_opencvs_log_level_is_left_alone_while_a_file_is_decoded(tmp_path: Path) -> None:
    """It belongs to the whole process: two threads that set it and put it back could leave a host program silent."""
    noise = np.random.default_rng(0).integers(0, 256, (2000, 2000, 3), np.uint8)
    path, before = saved(tmp_path / "a.png", noise), int(cv2.utils.logging.getLogLevel())
    with ThreadPoolExecutor(1) as pool:
        reading, levels = pool.submit(read_frame, path), {before}
        while not reading.done():
            levels.add(int(cv2.utils.logging.getLogLevel()))
    assert reading.result().shape == noise.shape
    assert levels == {before}
