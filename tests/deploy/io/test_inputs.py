"""What a command is given: frames and slides, told apart by their size and nothing else."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile
from slides import dicom_slide, grey16, pyramid, rgb8

from breastseg_deploy.errors import FrameError
from breastseg_deploy.io.images import png_bytes
from breastseg_deploy.io.inputs import image_size_px, slide_name, sort_inputs

SIZE = (64, 96)


def saved(path: Path, size_px: tuple[int, int] = SIZE) -> Path:
    if path.suffix == ".png":
        path.write_bytes(png_bytes(rgb8(*size_px)))
    elif path.suffix == ".jpg":
        cv2.imwrite(str(path), rgb8(*size_px))
    else:
        tifffile.imwrite(path, grey16(*size_px))
    return path


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".tif"])
def test_an_image_of_the_frame_size_is_a_frame_and_any_other_a_slide(tmp_path: Path, suffix: str) -> None:
    frame = saved(tmp_path / f"frame{suffix}")
    slide = saved(tmp_path / f"slide{suffix}", (65, 96))
    found = sort_inputs([slide, frame], SIZE)
    assert [file.path for file in found.frames] == [frame]
    assert found.slides == [slide]


@pytest.mark.parametrize("options", [{}, {"bigtiff": True}, {"byteorder": ">"}, {"bigtiff": True, "byteorder": ">"}])
def test_the_size_of_a_tiff_is_read_from_its_header(tmp_path: Path, options: dict[str, object]) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, np.zeros((70000, 3), np.uint8), **options)
    assert image_size_px(path) == (70000, 3)


def test_a_progressive_jpeg_and_one_with_a_long_header_have_a_size(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    done, content = cv2.imencode(".jpg", rgb8(50, 70), [cv2.IMWRITE_JPEG_PROGRESSIVE, 1])
    assert done
    padding = b"\xff\xfe\xff\xf0" + bytes(0xFFEE)
    path.write_bytes(content[:2].tobytes() + padding + content[2:].tobytes())
    assert image_size_px(path) == (50, 70)


@pytest.mark.parametrize(
    "content", [b"", b"II*\0", b"II*\0\xff\xff\xff\xff", b"\xff\xd8", b"\x89PNG\r\n", b"\xff\xd8\xff\xfe\0\0"]
)
def test_a_damaged_header_states_no_size_and_the_file_is_left_to_a_reader(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.tif"
    path.write_bytes(content)
    assert image_size_px(path) is None
    assert sort_inputs([path], SIZE).slides == [path]


def test_files_that_are_named_are_slides_whatever_their_suffix(tmp_path: Path) -> None:
    path = tmp_path / "scan.bin"
    path.write_bytes(b"anything")
    assert sort_inputs([path], SIZE).slides == [path]


def test_a_folder_gives_the_files_with_a_known_suffix_by_name(tmp_path: Path) -> None:
    for name in ("b.png", "notes.txt", "c.svs", "a.czi"):
        (tmp_path / name).write_bytes(b"")
    saved(tmp_path / "d.png")
    found = sort_inputs([tmp_path], SIZE)
    assert [path.name for path in found.slides] == ["a.czi", "b.png", "c.svs"]
    assert [file.name for file in found.frames] == ["d"]


def test_a_data_set_gives_its_images_and_remembers_their_masks(tmp_path: Path) -> None:
    for kind in ("images", "masks"):
        (tmp_path / kind).mkdir()
        saved(tmp_path / kind / "a.png")
    (frame,) = sort_inputs([tmp_path], SIZE).frames
    assert (frame.path, frame.truth) == (tmp_path / "images" / "a.png", tmp_path / "masks" / "a.png")


def test_a_folder_of_dicom_files_alone_is_one_slide(tmp_path: Path) -> None:
    folder = tmp_path / "slide"
    folder.mkdir()
    dicom_slide(folder / "1", rgb8(64, 64))
    dicom_slide(folder / "2", rgb8(32, 32))
    assert sort_inputs([folder], SIZE).slides == [folder]
    saved(folder / "a.png")
    assert [file.name for file in sort_inputs([folder], SIZE).frames] == ["a"]


def test_two_inputs_of_one_name_are_refused_and_one_named_twice_is_one(tmp_path: Path) -> None:
    frame = saved(tmp_path / "a.png")
    slide = pyramid(tmp_path / "a.ome.tif", rgb8(100, 100), 1)
    assert slide_name(slide) == "a"
    with pytest.raises(FrameError, match=r"a\.png and .*a\.ome\.tif would both be called a; rename one of them"):
        sort_inputs([frame, slide], SIZE)
    assert len(sort_inputs([frame, tmp_path / "." / "a.png"], SIZE).frames) == 1
    assert len(sort_inputs([slide, slide], SIZE).slides) == 1


def test_a_place_with_nothing_in_it_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FrameError, match="there is no"):
        sort_inputs([tmp_path / "nothing"], SIZE)
    with pytest.raises(FrameError, match="holds no images; expected files ending in"):
        sort_inputs([tmp_path], SIZE)
