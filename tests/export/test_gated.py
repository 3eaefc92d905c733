"""Exports with an empty-frame gate: both halves verified, the scores held to the reference's, or no bundle."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from breastseg_deploy.bundle import GATE_DECODER, GATE_ENCODER, MODEL, REPORT, Bundle
from breastseg_deploy.errors import ContractError, ParityError
from breastseg_deploy.gate import Gate, GateCalibration
from breastseg_export import gated
from breastseg_export.exporter import export_bundle
from breastseg_export.parity import ParityRun, frame_parity
from breastseg_export.samples import Samples
from breastseg_export.settings import ExportSettings
from breastseg_train.architecture import Architecture
from breastseg_train.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from breastseg_train.empty_frame_gate import FittedGate, gate_for
from breastseg_train.model import SegmentationModel

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
    (parity,) = [one for one in manifest.parity if one.artefact == GATE_DECODER]
    assert (parity.frames, parity.worst_dice >= 0.9999, parity.limits.worst_dice) == (10, True, 0.9999)


def test_the_manifest_holds_what_the_gate_promises_and_how_it_came_out(gated_bundle: Path) -> None:
    manifest = Bundle.open(gated_bundle).manifest
    gate = manifest.gate
    assert gate is not None
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
    with pytest.raises(ContractError, match=r"gate was calibrated on frames of \(64, 64\) px"):
        export_bundle(ExportSettings(str(checkpoint), tmp_path / "bundle", "fp32", size_px=96))
    assert not (tmp_path / "bundle").exists()


@pytest.mark.parametrize(("error", "passes"), [(0.0009, True), (-0.0011, False), (float("nan"), False)])
def test_scores_must_be_the_references_within_the_margin(checkpoint: Path, error: float, passes: bool) -> None:
    fitted = load_checkpoint(checkpoint).gate
    assert fitted is not None
    samples = Samples(None, (SIDE, SIDE))
    figures = [frame_parity(sample, np.ones((SIDE, SIDE)), np.ones((SIDE, SIDE)), 0.5) for sample in samples]
    run = ParityRun(figures={"whole": figures})

    def measured() -> Gate:
        return gated.measured_gate(fitted, lambda _: -1.0, lambda _: -1.0 + error, samples, run)

    if passes:
        found = measured()
        assert (found.parity_frames_skipped, found.parity_frames_with_cells_skipped) == (10, 10)
        assert found.largest_score_error == pytest.approx(error)
    else:
        with pytest.raises(ParityError, match=r"the gate scores phantom.*further apart than 0\.001"):
            measured()


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
    with pytest.raises(ContractError, match="and a bundle is made of the paper's alone") as refusal:
        export_bundle(ExportSettings(str(path), tmp_path / "bundle", "fp32", size_px=SIDE))
    assert words in str(refusal.value)
    assert not (tmp_path / "bundle").exists()


def test_the_checkpoints_gate_is_written_as_json(checkpoint: Path) -> None:
    from safetensors import safe_open

    with safe_open(checkpoint, framework="pt") as file:
        assert json.loads(file.metadata()["breastseg"])["gate"]["miss_bound"] == 0.1
