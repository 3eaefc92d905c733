"""The check of the empty-frame gate on frames of this machine: what it skips, what it misses, and how that is told."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from surgery import skip_everything

from breastseg_deploy import FrameError, Segmenter
from breastseg_deploy.backends.gated import bundle_gate
from breastseg_deploy.bundle import MANIFEST, Bundle
from breastseg_deploy.cli.main import main
from breastseg_deploy.gate_check import check_gate
from breastseg_deploy.io.images import find_frames, png_bytes
from breastseg_deploy.phantom import phantom_frame
from breastseg_deploy.storage import make_folder

SIDE = 128

pytestmark = pytest.mark.usefixtures("cache")


def write_frames(folder: Path, count: int = 10) -> Path:
    for number in range(count):
        phantom = phantom_frame(number, (SIDE, SIDE))
        for kind, pixels in (("images", phantom.frame), ("masks", phantom.mask * 255)):
            make_folder(folder / kind)
            (folder / kind / f"{phantom.name}.png").write_bytes(png_bytes(pixels))
    return folder


def test_the_chance_of_misses_is_that_of_a_threshold_of_its_rank(gated_bundle: Path) -> None:
    """One calibration frame and rank 1: any number of misses is as likely as any other."""
    gate = bundle_gate(Bundle.open(gated_bundle))
    assert gate is not None
    even = gate.model_copy(update={"frames_with_cells": 1, "miss_bound": 0.5})
    assert [even.chance(4, missed) for missed in range(5)] == pytest.approx([1, 0.8, 0.6, 0.4, 0.2])
    draws = np.random.default_rng(0)
    missed = draws.binomial(30, draws.beta(2, 40 + 1 - 2, 200_000))
    ranked = gate.model_copy(update={"frames_with_cells": 40, "miss_bound": 2 / 41})
    assert ranked.chance(30, 4) == pytest.approx((missed >= 4).mean(), abs=0.003)
    assert ranked.chance(5000, 0) == 1.0
    assert 0.4 < ranked.chance(5000, 200) < 0.7


def test_the_check_counts_what_is_skipped_missed_and_saved(gated_bundle: Path, tmp_path: Path) -> None:
    files = find_frames([write_frames(tmp_path / "data")])
    with Segmenter.open(gated_bundle, "onnxruntime", gate=True) as segment:
        check = check_gate(segment, files)
        skipped = [bool(segment(phantom_frame(number, (SIDE, SIDE)).frame).skipped) for number in range(10)]
    assert (check.frames, check.by_truth, check.frames_with_cells, check.missed) == (10, True, 4, 0)
    assert check.skipped == sum(skipped) > 0
    assert check.chance == pytest.approx(1)
    assert check.mean_seconds > 0 < check.mean_seconds_without


def test_the_check_goes_by_the_bundle_that_is_open_and_not_by_what_its_folder_says_later(
    gated_copy: Path, tmp_path: Path
) -> None:
    files = find_frames([write_frames(tmp_path / "data", 2)])
    with Segmenter.open(gated_copy, "onnxruntime", gate=True) as segment:
        (gated_copy / MANIFEST).write_bytes(b"another manifest")
        assert check_gate(segment, files).frames == 2


def test_more_misses_than_promised_contradict_the_promise_and_every_one_is_told(
    gated_copy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    skip_everything(gated_copy)
    frames = write_frames(tmp_path / "data")
    assert main(["verify", str(gated_copy), "--frames", str(frames), "--gate", "--json"]) == 3
    printed = capsys.readouterr()
    said = json.loads(printed.out)
    assert (said["kind"], said["skipping"]["skipped"], said["skipping"]["missed"]) == ("ParityError", 10, 4)
    assert "the gate skips 4 of 4 frames with cells and promises to skip at most" in said["error"]
    assert "these frames are not like those it was calibrated on" in printed.err
    for name in said["skipping"]["missed_frames"]:
        assert f"skipped with cells: {name}" in printed.err


def test_masks_for_some_frames_alone_are_refused(gated_bundle: Path, tmp_path: Path) -> None:
    frames = write_frames(tmp_path / "data", 3)
    sorted((frames / "masks").iterdir())[0].unlink()
    expected = "all frames or none must have a mask to count misses by, 1 of 3 have none"
    with Segmenter.open(gated_bundle, "onnxruntime", gate=True) as segment, pytest.raises(FrameError, match=expected):
        check_gate(segment, find_frames([frames]))


def test_without_ground_truth_the_mask_without_the_gate_tells(gated_bundle: Path, tmp_path: Path) -> None:
    files = find_frames([write_frames(tmp_path / "data", 3) / "images"])
    with Segmenter.open(gated_bundle, "onnxruntime", gate=True) as segment:
        check = check_gate(segment, files)
    assert not check.by_truth


def test_commands_say_what_was_skipped(gated_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    frames = write_frames(tmp_path / "data", 4)
    asked = [str(gated_bundle), str(frames / "images"), "--output", str(tmp_path / "out"), "--gate", "--json"]
    assert main(["segment", *asked, "--backend", "onnxruntime"]) == 0
    printed = capsys.readouterr()
    answers = json.loads(printed.out)["frames"]
    skipped = sum(answer["skipped"] for answer in answers)
    assert 0 < skipped < 4
    assert json.loads(printed.out)["gate"] is True
    assert f"empty-frame gate: {skipped} of 4 frames skipped" in printed.err
    assert printed.err.count("skipped by the empty-frame gate: ") == skipped
    assert "onnxruntime: asked for by name; with the empty-frame gate" in printed.err
    assert "empty-frame gate on: a frame with cells like those of the calibration is skipped" in printed.err
    assert all((answer["cell_pixels"] == 0) >= answer["skipped"] for answer in answers)
    assert main(["verify", str(gated_bundle), "--frames", str(frames), "--gate", "--json"]) == 0
    printed = capsys.readouterr()
    said = json.loads(printed.out)
    assert (said["gate"], said["skipping"]["skipped"], said["skipping"]["contradiction"]) == (True, skipped, "")
    assert f"4 frames, 2 with cells by ground truth: {skipped} skipped, 0 of them with cells" in printed.err
    assert main(["inspect", str(gated_bundle)]) == 0
    printed = capsys.readouterr()
    assert "  empty-frame gate       off unless asked for; a frame with cells" in printed.out
    assert "parity frames skipped  " in printed.out
    assert main(["verify", str(gated_bundle), "--gate", "--json"]) == 0
    printed = capsys.readouterr()
    assert "what the gate skips was tried on the goldens alone" in printed.err
    assert json.loads(printed.out)["gate"] is True
