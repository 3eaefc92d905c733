"""The folder layout and its checks."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from discs import disc_frame, write_frame, write_labels

from breastseg_deploy.errors import DataError
from breastseg_train.data.dataset import read_data_set, read_frame, read_mask


def test_a_good_data_set_is_read_in_order(data_root: Path) -> None:
    data = read_data_set(data_root, ["train", "val"])
    assert [sample.name for sample in data.splits["train"]] == [f"train-{i}" for i in range(4)]
    assert [sample.split for sample in data.samples(["val", "train"])][:4] == ["val", "val", "val", "train"]


def test_all_problems_are_reported_together(data_root: Path) -> None:
    frame, mask = disc_frame(1, 2)
    write_frame(data_root, "train", "no-mask", frame, None)
    write_frame(data_root, "train", "other-size", frame, mask[:32])
    write_frame(data_root, "train", "grey-mask", disc_frame(2, 1)[0], np.full_like(mask, 7))
    write_frame(data_root, "train", "odd-side", frame[:60], mask[:60])
    (data_root / "val" / "images" / "val-0.png").write_bytes(b"no image")
    (data_root / "val" / "images" / "val-1.png").unlink()
    with pytest.raises(DataError) as caught:
        read_data_set(data_root, ["train", "val", "missing"])
    message = str(caught.value)
    assert "has 8 problem(s)" in message
    for expected in (
        "no-mask.png: has no mask of that name",
        "other-size.png: 32 x 64 px, its frame has 64 x 64",
        "grey-mask.png must be a grey mask of 0 and 255 (or 0 and 1)",
        "odd-side.png: 60 x 64 px; each side must be a multiple of 32",
        "val-0.png is damaged or no image",
        "val-1.png: has no frame of that name",
        f"{Path('missing', 'images')}: holds no images",
        f"{Path('missing', 'masks')}: holds no images",
    ):
        assert expected in message


def test_a_jpeg_that_was_cut_short_is_refused_and_not_trained_on(tmp_path: Path) -> None:
    frame, _ = disc_frame(0, cells=3)
    whole = cv2.imencode(".jpg", frame)[1].tobytes()
    (tmp_path / "cut.jpg").write_bytes(whole[: len(whole) * 3 // 4])
    with pytest.raises(DataError, match=r"cut\.jpg is cut short"):
        read_frame(tmp_path / "cut.jpg")


def test_the_same_frame_in_two_splits_is_found_by_its_pixels(data_root: Path) -> None:
    frame, mask = disc_frame(0, cells=3)
    write_frame(data_root, "test", "copy", cv2.cvtColor(frame, cv2.COLOR_GRAY2BGR), mask)
    with pytest.raises(DataError, match="train/train-0 and test/copy: the same frame in several splits"):
        read_data_set(data_root, ["train", "test"])


def test_a_frame_smaller_than_the_crop_is_refused(data_root: Path) -> None:
    with pytest.raises(DataError, match="at least 96"):
        read_data_set(data_root, ["val"], min_side_px=96)


def test_two_frames_of_one_name_are_refused(data_root: Path) -> None:
    cv2.imwrite(str(data_root / "val" / "images" / "val-0.tif"), disc_frame(9, 1)[0])
    with pytest.raises(DataError, match=r"val-0.tif: val-0.png has the same name"):
        read_data_set(data_root, ["val"])


def test_the_hash_follows_content_and_split_but_not_compression(data_root: Path) -> None:
    before = read_data_set(data_root, ["train"]).sha256
    path = data_root / "train" / "images" / "train-0.png"
    frame = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    cv2.imwrite(str(path), frame, [cv2.IMWRITE_PNG_COMPRESSION, 0])
    assert read_data_set(data_root, ["train"]).sha256 == before
    frame[0, 0] ^= 1
    cv2.imwrite(str(path), frame)
    assert read_data_set(data_root, ["train"]).sha256 != before


def test_a_colour_frame_keeps_its_channel_order(tmp_path: Path) -> None:
    red = np.zeros((32, 32, 3), np.uint8)
    red[..., 0] = 200
    cv2.imwrite(str(tmp_path / "red.png"), red[..., ::-1])  # OpenCV writes BGR
    assert (read_frame(tmp_path / "red.png") == red).all()


def test_a_16_bit_frame_is_refused_and_not_scaled(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "deep.png"), np.zeros((32, 32), np.uint16))
    with pytest.raises(DataError, match="8-bit grey or RGB, got uint16"):
        read_frame(tmp_path / "deep.png")


@pytest.mark.parametrize("white", [1, 255])
def test_masks_of_either_white_read_as_0_and_1(tmp_path: Path, white: int) -> None:
    mask = np.zeros((32, 32), np.uint8)
    mask[3:9, 4:8] = white
    cv2.imwrite(str(tmp_path / "mask.png"), mask)
    assert (read_mask(tmp_path / "mask.png") == mask // white).all()


def test_numbered_cells_are_read_where_they_lie_beside_the_masks(data_root: Path) -> None:
    frame, mask = disc_frame(0, cells=3)
    labels = np.where(mask > 0, 700, 0).astype(np.uint16)
    write_frame(data_root, "train", "train-0", frame, mask)
    write_labels(data_root, "train", "train-0", labels)
    numbered, other = read_data_set(data_root, ["train"]).splits["train"][:2]
    assert np.array_equal(numbered.read_labels(), labels)
    assert other.read_labels() is None


def test_a_window_of_a_sample_is_one_of_its_labels_too(data_root: Path) -> None:
    labels = np.arange(64 * 64, dtype=np.uint16).reshape(64, 64)
    write_labels(data_root, "train", "train-0", labels)
    sample = replace(read_data_set(data_root, ["train"]).splits["train"][0], window=(8, 16, 24, 32))
    assert np.array_equal(sample.read_labels(), labels[8:32, 16:48])


def test_labels_that_do_not_fit_are_reported(data_root: Path) -> None:
    write_labels(data_root, "train", "train-0", np.zeros((32, 64), np.uint16))
    write_labels(data_root, "train", "train-1", np.zeros((64, 64, 3), np.uint8))
    write_labels(data_root, "train", "other", np.zeros((64, 64), np.uint8))
    with pytest.raises(DataError) as caught:
        read_data_set(data_root, ["train"])
    for expected in (
        "train-0.png: 32 x 64 px, its frame has 64 x 64",
        "train-1.png: labels are one channel of whole numbers, got uint8 (64, 64, 3)",
        "other.png: has no frame of that name",
    ):
        assert expected in str(caught.value)
