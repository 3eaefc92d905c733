"""`breastseg verify`: what it tells, and the exit code of each outcome."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from command_line import SIDE, json_on_stdout, refused, run, saved
from surgery import alter_golden, alter_golden_tile, artefact, edit_manifest

from breastseg_deploy.artefacts import SlideTiles, details_of
from breastseg_deploy.backends.registry import BACKENDS
from breastseg_deploy.bundle import FP16, MODEL, SLIDE, SLIDE_GOLDEN, Bundle
from breastseg_deploy.phantom import phantom_frame


def test_verify_passes_a_whole_bundle(demo_bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("verify", demo_bundle) == 0
    said = capsys.readouterr()
    assert said.out == f"{demo_bundle} is verified on this machine\n"
    assert all(f"{name}: Dice " in said.err for name in Bundle.open(demo_bundle).manifest.goldens)


def test_verify_with_json_is_one_line(demo_bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("verify", demo_bundle, "--json") == 0
    found = json_on_stdout(capsys.readouterr().out)
    assert found["backend"] in BACKENDS
    assert all(golden["dice"] >= 0.9999 for golden in found["goldens"])


def test_verify_measures_frames_with_ground_truth(
    bundle_copy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    loose = {"worst_dice": 0.5, "mean_dice": 0.5, "dice_change": 1.0}  # the limits are tested in test_verification
    edit_manifest(bundle_copy, lambda raw: artefact(raw, FP16).update(limits=loose))
    for number in range(2):
        phantom = phantom_frame(number, (SIDE, SIDE))
        saved(tmp_path / "data" / "images" / f"{number}.png", phantom.frame)
        saved(tmp_path / "data" / "masks" / f"{number}.png", phantom.mask * 255)
    assert run("verify", bundle_copy, "--frames", tmp_path / "data", "--json") == 0
    said = capsys.readouterr()
    frames = json_on_stdout(said.out)["frames"]
    assert frames["frames"] == 2
    assert frames["truth_dice_with_cells"] is not None
    assert "Dice against ground truth, frames with cells" in said.err


def test_verify_with_nothing_to_compare_with_does_not_put_it_down_to_too_few_frames(
    gated_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A bundle in float32 alone: ONNX Runtime has no other way to be held to."""
    size_px = Bundle.open(gated_bundle).manifest.frame.size_px
    phantom = phantom_frame(0, size_px)
    saved(tmp_path / "data" / "images" / "0.png", phantom.frame)
    saved(tmp_path / "data" / "masks" / "0.png", phantom.mask * 255)
    assert run("verify", gated_bundle, "--backend", "onnxruntime", "--frames", tmp_path / "data") == 0
    said = capsys.readouterr().err
    assert "the other way being none" in said
    assert "frames with cells: nothing to measure it on" in said
    assert "not held to its limit" not in said


def test_verify_refuses_an_altered_bundle_with_1(bundle_copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with (bundle_copy / MODEL).open("ab") as file:
        file.write(b"x")
    assert "copy the bundle again" in refused(capsys, "verify", bundle_copy)


def test_verify_ends_with_3_where_the_engine_does_not_reproduce_the_reference(
    bundle_copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    alter_golden(bundle_copy, frame=np.zeros((SIDE, SIDE, 3), np.uint8))
    assert run("verify", bundle_copy, "--json") == 3
    said = capsys.readouterr()
    assert json_on_stdout(said.out)["kind"] == "ParityError"
    assert "do not use its portable artefact on this machine" in said.err
    assert "is verified" not in said.out


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_verify_runs_the_golden_tile_of_slides(
    demo_bundle: Path, capsys: pytest.CaptureFixture[str], backend: str
) -> None:
    assert run("verify", demo_bundle, "--backend", backend, "--json") == 0
    said = capsys.readouterr()
    assert json_on_stdout(said.out)["golden_tile"]["dice"] >= 0.9999
    assert f"{SLIDE_GOLDEN}: Dice " in said.err


def test_verify_ends_with_3_where_the_slide_artefact_does_not_reproduce_its_tile(
    bundle_copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tiles,) = details_of(Bundle.open(bundle_copy).manifest, SLIDE, SlideTiles)
    alter_golden_tile(bundle_copy, frame=np.zeros((tiles.golden_px, tiles.golden_px, 3), np.uint8))
    assert run("verify", bundle_copy, "--backend", "onnxruntime") == 3
    assert "do not segment slides with it on this machine" in capsys.readouterr().err


def test_verify_says_that_a_bundle_without_slides_has_no_golden_tile(
    gated_bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("verify", gated_bundle, "--backend", "onnxruntime", "--json") == 0
    said = capsys.readouterr()
    assert json_on_stdout(said.out)["golden_tile"] is None
    assert "no golden tile: the bundle holds no slide artefact" in said.err


def test_verify_refuses_a_folder_without_frames(
    demo_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "holds no frames" in refused(capsys, "verify", demo_bundle, "--frames", tmp_path)
