"""Exports with an empty-frame gate: both halves verified, the scores held to the reference's, or no bundle."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from breastseg_deploy.artefacts import details_of
from breastseg_deploy.bundle import GATE, GATE_DECODER, GATE_ENCODER, MODEL, REPORT, Bundle
from breastseg_deploy.cli.main import main
from breastseg_deploy.errors import ArgumentError, ParityError
from breastseg_deploy.gate import Gate, GateCalibration
from breastseg_deploy.io.images import png_bytes
from breastseg_deploy.phantom import phantom_frame
from breastseg_deploy.storage import make_folder
from breastseg_export.exporter import export_bundle
from breastseg_export.formats import gate as gated
from breastseg_export.named_frames import NamedFrames
from breastseg_export.parity import ParityRun, frame_parity
from breastseg_export.settings import ExportSettings
from breastseg_train.network.architecture import Architecture
from breastseg_train.network.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from breastseg_train.network.model import SegmentationModel
from breastseg_train.run.gate import FittedGate, gate_for

SIDE = 64


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights, and a gate that nobody fitted."""
    torch.manual_seed(0)
    model = SegmentationModel(Architecture("resnet18", (16,) * 5)).eval()
    calibration = GateCalibration(
        recall=0.9,
        threshold=0.0,
        miss_bound=0.1,
        frames_with_cells=9,
        frames_empty=1,
        empty_skipped=1.0,
        size_px=(SIDE, SIDE),
        fitted_on="fit",
        calibrated_on="calibrate",
        data_sha256="0" * 64,
    )
    path = tmp_path_factory.mktemp("gated") / "gated.safetensors"
    save_checkpoint(Checkpoint(model, gate=FittedGate(gate_for(model).eval(), calibration)), path)
    return path


def test_both_halves_are_verified_files_of_the_bundle(gated_bundle: Path) -> None:
    manifest = Bundle.open(gated_bundle).manifest
    assert {MODEL, GATE_ENCODER, GATE_DECODER} <= manifest.files.keys()
    artefact = manifest.artefact(GATE)
    assert artefact is not None
    (parity,) = artefact.parity
    assert (parity.frames, parity.worst_dice >= 0.9999, parity.limits.worst_dice) == (10, True, 0.9999)


def test_the_manifest_holds_what_the_gate_promises_and_how_it_came_out(gated_bundle: Path) -> None:
    manifest = Bundle.open(gated_bundle).manifest
    (gate,) = details_of(manifest, GATE, Gate)
    assert (gate.recall, gate.fitted_on, gate.calibrated_on, gate.size_px) == (0.9, "fit", "calibrate", (128, 128))
    assert 0 < gate.miss_bound <= 0.1
    assert gate.largest_score_error <= gate.margin == gated.SCORE_MARGIN
    assert len(gate.golden_scores) == len(manifest.goldens)
    assert gate.serving_threshold == gate.threshold - gate.margin
    assert (gate.parity_frames_skipped > 0, gate.parity_frames_with_cells_skipped) == (True, 0)
    report = (gated_bundle / REPORT).read_text()
    assert gate.promise in report
    assert f"{gate.frames_with_cells} frames with cells, {gate.frames_empty} empty" in report


def test_another_frame_size_than_the_gates_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match=r"gate was calibrated on frames of \(64, 64\) px"):
        export_bundle(ExportSettings(str(checkpoint), tmp_path / "bundle", "fp32", size_px=96))
    assert not (tmp_path / "bundle").exists()


def parity_of(with_cells: int) -> tuple[NamedFrames, ParityRun]:
    """Ten frames, of which so many hold cells by the reference."""
    frames = NamedFrames(None, (SIDE, SIDE))
    answers = [np.full((SIDE, SIDE), float(number < with_cells)) for number in range(10)]
    figures = [frame_parity(one, answer, answer, 0.5) for one, answer in zip(frames, answers, strict=True)]
    return frames, ParityRun(figures={"whole": figures})


@pytest.mark.parametrize(("error", "passes"), [(0.0009, True), (-0.0011, False), (float("nan"), False)])
def test_scores_must_be_the_references_within_the_margin(checkpoint: Path, error: float, passes: bool) -> None:
    fitted = load_checkpoint(checkpoint).gate
    assert fitted is not None
    frames, run = parity_of(with_cells=0)

    def measured() -> Gate:
        return gated.measured_gate(fitted, lambda _: -1.0, lambda _: -1.0 + error, frames, run)

    if passes:
        found = measured()
        assert (found.parity_frames_skipped, found.parity_frames_with_cells_skipped) == (10, 0)
        assert found.largest_score_error == pytest.approx(error)
    else:
        with pytest.raises(ParityError, match=r"the gate scores phantom.*further apart than 0\.001"):
            measured()


def test_a_gate_that_breaks_its_promise_on_the_parity_frames_is_refused(checkpoint: Path) -> None:
    fitted = load_checkpoint(checkpoint).gate
    assert fitted is not None
    frames, run = parity_of(with_cells=5)
    with pytest.raises(ParityError, match=r"the gate skips 5 of 5 parity frames with cells.* no bundle was written"):
        gated.measured_gate(fitted, lambda _: -1.0, lambda _: -1.0, frames, run)
    found = gated.measured_gate(fitted, lambda _: 1.0, lambda _: 1.0, frames, run)
    assert (found.parity_frames_skipped, found.parity_frames_with_cells_skipped) == (0, 0)


def test_evaluate_counts_what_the_gate_skips_and_takes_no_averaging(
    gated_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in range(5):
        phantom = phantom_frame(number, (128, 128))
        for kind, pixels in (("images", phantom.frame), ("masks", phantom.mask * 255)):
            make_folder(tmp_path / "test" / kind)
            (tmp_path / "test" / kind / f"{phantom.name}.png").write_bytes(png_bytes(pixels))
    asked = ["evaluate", str(gated_bundle), "--data", str(tmp_path), "--backend", "onnxruntime"]
    assert main([*asked, "--gate", "--json"]) == 0
    skipped = json.loads(capsys.readouterr().out)["skipped_by_the_gate"]
    assert 0 < skipped < 5
    assert main([*asked, "--gate"]) == 0
    assert f"frames skipped by the empty-frame gate: {skipped}" in capsys.readouterr().out
    assert main([*asked, "--gate", "--tta"]) == 1
    assert "--tta cannot go with it" in capsys.readouterr().err
    assert main(["evaluate", "demo", "--data", str(tmp_path), "--gate"]) == 1
    assert "--backend, --strict, --gate and --public-key are for bundles" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("architecture", "words"),
    [
        (
            Architecture("resnet18", (16,) * 5, front="projection-without-edge"),
            "unet++ behind the front projection-without-edge",
        ),
        (Architecture("none", (16,) * 5, network="unet"), "unet behind the front projection"),
    ],
)
def test_networks_to_compare_with_make_no_bundle(tmp_path: Path, architecture: Architecture, words: str) -> None:
    path = tmp_path / "other.safetensors"
    save_checkpoint(Checkpoint(SegmentationModel(architecture)), path)
    with pytest.raises(ArgumentError, match="and a bundle is made of the paper's alone") as refusal:
        export_bundle(ExportSettings(str(path), tmp_path / "bundle", "fp32", size_px=SIDE))
    assert words in str(refusal.value)
    assert not (tmp_path / "bundle").exists()


def test_the_checkpoints_gate_is_written_as_json(checkpoint: Path) -> None:
    from safetensors import safe_open

    with safe_open(checkpoint, framework="pt") as file:
        assert json.loads(file.metadata()["breastseg"])["gate"]["miss_bound"] == 0.1
