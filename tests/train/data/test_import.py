"""Data sets made of what others laid out: the archive of the paper's departments, and instance labels of any kind."""

from __future__ import annotations

import argparse
import csv
import json
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pytest

from breastseg_deploy.cli.command import run_command
from breastseg_deploy.errors import ArgumentError
from breastseg_train.data.dataset import read_data_set
from breastseg_train.data.import_command import COMMAND
from breastseg_train.data.import_frames import PROPORTIONS, ImportSettings, cut
from breastseg_train.data.import_pairs import BMGD_STIFFNESSES
from breastseg_train.data.sources import sources

SIDE_PX = 64


def run(*arguments: object) -> int:
    parser = argparse.ArgumentParser()
    COMMAND.add_arguments(parser)
    return run_command(COMMAND, parser.parse_args([str(argument) for argument in arguments]))


def write(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(cv2.imencode(path.suffix, pixels)[1].tobytes())


def picture(seed: int, shape: tuple[int, int], cells: int) -> tuple[np.ndarray, np.ndarray]:
    """A noisy frame and its numbered cells."""
    rng = np.random.default_rng(seed)
    labels = np.zeros(shape, np.uint16)
    for number in range(1, cells + 1):
        y, x = rng.integers(8, shape[0] - 8), rng.integers(8, shape[1] - 8)
        cv2.circle(labels, (int(x), int(y)), 5, number, -1)
    return (rng.integers(0, 40, shape) + 120 * (labels > 0)).astype(np.uint8), labels


def archive(root: Path, per_stiffness: int = 10) -> Path:
    """The unpacked dataset, made up: images of 64 x 64, two of five without cells."""
    for group, stiffness in enumerate(BMGD_STIFFNESSES):
        for i in range(per_stiffness):
            frame, labels = picture(100 * group + i, (SIDE_PX, SIDE_PX), cells=0 if i % 5 < 2 else 3)
            write(root / stiffness / "image" / f"{i} (DAPI).tif", frame)
            write(root / stiffness / "mask" / f"{i} (DAPI).tif", np.where(labels, 255, 0).astype(np.uint8))
    return root


def bmgd(root: Path, output: Path, *more: object) -> int:
    return run("bmgd", root, "--output", output, "--size", SIDE_PX, *more)


def rows(output: Path) -> list[dict[str, str]]:
    with (output / "manifest.csv").open() as file:
        return list(csv.DictReader(file))


def test_splits_have_the_papers_proportions_and_equal_shares_of_frames_with_cells(tmp_path: Path) -> None:
    assert bmgd(archive(tmp_path / "raw", 50), tmp_path / "data") == 0
    found = rows(tmp_path / "data")
    splits = Counter(row["split"] for row in found)
    assert all(abs(splits[split] - 200 * share / 829) <= 1 for split, share in PROPORTIONS.items())
    with_cells = Counter(row["split"] for row in found if row["has_cells"] == "1")
    assert all(with_cells[split] / splits[split] == pytest.approx(0.6, abs=0.03) for split in splits)
    by_stiffness = Counter((row["split"], row["dataset"]) for row in found)
    assert all(abs(by_stiffness["train", stiffness] - splits["train"] / 4) <= 3 for stiffness in BMGD_STIFFNESSES)


def test_what_was_imported_is_a_data_set_whose_sources_are_the_stiffnesses(tmp_path: Path) -> None:
    bmgd(archive(tmp_path / "raw"), tmp_path / "data")
    samples = read_data_set(tmp_path / "data", list(PROPORTIONS)).samples(PROPORTIONS)
    assert len(samples) == 40
    assert set(sources(tmp_path / "data", samples)) == set(BMGD_STIFFNESSES)


def test_frame_and_mask_are_those_of_the_archive(tmp_path: Path) -> None:
    raw = archive(tmp_path / "raw")
    bmgd(raw, tmp_path / "data")
    row = rows(tmp_path / "data")[0]
    image, mask = raw / row["source_path"], raw / row["source_path"].replace("/image/", "/mask/")
    for kind, path in (("images", image), ("masks", mask)):
        written = cv2.imread(str(tmp_path / "data" / row["split"] / kind / f"{row['name']}.png"), cv2.IMREAD_UNCHANGED)
        assert np.array_equal(written, cv2.imread(str(path), cv2.IMREAD_UNCHANGED))


def test_table_i_is_printed_beside_the_papers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bmgd(archive(tmp_path / "raw"), tmp_path / "data")
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split("  ")[-1].strip() == "test, paper"
    assert lines[1].split() == ["Total", "images", "29", "599", "6", "130", "5", "100"]
    assert "1.76%" in lines[5]


def test_the_same_seed_makes_the_same_splits(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    raw = archive(tmp_path / "raw")
    hashes = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        bmgd(raw, tmp_path / name, "--seed", seed, "--json")
        hashes.append(json.loads(capsys.readouterr().out)["sha256"])
    assert hashes[0] == hashes[1] != hashes[2]


def test_a_missing_mask_and_a_missing_folder_are_named_together(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    raw = archive(tmp_path / "raw")
    (raw / "250 Pa" / "mask" / "3 (DAPI).tif").unlink()
    (raw / "1800 Pa").rename(raw / "1800Pa")
    assert bmgd(raw, tmp_path / "data") == 1
    told = capsys.readouterr().err
    assert "3 problem(s)" in told
    assert "250 Pa/image/3 (DAPI).tif: has no labels of that name" in told
    assert "1800 Pa/mask: holds no images" in told
    assert not (tmp_path / "data").exists()


def test_names_that_differ_by_odd_signs_alone_stay_apart(tmp_path: Path) -> None:
    raw = archive(tmp_path / "raw", 3)
    for number, name in enumerate(("n#1.tif", "n 1.tif", "N_1.tiff", "µ.tif")):
        frame, labels = picture(900 + number, (SIDE_PX, SIDE_PX), 1)
        write(raw / "950 Pa" / "image" / name, frame)
        write(raw / "950 Pa" / "mask" / name, labels.astype(np.uint8))
    bmgd(raw, tmp_path / "data")
    names = {row["name"] for row in rows(tmp_path / "data")}
    assert {"950-Pa-N-1_0", "950-Pa-n-1-2_0", "950-Pa-n-1-3_0", "950-Pa_0"} <= names


def test_16_bit_images_need_their_bit_depth(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    raw = archive(tmp_path / "raw")
    path = raw / "250 Pa" / "image" / "4 (DAPI).tif"
    deep = np.random.default_rng(0).integers(0, 4096, (SIDE_PX, SIDE_PX)).astype(np.uint16)
    write(path, deep)
    assert bmgd(raw, tmp_path / "data") == 1
    assert f"{path}: 16-bit pixels up to {deep.max()}; say what white is by --bit-depth" in capsys.readouterr().err
    assert bmgd(raw, tmp_path / "data", "--bit-depth", 12) == 0
    (row,) = (row for row in rows(tmp_path / "data") if row["source_path"] == "250 Pa/image/4 (DAPI).tif")
    written = cv2.imread(str(tmp_path / "data" / row["split"] / "images" / f"{row['name']}.png"), cv2.IMREAD_UNCHANGED)
    assert np.abs(written - deep / 4095 * 255).max() <= 0.5 + 1e-9


def test_frames_of_a_large_image_stay_in_one_split(tmp_path: Path) -> None:
    raw = archive(tmp_path / "raw", 4)
    frame, labels = picture(7, (150, 200), 9)
    write(raw / "250 Pa" / "image" / "large.tif", frame)
    write(raw / "250 Pa" / "mask" / "large.tif", (labels > 0).astype(np.uint8))
    bmgd(raw, tmp_path / "data")
    cut_from_it = [row for row in rows(tmp_path / "data") if row["source_path"].endswith("large.tif")]
    assert len(cut_from_it) == 6
    assert len({row["split"] for row in cut_from_it}) == 1


def test_a_mask_of_another_size_and_one_of_numbers_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    raw = archive(tmp_path / "raw")
    write(raw / "250 Pa" / "mask" / "2 (DAPI).tif", np.zeros((32, 64), np.uint8))
    write(raw / "250 Pa" / "mask" / "3 (DAPI).tif", np.arange(SIDE_PX**2).reshape(SIDE_PX, -1).astype(np.uint8))
    assert bmgd(raw, tmp_path / "data") == 1
    told = capsys.readouterr().err
    assert "has the shape (32, 64), its image (64, 64)" in told
    assert "a mask has 0 and one other value, got 256 values; numbered cells are imported as labels" in told


def test_the_same_image_in_two_splits_is_refused_and_nothing_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    raw = archive(tmp_path / "raw", 1)
    for kind in ("image", "mask"):
        same = (raw / "250 Pa" / kind / "0 (DAPI).tif").read_bytes()
        for number in range(6):
            (raw / "250 Pa" / kind / f"copy-{number}.tif").write_bytes(same)
    assert bmgd(raw, tmp_path / "data") == 1
    assert "the same frame in several splits" in capsys.readouterr().err
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize(
    ("image", "labels"),
    [("images/{}.png", "labels/{}.tif"), ("images/{}.tif", "masks/{}.tif"), ("{}.tif", "{}_masks.tif"),
     ("{}_img.png", "{}_masks.png")],
)  # fmt: skip
def test_instance_labels_are_found_however_they_are_laid_out(tmp_path: Path, image: str, labels: str) -> None:
    for number in range(8):
        frame, numbered = picture(number, (100, 130), 4)
        write(tmp_path / "raw" / image.format(f"n{number}"), frame)
        write(tmp_path / "raw" / labels.format(f"n{number}"), numbered)
    assert run("labels", tmp_path / "raw", "--output", tmp_path / "data", "--size", SIDE_PX) == 0
    found = rows(tmp_path / "data")
    assert len(found) == 16
    assert {row["dataset"] for row in found} == {"raw"}
    row = next(row for row in found if row["has_cells"] == "1")
    folder = tmp_path / "data" / row["split"]
    numbered = cv2.imread(str(folder / "labels" / f"{row['name']}.png"), cv2.IMREAD_UNCHANGED)
    mask = cv2.imread(str(folder / "masks" / f"{row['name']}.png"), cv2.IMREAD_UNCHANGED)
    assert numbered.dtype == np.uint16
    assert np.array_equal(numbered > 0, mask == 255)


def test_squares_are_cut_from_the_middle() -> None:
    pixels = np.arange(10 * 7).reshape(10, 7)
    found = list(cut(pixels, 4))
    assert [(top, left) for top, left, _ in found] == [(1, 1), (5, 1)]
    assert np.array_equal(found[1][2], pixels[5:9, 1:5])


def test_an_image_that_is_too_small_is_mirrored_outwards() -> None:
    pixels = np.arange(9, dtype=np.uint8).reshape(3, 3)
    ((top, left, square),) = cut(pixels, 5)
    assert (top, left) == (-1, -1)
    assert np.array_equal(square[1:4, 1:4], pixels)
    assert square[0, 1:4].tolist() == pixels[1].tolist()


def test_a_side_that_the_network_cannot_take_is_refused() -> None:
    with pytest.raises(ArgumentError, match="a positive multiple of 32, got 100"):
        ImportSettings(100)


def test_a_folder_in_use_is_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "note.txt").write_text("mine")
    assert bmgd(archive(tmp_path / "raw", 1), tmp_path / "data") == 1
    assert "is not empty" in capsys.readouterr().err
