"""The frames that parity is measured on."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from breastseg_deploy.errors import FrameError
from breastseg_deploy.io.images import png_bytes
from breastseg_export.named_frames import NamedFrames

SIZE = (64, 64)


def write(path: Path, image: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(png_bytes(image))


def test_phantoms_are_the_default_and_say_so() -> None:
    frames = NamedFrames(None, SIZE)
    assert len(frames) == 10
    assert frames.description == "10 phantom frames (synthetic; no clinical evidence)"
    assert [bool(one.truth is not None and one.truth.any()) for one in frames].count(True) == 4


def test_a_data_set_folder_brings_its_masks(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write(tmp_path / "images" / f"{name}.png", np.full(SIZE, 7, np.uint8))
    write(tmp_path / "masks" / "b.png", np.eye(64, dtype=np.uint8) * 255)
    first, second = NamedFrames(tmp_path, SIZE)
    assert (first.name, first.truth) == ("a", None)
    assert first.frame.shape == (64, 64, 3)
    assert second.truth is not None
    assert second.truth.sum() == 64
    assert NamedFrames(tmp_path, SIZE).description == "2 frames from files, 1 with ground truth"


def test_a_frame_of_another_size_is_refused_by_name(tmp_path: Path) -> None:
    write(tmp_path / "small.png", np.zeros((32, 64), np.uint8))
    with pytest.raises(FrameError, match=r"small\.png: a frame is \(H, W\) or \(H, W, 3\) of 64 x 64 px"):
        NamedFrames(tmp_path, SIZE)[0]


def test_a_mask_of_another_size_is_refused_by_name(tmp_path: Path) -> None:
    write(tmp_path / "images" / "a.png", np.zeros(SIZE, np.uint8))
    write(tmp_path / "masks" / "a.png", np.zeros((32, 64), np.uint8))
    with pytest.raises(FrameError, match=r"masks/a\.png has the size \(32, 64\), expected \(64, 64\)"):
        NamedFrames(tmp_path, SIZE)[0]


def test_bit_depth_belongs_to_the_16_bit_frames_of_a_folder(tmp_path: Path) -> None:
    write(tmp_path / "a.png", np.full(SIZE, 100, np.uint8))
    (tmp_path / "b.png").write_bytes(cv2.imencode(".png", np.full(SIZE, 4095, np.uint16))[1].tobytes())
    eight, sixteen = NamedFrames(tmp_path, SIZE, bit_depth=12)
    assert (eight.frame.max(), sixteen.frame.max()) == (100, 255)


def test_check_finds_a_bad_frame_behind_good_ones(tmp_path: Path) -> None:
    write(tmp_path / "a.png", np.zeros(SIZE, np.uint8))
    (tmp_path / "b.png").write_bytes((tmp_path / "a.png").read_bytes()[:40])
    with pytest.raises(FrameError, match=r"b\.png is damaged or no image"):
        NamedFrames(tmp_path, SIZE).check()
    (tmp_path / "b.png").unlink()
    NamedFrames(tmp_path, SIZE).check()


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FrameError, match="holds no frames; expected files ending in"):
        NamedFrames(tmp_path, SIZE)
