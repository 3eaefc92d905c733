"""`breastseg evaluate` on a checkpoint and on the bundle that was exported from it."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from breastseg_deploy.cli.command import run_command
from breastseg_deploy.phantom import phantom_frame
from breastseg_export.evaluate import COMMAND

PHANTOMS = 6
SAME_DICE = 1e-3


def run(*arguments: object) -> int:
    parser = argparse.ArgumentParser()
    COMMAND.add_arguments(parser)
    return run_command(COMMAND, parser.parse_args([str(argument) for argument in arguments]))


def lay_out(root: Path, side_px: int) -> Path:
    """A data set of phantoms, split "test"."""
    for i in range(PHANTOMS):
        phantom = phantom_frame(i, (side_px, side_px))
        for kind, pixels in (("images", phantom.frame), ("masks", 255 * phantom.mask)):
            folder = root / "test" / kind
            folder.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(folder / f"{phantom.name}.png"), np.asarray(pixels, np.uint8))
    return root


@pytest.fixture(scope="module")
def phantoms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return lay_out(tmp_path_factory.mktemp("phantoms"), 128)


def test_checkpoint_and_bundle_agree_to_a_thousandth_of_dice(
    phantoms: Path, demo_bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results: list[dict[str, Any]] = []
    for model in ("demo", demo_bundle):
        assert run(model, "--data", phantoms, "--tta", "--json") == 0
        results.append(json.loads(capsys.readouterr().out))
    checkpoint, bundle = results
    assert (checkpoint["checkpoint"], checkpoint["backend"]) == ("demo", "pytorch")
    assert (bundle["bundle"], bundle["backend"] in ("openvino", "onnxruntime")) == (str(demo_bundle), True)
    assert checkpoint.keys() - {"checkpoint"} == bundle.keys() - {"bundle"}
    assert checkpoint["with_cells"]["frames"] > 0
    for frames in ("with_cells", "all"):
        found, expected = (result[frames]["dice"]["mean"] for result in (bundle, checkpoint))
        assert found == pytest.approx(expected, abs=SAME_DICE)
        assert 0.1 < found < 1


def test_the_report_is_one_page_with_otsu_beside_the_model(
    phantoms: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("demo", "--data", phantoms, "--report", tmp_path / "report.html") == 0
    printed = capsys.readouterr().out
    for row in ("model", "Otsu, threshold of the frame", "Otsu, threshold of the data set"):
        assert row in printed
        assert row in (tmp_path / "report.html").read_text()
    assert "expected calibration error: 0." in printed


@pytest.mark.parametrize("flag", ["--panel", "--report"])
def test_a_place_that_takes_no_file_is_refused_before_anything_is_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], flag: str
) -> None:
    assert run("demo", "--data", tmp_path / "no-data", flag, tmp_path / "missing" / "file") == 1
    assert "missing/file: no such file or directory; make its folder or choose" in capsys.readouterr().err
    assert run("demo", "--data", tmp_path / "no-data", flag, tmp_path) == 1
    assert f"cannot write {tmp_path}: it is a folder" in capsys.readouterr().err


def test_a_bundle_is_measured_by_the_backend_that_was_asked_for(
    phantoms: Path, demo_bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(demo_bundle, "--data", phantoms, "--backend", "gone") == 1
    assert "gone" in capsys.readouterr().err


def test_frames_of_another_size_than_the_bundles_are_refused_before_the_first(
    demo_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(demo_bundle, "--data", lay_out(tmp_path, 64)) == 1
    (sentence,) = capsys.readouterr().err.splitlines()
    assert "the bundle takes frames of 128 x 128 px" in sentence
    assert "has 64 x 64 (6 of 6 frames differ)" in sentence


def test_a_backend_is_refused_for_a_checkpoint(phantoms: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("demo", "--data", phantoms, "--backend", "onnxruntime") == 1
    assert "a checkpoint runs in PyTorch" in capsys.readouterr().err


def test_a_folder_that_is_no_bundle_is_refused_by_name(
    phantoms: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(tmp_path, "--data", phantoms) == 1
    assert "expected a folder made by breastseg-export" in capsys.readouterr().err
